"""The candidates of each cohort: baselines first, then presets, then proposals by a sampler from the space."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import AT_ONCE, PRESETS, Nominal, Schedule, preset
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.problem import Problem
from pdr_dspy.search.proposing import written_instructions
from pdr_dspy.search.proposing.instructions import Proposals
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.cost_model import SLACK, Profile, predict_all, predict_cost, profile_at
from pdr_dspy.search.racing.requests import Propose, Proposed, Tried
from pdr_dspy.search.replays import Order, replays
from pdr_dspy.search.space.candidate import Candidate, program_with
from pdr_dspy.search.space.spaces import AnySpace, Space

REFLECTION = "reflection"
"""The origin of a candidate with an instruction that a model wrote for its schedule."""
logger = logging.getLogger("pdr_dspy.search")


def baselines(problem: Problem) -> list[Proposed]:
    """The first candidates: the untouched student, and one pass, whose costs allow predictions for others."""
    student = Proposed("student", problem.own)
    passes: dict[str, dict[str, list[Schedule]]] = {}
    for place, operator in _searched(problem).items():
        for suffix, one in _on_models(operator.schedule, problem.space.spaces[place]):
            passes.setdefault(suffix, {})[place] = [one_pass(one)]
    named = [student]
    for suffix, schedules in passes.items():
        single = _joint(problem, schedules)
        if single is not None and (single.key != student.candidate.key or problem.mixed):
            named.append(Proposed(f"LongCoT{suffix}", single))
    return list({one.candidate.key if one is not student else "": one for one in named}.values())


def presets(problem: Problem, affordable: Callable[[Candidate], bool]) -> list[Proposed]:
    """Candidates to try before a sampler proposes, if they are in the space and affordable.

    A vote and the best by each check come first, as wide as possible: a search without them could return a worse
    program. Then the same drafts with one refinement by the check, Sequential Refinement, and the presets. If operators
    have separate spaces, each of these is tried at all of them together, as far as their spaces contain it, and the
    first kinds also at each operator separately.
    """
    searched = _searched(problem)
    families = {place: _families(own, problem.space.spaces[place]) for place, own in searched.items()}
    names = dict.fromkeys(name for own in families.values() for name, _ in own)
    wanted = [(name, {place: dict(own).get(name, []) for place, own in families.items()}) for name in names]
    if len(searched) > 1:
        picks = [(name, own) for name, own in wanted if name.startswith(("vote", "best by "))]
        alone = [(f"{name} at {p}", {p: own[p]}) for name, own in picks for p in searched if own[p]]
        wanted = [*picks, *alone, *(one for one in wanted if one not in picks)]
    found: list[Proposed] = []
    for name, schedules in wanted:
        ranks = range(max(map(len, schedules.values()), default=0))
        made = (_joint(problem, {p: own[rank:] or own[-1:] for p, own in schedules.items()}) for rank in ranks)
        there = (candidate for candidate in made if candidate is not None)
        found += [Proposed(name, candidate) for candidate in itertools.islice(filter(affordable, there), 1)]
    return found


def _searched(problem: Problem) -> dict[str, Operator]:
    """The operators that have a space, by path; "" and the first operator if all share one."""
    if isinstance(problem.space, Space):
        return {"": problem.operator}
    return {place: problem.operators[place] for place in problem.space.spaces}


def _joint(problem: Problem, schedules: Mapping[str, Sequence[Schedule]]) -> Candidate | None:
    """The candidate with the first possible of its schedules at each operator. A schedule outside of its space is
    replaced by one pass, and that by the operator's own schedule; None if no operator has any of the given
    schedules."""
    chosen: dict[str, Schedule] = {}
    wanted = False
    for place, operator in _searched(problem).items():
        space = problem.space.spaces[place]
        first = next(iter(schedules.get(place, ())), None)
        if first is not None and first in space:
            chosen[place], wanted = first, True
            continue
        owns = [one for _, one in _on_models(operator.schedule, space)]
        other = next((one for one in (*map(one_pass, owns), *owns) if one in space), None)
        if other is None:
            return None
        chosen[place] = other
    return problem.candidate(lambda place, operator, space: chosen[place]) if wanted else None


def one_pass(own: Schedule, **changes: Any) -> Schedule:
    """One pass: without critique and waves, for which a single draft leaves no room."""
    return own.replace(widths=(1,), critique=False, **AT_ONCE, **changes)


def _on_models(own: Schedule, space: Space) -> list[tuple[str, Schedule]]:
    """A schedule on each draft model of a space, with the same model for all its roles, and a suffix for its name;
    unchanged if the space has no other model."""
    if space.draft_model in ((None,), (own.draft_model,)):
        return [("", own)]
    bare = {"refine_model": None, "distill_model": None}
    names = sorted(space.draft_model, key=lambda name: name != own.draft_model)  # its own first
    return [("" if name is None else f" on {name}", own.replace(draft_model=name, **bare)) for name in names]


def _families(operator: Operator, space: Space) -> list[tuple[str, list[Schedule]]]:
    """Schedules of each kind for an operator on each model, the widest first."""
    models = _on_models(operator.schedule, space)
    found = [[(f"{name}{suffix}", kind) for name, kind in families_of(one, space)] for suffix, one in models]
    return [family for same_kind in zip(*found, strict=True) for family in same_kind]


def families_of(own: Schedule, space: Space) -> list[tuple[str, list[Schedule]]]:
    """Schedules of each kind around a schedule, the widest first; some may be outside of the space."""
    plain = one_pass(own, final="refine", check=None, keep=False, stop_at=None)
    widths = sorted({width for width in space.widths if width > 1}, reverse=True)
    checks = [check for check in space.check if check is not None]
    stops = next((stop for stop in space.stop_at if stop is not None), None)

    def refined(width: int, check: str) -> Schedule:
        k = min(width, own.k)
        return plain.replace(widths=(width, 1), distiller="checked", k=k, check=check, keep=True, stop_at=stops)

    families: list[tuple[str, list[Schedule]]] = [
        ("vote", [plain.replace(widths=(width,), final="vote") for width in widths])
    ]
    families += [
        (f"best by {check}", [plain.replace(widths=(width,), final="best", check=check) for width in widths])
        for check in checks
    ]
    families += [(f"refined by {check}", [refined(width, check) for width in widths]) for check in checks]
    if max(space.rounds) > 1:
        chain = (1,) * min(3, max(space.rounds))
        shape: dict[str, Any] = {"widths": chain, "distiller": "last", "critique": False, "final": "refine"}
        families.append(("SR", [own.replace(**shape, **AT_ONCE)]))
    for name in PRESETS:
        kept = own.model_dump(exclude={"widths", "distiller", "critique", "k", "final"})
        if own.first_wave is not None and own.first_wave >= max(PRESETS[name]["widths"]):
            kept |= AT_ONCE
        families.append((name, [preset(name, **kept)]))
    return families


def proposer_of(problem: Problem, space: AnySpace) -> Proposer:
    """The proposer of a space's candidates, with the sampler of the settings."""
    settings = problem.settings
    return Proposer(space, limits=settings.limits, costs=settings.costs, seed=settings.seed, sampler=settings.sampler)


