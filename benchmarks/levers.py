"""Levers of the library's search, one by one: `python -m benchmarks.levers [--quick] [--seeds N] [--log FILE]`.

Each lever changes one thing about the search of `benchmarks.search`, on the same worlds, questions and seeds as the
reference, so that differences are paired world by world. The space has votes besides refinements: 2,595 schedules under
the same limits. Figures: regret in points of 100, paid tokens (each call once, finalists included), and true tokens of
a run of the chosen program; means over worlds, and differences to the reference with 95 % intervals by Student's t.

With `--log` each run is appended to a file when it ends; those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from benchmarks.priors import PRIORS
from benchmarks.reasoner import Cell, World
from benchmarks.search import LIMITS, SPACE, best_of, play, quick_space
from benchmarks.searchers import ours
from benchmarks.texts import Writer
from pdr_dspy.evaluation.statistics import mean_interval
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.requests import Proposed, Tried
from pdr_dspy.search.settings import Final, Instructions, Race
from pdr_dspy.search.space.candidate import Candidate

VOTES = ("vote",)
"""Finals besides "refine"."""
REFERENCE = "as it is"


def worth(price: float) -> dict[str, Any]:
    """The settings of a search that ends by value and price."""
    return {"ending": {"stop": "worth", "price": price}}


LEVERS: dict[str, Mapping[str, Any]] = {
    REFERENCE: {},
    "free=0": {"race": Race(free=0)},
    "eta 1.25": {"race": Race(eta=1.25)},
    "stop at 0.01": worth(0.01),
    "stop at 0.02": worth(0.02),
    "stop at 0.05": worth(0.05),
    "stop at 0.1": worth(0.1),
    "margin 0.01": {"ending": {"margin": 0.01}},
    "24 trials": {"trials": 24},
    "finalists once": {"final": Final(repeats=1)},
    "last 3": {"last": 3},
    "last 3, finalists once": {"last": 3, "final": Final(repeats=1)},
    "presets": {"presets": True},
    **{f"prior: {name}": {"presets": True, "prior": name} for name in PRIORS},
    "texts once": {"texts": 1.5, "instructions": Instructions(count=6)},
    "texts in 3 rounds": {"texts": 1.5, "instructions": Instructions(count=2, rounds=3)},
    "texts once, any schedule": {"texts": math.inf, "instructions": Instructions(count=6)},
    "texts in 3 rounds, any schedule": {"texts": math.inf, "instructions": Instructions(count=2, rounds=3)},
}
"""By name: changed arguments of `benchmarks.racing.search`; a prior by its name; `texts` is the fit of a simulated
writer's texts, see `benchmarks.texts`; `last` the refinements that a run draws where its last round has one."""
TRIALS = 60


