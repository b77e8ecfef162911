from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy.operators.consensus import Done, agreed, ended, fewest, stays, vote

VOTES = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12)


def run(answers: str) -> list[Done | None]:
    """A round as it stands: a letter is an answer, "-" an unreadable one, "x" a failure, "." a draft that runs."""
    made = {"-": Done(True, None), "x": Done(False, None), ".": None}
    return [made.get(answer, Done(True, answer)) for answer in answers]


@pytest.mark.parametrize(
    ("leader", "runner_up", "expected"),
    [(0, 0, 0.5), (1, 0, 0.75), (3, 0, 0.9375), (4, 0, 0.96875), (2, 2, 0.5), (5, 1, 0.9375), (2, 3, 0.34375)],
)
def test_the_chance_that_the_leader_stays_ahead_on_hand_made_votes(
    leader: int, runner_up: int, expected: float
) -> None:
    assert stays(leader, runner_up) == expected


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_chance_is_the_integral_of_the_posterior(leader: int, runner_up: int) -> None:
    # The integral of x^a (1-x)^b over (1/2, 1) in closed form, over the whole, in exact fractions.
    def below(x: Fraction) -> Fraction:
        terms = (
            Fraction((-1) ** k * math.comb(runner_up, k), leader + k + 1) * x ** (leader + k + 1)
            for k in range(runner_up + 1)
        )
        return sum(terms, Fraction(0))

    exact = 1 - below(Fraction(1, 2)) / below(Fraction(1))
    assert stays(leader, runner_up) == float(exact)
    assert stays(leader, runner_up) + stays(runner_up, leader) == pytest.approx(1.0)


def test_answers_are_equal_but_for_case_and_only_when_all_fields_are_there() -> None:
    fields = ["answer", "unit"]
    assert vote({"answer": "Paris", "unit": 3}, fields) == vote({"unit": 3, "answer": "PARIS", "more": 1}, fields)
    assert vote({"answer": "Paris", "unit": 3}, fields) != vote({"answer": "Paris", "unit": 4}, fields)
    assert vote({"answer": "Paris"}, fields) is None


@pytest.mark.parametrize(
    ("votes", "probability", "number"),
    [
        ("aaaa", 0.95, 4),
        ("aaa", 0.95, None),
        ("aabaa", 0.89, 5),
        ("aabb", 0.9, None),
        ("a", 0.6, None),  # one draft agrees with nobody
        ("aa", 0.6, 2),
        ("ab", 0.6, None),
        ("baaaaa", 0.93, 6),
    ],
)
def test_how_many_votes_are_enough(votes: str, probability: float, number: int | None) -> None:
    assert agreed(list(votes), probability) == number


def test_what_cannot_be_read_has_no_vote() -> None:
    assert agreed([None, "a", None, "a", "a", "a", "a"], 0.95) == 6
    assert agreed([None] * 9, 0.6) is None


@given(VOTES, st.floats(0.51, 0.99))
def test_the_fewest_votes_are_found_and_more_votes_do_not_change_them(votes: list[str | None], p: float) -> None:
    number = agreed(votes, p)
    for shorter in range(len(votes)):
        found = agreed(votes[:shorter], p)
        assert found == (number if number is not None and shorter >= number else None)
    assert number is None or number >= fewest(p)


@pytest.mark.parametrize(("p", "number"), [(0.6, 2), (0.875, 2), (0.9, 3), (0.95, 4), (0.99, 6), (0.999, 9)])
def test_the_fewest_drafts_that_can_agree(p: float, number: int) -> None:
    assert fewest(p) == number
    assert agreed(["a"] * 20, p) == number


@pytest.mark.parametrize(
    ("round_", "rule", "taken"),
    [
        ("abc", {}, (0, 1, 2)),
        ("ab.", {}, None),
        ("a.c.", {"quorum": 0.5}, (0, 2)),
        ("a...", {"quorum": 0.5}, None),
        ("a...", {"quorum": 0.01}, (0,)),
        ("ax.x", {"quorum": 0.5}, None),  # failed drafts are not what was waited for
        ("axbx", {"quorum": 0.75}, (0, 1, 2, 3)),  # but there is nothing more to come
        ("a.-.", {"quorum": 0.5}, (0, 2)),
        ("ab........", {"quorum": 0.2}, (0, 1)),
        ("abcdefg...", {"quorum": 0.7}, tuple(range(7))),  # 0.7 * 10 is above 7 in floating point
        ("aaaa....", {"agree": 0.95}, (0, 1, 2, 3)),
        ("aaa.aaaa", {"agree": 0.95}, None),  # a gap: what it says decides
        ("aaaab.a.", {"agree": 0.95}, (0, 1, 2, 3)),
        ("xaaaa.b", {"agree": 0.95}, (0, 1, 2, 3, 4)),
        ("abababab", {"agree": 0.95}, tuple(range(8))),
        ("aaaa.b.b", {"agree": 0.95, "quorum": 0.5}, (0, 1, 2, 3)),
        ("ab.b.b..", {"agree": 0.95, "quorum": 0.5}, (0, 1, 3, 5)),
    ],
)
def test_when_a_round_ends(round_: str, rule: dict[str, float], taken: tuple[int, ...] | None) -> None:
    assert ended(run(round_), **rule) == taken


@given(st.lists(st.sampled_from("abx-"), min_size=1, max_size=9), st.permutations(range(9)), st.floats(0.55, 0.97))
def test_agreement_does_not_depend_on_the_order_of_finishing(answers: list[str], order: list[int], p: float) -> None:
    whole = run("".join(answers))

    def first(sequence: list[int]) -> tuple[int, ...] | None:
        there: list[Done | None] = [None] * len(whole)
        for place in sequence:
            there[place] = whole[place]
            taken = ended(there, agree=p)
            if taken is not None:
                return taken
        return None

    places = list(range(len(whole)))
    assert first([place for place in order if place in places]) == first(places) == ended(whole, agree=p)
