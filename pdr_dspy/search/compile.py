"""PDROptimizer: tunes the schedule and prompts of the operators in a program, as a DSPy teleprompter.

    optimizer = PDROptimizer(verifier, max_sequential=2000, trials=30, run_dir="runs/mine")
    program = optimizer.compile(student, trainset=train, valset=held_out)

Candidates race each other on growing blocks of (question, seed); the best few run again on fresh seeds; the best of
those and the untouched student run on questions that nothing was chosen on. The student is returned unless the winner
is confidently better there, or as good for fewer tokens. `plan.py` is the method, `worker.py` does what it asks.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dspy
from dspy.teleprompt import Teleprompter

from pdr_dspy import calls, postgres
from pdr_dspy import operators as operators_
from pdr_dspy.budget import Budget
from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.evaluation import Report, Row, check_examples, inputs_of
from pdr_dspy.evaluation import describe as describe_evaluation
from pdr_dspy.files import write_whole
from pdr_dspy.nesting import operators
from pdr_dspy.operators import Operator
from pdr_dspy.rollouts import Rollouts, address
from pdr_dspy.schedule import PRESETS, Schedule, preset
from pdr_dspy.search import pareto, proposals, study, writing
from pdr_dspy.search.board import Board, MemoryBoard, open_board
from pdr_dspy.search.confirmation import Accept, Confirmation, identities, judge, split
from pdr_dspy.search.objective import (
    SLACK,
    Profile,
    TrialRecord,
    describe_candidate,
    predict,
    program_with,
    read_candidate,
    record,
)
from pdr_dspy.search.pareto import Limits
from pdr_dspy.search.plan import Cell, Found, Measure, Plan, Propose, Proposed, Settings, Stage, Tried
from pdr_dspy.search.prompts import check_demos, questions_in
from pdr_dspy.search.proposals import Proposals
from pdr_dspy.search.result import (
    SearchProgress,
    SearchResult,
    attach,
    by_estimate,
    detached,
    estimated_front,
    program_of,
    write,
)
from pdr_dspy.search.sampling import SAMPLERS, Proposer, SamplerName
from pdr_dspy.search.space import Candidate, Space
from pdr_dspy.search.worker import SEEDS, Worker
from pdr_dspy.signatures import Role, render, signature_of
from pdr_dspy.stats import paired
from pdr_dspy.verifiers._base import Verifier

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

VERSION = 2
WRITING = 200, 4000
"""Tokens that one call for an instruction costs, at least and at most."""
logger = logging.getLogger("pdr_dspy.search")


class PDROptimizer(Teleprompter):
    """Searches the space of schedules and prompts for the best score under limits on tokens, or for the front."""

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
        finalists: int = 4,
        finalist_repeats: int = 4,
        confirm_repeats: int = 4,
        accept: Accept = "confident",
        storage: str | Path | None = None,
        study: str = "pdr",
        run_dir: str | Path | None = None,
        seed: int = 0,
        sampler: SamplerName | Callable[[int], BaseSampler] = "pooled",
        prompts: int = 0,
        prompt_model: dspy.LM | None = None,
        cohort: int = 8,
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
            trials: candidates to measure, the student and the baselines included.
            repeats: runs of each question in the race, at most.
            finalists: programs, besides the student, that run again on fresh seeds.
            finalist_repeats: runs of each question for them.
            confirm_repeats: runs of each question in the confirmation.
            accept: "confident" returns the winner only if it is confidently better on the confirmation, or as good for
                fewer tokens; "better" whenever it did better there.
            storage: where workers meet: a folder of this machine, or a `postgresql://` URL for many machines; None is
                `run_dir`, or memory without one.
            study: the search's name in `storage`.
            run_dir: keeps calls, rows and results. The same command goes on from what is there.
            seed: of the search, its samples and the split of `trainset` when there is no `valset`.
            sampler: "pooled" draws candidates from what is known of all scores together; "tpe", "nsga2", "random" and a
                function from a seed to an Optuna sampler are Optuna's.
            prompts: instructions that a model is asked for, for each role that the space calls, once the student has
                run: it is shown failures of the student's. Those that can be used join the space. 0 leaves the prompts
                as they are.
            prompt_model: the model that writes them; None is the student's own.
            cohort: candidates that race each other.
            max_in_flight: most requests on the wire at one time, of each worker.
            max_tokens: no new cohort is started after this many paid tokens.
            time_limit: no new cohort is started after this many seconds of this call of `compile`.
            progress: told of every step. What it raises ends the search; what is finished is kept.

        Raises:
            ConfigError: an argument that cannot work.
        """
        super().__init__()
        if not callable(verifier):
            raise ConfigError(f"`PDROptimizer(verifier={verifier!r})` must be a verifier, such as `NumberVerifier()`")
        least_one = {
            "trials": trials,
            "repeats": repeats,
            "finalists": finalists,
            "finalist_repeats": finalist_repeats,
            "confirm_repeats": confirm_repeats,
            "cohort": cohort,
            "max_in_flight": max_in_flight,
            "max_sequential": max_sequential,
            "max_total": max_total,
            "max_tokens": max_tokens,
        }
        for name, value in least_one.items():
            if value is not None and (isinstance(value, bool) or value < 1):
                raise ConfigError(f"`PDROptimizer({name}={value!r})` must be at least 1")
        if isinstance(prompts, bool) or not isinstance(prompts, int) or prompts < 0:
            raise ConfigError(f"`PDROptimizer(prompts={prompts!r})` must be a whole number from 0 on")
        if prompt_model is not None and not isinstance(prompt_model, dspy.BaseLM):
            raise ConfigError(f"`PDROptimizer(prompt_model={prompt_model!r})` must be a dspy.LM")
        if time_limit is not None and time_limit <= 0:
            raise ConfigError(f"`PDROptimizer(time_limit={time_limit!r})` must be above 0 seconds")
        if not callable(sampler) and sampler not in SAMPLERS:
            raise ConfigError(
                f"`PDROptimizer(sampler={sampler!r})` must be {', '.join(map(repr, SAMPLERS))} or a function from a "
                "seed to an Optuna sampler"
            )
        if accept not in ("confident", "better"):
            raise ConfigError(f'`PDROptimizer(accept={accept!r})` must be "confident" or "better"')
        self.verifier = verifier
        self.space = space
        self.limits = Limits(max_sequential, max_total)
        self.pareto = pareto
        self.trials = trials
        self.repeats = repeats
        self.finalists = finalists
        self.finalist_repeats = finalist_repeats
        self.confirm_repeats = confirm_repeats
        self.accept: Accept = accept
        self.storage = storage
        self.study = study
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.seed = seed
        self.sampler: SamplerName | Callable[[int], BaseSampler] = sampler
        self.prompts = prompts
        self.prompt_model = prompt_model
        self.cohort = cohort
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
            StoreError: run folder or storage hold another search, or cannot be used.
            EndpointError: the model server went away; the same command goes on from there.
        """
        del teacher
        self.result = _Search(self, student, trainset, valset).run()
        return self.result.program

    def work(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
    ) -> int:
        """Help with a search that is under way in `storage`, until it has ended; returns the runs that were made here.

        Arguments and exceptions as for `compile`; the settings are those of the search that is joined, whose questions
        and program must be the same. Raises StoreError when there is none.
        """
        return _Search(self, student, trainset, valset).help()

    def questions(self) -> tuple[int, int]:
        """How many training and held-out questions the search in `storage` or `run_dir` has.

        Raises StoreError when there is none.
        """
        where = self.storage if self.storage is not None or self.run_dir is None else self.run_dir / "board"
        with open_board(where, study=self.study) as board:
            ends = _ends(board)
        if ends is None:
            raise StoreError(f"there is no search {self.study!r} here; start it with `pdr optimize` or `compile`")
        if "train" not in ends or "held_out" not in ends:
            raise StoreError(f"the search {self.study!r} here is not of this version")
        return ends["train"], ends["held_out"]

    @classmethod
    def join(cls, verifier: Verifier, storage: str | Path, *, study: str = "pdr", **own: Any) -> PDROptimizer:
        """An optimizer with the settings of a search that is under way, to `work` for it.

        Args:
            verifier: as it has it.
            storage: where its workers meet: its run folder, the folder of its `storage`, or a `postgresql://` URL.
            study: its name there.
            own: settings of this worker alone, such as `max_in_flight` or `progress`.

        Raises StoreError when there is no such search.
        """
        folder = None if postgres.is_url(storage) else Path(storage)
        inner = folder is not None and (folder / "board").is_dir()
        place = storage if folder is None else folder / "board" if inner else folder
        if folder is not None and not folder.is_dir():
            raise StoreError(f"there is no search in {str(storage)!r}; start it with `pdr optimize` or `compile`")
        with open_board(place, study=study) as board:
            text, ends = board.get("config"), _ends(board)
        if text is None or ends is None:
            raise StoreError(
                f"there is no search {study!r} in `{postgres.shown(str(storage))}`; start it with `pdr optimize` or "
                "`compile`"
            )
        try:
            facts = json.loads(text)
            names = (
                "pareto",
                "sampler",
                "repeats",
                "finalists",
                "finalist_repeats",
                "confirm_repeats",
                "cohort",
                "seed",
            )
            settings = {name: facts[name] for name in names}
            settings |= {name: ends[name] for name in ("trials", "max_tokens")}
            settings["prompts"] = facts.get("prompts", 0)
            space, limits = Space(**facts["space"]), Limits(**facts["limits"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"`{postgres.shown(str(storage))}` holds no search of this version ({error})") from error
        where: dict[str, Any] = {"run_dir": folder} if inner else {"storage": storage}
        return cls(
            verifier,
            space=space,
            max_sequential=limits.sequential,
            max_total=limits.total,
            study=study,
            **{**settings, **where, **own},
        )

    def rollouts(self) -> Rollouts:
        """The store of the search's calls, where its workers find it: in `storage`, else in the run folder."""
        if postgres.is_url(self.storage):
            return Rollouts(str(self.storage))
        folder = self.storage if self.storage is not None else self.run_dir  # where workers find it
        return Rollouts(None if folder is None else Path(folder) / "rollouts")

    def estimate(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
    ) -> Estimate:
        """What `compile` with the same arguments would still cost, in tokens; nothing is sent or written."""
        return _Search(self, student, trainset, valset).estimate()


