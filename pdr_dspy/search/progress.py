"""Progress of a search: each step as a value, its clock, and the `progress` callback and log that are given them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pdr_dspy.search.front_members import by_estimate
from pdr_dspy.search.problem import Problem
from pdr_dspy.search.racing.plan import Measure, Plan, Stage
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.result import SearchProgress

logger = logging.getLogger("pdr_dspy.search")

Progress = Callable[[SearchProgress], None]
"""Called at each step. What it raises ends the search; what is finished is kept."""


class Step(NamedTuple):
    """Something that happened, or begins."""

    event: str
    """One of those of `SearchProgress.event`."""
    what: str
    """The same in words."""
    rows: tuple[int, int] = (0, 0)
    """Pairs done and pairs in all, of what runs now."""
    trial: TrialRecord | None = None
    """The trial whose race is over, for "finished"."""


class Standing(NamedTuple):
    """How far a search is."""

    trials: tuple[TrialRecord, ...]
    """Those whose race is over."""
    entered: int
    """Trials that have begun."""
    paid: int
    """Tokens."""
    saved: int
    """Tokens."""


def measuring(request: Measure, plan: Plan, problem: Problem) -> Step:
    """The step at which a request begins to be measured."""
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
    """The step at which the race of a trial is over; it is logged."""
    logger.info(
        "trial %d: %s; %d tokens paid, %d saved%s",
        *(trial.number, trial, trial.paid, trial.saved, f"; {trial.dropped}" if trial.dropped else ""),
    )
    return Step("finished", str(trial.candidate), trial=trial)


class Clock:
    """How long a search has run, and how long it may still run."""

    def __init__(self) -> None:
        self.started = self.cohort_began = time.monotonic()
        self.cohorts: list[float] = []
        """Seconds for each trial, of every cohort that is over."""

    @property
    def seconds(self) -> float:
        """Since the search was started in this process."""
        return time.monotonic() - self.started

    def begin_cohort(self) -> None:
        """A cohort begins to run now."""
        self.cohort_began = time.monotonic()

    def end_cohort(self, trials: int) -> None:
        """The cohort that runs is over, and had so many trials."""
        self.cohorts.append((time.monotonic() - self.cohort_began) / max(trials, 1))

    def seconds_left(self, left: int, running: int) -> float | None:
        """For the trials that are left, from those that this process ran; None before the first cohort is over.

        Args:
            left: trials that are still to end.
            running: how many of them run now.
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
    """Of the search."""
    max_tokens: int | None
    clock: Clock

    def __call__(self, step: Step, standing: Standing) -> None:
        """Call it with a step and with how far the search is then."""
        if self.progress is None:
            return
        done = len(standing.trials)
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
