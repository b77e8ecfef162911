"""Completions: siblings as one request, and single requests where that is not possible."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMInvalidRequestError

from pdr_dspy import SelfConsistency
from pdr_dspy.serving import connect
from tests.support.mock_server import MockServer
from tests.support.sending import send, sibling

QA = "question -> answer"


@pytest.mark.parametrize("kind", ["llama.cpp", "vllm"])
def test_siblings_share_one_request_and_get_the_choice_of_their_seed(kind: str):
    with MockServer(lambda body, seed: "word " * (seed - 9), kind=kind) as server:
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 4) for seed in (12, 10, 13, 11)))
        (body,) = server.requests
        assert (body["n"], body["seed"]) == (4, 10)
        assert "pdr_siblings" not in body
    assert [(response.text or "").count("word") for response in responses] == [3, 1, 4, 2]
    assert [response.usage.output_tokens for response in responses] == [3, 1, 4, 2]
    # vLLM counts the prompt for each choice in its own counters; llama.cpp reads and counts it once.
    assert [response.usage.input_tokens for response in responses] == ([3] * 4 if kind == "vllm" else [0, 3, 0, 0])
    assert [response.usage.cache_read_tokens for response in responses] == [None, 2, None, None]


def test_output_tokens_stay_unknown_where_the_server_counts_all_choices_together():
    with MockServer() as server:
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 2) for seed in (1, 2)))
        assert len(server.requests) == 1
    assert [response.usage.output_tokens for response in responses] == [None, None]
    assert [response.usage.input_tokens for response in responses] == [3, 0]


def test_siblings_go_singly_when_the_capability_is_off():
    with MockServer() as server:
        lm = connect("mock", server.api_base, siblings=False)
        responses = send(lm, *(sibling(lm, seed, 3) for seed in (1, 2, 3)))
        assert [response.text for response in responses] == ["text 1", "text 2", "text 3"]
        assert all("n" not in body and "pdr_siblings" not in body for body in server.requests)
        assert len(server.requests) == 3


def test_a_server_that_ignores_n_still_answers_everyone():
    with MockServer(max_n=1) as server:
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 3) for seed in range(3)))
        assert [response.text for response in responses] == ["text 0", "text 1", "text 2"]
        assert not lm.capabilities_sync().siblings


def test_a_failed_group_fails_every_member():
    with MockServer(kind="vllm") as server:
        server.faults = [(400, {}, {"error": {"message": "no such thing"}})]
        lm = connect("mock", server.api_base, siblings=True)

        async def main() -> list[Any]:
            calls = (lm.acall(sibling(lm, seed, 3)) for seed in range(3))
            return await asyncio.gather(*calls, return_exceptions=True)

        errors = asyncio.run(main())
    assert [type(error) for error in errors] == [LMInvalidRequestError] * 3


def test_a_lost_stream_is_sent_again():
    with MockServer(kind="llama.cpp") as server:
        server.faults = [(200, {}, 'data: {"choices": []}\n\n')]
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 2) for seed in range(2)))
        assert [response.text for response in responses] == ["text 0", "text 1"]
        assert len(server.requests) == 2


def test_equal_drafts_of_temperature_0_are_one_request() -> None:
    reply = "Answer: 1"
    with MockServer(lambda body, seed: reply, kind="vllm") as server, dspy.context(lm=connect("mock", server.api_base)):
        prediction = SelfConsistency(QA, n=4, temperature=0.0)(question="q")
        assert len(server.requests) == 1
        assert "n" not in server.requests[0]
        assert len(prediction.rounds[0].drafts) == 4
        assert prediction.ledger.total == prediction.ledger.calls[0].tokens


@pytest.mark.slow
def test_a_request_for_n_that_hangs_costs_one_draft() -> None:
    with MockServer(lambda body, seed: "Answer: 1", kind="vllm") as server:
        server.faults = ["hang"]
        with dspy.context(lm=connect("mock", server.api_base, timeout=1.0)):
            prediction = SelfConsistency(QA, n=3)(question="q")
        assert [draft.ok for draft in prediction.rounds[0].drafts] == [True, True, True]
        assert [request.get("n", 1) for request in server.requests] == [3, 1, 1, 1]
