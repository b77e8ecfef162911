"""What one trial measures, and what a schedule will cost before it is tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import dspy
from pydantic import BaseModel, ConfigDict

from pdr_dspy.budget import Call, Phase
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation import Report
from pdr_dspy.nesting import operators, replaced
from pdr_dspy.operators import Operator
from pdr_dspy.schedule import Nominal, Schedule
from pdr_dspy.search.pareto import Limits
from pdr_dspy.search.prompts import DemoSet, check_demos
from pdr_dspy.search.space import Candidate
from pdr_dspy.stats import Interval

SLACK = 1.25
"""A schedule is rejected unseen when its predicted cost is over a limit by more than this factor: predictions are of
means, and shorter workspaces or answers may bring a schedule under its limit."""


class PhaseCost(BaseModel):
    """Tokens that were measured in the calls of one phase, summed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int = 0
    input: int = 0
    output: int = 0
    stages: int = 0
    """Groups of sibling calls."""
    prompt: int = 0
    """The longest prompt of each stage, summed."""
    longest: int = 0
    """The longest output of each stage, summed."""

    def __add__(self, other: PhaseCost) -> PhaseCost:
        return PhaseCost(**{name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields})


Profile = dict[str, PhaseCost]
"""By phase."""


class TrialRecord(BaseModel):
    """One trial of a search, as it is stored: facts only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    origin: str
    """Where the candidate came from: "student", "LongCoT", "SR", a preset, or "search"."""
    state: str
    """"measured"; "copied": equal to an earlier trial, whose figures it has; "rejected": too dear by prediction, or
    refused because no question fits the model's context with it."""
    schedule: Schedule
    instructions: dict[str, str] = {}
    demos: dict[str, DemoSet] = {}
    score: float = math.nan
    """Mean over questions, a fraction."""
    interval: Interval = Interval(0.0, 1.0)
    """95 %, clustered by question."""
    sequential: float = math.nan
    """Mean B_seq of a run in tokens; predicted for a rejected trial, nan for one that the model has no room for."""
    total: float = math.nan
    """Mean B_total of a run in tokens; as `sequential`."""
    calls: float = math.nan
    """Mean model calls of a run."""
    paid: int = 0
    """Tokens that were really spent on this trial."""
    saved: int = 0
    """Tokens of calls that were found in the store instead."""
    reused: float = 0.0
    """Share of calls that were found in the store."""
    failed: int = 0
    """Rows without an answer."""
    questions: int = 0
    seconds: float = 0.0
    feasible: bool = True
    """Within the limits of the search."""
    copy_of: int | None = None
    profile: Profile = {}

    @property
    def candidate(self) -> Candidate:
        """What was tried."""
        return Candidate(self.schedule, self.instructions, self.demos)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.origin} {self.candidate}: {self.score:.3f} [{low:.3f}, {high:.3f}], "
            f"B_seq {self.sequential:.0f}, B_total {self.total:.0f}"
        )


def record(
    number: int, origin: str, candidate: Candidate, report: Report, limits: Limits, seconds: float
) -> TrialRecord:
    """The facts of a trial out of its evaluation."""
    calls = [call for row in report.rows for call in row.calls]
    return TrialRecord(
        number=number,
        origin=origin,
        state="measured",
        schedule=candidate.schedule,
        instructions=candidate.instructions,
        demos=candidate.demos,
        score=report.score,
        interval=report.interval,
        sequential=report.sequential,
        total=report.total,
        calls=report.calls,
        paid=report.paid,
        saved=sum(call.tokens for call in calls if call.reused),
        reused=report.reused,
        failed=report.failed,
        questions=len(report.by_question),
        seconds=round(seconds, 2),
        feasible=all(value <= 0 for value in limits.excess(report.sequential, report.total).values()),
        profile=profile_of(report),
    )


def rejection(
    number: int, origin: str, candidate: Candidate, sequential: float = math.nan, total: float = math.nan
) -> TrialRecord:
    """A trial that is not run, with its predicted cost in tokens if that is why."""
    return TrialRecord(
        number=number,
        origin=origin,
        state="rejected",
        schedule=candidate.schedule,
        instructions=candidate.instructions,
        demos=candidate.demos,
        sequential=sequential,
        total=total,
        feasible=False,
    )


