"""The chat API, as OpenAI's client, DSPy and bare HTTP see it."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import dspy
import openai
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount

import pdr_dspy
from pdr_dspy import LongCoT, SelfConsistency, connect
from pdr_dspy.endpoint import Limits
from tests.endpoint.conftest import one_more, pdr
from tests.support.endpoint_server import EndpointServer
from tests.support.mock_server import MockServer

Start = Callable[..., EndpointServer]
QUESTION: Any = [{"role": "user", "content": "What is 41 + 1?"}]


def client(server: EndpointServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0)


def counted(model: MockServer) -> int:
    """Tokens by the model server's own book."""
    prompts = sum(len(message["content"].split()) for body in model.requests for message in body["messages"])
    return prompts + sum(len(one_more(body, body["seed"]).split()) for body in model.requests)


def test_a_completion_has_the_answer_and_the_ledgers_usage(start: Start, model: MockServer) -> None:
    with client(start()) as asked:
        done = asked.chat.completions.create(model="solver", messages=QUESTION, seed=5)
    assert done.choices[0].message.content == "42"
    assert done.choices[0].finish_reason == "stop"
    assert done.usage is not None
    assert done.usage.completion_tokens_details is not None
    assert done.usage.total_tokens == counted(model)
    facts = done.to_dict()["pdr"]
    assert isinstance(facts, dict)
    assert (facts["B_total"], facts["calls"], facts["rounds"], facts["stop"]) == (counted(model), 4, 2, "done")
    assert facts["exact"] is True
    assert 0 < facts["B_seq"] < facts["B_total"]
    own = len(one_more(model.requests[-1], model.requests[-1]["seed"]).split())
    assert done.usage.completion_tokens_details.reasoning_tokens == done.usage.completion_tokens - own


def test_equal_seeds_make_equal_calls_and_none_makes_others(start: Start, model: MockServer) -> None:
    with client(start()) as asked:
        for seed in (5, 5, None, None):
            asked.chat.completions.create(model="solver", messages=QUESTION, seed=seed)
    seeds = [[body["seed"] for body in model.requests[first : first + 3]] for first in (0, 4, 8, 12)]
    assert seeds[0] == seeds[1]
    assert len({tuple(each) for each in seeds}) == 3


def test_a_stream_tells_its_rounds_then_the_answer_then_the_usage(start: Start, model: MockServer) -> None:
    with client(start()) as asked:
        chunks = list(
            asked.chat.completions.create(
                model="solver", messages=QUESTION, stream=True, stream_options={"include_usage": True}
            )
        )
    *pieces, last = chunks
    deltas = [chunk.choices[0].delta.to_dict() for chunk in pieces]
    told = [str(delta["reasoning"]) for delta in deltas if "reasoning" in delta]
    assert "Round 1 of 2: 3 drafts done, 3 with an answer; 3 of 3 for 42\n" in told
    assert deltas[0] == {"content": "", "role": "assistant"}
    assert [delta["content"] for delta in deltas if "content" in delta] == ["", "42"]
    assert [chunk.choices[0].finish_reason for chunk in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == counted(model)
    assert last.to_dict()["pdr"]["B_total"] == counted(model)  # type: ignore[index]


def test_without_being_asked_usage_comes_with_the_last_piece(start: Start) -> None:
    with client(start()) as asked:
        chunks = list(asked.chat.completions.create(model="solver", messages=QUESTION, stream=True))
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.slow
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "none"])
def test_progress_is_reported_in_the_field_that_is_wanted(start: Start, field: str) -> None:
    options = {"pdr": {"reasoning": field}}
    with client(start()) as asked:
        chunks = list(asked.chat.completions.create(model="solver", messages=QUESTION, stream=True, extra_body=options))
        whole = asked.chat.completions.create(model="solver", messages=QUESTION, extra_body=options)
    told = {key for chunk in chunks for key in chunk.choices[0].delta.to_dict()} - {"content", "role"}
    assert told == ({field} - {"none"})
    assert set(whole.choices[0].message.to_dict()) - {"content", "role", "refusal"} == ({field} - {"none"})


