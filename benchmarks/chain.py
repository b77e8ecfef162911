"""Two simulated reasoners one after the other: a world of programs with two operators.

The second reads the answer of the first: on a wrong one it works as long, and its answer is wrong. Both are worlds of
`benchmarks.reasoner` with their own traits and difficulties. The truth of a chain is therefore the product of the
scores and the sum of the tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.law import RIGHT, Questions, Truth
from benchmarks.reasoner import Cell, World
from benchmarks.search import Best
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.search.space.spaces import Spaces

FIRST, LAST = "extract", "solve"
"""Paths of the operators, in the order in which they run."""
OTHER = 10_000
"""Added to the seed for the second world."""
APART = 1_000_003
"""Between the run seeds of different inputs of the second operator."""


class Chain:
    """Two worlds; candidates have the parts `FIRST` and `LAST`."""

    def __init__(self, seed: int, questions: int) -> None:
        self.worlds = {FIRST: World(seed, questions), LAST: World(seed + OTHER, questions)}
        self._cells: dict[tuple[str, str, int, int], Cell] = {}

    @property
    def questions(self) -> Questions:
        """The questions of the first operator."""
        return self.worlds[FIRST].questions

    def cell(self, candidate: Candidate, question: int, run_seed: int) -> Cell:
        """Run both operators on one question. Equal inputs of the second one make equal calls."""
        first = self._run(FIRST, candidate, question, run_seed)
        read = 0 if first.answer == RIGHT else 1 + first.answer
        last = self._run(LAST, candidate, question, run_seed + APART * read)
        calls = tuple((f"{place}/{key}", n) for place, own in ((FIRST, first), (LAST, last)) for key, n in own.calls)
        sequential, total = first.sequential + last.sequential, first.total + last.total
        return Cell(first.score * last.score, sequential, total, calls, last.answer)

    def _run(self, place: str, candidate: Candidate, question: int, run_seed: int) -> Cell:
        part = candidate.parts[place]
        name = (place, part.key, question, run_seed)
        if name not in self._cells:
            self._cells[name] = self.worlds[place].cell(part, question, run_seed)
        return self._cells[name]

    def truth(self, candidate: Candidate, samples: int = 2) -> Truth:
        """Expected score and tokens over all questions and seeds, as in `World.truth`: at 2 runs the standard error is
        about 0.2 points."""
        first, last = (self.worlds[place].truth(candidate.parts[place], samples) for place in (FIRST, LAST))
        return Truth(first.score * last.score, first.sequential + last.sequential, first.total + last.total)


def best_of(chain: Chain, space: Spaces, limits: Limits, *, finalists: int = 40) -> Best:
    """Brute force: the best combination within the limits.

    Every part is estimated once; the best `finalists` combinations by those estimates are then known precisely.
    """
    parts: dict[str, list[Candidate]] = {}
    rough: dict[str, Any] = {}
    for place in (FIRST, LAST):
        parts[place] = list(space.spaces[place].candidates())
        rough[place] = np.array([_rough(chain.worlds[place], part) for part in parts[place]])
    one, two = rough[FIRST], rough[LAST]
    scores = np.multiply.outer(one[:, 0], two[:, 0])
    within = np.ones(scores.shape, bool)
    for column, limit in ((1, limits.sequential), (2, limits.total)):
        if limit is not None:
            within &= np.add.outer(one[:, column], two[:, column]) <= 1.02 * limit
    order = np.argsort(np.where(within, -scores, 1.0), axis=None)[:finalists]
    found: list[tuple[Candidate, Truth]] = []
    for flat in order:
        i, j = divmod(int(flat), scores.shape[1])
        candidate = joint({FIRST: parts[FIRST][i], LAST: parts[LAST][j]})
        if limits.allow(truth := chain.truth(candidate)):
            found.append((candidate, truth))
    return Best(*max(found, key=lambda pair: pair[1].score), int(within.sum()))


def _rough(world: World, part: Candidate) -> Truth:
    """The truth from an eighth of the population, twice."""
    few = Questions(*(values[::8] for values in world.population))
    return world._expected(part, few, 2)
