"""The library's own search (`pdr_dspy.search.racing.plan`) on a simulated world, for `benchmarks.search`.

The plan is that of `PDROptimizer`; here the world answers instead of workers, and costs are predicted from the tokens
of earlier calls, phase by phase, as `pdr_dspy.search.racing.cost_model.predict` does from usage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.moves import Moves
from benchmarks.reasoner import Cell as Simulated
from benchmarks.reasoner import World
from benchmarks.texts import Writer
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.candidates import families_of
from pdr_dspy.search.proposing import written_instructions
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.arms import Found
from pdr_dspy.search.racing.cost_model import SLACK
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.plan import Plan
from pdr_dspy.search.racing.requests import Cell, Measure, Propose, Proposed, Stage, Tried, Write
from pdr_dspy.search.replays import contained, replays
from pdr_dspy.search.settings import Confirm, SearchSettings
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.search.space.spaces import AnySpace, Space

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
    space: AnySpace,
    limits: Limits,
    questions: Sequence[int],
    trials: int,
    seed: int,
    *,
    student: Candidate,
    first: Sequence[Candidate] = (),
    sampler: Any = "tpe",
    proposer: Proposer | None = None,
    last: str | None = None,
    ending: Mapping[str, Any] = MappingProxyType({}),
    presets: bool = False,
    writer: Writer | None = None,
    **settings: Any,
) -> Generator[Progress, None, Found]:
    """Run the plan on a world, and return what it found. `first` are tried before the sampler proposes, and with
    `presets` the library's first candidates, too. Searches of one world may share a `proposer`; `last` is the operator
    of several that runs last, whose finals then race at no tokens; `ending` has further arguments of `Plan`, `writer`
    answers its requests for instructions, and `settings` are fields of `SearchSettings`."""
    given = SearchSettings(limits=limits, seed=seed, confirm=Confirm(repeats=1), **settings)
    plan = Plan(given, questions=len(questions), held_out=0, trials=trials, **ending)
    proposer = proposer or Proposer(space, limits=limits, seed=seed, sampler=sampler)
    if isinstance(proposer, Moves):
        proposer.plan = plan
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
            begin = proposer.expected(given.prior, request, lambda one: not prices.too_expensive(one))
            begin += _presets(space, prices) if presets and isinstance(space, Space) else []
            answer = _begun([*begin, *(Proposed("first", one) for one in first)], request)
            if writer is not None:
                texts = writer.waiting(request, proposer.space, limits, prices.too_expensive)
                answer += islice(texts, request.wanted - len(answer))
            waiting = tuple(Tried(one.candidate, math.nan, math.nan, math.nan, 0) for one in answer)
            answer += proposer.propose(
                (*request.tried, *waiting),
                request.wanted - len(answer),
                cohort=request.cohort,
                too_expensive=prices.too_expensive,
            )
            free = _free(space, request, _affordable(prices, answer), last)
            answer += [Proposed("same calls", candidate, free=True) for candidate in free]
            continue
        if isinstance(request, Write):
            assert writer is not None
            written, answer = writer.write(request, space, limits, given.instructions.rounds)
            proposer = Proposer(
                written_instructions.extended(proposer.space, written), limits=limits, seed=seed, sampler=sampler
            )
            continue
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


def _presets(space: Space, prices: Prices) -> list[Proposed]:
    """The first affordable schedule of each kind, as `pdr_dspy.search.candidates.presets` has them."""
    caps = sorted(space.draft_tokens)
    own = Schedule(widths=(1,), kappa=max(space.kappa), draft_tokens=caps[len(caps) // 2])
    found = []
    for name, kind in families_of(own, space):
        fitting = (Candidate(one, {}) for one in kind if one in space)
        found += [Proposed(name, one) for one in fitting if not prices.too_expensive(one)][:1]
    return found


def _free(
    space: AnySpace, request: Propose, affordable: Callable[[Candidate], bool], last: str | None
) -> list[Candidate]:
    """The library's candidates at no tokens; of several operators, those of the one that runs last, if it is given."""
    if isinstance(space, Space):
        return replays(space, request.tried, request.free, affordable)
    if last is None:
        return []
    found: dict[str, Candidate] = {}
    complete = max((known.pairs for known in request.tried), default=0)
    seen = {known.candidate.key for known in request.tried}
    ordered = sorted(request.tried, key=lambda known: -known.score)
    whole = [known.candidate.parts for known in ordered if known.pairs == complete]
    for parts in whole:
        for schedule in contained(parts[last].schedule, space.spaces[last]):
            one = joint({**parts, last: parts[last]._replace(schedule=schedule)})
            if len(found) < request.free and one.key not in seen and one in space and affordable(one):
                found.setdefault(one.key, one)
    return list(found.values())


