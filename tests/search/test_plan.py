"""The search as a generator: what it asks, in what order, what it drops, counts, reruns and confirms."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.racing.arms import Found
from pdr_dspy.search.racing.plan import Plan
from pdr_dspy.search.racing.requests import Cell, Measure, Pair, Propose, Proposed, Stage, Write
from pdr_dspy.search.settings import from_keywords
from pdr_dspy.search.space.candidate import Candidate

SCHEDULE = Schedule(widths=(1,), draft_tokens=60, kappa=200)
DRAFT = 100
"""Tokens of one call."""


def chance(*parts: object) -> float:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


@dataclass(frozen=True)
class Kind:
    """A made-up program."""

    quality: float
    """Chance of a right answer."""
    width: int = 1
    """Calls of a run; those of narrower programs are among them."""


@dataclass
class World:
    """Answers a plan's requests, and remembers them."""

    kinds: list[Kind]
    """The student, then what is proposed, one after the other."""
    seed: int = 0
    backwards: bool = False
    """Answers are made in another order."""
    requests: list[Any] = field(default_factory=list)
    tokens: int = 0
    """Of all cells that were asked for, each call counted every time."""
    addresses: dict[str, int] = field(default_factory=dict)

    def candidate(self, number: int) -> Candidate:
        return Candidate(SCHEDULE, {"draft": f"Way {number}."})

    def baselines(self, count: int = 1) -> list[Proposed]:
        return [Proposed("student", self.candidate(0))] + [
            Proposed("baseline", self.candidate(number)) for number in range(1, count)
        ]

    def cell(self, number: int, stage: Stage, pair: Pair) -> Cell:
        kind = self.kinds[number]
        place = (self.seed, stage, pair)
        right = chance(*place, number) < kind.quality
        calls = tuple((f"{stage}|{pair}|draft {index}", DRAFT) for index in range(kind.width))
        return Cell(float(right), DRAFT, DRAFT * kind.width, False, calls)

    def measure(self, request: Measure) -> Mapping[tuple[int, Pair], Cell]:
        keys = [(number, pair) for number in request.arms for pair in request.pairs]
        cells = {key: self.cell(key[0], request.stage, key[1]) for key in (reversed(keys) if self.backwards else keys)}
        for found in cells.values():
            self.tokens += sum(tokens for _, tokens in found.calls)
            self.addresses |= dict(found.calls)
        return cells

    def propose(self, request: Propose) -> Sequence[Proposed] | str:
        left = range(len(request.tried), len(self.kinds))
        return [Proposed("search", self.candidate(number)) for number in left][: request.wanted]

    def drive(
        self, plan: Plan, baselines: int = 1, propose: Callable[[Propose], Sequence[Proposed] | str] | None = None
    ) -> Found:
        steps = plan.run(self.baselines(baselines))
        answer: Any = None
        while True:
            try:
                request = steps.send(answer)
            except StopIteration as end:
                return end.value
            self.requests.append(request)
            asked = propose or self.propose
            assert not isinstance(request, Write), "these searches write no instructions"
            answer = asked(request) if isinstance(request, Propose) else self.measure(request)

    def measured(self, stage: Stage) -> list[Measure]:
        return [one for one in self.requests if isinstance(one, Measure) and one.stage is stage]


def planned(
    *, questions: int = 20, held_out: int = 10, trials: int = 12, max_tokens: int | None = None, **keywords: Any
) -> Plan:
    """A plan; the keywords are those of `PDROptimizer`."""
    settings = from_keywords({"cohort": 4, **keywords}).settings
    return Plan(settings, questions=questions, held_out=held_out, trials=trials, max_tokens=max_tokens)


MIXED = [Kind(0.5), *(Kind(0.2 + 0.05 * number, 1 + number % 3) for number in range(11))]


def test_all_arms_of_a_cohort_run_the_same_growing_blocks_in_one_order() -> None:
    world, plan = World(MIXED), planned(repeats=2)
    found = world.drive(plan)
    assert sorted(plan.order) == sorted(Pair(question, repeat) for question in range(20) for repeat in range(2))
    assert [pair.repeat for pair in plan.order] == [0] * 20 + [1] * 20
    assert plan.looks == (8, 16, 32, 40)
    for cohort in range(4):
        asked = [request for request in world.measured(Stage.RACE) if request.cohort == cohort]
        assert [request.pairs for request in asked] == [
            plan.order[start:end] for start, end in zip((0, 8, 16, 32), plan.looks, strict=True)
        ][: len(asked)]
        for before, after in pairwise(asked):
            assert set(after.arms) <= set(before.arms)
    for arm in found.arms:
        assert tuple(arm.race) == plan.order[: len(arm.race)]
        assert (arm.dropped is None) == (len(arm.race) == 40)
        assert arm.candidate == world.candidate(arm.number)
    assert [arm.cohort for arm in found.arms] == [0, *[1] * 4, *[2] * 4, *[3] * 3]


