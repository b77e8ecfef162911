"""Fields whose values have a closed form, requested as JSON: Literal, Enum, bool, lists, and models with fields.

A model's reasoning is free text. If such a field cannot be read from it, the field alone can be requested again, in a
format that a server enforces: the schema of its JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Literal, get_args, get_origin
from weakref import WeakKeyDictionary

import dspy
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from pdr_dspy.prompts.form import Form, form_of, label
from pdr_dspy.prompts.parse import Reading
from pdr_dspy.prompts.shapes import allows_none, json_shape, members, plain_kind, schema_of, shape_of


def closed_fields(signature: type[dspy.Signature]) -> tuple[str, ...]:
    """The output fields of a signature that have a closed form.

    Texts and numbers have none: they are parsed from the model's text or not at all. Nor have DSPy's own types and
    types that allow any JSON.
    """
    return _kept(form_of(signature)).closed


def to_ask_for(signature: type[dspy.Signature], reading: Reading) -> tuple[str, ...]:
    """The fields to request again after a reading: all missing fields if each has a closed form, otherwise none.

    A field that was parsed but broke a limit of its own was answered, and is not requested again.
    """
    closed = closed_fields(signature)
    missing = tuple(name for name in reading.missing if name not in reading.broken)
    return missing if missing == reading.missing and all(name in closed for name in missing) else ()


class Structured:
    """Some fields of a signature as one JSON object."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Take the fields by name, as pydantic's fields."""
        self.names = tuple(fields)
        kinds = {name: _limited(field) for name, field in fields.items()}
        self._adapters = {name: TypeAdapter(kind) for name, kind in kinds.items()}
        self._parts = {name: field.annotation for name, field in fields.items()}
        made: Any = TypedDict("Output", kinds)  # type: ignore[misc]
        made.__pydantic_config__ = ConfigDict(extra="forbid")
        self.schema = schema_of(made)
        """The JSON schema: every field is required, and no other is allowed."""
        self._shape = shape_of(made)

    @cached_property
    def question(self) -> str:
        """The request for the fields, after a completion from which they could not be parsed."""
        named = [label(name).lower() for name in self.names]
        listed = f"{', '.join(named[:-1])} and {named[-1]}" if len(named) > 1 else named[0]
        return f"Give the {listed} of your reply above as JSON alone, of this shape: {self._shape}"

    @cached_property
    def longest(self) -> int | None:
        """The maximum bytes of the object, and so its maximum tokens; None if its values have no maximum."""
        sizes = [_longest(kind) for kind in self._parts.values()]
        names = sum(len(json.dumps(name)) + 4 for name in self.names)
        return None if None in sizes else sum(size or 0 for size in sizes) + names + 8

    def read(self, text: str) -> dict[str, Any]:
        """The values in a reply, within their limits; empty if the reply has another format."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        found: dict[str, Any] = {}
        for name in self.names if isinstance(data, dict) else ():
            if name in data:
                try:
                    found[name] = self._adapters[name].validate_json(json.dumps(data[name]))
                except (ValidationError, ValueError):
                    continue
        return found


def structured(signature: type[dspy.Signature], names: Sequence[str]) -> Structured:
    """These fields, all of them among `closed_fields`, as one JSON object."""
    return _kept(form_of(signature)).of(tuple(names))


class _Kept:
    """The cache of a form."""

    def __init__(self, form: Form) -> None:
        self.fields = form.fields
        self.closed = tuple(name for name, field in form.fields.items() if _is_closed(field))
        self.made: dict[tuple[str, ...], Structured] = {}

    def of(self, names: tuple[str, ...]) -> Structured:
        if names not in self.made:
            self.made[names] = Structured({name: self.fields[name] for name in names})
        return self.made[names]


_KEPT: WeakKeyDictionary[Form, _Kept] = WeakKeyDictionary()


def _kept(form: Form) -> _Kept:
    if form not in _KEPT:
        _KEPT[form] = _Kept(form)
    return _KEPT[form]


def _limited(field: Any) -> Any:
    """A field's type with its limits, such as `le=10`."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation  # type: ignore[index]


def _is_closed(field: Any) -> bool:
    kind = plain_kind(field.annotation)
    if dspy.Type.extract_custom_type_from_annotation(field.annotation) or str in members(kind):
        return False
    if _words(kind) is None and not json_shape(kind):
        return False
    try:
        return bool(schema_of(_limited(field))) and shape_of(kind) != "any JSON"
    except (PydanticUserError, TypeError):
        return False


def _words(kind: Any) -> Sequence[Any] | None:
    """The values of an enumerated type, as in JSON; None for any other type."""
    if kind is bool:
        return (True, False)
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [member.value for member in kind]
    return None


def _longest(annotation: Any) -> int | None:
    words = _words(plain_kind(annotation))
    if words is None:
        return None
    sizes = [len(json.dumps(word, default=str)) for word in words]
    return max([*sizes, len("null") if allows_none(annotation) else 0])


def completed(
    signature: type[dspy.Signature], reading: Reading, found: Mapping[str, Any], how: Mapping[str, Any]
) -> Reading:
    """A reading completed by the fields of a fallback request."""
    outputs = {**reading.outputs, **found}
    return Reading(
        {name: outputs[name] for name in form_of(signature).outputs if name in outputs},
        tuple(name for name in reading.missing if name not in found),
        reading.broken,
        {**reading.how, **{name: how[name] for name in found if name in how}},
        {name: text for name, text in reading.unclear.items() if name not in found},
    )
