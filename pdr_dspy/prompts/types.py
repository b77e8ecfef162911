"""Field types, limits and defaults as JSON data and back: nothing is imported or executed to rebuild one."""

from __future__ import annotations

import functools
import json
import operator
import re
import types
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin

import dspy
from pydantic import TypeAdapter

from pdr_dspy.errors import ArtifactError
from pdr_dspy.prompts.content import exact_data
from pdr_dspy.prompts.fields import default_of

_NAMED: dict[str, Any] = {
    "str": str, "int": int, "float": float, "bool": bool, "none": type(None), "any": Any, "list": list, "dict": dict,
}  # fmt: skip


def describe_type(kind: Any) -> Any:
    """A type as JSON data: a name, or {"list": ...}, {"dict": [...]}, {"tuple": [...]}, {"union": [...]},
    {"literal": [...]}, {"dspy": "Image"}; {"custom": name} for a type that cannot be rebuilt from data."""
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
    if isinstance(kind, type) and getattr(dspy, kind.__name__, None) is kind and kind.__name__ in _DSPY:
        return {"dspy": kind.__name__}
    if isinstance(kind, type) and kind.__base__ is dspy.Code and kind.__name__ == f"Code_{kind.language}":
        return {"dspy": f"Code[{kind.language}]"}
    return {"custom": getattr(kind, "__name__", None) or str(kind)}


_DSPY = ("Audio", "Code", "File", "History", "Image", "Reasoning")
"""DSPy types that a file may contain."""
_LANGUAGE = re.compile(r"Code\[([\w+#.-]{1,40})\]")


def rebuild_type(description: Any) -> Any:
    """The type for a description by `describe_type`. Raises ArtifactError for a custom or unknown one."""
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
        if form == "dspy" and parts in _DSPY:
            return getattr(dspy, parts)
        if form == "dspy" and isinstance(parts, str) and (code := _LANGUAGE.fullmatch(parts)):
            return dspy.Code[code[1]]  # type: ignore[index]  (DSPy's notation)
        if form == "union" and parts:
            return functools.reduce(operator.or_, (rebuild_type(part) for part in parts))
    raise ArtifactError(f"the type {json.dumps(description)} cannot be rebuilt from the file")


_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
_FACTORIES: dict[str, Any] = {"list": list, "dict": dict, "set": set}


def describe_options(field: Any) -> dict[str, Any]:
    """Limits and default of a pydantic field as JSON data: {"limits": {...}, "default": ..., "factory": "list"}, each
    if present.

    A factory that always returns the same value is stored as that value. Options that cannot be rebuilt from data, such
    as a user's validator or factory, are {"own": name}.
    """
    state: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for item in field.metadata:
        known = {name: value for name in _LIMITS if (value := getattr(item, name, None)) is not None}
        if not known or any(not isinstance(value, (int, float, str)) for value in known.values()):
            state["own"] = type(item).__name__
        limits |= known
    if limits:
        state["limits"] = limits
    if field.default_factory is not None:
        named = next((name for name, factory in _FACTORIES.items() if field.default_factory is factory), None)
        if named is not None:
            return {**state, "factory": named}
        first, second = (exact_data(default_of(field)) for _ in range(2))
        if first != second:
            return {**state, "own": getattr(field.default_factory, "__name__", "default_factory")}
        return {**state, "default": first}
    if not field.is_required():
        state["default"] = exact_data(field.default)
    return state


def rebuild_options(state: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The keywords of `dspy.InputField` for a description by `describe_options`. Raises ArtifactError for an {"own":
    name}."""
    if "own" in state:
        raise ArtifactError(f"`{state['own']}` cannot be rebuilt from the file")
    options = {name: value for name, value in (state.get("limits") or {}).items() if name in _LIMITS}
    if state.get("factory") in _FACTORIES:
        options["default_factory"] = _FACTORIES[state["factory"]]
    if "default" in state:
        default = state["default"]
        with suppress(ValueError):  # then it was not valid when it was saved either
            default = TypeAdapter(kind).validate_python(default)
        options["default"] = default
    return options
