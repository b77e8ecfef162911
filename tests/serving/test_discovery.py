"""What is asked of each kind of server, to learn which weights it serves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dspy import lm15

from pdr_dspy.serving import connect
from pdr_dspy.serving.client import retries
from pdr_dspy.serving.client.discovery import describe
from pdr_dspy.serving.client.models import Server
from tests.support.mock_server import MockServer
from tests.support.sending import identity


@pytest.mark.parametrize(
    ("owner", "path", "first", "second"),
    [
        ("sglang", "/model_info", {"model_path": "/w/1"}, {"model_path": "/w/2"}),
        ("sglang", "/get_model_info", {"model_path": "/w", "weight_version": "1"},
         {"model_path": "/w", "weight_version": "2"}),
        ("library", "/api/tags", {"models": [{"name": "mock:latest", "digest": "a"}, {"name": "other", "digest": "b"}]},
         {"models": [{"name": "mock:latest", "digest": "b"}, {"name": "other", "digest": "b"}]}),
        ("organization_owner", "/api/v0/models", {"data": [{"id": "mock", "quantization": "Q4_K_M"}]},
         {"data": [{"id": "mock", "quantization": "Q8_0"}]}),
        ("mock", "/info", {"model_id": "mock", "model_sha": "a"}, {"model_id": "mock", "model_sha": "b"}),
    ],
)  # fmt: skip
def test_other_engines_say_elsewhere_which_weights_they_serve(owner: str, path: str, first: Any, second: Any) -> None:
    with MockServer(owner=owner) as server:
        names = set()
        for said in (first, second, {**first, "models": None} if "models" in first else first):
            server.told = {path: said}
            names.add(identity(connect("mock", server.api_base)))
        server.told = {path: first}
        again = identity(connect("mock", server.api_base))
    assert len(names) == (3 if "models" in first else 2)
    assert again in names


def test_a_server_that_says_no_more_is_asked_for_no_more() -> None:
    with MockServer() as server:
        identity(connect("mock", server.api_base))
        assert server.asked == []


BASE = "http://elsewhere:8000/v1"


def ask(replies: dict[str, Any], seconds: float = 60.0) -> tuple[Server, list[str]]:
    """The description of the model "mock" at a server with these replies, and the addresses that were asked.

    A reply may be an error, or a list of replies that come in turn; any other address is not found.
    """
    asked: list[str] = []

    async def get_json(api_base: str, path: str) -> Any:
        asked.append(api_base + path)
        reply = replies.get(path, lm15.InvalidRequestError("not found", status=404))
        reply = reply.pop(0) if isinstance(reply, list) else reply
        if isinstance(reply, Exception):
            raise reply
        return reply

    return asyncio.run(describe(BASE, get_json, model="mock", adapter=None, seconds=seconds)), asked


def listing(owner: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "mock", "owned_by": owner}]}


ROOT = BASE.removesuffix("/v1")


@pytest.mark.parametrize(
    ("owner", "replies", "more"),
    [
        ("vllm", {}, []),
        ("llamacpp", {}, ["/props?model=mock", "/lora-adapters"]),
        ("sglang", {"/model_info": {}}, ["/model_info"]),
        ("sglang", {"/get_model_info": {}}, ["/model_info", "/get_model_info"]),
        ("sglang", {"/model_info": ValueError("no JSON"), "/get_model_info": {}}, ["/model_info", "/get_model_info"]),
        ("library", {}, ["/api/tags"]),
        ("someone", {}, []),
    ],
)
def test_each_kind_of_server_is_asked_what_it_knows(owner: str, replies: dict[str, Any], more: list[str]):
    server, asked = ask({"/models": listing(owner), **replies})
    assert server.models == ("mock",)
    assert asked == [f"{BASE}/models", *(ROOT + path for path in more)]


LOADING = lm15.ServerError("Loading model", status=503)


def test_a_server_that_loads_its_model_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retries, "LOADING", 0.001)
    server, asked = ask({"/models": [LOADING, LOADING, listing("vllm")]})
    assert server.kind == "vllm"
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (LOADING, 0.0),  # there is no time to wait
        (lm15.ServerError("broken", status=500), 60.0),
        (lm15.AuthError("who is there?", status=401), 60.0),
        ({"data": "none"}, 60.0),
    ],
)
def test_any_other_failure_to_list_the_models_is_final(reply: Any, seconds: float):
    error = type(reply) if isinstance(reply, Exception) else ValueError
    with pytest.raises(error):
        ask({"/models": [reply, listing("vllm")]}, seconds)
