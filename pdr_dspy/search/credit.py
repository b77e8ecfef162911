"""What the choice of a search at each operator brought: its best program against the same with one operator set back to
the student's own.

A program that was measured with the operator set back is compared run by run. Otherwise the difference is estimated
from all trials, as every score that is not measured (`racing.surrogate`): what is known of an operator's schedule in
one program says something of it in the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.statistics import Interval, paired, t_quantile
from pdr_dspy.search.racing.surrogate import by_operator
from pdr_dspy.search.racing.worth import believe
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.space.candidate import joint

FEWEST = 3
"""Trials below which nothing can be estimated."""


class Credit(NamedTuple):
    """What the choice at one operator brought."""

    gain: float | None
    """By how much the score of the best program exceeds that with the student's own schedule and prompts at this
    operator, a fraction; 0 if it has them, None if it is unknown."""
    interval: Interval | None = None
    """95 % interval of `gain`; None if that is unknown."""
    trial: int | None = None
    """The trial that is the best program with the operator set back; None if none is, and `gain` is an estimate."""

    same: bool = False
    """Whether the best program has the student's own schedule and prompts at this operator."""

    @property
    def source(self) -> str:
        """Where it is from, in words."""
        if self.gain is None:
            return "unknown"
        if self.same:
            return "it has the student's"
        return "an estimate" if self.trial is None else f"trial {self.trial}"

    def __str__(self) -> str:
        if self.gain is None or self.interval is None or self.same:
            return self.source
        low, high = self.interval
        return f"{self.gain:+.3f} [{low:+.3f}, {high:+.3f}], {self.source}"


def credits_of(
    trials: Sequence[TrialRecord], rows: Mapping[int, Sequence[Row]], best: TrialRecord
) -> dict[str, Credit]:
    """The credit of each operator by its path; empty if all operators share a schedule.

    Args:
        trials: all trials of the search, the student first.
        rows: by the number of the trial, its runs on the training questions.
        best: the program of which the operators are set back.
    """
    winner, student = best.candidate, trials[0].candidate
    found: dict[str, Credit] = {}
    back = {
        place: joint({**winner.parts, place: student.parts[place]}) for place in winner.parts if place in student.parts
    }
    runs = {trial.number: _scores(rows.get(trial.number, ())) for trial in trials}
    known = [trial for trial in trials if runs[trial.number]]
    by_key = {trial.candidate.key: trial.number for trial in reversed(known)}
    for place, other in back.items():
        if other.key == winner.key:
            found[place] = Credit(0.0, Interval(0.0, 0.0), same=True)
        elif other.key in by_key and (measured := _measured(runs[best.number], runs[by_key[other.key]])) is not None:
            found[place] = Credit(*measured, by_key[other.key])
    left = [place for place in back if place not in found]
    if not left or len(known) < FEWEST or not runs[best.number]:
        return {place: found.get(place, Credit(None)) for place in winner.parts}
    places = {name: place for place, name in enumerate(sorted({name for own in runs.values() for name, _ in own}))}
    belief = believe(
        [{(places[name], seed): score for (name, seed), score in runs[trial.number].items()} for trial in known],
        [trial.candidate for trial in known],
        [back[place] for place in left],
        by_operator,
    )
    at = next(place for place, trial in enumerate(known) if trial.number == best.number)
    sds = t_quantile(0.975, max(len(known) - len(winner.parts) - 1, 1))
    for offset, place in enumerate(left):
        other = len(known) + offset
        means = np.array([one.mean[at] - one.mean[other] for one in belief.posteriors])
        variances = [
            one.covariance[at, at] + one.covariance[other, other] - 2 * one.covariance[at, other]
            for one in belief.posteriors
        ]
        gain = float(np.dot(belief.weights, means))
        half = sds * math.sqrt(max(float(np.dot(belief.weights, np.array(variances) + (means - gain) ** 2)), 0.0))
        found[place] = Credit(gain, Interval(max(-1.0, gain - half), min(1.0, gain + half)))
    return {place: found.get(place, Credit(None)) for place in winner.parts}


def _scores(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    """The scores of some runs, by question and seed."""
    return {(row.id, row.seed): row.score for row in rows}


def _measured(
    one: Mapping[tuple[str, int], float], other: Mapping[tuple[str, int], float]
) -> tuple[float, Interval] | None:
    """The difference of two programs over the runs that both made, by question; None with fewer than two questions."""
    differences: dict[str, list[float]] = {}
    for name, seed in sorted(one.keys() & other.keys()):
        differences.setdefault(name, []).append(one[name, seed] - other[name, seed])
    if len(differences) < 2:
        return None
    found = paired([fmean(own) for own in differences.values()], [0.0] * len(differences))
    return found.difference, found.interval
