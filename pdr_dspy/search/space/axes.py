"""Axes: the properties of everything that a search may choose, in one table.

`TABLE` has one axis for each field of `Schedule` (`rounds` and `widths` share one field) in the order in which they are
chosen, since whether an axis applies depends on those before it. The space, the samplers, the surrogate, `--axis` and
the report derive from the table everything they need to know of an axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pdr_dspy.operators.schedule import MAX_WIDTH, MIN_CANDIDATE_TOKENS, Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.axis import Axis

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


def _final_in_force(schedule: Schedule) -> str:
    return schedule.final if _wide_last(schedule) else FINAL.default[0]


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


def _of_wave(value: int | None) -> float:
    """Half a step for each doubling of a wave's drafts."""
    return 0.5 * math.log2(2 * value) if value else 0.0


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
    around=lambda schedule: tuple(dict.fromkeys(("refine", "vote", "medoid", _final_in_force(schedule)))),
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
