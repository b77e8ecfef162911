"""The calls of a program that `dspy.streamify` can stream: those that are alone in their stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.roles import Role


def heard_rounds(schedule: Schedule) -> dict[Role, int]:
    """For each role the round, from 1, whose call of it is streamed: its last round, if that makes a single call."""
    rounds = schedule.rounds
    heard = {Role.DRAFT: 1} if schedule.widths[0] == 1 else {}
    if rounds > 1:
        if schedule.widths[-1] == 1:
            heard[Role.REFINE] = rounds
        if schedule.distill_calls(rounds - 2) == 1:
            heard |= {Role.DISTILL: rounds - 1, Role.SELECT: rounds - 1}
        heard[Role.CRITIQUE] = rounds - 1
    return heard


def how_streamed(schedule: Schedule, role: Role, round_number: int) -> Literal["", "listeners", "final"]:
    """Whether the call of a role in a round is streamed, in the form that `calls.ask` takes."""
    if heard_rounds(schedule).get(role) != round_number:
        return ""
    return "final" if role is Role.REFINE or schedule.rounds == 1 else "listeners"


def check_listeners(schedule: Schedule, predictors: Mapping[Role, dspy.Predict]) -> None:
    """Raise ConfigError for a stream listener that would receive nothing from this program."""
    listeners = dspy.settings.stream_listeners
    if not listeners:
        return
    heard = heard_rounds(schedule)
    for listener in listeners:
        deaf = [role for role, predictor in predictors.items() if listener.predict is predictor and role not in heard]
        if deaf:
            others = [role for role in predictors if role in heard]
            raise ConfigError(
                f"a stream listener follows `{deaf[0]}`, which {schedule} calls several times concurrently; no "
                "listener could tell their texts apart. "
                + (f"Listen to {' or '.join(f'`{role}`' for role in others)}, or end" if others else "End")
                + " the schedule with a round of one draft, such as `widths=(4, 1)`"
            )
