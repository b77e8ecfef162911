"""Requests over HTTP: which failures are tried again, what an error says, and which replica takes a request."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from typing import Any

import pytest
from dspy.utils.exceptions import (
    ContextWindowExceededError,
    LMAuthError,
    LMError,
    LMInvalidRequestError,
    LMRateLimitError,
    LMServerError,
    LMTimeoutError,
    LMTransportError,
)

from pdr_dspy.calls.dspy_bridge import Tries, tries_of
from pdr_dspy.serving import connect
from pdr_dspy.serving.client import retries
from tests.support.mock_server import MockServer
from tests.support.sending import free_address, request, send, servers, sibling


@pytest.mark.slow
@pytest.mark.parametrize("fault", [500, 503, "drop", (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}})])
def test_transient_failures_are_retried(fault: Any):
    with MockServer() as server:
        server.faults = [fault, fault]
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm, seed=1))
        assert response.text == "text 1"
        assert len(server.requests) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (500, LMServerError),
        ("drop", LMTransportError),
        ((429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}), LMRateLimitError),
    ],
)
def test_retries_end(fault: Any, error: type[Exception]):
    with MockServer() as server:
        server.faults = [fault] * 10
        lm = connect("mock", server.api_base)
        with pytest.raises(error):
            send(lm, request(lm))
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": {"message": "temperature is odd", "type": "BadRequestError"}}, LMInvalidRequestError),
        ({"object": "error", "message": "temperature is odd"}, LMInvalidRequestError),
        ({"detail": "temperature is odd"}, LMInvalidRequestError),
        ("temperature is odd", LMInvalidRequestError),
        (
            {"error": {"message": "temperature is odd", "type": "exceed_context_size_error"}},
            ContextWindowExceededError,
        ),
        ({"message": "temperature is odd: the maximum context length is 10 tokens"}, ContextWindowExceededError),
    ],
)
def test_a_400_is_final_and_has_the_servers_sentence(body: Any, error: type[Exception]):
    with MockServer() as server:
        server.faults = [(400, {}, body)]
        lm = connect("mock", server.api_base)
        with pytest.raises(error, match="temperature is odd"):
            send(lm, request(lm))
        assert len(server.requests) == 1


def test_a_refused_key_says_where_to_put_one():
    with MockServer() as server:
        server.faults = [(401, {}, {"error": {"message": "no key"}})]
        lm = connect("mock", server.api_base, api_key="wrong-key")
        with pytest.raises(LMAuthError, match="api_key") as caught:
            send(lm, request(lm))
        assert "wrong-key" not in str(caught.value)


@pytest.mark.parametrize("answer", [{}, {"choices": [{"index": 0}]}, {"choices": "no"}])
def test_an_answer_without_a_completion_is_an_error(answer: dict[str, Any]):
    with MockServer() as server:
        server.faults = [answer]
        lm = connect("mock", server.api_base)
        with pytest.raises(LMServerError):
            send(lm, request(lm))


def test_an_answer_that_is_not_json_is_an_error():
    with MockServer() as server:
        server.faults = [(200, {}, "<html>hello</html>")]
        lm = connect("mock", server.api_base)
        with pytest.raises(LMServerError, match="not OpenAI-compatible"):
            send(lm, request(lm))


def test_a_silent_server_times_out():
    with MockServer() as server:
        server.gate = threading.Event()
        lm = connect("mock", server.api_base, timeout=0.2)
        with pytest.raises(LMTimeoutError, match=r"timeout=0\.2"):
            send(lm, request(lm))
        assert len(server.requests) == 1


def test_a_dead_server_is_a_transport_error():
    lm = connect("mock", free_address())
    with pytest.raises(LMTransportError, match="no server answers"):
        send(lm, request(lm))


@pytest.mark.slow
def test_a_response_says_how_many_tries_it_took_and_what_nobody_accounts_for():
    with MockServer() as server:
        server.faults = [500, (429, {"Retry-After": "0"}, "busy"), "cut"]
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm, seed=1))
        assert response.text == "text 1"
        assert tries_of(response) == Tries(tries=4, unsettled=2)
        (at_once,) = send(lm, request(lm, seed=2))
        assert tries_of(at_once) == Tries(1, 0)


@pytest.mark.parametrize(("fault", "expected"), [("drop", Tries(4, 4)), ((400, {}, "no"), Tries(1, 0))])
def test_an_error_says_how_many_tries_it_took(fault: Any, expected: Tries):
    with MockServer() as server:
        server.faults = [fault] * 10
        lm = connect("mock", server.api_base)
        with pytest.raises(LMError) as caught:
            send(lm, request(lm))
    assert tries_of(caught.value) == expected


@pytest.mark.slow
def test_a_first_byte_that_never_comes_is_requested_again():
    with MockServer() as server:
        server.faults = ["hang", "hang"]
        lm = connect("mock", server.api_base, first_byte=0.2)
        (response,) = send(lm, request(lm, seed=1))
        assert response.text == "text 1"
        assert tries_of(response) == Tries(3, 2)
        assert server.aborts == 2


def test_a_server_that_sends_elsewhere_is_not_followed():
    with MockServer() as server:
        server.faults = [(307, {"Location": "http://elsewhere/v1"}, "")]
        lm = connect("mock", server.api_base)
        with pytest.raises(LMServerError, match=r"http://elsewhere/v1.*api_base"):
            send(lm, request(lm))
        assert len(server.requests) == 1


def test_a_compressed_answer_is_read():
    body = gzip.compress(json.dumps({"choices": [{"message": {"content": "four"}}]}).encode())
    with MockServer() as server:
        server.faults = [(200, {"Content-Encoding": "gzip"}, body)]
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm))
    assert response.text == "four"


@pytest.mark.parametrize(
    "fault", [b"\x1f\x8bno gzip", b'{"choices": [{"mess', (200, {"Content-Encoding": "gzip"}, b"x")]
)
def test_an_answer_that_arrives_damaged_is_requested_again(fault: Any):
    with MockServer() as server:
        server.faults = [fault] if isinstance(fault, tuple) or fault[:1] == b"{" else [b'{"choices"' + fault]
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm, seed=3))
        assert response.text == "text 3"
        assert tries_of(response) == Tries(2, 1)


def test_a_prompt_that_is_no_unicode_still_goes_out():
    with MockServer() as server:
        lm = connect("mock", server.api_base)
        response = asyncio.run(lm.send_directly(request(lm, "a\ud800b", seed=1)))  # DSPy itself refuses it
        assert response.text == "text 1"
        assert server.requests[0]["messages"][0]["content"] == "a\ud800b"


@pytest.mark.slow
@pytest.mark.parametrize("bound", [None, 6])
def test_a_server_that_refuses_is_given_what_it_takes(bound: int | None):
    with MockServer() as server:
        server.width, server.work = 4, 0.002
        lm = connect("mock", server.api_base, max_in_flight=bound)
        responses = send(lm, *(request(lm, seed=seed) for seed in range(60)))
        assert [response.text for response in responses] == [f"text {seed}" for seed in range(60)]
        assert server.peak == 4
        assert server.served == 60
        assert server.refused < 120
        assert sum(tries_of(response).tries for response in responses) == len(server.requests)
        assert all(tries_of(response).unsettled == 0 for response in responses)


def test_replicas_share_the_work():
    stack, both = servers(2, kind="vllm")
    with stack:
        lm = connect("mock", [server.api_base for server in both])
        lm.check_sync()
        responses = send(lm, *(request(lm, f"question {seed}", seed=seed) for seed in range(60)))
        assert [response.text for response in responses] == [f"text {seed}" for seed in range(60)]
        assert min(len(server.requests) for server in both) >= 20
        assert asyncio.run(lm.count_tokens(["a b c"])) == [3]
        lm.close()


def test_siblings_that_go_singly_stay_where_their_prompt_is_known():
    stack, both = servers(2)
    with stack:
        lm = connect("mock", [server.api_base for server in both], siblings=False)
        send(lm, *(sibling(lm, seed, 8) for seed in range(8)))
        assert sorted(len(server.requests) for server in both) == [0, 8]


def test_a_router_in_front_can_tell_questions_apart():
    with MockServer(kind="vllm") as server:
        lm = connect("mock", server.api_base, siblings=True)
        question = "What is 2 + 2? " * 40
        send(lm, request(lm, question, seed=1), request(lm, question + "Workspace: 4", seed=2), request(lm, "Who?"))
        send(lm, *(sibling(lm, seed, 2) for seed in range(2)))
        sessions = {
            body["messages"][-1]["content"]: head["X-Session-ID"]
            for body, head in zip(server.requests, server.headers, strict=True)
        }
    same, later, other, _ = sessions.values()
    assert same == later
    assert len(set(sessions.values())) == 3
    assert other != same


def test_a_replica_that_dies_loses_no_call():
    stack, (first, second) = servers(2)
    with stack:
        lm = connect("mock", [first.api_base, free_address(), second.api_base])
        first.faults = ["drop"] * 100
        responses = send(lm, *(request(lm, f"question {seed}", seed=seed) for seed in range(60)))
        assert [response.text for response in responses] == [f"text {seed}" for seed in range(60)]
        assert second.served == 60


def test_a_server_that_loads_its_model_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retries, "LOADING", 0.01)
    loading = (503, {}, {"error": {"message": "Loading model", "code": 503}})
    with MockServer() as server:
        server.faults = [loading] * 6
        lm = connect("mock", server.api_base, timeout=30)
        (response,) = send(lm, request(lm, seed=1))
        assert response.text == "text 1"
