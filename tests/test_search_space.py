"""The space: what is in it, what is not, and both ways through JSON."""

from __future__ import annotations

import json
import random
import re
from typing import Any, NamedTuple

import pytest

from pdr_dspy.budget import Phase
from pdr_dspy.errors import ConfigError
from pdr_dspy.schedule import Schedule, preset
from pdr_dspy.search.objective import PhaseCost, predict
from pdr_dspy.search.pareto import Limits, best, dominates, front
from pdr_dspy.search.space import Candidate, Space, canonical


class Drawn:
    """A trial that answers at random and remembers the questions."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        assert name not in self.asked
        self.asked[name] = self.draw.choice(list(choices))
        return self.asked[name]


WIDE = Space(
    rounds=(1, 2, 3),
    widths=(1, 2, 4),
    kappa=(200, 400),
    k=(1, 2, 4),
    distill_tokens=(None, 64),
    critique=(False, True),
    temperature=(0.6, 1.0),
    instructions={"refine": ("Look again.",), "select": ("Pick.", "Choose.")},
)


def test_every_suggestion_is_a_candidate_that_is_found_again() -> None:
    every = {candidate.key for candidate in WIDE.candidates()}
    for seed in range(300):
        trial = Drawn(seed)
        candidate = WIDE.suggest(trial)
        assert candidate.key in every
        assert candidate in WIDE
        params = WIDE.params_of(candidate)
        assert params is not None
        assert params.keys() <= trial.asked.keys() | {"k"}


def test_enumeration_has_each_candidate_once_and_counts_them() -> None:
    keys = [candidate.key for candidate in WIDE.candidates()]
    assert len(keys) == len(set(keys)) == WIDE.size
    assert Space(rounds=(1,)).size == 1
    assert [str(s) for s in Space(rounds=(1, 2), widths=(1, 2), distiller=("summary",)).schedules()] == [
        "LongCoT",
        "SR x2",
        "PDR 2-1 summary κ=2048",
    ]


def test_conditional_parameters_exist_only_where_they_mean_something() -> None:
    for seed in range(300):
        trial = Drawn(seed)
        schedule = WIDE.suggest(trial).schedule
        if schedule.rounds == 1:
            assert trial.asked.keys() == {"rounds", "temperature"}
        assert ("k" in trial.asked) == (
            schedule.rounds > 1 and schedule.distiller in ("topk", "topk_per_sample", "random_k")
        )
        assert ("critique" in trial.asked) == (schedule.rounds > 1 and max(schedule.widths) == 1)
        assert ("select_instructions" in trial.asked) == (schedule.rounds > 1 and schedule.distiller.startswith("topk"))
        assert list(schedule.widths) == sorted(schedule.widths, reverse=True)


def test_free_widths() -> None:
    free = Space(rounds=(3,), widths=(1, 2), monotone=False, distiller=("summary",))
    assert {s.widths for s in free.schedules()} == {(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1)}


def test_default_space_has_the_schedule_and_its_neighbours() -> None:
    schedule = preset("balanced", draft_tokens=300)
    space = Space.default_for(schedule)
    assert schedule in space
    assert schedule.replace(widths=(1,)) in space
    assert Schedule(widths=(1, 1), distiller="last", draft_tokens=300) in space
    assert schedule.replace(draft_tokens=301) not in space
    assert preset("paper", draft_tokens=300) not in space


def test_fix_narrow_extend() -> None:
    space = Space(rounds=(1, 2), widths=(1, 2, 4), kappa=(100, 200), monotone=False)
    assert space.fix(kappa=150).kappa == (150,)
    assert space.narrow(widths=(2, 4)).widths == (2, 4)
    assert space.extend(kappa=(400, 200)).kappa == (100, 200, 400)
    more = space.extend(instructions={"draft": ("A",)}).extend(instructions={"draft": ("A", "B")})
    assert more.instructions == {"draft": ("A", "B")}
    assert not space.fix(kappa=150).monotone
    with pytest.raises(ConfigError, match="has 8, which is not in"):
        space.narrow(widths=(8,))
    with pytest.raises(ConfigError, match="no axis 'width'"):
        space.fix(width=3)


def test_json_both_ways() -> None:
    assert Space(**json.loads(WIDE.model_dump_json())) == WIDE


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": ()}, "Space(widths=())` is empty"),
        ({"widths": (0, 1)}, "width below 1"),
        ({"widths": (2, 2)}, "a candidate twice"),
        ({"rounds": (0,)}, "must be from 1 to 16"),
        ({"kappa": (40,), "k": (2,)}, "goes below the 48 tokens"),
        ({"distiller": ("oracle_correct",)}, "gold answers"),
        ({"distiller": ("last", "summary")}, "leave it out"),
        ({"temperature": (3.0,)}, "must be in [0, 2]"),
        ({"instructions": {"judge": ("x",)}}, "the role 'judge'"),
        ({"foo": (1,)}, "foo"),
    ],
)
def test_bad_spaces_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Space(**values)


def test_canonical_is_equal_for_schedules_that_make_the_same_calls() -> None:
    one = Schedule(widths=(1,), kappa=300, k=1, distiller="summary")
    other = Schedule(widths=(1,), kappa=900, distiller="random_k", distill_tokens=5)
    assert Candidate(one, {}).key == Candidate(other, {}).key
    wide = Schedule(widths=(4, 1), distiller="summary", k=3)
    assert canonical(wide) == canonical(wide.replace(k=1))
    assert canonical(wide) != canonical(wide.replace(kappa=100))


def test_prediction_of_costs() -> None:
    profile = {Phase.DRAFT.value: PhaseCost(calls=8, input=80, output=160, stages=2, prompt=20, longest=60)}
    one = predict(Schedule(widths=(1,)), profile)
    assert one == (40, 40)  # the longest of a stage, not the mean call
    wide = predict(Schedule(widths=(4, 1), distiller="random_k"), profile)
    assert wide == (80, 150)
    assert predict(Schedule(widths=(1,), draft_tokens=5), profile) == (15, 15)
    assert predict(Schedule(widths=(1,)), {}) is None


class Item(NamedTuple):
    score: float
    sequential: float
    total: float


def test_front_and_best_on_hand_made_points() -> None:
    a, b, c, d = Item(0.2, 10, 10), Item(0.5, 20, 40), Item(0.5, 20, 50), Item(0.4, 30, 30)
    assert dominates(b, c)
    assert not dominates(a, b)
    assert front([a, b, c, d]) == [a, d, b]
    assert front([b, b]) == [b]
    assert best([a, b, c, d]) == b
    assert best([a, b, c, d], Limits(sequential=15)) == a
    assert best([a, b, c, d], Limits(total=5)) is None


def test_front_is_what_brute_force_says() -> None:
    draw = random.Random(3)
    items = [Item(draw.randrange(9) / 8, draw.randrange(6), draw.randrange(6)) for _ in range(120)]
    kept = front(items)
    for item in items:
        beaten = any(dominates(other, item) for other in items)
        assert (item in kept) == (not beaten)


def test_deep_spaces_are_listed_without_going_through_every_product_of_widths() -> None:
    deep = Space(rounds=(16,), widths=(1, 2, 4, 8), distiller=("random_k",), k=(1,))
    assert deep.size == 816  # 15 falling widths out of 4: C(18, 3)
    assert next(deep.schedules()).widths == (1,) * 16
