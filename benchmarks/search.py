"""The cost of finding a good schedule: `python -m benchmarks.search [--quick] [--seeds N] [--json FILE]`.

Each seed has its own world (`benchmarks.reasoner`), a space of 873 schedules, and limits on B_seq and B_total that
about half of them satisfy. The best schedule within the limits is known by brute force over the world's truth. Each
method spends its trials on the world's questions and returns a schedule with a reported score. Figures, against the
truth over all questions, on `--seeds` seeds: regret, optimism, tokens paid until the choice is and stays within 1 and 3
points of the best, and good schedules dropped. Tokens are counted in two ways: each call once, as with a rollout store,
and every call. Measuring the same schedule on the same question again costs nothing in either count.

Every method measures means of score and cost, and returns the best schedule that it ran on all questions and found
within the limits. A choice that truly exceeds a limit by over 5 % is never near the best; it is counted separately, and
its regret is at least 0. 95 % intervals: t over seeds for means, Wilson for shares, bootstrap for medians.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from benchmarks.flat_searchers import FLAT
from benchmarks.law import Truth
from benchmarks.reasoner import World
from benchmarks.search_report import NEVER, Run, show, write_json
from benchmarks.searchers import SEARCHERS, Searcher
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.space import Space

SPACE = Space(
    rounds=(1, 2, 3),
    widths=(1, 2, 4, 8, 16),
    k=(1, 2, 4),
    kappa=(512, 1536),
    draft_tokens=(256, 512, 1024),
    critique=(False, True),
)
LIMITS = Limits(sequential=5000, total=8000)
CLEARLY = 0.05
"""The smallest difference in score, a fraction, that counts as clearly better."""
TOLERANCE = 0.05
"""Fraction of a limit by which a chosen schedule may truly exceed it."""
NEAR = (0.01, 0.03)
METHODS: dict[str, Searcher] = {**SEARCHERS, **FLAT}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 30 questions, 20 trials, a smaller space")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--questions", type=int, choices=(30, 120), help="only this many; both when left out")
    parser.add_argument("--trials", type=int, action="append", help="60 when left out; may be repeated")
    parser.add_argument(
        "--method", action="append", choices=tuple(METHODS), help="all when left out; SMAC3 needs the package smac"
    )
    parser.add_argument("--json", type=Path, help="also write all figures and runs there")
    options = parser.parse_args()
    questions = (30,) if options.quick else (options.questions,) if options.questions else (30, 120)
    trials = (20,) if options.quick else tuple(options.trials or (60,))
    seeds = range(options.first, options.first + (2 if options.quick else options.seeds))
    methods = tuple(options.method or METHODS)
    jobs = [Job(seed, questions, trials, methods, options.quick) for seed in seeds]
    runs: list[Run] = []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in pool.map(work, jobs):
            runs += done
            write_json(options.json, [], runs)  # keeps the results of an interrupted run
    show(runs, options.json)


class Best(NamedTuple):
    """The best schedule within the limits."""

    candidate: Candidate
    truth: Truth
    within: int
    """Number of schedules within the limits."""


def best_of(world: World, space: Space, limits: Limits, *, finalists: int = 30) -> Best:
    """Brute force: estimate every schedule near the limits, then the best `finalists` precisely."""
    allowed = []
    for candidate in space.candidates():
        if max(limits.excess(*world.cost(candidate)).values(), default=0.0) > 0.15:
            continue
        truth = world.truth(candidate, 1)
        if limits.allow(truth):
            allowed.append((truth.score, candidate))
    allowed.sort(key=lambda pair: -pair[0])
    exact = [(world.truth(candidate), candidate) for _, candidate in allowed[:finalists]]
    truth, candidate = max((pair for pair in exact if limits.allow(pair[0])), key=lambda pair: pair[0].score)
    return Best(candidate, truth, len(allowed))


def play(
    method: str, searcher: Searcher, world: World, space: Space, limits: Limits, best: Best, trials: int, seed: int
) -> Run:
    """Run one method on a world and compare each of its choices with the truth."""
    count = len(world.questions.difficulty)
    started = time.process_time()
    steps = list(searcher(world, space, limits, range(count), trials, seed))
    seconds = time.process_time() - started

    def regret_of(candidate: Candidate) -> float:
        truth = world.truth(candidate)
        regret = 100 * (best.truth.score - truth.score)
        return max(0.0, regret) if _over(truth, limits) else regret

    near = {distance: [NEVER, NEVER] for distance in NEAR}
    curve: list[tuple[int, int, float]] = []
    last: Candidate | None = None
    for step in steps:
        truth = world.truth(step.chosen)
        for distance in NEAR:
            if regret_of(step.chosen) > 100 * distance or _over(truth, limits):
                near[distance] = [NEVER, NEVER]
            elif near[distance][0] == NEVER:
                near[distance] = [float(step.paid), float(step.full)]
        if last is None or step.chosen != last:
            curve.append((step.paid, step.full, round(regret_of(step.chosen), 3)))
        last = step.chosen
    end = steps[-1]
    truth = world.truth(end.chosen)
    dropped = [(candidate, step.chosen) for step in steps for candidate in step.dropped]

    def clearly(candidate: Candidate, than: Candidate) -> bool:
        own = world.truth(candidate, 1)
        return limits.allow(own) and own.score >= world.truth(than, 1).score + CLEARLY

    return Run(
        method=method,
        seed=seed,
        questions=count,
        trials=trials,
        regret=regret_of(end.chosen),
        optimism=100 * (end.reported - truth.score),
        over=_over(truth, limits),
        paid=end.paid,
        full=end.full,
        chosen=str(end.chosen),
        reached={f"{100 * distance:g}": near[distance] for distance in NEAR},
        dropped=len(dropped),
        false_drops=sum(clearly(candidate, end.chosen) for candidate, _ in dropped),
        worst_drops=sum(clearly(candidate, then) for candidate, then in dropped),
        seconds=seconds,
        cost=truth.total,
        curve=curve,
    )


def _over(truth: Truth, limits: Limits) -> bool:
    return any(excess > TOLERANCE for excess in limits.excess(truth.sequential, truth.total).values())


class Job(NamedTuple):
    """The work of one seed."""

    seed: int
    questions: tuple[int, ...]
    trials: tuple[int, ...]
    methods: tuple[str, ...]
    quick: bool


def work(job: Job) -> list[Run]:
    """All methods on one seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = quick_space() if job.quick else SPACE
    runs: list[Run] = []
    best: Best | None = None
    known: dict[Any, Truth] = {}
    for count in job.questions:
        world = World(job.seed, count)
        world.truths = known  # the truth is over all questions, independent of the drawn ones
        best = best or best_of(world, space, LIMITS)
        for trials in job.trials:
            runs += [play(name, METHODS[name], world, space, LIMITS, best, trials, job.seed) for name in job.methods]
    return runs


def quick_space() -> Space:
    """A corner of the space."""
    return SPACE.narrow(widths=(1, 2, 4, 8), draft_tokens=(512, 1024), k=(1, 2))


if __name__ == "__main__":
    main()
