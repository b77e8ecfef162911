"""What finding a good schedule costs: `python -m benchmarks.search [--quick] [--seeds N] [--json FILE]`.

Each seed is a world of its own (`benchmarks.reasoner`), a space of 873 schedules, and limits on B_seq and B_total that
leave about half of them. The best schedule within the limits is known by brute force of the world's truth. Each method
spends its trials on the world's questions and names a schedule with a reported score. Measured against the truth over
all questions, on as many seeds as asked: regret, optimism, tokens paid until the choice is and stays within 1 and 3
points of the best, and good schedules dropped. Tokens are counted twice: each call once, as with a rollout store, and
every call. Measuring the same schedule on the same question again costs nothing in either count.

Every method measures means of score and cost, and names the best of what it ran on all questions and found within the
limits. A choice that truly costs over 5 % more than a limit is never near the best; it is counted apart, and its regret
is at least 0. 95 % intervals: t over seeds for means, Wilson for shares, bootstrap for medians.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple
from unittest import mock

import optuna
from rich.console import Console
from rich.table import Table

from benchmarks import racing
from benchmarks.law import Truth
from benchmarks.reasoner import Cell, World
from pdr_dspy.schedule import Schedule
from pdr_dspy.search.pareto import Limits
from pdr_dspy.search.space import Candidate, Space
from pdr_dspy.stats import mean_interval, wilson

SPACE = Space(
    rounds=(1, 2, 3),
    widths=(1, 2, 4, 8, 16),
    k=(1, 2, 4),
    kappa=(512, 1536),
    draft_tokens=(256, 512, 1024),
    critique=(False, True),
)
LIMITS = Limits(sequential=5000, total=8000)
STUDENT = Candidate(Schedule(widths=(1,), draft_tokens=512), {})
"""What a search is given to improve: one draft."""
CLEARLY = 0.05
"""Better by this much counts as clearly better, a fraction."""
TOLERANCE = 0.05
"""Share of a limit by which a chosen schedule may truly exceed it."""
NEAR = (0.01, 0.03)
NEVER = math.inf


class Progress(NamedTuple):
    """Where a search stands."""

    paid: int
    """Tokens, each call once."""
    full: int
    """Tokens, every call."""
    chosen: Candidate
    reported: float
    """What the method says the chosen one's score is, a fraction."""
    dropped: tuple[Candidate, ...] = ()
    """Schedules given up before all questions, since the last progress."""


Searcher = Callable[[World, Space, Limits, Sequence[int], int, int], Iterator[Progress]]
"""(world, space, limits, questions, trials, seed) -> where it stands after each step."""


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
    """What was run on all questions, and the best of it."""

    limits: Limits
    best: tuple[float, float, Candidate] | None = None
    """Minus the excess over a limit (0 within), score, candidate."""

    def add(self, candidate: Candidate, mean: Truth) -> None:
        """Take a schedule's means into account."""
        place = (-max(0.0, *self.limits.excess(mean.sequential, mean.total).values()), mean.score, candidate)
        if self.best is None or place[:2] > self.best[:2]:
            self.best = place

    def progress(self, meter: Meter, dropped: tuple[Candidate, ...] = ()) -> Progress:
        """Where the search stands."""
        assert self.best is not None
        return Progress(meter.paid, meter.full, self.best[2], self.best[1], dropped)


def mean_of(cells: Sequence[Cell]) -> Truth:
    """Means of score, B_seq and B_total."""
    return Truth(fmean(c.score for c in cells), fmean(c.sequential for c in cells), fmean(c.total for c in cells))


# --- the methods ---


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
        trial = study.ask()
        candidate = space.suggest(trial)
        mean = mean_of(meter.run(candidate, questions))
        _tell(study, trial, mean, limits)
        ranking.add(candidate, mean)
        yield ranking.progress(meter)


