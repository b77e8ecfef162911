"""Budgets hold, and an answer of a program that was cut short says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from pdr_dspy import PDR, LongCoT, SelfConsistency, save
from pdr_dspy.artifact import Point
from pdr_dspy.endpoint import Limits
from pdr_dspy.errors import ConfigError
from tests.endpoint.conftest import one_more, pdr, until
from tests.support.endpoint_server import EndpointServer
from tests.support.mock_server import MockServer

Start = Callable[..., EndpointServer]
QUESTION: Any = [{"role": "user", "content": "What is 41 + 1?"}]


def ask(server: EndpointServer, model: Any = "solver", *, stream: Any = False, **options: Any) -> Any:
    """The body of the answer; of a stream its last chunk, with the content of all."""
    pdr_options = options.pop("pdr", None)
    body = {"pdr": pdr_options} if pdr_options is not None else {}
    with openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0) as client:
        done: Any = client.chat.completions.create(
            model=model, messages=QUESTION, extra_body=body, stream=stream, **options
        )
        if not stream:
            told = done.to_dict()
            return {**told, "content": told["choices"][0]["message"]["content"]}
        chunks = [chunk.to_dict() for chunk in done]
        return {**chunks[-1], "content": "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)}


DEAR = {"refine_tokens": 400}
"""A second round whose worst case is dear: a budget that has room for the first is not enough."""
ONE_ROUND = {"total": 560, "seq": 200}


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("limit", ["total", "seq"])
def test_a_stop_for_the_budget_is_no_stop(start: Start, model: MockServer, stream: bool, limit: str) -> None:
    cut = ask(start({"solver": pdr(**DEAR)}), stream=stream, pdr={f"budget_{limit}": ONE_ROUND[limit]})
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["pdr"]["stop"] == "budget"
    assert cut["content"] == "42"
    assert cut["pdr"][f"B_{limit}"] <= ONE_ROUND[limit]
    assert len(model.requests) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_budget_below_the_first_round_is_refused_before_a_token_is_spent(
    start: Start, model: MockServer, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match="below the worst case") as raised:
        ask(start(), stream=stream, pdr={"budget_total": 10})
    assert raised.value.code == "budget_too_small"
    assert model.requests == []


def test_the_servers_limit_holds_whatever_a_client_asks(start: Start, model: MockServer) -> None:
    program = {"solver": pdr(**DEAR)}
    assert ask(start(program))["pdr"]["stop"] == "done"
    bound = start(program, limits=Limits(budget_total=ONE_ROUND["total"]))
    for asked in ({}, {"budget_total": 10**9}):
        assert ask(bound, pdr=asked)["pdr"]["stop"] == "budget"


def test_a_total_budget_is_of_all_choices_together(start: Start) -> None:
    server = start({"solver": pdr(**DEAR)})
    limit = {"budget_total": 4 * ONE_ROUND["total"]}
    assert ask(server, pdr=limit)["pdr"]["stop"] == "done"
    shared = ask(server, n=4, pdr=limit)
    assert shared["pdr"]["stop"] == "budget"
    assert shared["pdr"]["B_total"] <= limit["budget_total"]


def test_a_budget_below_the_first_round_is_named_as_it_was_asked_for(start: Start) -> None:
    with pytest.raises(openai.BadRequestError, match=r"`Budget\(sequential=None, total=5\)` is below the worst case"):
        ask(start(), pdr={"budget_total": 5})


def test_max_completion_tokens_is_the_cap_of_the_answers_call(start: Start, model: MockServer) -> None:
    server = start({"solver": pdr(), "one": LongCoT("question -> answer: int", draft_tokens=64)})
    for name in ("max_completion_tokens", "max_tokens"):
        ask(server, **{name: 9})
        assert [body["max_tokens"] for body in model.requests[-4:]] == [64, 64, 64, 9]
        ask(server, model="one", **{name: 9})
        assert model.requests[-1]["max_tokens"] == 9
    ask(server, max_completion_tokens=10**6)
    assert [body["max_tokens"] for body in model.requests[-4:]] == [64] * 4


def cut_answer(body: dict[str, Any], seed: int) -> dict[str, Any]:
    text = "It goes on and" if body["max_tokens"] < 64 else one_more(body, seed)
    return {
        "message": {"role": "assistant", "content": text},
        "finish_reason": "length" if body["max_tokens"] < 64 else "stop",
    }


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_is_no_stop(start: Start, model: MockServer, stream: bool) -> None:
    model.reply = cut_answer  # type: ignore[assignment]
    server = start({"solver": pdr(), "one": LongCoT("question -> answer: int", draft_tokens=64)})
    fell_back = ask(server, stream=stream, max_completion_tokens=4)
    assert fell_back["content"] == "42"  # of the first round
    assert fell_back["choices"][0]["finish_reason"] == "length"
    assert fell_back["pdr"]["stop"] == "fell back"
    nothing = ask(server, model="one", stream=stream, max_completion_tokens=4)
    assert nothing["content"] == ""
    assert nothing["choices"][0]["finish_reason"] == "length"
    assert nothing["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
def test_drafts_without_an_answer_are_an_error_that_says_what_was_spent(
    start: Start, model: MockServer, stream: bool
) -> None:
    model.reply = lambda body, seed: "I cannot say."
    with pytest.raises(openai.APIError, match="no answer could be read") as raised:
        ask(start(), stream=stream)
    if not stream:
        assert isinstance(raised.value, openai.InternalServerError)
        told = raised.value.response.json()
        assert told["usage"]["total_tokens"] == told["pdr"]["B_total"] > 0
        assert told["pdr"]["stop"] == "no answer"


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_server_that_fails_is_a_502_without_its_address(start: Start, model: MockServer, stream: bool) -> None:
    server = start({"one": LongCoT("question -> answer: int", draft_tokens=64)})
    model.faults += [(400, {}, {"error": {"message": "secret words of the prompt"}})] * 2
    with pytest.raises(openai.APIError) as raised:
        ask(server, model="one", stream=stream)
    assert raised.value.code == "model_server_failed"
    assert "secret" not in str(raised.value.body)
    assert str(model.port) not in str(raised.value.body)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_answers_with_what_is_there(start: Start, model: MockServer, stream: bool) -> None:
    hangs = threading.Event()
    server = start({"solver": pdr(refine_tokens=33)})
    original = model._answer

    async def answer(body: dict[str, Any], request: Any) -> Any:
        if body["max_tokens"] == 33:  # the second round is never there
            hangs.set()
            await model._ends.wait()
        return await original(body, request)

    model._answer = answer  # type: ignore[method-assign]
    cut = ask(server, stream=stream, pdr={"deadline": 0.6})
    assert hangs.is_set()
    assert cut["pdr"]["stop"] == "deadline"
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["content"] == "42"
    assert cut["pdr"]["exact"] is False  # what the call had cost that was cancelled, nobody knows
    assert cut["pdr"]["cancelled_calls"] == 1
    until(lambda: model.aborts == 1 and model.in_flight == 0)


def test_a_deadline_before_the_first_round_is_a_504(start: Start, model: MockServer) -> None:
    model.gate = threading.Event()
    with pytest.raises(openai.InternalServerError) as raised:
        ask(start(), pdr={"deadline": 0.2})
    assert (raised.value.status_code, raised.value.code) == (504, "deadline_exceeded")
    facts = raised.value.response.json()["pdr"]
    assert (facts["cancelled_calls"], facts["stop"]) == (3, "deadline")
    model.gate.set()
    until(lambda: model.in_flight == 0)


def test_the_servers_deadline_holds_whatever_a_client_asks(start: Start, model: MockServer) -> None:
    model.gate = threading.Event()
    with pytest.raises(openai.InternalServerError, match=r"deadline of 0\.2 s"):
        ask(start(limits=Limits(seconds=0.2)), pdr={"deadline": 1000.0})


def test_a_schedule_of_the_clients_is_run_within_the_caps(start: Start, model: MockServer) -> None:
    done = ask(start(), pdr={"schedule": {"widths": [5, 2, 1], "draft_tokens": 32}})
    assert done["pdr"]["rounds"] == 3
    assert [body["max_tokens"] for body in model.requests] == [32] * 8
    server = start(limits=Limits(calls=7))
    with pytest.raises(openai.BadRequestError, match="makes 8 calls; this server allows 7"):
        ask(server, pdr={"schedule": {"widths": [5, 2, 1]}})


def saved_with_points(folder: Path) -> Path:
    return save(
        pdr(),
        folder / "tuned.json",
        points={
            "fast": Point(LongCoT("question -> answer: int", draft_tokens=64), {"score": 0.5, "total": 90.0}),
            "balanced": Point(SelfConsistency("question -> answer: int", n=2, draft_tokens=64)),
            "best": Point(pdr(widths=(4, 1))),
        },
    )


@pytest.mark.slow
def test_reasoning_effort_is_a_point_of_the_front(start: Start, model: MockServer, tmp_path: Path) -> None:
    server = start(str(saved_with_points(tmp_path)))
    for effort, name, calls in (("low", "fast", 1), ("medium", "balanced", 2), ("high", "best", 5)):
        assert ask(server, model="tuned", reasoning_effort=effort)["pdr"]["calls"] == calls
        assert ask(server, model=f"tuned:{name}")["pdr"]["calls"] == calls
    assert ask(server, model="tuned")["pdr"]["calls"] == 4
    with openai.OpenAI(base_url=server.api_base, api_key="none") as client:
        listed = {one.id: one.to_dict()["pdr"] for one in client.models.list().data}
    assert list(listed) == ["tuned", "tuned:fast", "tuned:balanced", "tuned:best"]
    assert listed["tuned:fast"]["figure"] == {"score": 0.5, "total": 90.0}  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match="must be one of low, medium, high"):
        ask(server, model="tuned", reasoning_effort="minimal")


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"running": 0}, {"budget_total": -1}, {"seconds": float("nan")}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)


def test_a_prompt_beyond_the_models_context_is_a_400(start: Start, model: MockServer) -> None:
    model.kind, model.context = "vllm", 300
    server = start({"solver": PDR("question -> answer: int", widths=(2, 1), draft_tokens=400)})
    with pytest.raises(openai.BadRequestError) as raised:
        ask(server)
    assert raised.value.code == "context_length_exceeded"
