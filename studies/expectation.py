"""What a pick among drafts is expected to score: exact sums over which drafts are sampled, and over a check's errors.

A check is described by two rates. It passes a wrong draft with the probability `false_positive`, fails a right one with
`false_negative`, and errs on each draft by itself. Of the drafts that pass one is taken at random, and where none
passes one of all. Drafts that cannot be read are never taken where there is another.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import fmean
from typing import NamedTuple


class Drafts(NamedTuple):
    """The drafts of a question, as many as were sampled of it."""

    scores: tuple[float, ...]
    """1 for a right one, 0 for a wrong one."""
    checks: tuple[float | None, ...]
    """What the check gave each; None where it gave nothing."""
    answers: tuple[int | None, ...]
    """Equal numbers for equal answers; None where none could be read."""

    def at(self, places: Sequence[int]) -> Drafts:
        """Some of the drafts."""
        return Drafts(
            tuple(self.scores[place] for place in places),
            tuple(self.checks[place] for place in places),
            tuple(self.answers[place] for place in places),
        )

    @property
    def counts(self) -> tuple[int, int, int]:
        """Right ones, wrong ones that can be read, and wrong ones that cannot."""
        right = sum(score >= 0.5 for score in self.scores)
        unread = sum(answer is None and score < 0.5 for answer, score in zip(self.answers, self.scores, strict=True))
        return right, len(self.scores) - right - unread, unread


def binomial(n: int, p: float) -> list[float]:
    """How probable each number of successes in n is."""
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@lru_cache(maxsize=200_000)
def chosen(right: int, wrong: int, false_positive: float, false_negative: float) -> float:
    """Expected score of the draft that such a check picks among `right` right and `wrong` wrong ones.

    With A right and B wrong drafts that pass it is A / (A + B), and right / (right + wrong) where none passes; A and B
    are binomial. 0 where there is no draft.
    """
    if right == 0:
        return 0.0
    total = 0.0
    passing = binomial(wrong, false_positive)
    for a, chance in enumerate(binomial(right, 1 - false_negative)):
        for b, other in enumerate(passing):
            share = a / (a + b) if a + b else right / (right + wrong)
            total += chance * other * share
    return total


@lru_cache(maxsize=200_000)
def best_of(counts: tuple[int, int, int], n: int, false_positive: float, false_negative: float) -> float:
    """Expected score of best-of-n by such a check, over all choices of n of a question's drafts.

    Args:
        counts: how many of the drafts are right, wrong, and cannot be read.
        n: how many are sampled, without replacement.
        false_positive: how often a wrong draft that can be read passes, a fraction.
        false_negative: how often a right draft fails, a fraction.
    """
    right, wrong, unread = counts
    total = 0.0
    for j in range(min(n, right) + 1):
        for i in range(max(0, n - j - unread), min(n - j, wrong) + 1):
            ways = math.comb(right, j) * math.comb(wrong, i) * math.comb(unread, n - j - i)
            total += ways * chosen(j, i, false_positive, false_negative)
    return total / math.comb(sum(counts), n)


def over_samples(drafts: Drafts, n: int, pick: Callable[[Drafts], float]) -> float:
    """Mean of `pick` over all choices of n of a question's drafts."""
    return fmean(pick(drafts.at(places)) for places in itertools.combinations(range(len(drafts.scores)), n))


def by_vote(drafts: Drafts) -> float:
    """Expected score of the most common answer: of equally common ones each is first equally often."""
    return _plurality(drafts, [place for place, answer in enumerate(drafts.answers) if answer is not None])


def by_check(drafts: Drafts) -> float:
    """Expected score of the draft with the highest check; of equally high ones the most common answer."""
    readable = [place for place, answer in enumerate(drafts.answers) if answer is not None]
    values = {place: -1.0 if (value := drafts.checks[place]) is None else value for place in readable}
    return _plurality(drafts, [place for place in readable if values[place] == max(values.values())])


def _plurality(drafts: Drafts, places: Sequence[int]) -> float:
    if not places:
        return 0.0
    votes = Counter(drafts.answers[place] for place in places)
    leading = [answer for answer, count in votes.items() if count == max(votes.values())]
    return fmean(
        fmean(drafts.scores[place] for place in places if drafts.answers[place] == answer) for answer in leading
    )


# ------------------------------------------------------------------------------------------- questions that vary


def beta_binomial(n: int, mean: float, spread: float) -> list[float]:
    """How probable each number of right drafts is among n, where the chance of a right one varies between questions.

    The chance is Beta-distributed with this mean; `spread` in [0, 1] is the correlation of two drafts of a question:
    0 when all questions are alike, 1 when each is always right or always wrong.
    """
    if spread >= 1.0:
        return [1 - mean, *[0.0] * (n - 1), mean] if n else [1.0]

    def rising(share: float, count: int) -> float:
        return math.prod(share * (1 - spread) + i * spread for i in range(count))

    whole = rising(1.0, n)
    return [math.comb(n, k) * rising(mean, k) * rising(1 - mean, n - k) / whole for k in range(n + 1)]


@lru_cache(maxsize=50_000)
def vote_wins(right: int, wrong: int, wrong_answers: float) -> float:
    """How often `right` equal right answers win a vote against wrong ones, spread evenly over so many wrong answers.

    Ties are broken at random. By exponential generating functions: the votes of each wrong answer are below or equal
    to those of the right one. A number of wrong answers between two whole ones is interpolated in its inverse, which
    is how often two wrong drafts agree; `math.inf` means that they never do.
    """
    if right == 0:
        return 0.0
    if wrong_answers == math.inf:
        return 1.0 if right > 1 or not wrong else 1.0 / (1 + wrong)
    low, high = math.floor(wrong_answers), math.ceil(wrong_answers)
    if low != high:
        share = (1 / wrong_answers - 1 / high) / (1 / low - 1 / high)
        return share * vote_wins(right, wrong, low) + (1 - share) * vote_wins(right, wrong, high)
    if low > 400:  # so many that two of a few drafts hardly ever agree
        return vote_wins(right, wrong, math.inf)
    below = [1 / (math.factorial(i) * low**i) for i in range(min(right, wrong + 1))]
    equal = 1 / (math.factorial(right) * low**right)
    total = 0.0
    for ties in range(wrong // right + 1 if right <= wrong else 1):
        rest = wrong - ties * right
        if ties > low:
            break
        total += math.comb(low, ties) * equal**ties * _power(below, low - ties, rest) / (1 + ties)
    return min(1.0, total * math.factorial(wrong))


def _power(series: Sequence[float], power: int, degree: int) -> float:
    """The coefficient of x^degree in a power of a polynomial."""
    found = [1.0, *[0.0] * degree]
    base = [*series[: degree + 1], *[0.0] * max(0, degree + 1 - len(series))]
    while power:
        if power & 1:
            found = _times(found, base)
        base = _times(base, base)
        power >>= 1
    return found[degree]


def _times(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [sum(first[i] * second[k - i] for i in range(k + 1)) for k in range(len(first))]
