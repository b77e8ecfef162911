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
from pdr_dspy.search.racing.plan import Tried
from pdr_dspy.search.replays import Order, replays
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.search.space.spaces import Space, Spaces
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


# --- several operators ---


def test_the_part_of_a_last_operator_has_replays_and_the_others_stay() -> None:
    space = Spaces(operators={"a": SPACE, "b": None, "c": SPACE})
    wide = Candidate(Schedule(widths=(8, 1)), {})
    measured = [Tried(joint({"a": wide, "c": wide}), 0.5, 100.0, 200.0, 10)]
    found = replays(space, measured, 99, lambda _: True, {"c"})
    assert [(one.parts["a"], shape(one.parts["c"].schedule)) for one in found] == [
        (wide, ((8,), "vote", False, None, None))
    ]
    both = replays(space, measured, 99, lambda _: True, {"a", "c"})
    assert [[place for place in one.parts if one.parts[place] != wide] for one in both] == [["a"], ["c"]]
    assert replays(space, measured, 99, lambda _: True, ()) == []


def run_of(*operators: str, error: str | None = None, phases: dict[int, Phase] | None = None, rounds: int = 1) -> Row:
    made = tuple(
        Call(phase=(phases or {}).get(place, Phase.DRAFT), operator=name, round=rounds)
        for place, name in enumerate(operators)
    )
    return Row(id="q", repeat=0, seed=0, score=0.0, calls=made, error=error)


@pytest.mark.parametrize(
    ("rows", "last", "alone"),
    [
        ([], set(), False),
        ([run_of("", "", "")], {""}, True),  # the program is an operator
        ([run_of("a", "a", "c", "c")], {"c"}, False),
        ([run_of("c", "a")], {"a"}, False),  # the order in which they run, not that of the attributes
        ([run_of("a", "c", "a:2")], set(), False),  # its second run reads the answer of c
        ([run_of("a", "c", "c:2")], set(), False),  # its second run may read the answer of the first
        ([run_of("a", "c"), run_of("a", "c", "c:2")], set(), False),  # on some questions only
        ([run_of("a", "c", "a")], set(), False),  # at the same time
        ([run_of("a", "c"), run_of("a", "b")], {"b", "c"}, False),  # branches
        ([run_of("a"), run_of("c")], {"a", "c"}, True),
        ([run_of("a", "c"), run_of("a", error="no answer")], {"c"}, False),  # c never ran
        ([run_of("a", error="no answer")], set(), False),
        ([run_of("a", "c", "", phases={2: Phase.JUDGE})], set(), False),  # a judge reads the answer
        ([run_of("", "", phases={1: Phase.JUDGE})], set(), False),
        ([run_of("a", "c", "", phases={2: Phase.CHECK})], set(), False),  # an operator without a path
        ([run_of("", "", phases={1: Phase.CHECK})], {""}, True),
    ],
)
def test_an_operator_is_last_if_no_other_call_ever_followed(rows: list[Row], last: set[str], alone: bool) -> None:
    order = Order()
    for row in rows:
        order.add(row)
    assert order.last(Spaces(operators={"a": SPACE, "b": SPACE, "c": SPACE})) == last - {""}
    assert order.last(SPACE) == ({""} if alone else set())


def test_the_usage_of_other_predictors_follows_every_operator() -> None:
    order = Order()
    order.add(
        Row(id="q", repeat=0, seed=0, score=0.0, calls=(Call(phase=Phase.DRAFT), Call(phase=Phase.DRAFT, round=0)))
    )
    assert order.last(SPACE) == set()


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