def profile_of(report: Report) -> Profile:
    """What the calls of each phase cost in an evaluation."""
    found: Profile = {}
    for row in report.rows:
        stages: dict[tuple[int, Phase], list[Call]] = {}
        for call in row.calls:
            stages.setdefault((call.round, call.phase), []).append(call)
        for (_, phase), stage in stages.items():
            cost = PhaseCost(
                calls=len(stage),
                input=sum(call.usage.input or 0 for call in stage),
                output=sum(call.usage.output or 0 for call in stage),
                stages=1,
                prompt=max(call.usage.input or 0 for call in stage),
                longest=max(call.usage.output or 0 for call in stage),
            )
            found[phase.value] = found.get(phase.value, PhaseCost()) + cost
    return found


def merged(records: Iterable[TrialRecord]) -> Profile:
    """The profiles of all measured trials as one."""
    found: Profile = {}
    for trial in records:
        if trial.state == "measured":
            for phase, cost in trial.profile.items():
                found[phase] = found.get(phase, PhaseCost()) + cost
    return found


def predict(schedule: Schedule, profile: Mapping[str, PhaseCost]) -> Nominal | None:
    """What a run of `schedule` will cost on average, in tokens, given what calls cost so far; None knowing nothing.

    Refinements that were never seen count like drafts, distill calls that were never seen count 0: the prediction of
    an unknown kind of schedule is on the low side.
    """
    if Phase.DRAFT.value not in profile:
        return None
    distilling = {
        "summary": Phase.DISTILL,
        "topk": Phase.SELECT,
        "topk_per_sample": Phase.SELECT,
        "last": Phase.CRITIQUE,
    }.get(schedule.distiller, Phase.DISTILL)
    sequential = total = 0.0
    for index, width in enumerate(schedule.widths):
        later = Phase.REFINE.value if Phase.REFINE.value in profile else Phase.DRAFT.value
        cost = profile[Phase.DRAFT.value if index == 0 else later]
        cap = (schedule.final if index else schedule.draft_tokens) + schedule.thinking_tokens
        stages = [(width, cost, cap)]
        if (count := schedule.distill_calls(index)) and distilling.value in profile:
            stages.append((count, profile[distilling.value], schedule.distill + schedule.thinking_tokens))
        for calls, seen, most in stages:
            sequential += seen.prompt / seen.stages + min(seen.longest / seen.stages, most)
            total += calls * (seen.input / seen.calls + min(seen.output / seen.calls, most))
    return Nominal(round(sequential), round(max(total, sequential)))


def program_with(student: dspy.Module, candidate: Candidate) -> dspy.Module:
    """A copy of the student whose operators run under a candidate; the student itself is not touched.

    Raises ConfigError when there is no operator in it, or when a demonstration does not suit the task.
    """
    if not operators(student):
        raise ConfigError(
            f"`compile(student={type(student).__name__}())` holds no LongCoT, SR or PDR; there is no schedule to tune"
        )

    def changed(_: str, operator: Operator) -> Operator:
        check_demos(operator.task, {role: [demos] for role, demos in candidate.demos.items()})
        return operator.with_schedule(candidate.schedule, instructions=candidate.instructions, demos=candidate.demos)

    return replaced(student, changed)


def describe_candidate(candidate: Candidate) -> dict[str, Any]:
    """A candidate as JSON data."""
    prompts = {"instructions": candidate.instructions, "demos": {role: list(d) for role, d in candidate.demos.items()}}
    return {"schedule": candidate.schedule.model_dump(mode="json"), **prompts}


def read_candidate(facts: Mapping[str, Any]) -> Candidate:
    """The candidate that `describe_candidate` described. Raises KeyError, TypeError or ConfigError for other facts."""
    demos = {role: tuple(dict(demo) for demo in chosen) for role, chosen in facts.get("demos", {}).items()}
    return Candidate(Schedule(**facts["schedule"]), dict(facts["instructions"]), demos)
