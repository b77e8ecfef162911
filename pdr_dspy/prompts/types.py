"""Field types as JSON data and back: nothing is imported or executed to rebuild one."""

from __future__ import annotations

import functools
import json
import operator
import types
from typing import Any, Literal, Union, get_args, get_origin

from pdr_dspy.errors import ArtifactError

_NAMED: dict[str, Any] = {
    "str": str, "int": int, "float": float, "bool": bool, "none": type(None), "any": Any, "list": list, "dict": dict,
}  # fmt: skip


def describe_type(kind: Any) -> Any:
    """A type as JSON data: a name, or {"list": ...}, {"dict": [...]}, {"tuple": [...]}, {"union": [...]},
    {"literal": [...]}; {"custom": name} for what cannot be rebuilt from data."""
    for name, known in _NAMED.items():
        if kind is known:
            return name
    if kind is None:
        return "none"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal and all(value is None or isinstance(value, (str, int, bool)) for value in arguments):
        return {"literal": list(arguments)}
    if origin is list and arguments:  # `typing.List` alone has none
        return {"list": describe_type(arguments[0])}
    if origin is dict:
        return {"dict": [describe_type(argument) for argument in arguments]}
    if origin is tuple:
        return {"tuple": ["..." if argument is Ellipsis else describe_type(argument) for argument in arguments]}
    if origin in (Union, types.UnionType):
        return {"union": [describe_type(argument) for argument in arguments]}
    return {"custom": getattr(kind, "__name__", None) or str(kind)}


def rebuild_type(description: Any) -> Any:
    """The type that `describe_type` described. Raises ArtifactError for a custom or unknown one."""
    if isinstance(description, str) and description in _NAMED:
        return _NAMED[description]
    if isinstance(description, dict) and len(description) == 1:
        ((form, parts),) = description.items()
        if form == "list":
            return list[rebuild_type(parts)]
        if form == "literal" and parts and all(value is None or isinstance(value, (str, int)) for value in parts):
            return Literal[tuple(parts)]
        if form == "dict" and len(parts) == 2:
            return dict[rebuild_type(parts[0]), rebuild_type(parts[1])]
        if form == "tuple":
            return tuple[tuple(... if part == "..." else rebuild_type(part) for part in parts)]
        if form == "union" and parts:
            return functools.reduce(operator.or_, (rebuild_type(part) for part in parts))
    raise ArtifactError(f"the type {json.dumps(description)} cannot be rebuilt from the file")
