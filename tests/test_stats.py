"""Against values worked out by hand or by brute force; tables of Student's t are those of any textbook."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from pdr_dspy.stats import (
    mean_interval,
    paired,
    pass_at_k,
    score_interval,
    sign_test,
    t_cdf,
    t_quantile,
    wilson,
)


@pytest.mark.parametrize(
    ("df", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (10, 2.2281), (30, 2.0423), (200, 1.9719)],
)
def test_quantiles_of_students_t(df: int, quantile: float) -> None:
    assert t_quantile(0.975, df) == pytest.approx(quantile, abs=1e-4)
    assert t_quantile(0.025, df) == pytest.approx(-quantile, abs=1e-4)
    assert t_cdf(t_quantile(0.975, df), df) == pytest.approx(0.975, abs=1e-9)


def test_quantiles_outside_of_their_range_are_refused() -> None:
    for p, df in ((0.0, 3), (1.0, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="t_quantile"):
            t_quantile(p, df)


def test_the_interval_of_a_mean_by_hand() -> None:
    # mean 0.5, variance 1/6, n 4: 3.1824 * sqrt(1/24) = 0.6496
    low, high = mean_interval([0.0, 0.5, 0.5, 1.0])
    assert (low, high) == (pytest.approx(-0.1496, abs=1e-4), pytest.approx(1.1496, abs=1e-4))
    assert score_interval([0.0, 0.5, 0.5, 1.0]) == (0.0, 1.0)
    # mean 0.3, variance 0.02 / 2, n 3: 4.3027 * 0.1 / sqrt(3) = 0.2484
    assert score_interval([0.2, 0.3, 0.4])[1] == pytest.approx(0.5484, abs=1e-4)


def test_wilsons_interval_by_hand() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert score_interval([0.0] * 10) == wilson(0, 10)
    assert wilson(0, 0) == (0.0, 1.0)
    assert score_interval([1.0]) == (0.0, 1.0)


@pytest.mark.parametrize(("n", "correct"), [(5, 0), (5, 2), (6, 5), (4, 4)])
def test_pass_at_k_against_every_subset(n: int, correct: int) -> None:
    for k in range(1, n + 1):
        subsets = list(combinations(range(n), k))
        exact = sum(any(i < correct for i in subset) for subset in subsets) / len(subsets)
        assert pass_at_k(n, correct, k) == pytest.approx(exact)
    assert math.isnan(pass_at_k(n, correct, n + 1))
    assert math.isnan(pass_at_k(n, correct, 0))


def test_sign_test_by_hand() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(1, 7) == pytest.approx(2 * 9 / 256)
    assert sign_test(3, 3) == 1.0


def test_paired_differences() -> None:
    better = paired([1.0] * 6 + [0.0, 1.0], [0.0] * 6 + [0.0, 1.0])
    assert better.difference == pytest.approx(0.75)
    assert better.p_value == pytest.approx(2 / 64)
    same = paired([0.5, 0.5], [0.5, 0.5])
    assert (same.difference, same.p_value) == (0.0, 1.0)
    graded = paired([0.5, 0.75, 1.0], [0.25, 0.25, 0.5])  # differences .25 .5 .5: t = 5 with 2 degrees of freedom
    assert graded.p_value == pytest.approx(0.0377, abs=1e-4)
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 0.0])


def test_equal_values_are_no_certainty() -> None:
    # Wilson for 0 of 4 ends at 0.4899: so many of the next questions may be anything
    assert score_interval([0.5] * 4) == (pytest.approx(0.2551, abs=1e-4), pytest.approx(0.7449, abs=1e-4))
    two = paired([1.0, 1.0], [0.0, 0.0])
    assert two.interval.low < 0.0 < two.interval.high == 1.0
    assert two.p_value == pytest.approx(0.5)
    graded = paired([0.75, 0.5, 0.9], [0.5, 0.25, 0.65])
    assert graded.p_value == pytest.approx(0.25)
    assert graded.interval.low < graded.difference < graded.interval.high
    none = paired([0.0, 1.0] * 12, [0.0, 1.0] * 12)
    assert none.interval == (pytest.approx(-0.138, abs=1e-3), pytest.approx(0.138, abs=1e-3))
