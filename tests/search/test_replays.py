"""Candidates that repeat calls of a measured one: its finals and early ends, never a call that it did not make."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.racing.requests import Tried
from pdr_dspy.search.replays import Order, replays
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.space import Space
from pdr_dspy.testing import Completion, scripted_lm

SPACE = Space(
    rounds=(1, 2, 3),
    widths=(1, 2, 4, 8),
    distiller=("summary", "checked", "random_k"),
    check=(None, "even"),
    final=("refine", "vote", "weighted", "best"),
    keep=(False, True),
    stop_at=(None, 1.0),
    first_wave=(None, 2),
)


def tried(schedule: Schedule, score: float = 0.5, pairs: int = 10) -> Tried:
    return Tried(Candidate(schedule, {}), score, 100.0, 200.0, pairs)


def found(*measured: Tried, most: int = 99) -> list[Schedule]:
    return [one.schedule for one in replays(SPACE, measured, most, lambda candidate: True)]


def shape(schedule: Schedule) -> tuple[Any, ...]:
    return schedule.widths, schedule.final, schedule.keep, schedule.stop_at, schedule.first_wave


def test_a_vote_is_free_after_a_refinement() -> None:
    assert [shape(one) for one in found(tried(Schedule(widths=(8, 1))))] == [((8,), "vote", False, None, None)]


def test_with_a_check_all_finals_and_early_ends_are_free() -> None:
    given = found(tried(Schedule(widths=(8, 1), check="even", distiller="checked", k=2)))
    assert {shape(one) for one in given} == {
        ((8, 1), "refine", True, None, None),
        ((8, 1), "refine", False, 1.0, 2),
        ((8,), "vote", False, None, None),
        ((8,), "vote", False, 1.0, 2),
        ((8,), "weighted", False, None, None),
        ((8,), "weighted", False, 1.0, 2),
        ((8,), "best", False, None, None),
        ((8,), "best", False, 1.0, 2),
    }


def test_a_shorter_chain_is_free() -> None:
    given = found(tried(Schedule(widths=(1, 1, 1), distiller="last", critique=False)))
    assert [one.widths for one in given] == [(1, 1), (1,)]


def test_nothing_is_free_after_cancelled_drafts_or_a_part_of_the_questions() -> None:
    early = Schedule(widths=(8,), final="best", check="even", stop_at=1.0)
    assert found(tried(early)) == []
    assert found(tried(Schedule(widths=(1,)), pairs=10), tried(Schedule(widths=(8, 1)), pairs=6)) == []


def test_the_best_come_first_and_none_twice() -> None:
    low, high = tried(Schedule(widths=(4, 1)), 0.4), tried(Schedule(widths=(8, 1)), 0.6)
    assert [one.widths for one in found(low, high)] == [(8,), (4,)]
    assert [one.widths for one in found(low, high, most=1)] == [(8,)]
    assert [one.widths for one in found(low, high, tried(Schedule(widths=(8,), final="vote")))] == [(4,)]


# --- programs in which other calls follow ---


def run_of(*operators: str, error: str | None = None, phases: dict[int, Phase] | None = None, rounds: int = 1) -> Row:
    made = tuple(
        Call(phase=(phases or {}).get(place, Phase.DRAFT), operator=name, round=rounds)
        for place, name in enumerate(operators)
    )
    return Row(id="q", repeat=0, seed=0, score=0.0, calls=made, error=error)


@pytest.mark.parametrize(
    ("rows", "alone"),
    [
        ([], False),
        ([run_of("", "", "")], True),  # the program is an operator
        ([run_of("a", "a")], True),
        ([run_of("a", "a", "c", "c")], False),
        ([run_of("a", "a:2")], False),  # its second run may read the answer of the first
        ([run_of("a"), run_of("a", "a:2")], False),  # on some questions only
        ([run_of("a", "c", "a")], False),  # at the same time
        ([run_of("a"), run_of("c")], True),  # branches
        ([run_of("a", error="no answer")], False),  # who knows what would have followed
        ([run_of("a"), run_of("a", error="no answer")], True),
        ([run_of("a", "", phases={1: Phase.JUDGE})], False),  # a judge reads the answer
        ([run_of("", "", phases={1: Phase.JUDGE})], False),
        ([run_of("a", "", phases={1: Phase.CHECK})], False),  # an operator without a path
        ([run_of("", "", phases={1: Phase.CHECK})], True),
    ],
)
def test_nothing_is_free_where_another_call_may_read_the_answer(rows: list[Row], alone: bool) -> None:
    order = Order()
    for row in rows:
        order.add(row)
    assert order.alone is alone


def test_the_usage_of_other_predictors_follows_every_operator() -> None:
    order = Order()
    calls = (Call(phase=Phase.DRAFT), Call(phase=Phase.DRAFT, round=0))
    order.add(Row(id="q", repeat=0, seed=0, score=0.0, calls=calls))
    assert not order.alone


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(8, 1), (4, 2, 1), (8, 4, 1)], ids=str)
@pytest.mark.parametrize("distiller", ["summary", "checked", "random_k"])
def test_no_replay_makes_a_new_call(widths: tuple[int, ...], distiller: str) -> None:
    """Run a candidate, then everything that is said to repeat it: the model is asked nothing more."""

    def even(inputs: Any, prediction: Any) -> float:
        return float(prediction.answer % 2 == 0)

    def reasoner(request: Any) -> Completion:
        return Completion(f"Answer: {request.seed % 7}")

    lm = scripted_lm(reasoner)
    given = Schedule(widths=widths, distiller=distiller, check="even", k=2)

    async def run(schedule: Schedule) -> None:
        operator = Operator("question -> answer: int", schedule, {"even": even})
        for question in ("one", "two", "three"):
            await operator.acall(question=question)

    with dspy.context(lm=lm), calls.session(store=calls.Rollouts()):
        asyncio.run(run(given))
        asked = lm.served.calls
        others = found(tried(given))
        for schedule in others:
            asyncio.run(run(schedule))
        assert len(others) >= 8
        assert lm.served.calls == asked
