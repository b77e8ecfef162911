"""Uncertainty of a front: pure functions over the results of several programs on the same questions.

Questions are resampled with all their repeats, with the same draws for every program.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.statistics import (
    Interval,
    Shrunk,
    mean_interval,
    paired,
    resamples,
    score_interval,
    shrink,
    t_quantile,
    worse,
)
from pdr_dspy.search.racing.pareto import COSTS

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The results of K programs on N questions: means over repeats, one row a program, one column a question.

    All three arrays are nan where a program was not run on a question. Raises ConfigError if the shapes or the nans
    differ, a score is outside [0, 1], or a cost is negative or infinite.
    """

    score: Values
    sequential: Values
    """Tokens along the accepted path."""
    total: Values
    """Tokens of every call."""

    def __post_init__(self) -> None:
        for field in fields(self):
            values = np.array(getattr(self, field.name), dtype=float)
            values.flags.writeable = False
            object.__setattr__(self, field.name, values)
            if values.ndim != 2 or values.shape != self.score.shape:
                raise ConfigError(
                    f"`Outcomes({field.name}=...)` has the shape {values.shape}; give one row for each program and one "
                    f"column for each question, as in `score`, which has the shape {self.score.shape}"
                )
            if (np.isnan(values) != np.isnan(self.score)).any():
                raise ConfigError(f"`Outcomes({field.name}=...)` must have nan in the same places as `score`")
            top = 1.0 + 1e-9 if field.name == "score" else np.finfo(float).max
            wrong = values[(values < 0) | (values > top)]
            if wrong.size:
                unit = "scores are in [0, 1]" if field.name == "score" else "costs are tokens, finite and not negative"
                raise ConfigError(f"`Outcomes({field.name}=...)` has {wrong[0]}; {unit}")

    @cached_property
    def ran(self) -> NDArray[np.bool_]:
        """(K, N): whether a program was run on a question."""
        return ~np.isnan(self.score)

    @cached_property
    def widest(self) -> NDArray[np.bool_]:
        """The largest set of questions that a program ran on; of several, the one that most programs share."""
        sets, counts = np.unique(self.ran, axis=0, return_counts=True)
        return max(zip(sets, counts.tolist(), strict=True), key=lambda pair: (int(pair[0].sum()), pair[1]))[0]

    @cached_property
    def complete(self) -> NDArray[np.intp]:
        """The programs that ran on all of the `widest` questions; empty if no program ran."""
        return np.flatnonzero((self.ran & self.widest).sum(axis=1) == max(1, self.widest.sum()))


class Bands(NamedTuple):
    """Intervals of the means of one program."""

    score: Interval
    sequential: Interval
    total: Interval


def bands(outcomes: Outcomes, *, level: float = 0.95, count: int = 2000, seed: int = 0) -> list[Bands]:
    """For each program an interval of its mean score and of both mean costs, over questions like those it ran on.

    Bootstrap percentiles over `count` draws of questions, widened by Student's t for few questions (expanded
    percentiles, Hesterberg 2015, arXiv 1411.5279). Scores that are all 0 or 1, or all equal, have the interval of
    `stats.score_interval`, since no draw contains unobserved results. With fewer than two questions the intervals are
    (0, 1) and (0, inf). Costs that are all equal are treated as fixed.
    """
    unknown = Bands(Interval(0.0, 1.0), Interval(0.0, math.inf), Interval(0.0, math.inf))
    found = [unknown] * len(outcomes.score)
    weights = _Weights(count, seed)
    for ran, programs in _by_questions(outcomes):
        n = int(ran.sum())
        if n < 2:
            continue
        edge = NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile(0.5 + level / 2, n - 1))
        drawn = [getattr(outcomes, axis)[np.ix_(programs, ran)] @ weights.of(ran).T for axis in ("score", *COSTS)]
        edges = np.quantile(np.stack(drawn), [edge, 1 - edge], axis=2).tolist()
        for place, program in enumerate(programs.tolist()):
            axes = [Interval(low[place], high[place]) for low, high in zip(*edges, strict=True)]
            scores = outcomes.score[program, ran]
            if np.ptp(scores) < 1e-12 or np.isin(scores, (0.0, 1.0)).all():
                axes[0] = score_interval(scores.tolist(), level=level)
            found[program] = Bands(*axes)
    return found


