"""`--axis NAME=V1,V2`: the candidates of one axis of a space; `--axis solve.NAME=...` for one operator's axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.nested import operators_of
from pdr_dspy.search import AXES, Space, Spaces

PROMPTS = ("instructions", "demos", "fixed", "axes")
"""Fields of a space that are not lists of short values."""
MONOTONE = "monotone"
WORDS: dict[str, Any] = {"none": None, "true": True, "false": False}


def space_around(program: dspy.Module, axes: Sequence[str] = ()) -> Space | Spaces:
    """The search space of a program: around the schedule of its first operator; if an axis names one of several
    operators (`solve.widths=1,4`), a separate space for each around its own schedule. Axes without a path apply to all.

    Raises ConfigError as `with_axes`, and if there is no operator.
    """
    operators = operators_of(program, type(program).__name__)
    named: dict[str, list[str]] = {place: [] for place in operators}
    shared: list[str] = []
    for text in axes:
        name = text.partition("=")[0].strip()
        place = next((p for p in sorted(operators, key=len, reverse=True) if p and name.startswith(f"{p}.")), None)
        if place is None:
            shared.append(text)
        else:
            named[place].append(text.strip().removeprefix(f"{place}."))

    def around(place: str) -> Space:
        operator = operators[place]
        return with_axes(Space.default_for(operator.schedule, operator.checks, operator.models), shared + named[place])

    if len(operators) > 1 and any(named.values()):
        return Spaces(operators={place: around(place) for place in operators})
    return around(next(iter(operators)))


def with_axes(space: Space, axes: Sequence[str]) -> Space:
    """The space with exactly the given candidates on the named axes.

    Args:
        space: the space to change.
        axes: such as "widths=1,4,8", "monotone=false" or "refine_tokens=none,512"; a registered axis may be given
            alone, as "effort", and has all its candidates then.

    Raises ConfigError for an unknown axis, one named twice or without values, and as `Space` does.
    """
    given: dict[str, Any] = {}
    for text in axes:
        name, equals, listed = (part.strip() for part in text.partition("="))
        if name in PROMPTS:
            raise ConfigError(f"`--axis {text}`: {name} are not short values; give them in Python, or use `--prompts`")
        if name != MONOTONE and name not in AXES:
            known = ", ".join((*AXES.names(), MONOTONE))
            raise ConfigError(f"`--axis {text}`: there is no axis {name!r}; the axes are {known}")
        values = [read_value(value.strip()) for value in listed.split(",") if value.strip()]
        if not equals and name != MONOTONE and name not in Space.model_fields:
            values = list(AXES.find(name).default)
        elif not equals or not values:
            raise ConfigError(f"`--axis {text}` names no values; write `--axis {name}=V1,V2`")
        if name in given:
            raise ConfigError(f"`--axis {name}=...` is given twice; list all its values in one option")
        if name == MONOTONE and len(values) > 1:
            raise ConfigError(f"`--axis {text}`: monotone must be true or false")
        given[name] = values[0] if name == MONOTONE else tuple(values)
    return Space(**{**{name: getattr(space, name) for name in Space.model_fields}, **given})


def read_value(text: str) -> Any:
    """The value of a word on the command line: none, true, false, a number, or the word itself."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
