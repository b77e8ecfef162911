"""Defaults, None and limits of a task's fields.

DSPy 3.4 is the measure: a field that was not stated takes its default, and one that may be None is None. Beyond it, the
limits of a field are held: a value that breaks them is missing, and the reason is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from pdr_dspy.prompts.shapes import allows_none

NONE: Any = object()
"""A stated None, where None would mean that nothing was found."""


def default_of(field: Any) -> Any:
    """What a field is where nobody gives it. For fields that are not required."""
    try:
        return field.get_default(call_default_factory=True)
    except (TypeError, ValueError):  # a factory that wants the other fields
        return field.get_default(call_default_factory=True, validated_data={})


def with_defaults(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields, those that were not given with their defaults, in the order of the fields."""
    filled = {
        name: values[name] if name in values else default_of(field)
        for name, field in fields.items()
        if name in values or not field.is_required()
    }
    return {**values, **filled}


def held(field: Any, value: Any) -> tuple[Any, str]:
    """A value within its field's limits, and ""; or None, and which limit it breaks."""
    if not field.metadata:
        return value, ""
    try:
        return TypeAdapter(Annotated[(field.annotation, *field.metadata)]).validate_python(value), ""  # type: ignore[index]
    except ValidationError as error:
        return None, "; ".join(each["msg"] for each in error.errors(include_url=False, include_context=False))
    except PydanticUserError:
        return value, ""


def settled(
    fields: Mapping[str, Any], outputs: Mapping[str, Any], stated: Mapping[str, Sequence[str]], *, truncated: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """What was read out of a reply, within its limits and with the defaults of what it does not state; and, by name,
    which limits were broken.

    A field takes its default where the reply came to its end without stating it. A field that may be None is None where
    another one was stated: a reply that states nothing has not said that there is none.

    Args:
        fields: those that stand behind a label.
        outputs: what was read, `NONE` for a stated None; other fields are left as they are.
        stated: the texts behind each label.
        truncated: the reply may have had more to say.
    """
    values: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for name, value in outputs.items():
        if name not in fields:
            values[name] = value
        elif value is NONE or value is None:
            if allows_none(fields[name].annotation):
                values[name] = None
        else:
            value, why = held(fields[name], value)
            if why:
                broken[name] = why
            else:
                values[name] = value
    if not truncated:
        known = any(name in values for name in fields)
        for name, field in fields.items():
            if name in values or name in broken or any(stated.get(name, ())):
                continue
            if not field.is_required():
                values[name] = default_of(field)
            elif known and allows_none(field.annotation):
                values[name] = None
    return values, broken


def says_none(text: str) -> bool:
    """Whether a text says that there is no value."""
    return re.fullmatch(r"[\s*_`\"'<(\[]*(?:none|null|nil|n/a|not applicable)[\s*_`\"'>)\].]*", text, re.I) is not None