def wilcoxon(p_threshold: float, startup: int) -> Searcher:
    """TPE with Optuna's WilcoxonPruner as its documentation shows it.

    Questions come in an order of their own for each trial, the pruner is asked after each one, and a pruned trial is
    told with its mean so far. Only trials that ran to their end are chosen. Needs scipy, as the pruner does.
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
            _tell(study, trial, mean, limits)
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
    """scipy's p-value. Up to 13 values with ties it runs through all signs, 0.1 s; on 0/1 scores that is a binomial."""
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

    35 questions at a time, or half of fewer than 70. MIPROv2 itself knows no limits; here its sampler is told of them,
    and averages over a limit are not run in full.
    """
    meter, ranking = Meter(world), Ranking(limits)
    batches = random.Random(f"minibatch|{seed}")
    size = min(35, len(questions) // 2)
    study = optuna.create_study(direction="maximize", sampler=_sampler(seed))
    study.enqueue_trial(space.params_of(STUDENT) or {})
    trial = study.ask()
    first = space.suggest(trial)
    mean = mean_of(meter.run(first, questions))
    _tell(study, trial, mean, limits)
    ranking.add(first, mean)
    yield ranking.progress(meter)
    averages: dict[str, list[Truth]] = {}
    candidates: dict[str, Candidate] = {}
    done: set[str] = set()
    for number in range(1, trials + 1):
        trial = study.ask()
        candidate = space.suggest(trial)
        mean = mean_of(meter.run(candidate, batches.sample(list(questions), size)))
        _tell(study, trial, mean, limits)
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
                _tell(study, again, mean, limits)
                ranking.add(best, mean)
        left = tuple(candidates[key] for key in candidates if key not in done) if number == trials else ()
        yield ranking.progress(meter, left)


def _place(means: Sequence[Truth], limits: Limits) -> tuple[float, float]:
    sequential, total = fmean(m.sequential for m in means), fmean(m.total for m in means)
    return -max(0.0, *limits.excess(sequential, total).values()), fmean(m.score for m in means)


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)  # group: for conditional axes


def _tell(study: optuna.Study, trial: optuna.Trial, mean: Truth, limits: Limits) -> None:
    for name, excess in limits.excess(mean.sequential, mean.total).items():
        trial.set_constraint(name, excess)
    study.tell(trial, mean.score)


def knowing(
    world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
) -> Iterator[Progress]:
    """No method but a yardstick: it knows, at no cost, what each schedule scores on its questions over all seeds.

    What is left of its regret is that the questions are a sample; more trials, seeds or tokens cannot take it away.
    """
    del questions, trials, seed
    allowed = [one for one in space.candidates() if limits.allow(world.truth(one, 1))]
    allowed.sort(key=lambda one: -world.truth_on(one, 40).score)
    score, best = max(((world.truth_on(one).score, one) for one in allowed[:20]), key=lambda pair: pair[0])
    yield Progress(0, 0, best, score)


# A method is one function; to add one, name it here.
def ours(**settings: Any) -> Searcher:
    """The library's search: cohorts race, the best four run again on four fresh seeds."""

    def search(
        world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
    ) -> Iterator[Progress]:
        for step in racing.search(world, space, limits, questions, trials, seed, student=STUDENT, **settings):
            yield Progress(*step)

    return search


SEARCHERS: dict[str, Searcher] = {
    "pdr-dspy": ours(),
    "pdr-dspy, 24 trials": lambda world, space, limits, questions, trials, seed: ours()(
        world, space, limits, questions, min(trials, 24), seed
    ),
    "pdr-dspy, pooled sampler": ours(sampler="pooled"),
    "grid, random order": grid,
    "random search": drawn,
    "TPE, all questions": tpe,
    "TPE + Wilcoxon p=.1": wilcoxon(0.1, 2),
    "TPE + Wilcoxon p=.02": wilcoxon(0.02, 8),
    "MIPROv2 minibatches": minibatch,
    "(knowing its questions)": knowing,
}
REFERENCE = "TPE, all questions"


# --- one seed ---


