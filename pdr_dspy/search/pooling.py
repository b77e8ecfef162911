"""One estimate for every program of a search, from all that was measured of all of them.

Programs run on the same questions, some on fewer than others, and similar schedules have similar scores. So a score is
taken apart as `program + question + noise`, and the programs' part is given a Gaussian process over their schedules as
its prior: an estimate leans on its neighbours as much as they agree in fact. The highest of many raw means is high by
luck; the posterior mean is not, as far as the prior holds (empirical Bayes; Efron and Morris 1973, and Rasmussen and
Williams 2006, chapter 5, for the marginal likelihood that sets the prior's width).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdr_dspy.schedule import USES_K, Schedule
from pdr_dspy.search.space import Candidate, canonical

Array = NDArray[np.float64]

SPREADS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.3)
"""Prior standard deviations of a program's score that are tried, as fractions."""
SHARES = (0.0, 0.5, 0.9, 0.99)
"""Shares of that variance that neighbours have in common."""
LENGTHS = (0.7, 1.5, 3.0)
"""Distances, in steps of an axis, over which they do."""


@dataclass(frozen=True)
class Surface:
    """Scores over schedules, as far as they are known: a posterior for the programs that were measured, and for any
    other."""

    candidates: tuple[Candidate, ...]
    mean: Array
    """Posterior mean of each measured program, in the order in which they were given."""
    sd: Array
    """Its posterior standard deviation."""
    adjusted: Array
    """The programs' own means, differences in the questions that they ran on taken out: what the posterior shrinks."""
    noise: Array
    """Standard errors of those."""
    spread: float
    """Prior standard deviation of a program's score."""
    share: float
    length: float

    def draw(self, others: Sequence[Candidate], rng: np.random.Generator, count: int = 1) -> Array:
        """Scores of other programs drawn from the posterior, jointly: [count, len(others)]."""
        between = self._kernel(distances(others, self.candidates))
        prior = self._kernel(distances(others)) + self.spread**2 * (1 - self.share) * np.eye(len(others))
        own = self._kernel(distances(self.candidates)) + self.spread**2 * (1 - self.share) * np.eye(len(self.mean))
        inverse = np.linalg.inv(own + np.diag(self.noise**2))
        weight = inverse.sum(1)
        level = float(weight @ self.adjusted) / float(weight.sum())
        gain = between @ inverse
        drag = 1.0 - gain.sum(1)  # what an error of the common level does to each
        covariance = prior - gain @ between.T + np.outer(drag, drag) / float(weight.sum())
        mean = level + gain @ (self.adjusted - level)
        factor = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(others)))
        return mean + rng.standard_normal((count, len(others))) @ factor.T

    def _kernel(self, gaps: Array) -> Array:
        return self.spread**2 * self.share * np.exp(-0.5 * (gaps / self.length) ** 2)


def pool(scores: Sequence[Mapping[tuple[int, int], float]], candidates: Sequence[Candidate]) -> Surface:
    """Estimate the mean score of every program.

    Args:
        scores: of each program, by (question, repeat); each needs at least one.
        candidates: the programs, in the same order.
    """
    count = len(scores)
    adjusted, noise = _additive(scores)
    gaps = distances(candidates)
    near = {length: np.exp(-0.5 * (gaps / length) ** 2) for length in LENGTHS}
    own = np.eye(count)
    best: tuple[float, Array, Array, tuple[float, float, float]] | None = None
    for spread, share in itertools.product(SPREADS, SHARES):
        for length in LENGTHS if share else LENGTHS[:1]:
            prior = spread**2 * ((1 - share) * own + share * near[length])
            likelihood, mean, sd = _posterior(adjusted, noise**2, prior)
            # A weak preference for a middling spread and for neighbours: two programs alone say nothing of either.
            value = likelihood - 0.5 * (math.log(spread / 0.05) / 1.5) ** 2 - 0.5 * (share < 0.9)
            if best is None or value > best[0]:
                best = (value, mean, sd, (spread, share, length))
    assert best is not None
    return Surface(tuple(candidates), best[1], best[2], adjusted, noise, *best[3])


def _posterior(values: Array, noise: Array, prior: Array) -> tuple[float, Array, Array]:
    """Log marginal likelihood, posterior mean and standard deviation, with a common mean fitted along."""
    total = prior + np.diag(noise)
    factor = np.linalg.cholesky(total)
    inverse = np.linalg.inv(factor)
    inverse = inverse.T @ inverse
    ones = np.ones(len(values))
    weight = inverse @ ones
    precision = float(ones @ weight)
    mean = float(weight @ values) / precision
    rest = values - mean
    fit = inverse @ rest
    likelihood = -0.5 * float(rest @ fit) - float(np.log(np.diag(factor)).sum()) - 0.5 * math.log(precision)
    posterior = mean + prior @ fit
    drag = ones - prior @ weight  # what an error of the common mean does to each
    variance = np.diag(prior) - np.einsum("ij,ji->i", prior @ inverse, prior) + drag**2 / precision
    return likelihood, posterior, np.sqrt(np.maximum(variance, 1e-12))


