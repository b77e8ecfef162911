"""Means over many random splits of one set of questions, and how sure they are.

Splits overlap, so that their spread says nothing about other questions: questions are drawn again with replacement, and
two splits of each such sample are made. Equal questions are on one side of a split. The variance within the pairs is
that of the splits, and what the samples vary by beyond it that of the questions. With few samples that may be far too
little by chance: it is at least what the held-out scores of the questions vary by.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean, variance
from typing import NamedTuple

from pdr_dspy.evaluation.statistics import Interval, t_quantile


class Split(NamedTuple):
    """Questions by number; equal ones are never on both sides."""

    searched: tuple[int, ...]
    held: tuple[int, ...]


def split_of(questions: int, number: int) -> Split:
    """A random half of the questions, and the other half."""
    order = list(range(questions))
    random.Random(f"split|{questions}|{number}").shuffle(order)
    half = questions - questions // 2
    return Split(tuple(order[:half]), tuple(order[half:]))


def resampled(questions: int, number: int, again: int) -> Split:
    """A split of questions drawn with replacement; `again` tells apart the splits of one such sample."""
    drawn = random.Random(f"sample|{questions}|{number}").choices(range(questions), k=questions)
    different = sorted(set(drawn))
    random.Random(f"sample|{questions}|{number}|{again}").shuffle(different)
    searched = set(different[: len(different) - len(different) // 2])
    return Split(tuple(q for q in drawn if q in searched), tuple(q for q in drawn if q not in searched))


class Estimate(NamedTuple):
    """A mean over splits."""

    value: float
    interval: Interval


def estimate(splits: Sequence[float], samples: Sequence[tuple[float, float]], questions: Sequence[float]) -> Estimate:
    """The mean of a figure over splits, with its interval over questions.

    Args:
        splits: the figure of each split of the questions.
        samples: of both splits of each sample of the questions.
        questions: the part of each question in the mean, over the splits in which it was held out.
    """
    value = fmean(splits)
    within = fmean((one - other) ** 2 / 2 for one, other in samples)
    between = variance([(one + other) / 2 for one, other in samples]) - within / 2
    least = variance(questions) / len(questions)
    error = math.sqrt(max(between, least) + variance(splits) / len(splits))
    reach = t_quantile(0.975, len(questions) - 1) * error
    return Estimate(value, Interval(value - reach, value + reach))