@dataclass
class Run:
    """One method on one world."""

    method: str
    seed: int
    questions: int
    trials: int
    regret: float
    """Points, at the end."""
    optimism: float
    """Points: reported minus true."""
    over: bool
    """The chosen schedule truly costs over 5 % more than a limit."""
    paid: int
    full: int
    chosen: str
    reached: dict[str, list[float]]
    """By distance in points: tokens (each call once, every call) until the choice is and stays that near."""
    dropped: int
    false_drops: int
    """Dropped schedules within the limits that are clearly better than the one returned."""
    worst_drops: int
    """Of them, those that were clearly better than what was chosen when they were dropped."""
    seconds: float
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    """Paid, full, regret in points, whenever the choice changed."""


class Best(NamedTuple):
    """The best schedule within the limits."""

    candidate: Candidate
    truth: Truth
    within: int
    """Schedules within the limits."""


def best_of(world: World, space: Space, limits: Limits, *, finalists: int = 30) -> Best:
    """Brute force: the truth of every schedule near the limits, then that of the best `finalists` more exactly."""
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
    """Run one method on a world and hold every choice of it against the truth."""
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
        curve=curve,
    )


def _over(truth: Truth, limits: Limits) -> bool:
    return any(excess > TOLERANCE for excess in limits.excess(truth.sequential, truth.total).values())


class Job(NamedTuple):
    """One seed's work."""

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
        world.truths = known  # the truth is over all questions, whichever were drawn
        best = best or best_of(world, space, LIMITS)
        for trials in job.trials:
            runs += [play(name, SEARCHERS[name], world, space, LIMITS, best, trials, job.seed) for name in job.methods]
    return runs


def quick_space() -> Space:
    """A corner of the space."""
    return SPACE.narrow(widths=(1, 2, 4, 8), draft_tokens=(512, 1024), k=(1, 2))


# --- over seeds ---


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Figures of one method over seeds, each as [value, low, high] with its 95 % interval."""
    dropped = sum(run.dropped for run in runs)
    row: dict[str, Any] = {
        "seeds": len(runs),
        "regret": _mean([run.regret for run in runs]),
        "optimism": _mean([run.optimism for run in runs]),
        "over": _share(sum(run.over for run in runs), len(runs)),
        "paid": _mean([run.paid for run in runs]),
        "full": _mean([run.full for run in runs]),
        "dropped": dropped,
        "false drops": _share(sum(run.false_drops for run in runs), dropped),
        "false drops when dropped": _share(sum(run.worst_drops for run in runs), dropped),
        "seconds": fmean(run.seconds for run in runs),
    }
    for distance in runs[0].reached:
        for place, name in enumerate(("paid", "full")):
            tokens = [run.reached[distance][place] for run in runs]
            row[f"{name} within {distance}"] = _median(tokens)
        row[f"share within {distance}"] = _share(sum(t < NEVER for t in tokens), len(runs))  # pyright: ignore
    return row


def tokens_to(runs: Sequence[Run], regret: float) -> float:
    """Paid tokens after which the mean regret over seeds is at most `regret`; infinite when it never is."""
    for tokens in sorted({paid for run in runs for paid, _, _ in run.curve}):
        if fmean(_regret_at(run, tokens) for run in runs) <= regret + 0.001:  # curves are rounded
            return float(tokens)
    return NEVER


def _regret_at(run: Run, tokens: int) -> float:
    before = [regret for paid, _, regret in run.curve if paid <= tokens]
    return before[-1] if before else max(regret for _, _, regret in run.curve)


def _mean(values: Sequence[float]) -> list[float]:
    interval = mean_interval(values)
    return [fmean(values), interval.low, interval.high]


def _share(count: int, of: int) -> list[float]:
    if not of:
        return [math.nan, math.nan, math.nan]
    interval = wilson(count, of)
    return [count / of, interval.low, interval.high]


def _median(values: Sequence[float]) -> list[float]:
    rng = random.Random(0)
    many = sorted(median(rng.choices(list(values), k=len(values))) for _ in range(1000))
    return [median(values), many[25], many[974]]


# --- printing ---


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 30 questions, 20 trials, a smaller space")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--questions", type=int, choices=(30, 120), help="only this many; both when left out")
    parser.add_argument("--trials", type=int, action="append", help="60 when left out; may be repeated")
    parser.add_argument("--method", action="append", choices=tuple(SEARCHERS), help="all when left out")
    parser.add_argument("--json", type=Path, help="also write all figures and runs there")
    options = parser.parse_args()
    questions = (30,) if options.quick else (options.questions,) if options.questions else (30, 120)
    trials = (20,) if options.quick else tuple(options.trials or (60,))
    seeds = range(options.first, options.first + (2 if options.quick else options.seeds))
    methods = tuple(options.method or SEARCHERS)
    jobs = [Job(seed, questions, trials, methods, options.quick) for seed in seeds]
    runs: list[Run] = []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in pool.map(work, jobs):
            runs += done
            _write(options.json, [], runs)  # what is there when somebody stops it
    show(runs, options.json)


def show(runs: Sequence[Run], path: Path | None = None) -> None:
    """Print a table for each number of questions and trials, and write everything to `path`."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    tables = []
    for count, budget in sorted({(run.questions, run.trials) for run in runs}):
        group: dict[str, list[Run]] = {}
        for run in runs:
            if (run.questions, run.trials) == (count, budget):
                group.setdefault(run.method, []).append(run)
        rows = {name: summarise(of) for name, of in group.items()}
        if REFERENCE in rows:
            aim = rows[REFERENCE]["regret"][0]
            for name, row in rows.items():
                row["paid to TPE's regret"] = tokens_to(group[name], aim)
        console.print(_table(rows, count, budget))
        tables.append({"questions": count, "trials": budget, "methods": rows})
    _write(path, tables, runs)


