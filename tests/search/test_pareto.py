"""Laws of the front, on seeded points and against the definition."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from pdr_dspy.search.racing.pareto import Limits, best, dominates, front


class Point(NamedTuple):
    score: float
    sequential: float
    total: float


def points(count: int, seed: int) -> list[Point]:
    """On a coarse grid, so that ties and duplicates occur."""
    draw = random.Random(seed)
    return [Point(draw.randint(0, 5) / 5, draw.randint(1, 5) * 100, draw.randint(1, 5) * 200) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_nothing_dominates_each_place_once(seed: int) -> None:
    pool = points(40, seed)
    kept = front(pool)
    assert {point for point in pool if not any(dominates(other, point) for other in pool)} == set(kept)
    assert len(set(kept)) == len(kept)
    assert front(kept) == kept
    shuffled = random.Random(seed).sample(pool, len(pool))
    assert front(shuffled) == kept
    assert kept == sorted(kept, key=lambda point: (point.total, point.sequential, -point.score))


@pytest.mark.parametrize("seed", range(5))
def test_domination_is_a_strict_order(seed: int) -> None:
    pool = points(12, seed)
    for a in pool:
        assert not dominates(a, a)
        for b in pool:
            assert not (dominates(a, b) and dominates(b, a))
            if dominates(a, b):
                assert all(dominates(a, c) for c in pool if dominates(b, c))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_within_limits_is_on_the_front(seed: int) -> None:
    pool = points(30, seed)
    for limits in (Limits(), Limits(sequential=300), Limits(total=400), Limits(200, 600)):
        chosen = best(pool, limits)
        allowed = [point for point in pool if limits.allow(point)]
        if chosen is None:
            assert not allowed
        else:
            assert chosen in front(pool)
            assert chosen.score == max(point.score for point in allowed)
    assert best(pool, Limits(total=1)) is None


def test_a_front_over_one_cost_has_no_two_of_the_same_score() -> None:
    kept = front(points(60, 1), costs=("total",))
    assert [point.score for point in kept] == sorted({point.score for point in kept})
    assert front([]) == []


def test_excess_is_a_share_of_the_limit() -> None:
    assert Limits(100, 400).excess(150, 300) == {"sequential": 0.5, "total": -0.25}
    assert Limits(total=400).excess(150, 400) == {"total": 0.0}
    assert Limits(total=400).allow(Point(0.0, 1e9, 400))
    assert not Limits(sequential=100).allow(Point(1.0, 101, 101))
