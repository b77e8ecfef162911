"""LMs that answer by a `forward` of their own: they are asked through it, by its parameters, and their usage, finish
reason and errors are kept."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.operators.strategies import PDR, LongCoT, SelfConsistency
from pdr_dspy.verifiers import JudgeVerifier


def openai_shaped(text: str, **more: Any) -> Any:
    """A response with attributes, as of a client library."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    choice = SimpleNamespace(message=SimpleNamespace(content=text), finish_reason=more.pop("finish", "stop"))
    return SimpleNamespace(choices=[choice], usage=usage, model="own", **more)


class Forward(dspy.BaseLM):
    """What DSPy 3.4 calls a legacy LM: `forward` alone."""

    def __init__(self, model: str = "own/model", **settings: Any) -> None:
        super().__init__(model, **settings)
        self.asked: list[dict[str, Any]] = []

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        self.asked.append({"messages": messages, **kwargs})
        return openai_shaped("Work.\nAnswer: 7")


class ForwardOfLM(dspy.LM):
    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return openai_shaped("Work.\nAnswer: 7")


class Mapping(dspy.BaseLM):
    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        message = {"content": "Work.\nAnswer: 7"}
        usage = {"prompt_tokens": 3, "completion_tokens": 4}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage, "model": "own"}


class Narrow(dspy.BaseLM):
    def forward(self, prompt: Any = None, messages: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return openai_shaped("Work.\nAnswer: 7")


class Async(dspy.BaseLM):
    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return openai_shaped("Work.\nAnswer: 7")


class Called(dspy.BaseLM):
    def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> list[str]:  # type: ignore[override]
        return ["Work.\nAnswer: 7"]


legacy = pytest.mark.filterwarnings("ignore:Implementing custom LMs through BaseLM.forward:DeprecationWarning")


@legacy
@pytest.mark.parametrize("kind", [Forward, ForwardOfLM, Mapping, Narrow, Async, Called])
def test_an_lm_with_a_way_of_its_own_is_asked_through_it(kind: type[dspy.BaseLM]) -> None:
    lm = kind("openai/own") if kind is ForwardOfLM else kind("own/model")
    program = PDR("question -> answer: int", widths=(2, 1), distiller="random_k", k=1)
    with dspy.context(lm=lm):
        prediction = program(question="q")
        assert asyncio.run(program.acall(question="q")).answer == 7
    assert prediction.answer == 7
    for call in prediction.ledger.calls:
        assert (call.finish, call.failure) == ("stop", None)
        if kind is not Called:  # which gives texts alone
            assert (call.usage.input, call.usage.output, call.estimated) == (3, 4, False)
    assert kind is Called or prediction.ledger.exact


@legacy
def test_it_is_asked_as_dspy_asks_it() -> None:
    lm = Forward(rollout_id=3)
    with dspy.context(lm=lm):
        LongCoT("question -> answer", draft_tokens=55, temperature=0.5)(question="What?")
    (asked,) = lm.asked
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert "Question: What?" in asked["messages"][1]["content"]
    assert (asked["max_tokens"], asked["temperature"]) == (55, 0.5)
    assert isinstance(asked["seed"], int)
    assert "n" not in asked or asked["n"] == 1
    assert len(lm.history) == 1
    assert lm.history[0]["outputs"] == ["Work.\nAnswer: 7"]


@legacy
@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        (None, "stop"),
        ("odd", "error"),
    ],
)
def test_its_finish_reason_is_kept_and_an_unknown_one_is_no_end(finish: str | None, expected: str) -> None:
    class Ends(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return openai_shaped("Answer: 7\n", finish=finish)

    with dspy.context(lm=Ends("own/model")):
        (call,) = LongCoT("question -> answer")(question="q").ledger.calls
    assert call.finish == expected
    assert call.truncated is (expected != "stop")


@legacy
def test_its_errors_are_failed_drafts() -> None:
    class Fails(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            raise RuntimeError("no such model")

    with dspy.context(lm=Fails("own/model")), pytest.raises(RoundFailed, match="no such model") as failed:
        LongCoT("question -> answer")(question="q")
    assert len(failed.value.ledger) == 1


@legacy
def test_it_can_judge() -> None:
    class Yes(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return openai_shaped("yes")

    judge = JudgeVerifier(lm=Yes("own/model"))  # type: ignore[arg-type]
    example = dspy.Example(question="?", answer="Paris").with_inputs("question")
    assert judge(example, dspy.Prediction(answer="Paris")) == 1
    assert asyncio.run(judge.averify(example, dspy.Prediction(answer="Paris"))) == 1


def test_dspys_own_dummy_works() -> None:
    from dspy.utils import DummyLM

    with dspy.context(lm=DummyLM([{"solution": "s", "answer": "9"}] * 3)):
        assert SelfConsistency("question -> answer", n=3)(question="q").answer == "9"
