"""The contract of an axis."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.space.axis import PLAIN, Axis
from pdr_dspy.search.space.candidate import describe_candidate, read_candidate
from pdr_dspy.search.space.canonical import canonical, difference
from pdr_dspy.search.space.registry import AXES
from pdr_dspy.search.space.space import Space

_SCHEDULES = (
    Schedule(widths=(1,)),
    Schedule(widths=(1, 1, 1), distiller="last"),
    Schedule(widths=(4, 1), distiller="random_k"),
    Schedule(widths=(8, 4, 1), distiller="topk", k=4, kappa=512),
    Schedule(widths=(2, 2, 1), distiller="summary", thinking_tokens=1024),
    Schedule(widths=(8,), final="vote", temperature=0.6),
)


class _Drawn:
    """A trial that suggests random values."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.draw.choice(choices)


def check_axis(part: Axis | str) -> None:
    """Raise AssertionError if an axis violates its contract.

    Args:
        part: the result of `@pdr_dspy.axis`, or the name of a registered axis.

    The contract: values are plain; a value maps a schedule to a schedule, deterministically, or raises ConfigError; a
    second application changes nothing; None changes nothing, and at least one value changes a schedule. A space with
    the axis survives JSON, lists each of its candidates once, and contains each candidate that it suggests.
    """
    axis = AXES.find(part) if isinstance(part, str) else part
    assert isinstance(axis, Axis), (
        f"an axis is an `Axis`, got {axis!r}: decorate the function with `@pdr_dspy.axis(name, values=...)`"
    )
    name = axis.name
    assert axis.name in AXES, f"{name}: it is not registered, so no space can use it"
    if axis.change is not None:
        _check_changes(axis)
    _check_space(Space(**{name: axis.default}) if axis.change is not None else Space(), name)


def _check_changes(axis: Axis) -> None:
    name, changed = axis.name, 0
    for value in axis.default:
        assert isinstance(value, PLAIN), f"{name}: {value!r} is not a text, number, boolean or None"
    for schedule in filter(axis.applies, _SCHEDULES):
        for value in axis.default:
            try:
                made = axis.changed(schedule, value)
            except ConfigError:
                continue
            assert made == axis.changed(schedule, value), f"{name}: {value!r} must always give the same for {schedule}"
            if not axis.applies(made):
                continue
            differs = difference(made, axis.changed(made, value))
            assert not differs, f"{name}: {value!r} applied again to {schedule} gives {differs}"
            changed += canonical(made) != canonical(schedule)
    assert changed, f"{name}: no value changes any schedule"


def _check_space(space: Space, name: str) -> None:
    assert Space(**json.loads(space.model_dump_json())) == space, f"{name}: a space with it must survive JSON"
    every = [candidate.key for candidate in space.candidates()]
    assert every, f"{name}: a space with it has no candidate"
    assert len(set(every)) == len(every) == space.size, f"{name}: a space with it must list each candidate once"
    for seed in range(32):
        try:
            candidate = space.suggest(_Drawn(seed))
        except ConfigError:  # the value does not fit the other choices
            continue
        assert candidate.key in every, f"{name}: a space suggests {candidate}, which it does not list"
        assert candidate in space, f"{name}: a space suggests {candidate}, but does not contain it"
        assert read_candidate(json.loads(json.dumps(describe_candidate(candidate)))) == candidate
