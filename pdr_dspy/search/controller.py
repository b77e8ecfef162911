"""The course of one search: its plan asks, workers and cohorts answer, until it is concluded."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dspy

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import StoreError
from pdr_dspy.search.candidates import Cohorts
from pdr_dspy.search.conclusion import Conclusion
from pdr_dspy.search.problem import Terms, ends_of
from pdr_dspy.search.progress import Telling
from pdr_dspy.search.racing.plan import Found, Plan, Propose, Settings, Stage
from pdr_dspy.search.result import SearchResult
from pdr_dspy.search.workers.coordination import Board
from pdr_dspy.search.workers.worker import Worker

if TYPE_CHECKING:
    from pdr_dspy.search.optimizer import PDROptimizer


class Course:
    """One call of `PDROptimizer.compile`, `work` or `estimate`."""

    def __init__(
        self,
        optimizer: PDROptimizer,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None,
    ) -> None:
        """Raises as `Terms` does; nothing is sent or written."""
        self.terms = terms = Terms(optimizer, student, trainset, valset)
        self.plan = Plan(
            Settings(
                questions=len(terms.train),
                held_out=len(terms.held_out),
                trials=optimizer.trials,
                repeats=optimizer.repeats,
                finalists=optimizer.finalists,
                fresh=optimizer.finalist_repeats,
                confirm=optimizer.confirm_repeats,
                cohort=optimizer.cohort,
                limits=terms.limits,
                pareto=optimizer.pareto,
                max_tokens=optimizer.max_tokens,
                seed=optimizer.seed,
            )
        )
        self.telling = Telling(self.terms, self.plan)
        self.cohorts = Cohorts(self.terms, self.plan, self.telling)

    def run(self) -> SearchResult:
        """Search and conclude, alone or as one of several processes; what `PDROptimizer.compile` does."""
        self.terms.check_limits()
        with self.terms.board() as board, self.terms.optimizer.rollouts() as store:
            self.terms.agree(board)
            said = board.read("ends/")
            if ends_of(board) != self.terms.ends:
                board.put(f"ends/{len(said):04d}", json.dumps(self.terms.ends))  # for workers that join now
            found = self.search(board, store)
            while (claim := board.claim("results")) is None:  # another process of this search is writing the same
                board.wait(0.5)
            with claim:
                result = Conclusion(self.terms, self.worker, self.cohorts, self.telling).of(found)
        self.telling.tell("done", self.telling.what)
        return result

    def help(self) -> int:
        """Work for the search of another process; returns the runs that were made here.

        Raises StoreError when there is none.
        """
        with self.terms.board() as board, self.terms.optimizer.rollouts() as store:
            text = board.get("config")
            if text is None:
                raise StoreError(
                    f"there is no search {self.terms.optimizer.study!r} in {self.terms.named}; start it with "
                    "`pdr optimize` or `compile`"
                )
            with suppress(ValueError, AttributeError):  # `agree` says what is wrong
                writer = json.loads(text).get("prompt_model")
                self.cohorts.may_write = writer == self.terms.config["prompt_model"]
                self.terms.config["prompt_model"] = writer
            self.terms.agree(board)
            self.search(board, store)
        return self.worker.own

    def search(self, board: Board, store: Rollouts) -> Found:
        """Run the plan to its end, and tell of it."""
        self.worker = self.make_worker(board, store)
        steps = self.plan.run(self.cohorts.baselines())
        answer: Any = None
        self.telling.began = time.monotonic()
        while True:
            try:
                request = steps.send(answer)
            except StopIteration as end:
                return end.value
            if len(self.plan.arms) > len(self.telling.records) and getattr(request, "stage", None) is not Stage.RACE:
                self.telling.raced(time.monotonic() - self.telling.began, self.worker)
            if isinstance(request, Propose):
                answer = self.cohorts.propose(self.worker, request)
                self.telling.began = time.monotonic()
            else:
                self.telling.announce(request)
                answer = self.worker.measure(request)

    def make_worker(self, board: Board, store: Rollouts) -> Worker:
        """A worker of this search; it sends nothing until it is asked to measure."""
        terms = self.terms
        return Worker(
            terms.student,
            terms.optimizer.verifier,
            terms.sets,
            board=board,
            store=store,
            seed=terms.optimizer.seed,
            max_in_flight=terms.optimizer.max_in_flight,
            confirmed_in=terms.confirmed_in,
            told=self.telling.told,
        )
