"""What each operator's choice brought: measured where a trial has it set back, else estimated, else unknown."""

from __future__ import annotations

import random
from statistics import correlation

import pytest

from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.statistics import Interval
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.credit import Credit, credits_of
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.space.candidate import Candidate, describe_candidate

WIDTHS = (1, 2, 4, 8)
QUESTIONS = 40


def trial(number: int, **widths: int) -> TrialRecord:
    parts = {place: Candidate(Schedule(widths=(width,), final="vote"), {}) for place, width in widths.items()}
    described = {place: describe_candidate(part) for place, part in parts.items()}
    first = next(iter(parts.values()))
    return TrialRecord(number=number, origin="search", state="measured", schedule=first.schedule, parts=described)


def rows(*scores: float, seed: int = 0) -> list[Row]:
    return [Row(id=f"q{place}", repeat=0, seed=seed, score=score) for place, score in enumerate(scores)]


def test_a_trial_with_the_operator_set_back_is_compared_run_by_run() -> None:
    trials = [trial(0, a=1, b=1), trial(1, a=8, b=1), trial(2, a=8, b=4)]
    made = {
        0: rows(0, 0, 0, 0),
        1: rows(1, 0, 1, 0),
        2: [*rows(1, 1, 1, 0), *rows(0, 0, 0, 0, seed=9)],  # fresh seeds that the other did not run on
    }
    found = credits_of(trials, made, trials[2])
    assert found["b"].gain == 0.25
    assert found["b"].trial == 1
    assert found["b"].interval is not None
    assert found["b"].interval.low < 0.25 < found["b"].interval.high
    assert str(found["b"]).endswith(", trial 1")
    assert found["a"].trial is None  # (1, 4) did not run
    assert found["a"].source == "an estimate"


def test_an_operator_as_the_student_has_it_brought_nothing() -> None:
    trials = [trial(0, a=1, b=1), trial(1, a=8, b=1)]
    found = credits_of(trials, {0: rows(0, 0, 1), 1: rows(1, 1, 1)}, trials[1])
    assert found["b"] == Credit(0.0, Interval(0.0, 0.0), same=True)
    assert str(found["b"]) == "it has the student's"
    assert found["a"].gain == pytest.approx(2 / 3)
    assert all(one.same for one in credits_of(trials, {}, trials[0]).values())


@pytest.mark.parametrize("made", [{}, {2: rows(1, 1)}, {0: rows(0, 1), 2: rows(1, 1)}])
def test_what_too_few_trials_show_is_unknown(made: dict[int, list[Row]]) -> None:
    trials = [trial(0, a=1, b=1), trial(1, a=8, b=1), trial(2, a=8, b=4)]
    found = credits_of(trials, made, trials[2])
    assert found == {"a": Credit(None), "b": Credit(None)}
    assert str(found["a"]) == "unknown"


def test_one_schedule_for_all_operators_has_no_credits() -> None:
    one = TrialRecord(number=0, origin="student", state="measured", schedule=Schedule(widths=(1,)))
    assert credits_of([one], {0: rows(1, 0)}, one) == {}


def test_an_operator_that_stays_unchanged_is_left_out() -> None:
    trials = [trial(0, a=1), trial(1, a=2)]
    assert list(credits_of(trials, {0: rows(1, 0), 1: rows(1, 1)}, trials[1])) == ["a"]


def simulated(seed: int) -> tuple[list[TrialRecord], dict[int, list[Row]], dict[str, float]]:
    """Trials in which each doubling of a width is worth something drawn, and the true gains of the last."""
    rng = random.Random(seed)
    steps = {"a": rng.gauss(0.0, 0.05), "b": rng.gauss(0.0, 0.05)}
    trials = [trial(0, a=1, b=1)]
    every = [(a, b) for a in WIDTHS for b in WIDTHS if (a, b) not in ((1, 1), (8, 1), (1, 4), (8, 4))]
    for a, b in [*rng.sample(every, 9), (8, 4)]:
        trials.append(trial(len(trials), a=a, b=b))
    ease = [rng.uniform(0.3, 0.7) for _ in range(QUESTIONS)]
    made = {}
    for one in trials:
        gain = sum(steps[p] * WIDTHS.index(part.schedule.widths[0]) for p, part in one.candidate.parts.items())
        made[one.number] = rows(*(float(rng.random() < easy + gain) for easy in ease))
    return trials, made, {"a": 3 * steps["a"], "b": 2 * steps["b"]}


@pytest.mark.slow
def test_estimates_find_what_operators_bring_and_their_intervals_hold() -> None:
    held, estimates, truths = 0, [], []
    for seed in range(40):
        trials, made, truth = simulated(seed)
        for place, one in credits_of(trials, made, trials[-1]).items():
            assert one.trial is None
            assert one.gain is not None
            assert one.interval is not None
            estimates.append(one.gain)
            truths.append(truth[place])
            held += one.interval.low <= truth[place] <= one.interval.high
    assert held >= 70  # of 80
    assert correlation(estimates, truths) > 0.6


def test_the_order_of_trials_and_rows_does_not_matter() -> None:
    trials, made, _ = simulated(3)
    found = credits_of(trials, made, trials[-1])
    mixed = [trials[0], *reversed(trials[1:])]
    again = credits_of(mixed, {number: own[::-1] for number, own in made.items()}, trials[-1])
    for place, one in found.items():
        assert again[place].gain == pytest.approx(one.gain, abs=1e-6)
