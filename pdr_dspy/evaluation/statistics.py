"""Small-sample statistics of scores: pure functions over numbers, without models or files.

The unit is the question: repeats of one question are not independent, so intervals are clustered by question
(Miller 2024, arXiv 2411.00640).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache
from statistics import NormalDist, fmean, variance
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pdr_dspy.errors import ConfigError
from pdr_dspy.text.wrapping import tidy


class Interval(NamedTuple):
    """A confidence interval, in the unit of the estimated quantity."""

    low: float
    high: float


def score_interval(per_question: Sequence[float], *, level: float = 0.95) -> Interval:
    """Interval of a mean score in [0, 1], given each question's mean over its repeats.

    Student's t with N - 1 degrees of freedom over questions; Wilson's interval if every question is entirely right or
    entirely wrong, and its counterpart if all questions have the same score, where t has no width. With fewer than two
    questions: (0, 1).
    """
    n = len(per_question)
    if n < 2:
        return Interval(0.0, 1.0)
    if all(value in (0.0, 1.0) for value in per_question):
        return wilson(sum(per_question), n, level=level)
    if max(per_question) - min(per_question) < 1e-12:
        return _unvaried(per_question[0], n, lowest=0.0, level=level)
    low, high = mean_interval(per_question, level=level)
    return Interval(max(0.0, low), min(1.0, high))


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Student's t interval of a mean; unbounded for fewer than two values."""
    n = len(values)
    if n < 2:
        return Interval(-math.inf, math.inf)
    half = t_quantile(0.5 + level / 2, n - 1) * math.sqrt(variance(values) / n)
    mean = fmean(values)
    return Interval(mean - half, mean + half)


def _unvaried(value: float, n: int, *, lowest: float, level: float) -> Interval:
    """Interval of a mean in [lowest, 1] after n equal values: as many different values as Wilson's interval allows."""
    others = wilson(0, n, level=level).high
    return Interval(value - others * (value - lowest), value + others * (1.0 - value))


