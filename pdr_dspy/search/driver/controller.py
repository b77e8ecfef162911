"""The controller of a search, which implements `PDROptimizer.compile`: it answers the plan's requests and writes the
results."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.executors import Executor
from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.texts import Room
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search import candidates, conclusion, optuna_mirror
from pdr_dspy.search.driver import identity
from pdr_dspy.search.driver.journal import Journal, open_journal
from pdr_dspy.search.driver.measurements import Measurements
from pdr_dspy.search.problem import Problem, preflight
from pdr_dspy.search.progress import Clock, Progress, Reporter, Standing, Step, finished, measuring
from pdr_dspy.search.proposing import written_instructions
from pdr_dspy.search.proposing.instructions import Proposals
from pdr_dspy.search.racing.arms import Found
from pdr_dspy.search.racing.plan import Plan
from pdr_dspy.search.racing.requests import Measure, Propose, Proposed, Request, Stage, Write
from pdr_dspy.search.records import TrialRecord, with_cohort
from pdr_dspy.search.result import SearchResult, attach, write
from pdr_dspy.search.settings import RunOptions
from pdr_dspy.search.space.candidate import describe_candidate, read_candidate
from pdr_dspy.search.space.spaces import AnySpace

INSTRUCTIONS = "prompts"
"""The journal's entry of the instructions that a model wrote in the first round; later rounds have their number, too.
"""
logger = logging.getLogger("pdr_dspy.search")


def search(
    problem: Problem, options: RunOptions, progress: Progress | None = None, executor: Executor | None = None
) -> SearchResult:
    """Search and conclude. Rows are run by `executor`; None is this process.

    Raises as `PDROptimizer.compile`.
    """
    preflight(problem)
    with open_journal(options.run_dir, problem.description) as journal, Rollouts(options.rollouts) as store:
        identity.check(journal.description, problem, options.where)
        if options.run_dir is not None:  # another search's study is refused before anything is paid
            name, costs = identity.digest(journal.description), problem.settings.costs
            with optuna_mirror.opened(_trials_in(options), options.study, search=name, costs=costs):
                pass
        run = Run(problem, options, journal, store, progress, executor=executor)
        found = run.follow()
        rows = run.measurements.rows_of
        result = conclusion.conclude(
            problem, found, rows, accept=options.accept, margin=options.margin, written=run.written
        )
        run.report(Step("confirmed", result.confirmation.verdict), result.trials)
        if options.run_dir is not None:
            _write(result, problem, options, run)
        attach(result.program, result)
    run.report(Step("done", result.confirmation.verdict), result.trials)
    return result


def drive(steps: Generator[Request, Any, Found], answer: Callable[[Request], Any]) -> Found:
    """Run a plan to its end: each request is sent its answer."""
    reply: Any = None
    while True:
        try:
            request = steps.send(reply)
        except StopIteration as end:
            return end.value
        reply = answer(request)


def plan_of(problem: Problem, options: RunOptions) -> Plan:
    """The plan of a search."""
    return Plan(
        problem.settings,
        questions=len(problem.train),
        held_out=len(problem.held_out),
        trials=options.trials,
        max_tokens=options.max_tokens,
        stop=options.stop,
        price=options.price,
        margin=options.margin,
    )


def measurements_of(
    problem: Problem,
    options: RunOptions,
    journal: Journal,
    store: Rollouts,
    on_row: Callable[[Stage, Row, int, int], None] | None = None,
    executor: Executor | None = None,
) -> Measurements:
    """The measurements of a search; nothing is sent before the first request."""
    return Measurements(
        problem.student,
        problem.verifier,
        problem.sets,
        journal=journal,
        store=store,
        seed=problem.settings.seed,
        max_in_flight=options.max_in_flight,
        confirmed_in=problem.confirmed_in,
        on_row=on_row,
        texts_in=Room(options.run_dir, options.max_text_bytes) if options.run_dir and options.max_text_bytes else None,
        executor=executor,
    )


def cohort_in(journal: Journal, request: Propose, options: RunOptions) -> list[Proposed] | None:
    """The candidates of a cohort in the journal; None if there are none yet.

    Raises StoreError for an entry of another search.
    """
    name = _cohort_name(request)
    text = journal.get(name)
    if text is None:
        return None
    try:
        described = json.loads(text)["candidates"]
        found = [Proposed(one["origin"], read_candidate(one), one.get("free", False)) for one in described]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the entry {name!r} in {options.where} is not of this search ({error})") from error
    trials = [one for one in found if not one.free]
    return found if len(trials) <= request.wanted else trials[: request.wanted]  # their numbers stay as they were


def instructions_in(journal: Journal, options: RunOptions, round: int = 1) -> Proposals | None:
    """The instructions in the journal that a model wrote in a round, from 1; None if there are none yet.

    Raises StoreError for a malformed entry.
    """
    name = _round_name(round)
    text = journal.get(name)
    try:
        return None if text is None else Proposals.model_validate_json(text)
    except ValueError as error:
        why = " ".join(str(error).split())
        raise StoreError(f"the entry {name!r} in {options.where} holds no proposals ({why})") from error


def _round_name(round: int) -> str:
    return INSTRUCTIONS if round == 1 else f"{INSTRUCTIONS}/{round:03d}"


def _cohort_name(request: Propose) -> str:
    return f"propose/{request.cohort:03d}"


class Run:
    """One run of a search's plan."""

    def __init__(
        self,
        problem: Problem,
        options: RunOptions,
        journal: Journal,
        store: Rollouts,
        progress: Progress | None = None,
        *,
        executor: Executor | None = None,
    ) -> None:
        """
        Args:
            problem: of the search.
            options: of this run.
            journal: of the search.
            store: of calls.
            progress: called at each step.
            executor: where rows are run; None is this process.
        """
        self.problem = problem
        self.options = options
        self.journal = journal
        self.store = store
        self.plan = plan_of(problem, options)
        self.measurements = measurements_of(problem, options, journal, store, self._on_row, executor)
        self.clock = Clock()
        self.reporter = Reporter(progress, options.trials, options.max_tokens, self.clock)
        self.trials: tuple[TrialRecord, ...] = ()
        """The trials whose race has ended."""
        self.rounds: dict[int, Proposals] = {}
        """Instructions that a model wrote, by round, from 1."""
        self.space: AnySpace = problem.space
        """The space, including those instructions once they exist."""
        self._proposer = candidates.proposer_of(problem, self.space)
        self._measuring = Step("racing", "")

    @property
    def written(self) -> Proposals | None:
        """All instructions that a model wrote; None before that, and if none are requested."""
        return written_instructions.together(self.rounds)

    def follow(self) -> Found:
        """Run the plan to its end."""
        self.clock.begin_cohort()
        return drive(self.plan.run(candidates.baselines(self.problem)), self.answer)

    def report(self, step: Step, trials: tuple[TrialRecord, ...] | None = None) -> None:
        """Report a step; `trials` are those whose race has ended, if other than `self.trials`."""
        known = self.trials if trials is None else trials
        self.reporter(step, Standing(known, self.plan.trials_begun, self.plan.paid, self.plan.saved))

    def answer(self, request: Request) -> Any:
        """The answer to a request of the plan: measured, proposed or written now, or read from the journal."""
        racing = isinstance(request, Measure) and request.stage is Stage.RACE
        if not racing and len(self.plan.arms) > len(self.trials):
            self._end_cohort()
        if isinstance(request, Measure):
            self._measuring = measuring(request, self.plan, self.problem)
            self.report(self._measuring)
            return self.measurements.measure(request)
        answer = self._write(request) if isinstance(request, Write) else self._propose(request)
        self.clock.begin_cohort()
        return answer

    def _end_cohort(self) -> None:
        before = len(self.trials)
        self.trials = with_cohort(
            self.trials,
            self.plan.arms,
            lambda number: self.measurements.rows_of(Stage.RACE, number),
            self.plan.standing.estimates(),
            self.problem.settings.limits,
        )
        self.clock.end_cohort(sum(not trial.free for trial in self.trials[before:]))
        for trial in self.trials[before:]:
            self.report(finished(trial))

    def _on_row(self, stage: Stage, row: Row, done: int, count: int) -> None:
        self.report(Step("row", self._measuring.what, (done, count)))

    def _propose(self, request: Propose) -> list[Proposed] | str:
        """The candidates of a cohort: those in the journal, otherwise new ones, which are put there."""
        there = cohort_in(self.journal, request, self.options)
        if there is not None:
            return there
        if (ended := self._out_of_time()) is not None:
            return ended
        profile, order = self.measurements.profile(), self.measurements.order
        found = candidates.propose(self.problem, self._proposer, request, profile, order, self.written)
        described = [
            {"origin": one.origin, **({"free": True} if one.free else {}), **describe_candidate(one.candidate)}
            for one in found
        ]
        self.journal.put(_cohort_name(request), json.dumps({"candidates": described}))
        return cohort_in(self.journal, request, self.options) or []  # as a resumed search reads them

    def _write(self, request: Write) -> tuple[tuple[str, int], ...] | str:
        """Let a model write instructions, or read those in the journal; the space then includes them."""
        found = instructions_in(self.journal, self.options, request.round)
        if found is None:
            if (ended := self._out_of_time()) is not None:
                return ended
            found = self._reflected(request)
            self.store.sync()  # an entry says that its calls are finished
            self.journal.put(_round_name(request.round), found.model_dump_json())
        logger.info("%s", found)
        self.rounds[request.round] = found
        self.space = written_instructions.extended(self.space, found)
        self._proposer = candidates.proposer_of(self.problem, self.space)
        return written_instructions.cost(found, request.round)

    def _reflected(self, request: Write) -> Proposals:
        problem, settings = self.problem, self.problem.settings
        last = request.round == settings.instructions.rounds
        how = {"limits": settings.limits, "mixed": problem.mixed, "last": last}
        roles = written_instructions.parents_of(problem.space, request.tried, **how)
        if roles:
            self.report(Step("proposing", f"{request.each} instructions each for {', '.join(roles)}"))
        return written_instructions.write(
            problem.student,
            problem.train,
            lambda number: self.measurements.rows_of(Stage.RACE, number),
            space=problem.space,
            tried=request.tried,
            lm=settings.instructions.model or problem.operator.lm_of(Role.DRAFT),
            count=request.each,
            round=request.round,
            **how,
            thinking_tokens=problem.operator.schedule.thinking_tokens,
            held_out=problem.held_out,
            seed=settings.seed,
            store=self.store,
            max_in_flight=self.options.max_in_flight,
        )

    def _out_of_time(self) -> str | None:
        limit, spent = self.options.time_limit, self.clock.seconds
        return None if limit is None or spent < limit else f"{spent:.0f} seconds have passed, `time_limit` is {limit:g}"


def _write(result: SearchResult, problem: Problem, options: RunOptions, run: Run) -> None:
    """Write the run folder: rows, `search.json`, `best.json`, and the trials as an Optuna study."""
    folder = options.run_dir
    assert folder is not None
    conclusion.write_rows(result, problem, run.measurements.rows_of, folder)
    write(
        result,
        folder,
        problem.description,
        problem.confirmed_in,
        verifier=problem.verifier,
        data={"fingerprint": problem.description["examples"], "questions": len(problem.train)},
    )
    writing, space = problem.settings.instructions, run.space
    if writing.count and writing.rounds > 1:  # the study of a longer search has more texts
        space = written_instructions.padded(space, run.written, writing.count * writing.rounds)
    optuna_mirror.mirror(
        _trials_in(options),
        options.study,
        result.trials,
        search=identity.digest(run.journal.description),
        space=space,
        limits=problem.settings.limits,
        costs=problem.settings.costs,
        files=(folder / "best.json", folder / "search.json"),
    )


def _trials_in(options: RunOptions) -> str | Path:
    """The storage of the Optuna study, if there is a run folder."""
    place = options.run_dir if options.storage is None else options.storage
    assert place is not None
    return place
