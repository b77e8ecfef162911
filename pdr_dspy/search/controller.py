"""The controller of a search: it dispatches the plan's requests until the search is concluded.

`search` implements `PDROptimizer.compile`, `work` implements `PDROptimizer.work`. Both run the same plan over the same
board; only the first concludes it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator
from typing import Any

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.executors import Executor
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.texts import Room
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search import agreement, candidates, conclusion, optuna_mirror
from pdr_dspy.search.problem import Problem, preflight
from pdr_dspy.search.progress import Clock, Progress, Reporter, Standing, Step, finished, measuring
from pdr_dspy.search.proposing import shared_instructions
from pdr_dspy.search.proposing.instructions import Proposals
from pdr_dspy.search.racing.plan import Found, Measure, Plan, Propose, Proposed, Request, Stage, Write
from pdr_dspy.search.records import TrialRecord, with_cohort
from pdr_dspy.search.result import SearchResult, attach, write
from pdr_dspy.search.settings import RunOptions
from pdr_dspy.search.space.candidate import describe_candidate, read_candidate
from pdr_dspy.search.space.spaces import AnySpace
from pdr_dspy.search.workers.coordination import Board, open_board
from pdr_dspy.search.workers.worker import Worker

logger = logging.getLogger("pdr_dspy.search")


def search(
    problem: Problem, options: RunOptions, progress: Progress | None = None, executor: Executor | None = None
) -> SearchResult:
    """Search and conclude, alone or as one of several processes. Rows are run by `executor`; None is this process.

    Raises as `PDROptimizer.compile`.
    """
    preflight(problem)
    with open_board(options.board, study=options.study) as board, Rollouts(options.rollouts) as store:
        agreement.agree(board, problem, options)
        agreement.extend_ends(board, problem, options)
        run = Run(problem, options, board, store, progress, executor=executor)
        found = run.follow()
        while (claim := board.claim("results")) is None:  # another process of this search is writing the results
            board.wait(0.5)
        with claim:
            rows = run.worker.rows_of
            result = conclusion.conclude(problem, found, rows, accept=options.accept, written=run.written)
            run.report(Step("confirmed", result.confirmation.verdict), result.trials)
            if options.run_dir is not None:
                _write(result, problem, options, run)
            attach(result.program, result)
    run.report(Step("done", result.confirmation.verdict), result.trials)
    return result


def work(problem: Problem, options: RunOptions, progress: Progress | None = None) -> int:
    """Work for the search of another process until it has ended; return the number of runs made here.

    A worker need not have the model that writes instructions: it waits for those of a worker that has it.

    Raises StoreError if there is no such search, or it is another one.
    """
    with open_board(options.board, study=options.study) as board, Rollouts(options.rollouts) as store:
        text = board.get(agreement.CONFIG)
        if text is None:
            raise agreement.no_search(options)
        agreement.check(text, problem, options, but=("prompt_model",))
        writer = json.loads(text).get("prompt_model")
        run = Run(problem, options, board, store, progress, can_write=writer == problem.description["prompt_model"])
        run.follow()
    return run.worker.made


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
    )


def worker_of(
    problem: Problem,
    options: RunOptions,
    board: Board,
    store: Rollouts,
    on_row: Callable[[Stage, Row, int, int], None] | None = None,
    executor: Executor | None = None,
) -> Worker:
    """A worker of a search; it sends nothing before its first measurement."""
    return Worker(
        problem.student,
        problem.verifier,
        problem.sets,
        board=board,
        store=store,
        seed=problem.settings.seed,
        max_in_flight=options.max_in_flight,
        confirmed_in=problem.confirmed_in,
        on_row=on_row,
        texts_in=Room(options.run_dir, options.max_text_bytes) if options.run_dir and options.max_text_bytes else None,
        executor=executor,
    )


def cohort_on(board: Board, request: Propose, options: RunOptions) -> list[Proposed] | None:
    """The candidates of a cohort on the board; None if there are none yet.

    Raises StoreError for a document of another search.
    """
    name = _cohort_name(request)
    text = board.get(name)
    if text is None:
        return None
    try:
        described = json.loads(text)["candidates"]
        return [Proposed(one["origin"], read_candidate(one)) for one in described][: request.wanted]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the document {name!r} in {options.where} is not of this search ({error})") from error


def _cohort_name(request: Propose) -> str:
    return f"propose/{request.cohort:03d}"


class Run:
    """One run of a search's plan in this process."""

    def __init__(
        self,
        problem: Problem,
        options: RunOptions,
        board: Board,
        store: Rollouts,
        progress: Progress | None = None,
        *,
        can_write: bool = True,
        executor: Executor | None = None,
    ) -> None:
        """
        Args:
            problem: of the search.
            options: of this process.
            board: shared with the other processes.
            store: of calls, likewise.
            progress: called at each step.
            can_write: whether this process has the model that writes instructions.
            executor: where rows are run; None is this process.
        """
        self.problem = problem
        self.options = options
        self.board = board
        self.store = store
        self.can_write = can_write
        self.plan = plan_of(problem, options)
        self.worker = worker_of(problem, options, board, store, self._on_row, executor)
        self.clock = Clock()
        self.reporter = Reporter(progress, options.trials, options.max_tokens, self.clock)
        self.trials: tuple[TrialRecord, ...] = ()
        """The trials whose race has ended."""
        self.written: Proposals | None = None
        """Instructions that a model wrote; None before that, and if none are requested."""
        self.space: AnySpace = problem.space
        """The space, including those instructions once they exist."""
        self._proposer = candidates.proposer_of(problem, self.space)
        self._measuring = Step("racing", "")

    def follow(self) -> Found:
        """Run the plan to its end."""
        self.clock.begin_cohort()
        return drive(self.plan.run(candidates.baselines(self.problem)), self.answer)

    def report(self, step: Step, trials: tuple[TrialRecord, ...] | None = None) -> None:
        """Report a step; `trials` are those whose race has ended, if other than `self.trials`."""
        known = self.trials if trials is None else trials
        self.reporter(step, Standing(known, len(self.plan.arms), self.plan.paid, self.plan.saved))

    def answer(self, request: Request) -> Any:
        """The answer to a request of the plan: measured, proposed or written here, or read from the board."""
        racing = isinstance(request, Measure) and request.stage is Stage.RACE
        if not racing and len(self.plan.arms) > len(self.trials):
            self._end_cohort()
        if isinstance(request, Measure):
            self._measuring = measuring(request, self.plan, self.problem)
            self.report(self._measuring)
            return self.worker.measure(request)
        answer = self._write(request) if isinstance(request, Write) else self._propose(request)
        self.clock.begin_cohort()
        return answer

    def _end_cohort(self) -> None:
        before = len(self.trials)
        self.trials = with_cohort(
            self.trials,
            self.plan.arms,
            lambda number: self.worker.rows_of(Stage.RACE, number),
            self.plan.estimates(),
            self.problem.settings.limits,
        )
        self.clock.end_cohort(len(self.trials) - before)
        for trial in self.trials[before:]:
            self.report(finished(trial))

    def _on_row(self, stage: Stage, row: Row, done: int, count: int) -> None:
        self.report(Step("row", self._measuring.what, (done, count)))

    def _propose(self, request: Propose) -> list[Proposed] | str:
        """The candidates of a cohort: those on the board, otherwise new ones, which are put on it."""
        there = cohort_on(self.board, request, self.options)
        if there is not None:
            return there
        if (ended := self._out_of_time()) is not None:
            return ended
        found = candidates.propose(self.problem, self._proposer, request, self.worker.profile())
        described = [{"origin": one.origin, **describe_candidate(one.candidate)} for one in found]
        self.board.put(_cohort_name(request), json.dumps({"candidates": described}))
        return cohort_on(self.board, request, self.options) or []  # another process may have been faster

    def _write(self, request: Write) -> tuple[tuple[str, int], ...] | str:
        """Let a model write instructions, or read those on the board; the space then includes them."""
        if self.board.get(shared_instructions.DOCUMENT) is None:
            if (ended := self._out_of_time()) is not None:
                return ended
            if not self.can_write:
                logger.info("waiting for the instructions of a model that this worker does not have")
        make = (lambda: self._written(request)) if self.can_write else None
        self.written = shared_instructions.agreed(self.board, make)
        logger.info("%s", self.written)
        self.space = shared_instructions.extended(self.problem.space, self.written)
        self._proposer = candidates.proposer_of(self.problem, self.space)
        return shared_instructions.cost(self.written)

    def _written(self, request: Write) -> Proposals:
        problem, settings = self.problem, self.problem.settings
        roles = shared_instructions.roles_of(problem.space)
        self.report(Step("proposing", f"{request.each} instructions each for {', '.join(roles)}"))
        return shared_instructions.write(
            problem.student,
            problem.train,
            Report(rows=tuple(self.worker.rows_of(Stage.RACE, 0)), name="student"),
            space=problem.space,
            lm=settings.instructions.model or problem.operator.lm_of(Role.DRAFT),
            count=request.each,
            thinking_tokens=problem.operator.schedule.thinking_tokens,
            held_out=problem.held_out,
            seed=settings.seed,
            store=self.store,
        )

    def _out_of_time(self) -> str | None:
        limit, spent = self.options.time_limit, self.clock.seconds
        return None if limit is None or spent < limit else f"{spent:.0f} seconds have passed, `time_limit` is {limit:g}"


def _write(result: SearchResult, problem: Problem, options: RunOptions, run: Run) -> None:
    """Write the run folder: rows, `search.json`, `best.json`, and the trials as an Optuna study."""
    folder = options.run_dir
    assert folder is not None
    conclusion.write_rows(result, problem, run.worker.rows_of, folder)
    write(
        result,
        folder,
        problem.description,
        problem.confirmed_in,
        verifier=problem.verifier,
        data={"fingerprint": problem.description["examples"], "questions": len(problem.train)},
    )
    optuna_mirror.mirror(
        folder if options.storage is None else options.storage,
        options.study,
        result.trials,
        space=run.space,
        limits=problem.settings.limits,
        costs=problem.settings.costs,
        files=(folder / "best.json", folder / "search.json"),
    )
