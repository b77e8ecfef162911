"""A check that hangs leaves its draft unchecked at its time limit, and the run goes on."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation import evaluate
from pdr_dspy.evaluation.failures import failures_in_words
from pdr_dspy.operators import PDR, BestOfN
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.testing import scripted_lm
from pdr_dspy.verifiers import ExactVerifier
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks import (
    TIME_LIMIT,
    CalibratedCheck,
    Calibration,
    CodeCheck,
    ConstraintCheck,
    JudgeCheck,
    RewardCheck,
    SchemaCheck,
    as_check,
)
from pdr_dspy.verifiers.checks.limited import AT_ONCE
from tests.support.checks import QA, SMALL, ask, says
from tests.support.solver import wait

SHORT = 0.25
"""Seconds."""
SAID = "TimeoutError: the check gave no result within its time limit of 0.25 s (`time_limit=`)"


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What a hanging thread waits for: it is set when the test has ended."""
    event = threading.Event()
    yield event
    event.set()


def synchronous(released: threading.Event) -> RewardCheck:
    def reward(args: Mapping[str, Any], pred: dspy.Prediction) -> float:
        if pred.answer == "b":
            released.wait()
        return 0.5

    return RewardCheck(reward, time_limit=SHORT)


def asynchronous(released: threading.Event) -> RewardCheck:
    async def reward(args: Mapping[str, Any], pred: dspy.Prediction) -> float:
        if pred.answer == "b":
            await asyncio.Event().wait()
        return 0.5

    return RewardCheck(reward, time_limit=SHORT)


def awaited(released: threading.Event) -> RewardCheck:
    """A plain function that returns an awaitable."""
    inner = asynchronous(released).function
    return RewardCheck(lambda args, pred: inner(args, pred), time_limit=SHORT)


class Own:
    """A check of a user's own class."""

    time_limit = SHORT

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        if outputs["answer"] == "b":
            await asyncio.Event().wait()
        return Score(0.5)


class Stubborn(Own):
    """It hangs on when it is cancelled, for as long as the test does."""

    def __init__(self, released: threading.Event) -> None:
        self.released = released

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        while outputs["answer"] == "b" and not self.released.is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                continue
        return Score(0.5)


