"""The searches that `benchmarks.search` compares: the library's and common alternatives.

Each takes a world, a space, limits, questions, a number of trials and a seed, and yields its progress after each step.
All of them run schedules through a `Meter`, which counts tokens uniformly.
"""

from __future__ import annotations

import functools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple
from unittest import mock

import optuna

from benchmarks import racing
from benchmarks.law import Truth
from benchmarks.reasoner import Cell, World
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.space import Space

STUDENT = Candidate(Schedule(widths=(1,), draft_tokens=512), {})
"""The student of the search: one draft."""


class Progress(NamedTuple):
    """The progress of a search."""

    paid: int
    """Tokens, each call once."""
    full: int
    """Tokens, every call."""
    chosen: Candidate
    reported: float
    """The method's reported score of its choice, a fraction."""
    dropped: tuple[Candidate, ...] = ()
    """Schedules dropped before all questions were run, since the last progress."""


Searcher = Callable[[World, Space, Limits, Sequence[int], int, int], Iterator[Progress]]
"""(world, space, limits, questions, trials, seed) -> its progress after each step."""


class Meter:
    """Runs schedules on a world's questions and counts the tokens."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.paid = 0
        self.full = 0
        self._known: set[str] = set()
        self._cells: dict[tuple[str, int, int], Cell] = {}

    def run(self, candidate: Candidate, questions: Sequence[int], run_seed: int = 0) -> list[Cell]:
        """One cell for each question, without its calls."""
        key = candidate.key
        cells = []
        for question in questions:
            place = (key, question, run_seed)
            cell = self._cells.get(place)
            if cell is None:
                cell = self.world.cell(candidate, question, run_seed)
                self.full += cell.total
                for call, tokens in cell.calls:
                    if call not in self._known:
                        self._known.add(call)
                        self.paid += tokens
                cell = self._cells[place] = cell._replace(calls=())
            cells.append(cell)
        return cells


@dataclass
class Ranking:
    """The schedules that were run on all questions, and the best of them."""

    limits: Limits
    best: tuple[float, float, Candidate] | None = None
    """(minus the excess over a limit, 0 within; score; candidate)."""

    def add(self, candidate: Candidate, mean: Truth) -> None:
        """Add a schedule with its means."""
        place = (-excess(mean.sequential, mean.total, self.limits), mean.score, candidate)
        if self.best is None or place[:2] > self.best[:2]:
            self.best = place

    def progress(self, meter: Meter, dropped: tuple[Candidate, ...] = ()) -> Progress:
        """The progress of the search."""
        assert self.best is not None
        return Progress(meter.paid, meter.full, self.best[2], self.best[1], dropped)


def mean_of(cells: Sequence[Cell]) -> Truth:
    """Means of score, B_seq and B_total."""
    return Truth(fmean(c.score for c in cells), fmean(c.sequential for c in cells), fmean(c.total for c in cells))


def excess(sequential: float, total: float, limits: Limits) -> float:
    """The largest excess over a limit, as a fraction of it; 0 within all."""
    return max([0.0, *limits.excess(sequential, total).values()])


def grid(
    world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
) -> Iterator[Progress]:
    """Schedules of the space in random order, each on all questions."""
    order = list(space.candidates())
    random.Random(f"grid|{seed}").shuffle(order)
    meter, ranking = Meter(world), Ranking(limits)
    for candidate in order[:trials]:
        ranking.add(candidate, mean_of(meter.run(candidate, questions)))
        yield ranking.progress(meter)


def drawn(
    world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
) -> Iterator[Progress]:
    """Optuna's RandomSampler: each parameter at random, each trial on all questions."""
    yield from _full(world, space, limits, questions, trials, optuna.samplers.RandomSampler(seed=seed))


def tpe(
    world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
) -> Iterator[Progress]:
    """Optuna's TPE under constraints, each trial on all questions."""
    yield from _full(world, space, limits, questions, trials, _sampler(seed))


def _full(
    world: World,
    space: Space,
    limits: Limits,
    questions: Sequence[int],
    trials: int,
    sampler: optuna.samplers.BaseSampler,
) -> Iterator[Progress]:
    meter, ranking = Meter(world), Ranking(limits)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(trials):
        candidate, mean = _tried(study, space, limits, meter, questions)
        ranking.add(candidate, mean)
        yield ranking.progress(meter)


