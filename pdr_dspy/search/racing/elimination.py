"""The elimination rule of a race: pure functions over runs on the same (question, seed) pairs.

Tests come after growing numbers of pairs. Each keeps the better half and drops those of the other programs that are
confidently worse than the best, by an exact paired test whose error is spent over all tests of the race together (Lan
and DeMets 1983). Plain halving would drop equal programs by chance (20 to 70 %, as measured in other tools).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from pdr_dspy.evaluation.statistics import spend, worse
from pdr_dspy.search.racing.pareto import COSTS, Costed, Limits, dominates
from pdr_dspy.search.racing.resampling import Outcomes, confidently_dominated

CERTAIN = 2.5
"""Standard errors by which a mean cost must exceed a limit before a program is dropped for it."""


class Run(NamedTuple):
    """The results of a program on the pairs of the race so far, in their order."""

    cells: Sequence[Costed]

    @property
    def score(self) -> float:
        """Mean score, a fraction."""
        return fmean(cell.score for cell in self.cells)

    @property
    def sequential(self) -> float:
        """Mean B_seq, in tokens."""
        return fmean(cell.sequential for cell in self.cells)

    @property
    def total(self) -> float:
        """Mean B_total, in tokens."""
        return fmean(cell.total for cell in self.cells)


def looks(pairs: int, first: int, eta: float) -> tuple[int, ...]:
    """The numbers of pairs after which a race is tested: `first`, then `eta` times as many, and so on, up to all."""
    ends: list[int] = []
    size = float(first)
    while size < pairs:
        if not ends or int(size) > ends[-1]:  # a small `eta` may add less than one pair
            ends.append(int(size))
        size *= eta
    return (*ends, pairs)


def levels(alpha: float, information: Sequence[float]) -> tuple[float, ...]:
    """The error that each test may spend, given the share of all pairs that it uses."""
    return tuple(spend(alpha, information))


def over(run: Run, limits: Limits) -> str | None:
    """The limit that a program is confidently over, "sequential", "total" or "cost"; None when it may keep all."""
    for name, limit in limits._asdict().items():
        values = [value for cell in run.cells if (value := getattr(cell, name, None)) is not None]
        if limit is None or len(values) < 2:
            continue
        if fmean(values) - CERTAIN * stdev(values) / math.sqrt(len(values)) > limit:
            return name
    return None


def beaten(
    runs: Mapping[int, Run],
    rivals: Mapping[int, Run],
    questions: Sequence[int],
    *,
    level: float,
    keep: float,
    pareto: bool,
    leader: int | None = None,
) -> dict[int, int]:
    """The programs that are confidently worse than a rival, with that rival, by number.

    Args:
        runs: the programs that are tested.
        rivals: the programs that they are compared with, including themselves, on the same pairs.
        questions: the question of each pair; repeats of a question are averaged before a test.
        level: the largest probability of naming a program that is as good.
        keep: share of `runs`, the best, that are not tested.
        pareto: whether a program is worse only if a rival is better in the score and in both costs.
        leader: the rival to test against, chosen by more than its scores on these pairs. None chooses the one with the
            best scores, the luckiest of many, so the level is divided by their number.
    """
    others = list(rivals)
    if not others:
        return {}
    ordered = sorted(runs, key=lambda number: (-runs[number].score, runs[number].total, number))
    tested = ordered[math.ceil(len(ordered) * keep) :]
    if pareto:
        return _dominated(tested, runs, rivals, questions, level)
    if leader is None:
        leader = max(others, key=lambda number: (rivals[number].score, -rivals[number].total, -number))
        level /= max(1, len(others) - 1)
    return {
        number: leader for number in tested if number != leader and _p(runs[number], rivals[leader], questions) <= level
    }


def _dominated(
    tested: Sequence[int], runs: Mapping[int, Run], rivals: Mapping[int, Run], questions: Sequence[int], level: float
) -> dict[int, int]:
    numbers = list(dict.fromkeys([*rivals, *tested]))
    rows = [rivals.get(number) or runs[number] for number in numbers]
    outcomes = Outcomes(*(np.array([_means(row, name, questions) for row in rows]) for name in ("score", *COSTS)))
    dropped: dict[int, int] = {}
    for number in tested:
        better = [other for other in rivals if other != number and dominates(rivals[other], runs[number])]
        for other in better:
            places = numbers.index(number), [numbers.index(other)]
            if confidently_dominated(outcomes, *places, level, among=len(rivals)):
                dropped[number] = other
                break
    return dropped


def _means(run: Run, name: str, questions: Sequence[int]) -> list[float]:
    """The mean figure of each question over its repeats."""
    values: dict[int, list[float]] = {}
    for question, cell in zip(questions, run.cells, strict=True):
        values.setdefault(question, []).append(getattr(cell, name))
    return [fmean(own) for own in values.values()]


def _p(run: Run, rival: Run, questions: Sequence[int]) -> float:
    """The probability of a deficit at least as large if the program were as good as its rival."""
    own, other = _means(run, "score", questions), _means(rival, "score", questions)
    return worse([a - b for a, b in zip(own, other, strict=True)])
