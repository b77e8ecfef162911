"""The texts of running calls: to a listener of one predictor, and as the chunks of DSPy's own stream.

DSPy by itself would stream every call of a program, drafts included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import anyio.from_thread
import dspy
from dspy.clients.call_result import attributes
from dspy.clients.engines.streaming import EngineChunk

from pdr_dspy.calls.dspy_bridge.own_forward import own_way


class Listener(Protocol):
    """Replaces DSPy's stream for the calls of one predictor."""

    predictor: dspy.Predict

    async def send(self, chunk: Any) -> None:
        """Take one of DSPy's chunks, as it came from the model."""
        ...

    async def text(self, text: str) -> None:
        """Take the text of a call whose model does not stream."""
        ...

    async def end(self) -> None:
        """Called when the call has ended."""
        ...


LISTENER: ContextVar[Listener | None] = ContextVar("pdr_dspy_listener", default=None)


@contextmanager
def heard(listener: Listener | None) -> Iterator[None]:
    """Send the text of calls made here, and in tasks started from here, to `listener`; None discards it."""
    token = LISTENER.set(listener)
    try:
        yield
    finally:
        LISTENER.reset(token)


def can_stream(lm: dspy.LM) -> bool:
    """Whether DSPy can stream the completions of this LM."""
    engine = getattr(lm, "_async_engine_spec", None) or getattr(lm, "_engine_spec", None)
    return engine is not None and (isinstance(engine, str) or hasattr(engine, "stream")) and not own_way(lm)


def text_of(chunk: Any) -> str | None:
    """The answer's text in one of DSPy's chunks; None for a chunk without any, such as a thought."""
    try:
        return chunk.choices[0].delta.content
    except (AttributeError, IndexError, TypeError):
        return None


def chunk_of(text: str, model: str, predictor: dspy.Predict) -> Any:
    """A chunk with this text for DSPy's stream listeners."""
    choice = attributes({"index": 0, "delta": {"content": text}, "finish_reason": None})
    return EngineChunk(id=None, model=model, predict_id=id(predictor), choices=[choice])


@contextmanager
def stream_from_thread() -> Iterator[None]:
    """Around a synchronous program: forward its chunks to the event loop that waits for them.

    `dspy.streamify` runs a synchronous program in a thread of its loop. Calls run on another loop, and a stream may
    only be written on the loop it belongs to. Without a loop behind the thread, nothing is streamed.
    """
    stream = dspy.settings.send_stream
    if stream is None:
        yield
        return
    try:
        home = anyio.from_thread.run(_running_loop)
    except RuntimeError:
        home = None
    with dspy.context(send_stream=None if home is None else _Relay(stream, home)):
        yield


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


class _Relay(NamedTuple):
    """A stream that may be written from any event loop."""

    stream: Any
    home: asyncio.AbstractEventLoop

    async def send(self, chunk: Any) -> None:
        if asyncio.get_running_loop() is self.home:
            await self.stream.send(chunk)
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.stream.send(chunk), self.home))
