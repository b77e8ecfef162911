"""The progress of a run, as its session's listener receives it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.operators.question import Question
from pdr_dspy.operators.workspace import Draft, Workspace

Step = Literal["drafting", "drafted", "ended"]
"""The drafts of a round are being sent, or have finished (and were checked), or the round has ended with workspaces."""


class Progress(NamedTuple):
    """The progress of a run; `calls.session(on_progress=...)` receives it."""

    step: Step
    round: int
    """From 1."""
    rounds: int
    """The planned number of rounds; a run may end earlier."""
    width: int
    """The number of drafts that the round requested."""
    drafts: tuple[Draft, ...]
    """The drafts that the round continues with; empty while it is drafting."""
    workspaces: tuple[Workspace, ...]
    ledger: Ledger
    """All calls so far."""
    outputs: tuple[str, ...] = ()
    """The names of the task's output fields."""


def report(
    question: Question,
    ledger: Ledger,
    step: Step,
    number: int,
    width: int,
    drafts: tuple[Draft, ...] = (),
    workspaces: tuple[Workspace, ...] = (),
) -> None:
    """Report a step of round `number` to the session's listener, if there is one."""
    listener = calls.current().on_progress
    if listener is not None:
        rounds = question.schedule.rounds
        listener(Progress(step, number, rounds, width, drafts, workspaces, ledger, question.fields))
