"""The synchronous DSPy engine of an endpoint: the asynchronous one, on a private event loop in a daemon thread."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from dspy import lm15

from pdr_dspy.serving.client.engine import AsyncOpenAIEngine

T = TypeVar("T")
PARAMS = frozenset(
    [
        *("temperature", "max_tokens", "max_completion_tokens", "top_p", "top_k", "stop", "seed"),
        *("logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "stream"),
    ]
)


class OpenAIEngine:
    """The synchronous face of an AsyncOpenAIEngine: its calls run on one private loop in a daemon thread."""

    def __init__(self, engine: AsyncOpenAIEngine, *, reasoning: bool, response_schema: bool) -> None:
        self.asynchronous = engine
        self.supports_function_calling = False
        self.supports_reasoning = reasoning
        self.supports_response_schema = response_schema
        extra = {"response_format"} if response_schema else set()
        self.supported_params = PARAMS | extra | ({"reasoning_effort"} if reasoning else set())
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __copy__(self) -> OpenAIEngine:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenAIEngine:
        return self

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the response to `request`; may be called from any thread, also under a running event loop."""
        return self.run(self.asynchronous.complete(request))

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        """Yield the finished response as stream events."""
        yield from lm15.response_to_events(self.complete(request))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the asynchronous engine on the private loop and wait for it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C must not leave the request running
            raise

    def close(self) -> None:
        """Close the private loop and its connections; the next call opens them again."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and loop.is_running():
            asyncio.run_coroutine_threadsafe(self.asynchronous.aclose(), loop).result(5)
            loop.call_soon_threadsafe(loop.stop)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(self._loop,), name="pdr-endpoint", daemon=True).start()
                _close_at_exit(self)
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _close_at_exit(engine: OpenAIEngine) -> None:
    reference = weakref.ref(engine)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    atexit.register(close)
