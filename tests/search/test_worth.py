"""`stop="worth"`: a search ends when going on is worth less than it costs, and says so; and the margin of a choice."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import dspy
import numpy as np
import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.statistics import paired
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search import PDROptimizer, SearchProgress, Space
from pdr_dspy.search.racing import worth
from pdr_dspy.search.racing.arms import Found
from pdr_dspy.search.racing.confirmation import judge
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.plan import Plan
from pdr_dspy.search.racing.requests import Cell, Measure, Pair, Propose, Proposed, Stage
from pdr_dspy.search.racing.surrogate import Additive, Posterior
from pdr_dspy.search.settings import from_keywords
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from tests.search.test_optimizer import Exact, compiled, questions, reasoner, shape, student
from tests.search.test_plan import chance

SCHEDULE = Schedule(widths=(1,), draft_tokens=60, kappa=200)
QUESTIONS = 24


def flat(number: int, pair: Pair, stage: Stage) -> float:
    """Every program is right on the same questions."""
    return float(pair.question % 3 != 0)


def steep(number: int, pair: Pair, stage: Stage) -> float:
    """Programs differ, and so do their runs."""
    return float(chance(stage, pair, number) < 0.2 + 0.6 * chance("quality", number))


def searched(
    score: Any = steep, *, trials: int = 33, tokens: Any = lambda number: 100, settings: Any = None, **ending: Any
) -> tuple[Found, Counter[Stage]]:
    """A search over programs that differ in their instructions, and its requests for measurements by stage."""
    given = from_keywords({"cohort": 4, **(settings or {})}).settings
    plan = Plan(given, questions=QUESTIONS, held_out=6, trials=trials, **ending)
    candidates = (Candidate(SCHEDULE, {"draft": f"Way {number}."}) for number in range(1000))
    steps = plan.run([Proposed("student", next(candidates))])
    asked = Counter[Stage]()
    answer: Any = None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as end:
            return end.value, asked
        if isinstance(request, Propose):
            answer = [Proposed("search", next(candidates)) for _ in range(request.wanted)]
            continue
        assert isinstance(request, Measure)
        asked[request.stage] += 1
        answer = {
            (number, pair): cell(score(number, pair, request.stage), tokens(number), (number, pair, request.stage))
            for number in request.arms
            for pair in request.pairs
        }


def cell(score: float, tokens: int, call: object) -> Cell:
    return Cell(score, tokens, tokens, False, ((repr(call), tokens),))


class TestGain:
    """The expected gain against its closed form, and its laws."""

    @staticmethod
    def belief(mean: Sequence[float], covariance: Any) -> worth.Belief:
        count = len(mean)
        own = Additive(np.array(mean), np.full(count, 0.1), 0.1, np.ones((count, 20)))
        return worth.Belief(own, (1.0,), (Posterior(0.0, np.array(mean), np.array(covariance, dtype=float)),))

    @pytest.mark.parametrize("behind", [0.0, 0.02, 0.05, 0.2])
    @pytest.mark.parametrize(("sd", "error"), [(0.05, 0.0), (0.05, 0.05), (0.1, 0.02)])
    def test_one_measurement_has_the_gain_of_the_knowledge_gradient(
        self, behind: float, sd: float, error: float
    ) -> None:
        believed = self.belief([0.5, 0.5 - behind], [[0.0, 0.0], [0.0, sd**2]])
        step = sd**2 / math.hypot(sd, error)
        z = -behind / step
        expected = step * (z * NormalDist().cdf(z) + NormalDist().pdf(z))
        found = worth.gain(believed, {1: error**2 + 1e-12}, [0], [0, 1])
        assert found == pytest.approx(expected, abs=0.04 * step)

    def test_nothing_to_learn_is_worth_nothing(self) -> None:
        certain = self.belief([0.6, 0.5], np.zeros((2, 2)))
        assert worth.gain(certain, {1: 0.01}, [0, 1], [0, 1]) == 0.0
        assert worth.gain(self.belief([0.6, 0.5], np.eye(2)), {}, [0, 1], [0, 1]) == 0.0

    def test_a_noisier_measurement_is_worth_less_and_more_measurements_more(self) -> None:
        believed = self.belief([0.6, 0.55, 0.55, 0.55], 0.01 * np.eye(4))
        gains = [worth.gain(believed, {1: error}, [0], range(4)) for error in (1e-6, 0.01, 0.1, 10.0)]
        assert all(a > b >= 0 for a, b in pairwise(gains))
        counts = [worth.gain(believed, dict.fromkeys(range(1, 1 + n), 0.01), [0], range(4)) for n in (1, 2, 3)]
        assert all(a < b for a, b in pairwise(counts))

    def test_programs_that_move_together_have_nothing_to_tell_apart(self) -> None:
        alike = self.belief([0.6, 0.6], 0.01 * np.ones((2, 2)))
        assert worth.gain(alike, {0: 0.01, 1: 0.01}, [0, 1], [0, 1]) == pytest.approx(0.0, abs=1e-6)

    def test_programs_never_measured_are_as_uncertain_as_they_are_far(self) -> None:
        widths = [Candidate(Schedule(widths=(width, 1), distiller="random_k", k=1), {}) for width in (2, 4, 8, 16)]
        scores = [{(q, 0): float((q * 7 + n) % 20 < c) for q in range(20)} for n, c in enumerate((8, 10, 12, 14))]
        near, far = (Candidate(Schedule(widths=(width, 1), distiller="random_k", k=1), {}) for width in (17, 200))
        believed = worth.believe(scores, widths, [near, far])
        sds = [
            sum(w * p.covariance[i, i] for w, p in zip(believed.weights, believed.posteriors, strict=True))
            for i in (4, 5)
        ]
        assert sds[0] < sds[1]
        assert sum(believed.weights) == pytest.approx(1.0)


class TestStop:
    def test_a_flat_landscape_ends_the_search_which_says_so(self) -> None:
        found, _ = searched(flat, stop="worth")
        assert 1 < len(found.arms) < 33
        assert re.search(
            r"the next 4 trials would gain an expected 0\.\d+ in score, below the price of 0\.\d+", found.stopped
        )
        whole, _ = searched(flat)
        assert len(whole.arms) == 33
        assert whole.stopped == "33 trials were measured"

    @pytest.mark.slow
    @pytest.mark.parametrize("score", [flat, steep])
    def test_a_price_of_0_never_ends_it(self, score: Any) -> None:
        ended, asked = searched(score, stop="worth", price=0.0)
        usual, as_usual = searched(score)
        assert asked == as_usual
        assert ended.stopped == usual.stopped
        assert ended.chosen == usual.chosen

    @pytest.mark.slow
    @pytest.mark.parametrize("score", [flat, steep])
    def test_a_higher_price_never_ends_it_later(self, score: Any) -> None:
        counts = [len(searched(score, stop="worth", price=price)[0].arms) for price in (0, 0.001, 0.01, 0.1, 1.0)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] == 33 > counts[-1]

    @pytest.mark.slow
    @pytest.mark.parametrize("score", [flat, steep])
    def test_more_trials_never_end_it_earlier(self, score: Any) -> None:
        counts = [len(searched(score, trials=trials, stop="worth", price=0.02)[0].arms) for trials in (5, 17, 33, 65)]
        assert counts == sorted(counts)

    @pytest.mark.slow
    def test_what_was_measured_until_then_is_that_of_a_search_without_a_stop(self) -> None:
        ended, whole = searched(steep, stop="worth", price=0.2)[0], searched(steep)[0]
        assert 1 < len(ended.arms) < len(whole.arms)
        for mine, other in zip(ended.arms, whole.arms, strict=False):
            assert (mine.candidate, mine.race, mine.dropped) == (other.candidate, other.race, other.dropped)

    @pytest.mark.slow
    def test_few_paid_tokens_left_make_a_trial_dearer(self) -> None:
        plenty, scarce = (
            len(searched(steep, stop="worth", price=0.02, max_tokens=tokens)[0].arms) for tokens in (10**9, 30_000)
        )
        assert scarce < plenty

    def test_finalists_run_again_at_least_once_and_their_end_is_told(self) -> None:
        found, asked = searched(steep, trials=9, stop="worth", price=0.2)
        assert 1 <= asked[Stage.FINAL] < 4
        assert "more runs of the finalists after" in found.stopped
        assert all(
            len(arm.final) >= QUESTIONS for arm in found.arms if arm.number in {one.number for one in found.finalists}
        )

    def test_a_cohort_at_no_tokens_is_always_raced(self) -> None:
        plan = Plan(from_keywords({}).settings, questions=4, held_out=0, stop="worth", price=1.0)
        free = [Proposed("same calls", Candidate(SCHEDULE, {}), free=True)]
        assert plan.stopping.not_worth(free) is None


class TestMargin:
    """Programs 1 and 2 are as good but for one question; 2 costs a tenth."""

    @staticmethod
    def nearly(number: int, pair: Pair, stage: Stage) -> float:
        right = {0: pair.question < 4, 1: pair.question < 20, 2: pair.question < 19}
        return float(right.get(number, False))

    def found(self, margin: float) -> Found:
        return searched(self.nearly, trials=5, tokens=lambda number: 100 if number == 2 else 1000, margin=margin)[0]

    def test_the_cheaper_program_wins_within_the_margin_and_the_tie_is_told(self) -> None:
        assert self.found(0.0).chosen == 1
        assert self.found(0.0).tied == ()
        assert self.found(0.06).chosen == 2
        assert self.found(0.06).tied == (1,)

    def test_no_margin_is_so_wide_that_it_takes_a_program_over_a_limit(self) -> None:
        tokens = {2: 100, 1: 500}
        found, _ = searched(
            self.nearly,
            trials=5,
            tokens=lambda number: tokens.get(number, 1000),
            settings={"max_total": 600},
            margin=1.0,
        )
        assert found.chosen == 2
        assert set(found.tied) == {1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop": "never"}, '`PDROptimizer(stop=\'never\')` must be "trials" or "worth"'),
        ({"stop": None}, "stop=None"),
        ({"price": -0.1}, "`PDROptimizer(price=-0.1)` must be a difference of scores in [0, 1]"),
        ({"price": True}, "price=True"),
        ({"price": "0.1"}, "price='0.1'"),
        ({"price": math.nan}, "price=nan"),
        ({"margin": 2}, "margin=2"),
        ({"margin": None}, "margin=None"),
    ],
)
def test_bad_values_are_named(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        PDROptimizer(Exact(), **settings)


# --- through the optimizer ---

SPACE = Space(
    rounds=(1, 2, 3),
    widths=(1, 2, 4),
    kappa=(100, 200),
    distiller=("random_k", "summary"),
    k=(1, 2),
    draft_tokens=(40, 60),
)
WORTH: dict[str, Any] = {"stop": "worth", "price": 0.2, "trials": 16, "cohort": 4, "space": SPACE, "confirm_repeats": 1}
USUAL: dict[str, Any] = {**WORTH, "stop": "trials"}


def always(request: ScriptedRequest) -> str:
    """Right on every question."""
    name = re.search(r"Question: q(\d+)", request.user)
    assert name is not None
    return f"Answer: a{name[1]}"


@pytest.mark.slow
def test_a_search_that_cannot_gain_stops_and_its_folder_says_why(tmp_path: Path) -> None:
    optimizer = compiled(scripted_lm(always), run_dir=tmp_path, **WORTH)
    result = optimizer.result
    assert result is not None
    assert sum(not trial.free for trial in result.trials) < 16
    assert "below the price of" in result.stopped
    assert json.loads((tmp_path / "search.json").read_text())["stopped"] == result.stopped


@pytest.mark.slow
def test_a_killed_search_resumes_to_the_same_stop(tmp_path: Path) -> None:
    whole = compiled(scripted_lm(reasoner), run_dir=tmp_path / "whole", **WORTH)
    assert whole.result is not None
    assert "below the price of" in whole.result.stopped
    rows: list[str] = []
    compiled(scripted_lm(reasoner), run_dir=None, progress=lambda now: rows.append(now.event), **WORTH)
    for place in (len(rows) // 3, len(rows) - 3):
        folder = tmp_path / str(place)

        class Killed(Exception):
            pass

        seen: list[str] = []

        def kill(
            now: SearchProgress, seen: list[str] = seen, place: int = place, error: type[Exception] = Killed
        ) -> None:
            seen.append(now.event)
            if len(seen) == place:
                raise error

        with pytest.raises(Killed):
            compiled(scripted_lm(reasoner), run_dir=folder, progress=kill, **WORTH)
        again = compiled(scripted_lm(reasoner), run_dir=folder, **WORTH)
        assert again.result is not None
        assert again.result.stopped == whole.result.stopped
        assert shape(again) == shape(whole)


@pytest.mark.slow
def test_an_ended_search_goes_on_at_a_lower_price_as_if_it_had_never_ended(tmp_path: Path) -> None:
    ended = compiled(scripted_lm(reasoner), run_dir=tmp_path, **WORTH)
    more = compiled(scripted_lm(reasoner), run_dir=tmp_path, **USUAL)
    usual = compiled(scripted_lm(reasoner), **USUAL)
    assert len(shape(ended)) < len(shape(more))
    assert shape(more) == shape(usual)


@pytest.mark.slow
def test_an_ended_search_costs_nothing_more_and_its_estimate_says_so(tmp_path: Path) -> None:
    compiled(scripted_lm(reasoner), run_dir=tmp_path, **WORTH)
    lm = scripted_lm(reasoner)
    again = compiled(lm, run_dir=tmp_path, **WORTH)
    assert lm.served.calls == 0
    with dspy.context(lm=lm):
        left = again.estimate(student(), trainset=questions(12), valset=questions(12, 100))
        whole = PDROptimizer(Exact(), **USUAL).estimate(student(), trainset=questions(12), valset=questions(12, 100))
        ending = PDROptimizer(Exact(), **WORTH).estimate(student(), trainset=questions(12), valset=questions(12, 100))
    assert (left.left, left.low, left.high) == (0, 0, 0)
    assert ending.low < whole.low
    assert ending.high == whole.high


def test_the_confirmation_allows_a_cheaper_winner_the_margin() -> None:
    def report(right: int, tokens: int) -> Report:
        rows = [
            Row(id=f"q{n}", repeat=0, seed=0, score=float(n < right), total=tokens, sequential=tokens)
            for n in range(50)
        ]
        return Report(rows=tuple(rows), name="x")

    winner, own = report(24, 100), report(26, 400)
    difference = paired(winner.per_question, own.per_question)
    kept = [judge(winner, own, difference, Limits(), same=False, seen=0, margin=m)[0] for m in (0.0, 0.03, 0.05, 0.1)]
    assert kept == ["student", "student", "winner", "winner"]
