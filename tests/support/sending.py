"""Requests to the LM of an endpoint, singly or as siblings, and the wait for what they set off."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from dspy import lm15

from pdr_dspy.serving import EndpointLM
from tests.support.mock_server import MockServer


def request(lm: EndpointLM, text: str = "one two three", *, seed: int | None = None, **config: Any) -> lm15.Request:
    return lm15.Request(
        model=lm.model, messages=(lm15.Message.user(text),), config=lm15.Config(seed=seed, max_tokens=50, **config)
    )


def sibling(lm: EndpointLM, seed: int, size: int, group: str = "g", **config: Any) -> lm15.Request:
    return request(lm, seed=seed, extensions={"pdr_siblings": {"group": group, "size": size}}, **config)


def send(lm: EndpointLM, *requests: lm15.Request) -> list[lm15.Response]:
    """Send requests side by side on a loop of their own."""

    async def main() -> list[Any]:
        return await asyncio.gather(*(lm.acall(each) for each in requests))

    return asyncio.run(main())


def identity(lm: EndpointLM) -> str:
    """The identity that the LM's server gives; the LM's connections are closed."""

    async def ask() -> str:
        try:
            return await lm.identify()
        finally:
            await lm.aclose()

    return asyncio.run(ask())


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that another thread or loop is about to do."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  (it happens elsewhere)
            await asyncio.sleep(0.002)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def servers(count: int, **options: Any) -> Any:
    stack = ExitStack()
    return stack, [stack.enter_context(MockServer(**options)) for _ in range(count)]
