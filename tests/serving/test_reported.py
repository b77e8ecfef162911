"""A server that is exchanged behind a connection that holds is noticed by what its responses say of themselves."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import SR, LongCoT, SelfConsistency, calls, evaluate
from pdr_dspy.calls import RoundFailed
from pdr_dspy.errors import EndpointError
from pdr_dspy.serving import EndpointLM, connect
from pdr_dspy.verifiers import ExactVerifier
from tests.support.mock_server import MockServer

QA = "question -> answer"


def ask(lm: EndpointLM, question: str = "q", **options: Any) -> Any:
    with dspy.context(lm=lm):
        return SelfConsistency(QA, n=2, **options)(question=question).answer


def says(answer: str, **options: Any) -> MockServer:
    return MockServer(lambda body, seed: f"Answer: {answer}", **options)


def exchange(server: MockServer, name: str, answer: str = "2") -> None:
    """Another model answers from now on, on the same connections."""
    server.answers_as = name
    server.reply = lambda body, seed: f"Answer: {answer}"


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_a_server_of_one_model_that_answers_under_another_name_was_exchanged(kind: str, tmp_path: Path) -> None:
    with says("1", kind=kind) as server, calls.Rollouts(tmp_path) as store, calls.session(store=store):
        lm = connect("mock", server.api_base)
        assert ask(lm) == "1"
        kept = len(store)
        exchange(server, "other")
        with pytest.raises(RoundFailed, match=r"answers requests for 'mock' as 'other' now, and answered as 'mock'"):
            ask(lm, "r")
        assert len(store) == kept  # nothing of the other model passes for the first one's
        sent = len(server.requests)
        with pytest.raises(EndpointError, match=r"another model took its place"):
            ask(lm, "s")
        assert len(server.requests) == sent
        lm.check_sync()
        assert ask(lm, "r") == "2"


def test_rows_fail_with_its_sentence_and_send_nothing_more() -> None:
    examples = [dspy.Example(question=f"q{n}", answer="1").with_inputs("question") for n in range(4)]
    with says("1", kind="vllm") as server:

        def reply(body: dict[str, Any], seed: int) -> str:
            if len(server.requests) == 5:  # the first of the second round
                exchange(server, "other")
            return "Answer: 1"

        server.reply = reply
        with dspy.context(lm=connect("mock", server.api_base)):
            report = evaluate(SR(QA, rounds=3), examples, ExactVerifier(), max_in_flight=1)
        assert len(server.requests) <= 8  # those of the round that was under way
    failed = [row for row in report.rows if row.failure is not None]
    assert len(failed) >= 3
    assert all("another model took its place" in str(row.failure) for row in failed)
    assert all(row.answer == "1" for row in report.rows if row.error is None)


def test_the_listing_is_asked_and_says_what_it_was_and_is() -> None:
    with says("1", kind="vllm") as server:
        server.root = "/weights/step-100"
        lm = connect("mock", server.api_base)
        ask(lm)
        server.root, server.fingerprint = "/weights/step-200", "build-2"
        ask(lm, "r")  # the first fingerprint there is
        server.fingerprint = "build-3"
        with pytest.raises(
            RoundFailed, match="it was mock root=/weights/step-100 and is now mock root=/weights/step-200"
        ):
            ask(lm, "s")


def test_another_fingerprint_of_the_same_weights_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("vllm", "other"):
        with says("1", kind=kind) as server:
            lm = connect("mock", server.api_base)
            for turn in range(5):
                server.fingerprint = f"build-{turn}"
                assert ask(lm, f"q{turn}") == "1"
    assert not caplog.records


def test_a_router_names_its_deployments_in_turn_and_that_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    with says("1") as server, caplog.at_level(logging.WARNING, "pdr_dspy"):
        lm = connect("mock", server.api_base)
        for turn in range(14):
            server.answers_as = f"vendor/model-{turn % 10}"
            assert ask(lm, f"q{turn}") == "1"
    (record,) = caplog.records
    assert "as 'vendor/model-1' now, and answered as 'vendor/model-0' before" in record.getMessage()
    assert "`identity=`" in record.getMessage()


@pytest.mark.parametrize("kind", ["vllm", "other"])
def test_who_says_that_all_are_one_hears_nothing(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with says("1", kind=kind) as server:
        lm = connect("mock", server.api_base, identity="mine")
        assert ask(lm) == "1"
        exchange(server, "other")
        assert ask(lm, "r") == "2"
    assert not caplog.records


@pytest.mark.parametrize("name", [None, "", 7, ["x"], "mock-2024-08-06"])
def test_what_a_response_calls_its_model_need_not_be_what_was_asked_for(
    name: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with says("1", kind="vllm") as server:
        lm = connect("mock", server.api_base)
        for turn in range(3):
            server.answers_as = name
            assert ask(lm, f"q{turn}") == "1"
    assert not caplog.records


def test_each_replica_has_names_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with says("1", kind="vllm") as first, says("1", kind="vllm") as second:
        first.answers_as, second.answers_as = "a", "b"
        lm = connect("mock", [first.api_base, second.api_base])

        async def many() -> None:
            with dspy.context(lm=lm):
                await asyncio.gather(*(LongCoT(QA).acall(question=f"q{n}") for n in range(12)))

        asyncio.run(many())
        assert first.requests
        assert second.requests
    assert not caplog.records
