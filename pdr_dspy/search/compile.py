"""PDROptimizer: tunes the schedule, and given instructions, of the operators in a program, as a DSPy teleprompter.

    optimizer = PDROptimizer(verifier, max_sequential=2000, trials=30, run_dir="runs/mine")
    program = optimizer.compile(student, trainset=train, valset=held_out)

Every trial runs on the same questions with the same seeds, and seeds do not depend on the trial: what one trial asked
of the model, the next finds in the rollout store. The winner and the untouched student are then run again with fresh
seeds on questions that no trial has seen; the student is returned unless the winner does better there.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
from dspy.teleprompt import Teleprompter

from pdr_dspy import calls
from pdr_dspy.artifact import operators, save
from pdr_dspy.errors import ConfigError, DataError, EndpointError, StoreError
from pdr_dspy.evaluation import Report, check_examples, evaluate
from pdr_dspy.evaluation import describe as describe_evaluation
from pdr_dspy.operators import Operator
from pdr_dspy.rollouts import Rollouts, address
from pdr_dspy.schedule import PRESETS, Schedule, preset
from pdr_dspy.search import pareto
from pdr_dspy.search.objective import TrialRecord, program_with, record
from pdr_dspy.search.pareto import Limits
from pdr_dspy.search.space import Candidate, Space
from pdr_dspy.search.study import SamplerName, Trials, open_study
from pdr_dspy.signatures import Role, render, signature_of
from pdr_dspy.stats import Paired, paired
from pdr_dspy.verifiers._base import Verifier

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

VERSION = 1
CONFIRMATION_SEED = 104_729
"""Added to the search's seed when the winner is confirmed: none of its samples took part in choosing it."""
logger = logging.getLogger("pdr_dspy.search")


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands; given to the `progress` callback."""

    event: str
    """"started" or "finished" for a trial, "row" for each row of it, "confirming" and "confirmed" for a program on
    untouched questions, "done" at the end."""
    what: str
    """The schedule, in words."""
    trial: TrialRecord | None
    """The trial that ended, for "finished"."""
    best: TrialRecord | None
    """The best within the limits so far, with its interval."""
    rows: tuple[int, int]
    """Rows done and rows in all, of what runs now."""
    trials: int
    """Measured trials so far."""
    trials_left: int
    paid: int
    """Tokens spent by the search so far."""
    saved: int
    """Tokens that trials found in the store instead of paying for them."""
    seconds: float
    """Since `compile` was called."""
    seconds_left: float | None
    """An estimate from the trials that this process ran; None before the first."""


@dataclass(frozen=True)
class Confirmation:
    """The winner and the untouched student on fresh seeds."""

    winner: Report
    student: Report
    difference: Paired
    """Winner minus student, paired by question."""
    untouched: bool
    """Whether the questions took no part in the search."""
    kept: str
    """Which of the two was returned: "winner" or "student"."""
    verdict: str
    """The outcome in one sentence."""


@dataclass(frozen=True)
class SearchResult:
    """Everything that a search found."""

    program: dspy.Module = field(repr=False)
    """What `compile` returned."""
    student: dspy.Module = field(repr=False)
    """As it was given."""
    trials: tuple[TrialRecord, ...]
    """In the order in which they were tried."""
    best: TrialRecord
    """The best trial within the limits; its score is what chose it, and so on the high side."""
    front: tuple[TrialRecord, ...]
    """Trials that no other beats in score and both costs, the cheapest first."""
    confirmation: Confirmation
    limits: Limits
    stopped: str
    """Why the search ended."""

    @property
    def paid(self) -> int:
        """Tokens that the trials and the confirmation cost."""
        confirmed = self.confirmation.winner.paid + self.confirmation.student.paid
        return sum(trial.paid for trial in self.trials) + confirmed

    @property
    def saved(self) -> int:
        """Tokens of trials that were found in the store."""
        return sum(trial.saved for trial in self.trials)

    def best_for(self, *, sequential: int | None = None, total: int | None = None) -> dspy.Module:
        """A program with the best schedule measured within other limits, in mean tokens of a run.

        Raises ConfigError, naming the least, when none is within them.
        """
        measured = [trial for trial in self.trials if trial.state == "measured"]
        chosen = pareto.best(measured, Limits(sequential, total))
        if chosen is None:
            least = min(trial.sequential for trial in measured), min(trial.total for trial in measured)
            raise ConfigError(
                f"`best_for(sequential={sequential}, total={total})`: no schedule is within it; the least that was "
                f"measured is {least[0]:.0f} sequential and {least[1]:.0f} total tokens"
            )
        return program_of(self.student, chosen)


class PDROptimizer(Teleprompter):
    """Searches the space of schedules for the best score under limits on tokens, or for the Pareto front."""

    def __init__(
        self,
        verifier: Verifier,
        *,
        space: Space | None = None,
        max_sequential: int | None = None,
        max_total: int | None = None,
        pareto: bool = False,
        trials: int = 30,
        repeats: int = 1,
        confirm_repeats: int = 4,
        storage: Any = None,
        run_dir: str | Path | None = None,
        seed: int = 0,
        sampler: BaseSampler | SamplerName | None = None,
        max_in_flight: int = 64,
        max_tokens: int | None = None,
        time_limit: float | None = None,
        progress: Callable[[SearchProgress], None] | None = None,
    ) -> None:
        """
        Args:
            verifier: gives a score in [0, 1]; also a DSPy metric.
            space: what to choose from; None is `Space.default_for` the student's schedule.
            max_sequential: limit on the mean B_seq of a run, in tokens.
            max_total: limit on the mean B_total of a run, in tokens.
            pareto: search for the front of score against both costs instead of for the best score. The program that is
                returned is the best within the limits either way; `result.best_for(...)` gives the others.
            trials: schedules to measure, the student and the baselines included.
            repeats: runs of each question in a trial.
            confirm_repeats: runs of each question in the confirmation.
            storage: a folder, an Optuna storage URL or storage object; None is `run_dir`, or memory without one.
            run_dir: keeps the study, all calls and rows. The same command goes on from what is there.
            seed: of the search, its samples and the split of `trainset` when there is no `valset`.
            sampler: "tpe" (the default), "nsga2", "random", or an Optuna sampler (a search that is interrupted then
                goes on, but not as it would have gone without the interruption).
            max_in_flight: most requests on the wire at one time.
            max_tokens: no new trial is started after this many paid tokens.
            time_limit: no new trial is started after this many seconds of this call of `compile`.
            progress: told of every step. What it raises ends the search; what is finished is kept.

        Raises:
            ConfigError: an argument that cannot work.
        """
        super().__init__()
        if not callable(verifier):
            raise ConfigError(f"`PDROptimizer(verifier={verifier!r})` must be a verifier, such as `NumberVerifier()`")
        least_one = {"trials": trials, "repeats": repeats, "confirm_repeats": confirm_repeats}
        limits = {"max_sequential": max_sequential, "max_total": max_total, "max_tokens": max_tokens}
        for name, value in {**least_one, **limits, "max_in_flight": max_in_flight}.items():
            if value is not None and (isinstance(value, bool) or value < 1):
                raise ConfigError(f"`PDROptimizer({name}={value!r})` must be at least 1")
        if time_limit is not None and time_limit <= 0:
            raise ConfigError(f"`PDROptimizer(time_limit={time_limit!r})` must be above 0 seconds")
        if isinstance(sampler, str) and sampler not in ("tpe", "nsga2", "random"):
            raise ConfigError(f'`PDROptimizer(sampler={sampler!r})` must be "tpe", "nsga2", "random" or a sampler')
        self.verifier = verifier
        self.space = space
        self.limits = Limits(max_sequential, max_total)
        self.pareto = pareto
        self.trials = trials
        self.repeats = repeats
        self.confirm_repeats = confirm_repeats
        self.storage = storage
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.seed = seed
        self.sampler: BaseSampler | SamplerName | None = sampler
        self.max_in_flight = max_in_flight
        self.max_tokens = max_tokens
        self.time_limit = time_limit
        self.progress = progress
        self.result: SearchResult | None = None
        """Of the last `compile`."""

    def compile(  # type: ignore[override]
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> dspy.Module:
        """Search, confirm, and return a program.

        Args:
            student: an operator, or a module that contains some (all of them get the same schedule). It is not changed.
            trainset: questions that trials are measured on.
            teacher: not used; it is there because DSPy's optimizers may be given one.
            valset: questions for the confirmation. Without one, a quarter of `trainset` is held out for it; from fewer
                than 8 questions none is, and the confirmation has fresh seeds only, which its verdict says.

        Returns:
            A new program. Its attributes: `score` (on the confirmation), `candidate_programs` (dicts with "score",
            "program", "schedule", "sequential", "total", best first), `trial_logs` (one dict for each trial),
            `confirmation` and `front`. `optimizer.result` has them typed, and `best_for`.

        Raises:
            ConfigError: no operator in the student, no model, or a limit that no schedule can keep.
            DataError: an empty set, or an example that program or verifier cannot use.
            StoreError: the run folder is another study's, is in use, or cannot be written.
            EndpointError: the model server went away; the same command goes on from there.
        """
        del teacher
        search = _Search(self, student, trainset, valset)
        self.result = search.run()
        return self.result.program


class _Search:
    """One call of `compile`."""

    def __init__(
        self,
        optimizer: PDROptimizer,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None,
    ) -> None:
        self.optimizer = optimizer
        self.student = student.deepcopy()
        found = operators(self.student)
        if not found:
            raise ConfigError(
                f"`compile(student={type(student).__name__}())` holds no LongCoT, SR or PDR; there is no "
                "schedule to tune"
            )
        for name, examples in (("trainset", trainset), ("valset", valset)):
            if examples is not None and not examples:
                raise DataError(f"`compile({name}=[])` is empty; there is nothing to measure")
        self.operator: Operator = next(iter(found.values()))
        self.space = optimizer.space or Space.default_for(self.operator.schedule)
        self.limits = optimizer.limits
        self.train, self.held_out, self.untouched = _split(list(trainset), valset, optimizer.seed)
        ids = check_examples(self.student, self.train, optimizer.verifier)
        check_examples(self.student, self.held_out, optimizer.verifier)
        self.confirmed_on = address({"questions": [calls.identity(dict(e.inputs())) for e in self.held_out]})[:8]
        self.folder = optimizer.run_dir
        evaluation = describe_evaluation(
            self.student,
            self.train,
            ids,
            optimizer.verifier,
            repeats=optimizer.repeats,
            seed=optimizer.seed,
            budget=None,
        )
        self.config = {
            **{name: value for name, value in evaluation.items() if name != "budget"},
            "version": VERSION,
            "space": self.space.model_dump(mode="json"),
            "limits": self.limits._asdict(),
            "pareto": optimizer.pareto,
            "sampler": sampler if isinstance(sampler := optimizer.sampler or "tpe", str) else type(sampler).__name__,
        }
        self.started = time.monotonic()
        self.ran: list[float] = []
        self.reports: dict[int, Report] = {}
        self.what = ""
        self.trials: list[TrialRecord] = []
        self.store = Rollouts()

    def run(self) -> SearchResult:
        optimizer = self.optimizer
        self.check_limits()
        costs = pareto.COSTS if optimizer.pareto else ()
        with open_study(
            storage=optimizer.storage, run_dir=self.folder, minimized=len(costs), config=self.config
        ) as study:
            self.store = Rollouts(None if self.folder is None else self.folder / "rollouts")
            with self.store:
                loop = Trials(
                    study, self.space, limits=self.limits, costs=costs, seed=optimizer.seed, sampler=optimizer.sampler
                )
                loop.enqueue(self.baselines())
                stopped = self.search(loop)
                result = self.conclude(stopped)
        self.tell("done", self.what)
        return result

    # --- what is tried ---

    def baselines(self) -> dict[str, Candidate]:
        """The untouched student, one pass, Sequential Refinement, and the presets: those that the space has."""
        own = self.operator.schedule
        named: dict[str, Schedule] = {"student": own, "LongCoT": own.replace(widths=(1,), critique=False)}
        chain = {"widths": (1,) * min(3, max(self.space.rounds)), "distiller": "last", "critique": False}
        if max(self.space.rounds) > 1:
            named["SR"] = own.replace(**chain)
        for name in PRESETS:
            kept = own.model_dump(exclude={"widths", "distiller", "critique", "k"})
            named[name] = preset(name, **kept)
        chosen: dict[str, Candidate] = {}
        seen: set[str] = set()
        for name, schedule in named.items():
            candidate = Candidate(schedule, {})
            if candidate.key not in seen and (name == "student" or candidate in self.space):
                seen.add(candidate.key)
                chosen[name] = candidate
        return chosen

    def search(self, loop: Trials) -> str:
        """Ask, measure and tell until something says stop; returns what."""
        optimizer = self.optimizer
        while True:
            self.trials = loop.records
            stop = self.stop()
            if stop is not None:
                return stop
            asked = loop.ask()
            if asked is None:
                return "every candidate was tried or is too dear"
            trial, origin, candidate = asked
            equal = loop.known(candidate)
            dear = None if origin in ("student", "LongCoT") else loop.too_dear(candidate)
            if equal is not None:
                copied = {"number": trial.number, "origin": origin, "state": "copied", "copy_of": equal.number}
                free = {"paid": 0, "saved": 0, "seconds": 0.0, "profile": {}}
                loop.tell(trial, equal.model_copy(update={**copied, **free}))
            elif dear is not None:
                rejected = TrialRecord(
                    number=trial.number,
                    origin=origin,
                    state="rejected",
                    schedule=candidate.schedule,
                    instructions=candidate.instructions,
                    sequential=dear[0],
                    total=dear[1],
                    feasible=False,
                )
                loop.tell(trial, rejected)
                logger.info("trial %d: %s would cost B_seq %.0f, B_total %.0f: not run", trial.number, candidate, *dear)
            else:
                began = time.monotonic()
                self.tell("started", str(candidate))
                report = self.measure(
                    None if origin == "student" else candidate,
                    self.train,
                    f"trials/{trial.number:04d}",
                    optimizer.repeats,
                    optimizer.seed,
                )
                seconds = time.monotonic() - began
                done = record(trial.number, origin, candidate, report, self.limits, seconds)
                loop.tell(trial, done)
                self.trials = [*self.trials, done]
                self.ran.append(seconds)
                self.reports[trial.number] = report
                logger.info(
                    "trial %d: %s; %.0f %% of calls reused, %d tokens paid, %d saved",
                    *(trial.number, done, 100 * done.reused, done.paid, done.saved),
                )
                self.tell("finished", str(candidate), trial=done)

    def stop(self) -> str | None:
        optimizer = self.optimizer
        measured = [trial for trial in self.trials if trial.state == "measured"]
        if len(measured) >= optimizer.trials:
            return f"{len(measured)} trials were measured"
        if not measured:
            return None  # there must be something to conclude from
        paid = sum(trial.paid for trial in measured)
        if optimizer.max_tokens is not None and paid >= optimizer.max_tokens:
            return f"{paid} tokens were paid, `max_tokens` is {optimizer.max_tokens}"
        spent = time.monotonic() - self.started
        if optimizer.time_limit is not None and spent >= optimizer.time_limit:
            return f"{spent:.0f} seconds went by, `time_limit` is {optimizer.time_limit:g}"
        return None

    def measure(
        self, candidate: Candidate | None, examples: Sequence[dspy.Example], place: str, repeats: int, seed: int
    ) -> Report:
        """Evaluate a candidate (None is the untouched student); its rows are kept under `place`."""
        program = self.student if candidate is None else program_with(self.student, candidate)
        what = str(self.operator.schedule if candidate is None else candidate)
        report = evaluate(
            program,
            examples,
            self.optimizer.verifier,
            repeats=repeats,
            seed=seed,
            store=self.store,
            run_dir=None if self.folder is None else self.folder / place,
            max_in_flight=self.optimizer.max_in_flight,
            name=what,
            progress=None
            if self.optimizer.progress is None
            else lambda _, done, count: self.tell("row", what, rows=(done, count)),
        )
        if report.stopped is not None:
            raise EndpointError(
                f"the search stopped in {place}: {report.stopped}; what is finished is kept, the same command goes on"
            )
        return report

    # --- what is concluded ---

    def conclude(self, stopped: str) -> SearchResult:
        measured = [trial for trial in self.trials if trial.state == "measured"]
        best = pareto.best(measured, self.limits)
        if best is None:
            raise ConfigError(
                f"no schedule is within `max_sequential={self.limits.sequential}`, `max_total={self.limits.total}`: "
                f"the least that was measured is {min(t.sequential for t in measured):.0f} sequential and "
                f"{min(t.total for t in measured):.0f} total tokens; raise the limit or lower the caps"
            )
        confirmation = self.confirm(best)
        keep_winner = confirmation.kept == "winner"
        program = program_of(self.student, best) if keep_winner else self.student.deepcopy()
        result = SearchResult(
            program=program,
            student=self.student,
            trials=tuple(self.trials),
            best=best,
            front=tuple(pareto.front(measured)),
            confirmation=confirmation,
            limits=self.limits,
            stopped=stopped,
        )
        if self.folder is not None:
            self.write(result)
        _attach(program, result)
        logger.info("%s; %s", stopped, confirmation.verdict)
        return result

    def confirm(self, best: TrialRecord) -> Confirmation:
        """The winner and the student again, side by side, on fresh seeds."""
        repeats, seed = self.optimizer.confirm_repeats, self.optimizer.seed + CONFIRMATION_SEED
        same = best.origin == "student"
        folder = f"confirm/{self.confirmed_on}"
        self.tell("confirming", f"student: {self.operator.schedule}")
        student = self.measure(None, self.held_out, f"{folder}/student", repeats, seed)
        winner = student
        if not same:
            self.tell("confirming", str(best.candidate))
            winner = self.measure(best.candidate, self.held_out, f"{folder}/{best.number:04d}", repeats, seed)
        difference = paired(winner.per_question, student.per_question)
        kept, verdict = _judge(winner, student, difference, self.limits, same=same)
        if not self.untouched:
            verdict += "; the questions are those of the search, only the seeds are fresh: give `valset=...`"
        self.tell("confirmed", verdict)
        return Confirmation(winner, student, difference, self.untouched, kept, verdict)

    def check_limits(self) -> None:
        """Refuse a limit that not even the prompt of one draft fits, before a token is spent."""
        least = [limit for limit in self.limits if limit is not None]
        if not least or not isinstance(self.student, Operator):
            return
        student = self.student
        predictor = student.predictor(Role.DRAFT)
        prompts = []
        for example in self.train:
            inputs = {name: value for name, value in example.inputs().items() if name in student.task.input_fields}
            messages = render(signature_of(predictor), predictor.demos, inputs)
            prompts.append("\n".join(str(message["content"]) for message in messages))
        lm = calls.serving(predictor)
        counts, exact = calls.run(lambda: calls.count_tokens(lm, prompts))
        mean = sum(counts) / len(counts)
        if exact and mean + 1 > min(least):
            raise ConfigError(
                f"`max_sequential={self.limits.sequential}`, `max_total={self.limits.total}`: the prompt alone of the "
                f"cheapest schedule, LongCoT, has {mean:.0f} tokens on average; the least that can do anything is "
                f"{math.ceil(mean) + 1}"
            )

    def write(self, result: SearchResult) -> None:
        """search.json for the report, best.json to run."""
        assert self.folder is not None
        confirmation = result.confirmation
        facts = {
            "config": self.config,
            "trials": [json.loads(trial.model_dump_json(exclude={"profile"})) for trial in result.trials],
            "best": result.best.number,
            "front": [trial.number for trial in result.front],
            "stopped": result.stopped,
            "confirmation": {
                "kept": confirmation.kept,
                "verdict": confirmation.verdict,
                "untouched": confirmation.untouched,
                "difference": [confirmation.difference.difference, *confirmation.difference.interval],
                "folder": f"confirm/{self.confirmed_on}",
                "student": "student",
                "winner": "student" if result.best.origin == "student" else f"{result.best.number:04d}",
            },
        }
        kept = confirmation.winner if confirmation.kept == "winner" else confirmation.student
        try:
            temporary = self.folder / "search.json.tmp"
            temporary.write_text(json.dumps(facts, indent=1))
            temporary.replace(self.folder / "search.json")
        except OSError as error:
            raise StoreError(f"{self.folder / 'search.json'} cannot be written: {error.strerror}") from error
        save(
            result.program,
            self.folder / "best.json",
            verifier=self.optimizer.verifier,
            data={"fingerprint": self.config["examples"], "questions": len(self.train)},
            figures=[kept] if kept is confirmation.student else [kept, confirmation.student],
            notes=confirmation.verdict,
        )

    def tell(self, event: str, what: str, *, trial: TrialRecord | None = None, rows: tuple[int, int] = (0, 0)) -> None:
        self.what = what
        if self.optimizer.progress is None:
            return
        measured = [done for done in self.trials if done.state == "measured"]
        left = max(self.optimizer.trials - len(measured), 0)
        self.optimizer.progress(
            SearchProgress(
                event=event,
                what=what,
                trial=trial,
                best=pareto.best(measured, self.limits),
                rows=rows,
                trials=len(measured),
                trials_left=left,
                paid=sum(done.paid for done in measured),
                saved=sum(done.saved for done in measured),
                seconds=time.monotonic() - self.started,
                seconds_left=left * sum(self.ran) / len(self.ran) if self.ran else None,
            )
        )


def program_of(student: dspy.Module, trial: TrialRecord) -> dspy.Module:
    """A copy of the student as it ran in a trial."""
    return student.deepcopy() if trial.origin == "student" else program_with(student, trial.candidate)


def _split(
    trainset: list[dspy.Example], valset: Sequence[dspy.Example] | None, seed: int
) -> tuple[list[dspy.Example], list[dspy.Example], bool]:
    """Questions for the trials, questions for the confirmation, and whether the two are apart."""
    if valset is not None:
        asked = {calls.identity(dict(example.inputs())) for example in trainset}
        apart = not any(calls.identity(dict(example.inputs())) in asked for example in valset)
        return trainset, list(valset), apart
    if len(trainset) < 8:
        return trainset, trainset, False
    order = list(range(len(trainset)))
    random.Random(seed).shuffle(order)
    held = set(order[: len(trainset) // 4])
    return (
        [example for place, example in enumerate(trainset) if place not in held],
        [example for place, example in enumerate(trainset) if place in held],
        True,
    )


def _judge(winner: Report, student: Report, difference: Paired, limits: Limits, *, same: bool) -> tuple[str, str]:
    """Which of the two to return, and why."""
    low, high = difference.interval
    figures = (
        f"{winner.score:.3f} against {student.score:.3f}, a difference of {difference.difference:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], at B_seq {winner.sequential:.0f} against {student.sequential:.0f} and B_total "
        f"{winner.total:.0f} against {student.total:.0f}"
    )
    if same:
        return "student", f"the untouched student was the best of the search: {student.score:.3f} on confirmation"
    if not limits.allow(student):
        over = "" if limits.allow(winner) else "; on these questions it is over the limits too"
        return "winner", f"the winner is kept, the student costs more than the limits allow: {figures}{over}"
    if not limits.allow(winner):
        return "student", f"the student is kept, the winner costs more than the limits on confirmation: {figures}"
    if difference.difference > 0:
        sure = "" if low > 0 else "; the difference may be chance"
        return "winner", f"the winner is kept: {figures}{sure}"
    if difference.difference == 0 and (winner.total, winner.sequential) < (student.total, student.sequential):
        return "winner", f"the winner is kept, it is as good for fewer tokens: {figures}"
    return "student", f"the student is kept, the winner did no better on confirmation: {figures}"


def _attach(program: dspy.Module, result: SearchResult) -> None:
    """What DSPy's users look for on a compiled program."""
    measured = sorted((t for t in result.trials if t.state == "measured"), key=lambda t: (-t.score, t.total))
    kept = result.confirmation.winner if result.confirmation.kept == "winner" else result.confirmation.student
    attributes: dict[str, Any] = {
        "score": kept.score,
        "candidate_programs": [
            {
                "score": trial.score,
                "program": program_of(result.student, trial),
                "schedule": trial.schedule,
                "sequential": trial.sequential,
                "total": trial.total,
            }
            for trial in measured
        ],
        "trial_logs": [trial.model_dump(exclude={"profile"}) for trial in result.trials],
        "confirmation": result.confirmation,
        "front": result.front,
    }
    for name, value in attributes.items():
        setattr(program, name, value)
