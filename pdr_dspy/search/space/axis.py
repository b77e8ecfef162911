"""One axis: a named way to change a schedule, and everything that a search needs to know of it.

A parameter is a choice on an axis: `widths` has one for each round, every other axis has one of its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule

PLAIN = (str, int, float, bool, type(None))
"""Types of candidates of a registered axis: values that JSON and the command line support."""


def always(schedule: Schedule) -> bool:
    """For an axis that affects every schedule."""
    return True


def _text(value: Any) -> str:
    return str(value)


def _keep(schedule: Schedule, value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Axis:
    """One choice of a search. Raises ConfigError for an axis without candidates."""

    name: str
    """Its name in a space, a sampler and on the command line; for a built-in axis also the schedule's field."""
    default: tuple[Any, ...]
    """Candidates of a space that names none."""
    applies: Callable[[Schedule], bool] = always
    """Whether it affects a schedule, given the choices on the axes before it: two schedules that differ only on axes
    that do not apply are the same program."""
    when: str = "always"
    """`applies` in words, for the table of a space."""
    position: Callable[[Any], float | str] = _text
    """The position of a value, in steps, for the distance between two programs: numbers differ by their difference,
    texts that differ are one step apart. 0 and "" are the positions of schedules to which the axis does not apply."""
    none: str | None = None
    """The meaning of None, in words; None if None is not a candidate."""
    in_force: Callable[[Schedule], Any] | None = None
    """The effective value in a schedule; None is the field itself. It differs where the field is None."""
    around: Callable[[Schedule], tuple[Any, ...]] | None = None
    """Candidates of a space around a schedule; None is only the schedule's own value."""
    checked: tuple[Any, ...] = ()
    """Additional candidates of a space around a program with checks."""
    fit: Callable[[Schedule, Any], Any] = _keep
    """The valid value of a schedule that replaces an invalid one."""
    beside: Mapping[str, Any] | None = None
    """Fields with which each candidate can be validated alone; None is a wide round with random_k."""
    title: str | None = None
    """Its title in reports; None is the name in words."""
    label: str | None = None
    """The format of a value in a program's name, such as "T={:g}"; None if the schedule's own text has it."""
    later: bool = False
    """Whether the data of a space omits it at its default: it was added after the first searches."""
    change: Callable[[Schedule, Any], Schedule] | None = None
    """The schedule under a value, for an axis that is not a field of the schedule. It is never called with None, which
    leaves the schedule unchanged."""

    def __post_init__(self) -> None:
        if not isinstance(self.default, tuple) or not self.default:
            raise ConfigError(f"`Axis(name={self.name!r}, default={self.default!r})` must be a tuple of candidates")

    @property
    def description(self) -> str:
        """The first sentence of a registered axis's docstring, for lists; "" for the library's."""
        text = " ".join(((self.change and self.change.__doc__) or "").split())
        return text.partition(". ")[0].rstrip(".")

    def settings(self, schedule: Schedule) -> dict[str, Any]:
        """The effective values under their parameter names; empty if the axis does not apply."""
        if not self.applies(schedule):
            return {}
        if self.name == "widths":
            rounds = enumerate(schedule.widths[:-1], start=1)
            last = {LAST: schedule.widths[-1]} if schedule.final != "refine" else {}
            return {**{width_of(number): width for number, width in rounds}, **last}
        return {self.name: self.value(schedule)}

    def value(self, schedule: Schedule) -> Any:
        """The effective value."""
        return getattr(schedule, self.name) if self.in_force is None else self.in_force(schedule)

    def changed(self, schedule: Schedule, value: Any) -> Schedule:
        """The schedule under a candidate. Raises ConfigError if it is not a candidate, or the axis returns no
        schedule."""
        if self.change is None:
            return schedule.replace(**{self.name: value})
        made = schedule if value is None else self.change(schedule, value)
        if not isinstance(made, Schedule):
            raise ConfigError(f"the axis {self.name!r} returned {type(made).__name__} for {value!r}, not a `Schedule`")
        return made


LAST = "width_last"
"""The parameter for the width of the last round, if several of its drafts can be the answer."""


def width_of(number: int) -> str:
    """The parameter for the width of a round, counted from 1."""
    return f"width_{number}"