def test_the_order_of_questions_is_the_seeds() -> None:
    assert planned(seed=1).order == planned(seed=1).order
    assert planned(seed=1).order != planned(seed=2).order


def test_equal_answers_give_an_equal_course_in_whatever_order_they_come() -> None:
    first, second, other = World(MIXED), World(MIXED, backwards=True), World(MIXED, seed=5)
    results = [world.drive(planned()) for world in (first, second, other)]
    assert asked(first) == asked(second)
    assert summary(results[0]) == summary(results[1])
    assert summary(results[0]) != summary(results[2])


def asked(world: World) -> list[Any]:
    """Requests without what NumPy compares element by element."""
    return [request[:3] if isinstance(request, Propose) else request for request in world.requests]


def summary(found: Found) -> list[Any]:
    arms = [(arm.number, arm.dropped, arm.paid, arm.saved, arm.race, arm.final) for arm in found.arms]
    ends = [found.chosen, found.stopped, found.paid, found.saved, found.confirmation, found.estimates]
    return [arms, found.finalists, ends]


def test_the_student_is_never_dropped_however_bad_or_dear() -> None:
    world = World([Kind(0.0, 50), *[Kind(0.9)] * 7])
    found = world.drive(planned(trials=8, max_total=10 * DRAFT), baselines=4)
    assert found.arms[0].dropped is None
    assert len(found.arms[0].race) == 20
    assert all(0 in request.arms for request in world.requests if isinstance(request, Measure) and not request.cohort)
    assert all(0 in request.arms for request in world.measured(Stage.FINAL))
    assert all(0 in request.arms for request in world.measured(Stage.CONFIRM))
    assert found.chosen != 0


def test_what_is_surely_over_a_limit_stops_at_the_first_look_and_is_no_finalist() -> None:
    world = World([Kind(0.3), Kind(0.9, 30), Kind(0.4, 2), Kind(0.9, 25)])
    found = world.drive(planned(trials=4, max_total=5 * DRAFT))
    for number in (1, 3):
        assert found.arms[number].dropped == "over the limit on total after 8 runs"
        assert len(found.arms[number].race) == 8
    assert {finalist.number for finalist in found.finalists} == {0, 2}
    assert found.chosen in (0, 2)


def test_of_a_cohort_that_is_all_over_a_limit_no_more_is_asked_and_the_next_one_races() -> None:
    world = World([Kind(0.3), *[Kind(0.9, 30)] * 4, *[Kind(0.4)] * 4])
    found = world.drive(planned(trials=9, max_total=5 * DRAFT))
    assert all(request.arms for request in world.requests if isinstance(request, Measure))
    assert [len(request.pairs) for request in world.measured(Stage.RACE) if request.cohort == 1] == [8]
    assert [arm.dropped is None for arm in found.arms[1:5]] == [False] * 4
    assert any(arm.dropped is None for arm in found.arms[5:])


def test_the_clearly_worse_stop_early_and_say_than_whom() -> None:
    world = World([Kind(0.95), *[Kind(0.05)] * 6, Kind(0.95)])
    found = world.drive(planned(questions=60, trials=8, cohort=8))
    dropped = [arm for arm in found.arms if arm.dropped is not None]
    assert {arm.number for arm in dropped} <= set(range(1, 7))
    assert len(dropped) >= 4
    assert all(arm.dropped in {f"worse than trial {n} after {len(arm.race)} runs" for n in (0, 7)} for arm in dropped)
    assert found.chosen in (0, 7)


def test_finalists_are_the_student_and_at_least_four_others_where_there_are() -> None:
    for trials, finalists, expected in ((12, 4, 5), (3, 4, 3), (1, 4, 1), (12, 6, 7)):
        world = World(MIXED)
        found = world.drive(planned(trials=trials, finalists=finalists))
        numbers = [finalist.number for finalist in found.finalists]
        assert len(numbers) == len(set(numbers)) == expected
        assert 0 in numbers
        assert numbers[0] == found.chosen
        first = world.measured(Stage.FINAL)[0]
        assert set(first.arms) == set(numbers)
        assert first.pairs == tuple(Pair(question, 0) for question in range(20))
    crowd = World([Kind(0.98), *[Kind(0.02)] * 11])  # all are dropped, and some of them run again all the same
    assert len(crowd.drive(planned(questions=60)).finalists) == 5


