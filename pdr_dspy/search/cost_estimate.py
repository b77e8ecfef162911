"""The remaining cost of a search: its plan is followed as far as the journal goes, and the rest is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.runtime import postgres
from pdr_dspy.search.candidates import baselines, one_pass, predicted, proposer_of
from pdr_dspy.search.driver import identity
from pdr_dspy.search.driver.controller import cohort_in, drive, instructions_in, measurements_of, plan_of
from pdr_dspy.search.driver.journal import Journal, read_journal
from pdr_dspy.search.driver.measurements import Measurements
from pdr_dspy.search.problem import Problem
from pdr_dspy.search.proposing import written_instructions
from pdr_dspy.search.proposing.instructions import Proposals
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.arms import Arm
from pdr_dspy.search.racing.cost_model import SLACK, Profile, predict, profile_at
from pdr_dspy.search.racing.plan import Plan
from pdr_dspy.search.racing.requests import Measure, Propose, Request, Stage, Write
from pdr_dspy.search.settings import RunOptions
from pdr_dspy.search.space.candidate import Candidate

WRITING = 200, 6000
"""Minimum and maximum tokens of one call for an instruction."""


class Estimate(NamedTuple):
    """The remaining cost of a search, in tokens."""

    known: bool
    """Whether any call of these programs was measured before; otherwise the lower bound assumes one call of the bare
    question per run, and the upper bound every call at its cap."""
    done: int
    """Trials whose race is in the journal: they cost nothing more."""
    left: int
    """Trials that are still to run, as far as the space has candidates."""
    low: int
    """The cost if each new trial made one call of its own on each pair before the first test and were dropped there,
    and the finalists found all their calls except the student's in the store. New trials count 0 under limits and under
    `time_limit`, which may exclude them."""
    high: int
    """The cost if new trials cost as much as the more expensive half of the schedules, none were dropped, and no call
    were found in the store; at most `max_tokens`."""


class Span(NamedTuple):
    """Minimum and maximum tokens."""

    low: float
    high: float


def estimate(problem: Problem, options: RunOptions) -> Estimate:
    """Follow the plan as far as the journal has answers, at no cost; bound the rest by measured costs, or by caps.

    Raises StoreError if the run folder holds another search, or cannot be read.
    """
    journal = None if options.run_dir is None else read_journal(options.run_dir)
    if journal is None:
        journal = Journal(problem.description)
    else:
        identity.check(journal.description, problem, options.where, but=("lm",))  # an embedded model was not started
    with _store(options) as store:
        follower = _Follower(problem, options, journal, store)
        try:
            drive(follower.plan.run(baselines(problem)), follower.answer)
        except _Unanswered as reached:
            return follower.bounds(reached.request)
        return Estimate(True, follower.plan.trials_begun, 0, 0, 0)


def _store(options: RunOptions) -> Rollouts:
    """The calls of a search; an empty store if there is none yet, since opening it would create it."""
    place = options.rollouts
    there = place is not None and (
        postgres.is_url(place) or Path(place).exists() or Path(place).parent.is_file()  # which is refused
    )
    return Rollouts(place) if there else Rollouts()


class _Unanswered(Exception):
    """The journal has no answer to a request."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request


