"""What one trial measures, and what a schedule will cost before it is tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import dspy
from pydantic import BaseModel, ConfigDict

from pdr_dspy.agreement import needed
from pdr_dspy.budget import Call, Phase
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation import Report, Row
from pdr_dspy.nesting import operators, replaced
from pdr_dspy.operators import Operator
from pdr_dspy.schedule import Nominal, Schedule
from pdr_dspy.search.pareto import Limits
from pdr_dspy.search.plan import Arm, Finalist
from pdr_dspy.search.prompts import DemoSet, check_demos
from pdr_dspy.search.space import Candidate
from pdr_dspy.stats import Interval

SLACK = 1.1
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


Profile = dict[str, PhaseCost]
"""By phase."""


class TrialRecord(BaseModel):
    """One trial of a search, as it is stored: facts only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    origin: str
    """Where the candidate came from: "student", "LongCoT", "SR", a preset, or "search"."""
    state: str
    """"measured": it ran the whole race; "dropped": it was surely worse, or surely over a limit, before the end."""
    schedule: Schedule
    instructions: dict[str, str] = {}
    demos: dict[str, DemoSet] = {}
    score: float = math.nan
    """Mean over the questions that it ran, a fraction."""
    interval: Interval = Interval(0.0, 1.0)
    """95 % of `score`, clustered by question."""
    pooled: float = math.nan
    """The estimate that the search goes by: from all runs, fresh seeds included, drawn towards similar programs."""
    pooled_sd: float = math.nan
    """Its posterior standard deviation."""
    fresh: float = math.nan
    """Score of a finalist on the same questions with fresh seeds."""
    sequential: float = math.nan
    """Mean B_seq of a run in tokens."""
    total: float = math.nan
    """Mean B_total of a run in tokens."""
    calls: float = math.nan
    """Mean model calls of a run."""
    paid: int = 0
    """Tokens of its calls in the race that no earlier trial had made."""
    saved: int = 0
    """Tokens of those that one had."""
    reused: float = 0.0
    """`saved` as a share of both."""
    failed: int = 0
    """Rows without an answer."""
    questions: int = 0
    runs: int = 0
    """Runs in the race: fewer than the others' for a trial that was dropped."""
    cohort: int = 0
    dropped: str | None = None
    """Why the race went on without it."""
    seconds: float = 0.0
    """Of all its calls, added up."""
    feasible: bool = True
    """Within the limits of the search, on average."""

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
    arm: Arm, rows: Sequence[Row], estimate: tuple[float, float], limits: Limits, *, finalist: Finalist | None = None
) -> TrialRecord:
    """The facts of a trial out of its race.

    Args:
        arm: the program in the search.
        rows: its runs in the race.
        estimate: its pooled score and standard deviation.
        limits: of the search.
        finalist: its figures on fresh seeds, if it came so far.
    """
    report = Report(rows=tuple(rows))
    made = [call for row in rows for call in row.calls]
    return TrialRecord(
        number=arm.number,
        origin=arm.origin,
        state="measured" if arm.dropped is None else "dropped",
        schedule=arm.candidate.schedule,
        instructions=arm.candidate.instructions,
        demos=arm.candidate.demos,
        score=report.score,
        interval=report.interval,
        pooled=estimate[0],
        pooled_sd=estimate[1],
        fresh=math.nan if finalist is None else finalist.fresh,
        sequential=report.sequential,
        total=report.total,
        calls=report.calls,
        paid=arm.paid,
        saved=arm.saved,
        reused=arm.saved / max(arm.paid + arm.saved, 1),
        failed=report.failed,
        questions=len(report.by_question),
        runs=len(rows),
        cohort=arm.cohort,
        dropped=arm.dropped,
        seconds=round(sum(call.seconds for call in made), 2),
        feasible=limits.allow(report),
    )


def profile_of(rows: Iterable[Row]) -> Profile:
    """What the calls of each phase cost in some runs."""
    tally = Tally()
    for row in rows:
        tally.add(row)
    return tally.profile()


