"""The results of an evaluation: one row for each example and repeat, and a report over the rows."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from pdr_dspy.calls.ledger import Call
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.statistics import Interval, pass_at_k, score_interval, voted_score
from pdr_dspy.runtime.atomic_write import whole_lines
from pdr_dspy.text.statements import How
from pdr_dspy.verifiers import RIGHT

logger = logging.getLogger("pdr_dspy")

LINE = 60
"""Characters of an answer in the repr of a row."""


class DraftRow(BaseModel):
    """One draft of a row: its answer and the verifier's score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str | None = None
    """The output fields as one text; None if they could not be read."""
    score: float | None = None
    """None if scoring drafts would cost tokens, or the verifier failed on it."""
    ungraded: str | None = None
    """Why the verifier failed on it, in one line; None if it did not."""
    check: float | None = None
    """The score of the program's check, a fraction; None if it was not checked."""
    how: dict[str, How] = {}
    """How each output field was found: by its label, in a box, ...; see `pdr_dspy.text.statements.How`."""
    unclear: dict[str, str] = {}
    """For fields that were stated but unreadable: the beginning of the statement."""
    truncated: bool = False
    failure: str | None = None

    @property
    def cut(self) -> bool:
        """Whether it ended at its cap before an answer could be read."""
        return self.truncated and self.answer is None and self.failure is None


class FailedCheck(BaseModel):
    """A check that failed on drafts of a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    """Its name."""
    reason: str
    """The exception, in one line."""
    drafts: int
    """Drafts that count as unchecked because of it."""


class RoundRow(BaseModel):
    """One round of a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafts: tuple[DraftRow, ...]
    """Drafts that the round continued with."""
    workspace_tokens: tuple[int, ...] = ()
    sources: tuple[tuple[int, ...], ...] = ()
    """For each workspace, the positions in `drafts` of the drafts that it was made from."""


class Row(BaseModel):
    """One run of one example."""

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
    cost: float | None = None
    """Cost of every call, in the unit of the models' prices; None if a price is unknown."""
    paid: int = 0
    """Tokens of the calls actually sent when the row was run."""
    seconds: float = 0.0
    """Wall time of the program, waiting for the bound on requests in flight included."""
    calls: tuple[Call, ...] = ()
    """Of its ledger; `call.sent` is False for drafts that were never requested."""
    rounds: tuple[RoundRow, ...] = ()
    error: str | None = None
    """Why the program gave no answer; such a row scores 0 and is tried again on resume."""
    failed_checks: tuple[FailedCheck, ...] = ()
    """By check and reason, the drafts that the program's checks failed on."""
    failed_rounds: tuple[str, ...] = ()
    """Why every draft of a later round failed, for each such round: the answer comes from the rounds before it, and the
    score is that answer's. Like a row with an error, such a row is tried again on resume."""
    evaluation: str = ""
    """A digest of the evaluation's description without its number of repeats; empty for a run of a search."""

    @property
    def failure(self) -> str | None:
        """Why the program did not run to its end: `error`, or the first of `failed_rounds`; None if it did."""
        return self.error if self.error is not None else next(iter(self.failed_rounds), None)

    @property
    def sent(self) -> int:
        """How many calls were sent."""
        return sum(call.sent for call in self.calls)

    @property
    def drafts(self) -> Iterator[DraftRow]:
        """The drafts of all rounds."""
        return (draft for round_ in self.rounds for draft in round_.drafts)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """What a person wants to see of a row, on a line; `model_dump()` has everything."""
        shown = {"id": self.id, "repeat": self.repeat, "score": self.score, "answer": self.answer, "gold": self.gold}
        for name, value in (shown | {"stop": self.stop, "error": self.error}).items():
            if value is not None:
                yield name, f"{value[:LINE]}…" if isinstance(value, str) and len(value) > LINE else value
        yield from (("sequential", self.sequential), ("total", self.total), ("calls", self.sent))


