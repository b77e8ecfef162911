"""Axes: the properties of everything that a search may choose, in one table.

An axis is a named way to change a schedule. `TABLE` has one for each field of `Schedule` (`rounds` and `widths` share
one field) in the order in which they are chosen, since whether an axis applies depends on those before it. The space,
the samplers, the surrogate, `--axis` and the report derive from the table everything they need to know of an axis.
`AXES` finds axes by name, including those of users and other packages: see `axis`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import MAX_WIDTH, MIN_CANDIDATE_TOKENS, Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime.registry import Registry, instance_of, origin_of

PLAIN = (str, int, float, bool, type(None))
"""Types of candidates of a registered axis: values that JSON and the command line support."""


def _always(schedule: Schedule) -> bool:
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
    applies: Callable[[Schedule], bool] = _always
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


# --- when an axis applies --------------------------------------------------------------------------------------------


def _several_rounds(schedule: Schedule) -> bool:
    return schedule.rounds > 1


def _wide_last(schedule: Schedule) -> bool:
    return schedule.widths[-1] > 1


def _several_drafts(schedule: Schedule) -> bool:
    return schedule.widths != (1,)


def _ends_on_answers(schedule: Schedule) -> bool:
    early = schedule.stop_at is not None or schedule.agree is not None
    return early and schedule.quorum == 1.0 and max(schedule.widths) > 1


def _of_wave(value: int | None) -> float:
    """Half a step for each doubling of a wave's drafts."""
    return 0.5 * math.log2(2 * value) if value else 0.0


def _in_waves(schedule: Schedule) -> bool:
    return schedule.first_wave is not None and schedule.first_wave < max(schedule.widths) - 1


def _checked(schedule: Schedule) -> bool:
    return schedule.check is not None and _several_drafts(schedule)


def _uses_k(schedule: Schedule) -> bool:
    return schedule.rounds > 1 and schedule.distill_by.uses_k


def _can_tally(schedule: Schedule) -> bool:
    return schedule.rounds > 1 and not schedule.distill_by.chain


def _can_criticise(schedule: Schedule) -> bool:
    return schedule.rounds > 1 and schedule.distill_by.chain and schedule.distill_by.role is None


def _wide(schedule: Schedule) -> bool:
    return max(schedule.widths) > 1


def _model_between(schedule: Schedule) -> bool:
    return schedule.distill_role is not None


# --- candidates around a schedule ------------------------------------------------------------------------------------


def _rounds_around(schedule: Schedule) -> tuple[int, ...]:
    return tuple(sorted({1, 2, 3, schedule.rounds}))


def _widths_around(schedule: Schedule) -> tuple[int, ...]:
    own = schedule.widths if schedule.final != "refine" else schedule.widths[:-1]
    return tuple(sorted({1, 2, 4, 8, *own}))


def _ks_around(schedule: Schedule) -> tuple[int, ...]:
    return tuple(sorted({1, 2, 4, schedule.k} if schedule.distill_by.uses_k else {1, 2, 4}))


