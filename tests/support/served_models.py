"""Scoring models for tests: a mock of vLLM with scripted verdicts and scores, and the checks that use it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pdr_dspy.serving import EndpointLM, connect
from pdr_dspy.serving.client import retries
from pdr_dspy.verifiers.checks import JudgeCheck, RewardModel, ScoreModel, StepReward
from tests.support.mock_server import MockServer

SCORING: dict[str, Callable[..., Any]] = {
    "reward": RewardModel,
    "step": StepReward,
    "score": ScoreModel,
    "rerank": lambda lm, **more: ScoreModel(lm, endpoint="rerank", **more),
}
"""Checks by a scoring model, by the endpoint or the form of its request."""
MODEL_CHECKS: dict[str, Callable[..., Any]] = {**SCORING, "judge": JudgeCheck}
"""The same, and the check by a judge."""


def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr(retries, "pause_after", lambda before, source: 0.0)


@contextmanager
def served(reply: Callable[..., Any], scores: Callable[..., Any]) -> Iterator[MockServer]:
    """A mock of vLLM: `reply` answers chats, `scores` the endpoints of scoring models."""
    with MockServer(reply, kind="vllm") as server:
        server.scores = scores
        yield server


@contextmanager
def connected(server: MockServer) -> Iterator[EndpointLM]:
    """The LM of a mock server, closed at the end."""
    lm = connect("mock", server.api_base, timeout=20)
    yield lm
    lm.close()


def logprobs(**odds: float) -> dict[str, Any]:
    """A choice whose first token has these alternatives, in vLLM's form."""
    top = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in odds.items() if p > 0]
    first = max(top, key=lambda one: one["logprob"])
    return {
        "message": {"role": "assistant", "content": first["token"]},
        "logprobs": {"content": [{**first, "top_logprobs": top}]},
        "finish_reason": "length",
    }


async def until(reached: Callable[[], bool]) -> None:
    """Yield to other tasks until the server, in its own thread, has reached a state."""
    for _ in range(1_000_000):
        if reached():
            return
        await asyncio.sleep(0)
    raise AssertionError("the state was never reached")