class Report(BaseModel):
    """The rows of an evaluation and their summary."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[Row, ...]
    name: str = ""
    config: dict[str, Any] = {}
    stopped: str | None = None
    """Why the evaluation ended early; None if it did not."""
    paid_before: int = 0
    """Tokens that earlier runs spent on the rows that were already finished in the run folder."""
    damaged: int = 0
    """Lines of the run folder's rows that were unreadable and skipped; their rows were run again."""

    @property
    def by_question(self) -> dict[str, list[Row]]:
        """Rows by question, in the order of their repeats; questions in the order of their first row's id."""
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
        """Mean probability that k of the repeats contain a right answer (score of at least 0.5); nan with fewer than k
        rows."""
        grouped = list(self.by_question.values())
        if not grouped:
            return math.nan
        return fmean(pass_at_k(len(rows), sum(row.score >= RIGHT for row in rows), k) for rows in grouped)

    def majority_at(self, k: int) -> float:
        """Fraction of questions whose most common answer among the first k repeats is right; ties share the credit.

        nan if a question has fewer than k rows.
        """
        grouped = list(self.by_question.values())
        if not grouped or k < 1 or any(len(rows) < k for rows in grouped):
            return math.nan
        return fmean(voted_score([(row.answer, row.score) for row in rows[:k]]) for rows in grouped)

    @property
    def sequential(self) -> float:
        """Mean B_seq of a row, in tokens."""
        return fmean(row.sequential for row in self.rows) if self.rows else math.nan

    @property
    def total(self) -> float:
        """Mean B_total of a row, in tokens."""
        return fmean(row.total for row in self.rows) if self.rows else math.nan

    @property
    def cost(self) -> float | None:
        """Mean cost of a row, in the unit of the models' prices; None where one is not known. A row that failed before
        its first call cost nothing."""
        costs = [0.0 if row.cost is None and not row.calls else row.cost for row in self.rows]
        known = [cost for cost in costs if cost is not None]
        return fmean(known) if any(row.calls for row in self.rows) and len(known) == len(costs) else None

    @property
    def calls(self) -> float:
        """Mean number of model calls of a row, those that were sent."""
        return fmean(row.sent for row in self.rows) if self.rows else math.nan

    @property
    def paid(self) -> int:
        """Tokens that this evaluation actually spent: 0 if every row was in its run folder, or every call in the store.
        For a report read from a folder: the tokens that all its runs spent on these rows."""
        return sum(row.paid for row in self.rows) - self.paid_before

    @property
    def reused(self) -> float:
        """Fraction of calls replayed from the store."""
        count = sum(row.sent for row in self.rows)
        return sum(call.reused for row in self.rows for call in row.calls if call.sent) / count if count else 0.0

    @property
    def how(self) -> dict[How, int]:
        """How many output fields of all drafts were found in each way, the most common first."""
        counts = Counter(how for draft in self._drafts() for how in draft.how.values())
        return dict(counts.most_common())  # type: ignore[return-value]

    @property
    def unlabelled(self) -> float | None:
        """Fraction of the fields in `how` that were not found by their label; None if nothing is known."""
        counts = self.how
        return 1 - counts.get("label", 0) / sum(counts.values()) if counts else None

    @property
    def unclear(self) -> int:
        """Output fields of all drafts that were stated but unreadable."""
        return sum(len(draft.unclear) for draft in self._drafts())

    def _drafts(self) -> Iterator[DraftRow]:
        return (draft for row in self.rows for draft in row.drafts)

    @property
    def cut(self) -> int:
        """Drafts that ended at their cap before an answer could be read."""
        return sum(draft.cut for draft in self._drafts())

    @property
    def failed(self) -> int:
        """Rows without an answer because the program failed."""
        return sum(row.error is not None for row in self.rows)

    @property
    def failed_rounds(self) -> int:
        """Rows whose answer comes from the rounds before one in which every draft failed; `row.failed_rounds` has the
        reasons."""
        return sum(row.error is None and bool(row.failed_rounds) for row in self.rows)

    @property
    def unchecked(self) -> int:
        """Drafts that a check of the program failed on; `row.failed_checks` has the reasons."""
        return sum(one.drafts for row in self.rows for one in row.failed_checks)

    @property
    def ungraded(self) -> int:
        """Drafts that the verifier failed on, while it graded the answer of their row; `draft.ungraded` has the
        reasons."""
        return sum(draft.ungraded is not None for draft in self._drafts())

    def __repr__(self) -> str:
        return f"<Report {self}>"

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.name or 'program'}: score {self.score:.3f} [{low:.3f}, {high:.3f}], "
            f"B_seq {self.sequential:.0f}, B_total {self.total:.0f}, {self.calls:.1f} calls, "
            f"{len(self.rows)} rows, {self.failed} failed"
            + (f", {self.failed_rounds} answered without a round that failed" if self.failed_rounds else "")
            + (f", {self.unchecked} drafts unchecked since their check failed" if self.unchecked else "")
            + (f", {self.ungraded} drafts without a score since the verifier failed on them" if self.ungraded else "")
            + (f", {self.cut} drafts without an answer at their cap" if self.cut else "")
        )


