"""The synchronous DSPy engine of an endpoint: wraps the asynchronous one and runs it on the library's event loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dspy import lm15

from pdr_dspy.runtime import event_loop
from pdr_dspy.serving.client.engine import AsyncOpenAIEngine

PARAMS = frozenset(
    [
        *("temperature", "max_tokens", "max_completion_tokens", "top_p", "top_k", "stop", "seed"),
        *("logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "stream"),
    ]
)


class OpenAIEngine:
    """The synchronous interface of an AsyncOpenAIEngine: its calls run on the event loop for synchronous callers."""

    def __init__(self, engine: AsyncOpenAIEngine, *, reasoning: bool, response_schema: bool) -> None:
        self.asynchronous = engine
        self.supports_function_calling = False
        self.supports_reasoning = reasoning
        self.supports_response_schema = response_schema
        extra = {"response_format"} if response_schema else set()
        self.supported_params = PARAMS | extra | ({"reasoning_effort"} if reasoning else set())

    def __copy__(self) -> OpenAIEngine:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenAIEngine:
        return self

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the response to `request`; may be called from any thread, also under the caller's running event loop.
        Raises RuntimeError on the library's own event loop, where it would wait for itself: await the call there."""
        return event_loop.run(lambda: self.asynchronous.complete(request))

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        """Yield the finished response as stream events."""
        yield from lm15.response_to_events(self.complete(request))

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self.asynchronous.close()
