"""Failures of a program, for a writer of instructions: the question, the answer, and the misleading workspace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy
from pydantic import BaseModel, ConfigDict

from pdr_dspy import calls
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import DataError, PDRError
from pdr_dspy.evaluation import ids_of
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Stop

RIGHT = 0.5
"""Score from which a row or draft counts as right."""


class Failure(BaseModel):
    """One wrong answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    """The task's inputs as text."""
    answered: str | None = None
    """None if no answer could be read."""
    gold: str | None = None
    workspace: str = ""
    """The workspace of the last draft; empty for a single pass, and if it is unknown."""
    right: int | None = None
    """Right drafts of the round before the last; None without such a round, or if they were not scored."""
    drafts: int | None = None
    """Number of drafts of that round."""
    detail: str = ""
    """The verifier's detail, or why there was no answer."""
    id: str = ""
    """The question's identity (`calls.identity`), which records the questions that were shown."""

    def describe(self, *, workspace: bool = True) -> str:
        """A few lines for the writer; long texts are cut, the workspace to its end, where its answer is."""
        lines = [f"Question: {start_of(self.question, 600)}"]
        if self.right is not None and self.drafts:
            lines.append(f"Of {self.drafts} earlier attempts {self.right} were right.")
        if workspace and self.workspace:
            lines.append(f"The workspace was: {end_of(self.workspace, 800)}")
        lines.append(
            f"Answered: {'nothing that could be read' if self.answered is None else end_of(self.answered, 300)}"
        )
        if self.gold is not None:
            lines.append(f"Right is: {start_of(self.gold, 300)}")
        if self.detail:
            lines.append(f"Verdict: {start_of(self.detail, 200)}")
        return "\n".join(lines)


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
        store: holds the evaluation's calls. With it the workspaces are included, at no cost: a row whose calls are all
            stored is replayed. Rows contain no workspaces.
        limit: the maximum number of failures, first those with unused right drafts, then in the order of their ids.

    Raises:
        DataError: a row of the report belongs to none of the examples.
    """
    known = dict(zip(ids_of(examples), examples, strict=True))
    wrong: dict[str, Row] = {}
    for row in sorted(report.rows, key=lambda row: (not _lost(row), row.id, row.repeat)):
        if row.id not in known:
            raise DataError(f"`failures_of(examples=...)` has no example {row.id!r}, of which the report has a row")
        if row.score < RIGHT:
            wrong.setdefault(row.id, row)
    return [_failure(program, known[row.id], row, store) for row in list(wrong.values())[:limit]]


def _lost(row: Row) -> bool:
    """Whether a draft of the round before the last was right."""
    return bool(_judged(row)[0])


def _judged(row: Row) -> tuple[int | None, int | None]:
    if len(row.rounds) < 2 or any(draft.score is None for draft in row.rounds[-2].drafts):
        return None, None
    drafts = row.rounds[-2].drafts
    return sum((draft.score or 0) >= RIGHT for draft in drafts), len(drafts)


def _failure(program: dspy.Module, example: dspy.Example, row: Row, store: Rollouts | None) -> Failure:
    inputs = inputs_of(program, example)
    values = [str(value) for value in inputs.values()]
    right, drafts = _judged(row)
    return Failure(
        question=values[0] if len(values) == 1 else "; ".join(f"{key}: {value}" for key, value in inputs.items()),
        answered=row.answer,
        gold=row.gold,
        workspace=_workspace(program, inputs, row, store),
        right=right,
        drafts=drafts,
        detail=row.error or row.detail,
        id=calls.identity(inputs),
    )


def _workspace(program: dspy.Module, inputs: dict[str, Any], row: Row, store: Rollouts | None) -> str:
    """The workspace of the last draft, by replaying the row from the store; "" if that would send a call."""
    if store is None or not isinstance(program, Operator) or len(row.rounds) < 2 or row.stop == Stop.BUDGET:
        return ""
    if program.schedule.distill_by.needs_gold or any(
        store.get(call.key) is None for call in row.calls if not call.cancelled
    ):
        return ""
    try:
        with calls.session(store=store):
            prediction = _offline(program)(**inputs, seed=row.seed)
    except PDRError:
        return ""
    if any(not call.reused for call in prediction.ledger.calls) or len(prediction.rounds) < 2:
        return ""
    before = prediction.rounds[-2].workspaces
    return before[0].text if before else ""


def _offline(program: Operator) -> Operator:
    """A copy whose language models send nothing: for example, calls of another model are not in the store."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("this call is not in the store")

    copy = program.deepcopy()
    for predictor in copy.predictors():
        predictor.lm = calls.serving(predictor).copy()
        predictor.lm.acall = refuse  # type: ignore[method-assign]
    return copy


def start_of(text: str, most: int) -> str:
    """The beginning of a text, at most this many characters."""
    return text if len(text) <= most else f"{text[: most - 6]} [...]"


def end_of(text: str, most: int) -> str:
    """The end of a text, at most this many characters."""
    return text if len(text) <= most else f"[...] {text[6 - most :]}"
