"""Failures of a program, for a writer of instructions: the question, the answer, what the check said of it, and what a
later draft read and made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy
from pydantic import BaseModel, ConfigDict

from pdr_dspy import calls
from pdr_dspy.calls.adapter import Adapter
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import DataError, PDRError
from pdr_dspy.evaluation import ids_of
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.workspace import Checked
from pdr_dspy.text.quoting import sheltered

RIGHT = 0.5
"""Score from which a row or draft counts as right."""
ATTEMPTS = 8
"""Earlier attempts whose answers are shown."""


class Attempt(BaseModel):
    """A draft before the answer: its answer and its score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str | None = None
    """None if no answer could be read."""
    right: bool
    check: float | None = None
    """The score of the program's check, in [0, 1]; None if it was not checked."""


class Failure(BaseModel):
    """One wrong answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    """The task's inputs as text."""
    answered: str | None = None
    """None if no answer could be read."""
    gold: str | None = None
    workspace: str = ""
    """The workspace that misled the program: of the round after which no draft was right, else of the last draft; empty
    for a single pass, and if it is unknown."""
    right: int | None = None
    """Right drafts of the round that the workspace was made from, or that the answer was chosen from; None without such
    a round, or if they were not scored."""
    drafts: int | None = None
    """Number of drafts of that round."""
    attempts: tuple[Attempt, ...] = ()
    """Those drafts, at most `ATTEMPTS`."""
    check: float | None = None
    """The score that the program's check gave the answer, in [0, 1]; None if it did not check it, or it is unknown."""
    feedback: str = ""
    """What the check said of the answer: which example failed, what was expected, and what it got."""
    detail: str = ""
    """The verifier's detail, or why there was no answer."""
    id: str = ""
    """The question's identity (`calls.identity`), which records the questions that were shown."""

    @property
    def lost(self) -> bool:
        """Whether a draft was right and what followed lost it."""
        return bool(self.right)

    def describe(self, *, workspace: bool = True) -> str:
        """A few lines for the writer, quoted as data; long texts are cut, the workspace to its end, where its answer
        is.

        Args:
            workspace: whether to show what later drafts read, for the roles after the first draft.
        """
        lines = [f"Question: {quoted(start_of(self.question, 600))}"]
        if self.right is not None and self.drafts:
            some = f"Of {self.drafts} earlier attempts {self.right} were right."
            lines.append(some if self.right else f"None of {self.drafts} earlier attempts was right.")
        if workspace and self.attempts:
            lines.append(f"They answered: {'; '.join(map(_said, self.attempts))}")
        if workspace and self.workspace:
            lines.append(f"The workspace was: {quoted(end_of(self.workspace, 800))}")
        answered = "nothing that could be read" if self.answered is None else quoted(end_of(self.answered, 300))
        lines.append(f"Answered: {answered}")
        if self.gold is not None:
            lines.append(f"Right is: {quoted(start_of(self.gold, 300))}")
        if self.check is not None:
            said = f": {quoted(start_of(self.feedback, 500))}" if self.feedback else ""
            lines.append(f"The program's check gave the answer {self.check:.2f} of 1{said}")
        if self.detail:
            lines.append(f"Verdict: {quoted(start_of(self.detail, 400))}")
        return "\n".join(lines)


def _said(one: Attempt) -> str:
    answer = "nothing that could be read" if one.answer is None else start_of(" ".join(one.answer.split()), 60)
    notes = ["right"] * one.right + ([] if one.check is None else [f"check {one.check:.2f}"])
    return sheltered(answer) + (f" ({', '.join(notes)})" if notes else "")


def failures_of(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    report: Report,
    *,
    store: Rollouts | None = None,
    limit: int = 32,
) -> list[Failure]:
    """The wrong rows of an evaluation, at most one for each question.

    Args:
        program: the evaluated program.
        examples: the evaluated examples, in the same order.
        report: its evaluation.
        store: holds the evaluation's calls. With it workspaces and what the program's check said are included, at no
            cost: a row whose calls are all stored is replayed. Rows contain neither.
        limit: the maximum number of failures, first those in which a right draft was lost, then in the order of their
            ids.

    Raises:
        DataError: a row of the report belongs to none of the examples.
    """
    known = dict(zip(ids_of(examples), examples, strict=True))
    wrong: dict[str, Row] = {}
    for row in sorted(report.rows, key=lambda row: (not _judged(row)[0], row.id, row.repeat)):
        if row.id not in known:
            raise DataError(f"`failures_of(examples=...)` has no example {row.id!r}, of which the report has a row")
        if row.score < RIGHT:
            wrong.setdefault(row.id, row)
    return [_failure(program, known[row.id], row, store) for row in list(wrong.values())[:limit]]