def _kappas_around(schedule: Schedule) -> tuple[int, ...]:
    smaller = max(schedule.kappa // 2, MIN_CANDIDATE_TOKENS * max(_ks_around(schedule)))
    return tuple(sorted({smaller, max(schedule.kappa, smaller)}))


def _distillers_around(schedule: Schedule) -> tuple[str, ...]:
    own, default = schedule.distill_by, DISTILLER.default
    fits = not (own.chain or own.needs_gold or own.name in default)
    return (*default, own.name) if fits else default


# --- positions of values --------------------------------------------------------------------------------------------


def _doublings(weight: float, unit: float = 1.0) -> Callable[[Any], float]:
    """A number of steps for each doubling of a value."""
    return lambda value: weight * math.log2(value / unit)


def _agreement(value: float) -> float:
    """One step for 0.95, and half a step more for each doubling of the doubt."""
    return 0.0 if value >= 1.0 else 1.0 + 0.5 * math.log2((1.0 - value) / 0.05)


def _named(value: str | None) -> str:
    return "" if value is None else value


NEVER = "never"
"""The position of `stop_at` when it is None."""


def _narrowest(schedule: Schedule, k: int) -> int:
    return min(k, *schedule.widths[:-1])


# --- the table -------------------------------------------------------------------------------------------------------

ROUNDS = Axis(
    "rounds",
    default=(1, 2, 3),
    position=float,
    in_force=lambda schedule: schedule.rounds,
    around=_rounds_around,
)
WIDTHS = Axis(
    "widths",
    default=(1, 2, 4, 8),
    when="each round before the last",
    position=_doublings(0.7),
    around=_widths_around,
)
DISTILLER = Axis(
    "distiller",
    default=("summary", "topk", "topk_per_sample", "random_k"),
    applies=_several_rounds,
    when="where a round is wider than 1",
    around=_distillers_around,
    checked=("checked",),
    beside={"widths": (1, 1), "k": 1},
)
CHECK = Axis(
    "check",
    default=(None,),
    applies=_several_drafts,
    when="where there are several drafts",
    position=lambda value: "" if value is None else value,
    none="no check",
    later=True,
)
FINAL = Axis(
    "final",
    default=("refine",),
    applies=_wide_last,
    when="always; all but refine allow a wide last round",
    around=lambda schedule: tuple(dict.fromkeys(("refine", "vote", "medoid", canonical(schedule).final))),
    checked=("best",),
    later=True,
)
SHAPE = (ROUNDS, WIDTHS, DISTILLER, CHECK, FINAL)
"""The axes that determine the shape of a schedule; `Space` chooses them together."""
FIELDS = (
    Axis("draft_tokens", default=(1024,), position=_doublings(1.0, 1024), label="draft≤{}"),
    Axis(
        "thinking_tokens",
        default=(0,),
        when="always, on top of each cap",
        position=lambda value: 0.5 * math.log2(1 + value / 256),
        label="think≤{}",
    ),
    Axis("temperature", default=(1.0,), position=lambda value: 2.0 * value, label="T={:g}"),
    Axis("top_p", default=(1.0,), position=lambda value: 5.0 * (1.0 - value), label="top-p={:g}"),
    Axis(
        "kappa",
        default=(2048,),
        applies=_several_rounds,
        when="from 2 rounds on",
        position=_doublings(0.7, 1024),
        around=_kappas_around,
        title="κ",
    ),
    Axis(
        "refine_tokens",
        default=(None,),
        applies=_several_rounds,
        when="from 2 rounds on",
        position=_doublings(0.7, 1024),
        none="as draft_tokens",
        in_force=lambda schedule: schedule.refine_cap,
        label="refine≤{}",
    ),
    Axis(
        "k",
        default=(2,),
        applies=_uses_k,
        when="distillers that pick k solutions",
        position=_doublings(0.7),
        around=_ks_around,
        fit=_narrowest,
    ),
    Axis("tally", default=(False,), applies=_can_tally, when="where a round is wider than 1", position=float),
    Axis(
        "quorum",
        default=(1.0,),
        applies=_wide,
        when="where a round is wider than 1",
        position=_doublings(1.0),
        later=True,
    ),
    Axis(
        "agree",
        default=(None,),
        applies=_wide,
        when="where a round is wider than 1",
        position=_agreement,
        none="waits for all",
        in_force=lambda schedule: 1.0 if schedule.agree is None else schedule.agree,
        later=True,
    ),
    Axis("json_fallback", default=(True,), when="where outputs have a closed form", position=float, later=True),
    Axis(
        "critique",
        default=(False,),
        applies=_can_criticise,
        when="several rounds, all of width 1",
        position=float,
        around=lambda schedule: (False, True),
        beside={"widths": (1, 1), "distiller": "last"},
    ),
    Axis(
        "distill_tokens",
        default=(None,),
        applies=_model_between,
        when="where a model distills or criticises",
        position=_doublings(0.7, 1024),
        none="the smaller of kappa and draft_tokens",
        in_force=lambda schedule: schedule.distill_cap,
        label="distill≤{}",
    ),
    Axis(
        "distill_temperature",
        default=(None,),
        applies=_model_between,
        when="where a model distills or criticises",
        position=lambda value: value - 1.0,
        none="as temperature",
        in_force=lambda s: s.temperature if s.distill_temperature is None else s.distill_temperature,
        label="distill T={:g}",
    ),
    Axis(
        "keep",
        default=(False,),
        applies=_checked,
        when="where a check scores drafts",
        position=float,
        checked=(False, True),
        later=True,
    ),
    Axis(
        "stop_at",
        default=(None,),
        applies=_checked,
        when="where a check scores drafts",
        position=lambda value: 0.0 if value == NEVER else 1.0 + 2.0 * (1.0 - value),
        checked=(None, 1.0),
        none=NEVER,
        in_force=lambda schedule: NEVER if schedule.stop_at is None else schedule.stop_at,
        later=True,
    ),
    Axis(
        "first_wave",
        default=(None,),
        applies=_ends_on_answers,
        when="where a check or a vote may end a wide round",
        position=_of_wave,
        none="all at once",
        in_force=lambda schedule: schedule.first_wave or 0,
        fit=lambda schedule, value: value if value is None or value < max(schedule.widths) else None,
        beside={"widths": (MAX_WIDTH,), "final": "vote", "agree": 0.95},
        later=True,
    ),
    Axis(
        "next_wave",
        default=(None,),
        applies=_in_waves,
        when="where a round is made in waves",
        position=_of_wave,
        none="all others at once",
        in_force=lambda schedule: schedule.next_wave or 0,
        beside={"widths": (MAX_WIDTH,), "final": "vote", "agree": 0.95, "first_wave": 2},
        later=True,
    ),
    Axis(
        "draft_model",
        default=(None,),
        position=_named,
        none="the program's own",
        later=True,
    ),
    Axis(
        "refine_model",
        default=(None,),
        applies=_several_rounds,
        when="from 2 rounds on",
        position=_named,
        none="as draft_model",
        in_force=lambda schedule: schedule.model_of(Role.REFINE),
        later=True,
    ),
    Axis(
        "distill_model",
        default=(None,),
        applies=_model_between,
        when="where a model distills or criticises",
        position=_named,
        none="as draft_model",
        in_force=lambda schedule: schedule.model_of(Role.DISTILL),
        later=True,
    ),
)
MODEL_AXES = ("draft_model", "refine_model", "distill_model")
"""Axes whose candidates are names of the program's models."""
TABLE = (*SHAPE, *FIELDS)
"""Every axis of the library, in the order in which they are chosen."""


# --- registered axes
# ---------------------------------------------------------------------------------------------------


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
    applies: Callable[[Schedule], bool] = _always,
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


# --- schedules in terms of the table -------------------------------------------------------------------------------


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
