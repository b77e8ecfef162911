"""What an evaluation gives: one row for each example and repeat, and a report over the rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pdr_dspy.calls.ledger import Call
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.statistics import Interval, pass_at_k, score_interval
from pdr_dspy.text.statements import How
from pdr_dspy.text.wrapping import tidy


class DraftRow(BaseModel):
    """One draft of a row: what it answered and how the verifier judged that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str | None = None
    """The output fields as one text; None when they could not be read."""
    score: float | None = None
    """None where judging drafts would cost tokens."""
    how: dict[str, How] = {}
    """In which form each output field was found: by its label, in a box, ...; see `pdr_dspy.text.statements.How`."""
    unclear: dict[str, str] = {}
    """Of fields that were stated and could not be read: the beginning of what was stated."""
    truncated: bool = False
    failure: str | None = None


class RoundRow(BaseModel):
    """One round of a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafts: tuple[DraftRow, ...]
    """Those that the round went on with."""
    workspace_tokens: tuple[int, ...] = ()
    sources: tuple[tuple[int, ...], ...] = ()
    """Positions in `drafts` of those that each workspace was made of."""


class Row(BaseModel):
    """One example, once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    repeat: int
    seed: int
    score: float
    detail: str = ""
    answer: str | None = None
    gold: str | None = None
    stop: str | None = None
    sequential: int = 0
    """Input and output tokens along the accepted path."""
    total: int = 0
    """Input and output tokens of every call, the judge's included."""
    output: int = 0
    """Generated tokens of every call."""
    paid: int = 0
    """Tokens of the calls that were really sent now."""
    seconds: float = 0.0
    """Wall time of the program, waiting for a place included."""
    calls: tuple[Call, ...] = ()
    rounds: tuple[RoundRow, ...] = ()
    error: str | None = None
    """Why the program gave no answer at all; such a row scores 0 and is tried again on resume."""


class Report(BaseModel):
    """The rows of an evaluation and what they say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[Row, ...]
    name: str = ""
    config: dict[str, Any] = {}
    stopped: str | None = None
    """Why the evaluation ended before all rows were there; None when it did not."""

    @property
    def by_question(self) -> dict[str, list[Row]]:
        """Rows of each question in the order of their repeats, questions in the order of their first row's id."""
        grouped: dict[str, list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: (row.id, row.repeat)):
            grouped.setdefault(row.id, []).append(row)
        return grouped

    @property
    def per_question(self) -> list[float]:
        """Mean score of each question over its repeats (avg@k)."""
        return [fmean(row.score for row in rows) for rows in self.by_question.values()]

    @property
    def score(self) -> float:
        """Mean over questions of their mean score, a fraction; nan without rows. Failed rows count 0."""
        return fmean(self.per_question) if self.rows else math.nan

    @property
    def interval(self) -> Interval:
        """95 % interval of `score`, clustered by question."""
        return score_interval(self.per_question)

    def pass_at(self, k: int) -> float:
        """Mean chance that k of the repeats hold a right one (score of at least 0.5); nan with fewer than k rows."""
        grouped = list(self.by_question.values())
        if not grouped:
            return math.nan
        return fmean(pass_at_k(len(rows), sum(row.score >= 0.5 for row in rows), k) for rows in grouped)

    def majority_at(self, k: int) -> float:
        """Share of questions whose most common answer among the first k repeats is right; ties share the credit.

        nan where a question has fewer than k rows.
        """
        grouped = list(self.by_question.values())
        if not grouped or k < 1 or any(len(rows) < k for rows in grouped):
            return math.nan
        return fmean(_majority(rows[:k]) for rows in grouped)

    @property
    def sequential(self) -> float:
        """Mean B_seq of a row, in tokens."""
        return fmean(row.sequential for row in self.rows) if self.rows else math.nan

    @property
    def total(self) -> float:
        """Mean B_total of a row, in tokens."""
        return fmean(row.total for row in self.rows) if self.rows else math.nan

    @property
    def calls(self) -> float:
        """Mean number of model calls of a row."""
        return fmean(len(row.calls) for row in self.rows) if self.rows else math.nan

    @property
    def paid(self) -> int:
        """Tokens that this evaluation really spent."""
        return sum(row.paid for row in self.rows)

    @property
    def reused(self) -> float:
        """Share of calls that came out of the store, a fraction."""
        count = sum(len(row.calls) for row in self.rows)
        return sum(call.reused for row in self.rows for call in row.calls) / count if count else 0.0

    @property
    def how(self) -> dict[How, int]:
        """How many output fields of all drafts were found in each form, the most common first."""
        counts = Counter(how for draft in self._drafts() for how in draft.how.values())
        return dict(counts.most_common())

    @property
    def unlabelled(self) -> float | None:
        """Share of the fields in `how` that were not found by their label, a fraction; None where nothing is known."""
        counts = self.how
        return 1 - counts.get("label", 0) / sum(counts.values()) if counts else None

    @property
    def unclear(self) -> int:
        """Output fields of all drafts that were stated and could not be read."""
        return sum(len(draft.unclear) for draft in self._drafts())

    def _drafts(self) -> Iterator[DraftRow]:
        return (draft for row in self.rows for round_ in row.rounds for draft in round_.drafts)

    @property
    def failed(self) -> int:
        """Rows without an answer because the program failed."""
        return sum(row.error is not None for row in self.rows)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.name or 'program'}: score {self.score:.3f} [{low:.3f}, {high:.3f}], "
            f"B_seq {self.sequential:.0f}, B_total {self.total:.0f}, {self.calls:.1f} calls, "
            f"{len(self.rows)} rows, {self.failed} failed"
        )


def read_rows(path: Path, *, failed: bool = False) -> dict[tuple[str, int], Row]:
    """The finished rows of a file by (id, repeat), a torn last line left out.

    Failed rows, which are to be run again, are left out too, unless `failed`: then those are there that were not.
    """
    rows: dict[tuple[str, int], Row] = {}
    if not path.exists():
        return rows
    data = path.read_bytes()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            raise StoreError(f"{path}, line {number}, is not a row of this version; use another folder") from error
        if row.error is None or (failed and (row.id, row.repeat) not in rows):
            rows[row.id, row.repeat] = row
    return rows


def _majority(rows: Sequence[Row]) -> float:
    answered = [row for row in rows if row.answer is not None]
    if not answered:
        return 0.0
    votes = Counter(tidy(str(row.answer)) for row in answered)
    most = max(votes.values())
    leaders = [answer for answer, count in votes.items() if count == most]
    return fmean(next(row.score for row in answered if tidy(str(row.answer)) == leader) for leader in leaders)