@pytest.mark.parametrize("stream", [False, True])
def test_n_choices_are_n_runs_and_their_usage_is_the_sum(start: Start, model: MockServer, stream: bool) -> None:
    with client(start()) as asked:
        if stream:
            chunks = list(asked.chat.completions.create(model="solver", messages=QUESTION, n=3, seed=1, stream=True))
            contents = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
            usage, facts = chunks[-1].usage, chunks[-1].to_dict()["pdr"]
            ends = [c.choices[0].index for c in chunks if c.choices[0].finish_reason]
        else:
            done = asked.chat.completions.create(model="solver", messages=QUESTION, n=3, seed=1)
            contents = [choice.message.content for choice in done.choices]
            usage, facts = done.usage, done.to_dict()["pdr"]
            ends = [choice.index for choice in done.choices]
    assert contents == ["42"] * 3
    assert sorted(ends) == [0, 1, 2]
    assert len(model.requests) == 12
    assert usage is not None
    assert isinstance(facts, dict)
    assert usage.total_tokens == facts["B_total"] == counted(model) == sum(c["B_total"] for c in facts["choices"])
    assert [choice["seed"] for choice in facts["choices"]] == [1, 2, 3]
    assert facts["B_seq"] == max(choice["B_seq"] for choice in facts["choices"])


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "content"), [("2", "4"), (["9", "2"], "4"), (["x"], "42"), ([], "42")])
def test_stop_ends_the_text_of_the_answer(start: Start, stop: Any, content: str) -> None:
    with client(start()) as asked:
        done = asked.chat.completions.create(model="solver", messages=QUESTION, stop=stop)
    assert done.choices[0].message.content == content


class Place(BaseModel):
    row: int
    name: str


def test_several_outputs_are_a_json_object(start: Start, model: MockServer) -> None:
    model.reply = lambda body, seed: 'There.\nPlace: {"row": 3, "name": "a"}\nSure: yes'
    task: Any = dspy.Signature("question -> place: Place, sure: bool", custom_types={"Place": Place})  # type: ignore[call-arg]
    with client(start({"finder": LongCoT(task, draft_tokens=64)})) as asked:
        done = asked.chat.completions.create(model="finder", messages=QUESTION)
    assert json.loads(done.choices[0].message.content or "") == {"place": {"row": 3, "name": "a"}, "sure": True}


