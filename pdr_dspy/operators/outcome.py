"""What ends a run, and its result: `Stop`, the finished rounds, and the answer that is taken from them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.operators import final
from pdr_dspy.operators.question import Question
from pdr_dspy.operators.workspace import Draft, Workspace


class Stop(StrEnum):
    """The reason why a program stopped."""

    DONE = "done"
    """The last round has finished, and the answer is its draft, or the one that `Schedule.final` selects."""
    CHECKED = "checked"
    """A draft reached `Schedule.stop_at` before the last round; it is the answer."""
    BUDGET = "budget"
    """The next stage did not fit the budget; the answer comes from the last finished round."""
    DEADLINE = "deadline"
    """The session's deadline passed, and pending calls were cancelled; the answer comes from the finished drafts."""
    FELL_BACK = "fell back"
    """No answer could be read from the last round; it comes from the latest round that has one."""
    ROUND_FAILED = "round failed"
    """Every draft of a later round failed, for example since the server died; the answer comes from the rounds before
    it. `rounds` and the ledger have the failures."""
    NO_ANSWER = "no answer"
    """No draft of any round has a readable answer; the output fields are None."""


_CUT_SHORT = (Stop.BUDGET, Stop.DEADLINE)


class Round(BaseModel):
    """One finished round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafts: tuple[Draft, ...]
    """The drafts that the round continued with: all of them, unless it ended early (`Schedule.quorum`,
    `Schedule.agree`, `Schedule.stop_at`)."""
    workspaces: tuple[Workspace, ...] = ()
    """The workspace of each draft of the next round; empty for the last round."""


class Outcome(NamedTuple):
    """The result of the loop."""

    outputs: dict[str, Any]
    """All of the task's output fields; None for one that could not be read."""
    solution: str
    ledger: Ledger
    rounds: tuple[Round, ...]
    stop: Stop

    @classmethod
    def of(cls, question: Question, rounds: Sequence[Round], stop: Stop, ledger: Ledger) -> Self:
        """The outcome of a run that stopped after these rounds; `final.across` selects its answer.

        Args:
            question: provides the schedule and the task's output fields.
            rounds: the finished rounds; at least one.
            stop: why no further round followed. If the last round has no readable answer, `Stop.DONE` becomes
                `Stop.FELL_BACK`, or `Stop.NO_ANSWER` if no other has one either.
            ledger: all calls of the run.
        """
        fields = question.fields
        readable = [[draft for draft in round_.drafts if draft.complete(fields)] for round_ in rounds]
        if any(readable):
            answer = final.across(readable, fields, question.schedule)
            stop = Stop.FELL_BACK if stop is Stop.DONE and not readable[-1] else stop
        else:
            answer = rounds[-1].drafts[0]
            stop = stop if stop in _CUT_SHORT else Stop.NO_ANSWER
        outputs = {name: answer.outputs.get(name) for name in fields}
        return cls(outputs, answer.solution, ledger, tuple(rounds), stop)
