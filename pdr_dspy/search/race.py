"""When a race goes on without a program: pure rules over what ran on the same (question, seed) pairs.

Looks come at growing numbers of pairs. At each, the better half stays untested; of the others those go that are surely
worse than the best: by an exact paired test, with the error of all looks together spent a part at a time (Lan and
DeMets 1983). Halving alone would drop equal programs by chance (peers measured at 20 to 70 %).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple, Protocol

from pdr_dspy.search.pareto import COSTS, Limits, dominates
from pdr_dspy.stats import spend, worse

CERTAIN = 2.5
"""Standard errors by which a mean cost is over a limit before a program is dropped for it."""


class Measured(Protocol):
    """One program on one pair."""

    @property
    def score(self) -> float: ...
    @property
    def sequential(self) -> float: ...
    @property
    def total(self) -> float: ...


class Run(NamedTuple):
    """What a program did on the pairs of the race so far, in their order."""

    cells: Sequence[Measured]

    @property
    def score(self) -> float:
        """Mean, a fraction."""
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
    """After how many pairs the race looks: `first`, then `eta` times as many, and so on; the last look is at all."""
    ends: list[int] = []
    size = float(first)
    while size < pairs:
        ends.append(int(size))
        size *= eta
    return (*ends, pairs)


def levels(alpha: float, information: Sequence[float]) -> tuple[float, ...]:
    """The error that each look may spend, given the share of all pairs that it has seen."""
    return tuple(spend(alpha, information))


def over(run: Run, limits: Limits) -> str | None:
    """The limit that a program surely breaks, "sequential" or "total"; None when it may keep both."""
    for name, limit in zip(COSTS, limits, strict=True):
        values = [getattr(cell, name) for cell in run.cells]
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
) -> dict[int, int]:
    """Which programs are surely worse than another, and than which.

    Args:
        runs: the programs that are tested.
        rivals: the programs that they are held against, themselves among them, on the same pairs.
        questions: the question of each pair; repeats of one are averaged before a test.
        level: most probability that a program which is as good is named.
        keep: share of `runs`, the best, that are not tested.
        pareto: a program is worse only if another is in the score and in both costs.
    """
    if not rivals:
        return {}
    ordered = sorted(runs, key=lambda number: (-runs[number].score, runs[number].total, number))
    tested = ordered[math.ceil(len(ordered) * keep) :]
    best = max(rivals, key=lambda number: (rivals[number].score, -rivals[number].total, -number))
    gone: dict[int, int] = {}
    for number in tested:
        against = [best] if not pareto else [other for other in rivals if dominates(rivals[other], runs[number])]
        for other in against:
            if other != number and _p(runs[number], rivals[other], questions) <= level / len(against):
                gone[number] = other
                break
    return gone


def _p(run: Run, rival: Run, questions: Sequence[int]) -> float:
    """The chance of a deficit like this if the program were as good as its rival."""
    differences: dict[int, list[float]] = {}
    for question, own, other in zip(questions, run.cells, rival.cells, strict=True):
        differences.setdefault(question, []).append(own.score - other.score)
    return worse([fmean(values) for values in differences.values()])
