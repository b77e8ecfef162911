"""Estimates of the scores of all programs of a search, from all measurements together.

Programs run on the same questions, some on fewer than others, and similar schedules have similar scores. A score is
therefore decomposed as `program + question + noise`, and the program's part has a Gaussian process over schedules as
its prior: an estimate is influenced by its neighbours as much as they actually agree. The highest of many raw means is
biased upwards; the posterior mean is not, as far as the prior holds (empirical Bayes; Efron and Morris 1973, and
Rasmussen and Williams 2006, chapter 5, for the marginal likelihood that sets the prior's width).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdr_dspy.search.space.candidate import Candidate

Array = NDArray[np.float64]

SPREADS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.3)
"""Candidates for the prior standard deviation of a program's score, as fractions."""
SHARES = (0.0, 0.5, 0.9, 0.99)
"""Candidates for the fraction of that variance that neighbours share."""
LENGTHS = (0.7, 1.5, 3.0)
"""Candidates for the distance, in steps of an axis, over which they share it."""
WEIGHTS = (0.0, 0.5, 1.0)
"""Candidates for the weight of what earlier searches learnt (`search.prior`); 0 ignores it."""
SAME = 1e-9
"""The distance below which two programs are the same at an operator."""
ENOUGH = 8
"""Minimum number of repeated runs of a question by the same program for estimating the variance between runs."""


@dataclass(frozen=True)
class Surface:
    """The posterior of the programs' scores, in the given order."""

    mean: Array
    """Posterior mean of each program's score, a fraction."""
    sd: Array
    """Its posterior standard deviation."""
    adjusted: Array
    """The programs' own means without the differences between their questions: the values before shrinkage."""
    noise: Array
    """Standard errors of the raw means."""
    spread: float
    """Prior standard deviation of a program's score."""
    share: float
    """Fraction of that variance that neighbours share."""
    length: float
    """Distance over which they share it, in steps."""
    weight: float = 0.0
    """Weight of the expected scores that were given; 0 without any."""


def one_thread() -> AbstractContextManager[Any]:
    """Inside, BLAS uses one thread. From matrices of 100 x 100 on it uses all cores for microseconds of work, and on
    busy cores its threads wait for each other a hundred times as long as they compute."""
    blas = _blas()
    return nullcontext() if blas is None else blas.limit(limits=1, user_api="blas")


@cache
def _blas() -> Any:
    try:
        from threadpoolctl import ThreadpoolController  # pyright: ignore[reportMissingImports]
    except ImportError:  # only slower
        return None
    return ThreadpoolController()


def pool(
    scores: Sequence[Mapping[tuple[int, int], float]], candidates: Sequence[Candidate], expected: Array | None = None
) -> Surface:
    """Estimate the mean score of every program.

    Args:
        scores: of each program, by (question, repeat); each needs at least one.
        candidates: the programs, in the same order.
        expected: their expected scores up to a constant, as earlier searches learnt them; None without any. Their
            weight is chosen as the other parameters are, by the marginal likelihood of the scores.
    """
    with one_thread():
        return _pool(scores, candidates, expected)


def _pool(
    scores: Sequence[Mapping[tuple[int, int], float]], candidates: Sequence[Candidate], expected: Array | None
) -> Surface:
    own = additive(scores)
    best: tuple[float, Posterior, Prior, float] | None = None
    for prior in priors(together(candidates)):
        for weight, found in weighed(own, prior, expected):
            value = found.likelihood + prior.preference
            if best is None or value > best[0]:
                best = (value, found, prior, weight)
    assert best is not None
    _, found, prior, weight = best
    sd = np.sqrt(np.maximum(np.diag(found.covariance), 1e-12))
    return Surface(found.mean, sd, own.mean, own.noise, prior.spread, prior.share, prior.length, weight)


def weighed(own: Additive, prior: Prior, expected: Array | None) -> Iterator[tuple[float, Posterior]]:
    """The posterior under each weight of the expected scores of all programs; only under 0 without any."""
    weights = (0.0,) if expected is None or np.ptp(expected) == 0 else WEIGHTS
    shifts = [np.zeros(len(prior.covariance)) if expected is None else weight * expected for weight in weights]
    rest = [own.mean - shift[: len(own.mean)] for shift in shifts]
    for weight, shift, found in zip(weights, shifts, posteriors(rest, own.noise**2, prior.covariance), strict=True):
        yield weight, found._replace(mean=found.mean + shift)


