"""The laws of an axis."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.space.axes import AXES, PLAIN, Axis, canonical, difference
from pdr_dspy.search.space.candidate import describe_candidate, read_candidate
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
    """A trial that answers at random."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.draw.choice(choices)


def check_axis(part: Axis | str) -> None:
    """Raise AssertionError where an axis breaks a law of one.

    Args:
        part: what `@pdr_dspy.axis` returned, or the name of an axis that is known here.

    The laws: candidates are plain values; a candidate makes a schedule of a schedule, always the same one, or raises
    ConfigError where it cannot; it makes the same again of what it has made; None changes nothing, and some candidate
    changes something. A space with the axis goes through JSON, lists each of its candidates once, and finds again what
    it suggests.
    """
    axis = AXES.find(part) if isinstance(part, str) else part
    assert isinstance(axis, Axis), (
        f"an axis is an `Axis`, got {axis!r}: decorate the function with `@pdr_dspy.axis(name, values=...)`"
    )
    name = axis.name
    assert axis.name in AXES, f"{name}: it is not registered, so that no space can name it"
    if axis.change is not None:
        _check_changes(axis)
    _check_space(Space(**{name: axis.default}) if axis.change is not None else Space(), name)


def _check_changes(axis: Axis) -> None:
    name, changed = axis.name, 0
    for value in axis.default:
        assert isinstance(value, PLAIN), f"{name}: {value!r} is no text, number, boolean or None"
    for schedule in filter(axis.applies, _SCHEDULES):
        for value in axis.default:
            try:
                made = axis.changed(schedule, value)
            except ConfigError:
                continue
            assert made == axis.changed(schedule, value), f"{name}: {value!r} must always make the same of {schedule}"
            if not axis.applies(made):
                continue
            differs = difference(made, axis.changed(made, value))
            assert not differs, f"{name}: {value!r} of {schedule} makes {differs} when it is applied again"
            changed += canonical(made) != canonical(schedule)
    assert changed, f"{name}: no candidate changes any schedule"


def _check_space(space: Space, name: str) -> None:
    assert Space(**json.loads(space.model_dump_json())) == space, f"{name}: a space with it must go through JSON"
    every = [candidate.key for candidate in space.candidates()]
    assert every, f"{name}: a space with it has no candidate"
    assert len(set(every)) == len(every) == space.size, f"{name}: a space with it must list each candidate once"
    for seed in range(32):
        try:
            candidate = space.suggest(_Drawn(seed))
        except ConfigError:  # what was chosen before cannot be changed so
            continue
        assert candidate.key in every, f"{name}: a space suggests {candidate}, which it does not list"
        assert candidate in space, f"{name}: a space suggests {candidate}, and does not find it again"
        assert read_candidate(json.loads(json.dumps(describe_candidate(candidate)))) == candidate
