"""PDROptimizer: tunes the schedule, and given instructions, of the operators in a program, as a DSPy teleprompter.

    optimizer = PDROptimizer(verifier, max_sequential=2000, trials=30, run_dir="runs/mine")
    program = optimizer.compile(student, trainset=train, valset=held_out)

Every trial runs on the same questions with the same seeds, and seeds do not depend on the trial: what one trial asked
of the model, the next finds in the rollout store. The winner and the untouched student are then run again with fresh
seeds on questions that no trial has seen; the student is returned unless the winner does better there.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
from dspy.teleprompt import Teleprompter

from pdr_dspy import calls
from pdr_dspy.errors import ConfigError, DataError, EndpointError
from pdr_dspy.evaluation import Report, check_examples, evaluate, inputs_of
from pdr_dspy.evaluation import describe as describe_evaluation
from pdr_dspy.nesting import operators
from pdr_dspy.operators import Operator
from pdr_dspy.rollouts import Rollouts, address
from pdr_dspy.schedule import PRESETS, Schedule, preset
from pdr_dspy.search import pareto
from pdr_dspy.search.confirmation import CONFIRMATION_SEED, Confirmation, identities, judge, split
from pdr_dspy.search.objective import TrialRecord, program_with, record, rejection
from pdr_dspy.search.pareto import Limits
from pdr_dspy.search.result import SearchProgress, SearchResult, attach, detached, program_of, write
from pdr_dspy.search.space import Candidate, Space
from pdr_dspy.search.study import SamplerName, Trials, open_study
from pdr_dspy.signatures import Role, render, signature_of
from pdr_dspy.stats import paired
from pdr_dspy.verifiers._base import Verifier

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

VERSION = 1
logger = logging.getLogger("pdr_dspy.search")


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
            A new program. Its attributes: `score` (on the confirmation, a fraction), `candidate_programs` (dicts with
            "score", "program", "schedule", "sequential", "total", "feasible"; those within the limits first, the best
            of them ahead), `trial_logs` (the facts of each trial by its number), `confirmation` and `front`.
            `optimizer.result` has them typed, and `best_for`.

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
        self.student = detached(student)
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
        self.mixed = len({Candidate(operator.schedule, {}).key for operator in found.values()}) > 1
        self.train, self.held_out = split(list(trainset), valset, optimizer.seed)
        ids = check_examples(self.student, self.train, optimizer.verifier)
        check_examples(self.student, self.held_out, optimizer.verifier)
        searched, confirmed = set(identities(self.student, self.train)), identities(self.student, self.held_out)
        self.seen = sum(question in searched for question in confirmed)
        self.confirmed_in = f"confirm/{address({'questions': confirmed})[:8]}"
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
                if not (name == "student" and self.mixed):
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
            if equal is not None and equal.origin == "student" and self.mixed:
                equal = None  # the student's operators differ, the candidate's do not
            dear = None if origin in ("student", "LongCoT") else loop.too_dear(candidate)
            if equal is not None:
                copied = {"number": trial.number, "origin": origin, "state": "copied", "copy_of": equal.number}
                free = {"paid": 0, "saved": 0, "seconds": 0.0, "profile": {}}
                loop.tell(trial, equal.model_copy(update={**copied, **free}))
            elif dear is not None:
                loop.tell(trial, rejection(trial.number, origin, candidate, *dear))
                logger.info("trial %d: %s would cost B_seq %.0f, B_total %.0f: not run", trial.number, candidate, *dear)
            else:
                began = time.monotonic()
                self.tell("started", str(candidate))
                try:
                    report = self.measure(
                        None if origin == "student" else candidate,
                        self.train,
                        f"trials/{trial.number:04d}",
                        optimizer.repeats,
                        optimizer.seed,
                    )
                except ConfigError as error:
                    if origin == "student":
                        raise
                    loop.tell(trial, rejection(trial.number, origin, candidate))
                    logger.warning("trial %d: %s cannot be run: %s", trial.number, candidate, error)
                    continue
                seconds = time.monotonic() - began
                done = record(trial.number, origin, candidate, report, self.limits, seconds)
                loop.tell(trial, done)
                self.trials = [*self.trials, done]
                self.ran.append(seconds)
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
                f"{min(t.total for t in measured):.0f} total tokens ({stopped}); raise the limit or lower the caps"
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
            about = {"fingerprint": self.config["examples"], "questions": len(self.train)}
            write(result, self.folder, self.config, self.confirmed_in, verifier=self.optimizer.verifier, data=about)
        attach(program, result)
        logger.info("%s; %s", stopped, confirmation.verdict)
        return result

    def confirm(self, best: TrialRecord) -> Confirmation:
        """The winner and the student again, side by side, on fresh seeds."""
        repeats, seed = self.optimizer.confirm_repeats, self.optimizer.seed + CONFIRMATION_SEED
        same = best.origin == "student"
        self.tell("confirming", f"student: {self.operator.schedule}")
        student = self.measure(None, self.held_out, f"{self.confirmed_in}/student", repeats, seed)
        winner = student
        if not same:
            self.tell("confirming", str(best.candidate))
            winner = self.measure(
                best.candidate, self.held_out, f"{self.confirmed_in}/{best.number:04d}", repeats, seed
            )
        difference = paired(winner.per_question, student.per_question)
        kept, verdict = judge(winner, student, difference, self.limits, same=same, seen=self.seen)
        self.tell("confirmed", verdict)
        return Confirmation(winner, student, difference, not self.seen, kept, verdict)

    def check_limits(self) -> None:
        """Refuse a limit that not even the prompt of one draft fits, before a token is spent."""
        least = [limit for limit in self.limits if limit is not None]
        if not least or not isinstance(self.student, Operator):
            return
        student = self.student
        predictor = student.predictor(Role.DRAFT)
        prompts = []
        for example in self.train:
            messages = render(signature_of(predictor), predictor.demos, inputs_of(student, example))
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
