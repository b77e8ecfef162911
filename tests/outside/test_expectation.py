"""Expected scores of picks: laws, hand-made values, and enumeration against the sums."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean

import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.statistics import pass_at_k
from studies.calculator import Expected, fitted, table
from studies.expectation import (
    Drafts,
    best_of,
    beta_binomial,
    by_check,
    by_vote,
    chosen,
    over_samples,
    vote_wins,
)

COUNTS = [(3, 5, 0), (1, 4, 3), (0, 6, 2), (8, 0, 0), (2, 0, 6), (4, 4, 0)]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_a_perfect_check_is_pass_at_n(counts: tuple[int, int, int], n: int) -> None:
    assert best_of(counts, n, 0.0, 0.0) == pytest.approx(pass_at_k(sum(counts), counts[0], n))


@pytest.mark.parametrize("passes", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_a_check_that_does_not_look_is_one_pass(passes: float, n: int) -> None:
    for right in range(9):
        assert best_of((right, 8 - right, 0), n, passes, 1 - passes) == pytest.approx(right / 8)


@pytest.mark.parametrize("counts", COUNTS)
def test_more_errors_are_never_better(counts: tuple[int, int, int]) -> None:
    for n, rate in itertools.product((1, 2, 4, 8), (0.0, 0.1, 0.4)):
        by_positive = [best_of(counts, n, p / 10, rate) for p in range(10 - round(10 * rate) + 1)]
        by_negative = [best_of(counts, n, rate, p / 10) for p in range(10 - round(10 * rate) + 1)]
        for values in (by_positive, by_negative):
            assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))


def test_more_drafts_are_never_worse_for_a_check_that_is_better_than_a_coin() -> None:
    for counts, errs in itertools.product(COUNTS, (0.0, 0.1, 0.3, 0.45)):
        values = [best_of(counts, n, errs, errs) for n in range(1, 9)]
        assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values))


def test_by_hand() -> None:
    """One right and one wrong draft, errors 0.25: both right 9/16 (1), both pass or none 3/16 each (1/2)."""
    assert chosen(1, 1, 0.25, 0.25) == pytest.approx(9 / 16 + 6 / 16 / 2)
    assert chosen(0, 3, 0.5, 0.5) == 0.0
    assert best_of((1, 0, 1), 1, 0.5, 0.5) == 0.5
    assert best_of((1, 0, 1), 2, 0.5, 0.5) == 1.0  # what cannot be read is not picked


def test_sums_are_what_samples_give() -> None:
    source = random.Random(0)
    kinds = [1] * 3 + [0] * 4 + [None]
    scores = []
    for _ in range(20_000):
        drafts = source.sample(kinds, 4)
        readable = [kind for kind in drafts if kind is not None]
        passing = [k for k in readable if source.random() < (0.8 if k else 0.3)]
        pool = passing or readable
        scores.append(source.choice(pool) if pool else 0)
    assert best_of((3, 4, 1), 4, 0.3, 0.2) == pytest.approx(fmean(scores), abs=0.01)


def test_votes_and_checks_over_all_samples() -> None:
    drafts = Drafts((1.0, 1.0, 0.0, 0.0), (0.5, 1.0, 1.0, None), (0, 0, 1, None))
    assert by_vote(drafts) == 1.0
    assert by_check(drafts) == 0.5  # a right and a wrong one have the highest check, and answer apart
    assert over_samples(drafts, 1, by_vote) == 0.5
    assert over_samples(drafts, 2, by_vote) == pytest.approx((1 + 0.5 + 1 + 0.5 + 1 + 0) / 6)
    assert by_vote(Drafts((0.0,), (None,), (None,))) == 0.0


@pytest.mark.parametrize(("right", "wrong", "answers"), [(2, 3, 2), (1, 3, 3), (2, 4, 4), (3, 3, 1), (1, 1, 5)])
def test_votes_against_every_way_to_be_wrong(right: int, wrong: int, answers: int) -> None:
    shares = []
    for ways in itertools.product(range(answers), repeat=wrong):
        counts = [ways.count(answer) for answer in range(answers)]
        most = max(counts)
        shares.append(0.0 if most > right else 1 / (1 + counts.count(right)) if most == right else 1.0)
    assert vote_wins(right, wrong, answers) == pytest.approx(fmean(shares))


def test_votes_lie_between_their_neighbours_where_answers_are_no_whole_number() -> None:
    values = [vote_wins(2, 5, answers) for answers in (1.0, 1.5, 2.0, 2.7, 3.0, 50.0, math.inf)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    assert (values[0], values[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.1, 0.6, 0.999, 1.0])
def test_the_number_of_right_drafts_has_the_mean_and_the_correlation(spread: float) -> None:
    chances = beta_binomial(8, 0.3, spread)
    assert math.fsum(chances) == pytest.approx(1.0)
    assert min(chances) >= 0.0
    assert math.fsum(k * p for k, p in enumerate(chances)) == pytest.approx(8 * 0.3)
    both = beta_binomial(2, 0.3, spread)[2]
    assert both == pytest.approx(0.3**2 + spread * 0.3 * 0.7)


# ----------------------------------------------------------------------------------------------------- calculator


@pytest.mark.parametrize("any_of", [{8: 0.56}, {2: 0.46, 8: 0.56}, {4: 0.5}])
def test_the_calculator_meets_what_it_is_given(any_of: dict[int, float]) -> None:
    made = Expected.of(0.36, any_of)
    assert made.any(1) == pytest.approx(0.36)
    for k, share in any_of.items():
        assert made.any(k) == pytest.approx(share, abs=1e-6)


def test_the_laws_of_the_calculator() -> None:
    perfect = Expected.of(0.36, {2: 0.46, 8: 0.56})
    for n in (1, 2, 8, 16):
        assert perfect.best(n) == pytest.approx(perfect.any(n))
        blind = Expected.of(0.36, {2: 0.46, 8: 0.56}, false_positive=0.3, false_negative=0.7)
        assert blind.best(n) == pytest.approx(0.36)
    values = [Expected.of(0.36, {8: 0.56}, false_positive=p, false_negative=p).best(8) for p in (0, 0.1, 0.3, 0.5)]
    assert values == sorted(values, reverse=True)
    alike = Expected(0.4, 0.0, agreement=0.16)  # wrong drafts never agree
    assert alike.vote(9) == pytest.approx(
        sum(p for k, p in enumerate(beta_binomial(9, 0.4, 0.0)) if k > 1) + beta_binomial(9, 0.4, 0.0)[1] / 9
    )
    two = Expected(0.4, 0.0, agreement=0.4**2 + 0.6**2)  # a single wrong answer: the majority of all
    assert two.vote(9) == pytest.approx(sum(beta_binomial(9, 0.4, 0.0)[5:]))
    assert "| 8 | " in table(two, [8])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"one": 1.2}, "one=1.2"),
        ({"one": 0.5, "never": 0.6}, "never=0.6"),
        ({"one": 0.5, "spread": 0.5, "agreement": 0.1}, "agreement=0.1"),
    ],
)
def test_figures_that_cannot_be_are_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Expected(**settings)
    with pytest.raises(ConfigError, match="lies between"):
        Expected.of(0.5, {2: 0.9})
    with pytest.raises(ConfigError, match="give it"):
        Expected(0.5).vote(3)


@pytest.mark.slow
def test_the_calculator_finds_the_figures_of_drafts_that_follow_it() -> None:
    """300 questions: 30 % are never solved, the others half of the time; wrong drafts spread over four answers."""
    source = random.Random(1)
    questions = []
    for number in range(300):
        chance = 0.0 if number % 10 < 3 else 0.5
        right = [source.random() < chance for _ in range(8)]
        answers = tuple(0 if good else source.randint(1, 4) for good in right)
        checks = tuple(float(source.random() < (0.9 if good else 0.2)) for good in right)
        questions.append(Drafts(tuple(map(float, right)), checks, answers))
    found = fitted(questions, 0.5)
    assert found.one == pytest.approx(0.35, abs=0.03)
    assert found.never == pytest.approx(0.3, abs=0.05)
    assert (found.false_positive, found.false_negative) == pytest.approx((0.2, 0.1), abs=0.03)
    assert found.wrong_answers == pytest.approx(4.0, rel=0.15)
    for n in (2, 4, 8):
        apart = [drafts._replace(answers=tuple(range(8))) for drafts in questions]  # ties are not broken by votes
        assert found.best(n) == pytest.approx(fmean(over_samples(d, n, by_check) for d in apart), abs=0.02)
        assert found.vote(n) == pytest.approx(fmean(over_samples(d, n, by_vote) for d in questions), abs=0.03)