def _begun(first: Sequence[Proposed], request: Propose) -> list[Proposed]:
    """The first candidates that were not tried yet, as many as are wanted."""
    seen = {known.candidate.key for known in request.tried}
    named: dict[str, Proposed] = {}
    for one in first:
        named.setdefault(one.candidate.key, one)
    return [one for key, one in named.items() if key not in seen][: request.wanted]


def _affordable(prices: Prices, but: Sequence[Proposed]) -> Callable[[Candidate], bool]:
    known = {one.candidate.key for one in but}
    return lambda candidate: candidate.key not in known and not prices.too_expensive(candidate)


def run_seed(request: Measure, repeat: int) -> int:
    """The seed of a run; finalists have other seeds than the race."""
    return repeat + (FRESH if request.stage is Stage.FINAL else 0)


def best_of(plan: Plan) -> tuple[Candidate, float] | None:
    """The best program that ran the whole race within the limits, and its estimate."""
    whole = [arm for arm in plan.arms if arm.dropped is None and len(arm.race) == len(plan.order)]
    ordered = plan.standing.best(whole)
    return (ordered[0].candidate, plan.standing.estimates()[ordered[0].number][0]) if ordered else None


class Prices:
    """Observed costs of calls, and predictions whether a schedule would exceed a limit."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sums: dict[tuple[str, str, Any], tuple[int, int]] = {}

    def learn(self, candidate: Candidate, cell: Simulated) -> None:
        """Record the calls of a run, given in the order of their operators and stages; a run that ended early made
        fewer."""
        places: list[tuple[str, str, Any]] = []
        for operator, part in candidate.by_operator.items():
            schedule = part.schedule
            for index, width in enumerate(schedule.widths):
                name, cap = ("refine", schedule.refine_cap) if index else ("draft", schedule.draft_tokens)
                places += [(operator, name, cap)] * width
                places += [(operator, "distill", schedule.distiller)] * schedule.distill_calls(index)
        for place, (_, tokens) in zip(places, cell.calls, strict=False):
            count, total = self._sums.get(place, (0, 0))
            self._sums[place] = (count + 1, total + tokens)

    def too_expensive(self, candidate: Candidate) -> bool:
        """Whether the predicted cost of a run is over a limit by more than the slack."""
        sequential = total = 0.0
        for operator, part in candidate.by_operator.items():
            path, cost = self._predicted(operator, part.schedule)
            sequential += path
            total += cost
        return any(excess > SLACK - 1 for excess in self.limits.excess(sequential, total).values())

    def _predicted(self, operator: str, schedule: Schedule) -> tuple[float, float]:
        draft = self._mean(operator, "draft", schedule.draft_tokens, lambda: 0.0)
        shown = min(schedule.kappa, (schedule.k if schedule.distill_by.uses_k else 1) * draft)
        sequential = total = 0.0
        for index, width in enumerate(schedule.widths):
            cost = self._mean(operator, "refine", schedule.refine_cap, lambda: draft + shown) if index else draft
            sequential += cost
            total += width * cost
            if calls := schedule.distill_calls(index):
                cost = self._mean(operator, "distill", schedule.distiller, lambda width=width: draft * (width + 1))
                sequential += cost
                total += calls * cost
        return sequential, total

    def _mean(self, operator: str, kind: str, detail: Any, unseen: Callable[[], float]) -> float:
        own = self._sums.get((operator, kind, detail))
        like = (
            [own] if own else [s for (place, phase, _), s in self._sums.items() if (place, phase) == (operator, kind)]
        )
        return sum(total for _, total in like) / sum(count for count, _ in like) if like else unseen()