class RowsRead(NamedTuple):
    """The content of a file of rows."""

    rows: dict[tuple[str, int], Row]
    """By (id, repeat)."""
    damaged: int
    """Lines that are not rows."""
    foreign: int | None
    """The number, from 1, of the first line that is a JSON object but not a row; None if there is none."""


def scan_rows(path: Path, *, failed: bool = False) -> RowsRead:
    """Read a file of rows in blocks; a torn last line, which may still be being written, is left out.

    Rows with a failure, which will be run again, are left out, unless `failed`: then those without a later success are
    included, one with an answer rather than one without. Raises OSError; a missing file has no rows.
    """
    rows: dict[tuple[str, int], Row] = {}
    damaged, foreign = 0, None
    try:
        for number, (_, line) in enumerate(whole_lines(path), start=1):
            if not line.strip():  # the end of a line that was complete without it
                continue
            try:
                row = Row.model_validate_json(line)
            except ValidationError:
                damaged += 1
                foreign = number if foreign is None and _is_object(line) else foreign
                continue
            if row.failure is None or (failed and _says_more(row, rows.get((row.id, row.repeat)))):
                rows[row.id, row.repeat] = lean(row)
    except FileNotFoundError:
        pass
    return RowsRead(rows, damaged, foreign)


def read_rows(path: Path, *, failed: bool = False) -> dict[tuple[str, int], Row]:
    """The finished rows of a file by (id, repeat). Unreadable lines are skipped, and a warning is logged.

    Rows with a failure are left out, unless `failed`: then those without a later success are included. Raises OSError;
    StoreError for a file with lines none of which is a row of this version.
    """
    read = scan_rows(path, failed=True)
    if read.foreign is not None and not read.rows:
        raise StoreError(f"{path}, line {read.foreign}, is not a row of this version; use another folder")
    if read.damaged:
        logger.warning("%s: skipped %d line%s that could not be read", path, read.damaged, "s" * (read.damaged > 1))
    return {key: row for key, row in read.rows.items() if failed or row.failure is None}


def _says_more(row: Row, known: Row | None) -> bool:
    """Whether a row with a failure says more than the one known before: it has an answer, and that has none."""
    return known is None or (known.error is not None and row.error is None)


def lean(row: Row) -> Row:
    """The same row, sharing values that are equal in many rows: it takes half the memory.

    Short texts (addresses, names, answers) are interned. Pydantic's set of explicitly given fields is the same for most
    calls and drafts; a frozen model never changes it.
    """
    _share(row)
    return row


def _share(model: BaseModel) -> None:
    values: Any = model.__dict__  # frozen for users, not for this module
    for name, value in values.items():
        kind = type(value)
        if kind is str:
            if len(value) < SHORT:
                values[name] = sys.intern(value)
        elif kind is tuple:
            if value and isinstance(value[0], BaseModel):
                for part in value:
                    _share(part)
        elif kind is dict:
            if not value or name == "how":
                values[name] = _EQUAL.setdefault(tuple(value.items()), value)
        elif kind not in _NUMBERS and isinstance(value, BaseModel):
            _share(value)
    given = model.__pydantic_fields_set__
    object.__setattr__(model, "__pydantic_fields_set__", _GIVEN.setdefault(frozenset(given), given))


_NUMBERS = frozenset((int, float, bool, type(None)))
SHORT = 64
"""Characters."""
_GIVEN: dict[frozenset[str], set[str]] = {}
_EQUAL: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
