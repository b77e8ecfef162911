"""Small-sample statistics of scores: pure functions over numbers, no model, no file.

The unit is the question: repeats of one question are not independent, so intervals are clustered by question
(Miller 2024, arXiv 2411.00640).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, variance
from typing import NamedTuple


class Interval(NamedTuple):
    """A confidence interval, in the unit of what it is of."""

    low: float
    high: float


def score_interval(per_question: Sequence[float], *, level: float = 0.95) -> Interval:
    """Interval of a mean score in [0, 1], given each question's mean over its repeats.

    Student's t with N - 1 degrees of freedom over questions; Wilson's interval where every question is all right or
    all wrong, and its counterpart where all questions have the same score, since t has no width there. One question or
    none says nothing: (0, 1).
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
    """Interval of a mean in [lowest, 1] after n equal values: as many others as Wilson allows for, anywhere."""
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
    """Chance that k of n samples, drawn without replacement, hold a correct one; nan when n < k (Chen 2021)."""
    if n < k or k < 1:
        return math.nan
    if n - correct < k:
        return 1.0
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


class Paired(NamedTuple):
    """A difference of two programs on the same questions."""

    difference: float
    """Mean score of the first minus that of the second."""
    interval: Interval
    p_value: float
    """Two-sided; exact binomial on discordant questions for 0/1 scores and for equal differences, t otherwise."""


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
    if spread < 1e-12:  # all the same but for rounding: t would be certain of it, however few they are
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
