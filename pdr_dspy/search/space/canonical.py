"""A schedule in terms of the table of axes: only what has an effect, by parameter, and where each value stands.

Two schedules that differ only on axes that do not apply make the same calls, and are the same program.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.space.axes import ROUNDS, TABLE, WIDTHS
from pdr_dspy.search.space.axis import LAST, Axis


def canonical(schedule: Schedule) -> Schedule:
    """The schedule with every field that has no effect at its default: equal for schedules that make the same calls."""
    return _canonical(schedule)  # type: ignore[arg-type]  (frozen models are hashable, which pyright does not see)


@functools.lru_cache(maxsize=16_384)
def _canonical(schedule: Schedule) -> Schedule:
    values: dict[str, Any] = {"widths": schedule.widths, "k": 1}  # a larger k could be above the narrowest round
    for one in TABLE:
        if one is not ROUNDS and one.applies(schedule):
            value = getattr(schedule, one.name)
            bare = schedule.model_copy(update={one.name: None}) if one.none is not None else schedule
            values[one.name] = None if one.none is not None and one.value(bare) == one.value(schedule) else value
    return Schedule(**values)


def settings_of(schedule: Schedule) -> dict[str, Any]:
    """The effective values of all parameters that apply, by name, such as "width_1" and "kappa"."""
    return {name: value for one in TABLE for name, value in one.settings(schedule).items()}


def positions_of(schedule: Schedule) -> Iterator[tuple[str, float | str]]:
    """The position of a schedule on each axis that applies, by parameter; see `Axis.position`."""
    schedule = canonical(schedule)
    for one in TABLE:
        for name, value in one.settings(schedule).items():
            place = one.position(value)
            yield name, place if isinstance(place, str) else float(place)


def difference(one: Schedule, other: Schedule) -> str | None:
    """The first setting in which two schedules differ, with both values; None if they make the same calls."""
    first, second = (canonical(schedule).model_dump() for schedule in (one, other))
    name = next((name for name in first if first[name] != second[name]), None)
    return None if name is None else f"{name}={first[name]!r} and then {name}={second[name]!r}"


def axis_of(parameter: str) -> Axis | None:
    """The built-in axis of a parameter such as "width_1"; None for any other name."""
    name = WIDTHS.name if parameter.startswith("width_") else parameter
    return next((one for one in TABLE if one.name == name), None)


def title_of(parameter: str) -> str:
    """The title of a parameter in reports."""
    if parameter == LAST:
        return "width, last round"
    if parameter.startswith("width_"):
        return f"width, round {parameter.removeprefix('width_')}"
    known = axis_of(parameter)
    return parameter.replace("_", " ") if known is None or known.title is None else known.title
