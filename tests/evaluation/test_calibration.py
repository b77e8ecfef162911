"""Thresholds of checks: chosen on training questions, held to questions that had no part in it."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from statistics import fmean
from typing import Any

import dspy
import pytest

from pdr_dspy import BestOfN, LongCoT, SelfConsistency, calls
from pdr_dspy.calls import CallError
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.evaluation import Judged, calibrate, calibration_of
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.verifiers import ExactVerifier
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks import Calibration


def simulated(questions: int, drafts: int, *, seed: int = 0, tells: float = 0.35, shift: float = 0.2) -> list[Judged]:
    """Answers to questions of different difficulty, whose check sees right from wrong as far as `tells`."""
    source = random.Random(seed)
    rows = []
    for question in range(questions):
        ease, taste = source.random(), source.gauss(0, shift)
        for _ in range(drafts):
            right = source.random() < ease
            score = 0.5 + (tells if right else -tells) + taste + source.gauss(0, 0.25)
            rows.append(Judged(str(question), min(1.0, max(0.0, score)), right))
    return rows


def test_a_check_that_knows_is_perfect() -> None:
    rows = [Judged(str(n), 0.9 if n % 2 else 0.2, bool(n % 2)) for n in range(40)]
    found = calibration_of(rows)
    assert 0.2 < found.threshold < 0.9
    assert (found.precision, found.recall, found.auc) == (1.0, 1.0, 1.0)
    low, high = found.precision_interval
    assert 0.8 < low < 0.9  # Wilson's, of 20 of 20
    assert high == 1.0
    assert found.auc_interval[0] < 1.0
    assert found.roc == ((0.0, 1.0, 0.9), (1.0, 1.0, 0.2))


def test_a_check_that_knows_nothing_is_chance() -> None:
    found = calibration_of(simulated(200, 4, tells=0.0))
    assert found.auc == pytest.approx(0.5, abs=0.05)
    assert found.auc_interval[0] < 0.5 < found.auc_interval[1]


def test_the_auc_is_the_chance_that_right_scores_above_wrong() -> None:
    rows = simulated(30, 3, seed=5)
    right, wrong = ([row.score or 0.0 for row in rows if row.right is side] for side in (True, False))
    pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    assert calibration_of(rows).auc == pytest.approx(sum(pairs) / len(pairs))


def test_the_curve_goes_up_to_the_right() -> None:
    found = calibration_of(simulated(300, 8))
    assert 50 < len(found.roc) <= 101
    for (x, y, level), (further, higher, lower) in pairwise(found.roc):
        assert further >= x
        assert higher >= y
        assert lower < level
    assert found.roc[-1][:2] == (1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.7, 0.85, 0.95])
def test_a_wanted_precision_is_reached_on_new_questions(target: float) -> None:
    found = calibration_of(simulated(400, 6), precision=target)
    passing = [row.right for row in simulated(4000, 6, seed=9) if (row.score or 0.0) >= found.threshold]
    truth = sum(passing) / len(passing)
    assert truth == pytest.approx(target, abs=0.04)
    assert found.precision == pytest.approx(truth, abs=0.05)
    low, high = found.precision_interval
    assert low <= truth <= high


@pytest.mark.slow
def test_intervals_hold_what_they_promise_with_several_answers_to_a_question() -> None:
    held = 0
    for seed in range(40):
        found = calibration_of(simulated(60, 8, seed=seed), precision=0.85, seed=seed)
        fresh = [row.right for row in simulated(600, 8, seed=10_000 + seed) if (row.score or 0.0) >= found.threshold]
        low, high = found.precision_interval
        held += low <= sum(fresh) / len(fresh) <= high
    assert held >= 33  # 38 expected of 40; by chance below this once in 100


@pytest.mark.slow
def test_a_threshold_that_was_seen_is_not_believed() -> None:
    """Of noise, the highest scores are right by luck on the answers that chose the threshold, and not on others."""
    seen, held = [], []
    for seed in range(80):
        source = random.Random(seed)
        rows = [Judged(str(n), source.random(), source.random() < 0.5) for n in range(40)]
        found = calibration_of(rows, precision=0.9, seed=seed)
        passing = [row.right for row in rows if (row.score or 0.0) >= found.threshold]
        seen.append(sum(passing) / len(passing))
        held += [] if found.precision is None else [found.precision]
    assert fmean(seen) > 0.75
    assert fmean(held) == pytest.approx(0.5, abs=0.1)


def test_an_unreachable_precision_takes_what_comes_closest() -> None:
    rows = [Judged(str(n), 0.5 + 0.4 * (n % 2), n % 4 != 0) for n in range(40)]
    rows += [Judged(f"x{n}", 0.9, False) for n in range(5)]
    found = calibration_of(rows, precision=0.99)
    assert found.target == 0.99
    assert found.precision is not None
    assert found.precision < 0.99


def test_it_is_the_same_each_time_and_json() -> None:
    rows = simulated(40, 4)
    found = calibration_of(rows, seed=1)
    assert calibration_of(list(reversed(rows)), seed=1) == found
    assert Calibration(**json.loads(found.model_dump_json())) == found
    assert "threshold" in str(found)
    assert "40 questions" in str(found)


def test_answers_that_could_not_be_checked_are_counted_and_left_out() -> None:
    rows = simulated(20, 2)
    found = calibration_of([*rows, Judged("0", None, True), Judged("99", None, False)])
    assert (found.unchecked, found.answers, found.questions) == (2, 40, 20)
    assert found.threshold == calibration_of(rows).threshold


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([Judged("a", 0.5, True)] * 3, {}, DataError, "none of the 3 answers.*is wrong"),
        ([Judged("a", 0.5, False)], {}, DataError, "is right"),
        ([Judged("a", None, False)], {}, DataError, "none of the 0 answers"),
        (simulated(3, 2), {"precision": 0.0}, ConfigError, "precision"),
        (simulated(3, 2), {"folds": 1}, ConfigError, "folds"),
    ],
)
def test_what_cannot_be_learned_from(rows: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        calibration_of(rows, **options)


def test_one_question_says_nothing_of_others() -> None:
    found = calibration_of([Judged("a", 0.9, True), Judged("a", 0.1, False)])
    assert (found.precision, found.precision_interval) == (None, (0.0, 1.0))


# ----------------------------------------------------------------------------------------------------- with a program

TRAINSET = [
    dspy.Example(id=str(n), question=f"What is {n} + 1?", answer=str(n + 1)).with_inputs("question") for n in range(20)
]


def reply(request: ScriptedRequest) -> str:
    number = int(request.user.split("What is ")[-1].split(" ")[0])
    return f"Answer: {number + 1 if request.seed % 2 else number}"


class Sure:
    """A check that knows the sums, but for one that it cannot check."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def acheck(self, inputs: Any, outputs: Any) -> Score:
        self.asked.append((inputs["question"], outputs["answer"]))
        number = int(inputs["question"].split()[2])
        if number == 7:
            raise CallError("away")
        return Score(0.8 if int(outputs["answer"]) == number + 1 else 0.4)


