"""The candidates of each cohort: baselines first, then presets, then what a sampler proposes from the space."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from typing import Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import PRESETS, Schedule, preset
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.problem import Problem
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.cost_model import SLACK, Profile, predict
from pdr_dspy.search.racing.plan import Propose, Proposed, Tried
from pdr_dspy.search.space.candidate import Candidate, program_with
from pdr_dspy.search.space.space import Space

logger = logging.getLogger("pdr_dspy.search")


def baselines(problem: Problem) -> list[Proposed]:
    """What runs first: the untouched student, and one pass, whose costs tell what others will cost."""
    own = problem.operator.schedule
    named = [Proposed("student", Candidate(own, {}))]
    single = Candidate(own.replace(widths=(1,), critique=False), {})
    if single in problem.space and (single.key != named[0].candidate.key or problem.mixed):
        named.append(Proposed("LongCoT", single))
    return named


def presets(problem: Problem, affordable: Callable[[Candidate], bool]) -> list[Proposed]:
    """What is tried before a sampler proposes, as far as it is in the space and affordable.

    A vote and the best by each check go first, as wide as may be: a search that has not measured them could return what
    they beat. Then the same drafts with one refinement by the check, Sequential Refinement, and the presets.
    """
    own, space = problem.operator.schedule, problem.space
    plain = own.replace(widths=(1,), critique=False, final="refine", check=None, keep=False, stop_at=None)
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
        families.append(("SR", [own.replace(widths=chain, distiller="last", critique=False, final="refine")]))
    for name in PRESETS:
        kept = own.model_dump(exclude={"widths", "distiller", "critique", "k", "final"})
        families.append((name, [preset(name, **kept)]))
    found: list[Proposed] = []
    for name, family in families:
        there = (candidate for schedule in family if (candidate := Candidate(schedule, {})) in space)
        found += [Proposed(name, candidate) for candidate in itertools.islice(filter(affordable, there), 1)]
    return found


def proposer_of(problem: Problem, space: Space) -> Proposer:
    """Proposes candidates of a space by the sampler of the settings."""
    settings = problem.settings
    return Proposer(space, limits=settings.limits, costs=settings.costs, seed=settings.seed, sampler=settings.sampler)


def propose(problem: Problem, proposer: Proposer, request: Propose, profile: Profile) -> list[Proposed]:
    """New candidates: presets that were not tried, then what the proposer makes of what is known.

    Args:
        problem: the search's.
        proposer: of the space as it is now.
        request: how many are wanted, and what was tried.
        profile: what calls of each phase cost so far.
    """
    affordable = _Affordable(problem, profile)
    tried = request.tried[1:] if problem.mixed else request.tried  # a mixed student is no candidate
    seen = {known.candidate.key for known in tried}
    named: dict[str, Proposed] = {}
    for one in presets(problem, affordable):
        named.setdefault(one.candidate.key, one)
    start = [one for key, one in named.items() if key not in seen][: request.wanted]
    left = request.wanted - len(start)
    if not left:
        return start
    waiting = tuple(Tried(one.candidate, math.nan, math.nan, math.nan, 0) for one in start)
    more = proposer.propose(
        (*tried, *waiting), left, cohort=request.cohort, too_expensive=lambda candidate: not affordable(candidate)
    )
    return [*start, *more]


class _Affordable:
    """Whether a candidate may be within the limits, and whether some question fits the model's context with it."""

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
        cost = predict(candidate.schedule, self.profile)
        if cost is None or all(over <= SLACK - 1 for over in self.problem.settings.limits.excess(*cost).values()):
            return True
        logger.info("not run: %s would cost B_seq %d, B_total %d", candidate, *cost)
        return False

    def _has_room(self, candidate: Candidate) -> bool:
        """To know it tokens have to be counted: that is done once for each combination of what it depends on."""
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