Runs = dict[tuple[str, int, int, int], Mapping[str, Any]]
"""By lever, trials, questions and seed: a `search_report.Run` as JSON data."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 worlds, 30 questions, 20 trials, a smaller space")
    parser.add_argument("--seeds", type=int, default=24, help="worlds")
    parser.add_argument("--questions", type=int, action="append", help="30 and 120 when left out; may be repeated")
    parser.add_argument("--lever", action="append", choices=tuple(LEVERS), help="besides the reference; all without")
    parser.add_argument("--reference", default=REFERENCE, choices=tuple(LEVERS), help="what the others are compared to")
    parser.add_argument("--trials", type=int, action="append", help=f"{TRIALS} when left out; may be repeated")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--log", type=Path, help="keeps the runs; those that are there are not made again")
    options = parser.parse_args()
    questions = [30] if options.quick else options.questions or [30, 120]
    reference, trials = options.reference, options.trials or [TRIALS]
    levers = [reference, *(name for name in options.lever or LEVERS if name != reference)]
    runs = read(options.log)
    for seed in range(options.first, options.first + (2 if options.quick else options.seeds)):
        for place, run in world_runs(seed, questions, trials, levers, runs, quick=options.quick):
            runs[place] = run
            if options.log is not None:
                with options.log.open("a") as file:
                    file.write(json.dumps([*place, run]) + "\n")
    for count in questions:
        for most in trials:
            show(runs, count, most, levers)


def read(log: Path | None) -> Runs:
    """The runs of a log."""
    if log is None or not log.exists():
        return {}
    lines = map(json.loads, log.read_text().splitlines())
    return {tuple(place): run for *place, run in lines}


def world_runs(
    seed: int, questions: Sequence[int], trials: Sequence[int], levers: Sequence[str], known: Runs, *, quick: bool
) -> Iterator[tuple[tuple[str, int, int, int], Mapping[str, Any]]]:
    """The runs of one world that are not known, with their places among the runs."""
    places = [(name, most, count, seed) for count in questions for name in levers for most in trials]
    missing = [place for place in places if place not in known]
    if not missing:
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = (quick_space() if quick else SPACE).extend(final=VOTES)
    worlds = {count: Remembering(seed, count) for count in questions}
    proposers = {count: Proposing(space, limits=LIMITS, seed=seed) for count in questions}
    truths = worlds[questions[0]].truths
    best = best_of(worlds[questions[0]], space, LIMITS)
    for place in missing:
        name, most, count, _ = place
        worlds[count].truths = truths  # over all questions, whichever were drawn
        changed = dict(LEVERS[name])
        most = min(most, changed.pop("trials", most))
        worlds[count].last = changed.pop("last", 1)
        if "prior" in changed:
            changed["prior"] = PRIORS[changed["prior"]]()
        if "texts" in changed:
            changed["writer"] = Writer(seed, changed.pop("texts"))
        searcher = ours(proposer=proposers[count], **changed)
        run = play(name, searcher, worlds[count], space, LIMITS, best, min(most, 20) if quick else most, seed)
        data = {field: value for field, value in asdict(run).items() if field not in ("curve", "reached")}
        yield place, data


class Remembering(World):
    """A world that makes each run once, for all searches of it."""

    def __init__(self, seed: int, questions: int) -> None:
        super().__init__(seed, questions)
        self.last = 1
        """Refinements that a run draws where its last round has one."""
        self._cells: dict[tuple[str, int, int, int], Cell] = {}

    def cell(self, candidate: Candidate, question: int, run_seed: int, *, last: int | None = None) -> Cell:
        """As in `World`."""
        last = self.last if last is None else last
        place = (candidate.key, question, run_seed, last)
        if place not in self._cells:
            self._cells[place] = super().cell(candidate, question, run_seed, last=last)
        return self._cells[place]


class Proposing(Proposer):
    """Makes each proposal once: searches that differ later are the same at first."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._proposed: dict[Any, list[Proposed]] = {}

    def propose(self, tried: Sequence[Tried], count: int, **others: Any) -> list[Proposed]:
        """As in `Proposer`."""
        place = (tuple((one.candidate.key, *one[1:]) for one in tried), count, others["cohort"])
        if place not in self._proposed:
            self._proposed[place] = super().propose(tried, count, **others)
        return list(self._proposed[place])


def show(runs: Runs, count: int, trials: int, levers: Sequence[str]) -> None:
    """Print the table of a number of questions and trials, over the worlds that all levers have; the first lever is the
    reference."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    reference = levers[0]
    seeds = [seed for name, most, own, seed in runs if (name, most, own) == (reference, trials, count)]
    seeds = [seed for seed in seeds if all((name, trials, count, seed) in runs for name in levers)]
    if not seeds:
        return
    columns = ("lever", "regret", "more regret", "Mtok paid", "share of the tokens", "run of the choice", "optimism")
    table = Table(*columns, title=f"{count} questions, {trials} trials, {len(seeds)} worlds")
    for name in levers:
        own, usual = ([runs[lever, trials, count, seed] for seed in seeds] for lever in (name, reference))
        more = [one["regret"] - other["regret"] for one, other in zip(own, usual, strict=True)]
        share = [one["paid"] / other["paid"] for one, other in zip(own, usual, strict=True)]
        table.add_row(
            name,
            with_interval([one["regret"] for one in own]),
            "" if name == reference else with_interval(more),
            with_interval([one["paid"] / 1e6 for one in own]),
            "" if name == reference else with_interval(share),
            f"{fmean(one['cost'] for one in own):.0f}",
            with_interval([one["optimism"] for one in own]),
        )
    console.print(table)


def with_interval(values: Sequence[float]) -> str:
    """A mean with its 95 % interval, as text."""
    low, high = mean_interval(values)
    return f"{fmean(values):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