def test_the_drafts_of_a_program_are_what_it_learns_from() -> None:
    check, lm = Sure(), scripted_lm(reply, directly=True)
    with dspy.context(lm=lm):
        program = SelfConsistency("question -> answer", n=4, draft_tokens=40, kappa=200)
        found = calibrate(check, program, TRAINSET, ExactVerifier(), precision=0.9)
    told = found.calibration
    assert (told.questions, told.answers, told.unchecked) == (19, 76, 4)
    assert 0.4 < told.threshold < 0.8
    assert (told.precision, told.recall) == (1.0, 1.0)
    assert len(check.asked) == len(set(check.asked)) == 40  # equal drafts are asked about once
    with dspy.context(lm=lm):
        prediction = BestOfN(
            "question -> answer", n=4, check=found, stop_at=found.threshold, draft_tokens=40, kappa=200
        )(question="What is 30 + 1?")
    assert prediction.answer == "31"
    assert f"passes {told.threshold:.3g}" in prediction.rounds[0].drafts[-1].check.detail


def test_it_pays_nothing_for_drafts_that_are_there() -> None:
    lm = scripted_lm(reply, directly=True)
    program = SelfConsistency("question -> answer", n=4, draft_tokens=40, kappa=200)
    with dspy.context(lm=lm), calls.session(store=calls.Rollouts()):
        first = calibrate(Sure(), program, TRAINSET, ExactVerifier())
        paid = lm.served.calls
        again = calibrate(Sure(), program, TRAINSET, ExactVerifier())
    assert lm.served.calls == paid == 80
    assert again.calibration == first.calibration


def test_a_check_of_rounds_is_asked_for_them() -> None:
    class Together(Sure):
        async def acheck_all(self, inputs: Any, outputs: Any) -> list[Any]:
            return [
                DataError("not this") if one["answer"] == "5" else await self.acheck(inputs, one) for one in outputs
            ]

    trainset = [one for one in TRAINSET if one.id != "7"]
    with dspy.context(lm=scripted_lm(reply, directly=True)):
        found = calibrate(Together(), SelfConsistency("question -> answer", n=4, kappa=200), trainset, ExactVerifier())
        assert found.calibration.unchecked == 4


def test_a_misconfigured_check_is_no_affair_of_one_answer() -> None:
    class Wrong(Sure):
        async def acheck(self, inputs: Any, outputs: Any) -> Score:
            raise ConfigError("no model")

    with dspy.context(lm=scripted_lm(reply, directly=True)), pytest.raises(ConfigError, match="no model"):
        calibrate(Wrong(), LongCoT("question -> answer"), TRAINSET, ExactVerifier())
