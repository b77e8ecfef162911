"""`dspy.streamify`: a listener hears the fields of a call that is alone in its stage, or is told why it would not."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from pdr_dspy.calls import session
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR, SR, LongCoT, SelfConsistency
from pdr_dspy.serving.endpoint import connect
from pdr_dspy.testing import Completion, ScriptedRequest, scripted_lm
from tests.support.mock_server import MockServer

QA = "question -> answer"
REPLY = "Six [by] seven.\nThat is 42 <- see.\n**Answer:** 42 apples\n"


def listen(*fields: str, predict: dspy.Predict | None = None) -> list[Any]:
    return [dspy.streaming.StreamListener(field, predict=predict) for field in fields]


def streamed(program: dspy.Module, listeners: list[Any], **options: Any) -> tuple[dict[str, str], list[Any]]:
    """What was heard of each field, and everything that came."""

    async def collect() -> list[Any]:
        stream = dspy.streamify(program, stream_listeners=listeners, **options)
        return [value async for value in stream(question="?")]  # type: ignore[attr-defined]

    values = asyncio.run(collect())
    heard: dict[str, str] = {}
    for value in values:
        if isinstance(value, dspy.streaming.StreamResponse):
            heard[value.signature_field_name] = heard.get(value.signature_field_name, "") + value.chunk
    return heard, values


@pytest.mark.parametrize("is_async", [False, True])
def test_a_listener_hears_its_field_piece_by_piece(is_async: bool) -> None:
    with dspy.context(lm=scripted_lm(lambda _: REPLY)):
        heard, values = streamed(LongCoT(QA), listen("solution", "answer"), is_async_program=is_async)
    assert heard == {"solution": "Six [by] seven.\nThat is 42 <- see.", "answer": "42 apples"}
    assert len(values) > 4
    assert isinstance(values[-1], dspy.Prediction)
    assert values[-1].answer == "42 apples"
    assert [v.is_last_chunk for v in values if getattr(v, "signature_field_name", "") == "answer"][-1]


@pytest.mark.parametrize(
    "completion",
    [
        Completion(REPLY, thought="Let me think. Answer: 5"),
        Completion("Answer: 42 apples"),
        Completion("\nIt is easy.\nAnswer: 42 apples and so on\nand on", finish="length"),
        Completion("[[ ## solution ## ]]\nWell.\n\n[[ ## answer ## ]]\n42 apples\n\n[[ ## completed ## ]]"),
    ],
)
def test_a_stream_says_what_the_reply_says(completion: Completion) -> None:
    with dspy.context(lm=scripted_lm(lambda _: completion)):
        heard, _ = streamed(LongCoT(QA), listen("answer"))
    assert heard["answer"].startswith("42 apples")
    assert "Let me" not in heard["answer"]


def test_the_round_that_writes_the_answer_is_heard() -> None:
    def reply(request: ScriptedRequest) -> str:
        return "Mine.\nAnswer: last" if "Workspace:" in request.user else "Mine.\nAnswer: first"

    with dspy.context(lm=scripted_lm(reply)):
        program: Any = PDR(QA, widths=(3, 1), distiller="random_k", k=1)
        assert streamed(program, listen("answer", predict=program.refine))[0] == {"answer": "last"}
        program = SR(QA, rounds=3)
        assert streamed(program, listen("answer", predict=program.refine))[0] == {"answer": "last"}
        assert streamed(program, listen("answer", predict=program.draft))[0] == {"answer": "first"}
        program = PDR(QA, widths=(3, 1), distiller="summary")
        assert "Mine." in streamed(program, listen("summary"))[0]["summary"]


@pytest.mark.parametrize(
    ("program", "role", "message"),
    [
        (PDR(QA, widths=(3, 1), distiller="random_k", k=1), "draft", "Listen to `refine`"),
        (PDR(QA, widths=(3, 2), final="vote"), "refine", "Listen to `distill`, or end"),
        (SelfConsistency(QA, n=4), "draft", "End the schedule with a round of one draft"),
    ],
)
def test_who_would_hear_nothing_is_told_so_before_anything_is_sent(program: Operator, role: str, message: str) -> None:
    lm = scripted_lm(lambda _: REPLY)
    with dspy.context(lm=lm), pytest.raises(ConfigError, match="calls several times concurrently") as error:
        streamed(program, listen("answer", predict=getattr(program, role)))
    assert message in str(error.value)
    assert lm.served.calls == 0


def test_without_listeners_the_call_of_the_answer_is_streamed_as_it_is() -> None:
    with dspy.context(lm=scripted_lm(lambda _: "Some words.\nAnswer: 5")):
        for program in (LongCoT(QA), PDR(QA, widths=(3, 1), distiller="summary")):
            _, values = streamed(program, [])
            texts = [value.choices[0].delta.content for value in values[:-1]]
            assert "".join(text or "" for text in texts) == "Some words.\nAnswer: 5"


def test_an_adapter_of_the_users_is_heard_in_its_own_form() -> None:
    chat = "[[ ## solution ## ]]\nSome words of it.\n\n[[ ## answer ## ]]\n42 of them\n\n[[ ## completed ## ]]"
    xml = "<solution>Some words of it.</solution>\n<answer>42 of them</answer>"
    for adapter, reply in ((dspy.ChatAdapter(), chat), (dspy.XMLAdapter(), xml)):
        with dspy.context(lm=scripted_lm(lambda _, reply=reply: reply), adapter=adapter):  # type: ignore[misc]
            heard, values = streamed(LongCoT(QA), listen("answer"))
        assert heard == {"answer": "42 of them"}
        assert values[-1].answer == "42 of them"


def test_an_operator_inside_a_module_is_heard() -> None:
    class Outer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = LongCoT(QA)

        def forward(self, question: str) -> dspy.Prediction:
            return self.inner(question=question)

    with dspy.context(lm=scripted_lm(lambda _: REPLY)):
        assert streamed(Outer(), listen("answer"))[0] == {"answer": "42 apples"}


def test_an_endpoint_is_heard() -> None:
    with MockServer(lambda body, seed: REPLY) as server:
        lm = connect("mock", server.api_base)
        with dspy.context(lm=lm):
            heard, _ = streamed(LongCoT(QA), listen("answer"))
        lm.close()
    assert heard == {"answer": "42 apples"}


def test_a_model_that_cannot_stream_is_streamed_when_it_is_done() -> None:
    class Engine:
        def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
            raise NotImplementedError

    class AsyncEngine:
        async def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
            message = dspy.lm15.Message.assistant(REPLY)
            return dspy.lm15.Response(
                id=None, model=request.model, message=message, finish_reason="stop", usage=dspy.lm15.Usage()
            )

    lm = dspy.LM("own/model", engine=Engine(), async_engine=AsyncEngine(), cache=False)
    with dspy.context(lm=lm):
        assert streamed(LongCoT(QA), listen("answer"))[0] == {"answer": "42 apples"}


def test_a_reply_out_of_the_store_comes_with_the_prediction_alone() -> None:
    with dspy.context(lm=scripted_lm(lambda _: REPLY)), session(store=Rollouts()):
        assert streamed(LongCoT(QA), listen("answer"))[0]
        heard, values = streamed(LongCoT(QA), listen("answer"))
    assert heard == {}
    assert [value.answer for value in values] == ["42 apples"]


def test_a_thought_that_is_continued_is_not_heard() -> None:
    def reply(request: ScriptedRequest) -> Completion:
        if request.request.messages[-1].role == "assistant":
            return Completion("So it is.\nAnswer: 7")
        return Completion("never", thought="a long thought " * 30)

    lm = scripted_lm(reply)
    lm.thinking_budget = "continue"  # type: ignore[attr-defined]
    with dspy.context(lm=lm):
        heard, values = streamed(LongCoT(QA, draft_tokens=40, thinking_tokens=20), listen("solution", "answer"))
    assert heard == {"solution": "So it is.", "answer": "7"}
    assert len(values[-1].ledger) == 2
