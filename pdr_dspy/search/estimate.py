"""What a search would still cost: its board is followed as far as it goes, and the rest is bounded."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pdr_dspy import postgres
from pdr_dspy.rollouts import Rollouts
from pdr_dspy.search import writing
from pdr_dspy.search.board import Board, MemoryBoard
from pdr_dspy.search.course import Course
from pdr_dspy.search.objective import SLACK, Profile, predict, read_candidate
from pdr_dspy.search.plan import Measure, Propose, Proposed, Stage
from pdr_dspy.search.space import Candidate
from pdr_dspy.search.terms import Terms
from pdr_dspy.search.worker import Worker

WRITING = 200, 4000
"""Tokens that one call for an instruction costs, at least and at most."""


class Estimate(NamedTuple):
    """What a search would still cost, in tokens."""

    known: bool
    """Whether any call of these programs was measured before; else the upper end is made of caps."""
    done: int
    """Trials whose race is on the board: they cost nothing again."""
    left: int
    """Trials that are still to run."""
    low: int
    """The cheapest schedules, dropped as soon as a race can drop them."""
    high: int
    """The dearer half of the schedules, none of them dropped, no call found in the store; `max_tokens` ends it."""


def estimate(course: Course) -> Estimate:
    """Follow the board as far as it goes, at no cost; bound the rest by what calls cost, or by their caps.

    Raises StoreError when the board holds another search, or cannot be used.
    """
    terms = course.terms
    place = terms.optimizer.storage if terms.optimizer.storage is not None else terms.folder
    nothing = place is None or not (postgres.is_url(place) or Path(place).exists())
    where = None if nothing else terms.board()
    board: Board = where if where is not None else MemoryBoard()
    store = Rollouts() if nothing else terms.optimizer.rollouts()
    with board, store:
        if (text := board.get("config")) is not None:
            terms.check(text, but="models")  # of an embedded model that was not started
        worker = course.make_worker(board, store)
        steps = course.plan.run(course.cohorts.baselines())
        answer: Any = None
        remaining: Measure | None = None
        while remaining is None:
            try:
                request = steps.send(answer)
            except StopIteration:
                return Estimate(True, len(course.plan.arms), 0, 0, 0)
            if isinstance(request, Propose):
                text = board.get(f"propose/{request.cohort:03d}")
                if text is None or (terms.optimizer.prompts and board.get(writing.DOCUMENT) is None):
                    break  # nothing is written for an estimate
                course.cohorts.extend(worker)
                described = json.loads(text)["candidates"]
                answer = [Proposed(one["origin"], read_candidate(one)) for one in described][: request.wanted]
            else:
                found = worker.known(request)
                if found is None:
                    remaining = request
                else:
                    answer = found
        return _bounds(course, worker, remaining)


def _bounds(course: Course, worker: Worker, remaining: Measure | None) -> Estimate:
    """The estimate when `remaining` is the first request that the board does not answer; None for a new cohort."""
    terms, settings, profile = course.terms, course.plan.settings, worker.profile()
    written = (
        0 if course.cohorts.proposals is not None else terms.optimizer.prompts * len(writing.roles_of(terms.space))
    )
    raced = len(course.plan.arms) if remaining is None or remaining.stage is not Stage.RACE else None
    done = raced if raced is not None else min(remaining.arms) if remaining is not None else 0
    left = 0 if remaining is not None and remaining.stage is not Stage.RACE else settings.trials - done
    costs = [_cost(terms, candidate, profile) for candidate in _sampled(course, 200)]
    own = _cost(terms, Candidate(terms.operator.schedule, {}), profile)
    if terms.limits.total is not None:
        costs = [min(cost, max(terms.limits.total * SLACK, own)) for cost in costs]
    costs.sort()
    cheap, dear = costs[0], fmean(costs[len(costs) // 2 :])
    pairs = settings.questions * settings.repeats
    rerun = settings.questions * settings.fresh
    confirm = settings.held_out * settings.confirm
    low = left * min(settings.first, pairs) * cheap + rerun * own + confirm * own
    race = left * pairs * dear
    if settings.max_tokens is not None:  # no cohort begins after that
        still = max(settings.max_tokens - course.plan.paid, 0)
        race = min(race, still + min(settings.cohort, left) * pairs * dear)
    high = race + rerun * (own + settings.finalists * dear) + confirm * (own + dear)
    low, high = low + written * WRITING[0], high + written * WRITING[1]
    if remaining is not None and remaining.stage is Stage.CONFIRM:
        low, high = confirm * own, confirm * (own + dear)
    return Estimate(bool(profile), done, left, round(low), round(high))


def _cost(terms: Terms, candidate: Candidate, profile: Profile) -> float:
    """Tokens of one run: from what calls cost so far, else the prompt of a draft for each call, and every cap."""
    cost = predict(candidate.schedule, profile)
    if cost is not None:
        return cost.total
    schedule = candidate.schedule
    prompt = len(str(terms.shortest())) / 4 + 100
    return schedule.output_bound().total + schedule.calls * prompt + (schedule.calls - 1) * schedule.kappa * 0.5


def _sampled(course: Course, count: int) -> list[Candidate]:
    """Some candidates of the space, drawn by the seed."""
    pool = course.cohorts.proposer.pool
    return random.Random(course.terms.optimizer.seed).sample(pool, min(count, len(pool)))