class Estimate(NamedTuple):
    """What a search would still cost, in tokens."""

    known: bool
    """Whether any call of these programs was measured before; else the upper end is made of caps."""
    done: int
    """Trials whose race is on the board: they cost nothing again."""
    left: int
    """Trials that are still to run."""
    low: int
    high: int


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
        if not trainset:
            raise DataError("`compile(trainset=[])` is empty; there is nothing to measure")
        valset = valset or None  # DSPy's optimizers hand on an empty one where none was given
        self.operator: Operator = next(iter(found.values()))
        self.space = optimizer.space or Space.default_for(self.operator.schedule)
        """What the user gave: proposed instructions join `searched` only."""
        self.searched = self.space
        for operator in found.values():
            check_demos(operator.task, self.space.demos)
        if optimizer.prompts:
            proposals.operator_of(self.student)  # of several with different tasks none can be written for
            if not writing.roles_of(self.space):
                raise ConfigError("`PDROptimizer(prompts=...)`: the space fixes the instructions of every role")
        self.proposals: Proposals | None = None
        self.limits = optimizer.limits
        self.mixed = len({Candidate(operator.schedule, {}).key for operator in found.values()}) > 1
        self.train, self.held_out = split(list(trainset), valset, optimizer.seed)
        train_ids = check_examples(self.student, self.train, optimizer.verifier)
        held_ids = check_examples(self.student, self.held_out, optimizer.verifier)
        searched, confirmed = set(identities(self.student, self.train)), identities(self.student, self.held_out)
        self.seen = sum(question in searched for question in confirmed)
        self.confirmed_questions = set(confirmed)
        self.confirmed_in = f"confirm/{address({'questions': confirmed})[:8]}"
        self.folder = optimizer.run_dir
        self.sets = {
            Stage.RACE: list(zip(train_ids, self.train, strict=True)),
            Stage.FINAL: list(zip(train_ids, self.train, strict=True)),
            Stage.CONFIRM: list(zip(held_ids, self.held_out, strict=True)),
        }
        evaluation = describe_evaluation(
            self.student, self.train, train_ids, optimizer.verifier, repeats=1, seed=optimizer.seed, budget=None
        )
        sampler = optimizer.sampler
        self.config = {
            **{name: evaluation[name] for name in ("program", "examples", "verifier", "models", "seed")},
            "version": VERSION,
            "space": self.space.model_dump(mode="json"),
            "limits": self.limits._asdict(),
            "pareto": optimizer.pareto,
            "sampler": sampler if isinstance(sampler, str) else getattr(sampler, "__name__", type(sampler).__name__),
            "repeats": optimizer.repeats,
            "finalists": optimizer.finalists,
            "finalist_repeats": optimizer.finalist_repeats,
            "confirm_repeats": optimizer.confirm_repeats,
            "cohort": optimizer.cohort,
            "prompts": optimizer.prompts,
            "prompt_model": getattr(optimizer.prompt_model, "model", None),
        }
        self.may_write = True
        self.ends = {
            "trials": optimizer.trials,
            "max_tokens": optimizer.max_tokens,
            "train": len(self.train),
            "held_out": len(self.held_out),
        }
        self.started = time.monotonic()
        self.began = self.started
        """The cohort that runs now."""
        self.cohorts: list[float] = []
        """Seconds for each trial, of every cohort."""
        self.what = ""
        self.records: list[TrialRecord] = []
        self.plan = Plan(
            Settings(
                questions=len(self.train),
                held_out=len(self.held_out),
                trials=optimizer.trials,
                repeats=optimizer.repeats,
                finalists=optimizer.finalists,
                fresh=optimizer.finalist_repeats,
                confirm=optimizer.confirm_repeats,
                cohort=optimizer.cohort,
                limits=self.limits,
                pareto=optimizer.pareto,
                max_tokens=optimizer.max_tokens,
                seed=optimizer.seed,
            )
        )
        self.proposer = self.make_proposer()

    # --- the three ways to run one ---

    def run(self) -> SearchResult:
        self.check_limits()
        with self.board() as board, self.optimizer.rollouts() as store:
            self.agree(board)
            said = board.read("ends/")
            if _ends(board) != self.ends:
                board.put(f"ends/{len(said):04d}", json.dumps(self.ends))  # for workers that join now
            found = self.search(board, store)
            while (claim := board.claim("results")) is None:  # another process of this search is writing the same
                board.wait(0.5)
            with claim:
                result = self.conclude(found)
        self.tell("done", self.what)
        return result

    def help(self) -> int:
        with self.board() as board, self.optimizer.rollouts() as store:
            text = board.get("config")
            if text is None:
                raise StoreError(
                    f"there is no search {self.optimizer.study!r} in {self.named}; start it with `pdr optimize` or "
                    "`compile`"
                )
            with suppress(ValueError, AttributeError):  # `agree` says what is wrong
                writer = json.loads(text).get("prompt_model")
                self.may_write = writer == self.config["prompt_model"]
                self.config["prompt_model"] = writer
            self.agree(board)
            self.search(board, store)
        return self.worker.own

    def search(self, board: Board, store: Rollouts) -> Found:
        """Run the plan to its end."""
        self.worker = self.make_worker(board, store)
        steps = self.plan.run(self.baselines())
        answer: Any = None
        self.began = time.monotonic()
        while True:
            try:
                request = steps.send(answer)
            except StopIteration as end:
                return end.value
            if len(self.plan.arms) > len(self.records) and getattr(request, "stage", None) is not Stage.RACE:
                self.raced(time.monotonic() - self.began)
            if isinstance(request, Propose):
                answer = self.propose(board, store, request)
                self.began = time.monotonic()
            else:
                self.announce(request)
                answer = self.worker.measure(request)

    def make_worker(self, board: Board, store: Rollouts) -> Worker:
        return Worker(
            self.student,
            self.optimizer.verifier,
            self.sets,
            board=board,
            store=store,
            seed=self.optimizer.seed,
            max_in_flight=self.optimizer.max_in_flight,
            confirmed_in=self.confirmed_in,
            told=self.told,
        )

    def make_proposer(self) -> Proposer:
        optimizer = self.optimizer
        costs = pareto.COSTS if optimizer.pareto else ()
        return Proposer(self.searched, limits=self.limits, costs=costs, seed=optimizer.seed, sampler=optimizer.sampler)

    def estimate(self) -> Estimate:
        """Follow the board as far as it goes, at no cost; bound the rest by what calls cost, or by their caps."""
        place = self.optimizer.storage if self.optimizer.storage is not None else self.folder
        nothing = place is None or not (postgres.is_url(place) or Path(place).exists())
        where = None if nothing else self.board()
        board: Board = where if where is not None else MemoryBoard()
        store = Rollouts() if nothing else self.optimizer.rollouts()
        with board, store:
            if (text := board.get("config")) is not None:
                self.check(text, but="models")  # of an embedded model that was not started
            worker = self.make_worker(board, store)
            steps = self.plan.run(self.baselines())
            answer: Any = None
            remaining: Measure | None = None
            while remaining is None:
                try:
                    request = steps.send(answer)
                except StopIteration:
                    return Estimate(True, len(self.plan.arms), 0, 0, 0)
                if isinstance(request, Propose):
                    text = board.get(f"propose/{request.cohort:03d}")
                    if text is None:
                        break
                    self.extend(board, store)
                    described = json.loads(text)["candidates"]
                    answer = [Proposed(one["origin"], read_candidate(one)) for one in described][: request.wanted]
                else:
                    found = worker.known(request)
                    if found is None:
                        remaining = request
                    else:
                        answer = found
            return self.bounds(worker, remaining)

    def bounds(self, worker: Worker, remaining: Measure | None) -> Estimate:
        settings, profile = self.plan.settings, worker.profile()
        written = 0 if self.proposals is not None else self.optimizer.prompts * len(writing.roles_of(self.space))
        raced = len(self.plan.arms) if remaining is None or remaining.stage is not Stage.RACE else None
        done = raced if raced is not None else min(remaining.arms) if remaining is not None else 0
        left = 0 if remaining is not None and remaining.stage is not Stage.RACE else settings.trials - done
        costs = [self.cost(candidate, profile) for candidate in self.sampled(200)]
        own = self.cost(Candidate(self.operator.schedule, {}), profile)
        cheap, dear = min(costs), max(costs)
        if self.limits.total is not None:
            dear = min(dear, max(self.limits.total * SLACK, own))
        pairs = settings.questions * settings.repeats
        rerun = settings.questions * settings.fresh
        confirm = settings.held_out * settings.confirm
        low = left * min(settings.first, pairs) * cheap + rerun * own + confirm * own
        high = left * pairs * dear + rerun * (own + settings.finalists * dear) + confirm * (own + dear)
        low, high = low + written * WRITING[0], high + written * WRITING[1]
        if remaining is not None and remaining.stage is Stage.CONFIRM:
            low, high = confirm * own, confirm * (own + dear)
        return Estimate(bool(profile), done, left, round(low), round(high))

    def cost(self, candidate: Candidate, profile: Profile) -> float:
        """Tokens of one run: from what calls cost so far, else the prompt of a draft for each call, and every cap."""
        cost = predict(candidate.schedule, profile)
        if cost is not None:
            return cost.total
        schedule = candidate.schedule
        prompt = len(str(self.shortest())) / 4 + 100
        return schedule.output_bound().total + schedule.calls * prompt + (schedule.calls - 1) * schedule.kappa * 0.5

    def sampled(self, count: int) -> list[Candidate]:
        """Some candidates of the space, drawn by the seed."""
        pool = self.proposer.pool
        return random.Random(self.optimizer.seed).sample(pool, min(count, len(pool)))

    # --- what is tried ---

    def baselines(self) -> list[Proposed]:
        """What runs first: the untouched student, and one pass, whose costs tell what the others will cost."""
        own = self.operator.schedule
        named = [Proposed("student", Candidate(own, {}))]
        single = Candidate(own.replace(widths=(1,), critique=False), {})
        if single in self.space and (single.key != named[0].candidate.key or self.mixed):
            named.append(Proposed("LongCoT", single))
        return named

    def presets(self) -> list[Proposed]:
        """Sequential Refinement and the presets: those that the space has."""
        own = self.operator.schedule
        named: dict[str, Schedule] = {}
        if max(self.space.rounds) > 1:
            named["SR"] = own.replace(widths=(1,) * min(3, max(self.space.rounds)), distiller="last", critique=False)
        for name in PRESETS:
            kept = own.model_dump(exclude={"widths", "distiller", "critique", "k"})
            named[name] = preset(name, **kept)
        return [Proposed(name, candidate) for name, s in named.items() if (candidate := Candidate(s, {})) in self.space]

    def extend(self, board: Board, store: Rollouts) -> None:
        """Let a model write instructions, or read those that are there, and search the space with them."""
        if not self.optimizer.prompts or self.proposals is not None:
            return
        roles, count = writing.roles_of(self.space), self.optimizer.prompts

        def make() -> Proposals:
            self.tell("proposing", f"{count} instructions each for {', '.join(roles)}")
            predictor = self.operator.predictor(Role.DRAFT)
            lm = self.optimizer.prompt_model or calls.serving(predictor)
            report = Report(rows=tuple(self.worker.of(Stage.RACE, 0)), name="student")
            return writing.write(
                self.student,
                self.train,
                report,
                space=self.space,
                lm=lm,
                count=count,
                thinking_tokens=self.operator.schedule.thinking_tokens,
                held_out=self.held_out,
                seed=self.optimizer.seed,
                store=store,
            )

        if not self.may_write:
            logger.info("waiting for the instructions of %s, which this worker has not", self.config["prompt_model"])
        self.proposals = writing.agreed(board, make if self.may_write else None)
        made = [(call.key or f"prompts/{place}", call.tokens) for place, call in enumerate(self.proposals.ledger.calls)]
        self.plan.count(Cell(0.0, 0.0, 0.0, calls=tuple(made)))
        self.searched = writing.extended(self.space, self.proposals)
        self.proposer = self.make_proposer()
        logger.info("%s", self.proposals)

    def propose(self, board: Board, store: Rollouts, request: Propose) -> Sequence[Proposed] | str:
        """The candidates of a cohort: those on the board, else new ones, which are put there."""
        name = f"propose/{request.cohort:03d}"
        text = board.get(name)
        if text is None:
            spent = time.monotonic() - self.started
            limit = self.optimizer.time_limit
            if limit is not None and spent >= limit:
                return f"{spent:.0f} seconds went by, `time_limit` is {limit:g}"
            self.extend(board, store)
            found = self.new(request)
            described = [{"origin": one.origin, **describe_candidate(one.candidate)} for one in found]
            text = board.put(name, json.dumps({"candidates": described}))
        self.extend(board, store)  # where the candidates were there already
        try:
            described = json.loads(text)["candidates"]
            return [Proposed(one["origin"], read_candidate(one)) for one in described][: request.wanted]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the document {name!r} in {self.named} is not of this search ({error})") from error

    def new(self, request: Propose) -> list[Proposed]:
        profile = self.worker.profile()
        refused: dict[str, bool] = {}
        fitting: dict[tuple[Any, ...], bool] = {}

        def dear(candidate: Candidate) -> bool:
            """Whether a candidate is surely over a limit, or no question fits the model's context with it."""
            if candidate.key not in refused:
                cost = predict(candidate.schedule, profile)
                over = cost is not None and any(v > SLACK - 1 for v in self.limits.excess(*cost).values())
                if over:
                    logger.info("not run: %s would cost B_seq %d, B_total %d", candidate, *(cost or ()))
                refused[candidate.key] = over or not fits(candidate)
            return refused[candidate.key]

        def fits(candidate: Candidate) -> bool:
            """What decides is few numbers, and asking means counting tokens: ask once for each combination."""
            schedule = candidate.schedule
            caps = (schedule.draft_tokens, schedule.final, schedule.distill, schedule.thinking_tokens, schedule.kappa)
            shape = (schedule.rounds > 1, schedule.distiller, schedule.critique, caps, repr(candidate[1:]))
            if shape not in fitting:
                fitting[shape] = self.fits(candidate)
            return fitting[shape]

        seen = {known.candidate.key for known in request.tried[1 if self.mixed else 0 :]}
        start = [one for one in self.presets() if one.candidate.key not in seen and not dear(one.candidate)]
        start = list({one.candidate.key: one for one in reversed(start)}.values())[::-1][: request.wanted]
        left = request.wanted - len(start)
        if not left:
            return start
        waiting = tuple(Tried(one.candidate, math.nan, math.nan, math.nan, 0) for one in start)
        known = request.tried if not self.mixed else request.tried[1:]

        def price(candidate: Candidate) -> float | None:
            cost = predict(candidate.schedule, profile)
            return None if cost is None else cost.total

        more = self.proposer.propose(
            (*known, *waiting), left, cohort=request.cohort, surface=request.surface, dear=dear, cost=price
        )
        return [*start, *more]

    def fits(self, candidate: Candidate) -> bool:
        """Whether the shortest question fits the model's context under a candidate."""
        if not isinstance(self.student, Operator):
            return True
        program = program_with(self.student, candidate)
        assert isinstance(program, Operator)
        try:
            calls.run(lambda: operators_.check(program, self.shortest(), Budget()))
        except ConfigError as error:
            logger.warning("not run: %s cannot be: %s", candidate, error)
            return False
        return True

    def shortest(self) -> dict[str, Any]:
        return min((inputs_of(self.student, example) for example in self.train), key=lambda inputs: len(str(inputs)))

    # --- what is concluded ---

    def conclude(self, found: Found) -> SearchResult:
        self.records = self.recorded(found)
        whole = [trial for trial in self.records if trial.state == "measured"]
        if found.chosen is None:
            raise ConfigError(
                f"no schedule is within `max_sequential={self.limits.sequential}`, `max_total={self.limits.total}`: "
                f"the least that was measured is {min(t.sequential for t in whole):.0f} sequential and "
                f"{min(t.total for t in whole):.0f} total tokens ({found.stopped}); raise the limit or lower the caps"
            )
        best = self.records[found.chosen]
        confirmation = self.confirmed(found, best)
        keep_winner = confirmation.kept == "winner"
        program = program_of(self.student, best) if keep_winner else self.student.deepcopy()
        result = SearchResult(
            program=program,
            student=self.student,
            trials=tuple(self.records),
            best=best,
            finalists=found.finalists,
            front=tuple(estimated_front(self.records)),
            confirmation=confirmation,
            limits=self.limits,
            stopped=found.stopped,
            paid=found.paid,
            saved=found.saved,
            proposals=self.proposals,
            rows={
                t.number: [row for at in (Stage.RACE, Stage.FINAL) for row in self.worker.of(at, t.number)]
                for t in whole
            },
        )
        if self.folder is not None:
            self.write_rows(found)
            about = {"fingerprint": self.config["examples"], "questions": len(self.train)}
            write(result, self.folder, self.config, self.confirmed_in, verifier=self.optimizer.verifier, data=about)
            study.mirror(
                self.folder if self.optimizer.storage is None else self.optimizer.storage,
                self.optimizer.study,
                self.records,
                space=self.searched,
                limits=self.limits,
                costs=self.proposer.costs,
            )
        attach(program, result)
        logger.info("%s; %s", found.stopped, confirmation.verdict)
        return result

    def recorded(self, found: Found) -> list[TrialRecord]:
        finalists = {finalist.number: finalist for finalist in found.finalists}
        return [
            record(
                arm,
                self.worker.of(Stage.RACE, arm.number),
                found.estimates[arm.number],
                self.limits,
                finalist=finalists.get(arm.number),
            )
            for arm in found.arms
        ]

    def report(self, stage: Stage, number: int, name: str) -> Report:
        """The evaluation of one program in one stage."""
        rows = self.worker.of(stage, number)
        examples = [example for _, example in self.sets[stage]]
        program = self.student if number == 0 else program_of(self.student, self.records[number])
        config = describe_evaluation(
            program,
            examples,
            [name for name, _ in self.sets[stage]],
            self.optimizer.verifier,
            repeats=max((row.repeat for row in rows), default=0) + 1,
            seed=self.optimizer.seed + SEEDS[stage],
            budget=None,
        )
        return Report(rows=tuple(sorted(rows, key=lambda row: (row.repeat, row.id))), name=name, config=config)

    def confirmed(self, found: Found, best: TrialRecord) -> Confirmation:
        student = self.report(Stage.CONFIRM, 0, str(self.operator.schedule))
        same = best.number == 0
        winner = student if same else self.report(Stage.CONFIRM, best.number, str(best.candidate))
        difference = paired(winner.per_question, student.per_question)
        kept, verdict = judge(
            winner,
            student,
            difference,
            self.limits,
            same=same,
            seen=self.seen,
            prompted=len(self.prompted()),
            accept=self.optimizer.accept,
        )
        self.tell("confirmed", verdict)
        return Confirmation(winner, student, difference, not self.seen, kept, verdict)

    def prompted(self) -> set[str]:
        """Questions of the confirmation that demonstrations of the space show, or that a writer was shown."""
        shown = questions_in(self.operator.task, self.space.demos)
        shown |= set(self.proposals.shown if self.proposals is not None else ())
        return shown & self.confirmed_questions

    def write_rows(self, found: Found) -> None:
        """The rows of every trial, finalist and confirmed program, as `evaluate` writes them."""
        assert self.folder is not None
        chosen = found.chosen or 0
        places = [(Stage.RACE, trial.number, f"trials/{trial.number:04d}") for trial in self.records]
        places += [(Stage.FINAL, one.number, f"final/{one.number:04d}") for one in found.finalists]
        places += [(Stage.CONFIRM, 0, f"{self.confirmed_in}/student")]
        if chosen:
            places.append((Stage.CONFIRM, chosen, f"{self.confirmed_in}/{chosen:04d}"))
        for stage, number, place in places:
            report = self.report(stage, number, place)
            folder = self.folder / place
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(folder / "config.json", json.dumps(report.config, indent=1))
                write_whole(folder / "rows.jsonl", "".join(_line(row) for row in report.rows))
            except OSError as error:
                raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from error

    # --- where things are ---

    @property
    def named(self) -> str:
        """The storage in a sentence, without a password."""
        where = self.optimizer.storage if self.optimizer.storage is not None else self.folder
        return f"`{postgres.shown(str(where))}`"

    def board(self) -> Board:
        storage = self.optimizer.storage
        if storage is None and self.folder is not None:
            storage = self.folder / "board"
        return open_board(storage, study=self.optimizer.study)

    def agree(self, board: Board) -> None:
        """Put down what this search is of, or check that the one on the board is the same."""
        now = json.loads(json.dumps(self.config, default=str))
        self.check(board.put("config", json.dumps({**now, "ends": self.ends})))

    def check(self, text: str, *, but: str | None = None) -> None:
        """Whether a search, by its description on the board, is this one; `but` names a part that may differ."""
        now = json.loads(json.dumps({key: value for key, value in self.config.items() if key != but}, default=str))
        try:
            before = {"prompts": 0, "prompt_model": None, **json.loads(text)}
            changed = [key for key in now if before.get(key) != now[key]]
        except (ValueError, AttributeError, TypeError) as error:
            raise StoreError(f"{self.named} is not of a search of this version ({error})") from error
        if changed:
            key = changed[0]
            raise StoreError(
                f"{self.named} holds another search: `{key}` was {_short(before.get(key))} and is now "
                f"{_short(now[key])}; use another `run_dir` or `study`, or the same arguments to go on"
            )

    def check_limits(self) -> None:
        """Refuse a student that does not fit the model, and a limit that not even the prompt of one draft fits."""
        student = self.student
        if not isinstance(student, Operator):
            return
        calls.run(lambda: operators_.check(student, self.shortest(), Budget()))
        least = [limit for limit in self.limits if limit is not None]
        if not least:
            return
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

    # --- what is told ---

    def announce(self, request: Measure) -> None:
        count = len(request.arms)
        if request.stage is Stage.CONFIRM:
            kind = "questions, fresh seeds" if self.seen else "untouched questions"
            event, what = "confirming", f"{count} program{'s' * (count > 1)} on {len(self.held_out)} {kind}"
        elif request.stage is Stage.FINAL:
            again = f"time {request.cohort + 1} of {self.plan.settings.fresh}"
            event, what = "rerunning", f"{count} finalists on fresh seeds, {again}"
        else:
            entered = sum(arm.cohort == request.cohort for arm in self.plan.arms)
            order = self.plan.order
            end = order.index(request.pairs[-1]) + 1
            runs = f"runs {end - len(request.pairs) + 1} to {end} of {len(order)}"
            event, what = "racing", f"cohort {request.cohort + 1}: racing {count} of {entered} programs, {runs}"
        self.tell(event, what, rows=(0, len(request.pairs)))

    def told(self, stage: Stage, row: Row, done: int, count: int) -> None:
        del stage, row
        self.tell("row", self.what, rows=(done, count))

    def raced(self, seconds: float) -> None:
        """Tell of each trial of the cohort that has just ended."""
        before = len(self.records)
        estimates = self.plan.estimates()
        self.records = [
            record(arm, self.worker.of(Stage.RACE, arm.number), estimates[arm.number], self.limits)
            for arm in self.plan.arms
        ]
        self.cohorts.append(seconds / max(len(self.records) - before, 1))
        for trial in self.records[before:]:
            logger.info(
                "trial %d: %s; %d tokens paid, %d saved%s",
                *(trial.number, trial, trial.paid, trial.saved, f"; {trial.dropped}" if trial.dropped else ""),
            )
            self.tell("finished", str(trial.candidate), trial=trial)

    def tell(self, event: str, what: str, *, trial: TrialRecord | None = None, rows: tuple[int, int] = (0, 0)) -> None:
        self.what = what
        if self.optimizer.progress is None:
            return
        left, most = max(self.optimizer.trials - len(self.records), 0), self.optimizer.max_tokens
        allowed = [one for one in self.records if one.state == "measured" and one.feasible]
        self.optimizer.progress(
            SearchProgress(
                event=event,
                what=what,
                trial=trial,
                best=min(allowed, key=by_estimate) if allowed else None,
                rows=rows,
                trials=len(self.records),
                trials_left=left,
                paid=self.plan.paid,
                saved=self.plan.saved,
                seconds=time.monotonic() - self.started,
                tokens_left=None if most is None else max(most - self.plan.paid, 0),
                seconds_left=self.seconds_left(left),
            )
        )

    def seconds_left(self, left: int) -> float | None:
        """For the trials that are left, from those that this process ran; the cohort that runs now is part done."""
        if not self.cohorts:
            return None
        mean = sum(self.cohorts) / len(self.cohorts)
        running = min(len(self.plan.arms) - len(self.records), left)
        if running <= 0:
            return left * mean
        spent = time.monotonic() - self.began
        return max(running * mean - spent, 0.0) + (left - running) * max(mean, spent / running)


def _ends(board: Board) -> dict[str, Any] | None:
    """Where the search ends, as its last `compile` said; None when there is no search, {} for a description that is not
    of this version."""
    said = list(board.read("ends/").values())
    text = board.get("config")
    try:
        return json.loads(said[-1]) if said else None if text is None else json.loads(text)["ends"]
    except (ValueError, KeyError, TypeError):
        return {}


def _line(row: Row) -> str:
    return row.model_dump_json(exclude_defaults=True).encode("utf-8", "backslashreplace").decode() + "\n"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
