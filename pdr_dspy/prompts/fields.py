"""Defaults, None and limits of a task's fields.

The rules are those of DSPy 3.4: a field that was not stated takes its default, and an optional one is None. In
addition, limits are enforced: a value outside its field's limits is missing, and the reason is reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from pdr_dspy.prompts.shapes import allows_none

NONE: Any = object()
"""An explicitly stated None; a plain None means that no value was found."""


def default_of(field: Any) -> Any:
    """The default of a field that is not required."""
    try:
        return field.get_default(call_default_factory=True)
    except (TypeError, ValueError):  # a factory that takes the other fields
        return field.get_default(call_default_factory=True, validated_data={})


def with_defaults(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields in their order, with defaults for missing ones."""
    filled = {
        name: values[name] if name in values else default_of(field)
        for name, field in fields.items()
        if name in values or not field.is_required()
    }
    return {**values, **filled}


def held(field: Any, value: Any) -> tuple[Any, str]:
    """A value within its field's limits, and ""; or None, and the limit that it breaks."""
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
    """The parsed fields of a reply, within their limits and with defaults for unstated ones; and, by name, the limits
    that were broken.

    A field takes its default if the complete reply does not state it. An optional field is None only if another field
    was stated: a reply that states nothing does not state None.

    Args:
        fields: the fields with a label.
        outputs: the parsed values, `NONE` for a stated None; other fields are unchanged.
        stated: the texts after each label.
        truncated: whether the reply may be incomplete.
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
    """Whether a text states that there is no value."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s?\{([^{}]*)\}", r"\1", text) if "\\" in text else text
    return re.fullmatch(r"[\s*_`\"'<(\[]*(?:none|null|nil|n/a|not applicable)[\s*_`\"'>)\].]*", text, re.I) is not None
