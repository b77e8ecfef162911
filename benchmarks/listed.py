"""A table of real cells (`studies.tables`) as a world that searches run on, and its schedules as their space."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from benchmarks.racing import FRESH
from benchmarks.reasoner import Cell
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.racing.surrogate import distances
from pdr_dspy.search.space.axes import DISTILLER, FINAL, ROUNDS, TABLE, WIDTHS
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.choosing import Suggests
from pdr_dspy.search.space.space import Space
from studies.tables import Cells

LAST_SOLUTION = "last"


class Listed(Space):
    """A space of which only the listed schedules exist.

    A suggestion is replaced by the nearest listed schedule, as a space itself replaces a k above the narrowest round: a
    sampler may ask for any combination of parameters.
    """

    listed: tuple[Schedule, ...] = ()
    _candidates: list[Candidate] = PrivateAttr(default_factory=list)
    _nearest: dict[str, Candidate] = PrivateAttr(default_factory=dict)
    """By the key of a candidate; itself for a listed one."""

    def model_post_init(self, context: Any, /) -> None:
        """Make the candidates once: keys take longer than a cell."""
        super().model_post_init(context)
        self._candidates = [Candidate(schedule, {}) for schedule in self.listed]
        self._nearest = {one.key: one for one in self._candidates}

    @classmethod
    def of(cls, schedules: Sequence[Schedule]) -> Listed:
        """The space with every value that some of these schedules has."""
        values: dict[str, Any] = {}
        for axis in TABLE:
            if axis is ROUNDS:
                found = sorted({one.rounds for one in schedules})
            elif axis is WIDTHS:
                found = sorted({width for one in schedules for width in one.widths})
            else:
                found = [getattr(one, axis.name) for one in schedules if axis is FINAL or axis.applies(one)]
            if axis is DISTILLER:
                found = [name for name in found if name != LAST_SOLUTION] or found  # chains always have it
            if found:
                values[axis.name] = tuple(dict.fromkeys(found))
        falls = all(a >= b for one in schedules for a, b in itertools.pairwise(one.widths))
        return cls(**values, monotone=falls, listed=tuple(schedules))

    def candidates(self) -> Iterator[Candidate]:
        """The listed ones."""
        return iter(self._candidates)

    def suggest(self, trial: Suggests) -> Candidate:
        """The listed candidate nearest to that of the trial's parameters."""
        asked = super().suggest(trial)
        key = asked.key
        if key not in self._nearest:
            self._nearest[key] = self._candidates[int(np.argmin(distances([asked], self._candidates)[0]))]
        return self._nearest[key]

    def params_of(self, candidate: Candidate) -> dict[str, Any] | None:
        """As in `Space`; None for one that is not listed."""
        known = self._nearest.get(candidate.key)
        return super().params_of(candidate) if known is not None and known.key == candidate.key else None


class Replayed:
    """A table as the world of a search: what a schedule does on a question under a seed was measured before."""

    def __init__(self, table: Cells) -> None:
        self.table = table
        self.space = Listed.of(list(table.programs.values()))
        self.candidates = list(self.space.candidates())
        self.places = {one.key: place for place, one in enumerate(self.candidates)}
        """Of each candidate, by its key."""
        self._same = {id(one): place for place, one in enumerate(self.candidates)}
        numbers = {question: number for number, question in enumerate(table.questions)}
        units = {(numbers[unit.question], unit.repeat): unit for unit in table.units}
        self.seeds = min(sum(1 for question, _ in units if question == number) for number in numbers.values())
        """Runs of each question; further ones, of some questions only, are left out."""
        self._units = {place: unit for place, unit in units.items() if place[1] < self.seeds}
        shape = (len(self.candidates), len(numbers), self.seeds)
        scores, totals = np.zeros(shape), np.zeros(shape)
        for (question, repeat), unit in self._units.items():
            scores[:, question, repeat] = [cell.score for cell in unit.cells]
            totals[:, question, repeat] = [cell.total for cell in unit.cells]
        self.scores: NDArray[np.float64] = scores.mean(2)
        """[schedules, questions]: mean over the seeds, a fraction."""
        self.totals: NDArray[np.float64] = totals.mean(2)
        """Likewise B_total, in tokens."""

    @property
    def student(self) -> Candidate:
        """The cheapest schedule, which is one pass."""
        return self.candidates[int(self.totals.mean(1).argmin())]

    def cell(self, candidate: Candidate, question: int, run_seed: int) -> Cell:
        """A cell of the table. Finalists' fresh seeds follow the race's; KeyError for one that is not there."""
        repeat = run_seed - FRESH + 1 if run_seed >= FRESH else run_seed
        unit = self._units[question, repeat]
        place = self._same.get(id(candidate))  # most are these very objects
        found = unit.cells[self.places[candidate.key] if place is None else place]
        calls = tuple((f"{question}/{repeat}/{place}", unit.calls[place]) for place in found.calls)
        return Cell(found.score, found.sequential, found.total, calls)

    def price(self, questions: Sequence[int]) -> int:
        """Tokens of all cells of these questions, each call once."""
        return sum(sum(self._units[question, repeat].calls) for question in questions for repeat in range(self.seeds))