class OfRounds(Own):
    async def acheck_all(self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> list[Score]:
        return [await self.acheck(inputs, one) for one in outputs]


CALIBRATION = Calibration(
    threshold=0.5, target=None, precision=None, precision_interval=(0.0, 1.0), recall=0.5, auc=0.5,
    auc_interval=(0.0, 1.0), roc=((0.0, 0.0, 1.0),), questions=2, answers=2, folds=2, seed=0,
)  # fmt: skip

MADE: dict[str, Callable[[threading.Event], Any]] = {
    "a function": synchronous,
    "an async function": asynchronous,
    "a function that returns an awaitable": awaited,
    "a class": lambda released: Own(),
    "a class that ignores its cancellation": Stubborn,
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_a_draft_is_unchecked_whose_check_hangs(
    make: Callable[[threading.Event], Any], released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pdr_dspy"):
        prediction = ask(BestOfN(QA, n=3, check=make(released), **SMALL), says("a", "b", "c"))
    checks = [draft.check for draft in prediction.rounds[0].drafts]
    assert [None if check is None else check.failure for check in checks] == [None, SAID, None]
    assert (prediction.answer, prediction.stop) == ("a", Stop.DONE)
    (record,) = caplog.records
    assert "failed on 1 of 3 drafts" in record.getMessage()


def test_a_round_is_unchecked_whose_check_hangs(released: threading.Event) -> None:
    prediction = ask(BestOfN(QA, n=3, check=OfRounds(), **SMALL), says("a", "b", "c"))
    assert [draft.check.failure for draft in prediction.rounds[0].drafts] == [SAID] * 3


def test_a_calibrated_check_has_the_limit_of_its_check(released: threading.Event) -> None:
    for base in (synchronous(released), Own()):
        prediction = ask(BestOfN(QA, n=3, check=CalibratedCheck(base, CALIBRATION), **SMALL), says("a", "b", "c"))
        assert [draft.check.failure for draft in prediction.rounds[0].drafts] == [None, SAID, None]


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_a_round_that_may_end_early_goes_on_after_the_limit(
    make: Callable[[threading.Event], Any], released: threading.Event
) -> None:
    program = PDR(QA, widths=(3, 1), distiller="checked", k=1, keep=True, stop_at=0.5, check=make(released), **SMALL)
    prediction = ask(program, says("b", "b", "c"))
    assert (prediction.answer, prediction.stop) == ("c", Stop.CHECKED)


def test_threads_that_hang_do_not_use_up_those_of_the_others(released: threading.Event) -> None:
    def reward(args: Mapping[str, Any], pred: dspy.Prediction) -> float:
        if pred.answer != "right":
            released.wait()
        return 1.0

    answers = [f"wrong {n}" for n in range(2 * AT_ONCE)]
    check = RewardCheck(reward, time_limit=SHORT)
    prediction = ask(BestOfN(QA, n=len(answers) + 1, check=check, **SMALL), says(*answers, "right"))
    assert prediction.answer == "right"
    assert sum(draft.check.failure == SAID for draft in prediction.rounds[0].drafts) == len(answers)
    hanging = [thread for thread in threading.enumerate() if thread.name == "pdr-dspy-check"]
    assert len(hanging) >= len(answers)
    assert all(thread.daemon for thread in hanging)  # the interpreter does not wait for them


def test_functions_that_wait_for_their_turn_are_within_their_limit() -> None:
    """The limit begins when a function does: many quick ones take longer together than one may."""
    running: list[int] = []
    most = 0

    def reward(args: Mapping[str, Any], pred: dspy.Prediction) -> float:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        running.pop()
        return 1.0

    answers = [str(n) for n in range(4 * AT_ONCE)]
    check = RewardCheck(reward, time_limit=30.0)
    prediction = ask(BestOfN(QA, n=len(answers), check=check, **SMALL), says(*answers))
    assert all(draft.check.failure is None for draft in prediction.rounds[0].drafts)
    assert 1 <= most <= AT_ONCE


def test_the_synchronous_form_has_the_limit_too(released: threading.Event) -> None:
    for make in (synchronous, asynchronous, awaited):
        with pytest.raises(TimeoutError, match=r"within its time limit of 0\.25 s"):
            make(released).check({}, {"answer": "b"})


def test_a_timeout_of_the_functions_own_is_its_failure() -> None:
    def reward(args: Mapping[str, Any], pred: dspy.Prediction) -> float:
        raise TimeoutError("the database is slow")

    prediction = ask(BestOfN(QA, n=1, check=reward, **SMALL), says("a"))
    assert prediction.rounds[0].drafts[0].check.failure == "TimeoutError: the database is slow"


def test_rows_count_drafts_whose_check_hangs(released: threading.Event, tmp_path: Path) -> None:
    examples = [dspy.Example(question=f"q{n}", answer="b").with_inputs("question") for n in range(3)]
    with dspy.context(lm=scripted_lm(lambda request: "Answer: b")):
        program = BestOfN(QA, n=2, check=synchronous(released), **SMALL)
        report = evaluate(program, examples, ExactVerifier(), run_dir=tmp_path)
    assert (report.failed, report.unchecked, report.score) == (0, 6, 1.0)
    (said,) = failures_in_words(report.rows)
    assert said.startswith("6 drafts unchecked, since the check 'check' failed, with TimeoutError: the check gave no")


def test_a_run_that_is_cancelled_cancels_a_check_within_its_limit() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    class Slow:
        async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return Score(1)

    async def run() -> None:
        with dspy.context(lm=says("a")):
            task = asyncio.create_task(BestOfN(QA, n=1, check=Slow(), **SMALL).acall(question="q"))
            await begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await cancelled.wait()

    wait(run())


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), "10", True, [1]])
def test_a_time_limit_is_seconds_above_0(limit: Any) -> None:
    with pytest.raises(ConfigError, match=r"`RewardCheck\(time_limit=.*\)` must be a number of seconds above 0"):
        RewardCheck(lambda args, pred: 1.0, time_limit=limit)
    own = Own()
    own.time_limit = limit
    with pytest.raises(ConfigError, match=r"`Own\(time_limit=.*\)` must be a number of seconds above 0"):
        as_check(own)


def test_defaults_and_what_a_description_says() -> None:
    check = RewardCheck(len)
    assert check.time_limit == TIME_LIMIT == 600
    assert "time_limit" not in check.describe()
    assert RewardCheck(len, time_limit=None).describe()["time_limit"] is None
    assert RewardCheck(len, time_limit=5).describe()["time_limit"] == 5
    for own in (CodeCheck(), ConstraintCheck(), JudgeCheck(), SchemaCheck({"answer": int})):
        assert own.time_limit is None  # their own limits hold
        assert "time_limit" not in own.describe()


@pytest.mark.parametrize("given", [0.5, True, None, "1"])
def test_a_result_that_is_no_score_leaves_the_draft_unchecked(given: Any) -> None:
    class Loose:
        async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
            return given

    prediction = ask(BestOfN(QA, n=1, check=Loose(), **SMALL), says("a"))
    assert prediction.rounds[0].drafts[0].check.failure == (
        f"TypeError: the check gave {given!r}, which is no `pdr_dspy.Score(value, detail)`"
    )
