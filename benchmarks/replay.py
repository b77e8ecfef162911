"""Searches among schedules whose every cell was measured on a real model: `python -m benchmarks.replay [TABLE ...]`.

A table (`studies.tables`) has the score and the calls of many schedules on the same questions. Each of many random
splits gives a half of the questions to a search, which returns a schedule; its mean score on the other half is an
unbiased estimate of what it is worth. The library's search ends after some trials. Every other search of the split goes
on until it has paid as many tokens, each call counted once, and its choice is the last one before that; without any it
is the cheapest schedule, one pass.

Regret needs the true score of the best schedule, which no finite table has. It is between two figures: the score of the
best schedule of nine tenths of the questions on the rest, which is too low since that is not always the best, and the
highest mean of the table, which is too high by its luck. What searches are worth is compared directly, split by split.

Intervals are 95 %, over questions (`benchmarks.splits`): samples of the questions are searched anew.

With `--log` each search is appended to a file when it ends; those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

import numpy as np
import optuna
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import searchers
from benchmarks.flat_searchers import FLAT
from benchmarks.levers import LEVERS
from benchmarks.listed import Replayed
from benchmarks.reasoner import World
from benchmarks.searchers import Searcher, ours
from benchmarks.splits import Estimate, Split, estimate, resampled, split_of
from pdr_dspy.operators import Operator
from pdr_dspy.search.candidates import presets
from pdr_dspy.search.problem import Problem
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.settings import Final, SearchSettings
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.verifiers import ExactVerifier
from pdr_dspy.verifiers.checks import RewardCheck
from studies import tables
from studies.tables import TABLES

TRIALS = (8, 16, 32)
"""Of the library's search, as far as a table has more schedules, and as many as it has."""
FEW = 12
"""Fewest schedules of a table that is searched unless it is named."""
REFERENCE = "pdr-dspy"
WHOLE = "(best mean of its half)"
STUDENT = "(one pass)"


def library(world: Replayed, *, first: bool = True, **changed: Any) -> Searcher:
    """The library's search; with `first` it tries the candidates that it begins with before its sampler proposes.
    `changed` are arguments of `benchmarks.racing.search`. Finalists run again on the seeds that a table has besides."""
    begun = first_candidates(world) if first else []
    return ours(student=world.student, first=begun, final=Final(repeats=world.seeds - 1), **changed)


def first_candidates(world: Replayed) -> list[Candidate]:
    """The candidates that a search of this space begins with."""
    checks = {name: RewardCheck(_unchecked) for name in world.space.check if name is not None}
    student = Operator("question -> answer", world.student.schedule, checks)
    problem = Problem(
        settings=SearchSettings(),
        space=world.space,
        verifier=ExactVerifier(),
        student=student,
        operator=student,
        operators={"": student},
        mixed=False,
        train=(),
        held_out=(),
        sets={},
        confirmed=frozenset(),
        seen=0,
        confirmed_in="",
        description={},
    )
    return [one.candidate for one in presets(problem, lambda _: True)]


def _unchecked(args: Any, prediction: Any) -> float:
    raise NotImplementedError("a replay runs no check")


LIBRARY: dict[str, Callable[[Replayed], Searcher]] = {
    REFERENCE: library,
    "pdr-dspy, sampler alone": partial(library, first=False),
}
LEVERED: dict[str, Callable[[Replayed], Searcher]] = {
    f"{REFERENCE}, {name}": partial(library, **changed)
    for name, changed in LEVERS.items()
    if changed and not {"trials", "final"} & changed.keys()  # those are this benchmark's own
}
"""One lever each, only by name."""
OTHERS: dict[str, Searcher] = {
    "TPE, all questions": searchers.tpe,
    **FLAT,
    "random order, all questions": searchers.grid,
}


# --- searches ---


class Step(NamedTuple):
    """The choice of a search."""

    share: float
    """Tokens that it had paid, as a share of those of all cells of its questions."""
    chosen: int
    """The schedule's place in the table."""
    reported: float
    """What it said of it, a fraction."""


Place = tuple[str, int, str, int, int, int]
"""Of a search: the table and its number of questions, the method, its trials, the number of the split or the sample,
and which of a sample's splits it is; -1 for a split of the table itself."""
Known = dict[Place, tuple[Step, ...]]


