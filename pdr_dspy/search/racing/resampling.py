"""How sure one can be of a front: pure functions over what several programs did on the same questions.

The unit is the question: questions are drawn again with all their repeats, and the same draws serve every program.
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
    """What K programs did on N questions: means over repeats, one row a program, one column a question.

    nan, in all three alike, where a program was not run on a question. Raises ConfigError when the shapes differ, the
    nans do, a score is outside [0, 1], or a cost is negative or infinite.
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
                    f"column for each question, as many as in `score`, which has {self.score.shape}"
                )
            if (np.isnan(values) != np.isnan(self.score)).any():
                raise ConfigError(f"`Outcomes({field.name}=...)` has nan in other places than `score`")
            top = 1.0 + 1e-9 if field.name == "score" else np.finfo(float).max
            wrong = values[(values < 0) | (values > top)]
            if wrong.size:
                unit = "scores are in [0, 1]" if field.name == "score" else "costs are tokens, finite and not negative"
                raise ConfigError(f"`Outcomes({field.name}=...)` has {wrong[0]}; {unit}")

    @cached_property
    def ran(self) -> NDArray[np.bool_]:
        """Which program was run on which question."""
        return ~np.isnan(self.score)

    @cached_property
    def widest(self) -> NDArray[np.bool_]:
        """The questions of the program that ran on most; of several such sets, the one that most programs have."""
        sets, counts = np.unique(self.ran, axis=0, return_counts=True)
        return max(zip(sets, counts.tolist(), strict=True), key=lambda pair: (int(pair[0].sum()), pair[1]))[0]

    @cached_property
    def complete(self) -> NDArray[np.intp]:
        """The programs that ran on all of the `widest` questions; none when nothing ran."""
        return np.flatnonzero((self.ran & self.widest).sum(axis=1) == max(1, self.widest.sum()))


class Bands(NamedTuple):
    """Intervals of one program's means."""

    score: Interval
    sequential: Interval
    total: Interval


def bands(outcomes: Outcomes, *, level: float = 0.95, count: int = 2000, seed: int = 0) -> list[Bands]:
    """For each program an interval of its mean score and of both mean costs, over questions like those it ran on.

    Bootstrap percentiles over `count` draws of questions, widened by Student's t as a mean of few questions needs
    (expanded percentiles, Hesterberg 2015, arXiv 1411.5279). Scores that are all 0 or 1, or all equal, have the
    interval of `stats.score_interval`, since no draw holds what did not happen. One question or none says nothing:
    (0, 1) and (0, inf). Costs that are all equal are taken to be fixed.
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
    """Each set of questions that some program ran on, and the programs that ran on just these."""
    sets, of_set = np.unique(outcomes.ran, axis=0, return_inverse=True)
    return [(questions, np.flatnonzero(of_set == place)) for place, questions in enumerate(sets)]


class _Weights:
    """How often each question is drawn, as shares: one row a draw. The same questions have the same draws."""

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
    """For each program the share of draws of questions in which no other is at least as good in the mean score and in
    every cost, and better in one of them; nan for a program that never ran.

    Two programs are compared on the questions that both ran on, and not at all when they have fewer than two in
    common: a program that was dropped early keeps what doubt there is. It is a share of draws, not a degree of belief:
    of two programs with equal scores throughout, the cheaper one wins every draw, however few questions there are.
    """
    dominated = np.zeros((len(outcomes.score), count), dtype=bool)
    weights = _Weights(count, seed)
    sets = _by_questions(outcomes)
    # lower is better on every axis, and differences below the rounding of a mean are none
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
    """Which point of the front to take where a little more score begins to cost a lot: an index into what is given.

    The point farthest above the chord from the cheapest to the best point of the front, in score over the logarithm of
    cost (tokens, at least 1; Satopaa 2011 without smoothing). Points off the front are passed over. Where none is above
    the chord, as with two points, the cheapest. Raises ConfigError when the lengths differ or there is no point.
    """
    if len(costs) != len(scores) or not len(costs):
        raise ConfigError(f"`knee(costs, scores)`: {len(costs)} costs and {len(scores)} scores; give at least one each")
    x, y = _log_cost(costs), np.asarray(scores, dtype=float)
    front: list[int] = []
    for index in sorted(range(len(x)), key=lambda i: (x[i], -y[i])):
        if not front or y[index] > y[front[-1]]:
            front.append(index)
    first, last = front[0], front[-1]
    if len(front) < 3:
        return first
    # the distance to a line goes with the height above it, whatever the units of the axes
    slope = (y[last] - y[first]) / (x[last] - x[first])
    height = y[front] - y[first] - slope * (x[front] - x[first])
    return front[int(np.argmax(height))] if height.max() > 1e-12 else first


def _log_cost(tokens: ArrayLike) -> Values:
    return np.log(np.maximum(np.asarray(tokens, dtype=float), 1.0))


class Within(NamedTuple):
    """The cheapest program that gives up at most so much of the best score."""

    program: int
    """Its row in the outcomes."""
    best: int
    """The row of the program with the highest score; of equal ones the cheapest."""
    deficit: float
    """The best score minus this one's."""
    interval: Interval
    """95 % interval of the deficit, paired by question."""
    confident: bool
    """Whether the whole interval is within delta."""


