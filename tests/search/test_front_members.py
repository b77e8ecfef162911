"""The front of a search and how sure it is, on hand-made trials and rows."""

from __future__ import annotations

import math
import random

import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search import TrialRecord
from pdr_dspy.search.front_members import by_question, cheapest_within, estimated_front, members
from pdr_dspy.search.racing.pareto import Limits


def trial(number: int, pooled: float, total: float, *, sequential: float | None = None, **more: object) -> TrialRecord:
    cost = total / 2 if sequential is None else sequential
    values = {"state": "measured", "origin": "search", "score": pooled, "pooled": pooled, "pooled_sd": 0.02, **more}
    return TrialRecord(number=number, schedule=Schedule(), sequential=cost, total=total, **values)  # type: ignore[arg-type]


def rows(score: float, total: int, *, count: int = 40, seed: int = 0, repeats: int = 1) -> list[Row]:
    """Questions of which a share is right, at about so many tokens."""
    draw = random.Random(seed)
    return [
        Row(
            id=f"q{question:02d}",
            repeat=repeat,
            seed=repeat,
            score=float(question < round(score * count)),
            sequential=total // 2,
            total=total + draw.randrange(10),
        )
        for question in range(count)
        for repeat in range(repeats)
    ]


CHEAP, MIDDLE, BEST = trial(1, 0.40, 100), trial(2, 0.58, 200), trial(3, 0.60, 1600)
WORSE, GONE = trial(4, 0.50, 900), trial(5, 0.95, 50, state="dropped")
TRIALS = [BEST, WORSE, CHEAP, GONE, MIDDLE]
ROWS = {1: rows(0.40, 100), 2: rows(0.55, 200), 3: rows(0.65, 1600), 4: rows(0.50, 900)}


def test_the_front_goes_by_pooled_scores_of_whole_trials() -> None:
    assert [t.number for t in estimated_front(TRIALS)] == [1, 2, 3]
    lucky = trial(6, 0.39, 150, score=0.9)
    assert lucky not in estimated_front([*TRIALS, lucky])
    narrow = trial(7, 0.5, 1000, sequential=10)
    assert narrow in estimated_front([*TRIALS, narrow])
    assert narrow not in estimated_front([*TRIALS, narrow], ("total",))


def test_the_cheapest_within_a_margin_of_the_best() -> None:
    assert cheapest_within(0.0, TRIALS).number == 3
    assert cheapest_within(0.01, TRIALS).number == 3
    assert cheapest_within(0.02, TRIALS).number == 2
    assert cheapest_within(1.0, TRIALS).number == 1
    assert cheapest_within(0.0, TRIALS, Limits(total=500)).number == 2
    for delta in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="difference of scores"):
            cheapest_within(delta, TRIALS)
    with pytest.raises(ConfigError, match="no complete trial is within"):
        cheapest_within(0.1, TRIALS, Limits(sequential=5))


def test_members_have_bands_chances_deficits_and_the_knee() -> None:
    found = {member.trial.number: member for member in members(TRIALS, ROWS)}
    assert list(found) == [1, 2, 3]
    for member in found.values():
        low, high = member.bands.score
        assert low < member.trial.pooled < high
        assert member.bands.total.low < member.trial.total < member.bands.total.high
    assert found[1].nondominated == 1.0  # nothing costs less
    assert found[2].nondominated > 0.99
    assert found[3].nondominated > 0.9
    assert (found[3].deficit, found[3].interval) == (0.0, (0.0, 0.0))
    assert found[1].deficit == pytest.approx(0.20)
    assert found[1].interval.low < 0.25 < found[1].interval.high  # of the rows' own difference
    assert found[2].knee == ("sequential", "total")
    assert found[1].knee == found[3].knee == ()


def test_bands_stand_around_the_pooled_estimate_and_stay_scores() -> None:
    high = trial(1, 0.97, 100)
    (member,) = members([high], {1: rows(0.5, 100)})
    assert member.bands.score.high == 1.0
    assert 0.7 < member.bands.score.low < 0.97


def test_without_rows_the_bands_say_nothing() -> None:
    found = members(TRIALS, {3: ROWS[3]})
    assert [member.trial.number for member in found] == [1, 2, 3]
    assert found[0].bands == ((0.0, 1.0), (0.0, math.inf), (0.0, math.inf))
    assert math.isnan(found[0].nondominated)
    assert found[0].interval == (-1.0, 1.0)
    assert found[2].bands.score.high < 1.0
    assert [m.bands for m in members(TRIALS, {})] == [found[0].bands] * 3
    assert members([GONE], {}) == []


def test_deficits_count_from_the_best_within_the_limits() -> None:
    found = {m.trial.number: m.deficit for m in members(TRIALS, ROWS, Limits(total=500))}
    assert found[2] == 0.0
    assert found[3] == pytest.approx(-0.02)


def test_more_runs_of_a_question_count_as_one_question() -> None:
    means = by_question(rows(0.5, 100, count=4, repeats=3))
    assert len(means) == 4
    assert means["q00"].score == 1.0
    assert means["q03"].sequential == 50
