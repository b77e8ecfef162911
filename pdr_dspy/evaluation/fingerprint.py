"""The identity of a program."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import dspy

from pdr_dspy.calls.store import address
from pdr_dspy.prompts.roles import signature_of
from pdr_dspy.prompts.types import describe_options


def fingerprint(program: dspy.Module) -> str:
    """A hash of everything that determines a program's calls and how they are parsed: signatures with their types,
    limits and defaults, demonstrations, schedules, checks, and the public attributes of its modules that are plain data
    (the `N` of a `dspy.BestOfN`), have a `describe` method, or are functions, which count by name."""
    state = {name: _prompt_state(parameter) for name, parameter in program.named_parameters()}
    types = {  # the state that DSPy saves lacks them
        name: {field: repr(info.annotation) for field, info in signature_of(predictor).fields.items()}
        for name, predictor in program.named_predictors()
    }
    options = {
        f"{name}.{field}": described
        for name, predictor in program.named_predictors()
        for field, info in signature_of(predictor).fields.items()
        if (described := describe_options(info))
    }
    more: dict[str, Any] = {"options": options} if options else {}
    if attributes := _attributes(program):
        more["attributes"] = attributes
    return address({"kind": type(program).__name__, "state": state, "types": types, **more})


def _prompt_state(parameter: Any) -> Any:
    """A parameter's state without its language model, which may not be serializable."""
    if not isinstance(parameter, dspy.Predict):
        return parameter.dump_state()
    demos = [dict(demo) for demo in parameter.demos]
    return {"demos": demos, "signature": signature_of(parameter).dump_state()}


def _attributes(program: dspy.Module) -> dict[str, Any]:
    """The public attributes of a program's modules that can be compared, by path."""
    found: dict[str, Any] = {}
    for path, module in _modules(program):
        if not isinstance(module, dspy.Predict):  # predictors count as parameters
            for name, value in vars(module).items():
                known = _UNKNOWN if name.startswith("_") or name in _RECORDS else _comparable(value)
                if known is not _UNKNOWN:
                    found[f"{path}.{name}"] = known
    return found


def _modules(program: dspy.Module) -> Iterator[tuple[str, dspy.Module]]:
    """`program.named_sub_modules()` without a search of the modules' histories, which takes seconds after many runs."""
    queue: deque[tuple[str, Any]] = deque([("self", program)])
    seen: set[int] = set()
    while queue:
        path, item = queue.popleft()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dspy.Module):
            yield path, item
            queue += [(f"{path}.{name}", value) for name, value in vars(item).items() if name not in _RECORDS]
        elif isinstance(item, list | tuple):
            queue += [(f"{path}[{place}]", value) for place, value in enumerate(item)]
        elif isinstance(item, dict):
            queue += [(f"{path}[{key}]", value) for key, value in item.items()]


_RECORDS = frozenset(("history", "callbacks", "artifact"))
"""Attributes of a module that record its history or origin and do not affect its behaviour."""
_UNKNOWN = object()


def _comparable(value: Any) -> Any:
    """A value as plain data that is equal for values of equal behaviour; `_UNKNOWN` if it cannot be compared."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        parts = {str(key): known for key, one in value.items() if (known := _comparable(one)) is not _UNKNOWN}
        return parts or _UNKNOWN
    if isinstance(value, list | tuple):
        items = [known for one in value if (known := _comparable(one)) is not _UNKNOWN]
        return items or _UNKNOWN
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    describe = None if isinstance(value, type) else getattr(value, "describe", None)
    return describe() if callable(describe) else _UNKNOWN
