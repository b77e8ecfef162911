"""What a search would still cost: its board is followed as far as it goes, and the rest is bounded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import StoreError
from pdr_dspy.operators.nested import operators_in
from pdr_dspy.runtime import postgres
from pdr_dspy.search.controller import Course
from pdr_dspy.search.problem import Terms
from pdr_dspy.search.proposing import shared_instructions
from pdr_dspy.search.racing.cost_model import SLACK, predict
from pdr_dspy.search.racing.plan import Arm, Measure, Propose, Proposed, Stage
from pdr_dspy.search.space.candidate import read_candidate
from pdr_dspy.search.space.space import Candidate
from pdr_dspy.search.workers.coordination import Board, MemoryBoard
from pdr_dspy.search.workers.folder import JOURNAL
from pdr_dspy.search.workers.worker import Worker

WRITING = 200, 4000
"""Tokens that one call for an instruction costs, at least and at most."""


class Estimate(NamedTuple):
    """What a search would still cost, in tokens."""

    known: bool
    """Whether any call of these programs was measured before; else the lower end has one call of the bare question for
    a run, and the upper every call at its cap."""
    done: int
    """Trials whose race is on the board: they cost nothing again."""
    left: int
    """Trials that are still to run, as far as the space has candidates."""
    low: int
    """As if each new trial made one call of its own on each pair of the first look and were dropped then, and as if the
    finalists found all their calls but the student's in the store. New trials count nothing under limits and under
    `time_limit`, which may keep them out."""
    high: int
    """As if new trials cost what the dearer half of the schedules does, none were dropped, and no call were found in
    the store; `max_tokens` ends it."""


def estimate(course: Course) -> Estimate:
    """Follow the board as far as it goes, at no cost; bound the rest by what calls cost, or by their caps.

    Raises StoreError when the board holds another search, or cannot be used.
    """
    terms = course.terms
    with _board(terms) as board, _store(terms) as store:
        if (text := board.get("config")) is not None:
            terms.check(text, but="models")  # of an embedded model that was not started
        worker = course.make_worker(board, store)
        steps = course.plan.run(course.cohorts.baselines())
        answer: Any = None
        while True:
            try:
                request = steps.send(answer)
            except StopIteration:
                return Estimate(True, len(course.plan.arms), 0, 0, 0)
            if isinstance(request, Propose):
                text = board.get(f"propose/{request.cohort:03d}")
                if terms.optimizer.prompts and board.get(shared_instructions.DOCUMENT) is None:
                    return _bounds(course, worker, None)  # nothing is written for an estimate
                course.cohorts.extend(worker)
                if text is None and _new(course):
                    return _bounds(course, worker, None)
                described = [] if text is None else json.loads(text)["candidates"]
                answer = [Proposed(one["origin"], read_candidate(one)) for one in described][: request.wanted]
            else:
                answer = worker.known(request)
                if answer is None:
                    return _bounds(course, worker, request)


def _board(terms: Terms) -> Board:
    """The board of a search; an empty one where there is none yet, since to open it would be to make it."""
    storage, folder = terms.optimizer.storage, terms.folder
    if storage is None and folder is None:
        return MemoryBoard()
    if storage is not None and "://" in str(storage):
        return terms.board()
    place = Path(storage) if storage is not None else Path(str(folder)) / "board"
    unusable = place.is_file() or place.parent.is_file()
    return terms.board() if unusable or (place / JOURNAL).exists() else MemoryBoard()


def _store(terms: Terms) -> Rollouts:
    """The calls of a search; an empty store where there is none yet."""
    place = terms.optimizer.storage if terms.optimizer.storage is not None else terms.folder
    there = place is not None and (postgres.is_url(place) or (Path(place) / "rollouts").exists())
    return terms.optimizer.rollouts() if there else Rollouts()


def _bounds(course: Course, worker: Worker, request: Measure | None) -> Estimate:
    """The estimate when `request` is the first that the board does not answer; None for a new cohort."""
    terms, plan, settings, prices = course.terms, course.plan, course.plan.settings, _Prices(course, worker)
    stage = Stage.RACE if request is None else request.stage
    asked = [] if request is None else [plan.arms[number] for number in request.arms]
    missing = 0 if request is None else len(worker.missing(request))
    block = 0 if request is None else len(request.pairs)
    new = _new(course) if stage is Stage.RACE else 0
    low, high = 0.0, 0.0
    if stage is Stage.RACE:
        begun = plan.order.index(request.pairs[0]) if request is not None else 0
        left = missing + len(plan.order) - begun - block  # of the cohort that is under way
        low += missing * max((prices.least(arm) for arm in asked), default=0.0)  # the others may share its calls
        high += left * sum(prices.most(arm) for arm in asked)
        fresh_low, fresh_high = _new_trials(course, prices, new)
        low, high = low + fresh_low, high + fresh_high
    student = plan.arms[0]
    if stage is not Stage.CONFIRM:
        runs = settings.questions * settings.fresh
        low += (runs - _named(worker.board, f"{Stage.FINAL}/")) * prices.least(student)
        if request is not None and stage is Stage.FINAL:
            later = settings.questions * (settings.fresh - 1 - request.cohort)
            high += (missing + later) * sum(prices.most(arm) for arm in asked)
        else:
            rerun = prices.dearest(settings.finalists, new)
            high += runs * (prices.most(student) + sum(rerun))
    runs = settings.held_out * settings.confirm
    low += (runs - _named(worker.board, f"{terms.confirmed_in}-")) * prices.least(student)
    if request is not None and stage is Stage.CONFIRM:
        high += missing * sum(prices.most(arm) for arm in asked)
    else:
        high += runs * (prices.most(student) + sum(prices.dearest(1, new)))
    low = max(low - _unused(course, worker), 0.0)
    if course.cohorts.proposals is None and stage is Stage.RACE:
        calls = terms.optimizer.prompts * len(shared_instructions.roles_of(terms.space))
        low, high = low + calls * WRITING[0], high + calls * WRITING[1]
    racing = len(asked) if stage is Stage.RACE else 0
    return Estimate(bool(prices.profile), len(plan.arms) - racing, racing + new, round(low), round(max(low, high)))


def _new(course: Course) -> int:
    """Trials that no cohort has yet: as many as are wanted, or as the space has."""
    left = max(course.plan.settings.trials - len(course.plan.arms), 0)
    if course.terms.optimizer.prompts and course.cohorts.proposals is None:
        return left  # the space is going to be larger
    first = 1 if course.terms.mixed else 0
    untried = course.cohorts.proposer.untried(arm.candidate.key for arm in course.plan.arms[first:])
    return left if untried is None else min(left, untried)


def _new_trials(course: Course, prices: _Prices, count: int) -> tuple[float, float]:
    """Tokens of the race of so many new trials, at least and at most."""
    terms, settings = course.terms, course.plan.settings
    pairs = len(course.plan.order)
    low, high = count * min(settings.first, pairs) * prices.call, count * pairs * prices.dear
    if settings.max_tokens is not None:  # no cohort begins after that
        still = max(settings.max_tokens - course.plan.paid, 0)
        low, high = min(low, still), min(high, still + min(settings.cohort, count) * pairs * prices.dear)
    if terms.optimizer.time_limit is not None or any(limit is not None for limit in terms.limits):
        low = 0.0
    return low, high


class _Prices:
    """Tokens of one run of a program, by what is known."""

    def __init__(self, course: Course, worker: Worker) -> None:
        self.course = course
        self.worker = worker
        self.profile = worker.profile()
        self.operators = len(operators_in(course.terms.student))
        self.question = len(str(course.terms.shortest())) / 4
        own = course.terms.operator.schedule
        candidates = course.cohorts.proposer.some(200)
        costs = sorted(self.predicted(candidate) for candidate in candidates)
        limit = course.terms.limits.total
        if limit is not None:
            most = max(limit * SLACK, self.predicted(Candidate(own, {})))
            costs = [min(cost, most) for cost in costs]
        self.dear = fmean(costs[len(costs) // 2 :])
        """Of the dearer half of the schedules."""
        shortest = min(one.schedule.draft_tokens for one in candidates)
        single = predict(own.replace(widths=(1,), critique=False, draft_tokens=shortest), self.profile)
        self.call = self.question if single is None else single.total / SLACK
        """Of a single call, at least."""

    def predicted(self, candidate: Candidate) -> float:
        """At most: from what calls cost so far, else the prompt of a draft for each call, and every cap."""
        cost, schedule = predict(candidate.schedule, self.profile), candidate.schedule
        if cost is not None:
            return cost.total * SLACK * self.operators
        prompts = schedule.calls * (self.question + 100) + (schedule.calls - 1) * schedule.kappa * 0.5
        return (schedule.output_bound().total + prompts) * self.operators

    def measured(self, arm: Arm) -> float | None:
        """The mean of its runs; None before the first."""
        rows = [row.total for stage in Stage for row in self.worker.of(stage, arm.number)]
        return fmean(rows) if rows else None

    def least(self, arm: Arm) -> float:
        """A program costs on other questions and seeds about what it did: at least so much."""
        mean = self.measured(arm)
        return self.call if mean is None else mean / SLACK

    def most(self, arm: Arm) -> float:
        """And at most so much."""
        mean = self.measured(arm)
        return self.predicted(arm.candidate) if mean is None else mean * SLACK

    def dearest(self, count: int, new: int) -> Sequence[float]:
        """So many programs beside the student: those that were tried, and `new` that will be."""
        costs = [self.most(arm) for arm in self.course.plan.arms[1:]] + [self.dear] * new
        return sorted(costs, reverse=True)[:count]


def _named(board: Board, prefix: str) -> int:
    """How many pairs the student has on the board, in a stage that runs it beside whichever others."""
    return len({name.rsplit("/", 1)[-1] for name in board.read(prefix)})


def _unused(course: Course, worker: Worker) -> int:
    """Tokens of calls that are in the store and in no row on the board: of runs that were cut off."""
    used = set(course.plan.seen)
    for stage in Stage:
        for name, text in worker.board.read(f"{stage}/").items():
            try:
                used |= {call.get("key", "") for row in json.loads(text)["rows"].values() for call in row["calls"]}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise StoreError(f"the board's document {name!r} is not of this search ({error})") from error
    return sum(one.usage.tokens or 0 for one in worker.store if one.key not in used)
