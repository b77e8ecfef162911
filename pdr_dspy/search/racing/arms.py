"""The programs of a search with everything measured of them, and the result of the search.

An arm keeps its cells; what they are worth together with all others' is in `standing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from pdr_dspy.evaluation.statistics import Interval
from pdr_dspy.search.racing.requests import Cell, Pair
from pdr_dspy.search.space.candidate import Candidate


@dataclass
class Arm:
    """One program in the search."""

    number: int
    origin: str
    candidate: Candidate
    cohort: int
    free: bool = False
    """Whether it is no trial, since it repeats calls of others."""
    race: dict[Pair, Cell] = field(default_factory=dict)
    final: dict[Pair, Cell] = field(default_factory=dict)
    dropped: str | None = None
    """Why it was dropped from the race; None if it ran the complete race."""
    paid: int = 0
    """Tokens of its calls in the race that no earlier program had made."""
    saved: int = 0
    """Tokens of its calls in the race that an earlier program had made."""

    _means: tuple[int, tuple[float, float, float]] = field(default=(-1, (0.0, 0.0, 0.0)), repr=False, compare=False)
    """Means for a number of cells, cached: a choice among all programs reads them again and again."""

    @property
    def score(self) -> float:
        """Mean score over the pairs that it ran, a fraction."""
        return self._mean()[0]

    @property
    def sequential(self) -> float:
        """Mean B_seq, in tokens."""
        return self._mean()[1]

    @property
    def total(self) -> float:
        """Mean B_total, in tokens."""
        return self._mean()[2]

    @property
    def cost(self) -> float | None:
        """Mean cost in the unit of the models' prices; None if a price is unknown."""
        costs = [cell.cost for cell in self.race.values()]
        known = [cost for cost in costs if cost is not None]
        return fmean(known) if known and len(known) == len(costs) else None

    def _mean(self) -> tuple[float, float, float]:
        if self._means[0] != len(self.race):  # cells are added, and never change
            cells = self.race.values()
            found = (fmean(c.score for c in cells), fmean(c.sequential for c in cells), fmean(c.total for c in cells))
            self._means = (len(self.race), found)
        return self._means[1]


class Finalist(NamedTuple):
    """A program that was run again on fresh seeds."""

    number: int
    race: float
    """The score by which it was selected, a fraction: biased upwards, since the luckiest are selected."""
    fresh: float
    """Its score on the same questions with fresh seeds."""
    pooled: float
    """The estimate from both, shrunk towards the other programs: used for the choice among finalists."""
    interval: Interval
    """95 % interval of `pooled` on these questions: of the luck of the runs alone. On other questions the score differs
    by more; the confirmation's interval is about those."""
    sequential: float
    total: float


@dataclass(frozen=True)
class Found:
    """The result of the search."""

    arms: tuple[Arm, ...]
    """All arms in the order of their numbers; the student first."""
    estimates: Mapping[int, tuple[float, float]]
    """Pooled score and its standard deviation, by number."""
    finalists: tuple[Finalist, ...]
    """The chosen one first; includes the student's fresh runs."""
    chosen: int | None
    """The number of the confirmed program; None if none is within the limits."""
    confirmation: Mapping[int, Mapping[Pair, Cell]]
    """Cells on the held-out questions, for the chosen program and the student."""
    stopped: str
    """Why no more candidates were tried, and why finalists ran fewer times again than they could."""
    prior_weight: float | None
    """The weight that the scores gave to what earlier searches learnt; None without a prior."""
    tied: tuple[int, ...]
    """Other finalists within the limits whose estimates are at most the margin below the best, or above the chosen
    one's."""
    paid: int
    """Tokens of all calls of the search, each counted once."""
    saved: int
    """Tokens of calls that an earlier program of the search had made."""