class Prior(NamedTuple):
    """One prior of the programs' scores."""

    spread: float
    share: float
    length: float
    covariance: Array
    """Of the programs' scores around their common mean."""
    preference: float
    """Log of its own weight, up to a constant."""


def priors(apart: Sequence[Array], spreads: Sequence[float] = SPREADS) -> Iterator[Prior]:
    """All priors, given the distances between programs, as `together` or `by_operator` has them."""
    own, near = _own(apart), {length: _near(apart, length) for length in LENGTHS}
    for spread, share in itertools.product(spreads, SHARES):
        for length in LENGTHS if share else LENGTHS[:1]:
            covariance = spread**2 * ((1 - share) * own + share * near[length])
            # A weak preference for a middling spread and for neighbours: two programs alone determine neither.
            preference = -0.5 * (math.log(spread / 0.05) / 1.5) ** 2 - 0.5 * (share < 0.9)
            yield Prior(spread, share, length, covariance, preference)


def _near(apart: Sequence[Array], length: float) -> Array:
    return sum((np.exp(-0.5 * (one / length) ** 2) for one in apart), np.zeros_like(apart[0])) / len(apart)


def _own(apart: Sequence[Array]) -> Array:
    """What no neighbour shares: a program's own part, or that of every program with the same schedule at an
    operator."""
    if len(apart) == 1:
        return np.eye(len(apart[0]))
    return sum((one < SAME for one in apart), np.zeros_like(apart[0])) / len(apart)


class Posterior(NamedTuple):
    """The joint posterior of the programs' scores under one prior."""

    likelihood: float
    """Log marginal likelihood, up to a constant."""
    mean: Array
    covariance: Array


def posterior(values: Array, noise: Array, prior: Array) -> Posterior:
    """The posterior of all programs of a prior, of which the first were measured; the common mean is fitted.

    Args:
        values: of the measured programs.
        noise: variances of their errors.
        prior: covariance of all programs.
    """
    return next(posteriors([values], noise, prior))


def posteriors(each: Sequence[Array], noise: Array, prior: Array) -> Iterator[Posterior]:
    """As `posterior`, for each of several values of the same programs."""
    count = len(noise)
    factor = np.linalg.cholesky(prior[:count, :count] + np.diag(noise))
    inverse = np.linalg.inv(factor)
    inverse = inverse.T @ inverse
    ones = np.ones(count)
    weight = inverse @ ones
    precision = float(ones @ weight)
    known = prior[:, :count]
    drag = 1.0 - known @ weight  # the effect of an error of the common mean
    covariance = prior - known @ inverse @ known.T + np.outer(drag, drag) / precision
    constant = -float(np.log(np.diag(factor)).sum()) - 0.5 * math.log(precision)
    for values in each:
        mean = float(weight @ values) / precision
        rest = values - mean
        fit = inverse @ rest
        yield Posterior(-0.5 * float(rest @ fit) + constant, mean + known @ fit, covariance)


class Additive(NamedTuple):
    """The programs' own means and their errors."""

    mean: Array
    """Means without the differences between questions, as fractions."""
    noise: Array
    """Their standard errors."""
    between: float
    """Variance between runs of a question by the same program; 0 if unknown."""
    runs: Array
    """Of each program on each question; 0 where there is none."""

    def less(self, times: int) -> Array:
        """By how much `times` more runs of each of its questions would reduce the square of a program's error."""
        there = self.runs > 0
        more = np.where(there, 1.0 / np.maximum(self.runs, 1) - 1.0 / (self.runs + times), 0.0).sum(1)
        return self.between * more / there.sum(1) ** 2


