"""The simulated chain of two reasoners is what its truth says, and its searches move one operator at a time."""

from __future__ import annotations

import itertools
import math
from statistics import fmean, stdev
from typing import Any
from unittest import mock

import pytest

from benchmarks import operators, racing
from benchmarks.chain import FIRST, LAST, Chain, best_of
from benchmarks.operators import LIMITS, METHODS, SPACE, world_runs
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.plan import Plan
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.search.space.spaces import Spaces

pytestmark = pytest.mark.slow

ONE = Candidate(Schedule(widths=(1,), draft_tokens=512), {})
WIDE = Candidate(Schedule(widths=(4, 1), distiller="topk", k=2, draft_tokens=512), {})
VOTE = Candidate(Schedule(widths=(4,), final="vote", draft_tokens=512), {})
SMALL = SPACE.narrow(widths=(1, 4), kappa=(512,), draft_tokens=(256, 512), k=(1,), critique=(False,))


def of(first: Candidate, last: Candidate) -> Candidate:
    return joint({FIRST: first, LAST: last})


@pytest.mark.parametrize(("first", "last"), [(ONE, ONE), (WIDE, VOTE), (VOTE, WIDE)])
def test_the_truth_of_a_chain_is_the_mean_of_its_runs(first: Candidate, last: Candidate) -> None:
    chain = Chain(3, 700)
    cells = [chain.cell(of(first, last), question, run) for question in range(700) for run in range(2)]
    truth = chain.truth(of(first, last), 8)
    for name in ("score", "sequential", "total"):
        values = [float(getattr(cell, name)) for cell in cells]
        assert fmean(values) == pytest.approx(getattr(truth, name), abs=4 * stdev(values) / 700**0.5), name


def test_the_second_operator_repeats_its_calls_where_the_first_gives_the_same_answer() -> None:
    chain = Chain(3, 40)

    def calls(candidate: Candidate, place: str, question: int) -> list[tuple[str, int]]:
        return [call for call in chain.cell(candidate, question, 0).calls if call[0].startswith(place)]

    same = other = 0
    for question in range(40):
        answers = {chain.worlds[FIRST].cell(part, question, 0).answer for part in (ONE, VOTE)}
        first, second = (calls(of(part, WIDE), LAST, question) for part in (ONE, VOTE))
        assert (first == second) == (len(answers) == 1)
        assert bool({key for key, _ in first} & {key for key, _ in second}) == (len(answers) == 1)
        assert calls(of(ONE, WIDE), FIRST, question) == calls(of(ONE, VOTE), FIRST, question)
        same, other = same + (len(answers) == 1), other + (len(answers) > 1)
        if chain.worlds[FIRST].cell(ONE, question, 0).score == 0:
            assert chain.cell(of(ONE, WIDE), question, 0).score == 0
    assert same > 5
    assert other > 2


def test_the_best_is_within_the_limits_and_no_other_is_better() -> None:
    chain, space = Chain(5, 10), Spaces(operators={FIRST: SMALL, LAST: SMALL})
    limits = Limits(sequential=3000, total=4000)
    best = best_of(chain, space, limits)
    assert limits.allow(best.truth)
    assert 0 < best.within < space.size
    truths = [chain.truth(candidate) for candidate in itertools.islice(space.candidates(), 0, None, 7)]
    assert max(truth.score for truth in truths if limits.allow(truth)) <= best.truth.score + 0.01


def test_half_of_each_later_cohort_changes_one_operator_of_a_program_before() -> None:
    plans: list[Plan] = []

    def kept(*given: Any, **settings: Any) -> Plan:
        plans.append(Plan(*given, **settings))
        return plans[-1]

    space = Spaces(operators={FIRST: SMALL, LAST: SMALL})
    with mock.patch.object(racing, "Plan", kept):
        steps = list(METHODS["moves"](Chain(1, 12), space, LIMITS, range(12), 25, 1))
    assert steps
    arms = plans[0].arms
    origins = [[arm.origin for arm in arms if arm.cohort == cohort] for cohort in range(4)]
    assert origins == [["student"], ["search"] * 8, ["move"] * 4 + ["search"] * 4, ["move"] * 4 + ["search"] * 4]
    for arm in arms:
        before = [other.candidate.parts for other in arms if other.cohort < arm.cohort]
        if arm.origin == "move":
            assert any(sum(arm.candidate.parts[p].key != parts[p].key for p in parts) == 1 for parts in before)


def test_runs_of_a_world_are_made_once_and_have_their_regret() -> None:
    found = dict(world_runs(0, 10, ["as it is", "TPE, all questions"], {}, quick=True))
    assert list(found) == ["as it is", "TPE, all questions"]
    assert all(math.isfinite(run["regret"]) and run["paid"] > 0 for run in found.values())
    known = {(name, 0): run for name, run in found.items()}
    assert list(world_runs(0, 10, list(found), known, quick=True)) == []
    operators.show(known, list(found))
