"""Searching two operators together: `python -m benchmarks.operators [--quick] [--seeds N] [--log FILE]`.

Each seed has a chain of two simulated reasoners (`benchmarks.chain`), 831 schedules for each of them, limits on B_seq
and B_total of both together, and 30 questions. Each method spends the same trials on the same questions. Figures as in
`benchmarks.levers`, paired by world: regret against the best combination within the limits, found by brute force over
the truth, in points of 100; paid tokens (each call once, finalists included); and the regret of the choice when a
number of tokens that every method spends was paid.

With `--log` each run is appended to a file when it ends; those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from benchmarks import racing
from benchmarks.chain import FIRST, LAST, Chain, best_of
from benchmarks.levers import with_interval
from benchmarks.moves import Moves
from benchmarks.search import play
from benchmarks.searchers import STUDENT, Progress, tpe
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing import surrogate
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.plan import Plan
from pdr_dspy.search.space.candidate import joint
from pdr_dspy.search.space.spaces import Space, Spaces

SPACE = Space(
    rounds=(1, 2),
    widths=(1, 2, 4, 8, 16),
    k=(1, 2, 4),
    kappa=(512, 1536),
    draft_tokens=(256, 512, 1024),
    final=("refine", "vote"),
    critique=(False, True),
)
LIMITS = Limits(sequential=6000, total=10_000)
QUESTIONS, TRIALS = 30, 30


def ours(**settings: Any) -> Any:
    """The library's search."""

    proposer, apart = settings.pop("proposer", Proposer), settings.pop("apart", surrogate.together)

    def search(
        world: Any, space: Any, limits: Limits, questions: Sequence[int], trials: int, seed: int
    ) -> Iterator[Progress]:
        settings["proposer"] = proposer(space, limits=limits, seed=seed)
        student = joint(dict.fromkeys(space.spaces, STUDENT))
        with mock.patch.object(surrogate, "together", apart):
            for step in racing.search(world, space, limits, questions, trials, seed, student=student, **settings):
                yield Progress(*step)

    return search


class Only(Moves):
    """Moves alone, after the first cohorts."""

    share = 1.0


METHODS: dict[str, Any] = {
    "as it is": ours(),
    "TPE, all questions": tpe,
    "free": ours(last=LAST),
    "sums": ours(apart=surrogate.by_operator),
    "sums, free": ours(apart=surrogate.by_operator, last=LAST),
    "moves": ours(proposer=Moves, apart=surrogate.by_operator),
    "moves only": ours(proposer=Only, apart=surrogate.by_operator),
}
REFERENCE = "as it is"

