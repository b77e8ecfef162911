"""Proposals that change one operator of the best program so far and leave the others as they are.

Operators with separate spaces make a product that no search of some dozen trials can cover. Coordinate search needs to
cover each factor only: the next part of an operator is the one with the highest expected improvement (Mockus 1975) over
the best program so far, under the posterior of `racing.surrogate`, in which what was measured of a part in one program
says something of the same part in every other. A move of a later operator repeats the calls of the earlier ones, which
are in the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.plan import Proposed, Tried
from pdr_dspy.search.racing.surrogate import Array, one_thread, predict
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.search.space.spaces import Spaces

NEIGHBOURS = 400
"""Maximum parts of one operator that are compared."""
FIRST = 2
"""The first cohort with moves: before, hardly anything is known."""


class Coordinates(Proposer):
    """Half of its proposals change one operator of the best program, the others are the sampler's."""

    share = 0.5

    def __init__(self, space: Spaces, **settings: Any) -> None:
        super().__init__(space, **settings)
        each = {place: Proposer(own, seed=self.seed) for place, own in space.spaces.items()}
        self.parts = {place: own.some(NEIGHBOURS) for place, own in each.items()}

    def propose(
        self,
        tried: Sequence[Tried],
        count: int,
        *,
        cohort: int,
        too_expensive: Callable[[Candidate], bool] = lambda _: False,
    ) -> list[Proposed]:
        """As in `Proposer`."""
        found = self.moves(tried, int(count * self.share), too_expensive) if cohort >= FIRST else []
        waiting = (Tried(one.candidate, math.nan, math.nan, math.nan, 0) for one in found)
        return found + super().propose(
            (*tried, *waiting), count - len(found), cohort=cohort, too_expensive=too_expensive
        )

    def moves(self, tried: Sequence[Tried], count: int, too_expensive: Callable[[Candidate], bool]) -> list[Proposed]:
        """Up to `count` changes of one operator of the best program within the limits; none without one."""
        measured = [known for known in tried if not math.isnan(known.error)]
        waiting = [known.candidate for known in tried if math.isnan(known.error)]
        complete = max((known.pairs for known in tried), default=0)
        whole = [known for known in measured if known.pairs == complete]
        allowed = [one for one in whole if self.limits.allow(one) and one.candidate.parts.keys() == self.parts.keys()]
        if not allowed:
            return []
        start = max(allowed, key=lambda known: known.score)
        seen = {known.candidate.key for known in tried}
        new = [one for one in self._around(start.candidate) if one.key not in seen and not too_expensive(one)]
        found = []
        with one_thread():
            mean, covariance, best = predict(
                [one.candidate for one in measured],
                [one.own for one in measured],
                [one.error for one in measured],
                [*waiting, *new],
            )
            error = float(np.median([one.error for one in whole])) ** 2
            for place in range(len(waiting)):
                covariance = _seen(covariance, place, error)
            left = list(range(len(waiting), len(waiting) + len(new)))
            for _ in range(min(count, len(new))):
                gains = _improvement(mean[left], np.sqrt(np.maximum(np.diag(covariance)[left], 1e-12)), best)
                place = left.pop(int(np.argmax(gains)))
                covariance = _seen(covariance, place, error)
                found.append(Proposed("move", new[place - len(waiting)]))
        return found

    def _around(self, start: Candidate) -> Iterator[Candidate]:
        for place, parts in self.parts.items():
            for part in parts:
                yield joint({**start.parts, place: part})


def _seen(covariance: Array, place: int, error: float) -> Array:
    column = covariance[:, place]
    return covariance - np.outer(column, column) / (column[place] + error)


def _improvement(mean: Array, sd: Array, best: float) -> Array:
    z = (mean - best) / sd
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    return sd * (density + z * below)