def propose(
    problem: Problem,
    proposer: Proposer,
    request: Propose,
    profile: Profile,
    order: Order,
    written: Proposals | None = None,
) -> list[Proposed]:
    """New candidates: presets that were not tried, and written instructions on the schedules for which they were
    written; then proposals based on the results so far, then those that cost no tokens.

    Args:
        problem: of the search.
        proposer: of the current space.
        request: the number of candidates, and those already tried.
        profile: the costs of each phase's calls so far.
        order: of the operators' calls so far.
        written: instructions that a model wrote; the proposer's space includes them.
    """
    affordable = _Affordable(problem, profile)
    tried = request.tried[1:] if problem.mixed else request.tried  # a mixed student is not a candidate
    limits = problem.settings.limits
    texts = written_instructions.children(written, request.tried, proposer.space, limits, mixed=problem.mixed)
    few = list(itertools.islice(filter(affordable, texts), request.wanted))
    found = _trials(problem, proposer, request, tried, affordable, few)
    if isinstance(proposer.space, Space) and request.free and order.alone:
        known = {one.candidate.key for one in found}
        free = replays(proposer.space, tried, request.free, lambda one: one.key not in known and affordable(one))
        found += [Proposed("same calls", candidate, free=True) for candidate in free]
    return found


def _trials(
    problem: Problem,
    proposer: Proposer,
    request: Propose,
    tried: Sequence[Tried],
    affordable: Callable[[Candidate], bool],
    texts: Sequence[Candidate] = (),
) -> list[Proposed]:
    """What the prior expects most, presets, texts on their schedules in at most half of the cohort, and proposals of
    the sampler."""
    seen = {known.candidate.key for known in tried}
    named: dict[str, Proposed] = {}
    expected = proposer.expected(problem.settings.prior, request, affordable)
    for one in (*expected, *presets(problem, affordable)):
        named.setdefault(one.candidate.key, one)
    fresh = [one for key, one in named.items() if key not in seen]
    written = list({one.key: Proposed(REFLECTION, one) for one in texts if one.key not in {*seen, *named}}.values())
    written = written[: request.wanted // 2 or (0 if fresh else 1)]
    start = [*fresh[: request.wanted - len(written)], *written]
    left = request.wanted - len(start)
    if not left:
        return start
    waiting = tuple(Tried(one.candidate, math.nan, math.nan, math.nan, 0) for one in start)
    more = proposer.propose(
        (*tried, *waiting), left, cohort=request.cohort, too_expensive=lambda candidate: not affordable(candidate)
    )
    return [*start, *more]


class _Affordable:
    """Whether a candidate may be within the limits, and some question fits the model's context with it."""

    def __init__(self, problem: Problem, profile: Profile) -> None:
        self.problem = problem
        self.profile = profile
        self._known: dict[str, bool] = {}
        self._fits: dict[tuple[Any, ...], bool] = {}

    def __call__(self, candidate: Candidate) -> bool:
        if candidate.key not in self._known:
            self._known[candidate.key] = self._within(candidate) and self._has_room(candidate)
        return self._known[candidate.key]

    def _within(self, candidate: Candidate) -> bool:
        cost, limits = predicted(self.problem, candidate, self.profile), self.problem.settings.limits
        if cost is None:
            return True
        price = predicted_cost(self.problem, candidate, self.profile)
        if price is None:  # unknown
            limits = limits._replace(cost=None)
        if all(over <= SLACK - 1 for over in limits.excess(*cost, price).values()):
            return True
        logger.info("not run: %s would cost B_seq %d, B_total %d", candidate, *cost)
        return False

    def _has_room(self, candidate: Candidate) -> bool:
        """Whether a question fits. Requires counting tokens: done once for each combination of its parameters."""
        if not isinstance(self.problem.student, Operator):
            return True
        schedule = candidate.schedule
        caps = (
            schedule.draft_tokens,
            schedule.refine_cap,
            schedule.distill_cap,
            schedule.thinking_tokens,
            schedule.kappa,
        )
        roles = (schedule.rounds > 1, schedule.distiller, schedule.critique, schedule.check)
        shape = (*roles, caps, repr(candidate.instructions), repr(candidate.demos))
        if shape not in self._fits:
            self._fits[shape] = fits(self.problem, candidate)
        return self._fits[shape]


def predicted(problem: Problem, candidate: Candidate, profile: Profile) -> Nominal | None:
    """The predicted mean cost of a run of the program under a candidate, in tokens, over all its operators; None
    without any data."""
    return predict_all(_schedules(problem, candidate), profile)


def predicted_cost(problem: Problem, candidate: Candidate, profile: Profile) -> float | None:
    """The predicted cost in the unit of the models' prices; None without any data, or if a price is unknown."""
    costs = []
    for place, schedule in _schedules(problem, candidate).items():
        operator, own = problem.operators[place], profile_at(profile, place)
        prices = {role: operator.price_of(schedule.model_of(role)) for role in schedule.roles}
        cost = predict_cost(schedule, own, prices.get)
        if cost is None and own:
            return None
        costs.append(cost or 0.0)
    return sum(costs) if profile else None


def _schedules(problem: Problem, candidate: Candidate) -> dict[str, Schedule]:
    """The schedule of every operator under a candidate."""
    return {
        place: operator.schedule if (own := candidate.at(place)) is None else own.schedule
        for place, operator in problem.operators.items()
    }


def fits(problem: Problem, candidate: Candidate) -> bool:
    """Whether the shortest question fits the model's context under a candidate."""
    if not isinstance(problem.student, Operator):
        return True
    try:
        program = program_with(problem.student, candidate)
        assert isinstance(program, Operator)
        event_loop.run(lambda: program.preflight(problem.shortest))
    except ConfigError as error:
        logger.warning("not run: %s cannot be run: %s", candidate, error)
        return False
    return True
