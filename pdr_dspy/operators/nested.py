"""Operators inside larger modules: found by their path, and replaced in a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator


def operators_in(program: dspy.Module) -> dict[str, Operator]:
    """The operators in a program by their path ("" for the program itself), without duplicates, in the order of
    attributes."""
    if isinstance(program, Operator):
        return {"": program}
    found: dict[str, Operator] = {}
    seen: set[int] = set()

    def walk(place: str, value: Any) -> None:
        if not isinstance(value, dspy.Module) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Operator):
            found[place] = value
            return
        for name, attribute in value.__dict__.items():
            inner = f"{place}.{name}" if place else name
            if isinstance(attribute, (list, tuple)):
                for index, item in enumerate(attribute):
                    walk(f"{inner}[{index}]", item)
            elif isinstance(attribute, dict):
                for key, item in attribute.items():
                    walk(f"{inner}[{key!r}]", item)
            else:
                walk(inner, attribute)

    walk("", program)
    return found


def operators_of(program: dspy.Module, called: str, remedy: str = "") -> dict[str, Operator]:
    """`operators_in`, for a program that must contain at least one.

    Args:
        program: the program to search.
        called: the call that received the program, as code, such as "save(program=Wrapper())".
        remedy: the remedy for the error message.

    Raises ConfigError if there is none.
    """
    found = operators_in(program)
    if not found:
        raise ConfigError(f"`{called}` holds no LongCoT, SR or PDR{f'; {remedy}' if remedy else ''}")
    return found


def served_in(program: dspy.Module) -> dict[int, dspy.LM]:
    """The models that the schedules of a program's operators name, by the `id` of the predictor that each serves: for
    `calls.session(serves=...)`."""
    return {key: lm for operator in operators_in(program).values() for key, lm in operator.served.items()}


def replaced(program: dspy.Module, change: Callable[[str, Operator], Operator]) -> dspy.Module:
    """A copy of a program in which every operator is replaced by the result of `change(path, operator)`, unless that is
    the operator itself; `program` is unchanged."""
    if isinstance(program, Operator):
        return change("", program)
    copy = program.deepcopy()
    for place, operator in operators_in(copy).items():
        new = change(place, operator)
        if new is operator:
            continue
        for name in [name for name, value in operator.__dict__.items() if isinstance(value, dspy.Predict)]:
            delattr(operator, name)
        for name, value in new.__dict__.items():  # in place: references to the operator stay valid
            setattr(operator, name, value)
    return copy
