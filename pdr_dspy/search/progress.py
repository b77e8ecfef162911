"""What a search tells while it runs: each step of it, what it has paid, and how long the rest may take."""

from __future__ import annotations

import logging
import time

from pdr_dspy.evaluation.records import Row
from pdr_dspy.search.problem import Terms
from pdr_dspy.search.racing.plan import Measure, Plan, Stage
from pdr_dspy.search.records import TrialRecord, record
from pdr_dspy.search.result import SearchProgress, by_estimate
from pdr_dspy.search.workers.worker import Worker

logger = logging.getLogger("pdr_dspy.search")


class Telling:
    """Tells the `progress` callback and the log of one search; keeps the records of its trials and its clock."""

    def __init__(self, terms: Terms, plan: Plan) -> None:
        self.terms = terms
        self.plan = plan
        self.started = time.monotonic()
        self.began = self.started
        """When the cohort that runs now began."""
        self.cohorts: list[float] = []
        """Seconds for each trial, of every cohort."""
        self.what = ""
        """What was told last."""
        self.records: list[TrialRecord] = []
        """Of the trials whose race is over."""

    def announce(self, request: Measure) -> None:
        """Tell what is measured next."""
        count = len(request.arms)
        if request.stage is Stage.CONFIRM:
            kind = "questions, fresh seeds" if self.terms.seen else "untouched questions"
            event, what = "confirming", f"{count} program{'s' * (count > 1)} on {len(self.terms.held_out)} {kind}"
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
        """Tell of a row; this is what a worker calls."""
        del stage, row
        self.tell("row", self.what, rows=(done, count))

    def raced(self, seconds: float, worker: Worker) -> None:
        """Tell of each trial of the cohort that has just ended, after these seconds."""
        before = len(self.records)
        estimates = self.plan.estimates()
        earlier = [  # only the estimates of a race that is over change, with what is measured of others
            known.model_copy(update={"pooled": estimates[known.number][0], "pooled_sd": estimates[known.number][1]})
            for known in self.records
        ]
        self.records = earlier + [
            record(arm, worker.of(Stage.RACE, arm.number), estimates[arm.number], self.terms.limits)
            for arm in self.plan.arms[before:]
        ]
        self.cohorts.append(seconds / max(len(self.records) - before, 1))
        for trial in self.records[before:]:
            logger.info(
                "trial %d: %s; %d tokens paid, %d saved%s",
                *(trial.number, trial, trial.paid, trial.saved, f"; {trial.dropped}" if trial.dropped else ""),
            )
            self.tell("finished", str(trial.candidate), trial=trial)

    def tell(self, event: str, what: str, *, trial: TrialRecord | None = None, rows: tuple[int, int] = (0, 0)) -> None:
        """Tell the `progress` callback of an event; what it raises ends the search."""
        self.what = what
        if self.terms.optimizer.progress is None:
            return
        left, most = max(self.terms.optimizer.trials - len(self.records), 0), self.terms.optimizer.max_tokens
        allowed = [one for one in self.records if one.state == "measured" and one.feasible]
        self.terms.optimizer.progress(
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
        """For the trials that are left, from those that this process ran; the cohort that runs now is part done.

        None before the first cohort is over.
        """
        if not self.cohorts:
            return None
        mean = sum(self.cohorts) / len(self.cohorts)
        running = min(len(self.plan.arms) - len(self.records), left)
        if running <= 0:
            return left * mean
        spent = time.monotonic() - self.began
        return max(running * mean - spent, 0.0) + (left - running) * max(mean, spent / running)