class Tally:
    """What the calls of each phase cost, as runs come in."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, int]] = {}

    def add(self, row: Row) -> None:
        """Count the calls of a run."""
        stages: dict[tuple[int, Phase], list[Call]] = {}
        for call in row.calls:
            stages.setdefault((call.round, call.phase), []).append(call)
        for (_, phase), made in stages.items():
            stage = [call for call in made if call.fate != "left"] or made  # the others ended before their time
            inputs = [call.usage.input or 0 for call in stage]
            outputs = [call.usage.output or 0 for call in stage]
            sums = self._sums.setdefault(phase.value, dict.fromkeys(PhaseCost.model_fields, 0))
            sums["calls"] += len(stage)
            sums["input"] += sum(inputs)
            sums["output"] += sum(outputs)
            sums["stages"] += 1
            sums["prompt"] += max(inputs)
            sums["longest"] += max(outputs)

    def profile(self) -> Profile:
        """What was counted so far."""
        return {phase: PhaseCost(**sums) for phase, sums in self._sums.items()}


def predict(schedule: Schedule, profile: Mapping[str, PhaseCost]) -> Nominal | None:
    """What a run of `schedule` will cost on average, in tokens, given what calls cost so far; None knowing nothing.

    Calls of a kind that was never seen are made of drafts: a refinement writes as much as one and reads the prompt and
    the candidates that kappa admits, a distiller reads all candidates.

    With a `quorum` the lengths of drafts are taken to be spread evenly about their mean: a round lasts as long as the
    last draft that is waited for, and those that are cancelled have written as much as that one. How often drafts
    `agree` is not known from costs: such a schedule is taken to wait for all.
    """
    if Phase.DRAFT.value not in profile:
        return None
    sequential = total = 0.0
    for index, width in enumerate(schedule.widths):
        drafts = _typical(Phase.REFINE if index else Phase.DRAFT, schedule, width, profile)
        stages = [(width, _fastest(drafts, width, needed(width, schedule.quorum)))]
        if count := schedule.distill_calls(index):
            stages.append((count, _typical(_DISTILLING[schedule.distiller], schedule, width, profile)))
        for calls, typical in stages:
            sequential += typical.prompt + typical.longest
            total += calls * (typical.input + typical.output)
    return Nominal(round(sequential), round(max(total, sequential)))


_DISTILLING = {
    "summary": Phase.DISTILL,
    "topk": Phase.SELECT,
    "topk_per_sample": Phase.SELECT,
    "last": Phase.CRITIQUE,
}


class _Typical(NamedTuple):
    """Mean tokens of one call of a phase."""

    prompt: float
    """The longest of a stage."""
    longest: float
    """The longest of a stage."""
    input: float
    output: float


def _typical(phase: Phase, schedule: Schedule, width: int, profile: Mapping[str, PhaseCost]) -> _Typical:
    cap = {Phase.DRAFT: schedule.draft_tokens, Phase.REFINE: schedule.final}.get(phase, schedule.distill)
    cap += schedule.thinking_tokens
    seen = profile.get(phase.value)
    if seen is not None:
        output, longest = seen.output / seen.calls, seen.longest / seen.stages
        return _Typical(seen.prompt / seen.stages, min(longest, cap), seen.input / seen.calls, min(output, cap))
    draft = profile[Phase.DRAFT.value]
    prompt, output = draft.prompt / draft.stages, min(draft.output / draft.calls, schedule.draft_tokens)
    if phase is Phase.REFINE:
        shown = {"last": 1, "summary": 1}.get(schedule.distiller, schedule.k)
        prompt += min(schedule.kappa, shown * output)
    else:
        prompt += width * output
    longest = min(draft.longest / draft.stages, cap)
    return _Typical(prompt, longest, prompt, min(draft.output / draft.calls, cap))


def _fastest(typical: _Typical, width: int, count: int) -> _Typical:
    """Of a stage that ends with the `count`-th of its calls."""
    if count == width:
        return typical
    half = max(typical.longest - typical.output, 0.0)  # from the mean to either end
    shortest = max(typical.output - half, 0.0)
    last = shortest + (typical.longest - shortest) * (count - 1) / (width - 1)
    output = (count * (shortest + last) / 2 + (width - count) * last) / width
    return typical._replace(longest=last, output=min(output, typical.output))


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