def additive(scores: Sequence[Mapping[tuple[int, int], float]]) -> Additive:
    """Each program's mean without the difficulty of its questions, and its standard error.

    Least squares of `program + question` over the means of each program's runs of each question. The error of such a
    mean has two variances: the program's own deviation on a question, which further runs of that question do not
    reduce, and the variance between runs, divided by their number. The second is known if a question ran more than
    once; it makes the error of a program that ran again on fresh seeds smaller.
    """
    places: dict[int, int] = {}
    for own in scores:
        for question, _ in own:
            places.setdefault(question, len(places))
    sums, runs, squares = np.zeros((len(scores), len(places))), np.zeros((len(scores), len(places))), 0.0
    for row, own in enumerate(scores):
        for (question, _), value in own.items():
            sums[row, places[question]] += value
            runs[row, places[question]] += 1
            squares += value**2
    there = (runs > 0).astype(float)
    share = there / np.maximum(runs, 1)  # weight of one run in its mean
    means, counts, cells = sums * share, there.sum(1), float(there.sum())
    level = float(means.sum()) / cells
    rest = np.where(there, means - level, 0.0)
    each = there / there.sum(0)
    # The questions' part is eliminated in terms of the programs'; if programs share none, the shortest solution is
    # taken.
    normal = np.diag(counts) - there @ each.T
    effect = np.linalg.pinv(normal, rcond=1e-9, hermitian=True) @ (rest.sum(1) - there @ (each * rest).sum(0))
    question = (each * (rest - effect[:, None])).sum(0)
    left = np.where(there, rest - effect[:, None] - question, 0.0)
    free = max(cells - len(scores) - len(places) + 1, 0.25 * cells, 1.0)  # minus the degrees of freedom of the fit
    variance = max(float(np.square(left).sum()) / free, 0.25 / max(cells, 4.0))  # a lower bound, for a few equal scores
    between, again = 0.0, float((runs - there).sum())
    if again >= ENOUGH:
        usual = float(share.sum()) / cells
        between = min((squares - float((sums * means).sum())) / again, variance / usual)
        variance -= between * usual
    program = level + effect + question.mean()  # over all questions, including those it did not run on
    noise = np.sqrt((variance * counts + between * share.sum(1)) / counts**2)
    return Additive(program, noise, between, runs)


def together(candidates: Sequence[Candidate]) -> list[Array]:
    """The distances between programs over all their operators: neighbours are near in each of them."""
    return [distances(candidates)]


def by_operator(candidates: Sequence[Candidate]) -> list[Array]:
    """The distances between programs in each operator that has a schedule of its own; one for all if they share it.
    What neighbours share then adds up: a program is the neighbour of another in each operator that they have in common
    or nearly so, whatever the others are."""
    places = dict.fromkeys(place for candidate in candidates for place in candidate.by_operator)
    if any(candidate.by_operator.keys() != places.keys() for candidate in candidates):
        return [distances(candidates)]
    return [distances([candidate.by_operator[place] for candidate in candidates]) for place in places]


def distances(first: Sequence[Candidate], second: Sequence[Candidate] | None = None) -> Array:
    """Distances between programs, in steps, over every axis of a schedule and every prompt; see `Axis.position`. A
    doubling of a width, a cap or kappa is about one step; so is another distiller or another prompt.

    Args:
        first: rows.
        second: columns; None is `first`.

    Returns:
        [len(first), len(second)]. The distances are Euclidean, so that a kernel over them is a covariance.
    """
    rows = [candidate.positions for candidate in first]
    return gaps(rows, rows if second is None else [candidate.positions for candidate in second])


def gaps(rows: Sequence[Mapping[str, float | str]], columns: Sequence[Mapping[str, float | str]]) -> Array:
    """Distances between programs given by their positions, as in `distances`."""
    squares = np.zeros((len(rows), len(columns)))
    for name in dict.fromkeys(name for side in (rows, columns) for positions in side for name in positions):
        squares += _squared(*([positions.get(name, 0.0) for positions in side] for side in (rows, columns)))
    return np.sqrt(squares)


def _squared(first: Sequence[float | str], second: Sequence[float | str]) -> Array:
    """Squared distances along one axis: of numbers by their difference, of texts 1 if they differ."""
    if all(isinstance(value, float) for value in (*first, *second)):
        return np.subtract.outer(np.array(first, dtype=float), np.array(second, dtype=float)) ** 2
    codes: dict[float | str, int] = {0.0: 0, "": 0}
    sides = [np.array([codes.setdefault(value, len(codes)) for value in side]) for side in (first, second)]
    return np.not_equal.outer(*sides).astype(float)
