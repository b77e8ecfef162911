"""A user's part that raises SystemExit, or cancels itself, fails like any other; the program goes on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import dspy
import pytest

from pdr_dspy.evaluation import calibrate, evaluate
from pdr_dspy.operators import PDR, BestOfN, LongCoT, distiller
from pdr_dspy.operators.distillers import DISTILLERS, Distilled, DistillerInput
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.search import feedback
from pdr_dspy.testing import scripted_lm
from pdr_dspy.verifiers import ExactVerifier
from pdr_dspy.verifiers.base import Score
from tests.support.checks import QA, SMALL, ask, says
from tests.support.solver import wait


class Stopping(BaseException):
    """An exception of a user that is no `Exception`."""


def leaves() -> NoReturn:
    sys.exit(3)


def cancels() -> NoReturn:
    raise asyncio.CancelledError


def stops() -> NoReturn:
    raise Stopping("here")


def runs_out() -> NoReturn:
    next(iter(()))
    raise AssertionError


def interrupts() -> NoReturn:
    raise KeyboardInterrupt


Ending = Callable[[], NoReturn]
ENDINGS = {leaves: "SystemExit: 3", cancels: "CancelledError", stops: "Stopping: here", runs_out: "StopIteration"}
endings = pytest.mark.parametrize(("ending", "said"), ENDINGS.items(), ids=lambda one: getattr(one, "__name__", ""))
no_generators = [(ending, said) for ending, said in ENDINGS.items() if ending is not runs_out]
"""Python itself makes a RuntimeError of a StopIteration that leaves a coroutine."""
async_endings = pytest.mark.parametrize(("ending", "said"), no_generators, ids=lambda one: getattr(one, "__name__", ""))


class OfDrafts:
    """A check that ends on the draft "b"."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        await asyncio.sleep(0)
        if outputs["answer"] == "b":
            self.ending()
        return Score(0.5)