Runs = dict[tuple[str, int], Mapping[str, Any]]
"""By method and seed: a `search_report.Run` as JSON data."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 worlds, 20 trials, a smaller space")
    parser.add_argument("--seeds", type=int, default=24, help="worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--method", action="append", choices=tuple(METHODS), help="besides the reference; all without")
    parser.add_argument("--estimates", action="store_true", help="how well both covariances estimate instead")
    parser.add_argument("--log", type=Path, help="keeps the runs; those that are there are not made again")
    options = parser.parse_args()
    methods = [REFERENCE, *(name for name in options.method or METHODS if name != REFERENCE)]
    if options.estimates:
        estimates(range(options.first, options.first + (2 if options.quick else options.seeds)))
        return
    runs = read(options.log)
    trials = 20 if options.quick else options.trials
    for seed in range(options.first, options.first + (2 if options.quick else options.seeds)):
        for name, run in world_runs(seed, trials, methods, runs, quick=options.quick):
            runs[name, seed] = run
            if options.log is not None:
                with options.log.open("a") as file:
                    file.write(json.dumps([name, seed, run]) + "\n")
    show(runs, methods)


def estimates(seeds: Sequence[int]) -> None:
    """Print by how much the error of the estimates of the programs that a search measured, as a standard deviation,
    is larger with sums over operators than with distances over all of them together: paired by world."""
    differences: dict[str, list[float]] = {}
    for seed in seeds:
        for name in (REFERENCE, "moves"):
            plans: list[Plan] = []

            def kept(*given: Any, plans: list[Plan] = plans, **settings: Any) -> Plan:
                plans.append(Plan(*given, **settings))
                return plans[-1]

            world, space = Chain(seed, QUESTIONS), Spaces(operators={FIRST: SPACE, LAST: SPACE})
            with mock.patch.object(racing, "Plan", kept):
                list(METHODS[name](world, space, LIMITS, range(QUESTIONS), TRIALS, seed))
            arms = plans[0].arms
            truth = np.array([world.truth(arm.candidate, 1).score for arm in arms])
            scores = [
                {(pair.question, pair.repeat + shift): cell.score for shift, own in runs for pair, cell in own.items()}
                for runs in (((0, arm.race), (1, arm.final)) for arm in arms)
            ]
            errors = []
            for apart in (surrogate.by_operator, surrogate.together):
                with mock.patch.object(surrogate, "together", apart):
                    surface = surrogate.pool(scores, [arm.candidate for arm in arms])
                errors.append(100 * float((surface.mean - truth).std()))
            differences.setdefault(name, []).append(errors[0] - errors[1])
    for name, own in differences.items():
        print(f"{name}: {with_interval(own)} points, {len(own)} worlds")


def read(log: Path | None) -> Runs:
    """The runs of a log."""
    if log is None or not log.exists():
        return {}
    return {(name, seed): run for name, seed, run in map(json.loads, log.read_text().splitlines())}


def world_runs(
    seed: int, trials: int, methods: Sequence[str], known: Runs, *, quick: bool
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The runs of one world that are not known."""
    missing = [name for name in methods if (name, seed) not in known]
    if not missing:
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = SPACE.narrow(widths=(1, 2, 4), kappa=(512,), draft_tokens=(512,)) if quick else SPACE
    space, world = Spaces(operators={FIRST: own, LAST: own}), Chain(seed, QUESTIONS)
    best = best_of(world, space, LIMITS)
    for name in missing:
        run = play(name, METHODS[name], world, space, LIMITS, best, trials, seed)  # type: ignore[arg-type]
        yield name, {field: value for field, value in asdict(run).items() if field != "reached"}


def regret_at(run: Mapping[str, Any], tokens: float) -> float:
    """The regret of the choice when so many tokens were paid, in points."""
    before = [regret for paid, _, regret in run["curve"] if paid <= tokens]
    return before[-1] if before else max(regret for _, _, regret in run["curve"])


def show(runs: Runs, methods: Sequence[str]) -> None:
    """Print a table over the worlds that all methods have."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    seeds = sorted({seed for _, seed in runs if all((name, seed) in runs for name in methods)})
    if not seeds:
        return
    budgets = {seed: min(runs[name, seed]["paid"] for name in methods) for seed in seeds}
    columns = ("method", "regret", "more regret", "at equal tokens", "Mtok paid", "share of the tokens", "optimism")
    table = Table(*columns, title=f"two operators, {QUESTIONS} questions, {len(seeds)} worlds")
    usual = [runs[REFERENCE, seed] for seed in seeds]
    for name in methods:
        own = [runs[name, seed] for seed in seeds]
        pairs = list(zip(own, usual, seeds, strict=True))
        first = name == REFERENCE
        table.add_row(
            name,
            with_interval([one["regret"] for one in own]),
            "" if first else with_interval([one["regret"] - other["regret"] for one, other, _ in pairs]),
            with_interval(
                [
                    regret_at(one, budgets[seed]) - (0 if first else regret_at(other, budgets[seed]))
                    for one, other, seed in pairs
                ]
            ),
            with_interval([one["paid"] / 1e6 for one in own]),
            "" if first else with_interval([one["paid"] / other["paid"] for one, other, _ in pairs]),
            f"{fmean(one['optimism'] for one in own):.1f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
