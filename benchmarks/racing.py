"""The library's own search (`pdr_dspy.search.racing.plan`) on a simulated world, for `benchmarks.search`.

The plan is that of `PDROptimizer`; here the world answers instead of workers, and costs are predicted from the tokens
of earlier calls, phase by phase, as `pdr_dspy.search.racing.cost_model.predict` does from usage.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.reasoner import Cell as Simulated
from benchmarks.reasoner import World
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.candidates import families_of, filled
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.cost_model import SLACK
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.plan import Cell, Found, Measure, Plan, Propose, Proposed, Stage, Write
from pdr_dspy.search.replays import replays
from pdr_dspy.search.settings import Confirm, SearchSettings
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.space import Space

FRESH = 1000
"""First run seed of the finalists."""


class Progress(NamedTuple):
    """The progress of the search after a step."""

    paid: int
    full: int
    chosen: Candidate
    reported: float
    dropped: tuple[Candidate, ...]


def search(
    world: World,
    space: Space,
    limits: Limits,
    questions: Sequence[int],
    trials: int,
    seed: int,
    *,
    student: Candidate,
    sampler: Any = "tpe",
    proposer: Proposer | None = None,
    ending: Mapping[str, Any] = MappingProxyType({}),
    presets: bool = False,
    **settings: Any,
) -> Generator[Progress, None, Found]:
    """Run the plan on a world, and return what it found. Searches of one world may share a `proposer`; `ending` has
    further arguments of `Plan`, and `settings` are fields of `SearchSettings`. With `presets` the library's first
    candidates come before the proposals."""
    given = SearchSettings(limits=limits, seed=seed, confirm=Confirm(repeats=1), **settings)
    plan = Plan(given, questions=len(questions), held_out=0, trials=trials, **ending)
    proposer = proposer or Proposer(space, limits=limits, seed=seed, sampler=sampler)
    prices = Prices(limits)
    steps = plan.run([Proposed("student", student)])
    full, reported = 0, set[int]()
    answer: Any = None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as end:
            found = end.value
            break
        if isinstance(request, Propose):
            start = proposer.expected(given.prior, request, _not(prices.too_expensive))
            start += _presets(space, prices) if presets else []
            answer = filled(start, proposer, request, request.tried, _not(prices.too_expensive))
            free = replays(space, request.tried, request.free, _affordable(prices, answer))
            answer += [Proposed("same calls", candidate, free=True) for candidate in free]
            continue
        assert not isinstance(request, Write)
        answer = {}
        for number, candidate in request.arms.items():
            for pair in request.pairs:
                cell = world.cell(candidate, questions[pair.question], run_seed(request, pair.repeat))
                prices.learn(candidate, cell)
                full += cell.total
                answer[number, pair] = Cell(cell.score, cell.sequential, cell.total, False, cell.calls)
        if all(arm.race for arm in plan.arms) and (leading := best_of(plan)) is not None:
            dropped = [arm for arm in plan.arms if arm.dropped is not None and arm.number not in reported]
            reported |= {arm.number for arm in dropped}
            yield Progress(plan.paid, full, *leading, tuple(arm.candidate for arm in dropped))
    if found.chosen is not None:
        chosen = plan.arms[found.chosen].candidate
        yield Progress(found.paid, full, chosen, found.finalists[0].pooled, ())
    return found


def _not(holds: Callable[[Candidate], bool]) -> Callable[[Candidate], bool]:
    return lambda candidate: not holds(candidate)


def _presets(space: Space, prices: Prices) -> list[Proposed]:
    """The first affordable schedule of each kind, as `pdr_dspy.search.candidates.presets` has them."""
    caps = sorted(space.draft_tokens)
    own = Schedule(widths=(1,), kappa=max(space.kappa), draft_tokens=caps[len(caps) // 2])
    found = []
    for name, kind in families_of(own, space):
        fitting = (Candidate(one, {}) for one in kind if one in space)
        found += [Proposed(name, one) for one in fitting if not prices.too_expensive(one)][:1]
    return found


def _affordable(prices: Prices, but: Sequence[Proposed]) -> Callable[[Candidate], bool]:
    known = {one.candidate.key for one in but}
    return lambda candidate: candidate.key not in known and not prices.too_expensive(candidate)


def run_seed(request: Measure, repeat: int) -> int:
    """The seed of a run; finalists have other seeds than the race."""
    return repeat + (FRESH if request.stage is Stage.FINAL else 0)


def best_of(plan: Plan) -> tuple[Candidate, float] | None:
    """The best program that ran the whole race within the limits, and its estimate."""
    whole = [arm for arm in plan.arms if arm.dropped is None and len(arm.race) == len(plan.order)]
    ordered = plan.best(whole)
    return (ordered[0].candidate, plan.estimates()[ordered[0].number][0]) if ordered else None


class Prices:
    """Observed costs of calls, and predictions whether a schedule would exceed a limit."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sums: dict[tuple[str, Any], tuple[int, int]] = {}

    def learn(self, candidate: Candidate, cell: Simulated) -> None:
        """Record the calls of a run, given in the order of their stages."""
        schedule = candidate.schedule
        tokens = (spent for _, spent in cell.calls)
        for index, width in enumerate(schedule.widths):
            kind = ("refine", schedule.refine_cap) if index else ("draft", schedule.draft_tokens)
            for place in (*[kind] * width, *[("distill", schedule.distiller)] * schedule.distill_calls(index)):
                count, total = self._sums.get(place, (0, 0))
                self._sums[place] = (count + 1, total + next(tokens))

    def too_expensive(self, candidate: Candidate) -> bool:
        """Whether the predicted cost of a run is over a limit by more than the slack."""
        schedule = candidate.schedule
        draft = self._mean("draft", schedule.draft_tokens, lambda: 0.0)
        shown = min(schedule.kappa, (schedule.k if schedule.distill_by.uses_k else 1) * draft)
        sequential = total = 0.0
        for index, width in enumerate(schedule.widths):
            cost = self._mean("refine", schedule.refine_cap, lambda: draft + shown) if index else draft
            sequential += cost
            total += width * cost
            if calls := schedule.distill_calls(index):
                cost = self._mean("distill", schedule.distiller, lambda width=width: draft * (width + 1))
                sequential += cost
                total += calls * cost
        return any(excess > SLACK - 1 for excess in self.limits.excess(sequential, total).values())

    def _mean(self, kind: str, detail: Any, unseen: Callable[[], float]) -> float:
        own = self._sums.get((kind, detail))
        like = [own] if own else [sums for (phase, _), sums in self._sums.items() if phase == kind]
        return sum(total for _, total in like) / sum(count for count, _ in like) if like else unseen()