def _turn(row: Row) -> int | None:
    """The round, from 0, after which a row went wrong: the last one before the answer with a right draft, else the one
    before the last; that of the drafts themselves if the answer was chosen among several. None for a single draft, and
    if the drafts were not scored."""
    last = len(row.rounds) - 1
    places = range(last - 1, -1, -1) if last > 0 else range(1) if last == 0 and len(row.rounds[0].drafts) > 1 else ()
    if any(draft.score is None for place in places for draft in row.rounds[place].drafts):
        return None
    right = (p for p in places if any((draft.score or 0.0) >= RIGHT for draft in row.rounds[p].drafts))
    return next(right, next(iter(places), None))


def _judged(row: Row) -> tuple[int | None, int | None]:
    """How many drafts of that round were right, and how many there were."""
    turn = _turn(row)
    if turn is None:
        return None, None
    drafts = row.rounds[turn].drafts
    return sum((draft.score or 0.0) >= RIGHT for draft in drafts), len(drafts)


def _failure(program: dspy.Module, example: dspy.Example, row: Row, store: Rollouts | None) -> Failure:
    inputs = inputs_of(program, example)
    values = [str(value) for value in inputs.values()]
    right, count = _judged(row)
    turn = _turn(row)
    drafts = () if turn is None else row.rounds[turn].drafts[:ATTEMPTS]
    prediction = _replayed(program, inputs, row, store)
    check = None if prediction is None else check_of(prediction)
    return Failure(
        question=values[0] if len(values) == 1 else "; ".join(f"{key}: {value}" for key, value in inputs.items()),
        answered=row.answer,
        gold=row.gold,
        workspace="" if prediction is None else _workspace(prediction, turn),
        right=right,
        drafts=count,
        attempts=tuple(Attempt(answer=d.answer, right=(d.score or 0.0) >= RIGHT, check=d.check) for d in drafts),
        check=None if check is None else check.value,
        feedback="" if check is None else check.feedback or check.detail,
        detail=row.error or row.detail,
        id=calls.identity(inputs),
    )


def _workspace(prediction: dspy.Prediction, turn: int | None) -> str:
    """The workspace that was made of the drafts of a round, from 0; of the one before the last if that is None."""
    place = len(prediction.rounds) - 2 if turn is None else turn
    made = prediction.rounds[place].workspaces if 0 <= place < len(prediction.rounds) - 1 else ()
    return made[0].text if made else ""


def check_of(prediction: dspy.Prediction) -> Checked | None:
    """What the program's check found of the draft with the answer; None if that was not checked."""
    drafts = [draft for round_ in reversed(prediction.rounds) for draft in round_.drafts]
    return next((draft.check for draft in drafts if draft.solution == prediction.solution), None)


def _replayed(program: dspy.Module, inputs: dict[str, Any], row: Row, store: Rollouts | None) -> dspy.Prediction | None:
    """The prediction of a row again, from the store; None if that would send a call, or it has nothing that the row
    has not."""
    if store is None or not isinstance(program, Operator) or not row.rounds or row.stop == Stop.BUDGET:
        return None
    schedule = program.schedule
    if len(row.rounds) < 2 and schedule.check is None:
        return None
    if (schedule.rounds > 1 and schedule.distill_by.needs_gold) or any(
        store.get(call.key) is None for call in row.calls if not call.cancelled
    ):
        return None
    try:
        with calls.session(store=store):
            prediction = _offline(program)(**inputs, seed=row.seed)
    except PDRError:
        return None
    same = len(prediction.rounds) == len(row.rounds)
    return prediction if same and all(call.reused for call in prediction.ledger.calls if call.sent) else None


def _offline(program: Operator) -> Operator:
    """A copy whose language models send nothing: for example, calls of another model are not in the store."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("this call is not in the store")

    def silent(lm: dspy.LM) -> dspy.LM:
        own = lm.copy()
        own.acall = refuse  # type: ignore[method-assign]
        return own

    named = {name: program.models[name] for name in program.schedule.models}
    served = {name: lm for name, lm in named.items() if isinstance(lm, dspy.LM) and not isinstance(lm, Adapter)}
    copy = program.with_models({name: silent(lm) for name, lm in served.items()})
    for predictor in copy.predictors():
        predictor.lm = silent(calls.serving(predictor))
    return copy


def quoted(text: str) -> str:
    """A text as data behind a label: several lines as a block below it; chat-template tokens are broken up."""
    return sheltered(text) if len(text.splitlines()) < 2 else f"\n{block(text)}"


def block(text: str) -> str:
    """A text as data on lines of its own, each quoted; chat-template tokens are broken up."""
    return "\n".join(f"> {line}" for line in sheltered(text).splitlines())


def start_of(text: str, most: int) -> str:
    """The beginning of a text, at most this many characters."""
    return text if len(text) <= most else f"{text[: most - 6]} [...]"


def end_of(text: str, most: int) -> str:
    """The end of a text, at most this many characters."""
    return text if len(text) <= most else f"[...] {text[6 - most :]}"
