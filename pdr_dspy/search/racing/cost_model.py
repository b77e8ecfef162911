"""Predicts the cost of a schedule before it is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.calls.pricing import Price
from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.consensus import needed
from pdr_dspy.operators.schedule import Nominal, Schedule
from pdr_dspy.prompts.roles import Role

SLACK = 1.1
"""A schedule is rejected untried if its predicted cost exceeds a limit by more than this factor: predictions are means,
and shorter workspaces or answers may bring a schedule under its limit."""


class PhaseCost(BaseModel):
    """Measured tokens of the calls of one phase, summed."""

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
"""By phase; for a program with several operators by "path/phase"."""


def profile_of(rows: Iterable[Row]) -> Profile:
    """The costs of each phase's calls in some runs."""
    tally = Tally()
    for row in rows:
        tally.add(row)
    return tally.profile()


class Tally:
    """Accumulates the costs of each phase's calls, run by run."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, int]] = {}

    def add(self, row: Row) -> None:
        """Add the calls of a run."""
        stages: dict[tuple[str, int, Phase], list[Call]] = {}
        for call in row.calls:
            if not call.sent:
                continue
            stages.setdefault((call.operator, call.round, call.phase), []).append(call)
        for (operator, _, phase), made in stages.items():
            stage = [call for call in made if call.fate != "left"] or made  # the others were cancelled early
            inputs, outputs = _turns(stage)
            place = operator.partition(":")[0]  # for all its runs
            name = f"{place}/{phase.value}" if place else phase.value
            sums = self._sums.setdefault(name, dict.fromkeys(PhaseCost.model_fields, 0))
            sums["calls"] += len(inputs)
            sums["input"] += sum(inputs)
            sums["output"] += sum(outputs)
            sums["stages"] += 1
            sums["prompt"] += max(inputs)
            sums["longest"] += max(outputs)

    def profile(self) -> Profile:
        """The costs so far."""
        return {phase: PhaseCost(**sums) for phase, sums in self._sums.items()}


def _turns(stage: Sequence[Call]) -> tuple[list[int], list[int]]:
    """Input and output tokens of each turn: of a call together with the further requests of its turn."""
    inputs: list[int] = []
    outputs: list[int] = []
    place: dict[int, int] = {}
    for call in stage:
        if call.part and call.index in place:
            inputs[place[call.index]] += call.usage.input or 0
            outputs[place[call.index]] += call.usage.output or 0
            continue
        place[call.index] = len(inputs)
        inputs.append(call.usage.input or 0)
        outputs.append(call.usage.output or 0)
    return inputs, outputs


def predict_all(schedules: Mapping[str, Schedule], profile: Mapping[str, PhaseCost]) -> Nominal | None:
    """The cost of a program whose operators run these schedules, by their paths, once each: the sum over operators. An
    operator without measured calls, such as one that only runs on some questions, counts 0; None without any data."""
    known = [predict(schedule, profile_at(profile, place)) for place, schedule in schedules.items()]
    costs = [cost for cost in known if cost is not None]
    return Nominal(sum(c.sequential for c in costs), sum(c.total for c in costs)) if costs else None


def profile_at(profile: Mapping[str, PhaseCost], place: str) -> Profile:
    """The costs of one operator's calls, by phase; those of calls without an operator, if it is not named."""
    own = {name.removeprefix(f"{place}/"): cost for name, cost in profile.items() if name.startswith(f"{place}/")}
    return own or {name: cost for name, cost in profile.items() if "/" not in name}


def predict(schedule: Schedule, profile: Mapping[str, PhaseCost]) -> Nominal | None:
    """The predicted mean cost of a run of `schedule`, in tokens, given measured calls; None without any data.

    Unmeasured kinds of calls are derived from drafts: a refinement writes as much as a draft and reads the prompt and
    the candidates that kappa admits, a distiller reads all candidates.

    With a `quorum` the lengths of drafts are assumed to be uniform around their mean: a round lasts until the last
    draft that is waited for, and cancelled drafts have written as much as that one. How often drafts `agree` cannot be
    derived from costs: such a schedule is assumed to wait for all.
    """
    if Phase.DRAFT.value not in profile:
        return None
    sequential = total = 0.0
    for _, calls, typical in _stages(schedule, profile):
        sequential += typical.prompt + typical.longest
        total += calls * (typical.input + typical.output)
    return Nominal(round(sequential), round(max(total, sequential)))


def predict_cost(
    schedule: Schedule, profile: Mapping[str, PhaseCost], price_of: Callable[[Role], Price | None]
) -> float | None:
    """The predicted cost in the unit of the models' prices; None without any data, or if a role's price is unknown.

    All models are assumed to write about equally much in the same role.
    """
    if Phase.DRAFT.value not in profile:
        return None
    cost = 0.0
    for role, calls, typical in _stages(schedule, profile):
        price = price_of(role)
        if price is None:
            return None
        cost += calls * (typical.input * price.input + typical.output * price.output)
    return cost


def _stages(schedule: Schedule, profile: Mapping[str, PhaseCost]) -> Iterator[tuple[Role, int, _Typical]]:
    """Role, number of calls and cost of one call, for each stage of a run."""
    for index, width in enumerate(schedule.widths):
        drafts = _typical(Phase.REFINE if index else Phase.DRAFT, schedule, width, profile)
        yield Role.REFINE if index else Role.DRAFT, width, _fastest(drafts, width, needed(width, schedule.quorum))
        role = schedule.distill_role
        if (count := schedule.distill_calls(index)) and role is not None:
            yield role, count, _typical(Phase(str(role)), schedule, width, profile)


class _Typical(NamedTuple):
    """Mean tokens of one call of a phase."""

    prompt: float
    """The longest of a stage."""
    longest: float
    """The longest of a stage."""
    input: float
    output: float


def _typical(phase: Phase, schedule: Schedule, width: int, profile: Mapping[str, PhaseCost]) -> _Typical:
    cap = {Phase.DRAFT: schedule.draft_tokens, Phase.REFINE: schedule.refine_cap}.get(phase, schedule.distill_cap)
    cap += schedule.thinking_tokens
    seen = profile.get(phase.value)
    if seen is not None:
        output, longest = seen.output / seen.calls, seen.longest / seen.stages
        return _Typical(seen.prompt / seen.stages, min(longest, cap), seen.input / seen.calls, min(output, cap))
    draft = profile[Phase.DRAFT.value]
    prompt, output = draft.prompt / draft.stages, min(draft.output / draft.calls, schedule.draft_tokens)
    if phase is Phase.REFINE:
        prompt += min(schedule.kappa, schedule.distill_by.solutions(schedule.k) * output)
    else:
        prompt += width * output
    longest = min(draft.longest / draft.stages, cap)
    return _Typical(prompt, longest, prompt, min(draft.output / draft.calls, cap))


def _fastest(typical: _Typical, width: int, count: int) -> _Typical:
    """The costs for a stage that ends with the `count`-th of its calls."""
    if count == width:
        return typical
    half = max(typical.longest - typical.output, 0.0)  # from the mean to either end
    shortest = max(typical.output - half, 0.0)
    last = shortest + (typical.longest - shortest) * (count - 1) / (width - 1)
    output = (count * (shortest + last) / 2 + (width - count) * last) / width
    return typical._replace(longest=last, output=min(output, typical.output))
