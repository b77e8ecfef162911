"""The two DSPy engines of an OpenAI-compatible endpoint: asynchronous on aiohttp, and synchronous on top of it.

DSPy's own HTTP path sends `n` completions as n requests one after the other, keeps at most 100 connections, and looks
an unpriced model up in a price list on every call. An engine object avoids all three: pooling, retries and
siblings are decided here, and capability flags are what the caller stated.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import random
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
from dspy import lm15

from pdr_dspy.serving import _wire
from pdr_dspy.serving._siblings import Gatherer
from pdr_dspy.serving._wire import Wire

T = TypeVar("T")
TRIES = 4
"""At most this many attempts at one HTTP request, the first included."""

PARAMS = frozenset(
    [
        *("temperature", "max_tokens", "max_completion_tokens", "top_p", "top_k", "stop", "seed"),
        *("logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "stream"),
    ]
)


@dataclass(frozen=True)
class Server:
    """What GET /v1/models said: the kind of server, the served names, and their context length in tokens."""

    kind: str
    models: tuple[str, ...]
    context: Mapping[str, int]


@dataclass
class _LoopState:
    """What belongs to one event loop: its connections and the sibling groups that wait in it."""

    session: aiohttp.ClientSession
    closer: AsyncGenerator[None, None]
    slots: asyncio.Semaphore | None
    gatherer: Gatherer
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)


class AsyncOpenAIEngine:
    """Sends canonical requests to one endpoint. Safe to use from several event loops; each has its own connections."""

    def __init__(
        self,
        model: str,
        api_base: str,
        *,
        api_key: str | None,
        timeout: float,
        max_in_flight: int | None,
        siblings: bool | None,
        max_siblings: int | None,
    ) -> None:
        self.model = model
        self.api_base = api_base
        self.siblings = siblings
        self.server: Server | None = None
        self._api_key = api_key
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._max_siblings = max_siblings
        self._loops: dict[asyncio.AbstractEventLoop, _LoopState] = {}
        self._lock = threading.Lock()
        self._random = random.Random()

    def __copy__(self) -> AsyncOpenAIEngine:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncOpenAIEngine:
        return self  # copies of an LM share its connections

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the response to `request`; raises the lm15 errors, which DSPy turns into its own."""
        if self.model == "auto":
            await self.resolve()
        wire = _wire.wire_request(request, self.model)
        if wire.group is not None and wire.size > 1 and self.siblings:
            return await (await self._state()).gatherer.submit(wire)
        return (await self._complete([wire]))[0]

    async def stream(self, request: lm15.Request) -> AsyncIterator[Any]:
        """Yield the finished response as stream events, so that dspy.streamify works; nothing arrives early."""
        for event in lm15.response_to_events(await self.complete(request)):
            yield event

    async def probe(self) -> Server | None:
        """Return what the server says about itself, asked once; None when it does not say. Never raises."""
        if self.server is None:
            state = await self._state()
            async with state.probing:
                if self.server is None:
                    try:
                        self.remember(await self.get_json("/models"))
                    except (lm15.LM15Error, ValueError):
                        return None
        return self.server

    async def resolve(self) -> None:
        """Replace the model name "auto" by the only served one; raises lm15.UnsupportedModelError otherwise."""
        server = await self.probe()
        if server is None or len(server.models) != 1:
            served = ", ".join(server.models) if server else "nothing that could be read"
            raise lm15.UnsupportedModelError(
                f'model="auto" needs exactly one served model; {self.api_base} has {served}'
            )
        self.model = server.models[0]

    def remember(self, listing: Any) -> Server:
        """Keep what a GET /models body says; raises ValueError when it is not one."""
        self.server = _read_listing(listing)
        if self.siblings is None:
            self.siblings = self.server.kind == "llama.cpp"
        return self.server

    async def get_json(self, path: str) -> Any:
        """GET `path` below the API base, without retries; ValueError when the body is not JSON."""
        state = await self._state()
        timeout = aiohttp.ClientTimeout(total=min(self._timeout, 10), sock_connect=5)
        try:
            async with state.session.get(self.api_base + path, headers=self._headers(), timeout=timeout) as reply:
                raw = await reply.read()
        except (aiohttp.ClientError, OSError) as error:
            raise _transport_error(self.api_base, error) from error
        if reply.status >= 400:
            raise _wire.error_for_status(reply.status, raw.decode("utf-8", "replace"), where=self.api_base)
        return json.loads(raw)

    async def post_json(self, url: str, body: Mapping[str, Any]) -> Any:
        """POST `body` with the retries of a completion; ValueError when the answer is not JSON."""
        return json.loads(await self._post(url, body))

    async def aclose(self) -> None:
        """Close the connections of the running loop. Others close when their loop shuts down."""
        with self._lock:
            state = self._loops.pop(asyncio.get_running_loop(), None)
        if state is not None:
            await state.closer.aclose()

    def close(self) -> None:
        """Close the connections of every loop, from synchronous code; waits for loops that run in other threads."""
        with self._lock:
            states, self._loops = self._loops, {}
        for loop, state in states.items():
            if loop.is_closed():
                continue
            try:
                here = asyncio.get_running_loop() is loop
            except RuntimeError:
                here = False
            if here:
                loop.create_task(_finish(state))
            elif loop.is_running():
                with suppress(TimeoutError, RuntimeError):  # a loop that stops meanwhile closes its generators itself
                    asyncio.run_coroutine_threadsafe(_finish(state), loop).result(timeout=5)

    async def _state(self) -> _LoopState:
        loop = asyncio.get_running_loop()
        with self._lock:
            state = self._loops.get(loop)
        if state is not None and not state.session.closed:
            return state
        # vLLM and llama.cpp close an idle connection after 5 s; ours is given up before.
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4), trust_env=False, raise_for_status=False
        )
        # asyncio.run() finishes open generators before it closes its loop; nothing else runs then, so the generator
        # is what closes the sockets of a loop whose user never calls aclose().
        closer = _closing(session)
        await closer.__anext__()
        slots = asyncio.Semaphore(self._max_in_flight) if self._max_in_flight else None
        state = _LoopState(session, closer, slots, Gatherer(self._complete, self._max_siblings))
        with self._lock:
            for ended in [each for each in self._loops if each.is_closed()]:
                del self._loops[ended]
            self._loops[loop] = state
        return state

    async def _complete(self, wires: list[Wire]) -> list[lm15.Response]:
        """Send one HTTP request for wires of consecutive seeds and return a response for each."""
        url = f"{self.api_base}/chat/completions"
        if len(wires) == 1:
            data = await self._post_completion(url, wires[0].body)
            return [_wire.read_choice(data, _choices(data, self.api_base)[0], data.get("usage"))]
        server = await self.probe()
        kind = server.kind if server else "other"
        body = {**wires[0].body, "n": len(wires)}
        if kind == "llama.cpp":
            # Its usage for n > 1 counts one choice only; as a stream, each choice brings its own.
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        elif kind == "vllm":
            body["return_token_ids"] = True
        data = await self._post_completion(url, body)
        choices = sorted(_choices(data, self.api_base), key=lambda choice: choice.get("index", 0))[: len(wires)]
        responses = [
            _wire.read_choice(data, choice, usage)
            for choice, usage in zip(choices, _split_usage(data, choices), strict=True)
        ]
        if len(responses) < len(wires):  # a server that ignores `n` answers once
            self.siblings = False
            rest = [self._complete([wire]) for wire in wires[len(responses) :]]
            responses += [answer[0] for answer in await asyncio.gather(*rest)]
        return responses

    async def _post_completion(self, url: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        stream = bool(body.get("stream"))
        raw = await self._post(url, body, ends_with=b"[DONE]" if stream else b"")
        try:
            data = _wire.read_stream(raw) if stream else json.loads(raw.decode("utf-8", "replace"))
        except (ValueError, EOFError) as error:
            raise lm15.ServerError(f"{self.api_base} is not OpenAI-compatible: its answer is not JSON") from error
        if not isinstance(data, dict):
            raise lm15.ServerError(f"{self.api_base} is not OpenAI-compatible: its answer is not an object")
        if data.get("error"):
            raise _wire.error_for_status(500, json.dumps(data), where=self.api_base)
        return data

    async def _post(self, url: str, body: Mapping[str, Any], *, ends_with: bytes = b"") -> bytes:
        """POST with bounded retries: lost connections, 429 and 5xx; other errors are raised at once."""
        state = await self._state()
        if state.slots is None:
            return await self._post_now(state, url, body, ends_with)
        async with state.slots:  # the time spent in this queue is not the server's
            return await self._post_now(state, url, body, ends_with)

    async def _post_now(self, state: _LoopState, url: str, body: Mapping[str, Any], ends_with: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout
        pause = 0.05
        for attempt in range(1, TRIES + 1):
            hint: float | None = None
            try:
                raw = await self._send(state, url, body, deadline)
                if ends_with not in raw[-64:]:
                    raise lm15.TransportError(f"{self.api_base} ended its stream early")
                return raw
            except (lm15.RateLimitError, lm15.ServerError) as error:
                failure, hint = error, error.retry_after
            except lm15.TransportError as error:
                failure = error
            pause = min(0.2, self._random.uniform(0.05, pause * 3))
            wait = pause if hint is None else hint
            if attempt == TRIES or time.monotonic() + wait >= deadline:
                raise failure
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _send(self, state: _LoopState, url: str, body: Mapping[str, Any], deadline: float) -> bytes:
        left = max(0.001, deadline - time.monotonic())
        timeout = aiohttp.ClientTimeout(total=left, sock_connect=min(left, 10))
        try:
            async with state.session.post(url, json=body, headers=self._headers(), timeout=timeout) as reply:
                raw = await reply.read()
        except TimeoutError as error:
            raise lm15.TimeoutError(f"{self.api_base} did not answer within `timeout={self._timeout:g}` s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _transport_error(self.api_base, error) from error
        if reply.status >= 400:
            raise _wire.error_for_status(
                reply.status,
                raw.decode("utf-8", "replace"),
                retry_after=_seconds(reply.headers.get("Retry-After")),
                where=self.api_base,
            )
        return raw

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}


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


async def _finish(state: _LoopState) -> None:
    await state.closer.aclose()


async def _closing(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await session.close()


def _choices(data: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise lm15.ServerError(f"{where} answered without a completion (`choices` is {choices!r})"[:300])
    return choices


def _split_usage(data: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    """Give each choice its own output tokens, and the prompt, which the server read once, to the first choice.

    A choice whose output tokens the server does not tell apart keeps them unknown.
    """
    total = data.get("usage") or (choices[0].get("usage") if choices else None) or {}
    shares: list[Mapping[str, Any] | None] = []
    for position, choice in enumerate(choices):
        own: dict[str, Any] = dict(choice.get("usage") or {})
        tokens = own.get("completion_tokens")
        if tokens is None and isinstance(choice.get("token_ids"), list):
            tokens = len(choice["token_ids"])
        share: dict[str, Any] = {"completion_tokens": tokens}
        if own.get("completion_tokens_details"):
            share["completion_tokens_details"] = own["completion_tokens_details"]
        if position == 0:
            share["prompt_tokens"] = total.get("prompt_tokens")
            share["prompt_tokens_details"] = total.get("prompt_tokens_details")
        else:
            share["prompt_tokens"] = 0 if total.get("prompt_tokens") is not None else None
        shares.append(share)
    return shares


def _read_listing(listing: Any) -> Server:
    rows = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("id") for row in rows):
        raise ValueError("not a model list")
    owners = {str(row.get("owned_by", "")) for row in rows}
    kind = "llama.cpp" if "llamacpp" in owners else "vllm" if "vllm" in owners else "other"
    context = {}
    for row in rows:
        length = row.get("max_model_len") or (row.get("meta") or {}).get("n_ctx")
        if isinstance(length, int):
            context[str(row["id"])] = length
    return Server(kind, tuple(str(row["id"]) for row in rows), context)


def _transport_error(where: str, error: aiohttp.ClientError | OSError) -> lm15.LM15Error:
    if isinstance(error, aiohttp.ClientConnectorError):
        return lm15.TransportError(f"no server answers at {where}: {error.os_error.strerror or error}")
    if isinstance(error, TimeoutError):
        return lm15.TransportError(f"{where} did not answer in time")
    return lm15.TransportError(f"the connection to {where} was lost: {error or type(error).__name__}")


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:  # the date form of Retry-After: our own pause will do
        return None