def wilson(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion."""
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def t_quantile(p: float, df: int) -> float:
    """Quantile of Student's t, by bisection on its distribution function."""
    if not 0.0 < p < 1.0 or df < 1:
        raise ValueError(f"`t_quantile(p={p}, df={df})` needs 0 < p < 1 and df >= 1")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, df: int) -> float:
    """P(T <= t) of Student's t with whole degrees of freedom, in closed form (Abramowitz and Stegun 26.7.3-4)."""
    theta = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    if df % 2:
        term, series = cosine, (cosine if df > 1 else 0.0)
        for i in range(3, df - 1, 2):
            term *= cosine * cosine * (i - 1) / i
            series += term
        area = 2 / math.pi * (theta + sine * series)
    else:
        term = series = 1.0
        for i in range(2, df - 1, 2):
            term *= cosine * cosine * (i - 1) / i
            series += term
        area = sine * series
    return 0.5 + area / 2


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that k of n samples, drawn without replacement, contain a correct one; nan if n < k (Chen 2021)."""
    if n < k or k < 1:
        return math.nan
    if n - correct < k:
        return 1.0
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


class Paired(NamedTuple):
    """The difference of two programs on the same questions."""

    difference: float
    """Mean score of the first minus that of the second."""
    interval: Interval
    p_value: float
    """Two-sided; exact binomial on discordant questions for 0/1 scores and for equal differences, t otherwise."""


def voted_score(ballots: Sequence[tuple[str | None, float]]) -> float:
    """The score of the most common answer, averaged over equally common ones; 0 without an answer.

    Args:
        ballots: answer and score of each vote, None for a vote without an answer. Answers that differ only in their
            wrapping are one answer, and have equal scores.
    """
    answered = [(tidy(answer), score) for answer, score in ballots if answer is not None]
    if not answered:
        return 0.0
    votes = Counter(answer for answer, _ in answered)
    most = max(votes.values())
    scores = dict(reversed(answered))
    return fmean(scores[answer] for answer, count in votes.items() if count == most)


def paired(first: Sequence[float], second: Sequence[float], *, level: float = 0.95) -> Paired:
    """Compare per-question scores of two programs on the same questions, in the same order.

    Raises ValueError when the lengths differ.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n = len(differences)
    if n < 2:
        return Paired(fmean(differences) if n else math.nan, Interval(-1.0, 1.0), 1.0)
    mean = fmean(differences)
    wins, losses = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    spread = math.sqrt(variance(differences) / n)
    if spread < 1e-12:  # equal except for rounding: t would be certain even with few
        return Paired(mean, _unvaried(mean, n, lowest=-1.0, level=level), sign_test(wins, losses))
    low, high = mean_interval(differences, level=level)
    interval = Interval(max(-1.0, low), min(1.0, high))
    if all(value in (0.0, 1.0) for value in (*first, *second)):
        return Paired(mean, interval, sign_test(wins, losses))
    return Paired(mean, interval, 2 * (1 - t_cdf(abs(mean) / spread, n - 1)))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial p-value of `wins` against `losses` at even odds; 1.0 when there are none."""
    n = wins + losses
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1)) / 2**n
    return min(1.0, 2 * tail)


def worse(differences: ArrayLike, *, questions: Sequence[Hashable] | None = None) -> float:
    """One-sided p-value of 'the first is not worse than the second'; small when the first is confidently worse.

    `differences` are first minus second, one for each question on which both ran, where more is better; nan, where one
    of them did not run, is left out. `questions` names the question of each difference: several of one question are
    averaged first, since they are not independent.

    The p-value is the fraction of sign patterns whose mean is no higher than the observed one (Fisher's paired
    permutation test), so 1.0 when nothing differs, and at least a half to the power of the number of questions that
    differ. If all of these differ by the same amount, as for 0/1 scores, it is the exact binomial test on discordant
    pairs. It is exact if the differences are whole multiples of some step, as means over equally many repeats are, and
    for up to 24 others. For more, such as many log costs, it is Lugannani and Rice's saddlepoint formula (1980): on 28
    and 32 differences p-values under 0.1 were off by 2 % (root mean square), and by 14 % at most, where a few
    differences dwarf the rest. Student's t is not used: with the ties of scores its p-values are a third too small.

    Raises ConfigError if a difference is infinite, or `questions` has another length.
    """
    values = _by_question(np.asarray(differences, dtype=float).ravel(), questions)
    sizes = np.abs(values)
    values, sizes = values[sizes > TINY], sizes[sizes > TINY]
    if not len(values):
        return 1.0
    values, sizes = values / sizes.max(), sizes / sizes.max()
    steps = _steps(sizes)
    if steps is not None:
        return _lattice_tail(steps, int(np.rint(steps * np.sign(values)).sum()))
    tail = _every_pattern if len(sizes) <= 24 else _saddlepoint
    return tail(sizes, float(values.sum()))


TINY = 1e-12
"""Smaller differences are rounding errors."""


def _by_question(values: NDArray[np.float64], questions: Sequence[Hashable] | None) -> NDArray[np.float64]:
    """Finite differences, one per question."""
    if np.isinf(values).any():
        raise ConfigError(
            "`worse(differences=...)`: a difference is infinite; leave failed runs out, or give them as nan"
        )
    known = ~np.isnan(values)
    if questions is None:
        return values[known]
    if len(questions) != len(values):
        raise ConfigError(
            f"`worse(questions=...)` names {len(questions)} questions for {len(values)} differences; give one for each"
        )
    groups: dict[Hashable, list[float]] = {}
    for question, value, kept in zip(questions, values.tolist(), known.tolist(), strict=True):
        if kept:
            groups.setdefault(question, []).append(value)
    return np.array([fmean(group) for group in groups.values()])


def _steps(sizes: NDArray[np.float64], most: int = 240) -> NDArray[np.int64] | None:
    """Sizes, the largest 1, as whole multiples of the largest step that divides them all; None if there is none.

    240 parts suffice for means over unequal numbers of repeats, such as 3, 4, 5 and 16, and are still cheap.
    """
    parts = np.arange(1, most + 1)[:, None] * sizes
    whole = np.abs(parts - np.rint(parts)).max(axis=1) < 1e-6
    if not whole.any() or len(sizes) * parts[np.argmax(whole)].sum() > 1e7:
        return None
    return np.rint(parts[np.argmax(whole)]).astype(np.int64)


def _lattice_tail(steps: NDArray[np.int64], observed: int) -> float:
    """P(sum of randomly signed steps <= observed), exactly: one convolution per step."""
    reach = int(steps.sum())
    below = np.zeros(reach + 1)  # number of patterns whose negative steps add up to the index
    below[0] = 1.0
    for step in steps.tolist():
        below[step:] += below[:-step].copy()
        below *= 0.5
    # sum = reach - 2 * negative <= observed
    return min(1.0, float(below[(reach - observed + 1) // 2 :].sum()))


def _every_pattern(sizes: NDArray[np.float64], observed: float) -> float:
    """P(sum of randomly signed sizes <= observed), from the sums of both halves."""
    half = len(sizes) // 2
    left, right = (_signed_sums(part) for part in (sizes[:half], sizes[half:]))
    room = observed + 1e-9 * sizes.sum() - right
    return int(np.searchsorted(np.sort(left), room, side="right").sum()) / 2 ** len(sizes)


def _signed_sums(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros(1)
    for size in sizes.tolist():
        sums = np.concatenate([sums - size, sums + size])
    return sums


def _saddlepoint(sizes: NDArray[np.float64], observed: float) -> float:
    """Approximately P(sum of randomly signed sizes <= observed), for sizes on no lattice."""
    normal, spread = NormalDist(), math.sqrt(float((sizes**2).sum()))
    if observed > 0:
        return 1.0 - _saddlepoint(sizes, -observed)
    if observed > -1e-3 * spread:  # the formula is 0/0 at the middle
        return normal.cdf(observed / spread)
    least = 0.5 ** len(sizes)
    if observed <= -sizes.sum() * (1 - 1e-9):
        return least
    low, high = -1.0, 0.0
    while float((sizes * np.tanh(low * sizes)).sum()) > observed:
        low *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float((sizes * np.tanh(middle * sizes)).sum()) < observed else (low, middle)
    tilt = np.abs(high * sizes)
    decay = np.exp(-2 * tilt)
    cumulant = float((tilt + np.log1p(decay) - math.log(2)).sum())
    second = float((sizes**2 * 4 * decay / (1 + decay) ** 2).sum())
    w, u = -math.sqrt(2 * (high * observed - cumulant)), high * math.sqrt(second)
    return max(least, normal.cdf(w) + normal.pdf(w) * (1 / w - 1 / u))


SpendingKind = Literal["pocock", "obrien-fleming"]


def spend(alpha: float, information: Sequence[float], kind: SpendingKind = "pocock") -> tuple[float, ...]:
    """For each look at growing data, the level for a one-sided p-value, such that all looks together err with
    probability at most `alpha`.

    `information` is the fraction of all questions seen at each look, increasing in (0, 1]: (8/30, 16/30, 1.0). Lan and
    DeMets (1983): "pocock" spends about evenly, "obrien-fleming" hardly anything early. The levels take into account
    that the looks share questions (recursive integration of Armitage, McPherson and Rowe, 1969), which leaves each more
    than its share of alpha. They are exact for normal means of independent questions.

    Raises ConfigError for an alpha outside (0, 0.5], fractions that do not increase in (0, 1], and an unknown kind.
    """
    shares = tuple(float(share) for share in information)
    if not 0.0 < alpha <= 0.5:
        raise ConfigError(f"`spend(alpha={alpha})`: give a share in (0, 0.5]")
    if not shares or not all(a < b for a, b in zip((0.0, *shares), shares, strict=False)) or shares[-1] > 1.0:
        raise ConfigError(f"`spend(information={list(shares)})`: give shares that increase in (0, 1]")
    if kind not in get_args(SpendingKind):
        raise ConfigError(f'`spend(kind={kind!r})`: give "pocock" or "obrien-fleming"')
    return _levels(alpha, shares, kind)


def _spent(alpha: float, share: float, kind: SpendingKind) -> float:
    """The part of alpha that may be spent at this fraction of the information."""
    if kind == "pocock":
        return alpha * math.log1p((math.e - 1) * share)
    return math.erfc(-NormalDist().inv_cdf(alpha / 2) / math.sqrt(2 * share))


@lru_cache(maxsize=256)
def _levels(alpha: float, shares: tuple[float, ...], kind: SpendingKind) -> tuple[float, ...]:
    """Nominal levels, by integrating the density of the sums not yet stopped from look to look."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    levels: list[float] = []
    places, masses = np.zeros(1), np.ones(1)  # values of the sum, and their probabilities
    before, spent = 0.0, 0.0
    for share in shares:
        now = _spent(alpha, share, kind)
        deviation = math.sqrt(share - before)
        widest = 9.0 * math.sqrt(share)
        low, high = -widest, widest
        for _ in range(40):
            middle = (low + high) / 2
            crossing = float(masses @ _upper((middle - places) / deviation))
            low, high = (middle, high) if crossing > now - spent else (low, middle)
        levels.append(0.5 * math.erfc(high / math.sqrt(2 * share)))
        grid = (high - widest) / 2 + nodes * (high + widest) / 2
        kernel = np.exp(-0.5 * ((grid[:, None] - places) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
        masses = (kernel @ masses) * weights * (high + widest) / 2
        places, before, spent = grid, share, now
    return tuple(levels)


def _upper(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper tail of the normal distribution."""
    return np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in z.tolist()])


def resamples(n_questions: int, count: int, seed: int) -> NDArray[np.intp]:
    """`count` bootstrap draws of `n_questions` questions with replacement: indices, one row per draw.

    Draw questions with all of their repeats, and use the same draws for every program, so that comparisons are paired.
    Raises ConfigError if there is nothing to draw.
    """
    if n_questions < 1 or count < 1:
        raise ConfigError(f"`resamples(n_questions={n_questions}, count={count})`: both must be at least 1")
    return np.random.default_rng(seed).integers(0, n_questions, size=(count, n_questions), dtype=np.intp)


class Shrunk(NamedTuple):
    """The combination of an arm's own mean with the pool of all arms."""

    mean: float
    variance: float
    weight: float
    """The weight of the arm's own mean, in [0, 1]; the rest is that of the pool's mean."""


def shrink(means: Sequence[float], variances: Sequence[float]) -> list[Shrunk]:
    """Empirical Bayes estimates of the arms' true means, from their measured means and the variances of these.

    The highest of many measured means is partly luck; shrinking it toward the pool by the share of noise removes that
    bias. The spread of true means is DerSimonian and Laird's (1986). Variances below a quarter of the pool's mean
    variance are raised to it, since an arm that is right on every question still has an unknown error. The variance of
    an estimate follows Morris (1983), with (k - 1)/(k + 1) for his (k - 3)/(k - 1) so that it holds from two arms on:
    simulated 95 % intervals cover in 93 to 99 %. A single arm, and arms that all have variance 0, are unchanged.

    Give the variances of the arms' differences: on the same questions, of the deviations from the questions' means
    (`search.uncertainty.shrunk` does that). Raises ConfigError if the lengths differ, a mean is not finite, or a
    variance is negative or not finite.
    """
    y, v = np.asarray(means, dtype=float), np.asarray(variances, dtype=float)
    if y.shape != v.shape or y.ndim != 1:
        raise ConfigError(f"`shrink(means, variances)`: {y.size} means and {v.size} variances; give one for each arm")
    if not (np.isfinite(y).all() and np.isfinite(v).all() and (v >= 0).all()):
        raise ConfigError(
            f"`shrink(means={y.tolist()}, variances={v.tolist()})`: give finite ones, variances at least 0"
        )
    k = len(y)
    if k < 2 or v.max() < TINY**2:
        return [Shrunk(mean, noise, 1.0) for mean, noise in zip(y.tolist(), v.tolist(), strict=True)]
    v = np.maximum(v, v.mean() / 4)
    w = 1 / v
    scatter = float(w @ (y - (w @ y) / w.sum()) ** 2)
    between = max(0.0, (scatter - (k - 1)) / float(w.sum() - (w @ w) / w.sum()))
    w = 1 / (v + between)
    pool, drawn = float(w @ y) / float(w.sum()), v * w
    estimates = pool + (1 - drawn) * (y - pool)
    noise = v * (1 - drawn * (k - 1) ** 2 / (k * (k + 1))) + 2 / (k + 1) * drawn**2 * (y - pool) ** 2
    return [Shrunk(*row) for row in zip(estimates.tolist(), noise.tolist(), (1 - drawn).tolist(), strict=True)]
