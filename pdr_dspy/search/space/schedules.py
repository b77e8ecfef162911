"""The schedules of a space: one is chosen axis by axis, all are enumerated, and the largest bounds them.

The shape is chosen first, since it determines which other axes apply; registered axes change what the others made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.axes import CHECK, DISTILLER, FIELDS, FINAL, ROUNDS, WIDTHS
from pdr_dspy.search.space.axis import LAST, width_of
from pdr_dspy.search.space.choosing import Choices, Every, Pick, same
from pdr_dspy.search.space.registry import AXES


class Made(NamedTuple):
    """A schedule, and the choices on registered axes for it."""

    schedule: Schedule
    axes: dict[str, Any]


def choose(space: Choices, pick: Pick) -> Made:
    """A schedule, chosen axis by axis. Raises ConfigError if a registered axis cannot change the one chosen so far."""
    schedule = _choose_shape(space, pick)
    for axis in FIELDS:
        if axis.applies(schedule):
            value = pick(axis.name, space.on(axis.name), functools.partial(axis.fit, schedule))
            schedule = schedule.model_copy(update={axis.name: value})
    schedule = Schedule(**{name: getattr(schedule, name) for name in schedule.model_fields_set})
    axes: dict[str, Any] = {}
    for name, values in space.axes.items():
        axis = AXES.find(name)
        if axis.applies(schedule):
            axes[name] = pick(name, values)
            schedule = axis.changed(schedule, axes[name])
    return Made(schedule, axes)


def _choose_shape(space: Choices, pick: Pick) -> Schedule:
    """Rounds, widths, distiller, check and final: they determine which other axes apply. Not validated."""
    rounds = pick(ROUNDS.name, space.on(ROUNDS.name), small_first=True)
    all_widths, all_checks, all_finals = (space.on(axis.name) for axis in (WIDTHS, CHECK, FINAL))
    widths: list[int] = []
    for number in range(1, rounds):
        widths.append(pick(width_of(number), all_widths, _below(space, widths), small_first=True))
    shape = Schedule.model_construct(widths=(*widths, 1))
    if rounds > 1:
        chain = max(widths) == 1
        distillers = tuple(name for name in space.on(DISTILLER.name) if DISTILLERS.find(name).chain == chain)
        shape = _with(shape, distiller=pick(DISTILLER.name, distillers or ("last",)))
    if rounds > 1 or all_finals != FINAL.default:
        checks = all_checks
        if rounds > 1 and shape.distill_by.needs_check:
            checks = tuple(name for name in checks if name is not None)
        shape = _with(shape, check=pick(CHECK.name, all_checks, _among(checks)))
    if all_finals != FINAL.default:
        finals = all_finals if shape.check else tuple(name for name in all_finals if not final_needs_check(name))
        shape = _with(shape, final=pick(FINAL.name, all_finals, _among(finals)))
        if shape.final != "refine":
            last = pick(LAST, all_widths, _below(space, widths), small_first=True)
            shape = _with(shape, widths=(*widths, last))
    return shape


def _below(space: Choices, widths: Sequence[int]) -> Callable[[int], int]:
    """Limits a width to that of the round before, if no round may be wider."""
    return functools.partial(min, widths[-1]) if space.monotone and widths else same


def _with(schedule: Schedule, **changes: Any) -> Schedule:
    """A copy that is not validated: the result of all choices is."""
    return schedule.model_copy(update=changes)


def _among(values: Sequence[Any]) -> Callable[[Any], Any]:
    """Replaces an invalid value by the first valid one."""
    return lambda value: value if value in values or not values else values[0]


def final_needs_check(final: str) -> bool:
    """Whether a way to choose the answer among the last round's drafts uses a check."""
    return Schedule(widths=(2,), final=final).needs_check is not None if final != "refine" else False  # type: ignore[arg-type]


def every(space: Choices) -> Iterator[Made]:
    """All schedules without duplicates, small shapes first; combinations that a registered axis refuses are left
    out."""
    pick = Every()
    while True:
        try:
            made = choose(space, pick)
        except ConfigError:
            made = None
        if made is not None:
            yield made
        if not pick.advance():
            return


def roles_of(space: Choices) -> tuple[Role, ...]:
    """The roles that some schedule of a space calls."""
    rounds, widths, distillers = (space.on(axis.name) for axis in (ROUNDS, WIDTHS, DISTILLER))
    called = {Role.DRAFT}
    if max(rounds) > 1:
        called.add(Role.REFINE)
        if max(widths) > 1:
            called |= {role for name in distillers if (role := DISTILLERS.find(name).role) is not None}
        if True in space.on("critique") and min(widths) == 1:
            called.add(Role.CRITIQUE)
    return tuple(role for role in Role if role in called)


def widest(space: Choices) -> Schedule:
    """A schedule that needs at least as much context, and as many concurrent requests, as any in a space."""
    draft, kappa, width = (max(space.on(name)) for name in ("draft_tokens", "kappa", WIDTHS.name))
    largest = Schedule(
        widths=(1,),
        draft_tokens=draft,
        refine_tokens=max(cap or draft for cap in space.on("refine_tokens")),
        distill_tokens=max(cap or min(kappa, draft) for cap in space.on("distill_tokens")),
        thinking_tokens=max(space.on("thinking_tokens")),
        kappa=kappa,
    )
    if max(space.on(ROUNDS.name)) > 1:
        asks = width > 1 and any(DISTILLERS.find(name).role is not None for name in space.on(DISTILLER.name))
        largest = largest.replace(widths=(width, 1), distiller="summary" if asks else "random_k", k=1)
    elif space.on(FINAL.name) != FINAL.default:
        largest = largest.replace(widths=(width,), final="vote")
    for name, values in space.axes.items():
        axis = AXES.find(name)
        largest = functools.reduce(larger, (axis.changed(largest, value) for value in values), largest)
    return largest


def larger(one: Schedule, other: Schedule) -> Schedule:
    """A schedule with the larger of each cap, and the wider of both shapes."""
    caps = {
        name: max(getattr(one, name), getattr(other, name)) for name in ("draft_tokens", "thinking_tokens", "kappa")
    }
    wide = max(one, other, key=lambda schedule: (schedule.rounds > 1, max(schedule.widths)))
    return wide.replace(
        refine_tokens=max(one.refine_cap, other.refine_cap),
        distill_tokens=max(one.distill_cap, other.distill_cap),
        **caps,
    )