def cheapest_within(delta: float, outcomes: Outcomes, *, confident: bool = False) -> Within:
    """The program with the fewest total, then sequential tokens whose mean score is at most `delta` below the best.

    With `confident`, the upper end of the paired 95 % interval of its deficit must be within delta too; the best is
    always within. Without, the deficit alone decides and `.confident` tells how sure it is: on few questions next to
    nothing is sure. The best of many is too high by luck, so deficits are if anything too large and the answer errs to
    the costly side. Only programs that ran on all of `outcomes.widest` take part, for scores on other questions do not
    compare. Of equal costs, the higher score, then the first.

    Raises ConfigError for a delta outside [0, 1], and when nothing ran.
    """
    if not 0.0 <= delta <= 1.0:
        raise ConfigError(f"`cheapest_within(delta={delta})`: give a difference of scores in [0, 1]")
    if not len(outcomes.complete):
        raise ConfigError("`cheapest_within(outcomes=...)`: no program was run on any question")
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
    """By how much the scores that chose were too high."""

    mean: float
    interval: Interval


def optimism(race_scores: ArrayLike, fresh_scores: ArrayLike, *, level: float = 0.95) -> Optimism:
    """The mean over finalists of the score that chose them minus the score of the same on fresh seeds, with Student's
    t interval; unbounded where there are fewer than two differences.

    Either one mean score a finalist, and the interval takes finalists for independent; or, better, one row a finalist
    and one column a question, the same in both (nan where one was not run): finalists share questions, so their
    differences are averaged by question first. Raises ConfigError when the shapes differ or nothing is in both.
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
        raise ConfigError("`optimism(race_scores, fresh_scores)`: no score is in both")
    asked = known.any(axis=0)
    units = np.where(known, differences, 0.0).sum(axis=0)[asked] / known.sum(axis=0)[asked]
    return Optimism(float(units.mean()), mean_interval(units.tolist(), level=level))


def shrunk(outcomes: Outcomes) -> list[Shrunk]:
    """Each program's mean score, drawn toward the pool by what noise explains (`stats.shrink`); nan where it never ran.

    What is shrunk are the differences to the mean of the complete programs on the same questions: questions being
    hard or easy is no noise between programs, and a program that ran on few of them is compared on those alone. The
    variances have the questions in them again: they are those of a mean over questions like these.
    """
    questions, members = outcomes.widest, outcomes.complete
    reference = np.zeros(outcomes.score.shape[1])
    own_part = np.ones(len(outcomes.score))
    if len(members) > 1:  # one program alone is no reference: its noise would be in all
        reference[questions] = outcomes.score[np.ix_(members, questions)].mean(axis=0)
        own_part[members] = len(members) / (len(members) - 1)  # each is a part of what it is compared with
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
    """Whether some incumbent is confidently better than the challenger in the score and in every cost named.

    Each objective has to pass a one-sided test (`stats.worse`) on the questions that both ran on: the score's
    differences, and those of log costs. A cost that is the same on every question passes, since no sample is needed to
    know it. All have to pass, so the level of each is that of the whole; it is alpha over the number of incumbents, for
    any one of them will do. Where the incumbents are themselves the luckiest of more programs on these very rows,
    `among` says of how many, and counts instead. For several looks, pass the look's level from `stats.spend`.

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
    """Whether the rival costs confidently less, or exactly as much."""
    differences = _log_cost(rival) - _log_cost(challenger)
    return bool((np.abs(differences) < 1e-12).all()) or worse(differences) <= level
