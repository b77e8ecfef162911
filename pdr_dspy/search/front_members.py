"""The front of a finished search and its uncertainty: pure functions over its trials and their rows.

Membership of the front, and the choice of a cheap program for a score, use the pooled estimates, like every choice of
the search. The uncertainty is computed from the rows by resampling questions (`uncertainty.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.statistics import Interval, paired
from pdr_dspy.search.racing import pareto, resampling
from pdr_dspy.search.racing.pareto import COSTS, Limits
from pdr_dspy.search.racing.resampling import Bands, Outcomes
from pdr_dspy.search.records import TrialRecord

Rows = Mapping[int, Sequence[Row]]
"""By the number of the trial: all its runs on the training questions, in the race and on fresh seeds."""


class Member(NamedTuple):
    """A program of the front."""

    trial: TrialRecord
    bands: Bands
    """95 % intervals over questions like these: of the score, around the pooled estimate, and of both mean costs in
    tokens, around the trial's. (0, 1) and (0, inf) without rows."""
    nondominated: float
    """Fraction of draws of questions in which no other complete trial is as good in everything and better in something;
    nan without rows."""
    deficit: float
    """The best pooled score of the front within the limits minus this one's, a fraction; negative beyond the limits."""
    interval: Interval
    """95 % interval of the deficit, from the rows, paired by question; (-1, 1) without rows."""
    knee: tuple[str, ...]
    """The costs, among "sequential" and "total", for which the knee of the front is here: more score costs much
    more."""


def by_estimate(trial: TrialRecord) -> tuple[float, float, float, int]:
    """A sort key: the highest pooled estimate first; among equal ones the cheaper."""
    return (-trial.pooled, trial.total, trial.sequential, trial.number)


def estimated_front(trials: Iterable[TrialRecord], costs: Sequence[str] = COSTS) -> list[TrialRecord]:
    """Complete trials that no other beats in pooled score and the named costs, the cheapest first."""
    whole = {trial.number: trial for trial in trials if trial.state == "measured"}
    points = [_Point(trial.number, trial.pooled, trial.sequential, trial.total) for trial in whole.values()]
    return [whole[point.number] for point in pareto.front(points, costs)]


def cheapest_within(delta: float, trials: Iterable[TrialRecord], limits: Limits = Limits()) -> TrialRecord:  # noqa: B008
    """The complete trial with the fewest total, then sequential tokens whose pooled score is at most `delta` below the
    best within the limits.

    Args:
        delta: a difference of scores, a fraction.
        trials: of one search.
        limits: on mean tokens of a run.

    Raises ConfigError for a delta outside [0, 1], and if no complete trial is within the limits.
    """
    if not 0.0 <= delta <= 1.0:
        raise ConfigError(f"`cheapest_within(delta={delta!r})`: give a difference of scores in [0, 1]")
    allowed = [trial for trial in estimated_front(trials) if limits.allow(trial)]
    if not allowed:
        raise ConfigError(f"`cheapest_within(delta={delta!r})`: no complete trial is within {limits}")
    best = min(allowed, key=by_estimate)
    near = [trial for trial in allowed if best.pooled - trial.pooled <= delta + 1e-9]
    return min(near, key=lambda trial: (trial.total, trial.sequential, -trial.pooled, trial.number))


def members(trials: Iterable[TrialRecord], rows: Rows, limits: Limits = Limits()) -> list[Member]:  # noqa: B008
    """The front with its uncertainty, the cheapest first.

    Args:
        trials: of one search.
        rows: those of complete trials, as many as available. A trial without rows has uninformative bands.
        limits: of the search; deficits are relative to the best trial within them, if there is one.
    """
    trials = [trial for trial in trials if trial.state == "measured"]
    front = estimated_front(trials)
    if not front:
        return []
    known = {trial.number: by_question(rows[trial.number]) for trial in trials if rows.get(trial.number)}
    measured = _outcomes(list(known.values()))
    bands = dict(zip(known, resampling.bands(measured), strict=True)) if known else {}
    alone = dict(zip(known, resampling.probability_nondominated(measured), strict=True)) if known else {}
    best = min([trial for trial in front if limits.allow(trial)] or front, key=by_estimate)
    knees = {
        cost: front[resampling.knee([getattr(t, cost) for t in front], [t.pooled for t in front])].number
        for cost in COSTS
    }
    return [
        Member(
            trial,
            _placed(bands.get(trial.number), trial, known.get(trial.number, {})),
            alone.get(trial.number, math.nan),
            best.pooled - trial.pooled,
            _deficit(known.get(best.number, {}), known.get(trial.number, {}), same=trial is best),
            tuple(cost for cost in COSTS if knees[cost] == trial.number),
        )
        for trial in front
    ]


class Mean(NamedTuple):
    """One program on one question, over its runs."""

    score: float
    sequential: float
    total: float


def by_question(rows: Iterable[Row]) -> dict[str, Mean]:
    """Means over the runs of each question."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.id, []).append(row)
    return {
        name: Mean(*(fmean(getattr(row, axis) for row in some) for axis in Mean._fields))
        for name, some in grouped.items()
    }


def _outcomes(programs: Sequence[Mapping[str, Mean]]) -> Outcomes:
    names = sorted({name for program in programs for name in program})
    nothing = Mean(math.nan, math.nan, math.nan)
    table = np.array([[program.get(name, nothing) for name in names] for program in programs], dtype=float)
    return Outcomes(*np.moveaxis(table.reshape(len(programs), len(names), 3), 2, 0))


def _placed(found: Bands | None, trial: TrialRecord, known: Mapping[str, Mean]) -> Bands:
    """The bands of a program's own means, shifted to the figures of the search: those of the rows differ slightly,
    since a finalist has more rows than its race."""
    if found is None:
        return Bands(Interval(0.0, 1.0), Interval(0.0, math.inf), Interval(0.0, math.inf))
    own = Mean(*(fmean(values) for values in zip(*known.values(), strict=True)))
    shift = trial.pooled - own.score
    low, high = (min(max(edge + shift, 0.0), 1.0) for edge in found.score)
    return Bands(
        Interval(low, high),
        _scaled(found.sequential, trial.sequential, own.sequential),
        _scaled(found.total, trial.total, own.total),
    )


def _scaled(found: Interval, wanted: float, own: float) -> Interval:
    factor = wanted / own if own else 1.0
    return Interval(found.low * factor, found.high * factor)


def _deficit(best: Mapping[str, Mean], other: Mapping[str, Mean], *, same: bool) -> Interval:
    if same:
        return Interval(0.0, 0.0)
    common = [name for name in best if name in other]
    return paired([best[name].score for name in common], [other[name].score for name in common]).interval


class _Point(NamedTuple):
    number: int
    score: float
    sequential: float
    total: float
