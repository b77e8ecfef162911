"""Progress of a search: its steps as values, its clock, and the calls of the `progress` callback and the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pdr_dspy.search.front_members import by_estimate
from pdr_dspy.search.problem import Problem
from pdr_dspy.search.racing.plan import Plan
from pdr_dspy.search.racing.requests import Measure, Stage
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.result import SearchProgress

logger = logging.getLogger("pdr_dspy.search")

Progress = Callable[[SearchProgress], None]
"""Called at each step. Its exceptions end the search; finished results are kept."""


class Step(NamedTuple):
    """An event, or the beginning of an activity."""

    event: str
    """One of the values of `SearchProgress.event`."""
    what: str
    """A description of the step."""
    rows: tuple[int, int] = (0, 0)
    """Finished and total pairs of the current activity."""
    trial: TrialRecord | None = None
    """The trial whose race has ended, for "finished"."""


class Standing(NamedTuple):
    """The state of a search."""

    trials: tuple[TrialRecord, ...]
    """Trials whose race has ended."""
    entered: int
    """Trials that have begun."""
    paid: int
    """Tokens."""
    saved: int
    """Tokens."""


def measuring(request: Measure, plan: Plan, problem: Problem) -> Step:
    """The step at which the measurement of a request begins."""
    count = len(request.arms)
    rows = (0, len(request.pairs))
    if request.stage is Stage.CONFIRM:
        kind = "questions, fresh seeds" if problem.seen else "untouched questions"
        what = f"{count} program{'s' * (count > 1)} on {len(problem.held_out)} {kind}"
        return Step("confirming", what, rows)
    if request.stage is Stage.FINAL:
        again = f"time {request.cohort + 1} of {plan.settings.final.repeats}"
        return Step("rerunning", f"{count} finalists on fresh seeds, {again}", rows)
    entered = sum(arm.cohort == request.cohort for arm in plan.arms)
    end = plan.order.index(request.pairs[-1]) + 1
    runs = f"runs {end - len(request.pairs) + 1} to {end} of {len(plan.order)}"
    return Step("racing", f"cohort {request.cohort + 1}: racing {count} of {entered} programs, {runs}", rows)


def finished(trial: TrialRecord) -> Step:
    """The step at which the race of a trial has ended; it is logged."""
    logger.info(
        "trial %d: %s; %d tokens paid, %d saved%s",
        *(trial.number, trial, trial.paid, trial.saved, f"; {trial.dropped}" if trial.dropped else ""),
    )
    return Step("finished", str(trial.candidate), trial=trial)


class Clock:
    """Elapsed and remaining time of a search."""

    def __init__(self) -> None:
        self.started = self.cohort_began = time.monotonic()
        self.cohorts: list[float] = []
        """Seconds per trial, of every cohort that has ended."""

    @property
    def seconds(self) -> float:
        """Seconds since the search started in this process."""
        return time.monotonic() - self.started

    def begin_cohort(self) -> None:
        """Called when a cohort begins to run."""
        self.cohort_began = time.monotonic()

    def end_cohort(self, trials: int) -> None:
        """Called when the current cohort of `trials` has ended."""
        self.cohorts.append((time.monotonic() - self.cohort_began) / max(trials, 1))

    def seconds_left(self, left: int, running: int) -> float | None:
        """The estimated time for the remaining trials, from those that this process ran; None before the end of the
        first cohort.

        Args:
            left: trials that have not ended.
            running: how many of them are running.
        """
        if not self.cohorts:
            return None
        mean = sum(self.cohorts) / len(self.cohorts)
        running = min(running, left)
        if running <= 0:
            return left * mean
        spent = time.monotonic() - self.cohort_began
        return max(running * mean - spent, 0.0) + (left - running) * max(mean, spent / running)


@dataclass(frozen=True)
class Reporter:
    """Calls the `progress` callback of a search."""

    progress: Progress | None
    trials: int
    """Number of trials of the search."""
    max_tokens: int | None
    clock: Clock

    def __call__(self, step: Step, standing: Standing) -> None:
        """Call it with a step and the state of the search."""
        if self.progress is None:
            return
        done = sum(not trial.free for trial in standing.trials)
        left = max(self.trials - done, 0)
        self.progress(
            SearchProgress(
                event=step.event,
                what=step.what,
                trial=step.trial,
                best=_best(standing.trials),
                rows=step.rows,
                trials=done,
                trials_left=left,
                paid=standing.paid,
                saved=standing.saved,
                seconds=self.clock.seconds,
                tokens_left=None if self.max_tokens is None else max(self.max_tokens - standing.paid, 0),
                seconds_left=self.clock.seconds_left(left, standing.entered - done),
            )
        )


def _best(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    allowed = [one for one in trials if one.state == "measured" and one.feasible]
    return min(allowed, key=by_estimate) if allowed else None