def test_fresh_runs_are_the_finalists_alone_and_enter_the_estimates() -> None:
    world = World(MIXED)
    found = world.drive(planned(finalist_repeats=3))
    finalists = {finalist.number: finalist for finalist in found.finalists}
    for arm in found.arms:
        assert bool(arm.final) == (arm.number in finalists)
    for number, finalist in finalists.items():
        arm = found.arms[number]
        assert len(arm.final) in (20, 40, 60)
        assert finalist.race == arm.score
        assert finalist.fresh == pytest.approx(sum(cell.score for cell in arm.final.values()) / len(arm.final))
        assert (finalist.pooled, finalist.interval.low <= finalist.pooled <= finalist.interval.high) == (
            found.estimates[number][0],
            True,
        )
    assert len(found.arms[0].final) == 60  # the student runs to the end


def test_without_fresh_runs_the_best_of_the_race_is_confirmed_at_once() -> None:
    world = World(MIXED)
    plan = planned(finalist_repeats=0, finalists=2)
    found = world.drive(plan)
    assert not world.measured(Stage.FINAL)
    assert len(found.finalists) == 3
    assert all(math.isnan(finalist.fresh) for finalist in found.finalists)
    assert found.chosen == plan.standing.best(found.arms)[0].number
    assert set(world.measured(Stage.CONFIRM)[0].arms) == {0, found.chosen}


def test_a_call_is_paid_by_the_first_program_that_made_it_and_counted_once() -> None:
    for backwards in (False, True):
        world = World([Kind(0.5), Kind(0.5, 4), Kind(0.5, 2), Kind(0.5, 4)], backwards=backwards)
        found = world.drive(planned(trials=4, questions=8))
        assert [(arm.paid, arm.saved) for arm in found.arms] == [
            (8 * DRAFT, 0),
            (8 * 3 * DRAFT, 8 * DRAFT),
            (0, 8 * 2 * DRAFT),
            (0, 8 * 4 * DRAFT),
        ]
        assert found.paid == sum(world.addresses.values())
        assert found.paid + found.saved == world.tokens


def test_cells_that_were_not_asked_for_change_nothing() -> None:
    class Generous(World):
        def measure(self, request: Measure) -> Mapping[tuple[int, Pair], Cell]:
            extra = {(number, Pair(99)): Cell(1.0, 1, 1, False, (("x", 7),)) for number in range(20)}
            return {**extra, **super().measure(request)}

    assert summary(Generous(MIXED).drive(planned())) == summary(World(MIXED).drive(planned()))


def test_no_cohort_begins_after_max_tokens() -> None:
    free = World(MIXED)
    free.drive(planned())
    world = World(MIXED)
    plan = planned(max_tokens=20 * DRAFT + 1)
    found = world.drive(plan)
    assert len(found.arms) == 5  # the first cohort paid the student's 2,000, the second went over
    assert found.stopped.endswith("tokens were paid, `max_tokens` is 2001")
    assert len([one for one in world.requests if isinstance(one, Propose)]) == 1
    assert asked(world)[: len(world.measured(Stage.RACE)) + 1] == asked(free)[: len(world.measured(Stage.RACE)) + 1]
    assert len(World(MIXED).drive(planned(max_tokens=1)).arms) == 1


def test_a_space_without_more_and_whoever_says_so_end_the_race() -> None:
    world = World(MIXED[:6])
    found = world.drive(planned())
    assert (len(found.arms), found.stopped) == (6, "every candidate was tried or costs too much")
    found = World(MIXED).drive(planned(), propose=lambda _: "the time is over")
    assert (len(found.arms), found.stopped) == (1, "the time is over")
    found = World(MIXED).drive(planned())
    assert (len(found.arms), found.stopped) == (12, "12 trials were measured")


def test_proposals_are_asked_for_with_what_is_known_and_no_more_than_are_left() -> None:
    world = World(MIXED)
    found = world.drive(planned(trials=10))
    proposals = [one for one in world.requests if isinstance(one, Propose)]
    assert [(one.cohort, one.wanted, len(one.tried)) for one in proposals] == [(1, 4, 1), (2, 4, 5), (3, 1, 9)]
    last = proposals[-1].tried
    assert [known.candidate for known in last] == [arm.candidate for arm in found.arms[:9]]
    assert [known.pairs for known in last] == [len(arm.race) for arm in found.arms[:9]]
    assert [known.total for known in last] == [arm.total for arm in found.arms[:9]]
    assert all(0 < known.score < 1 for known in last)