class _Follower:
    """Answers a plan from the journal alone."""

    def __init__(self, problem: Problem, options: RunOptions, journal: Journal, store: Rollouts) -> None:
        self.problem = problem
        self.options = options
        self.journal = journal
        self.store = store
        self.plan: Plan = plan_of(problem, options)
        self.measurements: Measurements = measurements_of(problem, options, journal, store)
        self.proposer: Proposer = proposer_of(problem, problem.space)
        self.rounds: dict[int, Proposals] = {}
        """The instructions in the journal, by round, once the plan has requested them."""

    def answer(self, request: Request) -> Any:
        """The journal's answer. Raises _Unanswered if it has none."""
        answer: Any
        if isinstance(request, Write):
            answer = self._written(request.round)
        elif isinstance(request, Propose):
            answer = cohort_in(self.journal, request, self.options)
            if answer is None and not self._new_trials():
                answer = []
        else:
            answer = self.measurements.known(request)
        if answer is None:
            raise _Unanswered(request)
        return answer

    def _written(self, round: int) -> tuple[tuple[str, int], ...] | None:
        found = instructions_in(self.journal, self.options, round)
        if found is None:
            return None
        self.rounds[round] = found
        self.proposer = proposer_of(self.problem, written_instructions.extended(self.proposer.space, found))
        return written_instructions.cost(found, round)

    def _unwritten(self) -> Span:
        """The cost of the rounds of writing that are still to come: at least of the next one, at most of all."""
        settings, roles = self.problem.settings.instructions, written_instructions.roles_of(self.problem.space)
        left = self.plan.trials - self.plan.trials_begun  # no cohort, no writing
        rounds = min(settings.rounds - len(self.rounds), left)
        if not settings.count or rounds < 1:
            return Span(0.0, 0.0)
        own = {role for operator in self.problem.operators.values() for role in operator.schedule.roles}
        sure = roles if settings.rounds - len(self.rounds) == 1 else [role for role in roles if role in own]
        return Span(settings.count * len(sure) * WRITING[0], rounds * settings.count * len(roles) * WRITING[1])

    def _new_trials(self) -> int:
        """The number of trials that are in no cohort yet: as many as requested, at most as many as the space has."""
        left = max(self.plan.trials - self.plan.trials_begun, 0)
        first = 1 if self.problem.mixed else 0
        untried = self.proposer.untried(arm.candidate.key for arm in self.plan.arms[first:])
        return left if untried is None else min(left, untried)

    def bounds(self, request: Request) -> Estimate:
        """The estimate if `request` is the first one that the journal does not answer."""
        racing = not isinstance(request, Measure) or request.stage is Stage.RACE
        writing = self._unwritten() if racing else Span(0.0, 0.0)
        new = self._new_trials() if racing else 0
        if writing.high:  # instructions that are not written yet will enlarge the space
            new = max(self.plan.trials - self.plan.trials_begun, 0)
        prices = Prices.of(self.problem, self.measurements, self.proposer)
        left = _Left(self.problem, self.options, self.plan, self.measurements, prices, request, new)
        parts = [left.cohort(), left.new_trials(), left.finals(), left.confirmation()]
        low, high = (sum(ends) for ends in zip(*parts, strict=True))
        low = max(low - self._unused(), 0.0)
        low, high = low + writing.low, high + writing.high
        running = sum(not arm.free for arm in left.asked) if racing else 0
        done = self.plan.trials_begun - running
        return Estimate(bool(prices.profile), done, running + new, round(low), round(max(low, high)))

    def _unused(self) -> int:
        """Tokens of calls that are in the store but in no row of the journal: those of interrupted runs."""
        used = self.plan.seen | self.measurements.call_keys()
        return sum(one.usage.tokens or 0 for one in self.store if one.key not in used)


