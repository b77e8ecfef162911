"""All axes by name, including those of users and other packages.

A registered axis is applied to the schedule that the library's axes have made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.runtime.registry import Registry, instance_of, origin_of
from pdr_dspy.search.space.axes import TABLE
from pdr_dspy.search.space.axis import PLAIN, Axis, always

AXES: Registry[Axis] = Registry(
    "axis",
    group="pdr_dspy.axes",
    built_in={one.name: one for one in TABLE},
    check=instance_of(Axis, "@pdr_dspy.axis({}, ...)"),
    hint='Register your own with `@pdr_dspy.axis("name", values=(...))`, or install the package that has it',
)
"""All axes."""
_RESERVED = re.compile("monotone|fixed|axes|axes_from|width_.*|(.*_)?(instructions|demos)")
"""Fields of a space that are not axes, and names of its other parameters."""


@explained
def axis(
    name: str,
    *,
    values: Sequence[Any],
    applies: Callable[[Schedule], bool] = always,
    when: str = "always",
) -> Callable[[Callable[[Schedule, Any], Schedule]], Axis]:
    """Register a function as an axis: `Space(name=values)` and `--axis name=...` then search it.

    >>> @pdr_dspy.axis("effort", values=(None, "low", "high"))
    ... def effort(schedule, value):
    ...     '''Room for thinking, and for the solution after it.'''
    ...     room = {"low": 512, "high": 4096}[value]
    ...     return schedule.replace(thinking_tokens=room, draft_tokens=room // 4)

    A candidate's schedule is the function's result, so the choice is saved and loaded like any schedule. Registered
    axes are applied after the library's, in the order in which a space names them. The function must be idempotent:
    applied again with the same value, it must not change its result.

    Args:
        name: its name in a space and on the command line.
        values: candidates of a space that names none: texts, numbers, booleans, or None, which leaves the schedule
            unchanged.
        applies: whether it affects a schedule.
        when: `applies` in words, for the table of a space.

    Returns:
        A decorator that makes an `Axis` from a function that maps a schedule and a value to a schedule.

    Raises ConfigError for a registered name and for invalid candidates.
    """
    listed = not isinstance(values, str) and isinstance(values, Sequence) and bool(values)
    if not listed or not all(isinstance(value, PLAIN) for value in values) or len(set(values)) < len(values):
        raise ConfigError(f"`axis(values={values!r})` must list texts, numbers, booleans or None, each once")
    if isinstance(name, str) and _RESERVED.fullmatch(name):
        raise ConfigError(f"the axis {name!r} would be taken for a part of a space; choose another name")

    def register(change: Callable[[Schedule, Any], Schedule]) -> Axis:
        part = Axis(name, tuple(values), applies=applies, when=when, change=change)
        return AXES.add(name, part, origin=origin_of(change))

    return register
