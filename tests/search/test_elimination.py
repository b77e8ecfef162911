"""When a race goes on without a program: looks, levels, limits surely broken, rivals surely better."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy.evaluation.statistics import worse
from pdr_dspy.search.racing.elimination import Run, beaten, levels, looks, over
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.requests import Cell


def ran(scores: Sequence[float], sequential: float = 100.0, total: float = 100.0) -> Run:
    return Run([Cell(score, sequential, total) for score in scores])


def gone(
    runs: dict[int, Run],
    rivals: dict[int, Run] | None = None,
    *,
    questions: Sequence[int] | None = None,
    level: float = 0.05,
    keep: float = 0.0,
    pareto: bool = False,
    leader: int | None = None,
) -> dict[int, int]:
    count = len(next(iter(runs.values())).cells)
    named = range(count) if questions is None else questions
    return beaten(runs, runs if rivals is None else rivals, named, level=level, keep=keep, pareto=pareto, leader=leader)


def test_a_run_is_the_mean_of_its_cells() -> None:
    run = Run([Cell(1.0, 10, 30), Cell(0.0, 20, 50)])
    assert (run.score, run.sequential, run.total) == (0.5, 15, 40)


@given(st.integers(1, 500), st.integers(1, 60), st.floats(1.1, 4.0))
def test_looks_grow_and_the_last_is_at_all_pairs(pairs: int, first: int, eta: float) -> None:
    ends = looks(pairs, first, eta)
    assert ends[-1] == pairs
    assert all(a < b for a, b in pairwise(ends))
    assert ends[0] == min(first, pairs)
    assert len(ends) <= 60


def test_looks_double() -> None:
    assert looks(30, 8, 2.0) == (8, 16, 30)
    assert looks(8, 8, 2.0) == (8,)
    assert looks(120, 8, 2.0) == (8, 16, 32, 64, 120)


def test_levels_of_all_looks_err_no_more_than_alpha_together() -> None:
    share = [look / 30 for look in looks(30, 8, 2.0)]
    spent = levels(0.05, share)
    assert len(spent) == 3
    assert all(0 < level < 0.05 for level in spent)
    assert max(levels(0.01, share)) < min(spent)
    assert levels(0.05, [1.0]) == pytest.approx((0.05,), abs=1e-4)
    rng = np.random.default_rng(5)
    steps = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.6, 0.2], size=(1_000, 30))  # as good as its rival, 0/1 scores
    dropped = [
        any(worse(row[:end]) <= level for end, level in zip(looks(30, 8, 2.0), spent, strict=True)) for row in steps
    ]
    assert fmean(dropped) <= 0.05 + 3 * (0.05 * 0.95 / 1_000) ** 0.5


def test_a_limit_is_surely_broken_only_beyond_the_noise() -> None:
    high = Run([Cell(1.0, 100, 300 + place % 2) for place in range(8)])
    assert over(high, Limits(None, 200)) == "total"
    assert over(high, Limits(90, 1_000)) == "sequential"
    assert over(high, Limits(90, 200)) == "sequential"
    assert over(high, Limits(None, 301)) is None  # on average within
    noisy = Run([Cell(1.0, 100, value) for value in (10, 500, 20, 480, 15, 505, 30, 460)])
    assert fmean(cell.total for cell in noisy.cells) > 250
    assert over(noisy, Limits(None, 240)) is None  # over, and it may be chance
    assert over(noisy, Limits(None, 20)) == "total"
    assert over(Run([Cell(1.0, 100, 9_000)]), Limits(None, 10)) is None  # one run says nothing of the spread
    assert over(high, Limits()) is None


def test_the_surely_worse_go_and_are_told_than_whom() -> None:
    runs = {0: ran([1] * 8), 1: ran([0] * 8), 2: ran([1] * 7 + [0]), 3: ran([1] * 4 + [0] * 4)}
    assert gone(runs) == {1: 0}  # 1 in 256; for number 3 it is 1 in 16
    assert gone(runs, level=0.07, leader=0) == {1: 0, 3: 0}
    assert gone(runs, level=0.003) == {}
    assert gone(runs, keep=0.75) == {1: 0}
    assert gone(runs, keep=1.0) == {}


def test_the_luckiest_of_many_rivals_is_held_to_a_stricter_level() -> None:
    runs = {0: ran([1] * 8), 1: ran([0] * 8)} | {number: ran([1] * 7 + [0]) for number in range(2, 20)}
    assert gone(runs, level=0.02) == {}
    assert gone(runs, level=0.02, leader=0) == {1: 0}  # a leader that was known before


def test_the_better_part_is_not_tested_however_sure() -> None:
    runs = {1: ran([1] * 12), 2: ran([0] * 12), 3: ran([0] * 12), 4: ran([0] * 12)}
    assert set(gone(runs, keep=0.5)) == {3, 4}
    assert set(gone(runs, keep=0.0)) == {2, 3, 4}
    cheap = {**runs, 4: ran([0] * 12, total=50.0)}
    assert set(gone(cheap, keep=0.5)) == {2, 3}  # of equal scores the cheaper stays


def test_equal_programs_never_go() -> None:
    scores = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0] * 4
    assert gone({number: ran(scores) for number in range(6)}, level=0.5) == {}


def test_a_rival_need_not_be_among_the_tested() -> None:
    tested = {5: ran([0] * 10), 6: ran([0] * 10)}
    assert gone(tested, {**tested, 2: ran([1] * 10)}) == {5: 2, 6: 2}
    assert gone(tested, {}) == {}


def test_repeats_of_a_question_are_one_piece_of_evidence() -> None:
    runs = {0: ran([1] * 12), 1: ran([0] * 12)}
    assert gone(runs) == {1: 0}
    assert gone(runs, questions=[0, 1, 2] * 4) == {}  # three questions: 1 in 8 at best


def test_for_the_front_only_what_is_beaten_in_everything_goes() -> None:
    runs = {
        0: ran([1] * 10, 300, 900),
        1: ran([0] * 10, 300, 900),  # as dear, and worse
        2: ran([0] * 10, 100, 950),  # less sequential
        3: ran([0] * 10, 350, 800),  # less in all
        4: ran([0] * 10, 400, 990),  # dearer in both
    }
    assert gone(runs, pareto=True) == {1: 0, 4: 0}
    assert set(gone(runs)) == {1, 2, 3, 4}


@pytest.mark.slow
def test_for_the_front_many_rivals_do_not_make_chance_more_likely() -> None:
    rng = np.random.default_rng(11)
    dropped = []
    for _ in range(100):
        scores = rng.integers(0, 2, size=(9, 16)).astype(float)  # all as good as each other, number 8 the dearest
        runs = {number: ran(row, 100 + number, 100 + number) for number, row in enumerate(scores)}
        dropped.append(8 in gone(runs, pareto=True, level=0.05))
    assert fmean(dropped) <= 0.05 + 3 * (0.05 * 0.95 / 100) ** 0.5


def test_without_repeats_of_luck_the_clearly_worse_are_found() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(100):
        good, bad = (rng.random(30) < 0.8).astype(float), (rng.random(30) < 0.3).astype(float)
        found.append(1 in gone({0: ran(good.tolist()), 1: ran(bad.tolist())}, level=0.02, leader=0))
    assert fmean(found) > 0.8