def read(log: Path | None) -> Known:
    """The searches of a log."""
    if log is None or not log.exists():
        return {}
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return {cast(Place, tuple(place)): tuple(Step(*step) for step in steps) for place, steps in lines}


@dataclass
class Games:
    """The searches of a table, each made once."""

    name: str
    world: Replayed
    known: Known
    log: Path | None = None

    @property
    def questions(self) -> int:
        """Their number."""
        return self.world.scores.shape[1]

    @property
    def trials(self) -> tuple[int, ...]:
        """Of the library's search."""
        count = len(self.world.candidates)
        return (*(trials for trials in TRIALS if trials < count), count)

    def steps(self, method: str, trials: int, split: Split, number: int, again: int) -> tuple[Step, ...]:
        """The choices of a search: the last one of the library's, and one after each trial of others."""
        place = (self.name, self.questions, method, trials, number, again)
        if place not in self.known:
            # Searches of one sample have seeds of their own: what they owe to luck differs within the sample.
            seed = number if again < 0 else 1000 + 2 * number + again
            self.known[place] = found = self._play(method, trials, split, seed)
            if self.log is not None:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([place, found]) + "\n")
        return self.known[place]

    def _play(self, method: str, trials: int, split: Split, seed: int) -> tuple[Step, ...]:
        world = self.world
        library = {**LIBRARY, **LEVERED}
        search = library[method](world) if method in library else OTHERS[method]
        whole = world.price(sorted(set(split.searched)))
        made = search(cast(World, world), world.space, Limits(), split.searched, trials, seed)
        steps = [Step(round(one.paid / whole, 5), world.places[one.chosen.key], round(one.reported, 5)) for one in made]
        return tuple(steps[-1:] if method in library else steps)

    def choice(self, method: str, trials: int, split: Split, number: int, again: int) -> Step:
        """What a method chooses for the tokens of the library's search with these trials."""
        world = self.world
        if method == WHOLE:
            return whole_table(world, split)
        student = world.places[world.student.key]
        none = Step(0.0, student, float(world.scores[student, split.searched].mean()))
        if method == STUDENT:
            return none
        if method not in OTHERS:
            return self.steps(method, trials, split, number, again)[-1]
        (paid, _, _) = self.choice(REFERENCE, trials, split, number, again)
        asked = 2 * len(world.candidates)  # of what was tried before, too, at no tokens
        steps = self.steps(method, asked, split, number, again)
        return next((step for step in reversed(steps) if step.share <= paid), none)

    def outcome(self, method: str, trials: int, split: Split, number: int, again: int = -1) -> Outcome:
        """What a choice is worth on the questions that the search did not have."""
        found = self.choice(method, trials, split, number, again)
        return Outcome(float(self.world.scores[found.chosen, split.held].mean()), *found)

    def replay(self, method: str, trials: int, splits: int, samples: int) -> Replay:
        """The outcomes of a method on splits of the questions and of samples of them."""
        count = self.questions
        made = [self.outcome(method, trials, split_of(count, number), number) for number in range(splits)]
        pairs = [
            [self.outcome(method, trials, resampled(count, number, again), number, again) for again in (0, 1)]
            for number in range(samples)
        ]
        return Replay(made, [(first, second) for first, second in pairs])


def whole_table(world: Replayed, split: Split) -> Step:
    """The highest mean of the searched half, the cheapest of equal ones: all cells, and nothing but arithmetic."""
    means = world.scores[:, split.searched].mean(1)
    best = int(np.lexsort((world.totals.mean(1), -means.round(9)))[0])
    return Step(1.0, best, float(means[best]))


class Outcome(NamedTuple):
    """The choice of a search, held against the questions that it did not have."""

    worth: float
    """Its mean score there, a fraction."""
    share: float
    chosen: int
    reported: float


class Replay(NamedTuple):
    """The outcomes of one method."""

    splits: list[Outcome]
    samples: list[tuple[Outcome, Outcome]]
    """Of each sample of the questions, both of its splits."""


# --- figures ---


def by_question(world: Replayed, one: Replay) -> NDArray[np.float64]:
    """What the choices scored on each question, over the splits in which it was held out; of those that were."""
    sums, times = np.zeros(world.scores.shape[1]), np.zeros(world.scores.shape[1])
    for number, found in enumerate(one.splits):
        held = list(split_of(len(sums), number).held)
        sums[held] += world.scores[found.chosen, held]
        times[held] += 1
    return sums[times > 0] / times[times > 0]