def _by_questions(outcomes: Outcomes) -> list[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """Each set of questions that some program ran on, with the programs that ran on exactly this set."""
    sets, of_set = np.unique(outcomes.ran, axis=0, return_inverse=True)
    return [(questions, np.flatnonzero(of_set == place)) for place, questions in enumerate(sets)]


class _Weights:
    """Bootstrap weights of questions, one row a draw. The same questions have the same draws."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self.known: dict[bytes, Values] = {}

    def of(self, questions: NDArray[np.bool_]) -> Values:
        key = questions.tobytes()
        if key not in self.known:
            n = int(questions.sum())
            places = resamples(n, self.count, self.seed) + n * np.arange(self.count)[:, None]
            self.known[key] = np.bincount(places.ravel(), minlength=n * self.count).reshape(self.count, n) / n
        return self.known[key]


def probability_nondominated(
    outcomes: Outcomes, costs: Sequence[str] = COSTS, *, count: int = 2000, seed: int = 0
) -> list[float]:
    """For each program the share of draws of questions in which no other program dominates it in the mean score and
    the costs; nan for a program that never ran.

    Two programs are compared on the questions that both ran on, if there are at least two, so a program that was
    dropped early remains uncertain. It is a share of draws, not a degree of belief: of two programs with equal scores
    on every question, the cheaper one wins every draw, even with few questions.
    """
    dominated = np.zeros((len(outcomes.score), count), dtype=bool)
    weights = _Weights(count, seed)
    sets = _by_questions(outcomes)
    # lower is better on every axis; differences below the rounding of a mean count as equal
    axes = [(-outcomes.score, 1e-9), *((getattr(outcomes, cost), 1e-6) for cost in costs)]
    for (first, ours), (second, theirs) in itertools.product(sets, repeat=2):
        common = first & second
        if common.sum() < 2:
            continue
        drawn = weights.of(common).T
        own, other = ([values[np.ix_(rows, common)] @ drawn for values, _ in axes] for rows in (ours, theirs))
        for place in range(len(ours)):
            as_good = np.ones((len(theirs), count), dtype=bool)
            better = np.zeros((len(theirs), count), dtype=bool)
            for means, rivals, (_, slack) in zip(own, other, axes, strict=True):
                as_good &= rivals >= means[place] - slack
                better |= rivals > means[place] + slack
            dominated[theirs] |= as_good & better
    shares = 1.0 - dominated.mean(axis=1)
    return np.where(outcomes.ran.any(axis=1), shares, math.nan).tolist()


def knee(costs: Sequence[float], scores: Sequence[float]) -> int:
    """The index of the front's knee, beyond which more score costs disproportionately.

    It is the point farthest above the chord from the cheapest to the best point of the front, in score over the
    logarithm of cost (tokens, at least 1; Satopaa 2011 without smoothing). Points off the front are ignored. If no
    point is above the chord, as with two points, it is the cheapest. Raises ConfigError if the lengths differ or are 0.
    """
    if len(costs) != len(scores) or not len(costs):
        raise ConfigError(
            f"`knee(costs, scores)`: {len(costs)} costs and {len(scores)} scores; give equally many, at least one"
        )
    x, y = _log_cost(costs), np.asarray(scores, dtype=float)
    front: list[int] = []
    for index in sorted(range(len(x)), key=lambda i: (x[i], -y[i])):
        if not front or y[index] > y[front[-1]]:
            front.append(index)
    first, last = front[0], front[-1]
    if len(front) < 3:
        return first
    # the distance to a line is proportional to the height above it, in any units
    slope = (y[last] - y[first]) / (x[last] - x[first])
    height = y[front] - y[first] - slope * (x[front] - x[first])
    return front[int(np.argmax(height))] if height.max() > 1e-12 else first


def _log_cost(tokens: ArrayLike) -> Values:
    return np.log(np.maximum(np.asarray(tokens, dtype=float), 1.0))


class Within(NamedTuple):
    """The cheapest program within a tolerance of the best score."""

    program: int
    """Its row in the outcomes."""
    best: int
    """The row of the program with the highest score, then the lowest cost."""
    deficit: float
    """The best score minus this one's."""
    interval: Interval
    """95 % interval of the deficit, paired by question."""
    confident: bool
    """Whether the whole interval is within delta."""


def cheapest_within(delta: float, outcomes: Outcomes, *, confident: bool = False) -> Within:
    """The program with the fewest total, then sequential tokens whose mean score is at most `delta` below the best.

    With `confident`, the upper end of the paired 95 % interval of its deficit must be within delta, too; the best
    program always qualifies. Without, the deficit alone decides, and the result's `.confident` states whether the
    interval is within delta, which is rare on few questions. The best score of many is biased upwards, so deficits are
    overestimated and the choice errs to the costly side. Only programs that ran on all of `outcomes.widest` take part,
    since scores on different questions are not comparable. Of equal costs, the higher score wins, then the first.

    Raises ConfigError for a delta outside [0, 1], and if no program ran.
    """
    if not 0.0 <= delta <= 1.0:
        raise ConfigError(f"`cheapest_within(delta={delta})`: give a difference of scores in [0, 1]")
    if not len(outcomes.complete):
        raise ConfigError("`cheapest_within(outcomes=...)`: no program was run on any question; give finished runs")
    questions, programs = outcomes.widest, outcomes.complete.tolist()
    score, sequential, total = (
        getattr(outcomes, axis)[:, questions].mean(axis=1).tolist() for axis in ("score", "sequential", "total")
    )
    best = min(programs, key=lambda i: (-round(score[i], 9), total[i], sequential[i]))

    def within(program: int) -> Within:
        if program == best:
            return Within(best, best, 0.0, Interval(0.0, 0.0), True)
        pair = (outcomes.score[i, questions].tolist() for i in (best, program))
        deficit, interval, _ = paired(*pair)
        return Within(program, best, max(0.0, deficit), interval, interval.high <= delta + 1e-9)

    programs.sort(key=lambda i: (total[i], sequential[i], -score[i]))
    near = (within(i) for i in programs if score[best] - score[i] <= delta + 1e-9)
    return next(found for found in near if found.confident or not confident)


class Optimism(NamedTuple):
    """The selection bias of scores: their excess over scores on fresh seeds."""

    mean: float
    interval: Interval


def optimism(race_scores: ArrayLike, fresh_scores: ArrayLike, *, level: float = 0.95) -> Optimism:
    """The mean over finalists of their race score minus their score on fresh seeds, with Student's t interval;
    unbounded with fewer than two differences.

    The arguments are either one mean score for each finalist, which the interval treats as independent; or, better, one
    row for each finalist and one column for each question (nan where a finalist was not run). Finalists share
    questions, so their differences are then averaged by question first. Raises ConfigError if the shapes differ or no
    score is in both.
    """
    race, fresh = np.asarray(race_scores, dtype=float), np.asarray(fresh_scores, dtype=float)
    if race.shape != fresh.shape or race.ndim not in (1, 2):
        raise ConfigError(
            f"`optimism(race_scores, fresh_scores)`: shapes {race.shape} and {fresh.shape}; give the same finalists, "
            "and the same questions, in both"
        )
    differences = np.atleast_2d(race - fresh)
    known = ~np.isnan(differences)
    if not known.any():
        raise ConfigError("`optimism(race_scores, fresh_scores)`: no score is in both; give the same finalists in both")
    asked = known.any(axis=0)
    units = np.where(known, differences, 0.0).sum(axis=0)[asked] / known.sum(axis=0)[asked]
    return Optimism(float(units.mean()), mean_interval(units.tolist(), level=level))


def shrunk(outcomes: Outcomes) -> list[Shrunk]:
    """Each program's mean score, shrunk towards the pool (`stats.shrink`); nan for a program that never ran.

    The differences to the mean of the complete programs on the same questions are shrunk: the difficulty of questions
    is not noise between programs, and a program that ran on few questions is compared on those only. The returned
    variances include the variance between questions: they are those of a mean over questions like these.
    """
    questions, members = outcomes.widest, outcomes.complete
    reference = np.zeros(outcomes.score.shape[1])
    own_part = np.ones(len(outcomes.score))
    if len(members) > 1:  # a single program is no reference, since its noise would be in all differences
        reference[questions] = outcomes.score[np.ix_(members, questions)].mean(axis=0)
        own_part[members] = len(members) / (len(members) - 1)  # each program is part of its own reference
    rows = [(score - reference)[ran & questions] for score, ran in zip(outcomes.score, outcomes.ran, strict=True)]
    spreads = [float(row.var(ddof=1)) for row in rows if len(row) > 1]
    typical = sum(spreads) / len(spreads) if spreads else 0.25
    index = [i for i, row in enumerate(rows) if len(row)]
    noise = [(float(rows[i].var(ddof=1)) if len(rows[i]) > 1 else typical) * own_part[i] / len(rows[i]) for i in index]
    level, n = reference[questions], int(questions.sum())
    shared = float(level.var(ddof=1)) / n if n > 1 else 0.0
    found = [Shrunk(math.nan, math.nan, math.nan)] * len(rows)
    for i, part in zip(index, shrink([float(rows[i].mean()) for i in index], noise), strict=True):
        found[i] = Shrunk(part.mean + float(level.mean()), part.variance + shared, part.weight)
    return found


def confidently_dominated(
    outcomes: Outcomes,
    challenger: int,
    incumbents: Sequence[int],
    alpha: float,
    costs: Sequence[str] = COSTS,
    *,
    among: int | None = None,
) -> bool:
    """Whether some incumbent is confidently better than the challenger in the score and in every named cost.

    Each objective must pass a one-sided test (`stats.worse`) on the questions that both ran on: differences of scores,
    and of log costs. A cost that is equal on every question passes without a test. Since all objectives must pass, each
    is tested at the full level, which is alpha over the number of incumbents because any of them suffices. If the
    incumbents were selected as the best of more programs on these rows, pass that number as `among` to use instead. For
    repeated tests, pass each test's level from `stats.spend`.

    Raises ConfigError for an alpha outside (0, 0.5).
    """
    if not 0.0 < alpha < 0.5:
        raise ConfigError(f"`confidently_dominated(alpha={alpha})`: give a share in (0, 0.5)")
    rivals = [rival for rival in incumbents if rival != challenger]
    level = alpha / max(1, len(rivals), among or 0)
    for rival in rivals:
        both = outcomes.ran[challenger] & outcomes.ran[rival]
        score = outcomes.score[challenger, both] - outcomes.score[rival, both]
        if worse(score) <= level and all(
            _saves(getattr(outcomes, cost)[challenger, both], getattr(outcomes, cost)[rival, both], level)
            for cost in costs
        ):
            return True
    return False


def _saves(challenger: Values, rival: Values, level: float) -> bool:
    """Whether the rival costs confidently less than the challenger, or exactly as much."""
    differences = _log_cost(rival) - _log_cost(challenger)
    return bool((np.abs(differences) < 1e-12).all()) or worse(differences) <= level
