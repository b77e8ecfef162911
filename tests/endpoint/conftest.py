"""A model server, a program and its endpoint."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import pdr_dspy
from pdr_dspy import PDR, Operator, connect
from pdr_dspy.endpoint import Limits
from tests.support.endpoint_server import EndpointServer
from tests.support.mock_server import MockServer


def one_more(body: dict[str, Any], seed: int) -> str:
    """Right, in a few words whose number depends on the seed."""
    number = int(re.findall(r"What is (\d+)", body["messages"][-1]["content"])[0])
    return f"{'so ' * (seed % 7)}it follows.\nAnswer: {number + 1}"


def pdr(signature: Any = "question -> answer: int", **settings: Any) -> Operator:
    """PDR 3-1 without a distilling model."""
    chosen = {"widths": (3, 1), "distiller": "random_k", "k": 2, "draft_tokens": 64, "kappa": 200, **settings}
    return PDR(signature, **chosen)


def until(true: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait for what another thread does."""
    ends, pause = time.monotonic() + seconds, threading.Event()
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        pause.wait(0.005)


@pytest.fixture
def model() -> Iterator[MockServer]:
    with MockServer(one_more) as server:
        yield server


@pytest.fixture
def start(model: MockServer) -> Iterator[Callable[..., EndpointServer]]:
    """Serve programs that call the model server."""
    with ExitStack() as stack:

        def start(programs: Any = None, *, limits: Limits | None = None, **options: Any) -> EndpointServer:
            limits = limits or Limits()
            lm = connect("mock", model.api_base)
            stack.callback(lm.close)
            app = pdr_dspy.app({"solver": pdr()} if programs is None else programs, lm=lm, limits=limits, **options)
            return stack.enter_context(EndpointServer(app, limits))

        yield start