def of_each(one: Replay, figure: Callable[[Outcome], float], questions: Sequence[float]) -> Estimate:
    """A figure of one method."""
    samples = [(figure(first), figure(second)) for first, second in one.samples]
    return estimate([figure(found) for found in one.splits], samples, questions)


def difference(one: Replay, other: Replay, questions: Sequence[float]) -> Estimate:
    """What one method's choices are worth minus the other's, on equal splits."""
    splits = [a.worth - b.worth for a, b in zip(one.splits, other.splits, strict=True)]
    samples = [
        (a[0].worth - b[0].worth, a[1].worth - b[1].worth) for a, b in zip(one.samples, other.samples, strict=True)
    ]
    return estimate(splits, samples, questions)


def best_between(world: Replayed, draws: int = 1000) -> tuple[float, float]:
    """Two figures between which the true score of the best schedule lies, as expectations: the held-out score of the
    best of nine tenths of the questions, and the highest mean."""
    count = world.scores.shape[1]
    tenth = max(count // 10, 1)
    held = []
    for number in range(draws):
        order = list(range(count))
        random.Random(f"tenth|{count}|{number}").shuffle(order)
        best = whole_table(world, Split(tuple(order[tenth:]), tuple(order[:tenth]))).chosen
        held.append(float(world.scores[best, order[:tenth]].mean()))
    return fmean(held), float(world.scores.mean(1).max())


def show(games: Games, trials: int, runs: Mapping[str, Replay], best: tuple[float, float]) -> None:
    """Print the table for one number of trials."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    world, count = games.world, games.questions
    low, high = best
    title = (
        f"{games.name}: {len(world.candidates)} schedules, {count} questions, half of them searched, {world.seeds} "
        f"seed(s), {world.price(range(count)) / 1e3:,.0f} k tokens for all cells; {trials} trials; the best schedule "
        f"has {100 * low:.1f} to {100 * high:.1f} points of 100"
    )
    columns = ("search", "worth", f"minus {REFERENCE}", "regret", "tokens", "reported minus worth", "most often chosen")
    names = list(world.table.programs)
    table = Table(*columns, title=title)
    held = {method: by_question(world, one) for method, one in runs.items()}
    level = [0.0] * count  # how hard a question is does not matter where it is in both terms of a difference
    for method, one in runs.items():
        own, less = held[method].tolist(), (held[method] - held[REFERENCE]).tolist()
        worth = of_each(one, lambda found: found.worth, own)
        chosen = Counter(found.chosen for found in one.splits).most_common(2)
        table.add_row(
            method,
            _shown(worth),
            "" if method == REFERENCE else _shown(difference(one, runs[REFERENCE], less)),
            f"{100 * (low - worth.value):.1f} to {100 * (high - worth.value):.1f}",
            f"{fmean(found.share for found in one.splits):.0%}",
            _shown(of_each(one, lambda found: found.reported - found.worth, level)),
            ", ".join(f"{names[place]} {times / len(one.splits):.0%}" for place, times in chosen),
        )
    console.print(table)


def _shown(found: Estimate) -> str:
    low, high = found.interval
    return f"{100 * found.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="*", type=Path, help=f"files; those of {FEW} schedules and more when left out")
    parser.add_argument("--splits", type=int, default=100, help="splits of the questions, 2 at least")
    parser.add_argument("--samples", type=int, default=100, help="samples of the questions for intervals, 2 at least")
    parser.add_argument(
        "--method",
        action="append",
        choices=(*LIBRARY, *OTHERS, *LEVERED),
        help=f"besides {REFERENCE}; all but the levers when left out",
    )
    parser.add_argument("--log", type=Path, help="keeps the searches; those that are there are not made again")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = read(options.log)
    methods = dict.fromkeys((REFERENCE, *(options.method or (*LIBRARY, *OTHERS)), WHOLE, STUDENT))
    for path in options.table or sorted(TABLES.glob("*.jsonl")):
        table = tables.read(path)
        if not options.table and len(table.programs) < FEW:
            continue
        games = Games(path.stem, Replayed(table), known, options.log)
        best = best_between(games.world)
        for trials in games.trials:
            runs = {name: games.replay(name, trials, options.splits, options.samples) for name in methods}
            show(games, trials, runs, best)


if __name__ == "__main__":
    main()