def test_json_object_is_the_outputs_by_name(start: Start) -> None:
    with client(start()) as asked:
        done = asked.chat.completions.create(model="solver", messages=QUESTION, response_format={"type": "json_object"})
    assert done.choices[0].message.content == '{"answer":42}'


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported"),
    ({"functions": [{"name": "f"}]}, "functions", "unsupported"),
    ({"tool_choice": "required"}, "tool_choice", "unsupported"),
    ({"logprobs": True}, "logprobs", "unsupported"),
    ({"top_logprobs": 2}, "top_logprobs", "unsupported"),
    ({"audio": {"voice": "x"}}, "audio", "unsupported"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.type", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 9}, "n", "invalid_value"),
    ({"n": True}, "n", "invalid_value"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
    ({"seed": 2**64}, "seed", "invalid_value"),
    ({"seed": -(2**63) - 1}, "seed", "invalid_value"),
    ({"seed": 1.5}, "seed", "invalid_value"),
    ({"n": "2"}, "n", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "invalid_value"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "user", "content": None}]}, "messages", "missing_input"),
    ({"messages": [{"role": "tool", "content": "x"}, *QUESTION]}, "messages.0", "unsupported"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported"),
    ({"modalities": ["audio"]}, "modalities.0", "invalid_value"),
    ({"what": 1}, "what", "unknown_parameter"),
    ({"pdr": {"what": 1}}, "pdr.what", "unknown_parameter"),
    ({"pdr": {"deadline": -1}}, "pdr.deadline", "invalid_value"),
    ({"pdr": {"schedule": {"widths": [0]}}}, "pdr.schedule.widths.0", "invalid_value"),
    ({"pdr": {"schedule": {"widths": [3, 2]}}}, "pdr.schedule", "invalid_value"),
    ({"pdr": {"schedule": {"distiller": "oracle_correct"}}}, "pdr.schedule.distiller", "invalid_value"),
    ({"pdr": {"schedule": {"distiller": "os:system"}}}, "pdr.schedule.distiller", "invalid_value"),
    ({"pdr": {"schedule": {"check": "x"}}}, "pdr.schedule.check", "unknown_parameter"),
    ({"pdr": {"schedule": {"final": "best"}}}, "pdr.schedule", "invalid_value"),
    ({"pdr": {"schedule": {"widths": [256, 256, 1]}}}, "pdr.schedule.widths", "invalid_value"),
    ({"pdr": {"schedule": {"draft_tokens": 10**9}}}, "pdr.schedule.draft_tokens", "invalid_value"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("more", "param", "code"), REFUSED, ids=[str(more)[:60] for more, _, _ in REFUSED])
def test_what_is_not_supported_is_a_400_that_names_it(
    start: Start, model: MockServer, more: dict[str, Any], param: str, code: str
) -> None:
    with client(start()) as asked, pytest.raises(openai.BadRequestError) as raised:
        asked.post("/chat/completions", body={"model": "solver", "messages": QUESTION, **more}, cast_to=object)
    error = raised.value.body
    assert isinstance(error, dict)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert model.requests == []


HARMLESS: list[dict[str, Any]] = [
    {"tools": [], "tool_choice": "none", "logprobs": False},
    {"temperature": 0.3, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.0, "logit_bias": {}},
    {"user": "someone", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    {"n": 1.0, "seed": 7.0, "max_completion_tokens": 64.0},
    {"response_format": {"type": "text"}, "n": 1, "stop": None, "stream": False, "modalities": ["text"]},
]


@pytest.mark.slow
@pytest.mark.parametrize("more", HARMLESS)
def test_what_has_no_effect_is_taken_and_told(start: Start, more: dict[str, Any]) -> None:
    with client(start()) as asked:
        done: Any = asked.post(
            "/chat/completions", body={"model": "solver", "messages": QUESTION, **more}, cast_to=object
        )
    sampling = {"temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias"}
    ignored = {name for name in more if name in sampling | {"user", "metadata", "store", "service_tier"}}
    assert set(done["pdr"].get("left_out", [])) == ignored


def test_dspy_calls_it_as_any_model(start: Start, model: MockServer) -> None:
    server = start()
    lm = dspy.LM("openai/solver", api_base=server.api_base, api_key="none", cache=False, num_retries=0)
    with dspy.track_usage() as tracked:
        (answer,) = lm("What is 41 + 1?")
    assert (answer if isinstance(answer, str) else answer["text"]) == "42"
    assert tracked.get_total_tokens()["openai/solver"]["total_tokens"] == counted(model)


def test_a_predictor_of_dspys_can_stand_on_it(start: Start, model: MockServer) -> None:
    model.reply = lambda body, seed: 'Yes.\nAnswer: {"colour": "red"}'
    server = start({"painter": LongCoT("question -> answer", draft_tokens=64)})
    lm = dspy.LM("openai/painter", api_base=server.api_base, api_key="none", cache=False, num_retries=0)
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        assert dspy.Predict("flower -> colour")(flower="poppy").colour == "red"


def test_models_say_how_messages_feed_the_signature(start: Start) -> None:
    with client(start()) as asked:
        (listed,) = asked.models.list().data
        assert asked.models.retrieve("solver").to_dict() == listed.to_dict()
    facts = listed.to_dict()["pdr"]
    assert isinstance(facts, dict)
    assert facts["messages"]["inputs"] == {"question": "the text of the last user message"}
    assert facts["messages"]["left_out"] == ["system and developer messages", "turns before the last user message"]
    assert facts["schedule"] == "PDR 3-1 random_k k=2 κ=200"


def test_what_the_signature_has_no_place_for_is_reported(start: Start) -> None:
    before: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
    ]
    with client(start()) as asked:
        done = asked.chat.completions.create(model="solver", messages=[*before, *QUESTION])
    assert done.to_dict()["pdr"]["left_out"] == ["system messages", "earlier turns"]  # type: ignore[index]


def test_an_unknown_model_is_a_404(start: Start) -> None:
    with client(start()) as asked, pytest.raises(openai.NotFoundError, match="there are solver"):
        asked.chat.completions.create(model="other", messages=QUESTION)


def test_programs_answer_typed_json(start: Start) -> None:
    server = start()
    request = urllib.request.Request(
        f"{server.api_base}/programs/solver",
        json.dumps({"inputs": {"question": "What is 41 + 1?"}, "pdr": {"seed": 3}}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        said = json.load(answer)
    assert said["outputs"] == {"answer": 42}
    assert said["finish_reason"] == "stop"
    assert said["pdr"]["seed"] == 3
    with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
        document = json.load(answer)
    shape = document["paths"]["/v1/programs/solver"]["post"]
    body = shape["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert body["reasoning_effort"] == {"enum": [None]}
    assert document["components"]["schemas"]["ChatRequest"]["properties"]["model"] == {"enum": ["solver"]}
    inputs = body["inputs"]
    assert inputs["properties"] == {"question": {"type": "string"}}
    assert inputs["required"] == ["question"]
    outputs = shape["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["outputs"]
    assert outputs["properties"] == {"answer": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}


def test_metrics_count_what_was_done(start: Start, model: MockServer) -> None:
    server = start()
    with client(server) as asked:
        asked.chat.completions.create(model="solver", messages=QUESTION)
        with pytest.raises(openai.NotFoundError):
            asked.chat.completions.create(model="other", messages=QUESTION)
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        figures = answer.read().decode()
    for line in (
        'pdr_requests_total{model="solver",route="/v1/chat/completions",status="200"} 1.0',
        'pdr_requests_total{model="",route="/v1/chat/completions",status="404"} 1.0',
        'pdr_runs_total{model="solver",stop="done"} 1.0',
        'pdr_rounds_total{model="solver"} 2.0',
        'pdr_calls_total{model="solver",outcome="done"} 4.0',
        f'pdr_b_total_tokens_sum{{model="solver"}} {float(counted(model))}',
        'pdr_refusals_total{code="model_not_found"} 1.0',
        "pdr_running 0.0",
        "pdr_queued 0.0",
    ):
        assert line in figures.splitlines()


def test_it_can_be_mounted_in_another_application(model: MockServer) -> None:
    lm = connect("mock", model.api_base)
    inner = pdr_dspy.app({"solver": pdr()}, lm=lm)
    with EndpointServer(Starlette(routes=[Mount("/math", inner)])) as server:
        asked = openai.OpenAI(base_url=f"{server.url}/math/v1", api_key="none")
        done = asked.chat.completions.create(model="solver", messages=QUESTION)
        assert done.choices[0].message.content == "42"
        chunks = list(asked.chat.completions.create(model="solver", messages=QUESTION, stream=True))
        asked.close()
    assert chunks[-1].usage is not None
    lm.close()


def test_the_model_may_be_the_one_that_dspy_has(model: MockServer) -> None:
    lm = connect("mock", model.api_base)
    with dspy.context(lm=lm):
        app = pdr_dspy.app(pdr())
    with EndpointServer(app) as server, client(server) as asked:
        done = asked.chat.completions.create(model="program", messages=QUESTION)
    assert done.choices[0].message.content == "42"
    lm.close()


def test_a_comment_keeps_a_stream_open_that_has_nothing_to_say(start: Start, model: MockServer) -> None:
    model.gate = threading.Event()
    server = start(limits=Limits(keepalive_seconds=0.02))
    body = json.dumps({"model": "solver", "messages": QUESTION, "stream": True}).encode()
    request = urllib.request.Request(f"{server.api_base}/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        lines = [answer.readline() for _ in range(6)]
        model.gate.set()
        lines += answer.readlines()
    assert lines.count(b": still at work\n") >= 1
    assert lines[-2] == b"data: [DONE]\n"


def test_one_draft_alone_is_served_too(start: Start) -> None:
    served = {
        "one": LongCoT("question -> answer: int", draft_tokens=64),
        "vote": SelfConsistency("question -> answer: int", n=3, draft_tokens=64),
    }
    with client(start(served)) as asked:
        for name in served:
            done = asked.chat.completions.create(model=name, messages=QUESTION)
            assert done.choices[0].message.content == "42"
            assert done.usage is not None