def _write(path: Path | None, tables: Sequence[Any], runs: Sequence[Run]) -> None:
    if path is not None:
        path.write_text(json.dumps(_plain({"tables": tables, "runs": [asdict(run) for run in runs]}), indent=1))


def _plain(value: Any) -> Any:
    """JSON has no infinity: null stands for what was never reached, or has no value."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(rows: Mapping[str, dict[str, Any]], questions: int, trials: int) -> Table:
    seeds = max(row["seeds"] for row in rows.values())
    table = Table(
        "method",
        "regret, points",
        "optimism, points",
        "within 3 points: seeds, Mtok",
        "within 1 point: seeds, Mtok",
        "paid, Mtok",
        "every call, Mtok",
        "to TPE's regret, Mtok",
        "over limit",
        "false drops",
        "CPU s",
        title=f"{questions} questions, {trials} trials, {seeds} seeds, with 95 % intervals",
        show_lines=True,
    )
    for name, row in rows.items():
        table.add_row(
            name,
            _shown(row["regret"]),
            _shown(row["optimism"]),
            *(f"{row[f'share within {d}'][0]:.0%}, {_million(row[f'paid within {d}'])}" for d in ("3", "1")),
            _million(row["paid"]),
            _million(row["full"]),
            _tokens(row["paid to TPE's regret"]) if "paid to TPE's regret" in row else "-",
            f"{row['over'][0]:.0%}",
            f"{row['false drops'][0]:.1%}\nof {row['dropped']}" if row["dropped"] else "-",
            f"{row['seconds']:.1f}",
        )
    return table


def _shown(value: Sequence[float]) -> str:
    return f"{value[0]:.1f}\n({value[1]:.1f} to {value[2]:.1f})"


def _million(value: Sequence[float]) -> str:
    return f"{_tokens(value[0])}\n({_tokens(value[1])} to {_tokens(value[2])})"


def _tokens(value: float) -> str:
    return "never" if value == NEVER else f"{value / 1e6:.2f}"


if __name__ == "__main__":
    main()
