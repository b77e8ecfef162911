"""Clients that people have, as they are: curl, litellm, dspy.LM, what open-webui sends; the others use openai's."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from typing import Any

import dspy
import openai
import pytest

from pdr_dspy.endpoint import Keys, Limits
from tests.support.endpoint_server import EndpointServer
from tests.support.mock_server import MockServer

Start = Callable[..., EndpointServer]
QUESTION: Any = [{"role": "user", "content": "What is 41 + 1?"}]
KEY = "k" * 32

pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict:UserWarning")  # of litellm's own types


def curl(*arguments: str) -> str:
    line = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", "30", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_gets_a_stream_and_a_status(start: Start) -> None:
    server = start(keys=Keys([KEY]))
    url, json_type = f"{server.api_base}/chat/completions", "Content-Type: application/json"
    body = json.dumps({"model": "solver", "messages": QUESTION, "stream": True})
    said = curl(url, "-H", json_type, "-H", f"Authorization: Bearer {KEY}", "-d", body)
    events = [line.removeprefix("data: ") for line in said.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "42"
    assert chunks[-1]["usage"]["total_tokens"] == chunks[-1]["pdr"]["B_total"]
    assert curl(url, "-H", json_type, "-d", body, "-o", "/dev/null", "-w", "%{http_code}") == "401"
    assert curl(url, "-d", body, "-H", f"Authorization: Bearer {KEY}", "-o", "/dev/null", "-w", "%{http_code}") == "415"


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_litellm_takes_it_for_any_openai_server(start: Start, stream: bool) -> None:
    import litellm

    server = start()
    done: Any = litellm.completion(
        model="openai/solver",
        messages=QUESTION,
        api_base=server.api_base,
        api_key="none",
        stream=stream,
        max_completion_tokens=64,
        extra_body={"pdr": {"budget_total": 5000, "seed": 4}},
    )
    if stream:
        pieces = list(done)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == "42"
        told = [getattr(piece.choices[0].delta, "reasoning_content", None) for piece in pieces if piece.choices]
        assert any(text and "Round 1 of 2" in text for text in told)  # its own name for `delta.reasoning`
    else:
        assert done.choices[0].message.content == "42"
        assert done.usage.total_tokens == done.pdr["B_total"]
        assert done.choices[0].finish_reason == "stop"


@pytest.mark.slow
def test_litellm_names_errors_as_openais(start: Start) -> None:
    import litellm
    from litellm.exceptions import BadRequestError, NotFoundError

    server = start()
    with pytest.raises(BadRequestError, match="below the worst case"):
        litellm.completion(
            model="openai/solver",
            messages=QUESTION,
            api_base=server.api_base,
            api_key="none",
            extra_body={"pdr": {"budget_total": 5}},
        )
    with pytest.raises(NotFoundError, match="there is no model"):
        litellm.completion(model="openai/other", messages=QUESTION, api_base=server.api_base, api_key="none")


@pytest.mark.slow
def test_a_dspy_program_stands_on_it_with_a_budget(start: Start, model: MockServer) -> None:
    server = start()
    lm = dspy.LM(
        "openai/solver",
        api_base=server.api_base,
        api_key="none",
        cache=False,
        num_retries=0,
        extra_body={"pdr": {"budget_total": 5000, "deadline": 20}},
    )
    with dspy.context(lm=lm):
        (said,) = lm("What is 41 + 1?")
    text = said["text"] if isinstance(said, dict) else said
    assert text == "42"
    assert lm.history[-1]["usage"]["total_tokens"] > 0
    assert model.served == 4


TOOLS = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object"}}}
    for name in ("get_current_timestamp", "calculate_timestamp", "ask_user")
]
"""The first of the tools that open-webui 0.12 offers in every chat, unless `Function Calling` is set to `Legacy`."""
OPEN_WEBUI: list[dict[str, Any]] = [
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream": True, "tools": TOOLS},
    {"stream": False, "tools": TOOLS, "tool_choice": "auto"},
    {"stream": True, "user": "u", "metadata": {"chat_id": "c", "message_id": "m", "features": {"memory": True}}},
    {"stream": True, "temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "seed": 3, "stop": ["\n\n"]},
    {"stream": False, "max_tokens": 1000},  # titles
    {"stream": False, "metadata": {"task": "tags_generation", "task_body": {}, "chat_id": None}},
    {"stream": True, "reasoning_effort": None, "frequency_penalty": 0, "logit_bias": {}, "tools": []},
]


@pytest.mark.slow
@pytest.mark.parametrize("more", OPEN_WEBUI)
def test_what_open_webui_sends_is_answered(start: Start, more: dict[str, Any]) -> None:
    """A chat with a system prompt and earlier turns, as it is sent to every OpenAI connection, after its look at
    /models, by which it makes its menu."""
    server = start(keys=Keys([KEY]), limits=Limits(ignore_tools=True))
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}

    def ask(path: str, body: dict[str, Any] | None = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(
            urllib.request.Request(f"{server.api_base}{path}", data, headers), timeout=30
        ) as answer:
            return answer.read().decode()

    menu = json.loads(ask("/models"))
    assert [(one["id"], one["object"]) for one in menu["data"]] == [("solver", "model")]
    turns = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "2"},
        *QUESTION,
    ]
    said = ask("/chat/completions", {"model": "solver", "messages": turns, **more})
    if more["stream"]:
        chunks = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == "42"
        last = chunks[-1]
    else:
        last = json.loads(said)
        assert last["choices"][0]["message"]["content"] == "42"
    assert {"system messages", "earlier turns"} <= set(last["pdr"]["left_out"])
    assert ("tools" in last["pdr"]["left_out"]) == bool(more.get("tools"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "ask_user"}}}, "tool_choice"),
        ({"tools": "all"}, "tools"),
        ({"messages": [*QUESTION, {"role": "tool", "content": "7"}]}, "messages"),
    ],
)
def test_a_call_that_a_client_relies_on_is_refused_even_if_tools_are_ignored(
    start: Start, body: dict[str, Any], param: str
) -> None:
    server = start(limits=Limits(ignore_tools=True))
    client = openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0)
    with client, pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", body={"model": "solver", "messages": QUESTION, **body}, cast_to=object)
    assert refused.value.param == param


def test_the_refusal_of_tools_names_the_option(start: Start) -> None:
    client = openai.OpenAI(base_url=start().api_base, api_key="none", max_retries=0)
    with client, pytest.raises(openai.BadRequestError, match="--ignore-tools"):
        client.chat.completions.create(model="solver", messages=QUESTION, tools=TOOLS)  # type: ignore[arg-type]
