"""How the programs of a search stand: their scores, pooled over the race, the fresh seeds and earlier searches.

Every choice among programs is by these estimates, since the best of many on the same pairs is the luckiest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pdr_dspy.evaluation.drafts import Drafts
from pdr_dspy.search.racing.arms import Arm
from pdr_dspy.search.racing.requests import Cell, Pair, Tried
from pdr_dspy.search.racing.surrogate import Array, Surface, pool
from pdr_dspy.search.settings import SearchSettings
from pdr_dspy.search.space.candidate import Candidate


class Standing:
    """The arms of a search, and how they stand: their pooled estimates, and the order that these give."""

    def __init__(self, settings: SearchSettings) -> None:
        """
        Args:
            settings: of the search: its limits, its prior, and the repeats of its race.
        """
        self.settings = settings
        self.arms: list[Arm] = []
        """In the order of their numbers."""
        self._pooled: tuple[tuple[tuple[int, int], ...], Surface] | None = None

    @property
    def trials_begun(self) -> int:
        """The number of candidates so far, without those that repeat calls of others."""
        return sum(not arm.free for arm in self.arms)

    def allowed(self, arm: Arm) -> bool:
        """Whether an arm is within the limits, on average."""
        return self.settings.limits.allow(arm)

    def tried(self) -> tuple[Tried, ...]:
        """All arms, for the proposal of others."""
        estimates = self.estimates()
        return tuple(
            Tried(arm.candidate, estimates[arm.number][0], arm.sequential, arm.total, len(arm.race), arm.cost)
            for arm in self.arms
        )

    def estimates(self) -> dict[int, tuple[float, float]]:
        """Pooled score and standard deviation of every program, from the race and the fresh seeds together."""
        surface = self.surface()
        return {
            arm.number: (float(mean), float(sd))
            for arm, mean, sd in zip(self.arms, surface.mean, surface.sd, strict=True)
        }

    def surface(self) -> Surface:
        """All scores so far, pooled."""
        state = tuple((len(arm.race), len(arm.final)) for arm in self.arms)
        if self._pooled is None or self._pooled[0] != state:
            self._pooled = (state, self._pool())
        return self._pooled[1]

    def _pool(self) -> Surface:
        scores, candidates = self.all_scores()
        return pool(scores, candidates, self.expected_of(candidates))

    def best(self, arms: Iterable[Arm]) -> list[Arm]:
        """The arms within the limits, the best first."""
        estimates = self.estimates()
        allowed = [arm for arm in arms if self.allowed(arm)]
        return sorted(allowed, key=lambda arm: (-estimates[arm.number][0], arm.total, arm.sequential, arm.number))

    def expected_of(self, candidates: Sequence[Candidate]) -> Array | None:
        """What earlier searches expect of some programs; None without a prior."""
        return None if self.settings.prior is None else self.settings.prior.means(candidates)

    def all_scores(self) -> tuple[list[dict[tuple[int, int], float]], list[Candidate]]:
        """The scores of every program by question and repeat, and the programs."""
        offset = self.settings.race.repeats  # fresh seeds count as further repeats of the same questions
        race, final = (scores_of([arm.race for arm in self.arms]), scores_of([arm.final for arm in self.arms]))
        scores = [
            {
                **{(pair.question, pair.repeat): score for pair, score in own.items()},
                **{(pair.question, offset + pair.repeat): score for pair, score in fresh.items()},
            }
            for own, fresh in zip(race, final, strict=True)
        ]
        return scores, [arm.candidate for arm in self.arms]


def scores_of(arms: Sequence[Mapping[Pair, Cell]]) -> list[dict[Pair, float]]:
    """The scores of some programs. That of one pass is the mean over the most drafts that any of them made of the same
    request on the same pair: the same expectation, with less noise, at no more tokens."""
    known: dict[tuple[Pair, str], Drafts] = {}
    for cells in arms:
        for pair, cell in cells.items():
            if cell.drafts is not None:
                place = (pair, cell.drafts.prompt)
                known[place] = max(known.get(place, cell.drafts), cell.drafts, key=lambda drafts: len(drafts.scores))
    return [
        {
            pair: known[pair, cell.one_pass].mean if (pair, cell.one_pass) in known else cell.score
            for pair, cell in cells.items()
        }
        for cells in arms
    ]
