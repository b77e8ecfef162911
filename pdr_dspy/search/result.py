"""The progress reports of a search, and its result: as a value, on disk, and on the compiled program."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import dspy

from pdr_dspy.artifact import Point, save
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.calibration import calibration_of_rows
from pdr_dspy.operators.operator import Operator
from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.search import front_members
from pdr_dspy.search.credit import Credit
from pdr_dspy.search.front_members import Member, Rows, by_estimate
from pdr_dspy.search.proposing.instructions import Proposals
from pdr_dspy.search.racing.arms import Finalist
from pdr_dspy.search.racing.confirmation import Confirmation
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.space.candidate import program_with
from pdr_dspy.verifiers.base import Verifier
from pdr_dspy.verifiers.checks import Calibration


@dataclass(frozen=True)
class SearchProgress:
    """The state of a search; the argument of the `progress` callback."""

    event: str
    """"racing" for a block of a cohort, "row" for each run of it, "finished" for each trial when its race is over,
    "proposing" while a model writes instructions, "rerunning" for the finalists on fresh seeds, "confirming" and
    "confirmed" on untouched questions, "done" at the end."""
    what: str
    """A description of the current activity."""
    trial: TrialRecord | None
    """The trial that ended, for "finished"."""
    best: TrialRecord | None
    """The best trial within the limits so far, by its pooled estimate."""
    rows: tuple[int, int]
    """Finished and total pairs of the current activity."""
    trials: int
    """Trials whose race has ended."""
    trials_left: int
    paid: int
    """Tokens spent by the search so far."""
    saved: int
    """Tokens of the trials' calls that were replayed from the store."""
    seconds: float
    """Seconds since `compile` was called."""
    seconds_left: float | None
    """Estimated seconds from the trials that this process ran; None before the first."""
    tokens_left: int | None = None
    """Tokens until the search's `max_tokens`; None without it."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search."""

    program: dspy.Module = field(repr=False)
    """The program that `compile` returned."""
    student: dspy.Module = field(repr=False)
    """As it was given."""
    trials: tuple[TrialRecord, ...]
    """All trials in the order in which they were tried."""
    best: TrialRecord
    """The confirmed trial: the best within the limits by the pooled estimate."""
    finalists: tuple[Finalist, ...]
    """The programs that ran again on fresh seeds, `best` first."""
    front: tuple[TrialRecord, ...]
    """Complete trials that no other beats in pooled score and both costs, the cheapest first."""
    confirmation: Confirmation
    limits: Limits
    stopped: str
    """Why no more candidates were tried, and with `stop="worth"` why the finalists were not run again as often as they
    could be."""
    paid: int
    """Tokens of all calls of trials, finalists and confirmation, each counted once."""
    saved: int
    """Tokens of calls that were replayed from the store."""
    tied: tuple[int, ...] = ()
    """Finalists that are as good as `best` within the search's `margin`, and cost more."""
    prior_weight: float | None = None
    """The weight, 0 to 1, that the scores gave to what the searches of `prior` had learnt; None without a prior."""
    credits: Mapping[str, Credit] = field(default_factory=dict)
    """If operators have separate spaces: what the choice of `best` at each of them brought, by its path."""
    proposals: Proposals | None = field(default=None, repr=False)
    """Instructions that a model wrote for the search, with their cost; None if none were requested."""
    rows: Rows = field(default_factory=dict, repr=False)
    """By trial number: its runs on the training questions, in the race and on fresh seeds."""

    @property
    def optimism(self) -> float:
        """By how much, as a fraction, the race scores of the finalists exceed their scores on fresh seeds, on average.
        The student, which is a finalist regardless of its score, does not count; nan if there is no other, or none ran
        again."""
        chosen = [one.race - one.fresh for one in self.finalists if one.number != 0 and not math.isnan(one.fresh)]
        return fmean(chosen) if chosen else math.nan

    @cached_property
    def calibrations(self) -> dict[str, Calibration]:
        """By check name, the calibration of the program's check on the training questions: its threshold, found with
        cross-validation, and its reliability. Empty if the program has no check, has nested operators, or if there are
        not both right and wrong answers."""
        kept = self.best if self.confirmation.kept == "winner" else self.trials[0]
        if not isinstance(self.program, Operator) or self.program.schedule.check is None:
            return {}
        found = calibration_of_rows(self.rows.get(kept.number, ()))
        return {} if found is None else {self.program.schedule.check: found}

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The front with bands, the probability that each is non-dominated, its deficit to the best, and the knee."""
        return tuple(front_members.members(self.trials, self.rows, self.limits))

    def cheapest_within(self, delta: float) -> dspy.Module:
        """The program of the front with the fewest total tokens whose pooled score is at most `delta`, a fraction,
        below the best within the limits of the search.

        Raises ConfigError for a delta outside [0, 1].
        """
        return program_of(self.student, front_members.cheapest_within(delta, self.trials, self.limits))

    def best_for(
        self, *, sequential: int | None = None, total: int | None = None, cost: float | None = None
    ) -> dspy.Module:
        """The best program of the front within other limits, in mean tokens of a run and in the unit of the models'
        prices. The front itself is one of tokens.

        Raises ConfigError, naming the minimum, if none is within them.
        """
        limits = Limits(sequential, total, cost)
        allowed = [trial for trial in self.front if limits.allow(trial)]
        if not allowed:
            measured = [trial for trial in self.trials if trial.state == "measured"]
            least = min(trial.sequential for trial in measured), min(trial.total for trial in measured)
            raise ConfigError(
                f"`best_for(sequential={sequential}, total={total}{'' if cost is None else f', cost={cost}'})`: no "
                f"schedule is within it; the least that was measured is {least[0]:.0f} sequential and {least[1]:.0f} "
                f"total tokens{least_cost(measured) if cost is not None else ''}"
            )
        return program_of(self.student, min(allowed, key=by_estimate))


def least_cost(trials: Sequence[TrialRecord]) -> str:
    """The least cost of some trials, for the end of a sentence."""
    known = [trial.cost for trial in trials if trial.cost is not None]
    return f", and a cost of {min(known):.4g}" if known else ", and no cost, since prices are unknown"


def program_of(student: dspy.Module, trial: TrialRecord) -> dspy.Module:
    """A copy of the student as it ran in a trial."""
    return student.deepcopy() if trial.number == 0 else program_with(student, trial.candidate)


def write(
    result: SearchResult,
    folder: Path,
    config: Mapping[str, Any],
    confirmed_in: str,
    *,
    verifier: Verifier,
    data: Mapping[str, Any],
) -> None:
    """`search.json` for the report and `best.json` to run. Raises StoreError if they cannot be written."""
    confirmation = result.confirmation
    facts = {
        "config": config,
        "trials": [json.loads(trial.model_dump_json()) for trial in result.trials],
        "best": result.best.number,
        "finalists": [finalist._asdict() for finalist in result.finalists],
        "front": [trial.number for trial in result.front],
        "stopped": result.stopped,
        "tied": list(result.tied),
        **({} if result.prior_weight is None else {"prior_weight": result.prior_weight}),
        "credits": {place: credit._asdict() for place, credit in result.credits.items()},
        "paid": result.paid,
        "saved": result.saved,
        "proposals": None if result.proposals is None else json.loads(result.proposals.model_dump_json()),
        "confirmation": {
            "kept": confirmation.kept,
            "verdict": confirmation.verdict,
            "untouched": confirmation.untouched,
            "difference": [confirmation.difference.difference, *confirmation.difference.interval],
            "folder": confirmed_in,
            "student": confirmation.place,
            "winner": confirmation.place if result.best.number == 0 else f"{result.best.number:04d}",
        },
    }
    path = folder / "search.json"
    try:
        write_whole(path, json.dumps(facts, indent=1))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    kept, others = confirmation.student, []
    if confirmation.kept == "winner":
        kept, others = confirmation.winner, [confirmation.student]
    save(
        result.program,
        folder / "best.json",
        verifier=verifier,
        data=data,
        figures=[kept, *others],
        notes=confirmation.verdict,
        points=points(result),
        calibrations=result.calibrations,
    )


def points(result: SearchResult) -> dict[str, Point]:
    """For a front of several programs: the cheapest in total tokens ("fast"), the knee, from which more score costs
    much more ("balanced"), and the one with the highest estimate ("best")."""
    if len(result.front) < 2:
        return {}
    knee = next((member.trial for member in result.members if "total" in member.knee), result.front[0])
    allowed = [trial for trial in result.front if result.limits.allow(trial)] or result.front
    chosen = {"fast": result.front[0], "balanced": knee, "best": min(allowed, key=by_estimate)}
    return {
        name: Point(
            program_of(result.student, trial),
            {"name": name, "score": trial.pooled, "sequential": trial.sequential, "total": trial.total},
        )
        for name, trial in chosen.items()
    }


ATTACHED = ("score", "candidate_programs", "trial_logs", "confirmation", "front")
"""Attributes of a compiled program besides its own."""


def detached(student: dspy.Module) -> dspy.Module:
    """A copy without the attributes that an earlier search attached, which every trial would copy again."""
    own = student.deepcopy()
    if "candidate_programs" in vars(own):
        for name in ATTACHED:
            if name in vars(own) and not _is_part(own, name):
                delattr(own, name)
    return own


def _is_part(program: dspy.Module, name: str) -> bool:
    """Whether the program has its own module under this name."""
    return isinstance(getattr(program, name, None), dspy.Module)


def attach(program: dspy.Module, result: SearchResult) -> None:
    """Attach the attributes that DSPy's users expect on a compiled program. A module of that name is left unchanged."""
    measured = [trial for trial in result.trials if trial.state == "measured"]
    measured.sort(key=lambda trial: (not trial.feasible, *by_estimate(trial)))
    kept = result.confirmation.winner if result.confirmation.kept == "winner" else result.confirmation.student
    attributes: dict[str, Any] = {
        "score": kept.score,
        "candidate_programs": [
            {
                "score": trial.pooled,
                "program": program_of(result.student, trial),
                "schedule": trial.schedule,
                **({"schedules": {p: own.schedule for p, own in trial.candidate.parts.items()}} if trial.parts else {}),
                "sequential": trial.sequential,
                "total": trial.total,
                "feasible": trial.feasible,
            }
            for trial in measured
        ],
        "trial_logs": {trial.number: trial.model_dump() for trial in result.trials},
        "confirmation": result.confirmation,
        "front": result.front,
    }
    for name in ATTACHED:
        if not _is_part(program, name):
            setattr(program, name, attributes[name])