def _additive(scores: Sequence[Mapping[tuple[int, int], float]]) -> tuple[Array, Array]:
    """Each program's mean with the questions' own difficulty taken out, and its standard error.

    Least squares of `program + (question, repeat)`, by turns. Repeats of a question are averaged before the spread is
    taken: they are not independent.
    """
    pairs = sorted({pair for own in scores for pair in own})
    place = {pair: index for index, pair in enumerate(pairs)}
    table = np.full((len(scores), len(pairs)), np.nan)
    for row, own in enumerate(scores):
        for pair, value in own.items():
            table[row, place[pair]] = value
    there = ~np.isnan(table)
    filled = np.where(there, table, 0.0)
    per_row, per_column = there.sum(1), there.sum(0)
    program = filled.sum(1) / per_row
    question = np.zeros(len(pairs))
    if not there.all():
        for _ in range(50):
            question = (filled - np.where(there, program[:, None], 0.0)).sum(0) / per_column
            question -= question.mean()
            before = program
            program = (filled - np.where(there, question[None, :], 0.0)).sum(1) / per_row
            if float(np.abs(program - before).max()) < 1e-9:
                break
    else:
        question = filled.mean(0) - filled.mean()
    residual = np.where(there, filled - program[:, None] - question[None, :], 0.0)
    names = sorted({pair[0] for pair in pairs})
    column = {name: index for index, name in enumerate(names)}
    sums, sizes = np.zeros((len(scores), len(names))), np.zeros((len(scores), len(names)))
    for index, pair in enumerate(pairs):
        sums[:, column[pair[0]]] += np.where(there[:, index], residual[:, index], 0.0)
        sizes[:, column[pair[0]]] += there[:, index]
    counts = (sizes > 0).sum(1)
    places = float(counts.sum())
    squares = float(np.square(sums / np.maximum(sizes, 1)).sum())
    free = max(places - len(scores) - len(names) + 1, 0.25 * places, 1.0)  # what the fit used up
    variance = max(squares / free, 0.25 / max(places, 4.0))  # nobody is sure after a few equal scores
    return program, np.sqrt(variance / counts)


def distances(first: Sequence[Candidate], second: Sequence[Candidate] | None = None) -> Array:
    """How far programs are apart, in steps: a doubling of a width, a cap or kappa is about one; so is another distiller
    or another prompt. [len(first), len(second)]; `second` is `first` when it is left out."""
    left, right = list(first), list(first if second is None else second)
    numbers = [np.array([_numbers(c.schedule) for c in side], dtype=float) for side in (left, right)]
    gaps = (numbers[0] ** 2).sum(1)[:, None] + (numbers[1] ** 2).sum(1)[None, :] - 2 * numbers[0] @ numbers[1].T
    kinds = [[_kinds(candidate) for candidate in side] for side in (left, right)]
    for position in range(len(kinds[0][0])):
        names: dict[str, int] = {}
        columns = [np.array([names.setdefault(kind[position], len(names)) for kind in side]) for side in kinds]
        gaps += columns[0][:, None] != columns[1][None, :]
    return np.sqrt(np.maximum(gaps, 0.0))


def _numbers(schedule: Schedule) -> list[float]:
    schedule = canonical(schedule)
    widths = [math.log2(width) for width in schedule.widths[:-1]]
    later = schedule.rounds > 1
    return [
        float(schedule.rounds),
        *(0.7 * (widths[place] if place < len(widths) else 0.0) for place in range(3)),
        0.7 * math.log2(schedule.kappa / 1024) if later else 0.0,
        0.7 * math.log2(schedule.k) if later and schedule.distiller in USES_K else 0.0,
        math.log2(schedule.draft_tokens / 1024),
        0.7 * math.log2(schedule.final / 1024) if later else 0.0,
        0.5 * math.log2(1 + schedule.thinking_tokens / 256),
        2.0 * schedule.temperature,
    ]


def _kinds(candidate: Candidate) -> tuple[str, ...]:
    schedule = canonical(candidate.schedule)
    prompts = [*sorted(candidate.instructions.items()), *sorted((r, str(d)) for r, d in candidate.demos.items())]
    distiller = schedule.distiller if schedule.rounds > 1 else ""
    early = f"{schedule.quorum} {schedule.agree}"
    return (distiller, str(schedule.critique), str(schedule.tally), early, repr(prompts))