def test_for_the_front_only_what_is_beaten_in_everything_is_dropped() -> None:
    kinds = [Kind(0.95, 4), Kind(0.05, 1), Kind(0.05, 8), Kind(0.05, 8), Kind(0.95, 4), Kind(0.05, 2)]
    for pareto, kept in ((True, {1, 5}), (False, set())):
        world = World(kinds)
        plan = planned(questions=60, trials=6, cohort=6, pareto=pareto)
        found = world.drive(plan, baselines=6)
        dropped = {arm.number for arm in found.arms if arm.dropped is not None}
        assert dropped & {2, 3}
        assert (not dropped & {1, 5}) == bool(kept)
        if pareto:
            assert {1, 0} <= {finalist.number for finalist in found.finalists}


def test_nothing_is_confirmed_when_nothing_is_within_the_limits() -> None:
    world = World([Kind(0.5, 3)] * 4)
    found = world.drive(planned(trials=4, max_total=DRAFT))
    assert (found.chosen, found.confirmation) == (None, {})
    assert world.measured(Stage.CONFIRM) == []
    assert {arm.dropped for arm in found.arms[1:]} == {"over the limit on total after 8 runs"}


def test_the_chosen_and_the_student_are_confirmed_side_by_side() -> None:
    world = World([Kind(0.1), *[Kind(0.9)] * 3])
    found = world.drive(planned(trials=4, confirm_repeats=3))
    (request,) = world.measured(Stage.CONFIRM)
    assert list(request.arms) == [0, found.chosen]
    assert set(request.pairs) == {Pair(question, repeat) for question in range(10) for repeat in range(3)}
    assert {number: set(cells) for number, cells in found.confirmation.items()} == {
        0: set(request.pairs),
        found.chosen: set(request.pairs),
    }
    best = World([Kind(0.95), *[Kind(0.05)] * 3])
    found = best.drive(planned(trials=4))
    assert found.chosen == 0
    assert list(best.measured(Stage.CONFIRM)[0].arms) == [0]


def test_one_question_and_one_trial_are_enough() -> None:
    for score in (0.0, 1.0):
        found = World([Kind(score)]).drive(
            planned(questions=1, held_out=1, trials=1, finalist_repeats=1, confirm_repeats=1)
        )
        assert (found.chosen, len(found.arms)) == (0, 1)
        assert found.estimates[0][1] > 0
    found = World([Kind(1.0)] * 3).drive(planned(questions=1, held_out=1, trials=3))
    assert [arm.dropped for arm in found.arms] == [None] * 3


def test_instructions_are_asked_for_once_after_the_first_cohort_and_their_calls_are_paid() -> None:
    def written(plan: Plan, answer: Any) -> tuple[Found, list[Any]]:
        world, asked = World(MIXED), []
        steps = plan.run(world.baselines())
        reply: Any = None
        while True:
            try:
                request = steps.send(reply)
            except StopIteration as end:
                return end.value, asked
            asked.append(request)
            if isinstance(request, Write):
                reply = answer
            else:
                reply = world.propose(request) if isinstance(request, Propose) else world.measure(request)

    without, _ = written(planned(trials=9), None)
    found, asked = written(planned(trials=9, prompts=3), (("w1", 40), ("w2", 2), ("w1", 40)))
    writes = [place for place, request in enumerate(asked) if isinstance(request, Write)]
    assert len(writes) == 1
    assert (asked[writes[0]].each, asked[writes[0]].round) == (3, 1)
    assert asked[writes[0]].tried == asked[writes[0] + 1].tried
    assert isinstance(asked[writes[0] + 1], Propose)
    assert all(isinstance(request, Measure) and request.cohort == 0 for request in asked[: writes[0]])
    assert found.paid == without.paid + 42
    assert found.saved == without.saved + 40
    found, asked = written(planned(trials=30, prompts=3, prompt_rounds=3, cohort=4), (("w1", 40),))
    writes = [place for place, request in enumerate(asked) if isinstance(request, Write)]
    assert [asked[place].round for place in writes] == [1, 2, 3]
    assert [asked[place + 1].cohort for place in writes] == [1, 2, 3]  # one before each of the first cohorts
    assert len(asked[writes[-1]].tried) > len(asked[writes[0]].tried)
    ended, asked = written(planned(trials=9, prompts=1, max_tokens=10**9), (("w1", 10**9),))
    assert len(ended.arms) == 1
    assert "`max_tokens` is 1000000000" in ended.stopped
    ended, asked = written(planned(trials=9, prompts=1), "the time is over")
    assert (ended.stopped, len(ended.arms)) == ("the time is over", 1)
    assert not any(isinstance(request, Propose) for request in asked)
