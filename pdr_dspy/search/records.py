"""The records of a search: the facts of each trial, computed from the plan and the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.statistics import Interval
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.racing.arms import Arm, Finalist, Found
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.space.candidate import Candidate, describe_candidate, read_candidate
from pdr_dspy.search.space.prompt_axes import DemoSet

RowsOf = Callable[[int], Sequence[Row]]
"""The rows of a trial in the race, by its number."""
Estimates = Mapping[int, tuple[float, float]]
"""Pooled score and its standard deviation, by the number of the trial."""


class TrialRecord(BaseModel):
    """The stored facts of one trial of a search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    origin: str
    """The candidate's origin: "student", "LongCoT", "SR", a preset, "prior", "reflection", "search", or "same
    calls"."""
    free: bool = False
    """Whether it only repeats calls of earlier trials: it does not count as one of `trials`."""
    state: str
    """"measured": it ran the complete race; "dropped": it was confidently worse, or over a limit, before the end."""
    schedule: Schedule
    instructions: dict[str, str] = {}
    demos: dict[str, DemoSet] = {}
    axes: dict[str, Any] = {}
    """The choices on registered axes, by name."""
    parts: dict[str, dict[str, Any]] = {}
    """If operators have separate spaces: the candidate of each, by its path, as described by `describe_candidate`; the
    fields above are those of the first."""
    score: float = math.nan
    """Mean over the questions that it ran, a fraction."""
    interval: Interval = Interval(0.0, 1.0)
    """95 % interval of `score`, clustered by question."""
    pooled: float = math.nan
    """The estimate used for all choices: from all runs, fresh seeds included, shrunk towards similar programs."""
    pooled_sd: float = math.nan
    """Its posterior standard deviation."""
    fresh: float = math.nan
    """Score of a finalist on the same questions with fresh seeds."""
    sequential: float = math.nan
    """Mean B_seq of a run in tokens."""
    total: float = math.nan
    """Mean B_total of a run in tokens."""
    cost: float | None = None
    """Mean cost of a run in the unit of the models' prices; None if a price is unknown."""
    calls: float = math.nan
    """Mean model calls of a run."""
    paid: int = 0
    """Tokens of its calls in the race that no earlier trial had made."""
    saved: int = 0
    """Tokens of its calls that an earlier trial had made."""
    reused: float = 0.0
    """`saved` as a fraction of both."""
    failed: int = 0
    """Rows without an answer."""
    questions: int = 0
    runs: int = 0
    """Runs in the race: fewer for a dropped trial."""
    cohort: int = 0
    dropped: str | None = None
    """Why it was dropped from the race."""
    seconds: float = 0.0
    """Usage of all its calls, summed."""
    feasible: bool = True
    """Whether it is within the limits of the search, on average."""

    @property
    def candidate(self) -> Candidate:
        """The candidate that was tried."""
        parts = {place: read_candidate(part) for place, part in self.parts.items()}
        return Candidate(self.schedule, self.instructions, self.demos, self.axes, parts)

    def __str__(self) -> str:
        low, high = self.interval
        shown = str(self.candidate)
        named = shown if shown.startswith(self.origin) else f"{self.origin} {shown}"  # LongCoT, SR, a vote say it
        return (
            f"{named}: {self.score:.3f} [{low:.3f}, {high:.3f}], "
            f"B_seq {self.sequential:.0f}, B_total {self.total:.0f}"
            f"{'' if self.cost is None else f', cost {self.cost:.4g}'}"
        )


def record(
    arm: Arm, rows: Sequence[Row], estimate: tuple[float, float], limits: Limits, *, finalist: Finalist | None = None
) -> TrialRecord:
    """The facts of a trial.

    Args:
        arm: the program in the search.
        rows: its runs in the race.
        estimate: its pooled score and standard deviation.
        limits: of the search.
        finalist: its figures on fresh seeds, if it is a finalist.
    """
    report = Report(rows=tuple(rows))
    made = [call for row in rows for call in row.calls]
    return TrialRecord(
        number=arm.number,
        origin=arm.origin,
        free=arm.free,
        state="measured" if arm.dropped is None else "dropped",
        schedule=arm.candidate.schedule,
        instructions=arm.candidate.instructions,
        demos=arm.candidate.demos,
        axes=arm.candidate.axes,
        parts={place: describe_candidate(part) for place, part in arm.candidate.parts.items()},
        score=report.score,
        interval=report.interval,
        pooled=estimate[0],
        pooled_sd=estimate[1],
        fresh=math.nan if finalist is None else finalist.fresh,
        sequential=report.sequential,
        total=report.total,
        cost=report.cost,
        calls=report.calls,
        paid=arm.paid,
        saved=arm.saved,
        reused=arm.saved / max(arm.paid + arm.saved, 1),
        failed=report.failed,
        questions=len(report.by_question),
        runs=len(rows),
        cohort=arm.cohort,
        dropped=arm.dropped,
        seconds=round(sum(call.seconds for call in made), 2),
        feasible=limits.allow(report),
    )


def with_cohort(
    before: Sequence[TrialRecord], arms: Sequence[Arm], rows_of: RowsOf, estimates: Estimates, limits: Limits
) -> tuple[TrialRecord, ...]:
    """The records of all arms when the race of a cohort has ended.

    Args:
        before: those of earlier cohorts: only their estimates change, with the new measurements of others.
        arms: all of the search so far.
        rows_of: their rows in the race.
        estimates: the current ones.
        limits: of the search.
    """
    earlier = [
        known.model_copy(update=dict(zip(("pooled", "pooled_sd"), estimates[known.number], strict=True)))
        for known in before
    ]
    new = [record(arm, rows_of(arm.number), estimates[arm.number], limits) for arm in arms[len(before) :]]
    return (*earlier, *new)


def at_the_end(found: Found, rows_of: RowsOf, limits: Limits) -> tuple[TrialRecord, ...]:
    """The records of a finished search, with the figures of the finalists on fresh seeds."""
    finalists = {finalist.number: finalist for finalist in found.finalists}
    return tuple(
        record(arm, rows_of(arm.number), found.estimates[arm.number], limits, finalist=finalists.get(arm.number))
        for arm in found.arms
    )
