"""Replies out of DSPy's own cache are marked; DSPy's word on truncation is left to calls that are not ours."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import dspy
import pytest
from conftest import engine
from dspy.clients.cache import Cache
from dspy.utils.usage_tracker import track_usage
from mock_server import MockServer

from pdr_dspy import calls
from pdr_dspy.operators import PDR, LongCoT
from pdr_dspy.rollouts import Rollouts
from pdr_dspy.testing import Completion
from pdr_dspy.verifiers import JudgeVerifier


@pytest.fixture
def memory_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # DSPy looks prices up
    cache = Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None)
    monkeypatch.setitem(vars(dspy), "cache", cache)


def hosted(server: MockServer, **settings: Any) -> dspy.LM:
    return dspy.LM(
        "openai/mock", api_base=server.api_base, api_key="k", timeout=30, num_retries=0, **{"cache": True, **settings}
    )


@pytest.mark.usefixtures("memory_cache")
@pytest.mark.parametrize("engine_name", ["auto", "litellm"])
def test_a_reply_of_dspys_cache_is_reused_and_not_paid(engine_name: str) -> None:
    program = PDR("question -> answer: int", widths=(3, 1), distiller="random_k", k=2, draft_tokens=64)
    with MockServer(lambda body, seed: "Work.\nAnswer: 5") as server:
        with dspy.context(lm=hosted(server, engine=engine_name)), track_usage() as users:
            first = program(question="q")
            used = users.get_total_tokens()
            again = program(question="q")
            assert users.get_total_tokens() == used, "the user's own tracker is told of what was sent"
        assert len(server.requests) == 4
    assert used["openai/mock"]["completion_tokens"] == sum(call.usage.output or 0 for call in first.ledger.calls)
    assert (first.ledger.reused, first.ledger.paid) == (0, first.ledger.total)
    assert (again.ledger.reused, again.ledger.paid) == (4, 0)
    assert all(call.seconds == 0 for call in again.ledger.calls)
    assert [call.usage for call in again.ledger.calls] == [call.usage for call in first.ledger.calls]
    assert not any(call.estimated for call in again.ledger.calls)


@pytest.mark.usefixtures("memory_cache")
def test_a_reply_of_dspys_cache_enters_the_store() -> None:
    program = LongCoT("question -> answer: int", draft_tokens=64)
    with MockServer(lambda body, seed: "Answer: 5") as server, dspy.context(lm=hosted(server)):
        program(question="q")
        with calls.session(store=Rollouts()) as session:
            assert program(question="q").ledger.reused == 1
            (kept,) = session.store
        assert (kept.seconds, kept.estimated) == (0.0, False)
        assert len(server.requests) == 1


@pytest.mark.usefixtures("memory_cache")
def test_the_judge_marks_a_reply_of_dspys_cache() -> None:
    example = dspy.Example(question="?", answer="Paris").with_inputs("question")
    with MockServer(lambda body, seed: "yes") as server:
        judge = JudgeVerifier(lm=hosted(server))
        asked = [judge(example, dspy.Prediction(answer="Paris")) for _ in range(2)]
        asked += [asyncio.run(judge.averify(example, dspy.Prediction(answer="Paris"))) for _ in range(2)]
    assert [score.calls[0].reused for score in asked] == [False, True, False, True]  # a cache each, says DSPy


def test_truncation_is_logged_for_the_users_calls_alone() -> None:
    lm = engine(lambda _: Completion("Work.\nAnswer: 5\n", finish="length"))
    logging.getLogger("dspy.clients.lm").addHandler(seen := _Seen())
    try:
        with dspy.context(lm=lm):
            prediction = LongCoT("question -> answer: int")(question="q")
            assert prediction.ledger.calls[0].truncated
            assert seen.messages == []
            lm("hello")
        assert ["truncated" in message for message in seen.messages] == [True]
    finally:
        logging.getLogger("dspy.clients.lm").removeHandler(seen)


class _Seen(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
