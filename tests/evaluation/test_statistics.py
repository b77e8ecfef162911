"""Against values worked out by hand, by brute force or by seeded simulation; tables are those of textbooks."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from itertools import combinations, product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.statistics import (
    SpendingKind,
    mean_interval,
    paired,
    pass_at_k,
    resamples,
    score_interval,
    shrink,
    sign_test,
    spend,
    t_cdf,
    t_quantile,
    wilson,
    worse,
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


def by_patterns(differences: list[float]) -> float:
    """The share of all sign patterns with a sum no higher than that seen."""
    seen = sum(differences) + 1e-9
    patterns = list(product((1, -1), repeat=len(differences)))
    return sum(sum(s * d for s, d in zip(p, differences, strict=True)) <= seen for p in patterns) / len(patterns)


@pytest.mark.parametrize("kind", ["signs", "quarters", "free"])
def test_worse_is_the_share_of_sign_patterns(kind: str) -> None:
    draw = random.Random(3)
    for n in (1, 2, 5, 9):
        for _ in range(6):
            values = {
                "signs": [float(draw.choice((-1, 0, 1))) for _ in range(n)],
                "quarters": [draw.randint(-4, 4) / 4 for _ in range(n)],
                "free": [draw.gauss(-0.2, 1.0) for _ in range(n)],
            }[kind]
            assert worse(values) == pytest.approx(by_patterns(values), abs=1e-12)


def test_worse_against_known_values() -> None:
    assert worse([-1.0] * 9 + [1.0] * 2 + [0.0] * 5) == pytest.approx(67 / 2048)  # 9 or more of 11 at even odds
    assert worse([-0.25] * 6) == pytest.approx(1 / 64)
    # scipy.stats.permutation_test(permutation_type="samples", alternative="less") on every pattern
    assert worse([0.1, -0.32, -0.4, 0.05, -0.77, -0.2, 0.31, -0.9]) == pytest.approx(0.06640625)
    # Darwin's maize, crossed minus selfed: Fisher (1935) counts 863 of 32,768 patterns as high as this, one-sided
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert worse([-float(d) for d in maize]) == pytest.approx(863 / 32_768)


def test_worse_of_many_questions_is_exact_on_a_lattice() -> None:
    draw = random.Random(8)
    quarters = [draw.randint(-4, 3) for _ in range(120)]
    ways: dict[int, float] = {0: 1.0}
    for size in (abs(value) for value in quarters):
        after: dict[int, float] = defaultdict(float)
        for total, share in ways.items():
            after[total - size] += share / 2
            after[total + size] += share / 2
        ways = after
    exact = sum(share for total, share in ways.items() if total <= sum(quarters))
    assert worse([value / 4 for value in quarters]) == pytest.approx(exact, rel=1e-9)


def test_worse_of_many_uneven_differences_is_close_to_exact() -> None:
    draw = np.random.default_rng(4)
    signs = np.array(list(product((1, -1), repeat=13)))
    for _ in range(12):
        values = draw.normal(-0.4, 1.0, 26)
        left, right = np.sort(signs @ np.abs(values[:13])), signs @ np.abs(values[13:])
        exact = np.searchsorted(left, values.sum() + 1e-9 - right, side="right").sum() / 2**26
        assert worse(values) == pytest.approx(exact, rel=0.03)
        assert worse(values) + worse(-values) == pytest.approx(1.0, abs=1e-6)
    assert worse(-np.geomspace(1, 2, 30)) == 0.5**30
    even = np.geomspace(1, 2, 15)
    assert worse(np.concatenate([even, -even])) == 0.5
    around = [worse(np.concatenate([even, -even + shift])) for shift in np.linspace(-0.01, 0.01, 21)]
    assert around == sorted(around)


@pytest.mark.slow
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.data())
def test_laws_of_worse(values: list[float], data: st.DataObject) -> None:
    values = [round(value, 3) for value in values]
    p = worse(values)
    assert 0.5 ** len(values) <= p <= 1.0
    assert worse(data.draw(st.permutations(values))) == pytest.approx(p, abs=1e-12)
    assert worse([7 * value for value in values]) == pytest.approx(p, abs=1e-12)
    assert worse([*values, 0.0, math.nan]) == pytest.approx(p, abs=1e-12)
    assert p + worse([-value for value in values]) >= 1.0 - 1e-12
    place = data.draw(st.integers(0, len(values) - 1))
    lower = [value - 0.25 * (i == place) for i, value in enumerate(values)]
    assert worse(lower) <= p + 1e-12


def test_repeats_of_a_question_are_one_observation() -> None:
    repeats = [-1.0, -1.0, -1.0, -1.0, 0.5, 0.5, -0.5, math.nan]
    names = ["a", "a", "a", "b", "c", "c", "c", "b"]
    assert worse(repeats, questions=names) == worse([-1.0, -1.0, 0.5 / 3]) == 0.25
    assert worse(repeats) < 0.25


def test_worse_of_nothing_says_nothing() -> None:
    assert worse([]) == worse([0.0, 0.0]) == worse([math.nan]) == worse([0.1 + 0.2 - 0.3]) == 1.0
    with pytest.raises(ConfigError, match="infinite"):
        worse([0.0, -math.inf])
    with pytest.raises(ConfigError, match="2 questions for 1 differences"):
        worse([0.0], questions=["a", "b"])


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("pocock", [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
        ("obrien-fleming", [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
    ],
)
def test_levels_of_five_looks_are_those_of_the_tables(kind: SpendingKind, limits: list[float]) -> None:
    levels = spend(0.025, (0.2, 0.4, 0.6, 0.8, 1.0), kind)
    assert [-NormalDist().inv_cdf(level) for level in levels] == pytest.approx(limits, abs=2e-4)


@pytest.mark.parametrize("kind", ["pocock", "obrien-fleming"])
@pytest.mark.parametrize("shares", [(1.0,), (8 / 30, 16 / 30, 1.0), (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)])
def test_levels_spend_alpha_and_no_more(kind: SpendingKind, shares: tuple[float, ...]) -> None:
    alpha, runs = 0.1, 40_000
    levels = spend(alpha, shares, kind)
    assert all(0 < level <= alpha + 1e-12 for level in levels)
    steps = np.random.default_rng(6).normal(size=(runs, len(shares))) * np.sqrt(np.diff([0.0, *shares]))
    z = np.cumsum(steps, axis=1) / np.sqrt(shares)
    crossed = (z > [-NormalDist().inv_cdf(level) for level in levels]).any(axis=1).mean()
    assert crossed == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / runs))


def test_levels_grow_with_alpha_and_end_early_when_the_looks_do() -> None:
    assert spend(0.05, (1.0,)) == (pytest.approx(0.05),)
    shares = (0.25, 0.5, 1.0)
    assert all(a < b for a, b in zip(spend(0.05, shares), spend(0.1, shares), strict=True))
    assert spend(0.05, shares)[:2] == pytest.approx(spend(0.05, shares[:2]))
    late = spend(0.05, shares, "obrien-fleming")
    assert late[0] < spend(0.05, shares)[0]
    assert late[-1] > spend(0.05, shares)[-1]
    for shares in ((), (0.0, 1.0), (0.5, 0.5), (0.5, 1.2), (1.0, 0.5), (math.nan,)):
        with pytest.raises(ConfigError, match="information"):
            spend(0.05, shares)
    for alpha in (0.0, 0.7, math.nan):
        with pytest.raises(ConfigError, match="alpha"):
            spend(alpha, (1.0,))
    with pytest.raises(ConfigError, match="pocock"):
        spend(0.05, (1.0,), "even")  # type: ignore[arg-type]


@pytest.mark.parametrize("repeats", [1, 4])
def test_an_equal_program_is_hardly_ever_dropped_and_a_bad_one_is(repeats: int) -> None:
    alpha, runs, looks = 0.1, 300, (8, 16, 30)
    levels = spend(alpha, [look / 30 for look in looks])
    draw = np.random.default_rng(11)
    dropped = {0.0: 0, 0.35: 0}
    for gap in dropped:
        for _ in range(runs):
            chance = draw.beta(2, 1, 30)
            incumbent = draw.binomial(repeats, chance) / repeats
            challenger = draw.binomial(repeats, np.clip(chance - gap, 0, 1)) / repeats
            differences = challenger - incumbent
            dropped[gap] += any(worse(differences[:n]) <= level for n, level in zip(looks, levels, strict=True))
    assert 0 < dropped[0.0] / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
    assert dropped[0.35] / runs > 0.6


def test_draws_of_questions() -> None:
    draws = resamples(12, 500, seed=3)
    assert draws.shape == (500, 12)
    assert set(draws.ravel().tolist()) == set(range(12))
    assert (draws == resamples(12, 500, seed=3)).all()
    assert (draws != resamples(12, 500, seed=4)).any()
    # the mean of a draw has the variance of the values over their number
    values = np.arange(12.0)
    assert values[resamples(12, 20_000, seed=0)].mean(axis=1).var() == pytest.approx(values.var() / 12, rel=0.05)
    assert resamples(1, 3, seed=0).tolist() == [[0], [0], [0]]
    for n, count in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="resamples"):
            resamples(n, count, seed=0)


def test_shrinkage_by_hand() -> None:
    # scatter (0.1² + 0.1²) / 0.01 = 2, one too many for k - 1 = 1; tau² = 1 / (200 - 100) = 0.01: half is noise
    high, low = shrink([0.7, 0.5], [0.01, 0.01])
    assert (high.mean, low.mean) == (pytest.approx(0.65), pytest.approx(0.55))
    assert high.weight == low.weight == pytest.approx(0.5)
    # 0.01 (1 - 0.5 * 1 / 6) + 2 / 3 * 0.25 * 0.01
    assert high.variance == pytest.approx(0.01 * 11 / 12 + 0.01 / 6)
    # closer together than noise alone would put them: all of it is noise
    assert [arm.mean for arm in shrink([0.6, 0.5, 0.55], [0.01] * 3)] == pytest.approx([0.55] * 3)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.05)), min_size=1, max_size=12),
    st.floats(-3, 3),
    st.randoms(use_true_random=False),
)
def test_laws_of_shrinkage(arms: list[tuple[float, float]], shift: float, order: random.Random) -> None:
    means, variances = [mean for mean, _ in arms], [noise for _, noise in arms]
    found = shrink(means, variances)
    assert all(0.0 <= arm.weight <= 1.0 and arm.variance >= 0 for arm in found)
    low, high = min(means), max(means)
    assert all(low - 1e-9 <= arm.mean <= high + 1e-9 for arm in found)
    moved = shrink([mean + shift for mean in means], variances)
    assert [arm.mean - shift for arm in moved] == pytest.approx([arm.mean for arm in found], abs=1e-6)
    places = list(range(len(arms)))
    order.shuffle(places)
    shuffled = shrink([means[i] for i in places], [variances[i] for i in places])
    assert [arm.mean for arm in shuffled] == pytest.approx([found[i].mean for i in places], abs=1e-6)


def test_shrinkage_of_next_to_nothing() -> None:
    assert shrink([], []) == []
    assert shrink([0.4], [0.01]) == [(0.4, 0.01, 1.0)]
    assert shrink([0.4, 0.8], [0.0, 0.0]) == [(0.4, 0.0, 1.0), (0.8, 0.0, 1.0)]
    assert [arm.weight for arm in shrink([0.4, 0.8], [5e-324, 1e-300])] == [1.0, 1.0]  # nothing, to a square
    perfect, _, _ = shrink([1.0, 0.6, 0.5], [0.0, 0.008, 0.008])  # all right on every question is luck too
    assert perfect.mean < 1.0
    assert perfect.variance > 0.0
    for means, variances in (([0.5], []), ([math.nan], [0.1]), ([0.5], [-0.1]), ([0.5], [math.inf])):
        with pytest.raises(ConfigError, match="shrink"):
            shrink(means, variances)


@pytest.mark.parametrize("arms", [2, 4, 32])
def test_shrinkage_takes_the_luck_out_of_the_highest(arms: int) -> None:
    draw = np.random.default_rng(9)
    raw, drawn, covered, runs = 0.0, 0.0, 0, 400
    for _ in range(runs):
        truth = 0.5 + 0.03 * draw.normal(size=arms)
        noise = np.full(arms, 0.06**2)
        means = truth + np.sqrt(noise) * draw.normal(size=arms)
        found = shrink(means.tolist(), noise.tolist())
        best = int(means.argmax())
        raw += (means[best] - truth[best]) / runs
        drawn += (found[best].mean - truth[best]) / runs
        covered += abs(found[best].mean - truth[best]) < 1.96 * math.sqrt(found[best].variance)
    assert raw > 0.02
    assert abs(drawn) < 0.5 * raw
    assert covered / runs > 0.9