class OfRounds(OfDrafts):
    """The same for whole rounds."""

    async def acheck_all(self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> list[Score]:
        return [await self.acheck(inputs, one) for one in outputs]


def reward(ending: Ending) -> Callable[..., float]:
    def function(args: Mapping[str, Any], pred: dspy.Prediction) -> float:
        return ending() if pred.answer == "b" else 0.5

    return function


def async_reward(ending: Ending) -> Callable[..., Any]:
    async def function(args: Mapping[str, Any], pred: dspy.Prediction) -> float:
        await asyncio.sleep(0)
        return ending() if pred.answer == "b" else 0.5

    return function


def assert_alive() -> None:
    assert ask(LongCoT(QA, draft_tokens=60), says("fine")).answer == "fine"


def check_failures(make: Callable[[Ending], Any], ending: Ending) -> list[str | None]:
    """Why each of two drafts is unchecked, called synchronously, and on the caller's own event loop."""
    program = BestOfN(QA, n=2, check=make(ending), **SMALL)

    async def awaited() -> dspy.Prediction:
        with dspy.context(lm=says("a", "b")):
            return await program.acall(question="q")

    found = ask(program, says("a", "b")), wait(awaited())
    first, second = ([draft.check.failure for draft in one.rounds[0].drafts] for one in found)
    assert first == second
    assert {one.stop for one in found} == {Stop.DONE}
    assert_alive()
    return first


@endings
def test_a_draft_is_unchecked_whose_reward_function_ends(ending: Ending, said: str) -> None:
    assert check_failures(reward, ending) == [None, f"RuntimeError: the check raised {said}"]


@async_endings
@pytest.mark.parametrize("make", [OfDrafts, async_reward])
def test_a_draft_is_unchecked_whose_async_check_ends(make: Callable[[Ending], Any], ending: Ending, said: str) -> None:
    assert check_failures(make, ending) == [None, f"RuntimeError: the check raised {said}"]


@async_endings
def test_a_round_is_unchecked_whose_check_ends(ending: Ending, said: str) -> None:
    assert check_failures(OfRounds, ending) == [f"RuntimeError: the check raised {said}"] * 2


@pytest.mark.parametrize("make", [OfDrafts, OfRounds, reward, async_reward])
def test_an_interrupt_in_a_check_ends_the_call_as_one(make: Callable[[Ending], Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(BestOfN(QA, n=2, check=make(interrupts), **SMALL), says("a", "b"))
    assert_alive()


def test_a_cancelled_run_cancels_its_check() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(args: Any, pred: Any) -> float:
        begun.set()
        try:
            return await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def run() -> BaseException | dspy.Prediction:
        with dspy.context(lm=says("a")):
            task = asyncio.create_task(BestOfN(QA, n=2, check=endless, **SMALL).acall(question="q"))
            await begun.wait()
            task.cancel()
            (found,) = await asyncio.gather(task, return_exceptions=True)
            await cancelled.wait()
            return found

    assert isinstance(wait(run()), asyncio.CancelledError)


# --------------------------------------------------------------------------------------------------------- evaluations


class Graded:
    """A verifier of a user; only the question "bad" ends."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        if example.question == "bad":
            self.ending()
        return Score(1)

    def check_gold(self, example: dspy.Example) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {"kind": "Graded"}


class Instant(Graded):
    instant = True


class Awaited(Graded):
    grades_drafts = True

    async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        return self(example, prediction)


def metric(ending: Ending) -> Callable[..., float]:
    return lambda example, prediction: ending() if example.question == "bad" else 1.0


def async_metric(ending: Ending) -> Callable[..., Any]:
    async def function(example: dspy.Example, prediction: dspy.Prediction) -> float:
        await asyncio.sleep(0)
        return ending() if example.question == "bad" else 1.0

    return function


def examples() -> list[dspy.Example]:
    asked = ("good", "bad", "better")
    return [dspy.Example(question=one, answer="a", id=f"q{n}").with_inputs("question") for n, one in enumerate(asked)]


def errors(program: Any, verifier: Any) -> list[str | None]:
    """The errors of the rows of `examples`."""
    with dspy.context(lm=scripted_lm(lambda request: "Answer: a")):
        report = evaluate(program, examples(), verifier)
    assert_alive()
    return [row.error for row in report.rows]


@async_endings
@pytest.mark.parametrize("make", [Graded, Instant, Awaited, metric, async_metric])
def test_a_row_fails_whose_verifier_ends(make: Callable[[Ending], Any], ending: Ending, said: str) -> None:
    first, second, third = errors(LongCoT(QA, draft_tokens=60), make(ending))
    assert (first, third) == (None, None)
    assert second is not None
    assert second.startswith("RuntimeError: the verifier ")
    assert second.endswith(f" raised {said}")


class Own(dspy.Module):
    def __init__(self, ending: Ending) -> None:
        super().__init__()
        self.inner = LongCoT(QA, draft_tokens=60)
        self.ending = ending

    def forward(self, question: str) -> dspy.Prediction:
        return self.ending() if question == "bad" else self.inner(question=question)


class AsyncOwn(Own):
    async def aforward(self, question: str) -> dspy.Prediction:
        return self.ending() if question == "bad" else await self.inner.acall(question=question)


@async_endings
@pytest.mark.parametrize("make", [Own, AsyncOwn])
def test_a_row_fails_whose_module_ends(make: Callable[[Ending], Any], ending: Ending, said: str) -> None:
    expected = f"RuntimeError: the program {make.__name__} raised {said}"
    assert errors(make(ending), ExactVerifier()) == [None, expected, None]


@pytest.fixture
def ending_distiller() -> Iterator[None]:
    @distiller("ending")
    async def ending(given: DistillerInput) -> Any:
        leaves()

    @distiller("grading", needs_gold=True)
    async def grading(given: DistillerInput) -> Any:
        await given.score(given.drafts[0])
        return Distilled((await given.admit(given.drafts[:1]),) * given.next_width)

    yield
    DISTILLERS.remove("ending")
    DISTILLERS.remove("grading")


@pytest.mark.usefixtures("ending_distiller")
def test_a_distiller_that_ends_raises_as_one() -> None:
    program = PDR(QA, widths=(2, 1), distiller="ending", **SMALL)
    with pytest.raises(RuntimeError, match="the distiller 'ending' raised SystemExit: 3"):
        ask(program, says("a", "b"))
    assert_alive()
    (first, *_) = errors(program, ExactVerifier())
    assert first is not None
    assert "the distiller 'ending' raised SystemExit: 3" in first


@pytest.mark.usefixtures("ending_distiller")
@endings
def test_a_verifier_that_ends_while_a_distiller_grades_is_named(ending: Ending, said: str) -> None:
    first, second, _ = errors(PDR(QA, widths=(2, 1), distiller="grading", **SMALL), metric(ending))
    assert second is not None
    assert "the verifier" in second
    assert f"raised {said}" in second
    assert first is None


@pytest.mark.parametrize("make", [OfDrafts, OfRounds, reward, async_reward])
def test_a_calibration_with_a_check_that_ends_raises_its_error(make: Callable[[Ending], Any]) -> None:
    program = LongCoT(QA, draft_tokens=60)
    with (
        dspy.context(lm=scripted_lm(lambda request: "Answer: b")),
        pytest.raises(RuntimeError, match="the check raised SystemExit: 3"),
    ):
        calibrate(make(leaves), program, examples(), ExactVerifier())
    assert_alive()


# ------------------------------------------------------------------------------- verifiers called in the user's thread


@async_endings
@pytest.mark.parametrize("make", [Graded, Awaited, metric])
def test_a_metric_for_gepa_that_ends_raises_as_one(make: Callable[[Ending], Any], ending: Ending, said: str) -> None:
    """DSPy counts an exception of a metric as a failed example."""
    told = feedback(make(ending))
    good, bad, _ = examples()
    assert told(good, dspy.Prediction(answer="a")).score == 1
    with pytest.raises(RuntimeError, match=rf"the verifier .* raised {said}"):
        told(bad, dspy.Prediction(answer="a"))


class Gold(Graded):
    """It ends where gold answers are checked."""

    def check_gold(self, example: dspy.Example) -> None:
        if example.question == "bad":
            self.ending()


@async_endings
def test_a_verifier_that_ends_on_a_gold_answer_is_an_error(ending: Ending, said: str) -> None:
    with (
        dspy.context(lm=scripted_lm(lambda request: "Answer: a")),
        pytest.raises(RuntimeError, match=rf"`check_gold` of the verifier .* raised {said}"),
    ):
        evaluate(LongCoT(QA, draft_tokens=60), examples(), Gold(ending))
    assert_alive()


def test_an_interrupt_in_a_verifier_is_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        feedback(Graded(interrupts))(examples()[1], dspy.Prediction(answer="a"))
