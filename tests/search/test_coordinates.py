"""Moves of one operator: what they change, that they are new and affordable, and that they use what was measured."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.proposing.coordinates import FIRST, Coordinates, improvement
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.plan import Proposed, Tried
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.search.space.spaces import Space, Spaces

OWN = Space(
    rounds=(1, 2, 3), widths=(1, 2, 4, 8), distiller=("random_k", "summary"), k=(1, 2), draft_tokens=(64, 128, 256)
)
SPACES = Spaces(operators={"read": OWN, "solve": OWN, "rest": None})


def wide(read: int, solve: int) -> Candidate:
    def part(width: int) -> Candidate:
        return Candidate(
            Schedule(widths=(1,) if width == 1 else (width, 1), distiller="random_k", k=1, draft_tokens=64), {}
        )

    return joint({"read": part(read), "solve": part(solve)})


def known(candidate: Candidate, score: float, *, pairs: int = 10, error: float = 0.02, total: float = 100.0) -> Tried:
    return Tried(candidate, score, 100.0, total, pairs, None, score, error)


MEASURED = [
    known(wide(1, 1), 0.4),
    known(wide(4, 1), 0.5),
    known(wide(1, 4), 0.35),
    known(wide(8, 8), 0.45),
    known(wide(8, 1), 0.48),
]


def proposed(
    tried: Sequence[Tried], count: int = 6, *, cohort: int = FIRST, share: float = 1.0, seed: int = 0, **others: Any
) -> list[Proposed]:
    coordinates = Coordinates(SPACES, seed=seed, limits=others.pop("limits", Limits()))
    coordinates.share = share
    return coordinates.propose(tried, count, cohort=cohort, **others)


def changed(candidate: Candidate, start: Candidate) -> list[str]:
    return [place for place in start.parts if candidate.parts[place].key != start.parts[place].key]


@pytest.mark.parametrize("seed", range(4))
def test_a_move_changes_one_operator_of_the_best_program_and_is_new(seed: int) -> None:
    found = proposed(MEASURED, 8, seed=seed)
    assert len({one.candidate.key for one in found}) == 8
    assert {one.origin for one in found} == {"move"}
    assert all(len(changed(one.candidate, wide(4, 1))) == 1 for one in found)
    assert all(one.candidate in SPACES for one in found)
    assert not {one.candidate.key for one in found} & {one.candidate.key for one in MEASURED}


def test_half_of_a_cohort_are_moves_and_none_of_the_first() -> None:
    assert [one.origin for one in proposed(MEASURED, 8, share=0.5)] == ["move"] * 4 + ["search"] * 4
    assert [one.origin for one in proposed(MEASURED, 7, share=0.5)] == ["move"] * 4 + ["search"] * 3
    assert {one.origin for one in proposed(MEASURED, 4, cohort=FIRST - 1)} == {"search"}
    assert len({one.candidate.key for one in proposed(MEASURED, 8, share=0.5)}) == 8


def test_the_start_is_within_the_limits_and_ran_all_questions() -> None:
    short = known(wide(2, 2), 0.9, pairs=4)
    dear = known(wide(2, 8), 0.8, total=900.0)
    found = proposed([*MEASURED, short, dear], limits=Limits(total=500))
    assert all(len(changed(one.candidate, wide(4, 1))) == 1 for one in found)
    nothing = proposed([dear], limits=Limits(total=500))
    assert {one.origin for one in nothing} == {"search"}


def test_what_costs_too_much_or_is_about_to_run_is_no_move() -> None:
    def dear(candidate: Candidate) -> bool:
        return max(part.schedule.widths[0] for part in candidate.parts.values()) > 4

    assert not any(dear(one.candidate) for one in proposed(MEASURED, 8, too_expensive=dear))
    first = proposed(MEASURED, 4)
    waiting = [Tried(one.candidate, math.nan, math.nan, math.nan, 0) for one in first]
    again = proposed([*MEASURED, *waiting], 4)
    assert not {one.candidate.key for one in first} & {one.candidate.key for one in again}


def test_moves_follow_from_the_seed_the_cohort_and_what_was_tried() -> None:
    first = [one.candidate.key for one in proposed(MEASURED)]
    assert [one.candidate.key for one in proposed(MEASURED)] == first
    assert [one.candidate.key for one in proposed(MEASURED, cohort=FIRST + 1)] != first
    assert [one.candidate.key for one in proposed(MEASURED, seed=1)] != first


def test_what_was_learnt_of_a_part_beside_another_counts_for_the_best() -> None:
    """Wide readers did well beside several solvers, wide solvers badly: moves of the best make its reader wide."""
    rng = random.Random(0)
    tried = [
        known(
            wide(read, solve), 0.3 + 0.06 * math.log2(read) - 0.06 * math.log2(solve) + rng.gauss(0, 0.01), error=0.01
        )
        for read, solve in ((1, 1), (8, 8), (8, 4), (8, 2), (4, 8), (2, 8), (1, 8), (1, 4), (4, 4), (2, 2), (1, 2))
    ]
    tried += [known(wide(2, 1), 0.44, error=0.01)]  # the best so far
    first = proposed(tried, 1)[0].candidate
    assert changed(first, wide(2, 1)) == ["read"]
    assert first.parts["read"].schedule.widths[0] >= 4


def test_expected_improvement_is_that_of_draws() -> None:
    draws = np.random.default_rng(0).standard_normal(400_000)
    mean, sd = np.array([0.1, 0.5, 0.52]), np.array([0.3, 0.01, 0.1])
    expected = [np.maximum(m + s * draws - 0.5, 0.0).mean() for m, s in zip(mean, sd, strict=True)]
    assert improvement(mean, sd, 0.5) == pytest.approx(expected, abs=0.001)
