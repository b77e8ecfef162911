"""By hand, by brute force, and by seeded simulation against known truths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.statistics import paired, score_interval, wilson, worse
from pdr_dspy.search.racing.resampling import (
    Outcomes,
    bands,
    cheapest_within,
    confidently_dominated,
    knee,
    optimism,
    probability_nondominated,
    shrunk,
)

NAN = math.nan


def outcomes(*rows: tuple[Sequence[float], float, float]) -> Outcomes:
    """Programs as (scores, sequential, total): costs are the same on every question that was run."""
    score = np.array([scores for scores, _, _ in rows], dtype=float)
    ran = np.where(np.isnan(score), NAN, 1.0)
    return Outcomes(score, ran * [[s] for _, s, _ in rows], ran * [[t] for _, _, t in rows])


def simulated(draw: np.random.Generator, chances: Any, costs: Any, *, repeats: int = 4) -> Outcomes:
    """Programs [K, N] with a chance to be right, and log-normal costs about [K]."""
    chances = np.asarray(chances)
    tokens = np.asarray(costs)[:, None] * np.exp(0.3 * draw.normal(size=chances.shape))
    return Outcomes(draw.binomial(repeats, chances) / repeats, tokens / 2, tokens)


def reordered(table: Outcomes, programs: Any, questions: Any) -> Outcomes:
    return Outcomes(*(axis[np.ix_(programs, questions)] for axis in (table.score, table.sequential, table.total)))


def test_outcomes_that_cannot_be_are_refused() -> None:
    one = np.array([[0.5, 1.0]])
    for score, sequential, total, why in (
        (one, one[:, :1], one, "shape"),
        (one[0], one[0], one[0], "shape"),
        (one, np.array([[1.0, NAN]]), one, "nan in the same places"),
        (one * 2, one, one, r"scores are in \[0, 1\]"),
        (one, -one, one, "not negative"),
        (one, one, one * math.inf, "finite"),
    ):
        with pytest.raises(ConfigError, match=why):
            Outcomes(score, sequential, total)
    table = Outcomes(one, one, one)
    with pytest.raises(ValueError, match="read-only"):
        table.score[0, 0] = 0.0
    assert one.flags.writeable


def test_bands_lie_about_the_means_and_narrow_with_more_questions() -> None:
    draw = np.random.default_rng(1)
    chances = np.tile(draw.beta(2, 2, 64), (3, 1))
    table = simulated(draw, chances, [100.0, 300.0, 900.0])
    few = reordered(table, [0, 1, 2], range(16))
    for program, (wide, narrow) in enumerate(zip(bands(few), bands(table), strict=True)):
        for axis, wider, narrower in zip(("score", "sequential", "total"), wide, narrow, strict=True):
            assert narrower.low < getattr(table, axis)[program].mean() < narrower.high
            assert narrower.high - narrower.low < wider.high - wider.low
        assert wide.score.low >= 0.0
        assert wide.score.high <= 1.0
    assert bands(table) == bands(table)
    assert bands(table, seed=1) != bands(table)
    tight, loose = bands(table, level=0.5)[0].total, bands(table)[0].total
    assert tight.high - tight.low < loose.high - loose.low


def test_a_programs_band_is_its_own() -> None:
    draw = np.random.default_rng(2)
    table = simulated(draw, draw.beta(2, 2, (4, 20)), [10.0, 20.0, 30.0, 40.0])
    found = bands(table)
    assert bands(reordered(table, [2, 0], range(20))) == [found[2], found[0]]


def test_bands_of_scores_that_do_not_vary() -> None:
    right, half, mixed, one, none = bands(
        outcomes(
            ([1.0] * 4, 10.0, 20.0),
            ([0.5] * 4, 10.0, 20.0),
            ([1.0, 0.0, 0.0, 1.0], 10.0, 20.0),
            ([1.0, NAN, NAN, NAN], 10.0, 20.0),
            ([NAN] * 4, 10.0, 20.0),
        )
    )
    assert right.score == wilson(4, 4)
    assert half.score == score_interval([0.5] * 4)
    assert mixed.score == wilson(2, 4)
    assert right.total == (20.0, 20.0)
    assert one == none == ((0.0, 1.0), (0.0, math.inf), (0.0, math.inf))


@pytest.mark.parametrize("n", [8, 30])
def test_bands_hold_the_truth_as_often_as_they_say(n: int) -> None:
    draw = np.random.default_rng(n)
    programs = 300
    found = bands(simulated(draw, draw.beta(2, 2, (programs, n)), np.full(programs, 500.0)), count=1000)
    scores = np.mean([band.score.low <= 0.5 <= band.score.high for band in found])
    tokens = np.mean([band.total.low <= 500.0 * math.exp(0.045) <= band.total.high for band in found])
    margin = 4 * math.sqrt(0.95 * 0.05 / programs)
    assert scores > 0.95 - margin
    assert tokens > 0.95 - margin


def test_what_dominates_on_every_question_dominates_in_every_draw() -> None:
    good = [0.9, 0.6, 0.7, 0.8]
    bad = [0.8, 0.5, 0.6, 0.7]
    assert probability_nondominated(outcomes((good, 10, 20), (bad, 10, 20))) == [1.0, 0.0]
    assert probability_nondominated(outcomes((good, 10, 20), (bad, 9, 20))) == [1.0, 1.0]
    assert probability_nondominated(outcomes((good, 10, 20), (bad, 9, 20)), ("total",)) == [1.0, 0.0]
    assert probability_nondominated(outcomes((good, 10, 20), (good, 10, 20))) == [1.0, 1.0]
    assert probability_nondominated(outcomes((good, 10, 20), (good, 10, 21))) == [1.0, 0.0]


def test_the_probability_is_that_of_every_possible_draw() -> None:
    # three questions have 27 draws; the dear one is no better than the cheap one unless question 3 outweighs 1
    cheap, dear = [1.0, 0.5, 0.0], [0.0, 0.5, 1.0]
    better = sum(
        draw.count(2) > draw.count(0) for draw in ((a, b, c) for a in range(3) for b in range(3) for c in range(3))
    )
    cheapest, dearest = probability_nondominated(outcomes((cheap, 1, 1), (dear, 2, 2)), count=40_000)
    assert cheapest == 1.0
    assert dearest == pytest.approx(better / 27, abs=4 * math.sqrt(0.25 / 40_000))


def test_programs_are_compared_on_the_questions_that_both_ran_on() -> None:
    full = [0.0, 0.0, 1.0, 1.0]
    part = [0.5, 0.5, NAN, NAN]  # better where it ran, though its mean is no higher
    once = [NAN, NAN, NAN, 0.0]
    never = [NAN] * 4
    chances = probability_nondominated(outcomes((full, 2, 2), (part, 1, 1), (once, 9, 9), (never, 0, 0)))
    assert chances[:3] == [0.0, 1.0, 1.0]
    assert math.isnan(chances[3])


def test_the_order_of_programs_does_not_matter() -> None:
    draw = np.random.default_rng(3)
    table = simulated(draw, draw.beta(2, 2, (6, 12)), np.geomspace(10, 60, 6))
    order = draw.permutation(6)
    found = probability_nondominated(table, count=300)
    assert probability_nondominated(reordered(table, order, range(12)), count=300) == [found[i] for i in order]
    scaled = Outcomes(table.score, table.sequential * 7, table.total * 7)
    assert probability_nondominated(scaled, count=300) == found
    assert max(found) > 0.5
    assert found[0] == 1.0  # nothing that costs more on every axis can beat the cheapest


def test_the_knee_of_a_front() -> None:
    assert knee([10.0], [0.5]) == 0
    assert knee([20.0, 10.0], [0.9, 0.2]) == 1  # two points have no bend
    # log costs 1, 2, 3 decades: heights above the chord 0, 0.25, 0
    assert knee([1000.0, 10.0, 100.0], [0.8, 0.2, 0.75]) == 2
    assert knee([10.0, 100.0, 1000.0], [0.2, 0.25, 0.8]) == 0  # below the chord: no knee, the cheapest
    assert knee([10.0, 11.0, 100.0, 1000.0, 50.0], [0.2, 0.1, 0.75, 0.8, 0.75]) == 4  # 1 and 2 are off the front
    assert knee([0.0, 0.5, 1.0], [0.2, 0.3, 0.4]) == 2  # less than a token is a token
    for costs, scores in (([], []), ([1.0], [])):
        with pytest.raises(ConfigError, match="knee"):
            knee(costs, scores)


def test_the_knee_does_not_depend_on_units_or_order() -> None:
    draw = np.random.default_rng(4)
    for _ in range(30):
        costs, scores = draw.uniform(10, 1e5, 9), draw.uniform(0, 1, 9)
        place = knee(costs.tolist(), scores.tolist())
        assert knee((costs * 13).tolist(), (0.1 + scores / 3).tolist()) == place
        order = draw.permutation(9)
        assert order[knee(costs[order].tolist(), scores[order].tolist())] == place
        assert not any((costs < costs[place]) & (scores >= scores[place]))


def test_the_cheapest_within_a_margin() -> None:
    best, near, far = [1.0, 0.9, 0.8, 0.9], [1.0, 0.85, 0.8, 0.87], [0.5, 0.4, 0.3, 0.4]
    table = outcomes((best, 40, 90), (near, 30, 60), (far, 10, 20), (near, 20, 60))
    found = cheapest_within(0.05, table)
    assert (found.program, found.best) == (3, 0)  # of equal totals the one with fewer sequential tokens
    assert found.deficit == pytest.approx(0.02)
    assert found.interval == paired(best, near).interval
    assert cheapest_within(0.0, table).program == 0
    assert cheapest_within(0.0, table).interval == (0.0, 0.0)
    assert cheapest_within(1.0, table).program == 2
    assert cheapest_within(1.0, table, confident=True).program == 2
    assert not found.confident
    sure = cheapest_within(0.05, table, confident=True)
    assert (sure.program, sure.confident) == (0, True)


def test_the_cheapest_within_costs_no_more_when_the_margin_grows() -> None:
    draw = np.random.default_rng(5)
    for confident in (False, True):
        table = simulated(draw, draw.beta(3, 2, (8, 25)), np.geomspace(10, 900, 8))
        spent = [
            table.total[cheapest_within(delta, table, confident=confident).program].mean()
            for delta in (0.0, 0.02, 0.1, 0.3, 1.0)
        ]
        assert spent == sorted(spent, reverse=True)
        assert spent[-1] == table.total.mean(axis=1).min()


def test_only_programs_that_ran_on_the_same_questions_are_within() -> None:
    full, part = [0.5, 0.6, 0.7], [1.0, NAN, NAN]
    assert cheapest_within(0.0, outcomes((full, 9, 9), (part, 1, 1))).program == 0
    assert cheapest_within(0.5, outcomes(([0.2], 9, 9), ([0.6], 10, 10))).program == 0
    # of sets of questions that are as large, the one that most programs ran on
    table = outcomes(([1.0, NAN], 1, 1), ([NAN, 0.5], 2, 2), ([NAN, 0.5], 3, 3))
    assert table.complete.tolist() == [1, 2]
    assert cheapest_within(0.0, table).program == 1
    with pytest.raises(ConfigError, match="was run on any question"):
        cheapest_within(0.1, outcomes(([NAN, NAN], 1, 1)))
    for delta in (-0.1, 2.0, NAN):
        with pytest.raises(ConfigError, match="delta"):
            cheapest_within(delta, table)


def test_optimism_by_hand() -> None:
    found = optimism([0.8, 0.7, 0.6], [0.7, 0.5, 0.6])  # differences .1 .2 0: t(2) 4.3027 times 0.1 / sqrt(3)
    assert found.mean == pytest.approx(0.1)
    assert found.interval == (pytest.approx(0.1 - 0.2484, abs=1e-4), pytest.approx(0.1 + 0.2484, abs=1e-4))
    by_question = optimism([[1.0, 0.5, 1.0], [0.5, 0.5, NAN]], [[0.5, 0.5, 0.9], [0.5, 0.0, 0.3]])
    assert by_question.mean == pytest.approx((0.25 + 0.25 + 0.1) / 3)
    assert optimism([0.5], [0.4]).interval == (-math.inf, math.inf)
    for race, fresh in (([0.5], [0.5, 0.5]), ([NAN], [0.5]), ([], []), (0.5, 0.5)):
        with pytest.raises(ConfigError, match="optimism"):
            optimism(race, fresh)


def test_optimism_is_found_where_there_is_some() -> None:
    draw = np.random.default_rng(6)
    chances = np.tile(draw.beta(2, 2, 30), (32, 1))  # all programs are the same
    found, held, runs = [], 0, 100
    for _ in range(runs):
        race, fresh = draw.binomial(1, chances) * 1.0, draw.binomial(4, chances) / 4
        top = np.argsort(-race.mean(axis=1))[:4]
        truth = float((race[top] - chances[top]).mean())
        estimate = optimism(race[top], fresh[top])
        found.append(estimate.mean)
        held += estimate.interval.low <= truth <= estimate.interval.high
    assert np.mean(found) > 0.08
    assert held / runs > 0.9


def test_shrunk_scores_keep_their_place_between_their_own_and_the_pool() -> None:
    draw = np.random.default_rng(7)
    difficulty = draw.beta(0.5, 0.5, 40)
    table = simulated(draw, np.clip(difficulty + np.linspace(-0.1, 0.1, 6)[:, None], 0, 1), np.ones(6), repeats=1)
    own, found = table.score.mean(axis=1), shrunk(table)
    pool = own.mean()
    for mean, one in zip(own, found, strict=True):
        assert min(mean, pool) - 0.02 <= one.mean <= max(mean, pool) + 0.02
        # questions differ far more than programs do: the interval knows it, the weight does not take it for noise
        assert one.variance > difficulty.var() / 40 / 2
    order = draw.permutation(6)
    again = shrunk(reordered(table, order, draw.permutation(40)))
    assert [one.mean for one in again] == pytest.approx([found[i].mean for i in order])


def test_shrunk_scores_of_programs_that_ran_on_few_questions() -> None:
    easy, hard = [0.9, 1.0, 0.9, 1.0], [0.1, 0.2, 0.0, 0.1]
    table = outcomes(
        ([*easy, *hard], 1, 1), ([*easy[::-1], *hard[::-1]], 1, 1), ([*easy, *[NAN] * 4], 1, 1), ([NAN] * 8, 1, 1)
    )
    first, second, part, never = shrunk(table)
    assert first.mean == pytest.approx(second.mean)
    assert part.mean == pytest.approx(first.mean, abs=0.05)  # not 0.95: it ran on the easy ones
    assert all(math.isnan(value) for value in never)
    (alone,) = shrunk(outcomes(([0.2, 0.4, 0.9], 1, 1)))
    assert alone.mean == pytest.approx(0.5)
    assert alone.weight == 1.0
    assert shrunk(outcomes(([0.5], 1, 1)))[0].mean == 0.5
    assert [one.mean for one in shrunk(outcomes(([0.5, 0.5], 1, 1), ([0.5, 0.5], 1, 1)))] == [0.5, 0.5]


def test_the_highest_shrunk_score_is_not_too_high() -> None:
    draw = np.random.default_rng(8)
    raw, kept, runs = 0.0, 0.0, 120
    for _ in range(runs):
        base = draw.beta(1, 1, 30)
        chances = np.clip(base + 0.04 * draw.normal(size=(16, 1)), 0, 1)
        table = simulated(draw, chances, np.ones(16), repeats=1)
        best = int(table.score.mean(axis=1).argmax())
        truth = chances[best].mean()
        raw += (table.score[best].mean() - truth) / runs
        kept += (shrunk(table)[best].mean - truth) / runs
    assert raw > 0.06
    assert abs(kept) < 0.35 * raw


def test_domination_needs_confidence_in_every_objective() -> None:
    good, bad = [1.0] * 9 + [0.0], [0.0] * 10
    table = outcomes((good, 10, 20), (bad, 10, 20), (bad, 9, 20), (bad, 11, 20), (good, 30, 40))
    assert worse([-1.0] * 9) == 1 / 512
    assert confidently_dominated(table, 1, [0], 0.05)  # equal costs are known to be equal
    assert not confidently_dominated(table, 2, [0], 0.05)  # cheaper in one
    assert confidently_dominated(table, 2, [0], 0.05, ("total",))
    assert confidently_dominated(table, 3, [0], 0.05)
    assert not confidently_dominated(table, 0, [1, 2, 3], 0.05)
    assert not confidently_dominated(table, 4, [0], 0.05)  # dearer, but nothing says that its score is lower
    assert not confidently_dominated(table, 1, [4], 0.05)  # worse, but cheaper
    assert confidently_dominated(table, 1, [4], 0.05, ())
    assert confidently_dominated(table, 1, [4, 0], 0.05)  # any one of them will do
    assert not confidently_dominated(table, 1, [], 0.05)
    assert not confidently_dominated(table, 1, [1], 0.05)


def test_domination_pays_for_a_choice_of_incumbents() -> None:
    good, bad = [1.0] * 5, [0.0] * 5  # p = 1/32
    table = outcomes((good, 1, 1), (bad, 1, 1), (good, 1, 1))
    assert confidently_dominated(table, 1, [0], 0.04)
    assert not confidently_dominated(table, 1, [0, 2], 0.04)
    assert not confidently_dominated(table, 1, [0], 0.04, among=8)
    assert confidently_dominated(table, 1, [0], 0.3, among=8)
    assert not confidently_dominated(outcomes(([1.0], 1, 1), ([0.0], 9, 9)), 1, [0], 0.4)  # one question
    assert not confidently_dominated(outcomes(([1.0, NAN], 1, 1), ([NAN, 0.0], 9, 9)), 1, [0], 0.4)  # none in common
    for alpha in (0.0, 0.5, NAN):
        with pytest.raises(ConfigError, match="alpha"):
            confidently_dominated(table, 1, [0], alpha)


@pytest.mark.slow
def test_domination_errs_no_more_than_alpha() -> None:
    draw = np.random.default_rng(9)
    alpha, runs = 0.1, 400
    equal = dearer = worst = 0
    for _ in range(runs):
        chance = draw.beta(2, 2, 20)
        table = simulated(draw, [chance, chance, np.clip(chance - 0.35, 0, 1)], [100.0, 200.0, 200.0])
        equal += confidently_dominated(table, 0, [1], alpha)
        dearer += confidently_dominated(table, 1, [0], alpha)  # truly dearer, and as good
        worst += confidently_dominated(table, 2, [0], alpha)
    margin = 3 * math.sqrt(alpha * (1 - alpha) / runs)
    assert equal == 0
    assert 0 < dearer / runs <= alpha + margin
    assert worst / runs > 0.8