@dataclass(frozen=True)
class Prices:
    """Tokens of one run of a program, as far as they are known."""

    problem: Problem
    measurements: Measurements
    profile: Profile
    question: float
    """Tokens of the shortest question, approximately."""
    call: float
    """Minimum tokens of a single call."""
    expensive: float
    """Tokens of a run of the more expensive half of the schedules."""

    @classmethod
    def of(cls, problem: Problem, measurements: Measurements, proposer: Proposer) -> Prices:
        """The known costs of a search."""
        bare = cls(
            problem,
            measurements,
            measurements.profile(),
            question=len(str(problem.shortest)) / 4,
            call=0.0,
            expensive=0.0,
        )
        some = proposer.some(200)
        costs = sorted(bare.predicted(candidate) for candidate in some)
        limit = problem.settings.limits.total
        if limit is not None:
            most = max(limit * SLACK, bare.predicted(problem.own))
            costs = [min(cost, most) for cost in costs]
        shortest = min(part.schedule.draft_tokens for one in some for part in one.by_operator.values())
        place, operator = next(iter(problem.operators.items()))
        alone = predict(one_pass(operator.schedule, draft_tokens=shortest), profile_at(bare.profile, place))
        return cls(
            problem,
            measurements,
            bare.profile,
            bare.question,
            call=bare.question if alone is None else alone.total / SLACK,
            expensive=fmean(costs[len(costs) // 2 :]),
        )

    def predicted(self, candidate: Candidate) -> float:
        """An upper bound: from measured costs, otherwise the prompt of a draft for each call, and every cap."""
        cost = predicted(self.problem, candidate, self.profile)
        return self._bound(candidate) if cost is None else cost.total * SLACK

    def _bound(self, candidate: Candidate) -> float:
        bound = 0.0
        for place, operator in self.problem.operators.items():
            own = candidate.at(place)
            schedule = operator.schedule if own is None else own.schedule
            prompts = schedule.calls * (self.question + 100) + (schedule.calls - 1) * schedule.kappa * 0.5
            bound += schedule.output_bound().total + prompts
        return bound

    def least(self, arm: Arm) -> float:
        """The minimum tokens of a program's run on other questions and seeds: about as many as its previous runs."""
        mean = self._measured(arm)
        return self.call if mean is None else mean / SLACK

    def most(self, arm: Arm) -> float:
        """The maximum tokens of such a run."""
        mean = self._measured(arm)
        return self.predicted(arm.candidate) if mean is None else mean * SLACK

    def most_expensive(self, count: int, arms: Sequence[Arm], new: int) -> float:
        """The most expensive `count` programs out of some arms and `new` future trials: one run of each."""
        costs = [self.most(arm) for arm in arms] + [self.expensive] * new
        return sum(sorted(costs, reverse=True)[:count])

    def _measured(self, arm: Arm) -> float | None:
        """The mean of its runs; None before the first."""
        rows = [row.total for stage in Stage for row in self.measurements.rows_of(stage, arm.number)]
        return fmean(rows) if rows else None


class _Left:
    """The remaining cost of each stage of a search, at a request that the journal does not answer."""

    def __init__(
        self,
        problem: Problem,
        options: RunOptions,
        plan: Plan,
        measurements: Measurements,
        prices: Prices,
        request: Request,
        new: int,
    ) -> None:
        self.problem = problem
        self.options = options
        self.plan = plan
        self.measurements = measurements
        self.prices = prices
        self.new = new
        self.request = request if isinstance(request, Measure) else None
        """None if a new cohort is next."""
        self.stage = Stage.RACE if self.request is None else self.request.stage
        self.asked = [] if self.request is None else [plan.arms[number] for number in self.request.arms]
        self.missing = 0 if self.request is None else len(measurements.missing(self.request))
        """Pairs of the request that are not in the journal."""

    def cohort(self) -> Span:
        """The race of the current cohort."""
        if self.request is None or self.stage is not Stage.RACE:
            return Span(0.0, 0.0)
        order, prices = self.plan.order, self.prices
        left = self.missing + len(order) - order.index(self.request.pairs[0]) - len(self.request.pairs)
        low = self.missing * max(prices.least(arm) for arm in self.asked)  # the others may share its calls
        return Span(low, left * sum(prices.most(arm) for arm in self.asked))

    def new_trials(self) -> Span:
        """The races of the trials that are in no cohort yet."""
        race, pairs, prices = self.plan.settings.race, len(self.plan.order), self.prices
        low, high = self.new * min(race.first, pairs) * prices.call, self.new * pairs * prices.expensive
        if self.options.max_tokens is not None:  # no cohort begins beyond it
            still = max(self.options.max_tokens - self.plan.paid, 0)
            low = min(low, still)
            high = min(high, still + min(race.cohort, self.new) * pairs * prices.expensive)
        ends_early = self.options.time_limit is not None or self.options.stop == "worth"
        if ends_early or any(limit is not None for limit in self.problem.settings.limits):
            low = 0.0
        return Span(low, high)

    def finals(self) -> Span:
        """The finalists on fresh seeds."""
        if self.stage is Stage.CONFIRM:
            return Span(0.0, 0.0)
        final, prices, student = self.plan.settings.final, self.prices, self.plan.arms[0]
        runs = self.plan.questions * final.repeats
        least = min(runs, self.plan.questions) if self.options.stop == "worth" else runs
        low = max(least - self._done(f"{Stage.FINAL}/"), 0) * prices.least(student)
        if self.request is not None and self.stage is Stage.FINAL:
            later = self.plan.questions * (final.repeats - 1 - self.request.cohort)
            return Span(low, (self.missing + later) * sum(prices.most(arm) for arm in self.asked))
        others = prices.most_expensive(final.programs, self.plan.arms[1:], self.new)
        return Span(low, runs * (prices.most(student) + others))

    def confirmation(self) -> Span:
        """The winner and the student on the confirmation's questions."""
        prices, student = self.prices, self.plan.arms[0]
        runs = self.plan.held_out * self.plan.settings.confirm.repeats
        low = (runs - self._done(f"{self.problem.confirmed_in}-")) * prices.least(student)
        if self.stage is Stage.CONFIRM:
            return Span(low, self.missing * sum(prices.most(arm) for arm in self.asked))
        winner = prices.most_expensive(1, self.plan.arms[1:], self.new)
        return Span(low, runs * (prices.most(student) + winner))

    def _done(self, prefix: str) -> int:
        """How many pairs of the student are in the journal, in a stage that runs it beside any other programs."""
        return len({name.rsplit("/", 1)[-1] for name in self.measurements.journal.names(prefix)})
