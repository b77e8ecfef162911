"""Whether the candidates of a space are ones that a schedule can have, alone and together.

Every function raises ValueError, naming the axis, its candidates and the remedy; `Space` makes a ConfigError of it.
"""

from __future__ import annotations

from typing import Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.schedule import MIN_CANDIDATE_TOKENS, Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.axes import CHECK, DISTILLER, FINAL, ROUNDS, TABLE, WIDTHS
from pdr_dspy.search.space.axis import PLAIN, Axis
from pdr_dspy.search.space.canonical import difference
from pdr_dspy.search.space.choosing import Choices
from pdr_dspy.search.space.prompt_axes import PROMPTS, key_of
from pdr_dspy.search.space.registry import AXES
from pdr_dspy.search.space.schedules import final_needs_check


def check_space(space: Choices) -> None:
    """Check every axis of a space."""
    for name in space.names:
        values = space.on(name)
        if not values:
            raise ValueError(f"`Space({name}=())` is empty; give at least one candidate")
        if len(set(values)) != len(values):
            raise ValueError(f"`Space({name}={values})` has a duplicate candidate")
    rounds, check, final = (space.on(axis.name) for axis in (ROUNDS, CHECK, FINAL))
    if min(rounds) < 1 or max(rounds) > 16:
        raise ValueError(f"`Space(rounds={rounds})` must be from 1 to 16")
    _check_distillers(space)
    _check_prompts(space)
    for axis in TABLE:
        if axis is not ROUNDS:
            _check_alone(axis, space.on(axis.name), check)
    if None in check and len(check) > 1 and all(map(final_needs_check, final)):
        raise ValueError(
            f"`Space(final={final})` uses a check, and `check={check}` may use none; take None out of "
            '`check`, or add "refine" or "vote" to `final`'
        )
    for name, values in space.axes.items():
        _check_registered(name, values)


def _check_distillers(space: Choices) -> None:
    names, rounds, widths = (space.on(axis.name) for axis in (DISTILLER, ROUNDS, WIDTHS))
    ks, kappas = space.on("k"), space.on("kappa")
    try:
        parts = [DISTILLERS.find(name) for name in names]
    except ConfigError as error:
        raise ValueError(f"`Space(distiller={names})`: {error}") from error
    looks = [part.name for part in parts if part.needs_gold]
    if looks:
        raise ValueError(f"`Space(distiller=...)` has {looks[0]!r}, which uses the gold answers; take it out")
    chains = [part.name for part in parts if part.chain]
    if chains and len(names) > 1:
        raise ValueError(
            f'`Space(distiller=...)` has "{chains[0]}" with others; leave it out: all widths 1 always hand on the last'
        )
    if chains and max(widths) > 1:
        raise ValueError(f'`Space(distiller=("{chains[0]}",))` needs `widths=(1,)`')
    k = max(ks) if any(part.uses_k for part in parts) else 1
    least = MIN_CANDIDATE_TOKENS * min(k, max(widths))
    if max(rounds) > 1 and min(kappas) < least:
        raise ValueError(f"`Space(kappa={kappas})` goes below the {least} tokens that `k={ks}` needs")


def _check_alone(axis: Axis, values: tuple[Any, ...], check: tuple[Any, ...]) -> None:
    """Validate each candidate alone, in a schedule that can have it, and with a check if it uses one."""
    for value in values:
        beside = {"widths": (256, 1), "distiller": "random_k", "k": 1} if axis.beside is None else axis.beside
        own = {"widths": (value, 1)} if axis is WIDTHS else {axis.name: value}
        try:
            schedule = Schedule(**{**beside, **own})
        except ConfigError as error:
            raise ValueError(f"`Space({axis.name}={values})`: {error}") from None
        if schedule.needs_check and not any(check):
            raise ValueError(
                f"`Space({axis.name}=...)` has {value!r}, which uses a check, and `check={check}` names "
                'none; name one of the program\'s, such as `check=("check",)`'
            )


def _check_registered(name: str, values: tuple[Any, ...]) -> None:
    """Check that a registered axis can be imported, and accepts each candidate."""
    try:
        axis = AXES.find(name)
    except ConfigError as error:
        raise ValueError(f"`Space({name}=...)`: {error}") from error
    schedule = Schedule(widths=(8, 8, 1), distiller="random_k")
    for value in values:
        where = f"`Space({name}={values})`: {value!r}"
        if not isinstance(value, PLAIN):
            raise ValueError(f"{where} must be a text, a number, a boolean or None")
        try:
            made = axis.changed(schedule, value) if axis.applies(schedule) else schedule
            again = axis.changed(made, value) if axis.applies(made) else made
        except Exception as error:  # any error of the function for an unknown value
            raise ValueError(f"{where} is refused by the axis ({type(error).__name__}: {error})") from error
        if differs := difference(made, again):  # otherwise a candidate's parameters would be ambiguous
            raise ValueError(f"{where} makes {differs} when it is applied again: set fields, do not scale them")


def _check_prompts(space: Choices) -> None:
    for kind in PROMPTS:
        for role, values in getattr(space, kind).items():
            if role not in set(Role):
                raise ValueError(f"`Space({kind}=...)` names the role {role!r}; the roles are {', '.join(Role)}")
            keys = [key_of(value) for value in values]
            if len(set(keys)) != len(keys):
                raise ValueError(f"`Space({kind}={{{role!r}: ...}})` has a duplicate candidate")
    blank = [role for role, texts in space.instructions.items() if not all(text.strip() for text in texts)]
    if blank:
        raise ValueError(f"`Space(instructions={{{blank[0]!r}: ...}})` has an empty text; take it out")
    for name in space.fixed:
        role, _, kind = name.partition("_")
        if kind not in PROMPTS or not getattr(space, kind).get(role):
            raise ValueError(f"`Space(fixed=...)` names {name!r}, for which there is no candidate")