def wilcoxon(p_threshold: float, startup: int) -> Searcher:
    """TPE with Optuna's WilcoxonPruner as its documentation shows it.

    Each trial has its own order of questions; the pruner is called after each question, and a pruned trial is reported
    with its mean so far. Only complete trials are chosen. Needs scipy, like the pruner.
    """

    def search(
        world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
    ) -> Iterator[Progress]:
        meter, ranking = Meter(world), Ranking(limits)
        order = random.Random(f"wilcoxon|{seed}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental
            pruner = optuna.pruners.WilcoxonPruner(p_threshold=p_threshold, n_startup_steps=startup)
        study = optuna.create_study(direction="maximize", sampler=_sampler(seed), pruner=pruner)
        for _ in range(trials):
            trial = study.ask()
            candidate = space.suggest(trial)
            cells: list[Cell] = []
            pruned = False
            for question in order.sample(list(questions), len(questions)):
                cells += meter.run(candidate, [question])
                trial.report(cells[-1].score, question)
                with warnings.catch_warnings(), mock.patch("scipy.stats.wilcoxon", _signed_rank):
                    warnings.simplefilter("ignore")  # small samples; steps that a pruned best trial lacks
                    pruned = len(cells) < len(questions) and trial.should_prune()
                if pruned:
                    break
            mean = mean_of(cells)
            tell(study, trial, mean, limits)
            if not pruned or ranking.best is None:
                ranking.add(candidate, mean)
            yield ranking.progress(meter, (candidate,) if pruned else ())

    return search


def _signed_rank(differences: Sequence[float], *, alternative: str, zero_method: str) -> Any:
    return _test(tuple(sorted(float(value) for value in differences)), alternative, zero_method)


class _Tested(NamedTuple):
    pvalue: float


@functools.lru_cache(maxsize=100_000)
def _test(differences: tuple[float, ...], alternative: str, zero_method: str) -> Any:
    """scipy's p-value. For up to 13 values with ties scipy enumerates all signs, 0.1 s; on 0/1 scores that is a
    binomial."""
    wins, losses = differences.count(1.0), differences.count(-1.0)
    if len(differences) <= 13 and wins + losses + differences.count(0.0) == len(differences):
        few = wins if alternative == "less" else losses
        return _Tested(sum(math.comb(wins + losses, i) for i in range(few + 1)) / 2 ** (wins + losses))
    from scipy.stats._morestats import wilcoxon as signed_rank  # the public name is patched here

    return signed_rank(differences, alternative=alternative, zero_method=zero_method)


def minibatch(
    world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
) -> Iterator[Progress]:
    """The scheme of DSPy's MIPROv2: each trial on a random minibatch, every fifth time a full run of the best average.

    35 questions at a time, or half of fewer than 70. MIPROv2 itself has no limits; here its sampler gets them as
    constraints, and averages over a limit are not run in full.
    """
    meter, ranking = Meter(world), Ranking(limits)
    batches = random.Random(f"minibatch|{seed}")
    size = min(35, len(questions) // 2)
    study = optuna.create_study(direction="maximize", sampler=_sampler(seed))
    study.enqueue_trial(space.params_of(STUDENT) or {})
    ranking.add(*_tried(study, space, limits, meter, questions))
    yield ranking.progress(meter)
    averages: dict[str, list[Truth]] = {}
    candidates: dict[str, Candidate] = {}
    done: set[str] = set()
    for number in range(1, trials + 1):
        candidate, mean = _tried(study, space, limits, meter, batches.sample(list(questions), size))
        averages.setdefault(candidate.key, []).append(mean)
        candidates[candidate.key] = candidate
        if number % 5 == 0 or number == trials:
            open_keys = [key for key in averages if key not in done]
            if open_keys:
                key = max(open_keys, key=lambda key: _place(averages[key], limits))
                done.add(key)
                best = candidates[key]
                mean = mean_of(meter.run(best, questions))
                params = space.params_of(best) or {}
                study.enqueue_trial(params)
                again = study.ask()
                space.suggest(again)
                tell(study, again, mean, limits)
                ranking.add(best, mean)
        left = tuple(candidates[key] for key in candidates if key not in done) if number == trials else ()
        yield ranking.progress(meter, left)


def _place(means: Sequence[Truth], limits: Limits) -> tuple[float, float]:
    sequential, total = fmean(m.sequential for m in means), fmean(m.total for m in means)
    return -excess(sequential, total, limits), fmean(m.score for m in means)


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)  # group: for conditional axes


def _tried(
    study: optuna.Study, space: Space, limits: Limits, meter: Meter, questions: Sequence[int]
) -> tuple[Candidate, Truth]:
    """Run the study's next candidate on these questions, and report the result to the study."""
    trial = study.ask()
    candidate = space.suggest(trial)
    mean = mean_of(meter.run(candidate, questions))
    tell(study, trial, mean, limits)
    return candidate, mean


def tell(study: optuna.Study, trial: optuna.Trial, mean: Truth, limits: Limits) -> None:
    """Report a trial's score to the study, and how far it is from each limit as its constraints."""
    for name, excess in limits.excess(mean.sequential, mean.total).items():
        trial.set_constraint(name, excess)
    study.tell(trial, mean.score)


def knowing(
    world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
) -> Iterator[Progress]:
    """An oracle as a reference: it knows each schedule's score on its questions over all seeds, at no cost.

    Its regret is due to the questions being a sample; more trials, seeds or tokens cannot remove it.
    """
    del questions, trials, seed
    allowed = [one for one in space.candidates() if limits.allow(world.truth(one, 1))]
    allowed.sort(key=lambda one: -world.truth_on(one, 40).score)
    score, best = max(((world.truth_on(one).score, one) for one in allowed[:20]), key=lambda pair: pair[0])
    yield Progress(0, 0, best, score)


def ours(**settings: Any) -> Searcher:
    """The library's search: cohorts race, then the best four run on four fresh seeds."""
    settings = {"student": STUDENT, **settings}

    def search(
        world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
    ) -> Iterator[Progress]:
        for step in racing.search(world, space, limits, questions, trials, seed, **settings):
            yield Progress(*step)

    return search


# A method is one function; to add one, name it here.
SEARCHERS: dict[str, Searcher] = {
    "pdr-dspy": ours(),
    "pdr-dspy, 24 trials": lambda world, space, limits, questions, trials, seed: ours()(
        world, space, limits, questions, min(trials, 24), seed
    ),
    "grid, random order": grid,
    "random search": drawn,
    "TPE, all questions": tpe,
    "TPE + Wilcoxon p=.1": wilcoxon(0.1, 2),
    "TPE + Wilcoxon p=.02": wilcoxon(0.02, 8),
    "MIPROv2 minibatches": minibatch,
    "(knowing its questions)": knowing,
}
REFERENCE = "TPE, all questions"
