"""The asynchronous DSPy engine of an OpenAI-compatible endpoint, on aiohttp.

DSPy's own HTTP path sends `n` completions as n requests one after the other, keeps at most 100 connections, and looks
an unpriced model up in a price list on every call. An engine object avoids all three: pooling, retries and
siblings are decided here, and capability flags are what the caller stated.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import orjson
from dspy import lm15
from yarl import URL

from pdr_dspy.serving.client.balancer import Replica, Replicas
from pdr_dspy.serving.client.batching import Gatherer
from pdr_dspy.serving.client.decode import choices_of, read_body, read_choice, read_stream, split_usage
from pdr_dspy.serving.client.encode import Wire, error_for_status, wire_request
from pdr_dspy.serving.client.failures import Foreign, Late, Unreachable, retry_after
from pdr_dspy.serving.client.models import Server, in_common, read_listing
from pdr_dspy.serving.client.retries import Tally, persist
from pdr_dspy.serving.settings import EndpointSettings, digest

SESSION = "X-Session-ID"
"""Header that is equal for requests about one question; a router in front of replicas keeps them together by it."""
CONNECTING = 10.0
"""Seconds until a connection must be made."""
_KEPT = 4.0
"""Seconds that an idle connection is kept: vLLM and llama.cpp close it after 5, and ours is given up before."""

_UNHEARD = (lm15.TransportError, lm15.TimeoutError)


@dataclass
class _LoopState:
    """What belongs to one event loop: its connections, its queue, and the sibling groups that wait in it."""

    session: aiohttp.ClientSession
    closer: AsyncGenerator[None, None]
    replicas: Replicas
    gatherer: Gatherer
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)


class AsyncOpenAIEngine:
    """Sends canonical requests to one endpoint. Safe to use from several event loops; each has its own connections."""

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.model = settings.model
        self.api_bases = settings.api_base
        self.siblings = settings.siblings
        self.server: Server | None = None
        """What all replicas that could be asked have in common."""
        self._unheard: lm15.LM15Error | None = None
        """Why the server could not be asked, the last time."""
        self._identified: str | None = None
        self._doubted = False
        """Whether a connection failed since the server was last asked what it is: another may answer now."""
        self._limits = aiohttp.ClientTimeout(
            total=settings.timeout, sock_connect=min(settings.timeout, CONNECTING), sock_read=settings.first_byte
        )
        self._headers = {"Content-Type": "application/json", **settings.headers}
        if settings.api_key:
            self._headers["Authorization"] = f"Bearer {settings.api_key}"
        self._urls: dict[str, URL] = {}
        self._loops: dict[asyncio.AbstractEventLoop, _LoopState] = {}
        self._lock = threading.Lock()
        self._random = random.Random()

    @property
    def _timeout(self) -> float:
        return self.settings.timeout

    def __copy__(self) -> AsyncOpenAIEngine:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncOpenAIEngine:
        return self  # copies of an LM share its connections

    @property
    def where(self) -> str:
        """The endpoint in a sentence: its addresses."""
        return ", ".join(self.api_bases)

    @property
    def identity(self) -> str:
        """What answers here: the settings' own name for it, or model, address, and a digest of what the server says
        that the model is made of and of what else selects the deployment."""
        if self.settings.identity is not None:
            return self.settings.identity
        if self._identified is not None:
            return self._identified
        return f"{self.model}@{self.settings.address}#{self.settings.deployment}"

    async def identify(self) -> None:
        """Ask the server, once, which model it serves and what that is made of.

        A connection that failed since raises doubts: the server is asked again, and Foreign is raised when it has
        become another one, so that its replies do not pass for those of the first.
        """
        if self._identified is not None and not self._doubted:
            return
        before, self._doubted = self._identified, False
        if before is not None:
            self.server = None
        server = await self.probe()
        if server is None:
            self._doubted = before is not None
            return
        if self.model == "auto" and len(server.models) == 1:
            self.model = server.models[0]
        root = server.roots.get(self.model, "")
        told = digest([self.settings.deployment, root])
        self._identified = f"{self.model}@{self.settings.address}#{told}"
        if before is not None and self._identified != before:
            raise Foreign(
                f"{self.where} serves something else than before ({root or self.model}): start again, so that its "
                "replies are not mixed with those of the model before"
            )

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the response to `request`; raises the lm15 errors, which DSPy turns into its own."""
        if self.model == "auto":
            await self.resolve()
        if self._doubted:
            await self.identify()
        wire = wire_request(request, self.model, token_field=self.settings.token_field)
        if wire.group is not None and wire.size > 1 and self.siblings:
            return await (await self._state()).gatherer.submit(wire)
        return (await self._together([wire]))[0]

    async def stream(self, request: lm15.Request) -> AsyncIterator[Any]:
        """Yield the finished response as stream events, so that dspy.streamify works; nothing arrives early."""
        for event in lm15.response_to_events(await self.complete(request)):
            yield event

    async def probe(self) -> Server | None:
        """Return what the server says about itself, asked once; None when it does not say. Never raises.

        Of several replicas, those that answer are asked.
        """
        if self.server is None:
            state = await self._state()
            async with state.probing:
                if self.server is None:
                    told = await asyncio.gather(*map(self.listing, self.api_bases), return_exceptions=True)
                    self._unheard = next((each for each in told if isinstance(each, lm15.LM15Error)), None)
                    servers = [each for each in told if isinstance(each, Server)]
                    if servers:
                        self.remember(servers)
                    elif self.siblings is None and not any(isinstance(each, _UNHEARD) for each in told):
                        self.siblings = False  # it answers, but tells nothing of itself
        return self.server

    async def resolve(self) -> None:
        """Replace the model name "auto" by the only served one; raises lm15.UnsupportedModelError otherwise."""
        server = await self.probe()
        if server is None and self._unheard is not None:
            raise self._unheard  # dead, or the key is refused: that is the reason, and may be tried again
        if server is None or len(server.models) != 1:
            served = ", ".join(server.models) if server else "nothing that could be read"
            raise lm15.UnsupportedModelError(f'model="auto" needs exactly one served model; {self.where} has {served}')
        self.model = server.models[0]

    async def listing(self, api_base: str) -> Server:
        """What one replica says about itself, without retries; ValueError when it says nothing that is a listing."""
        server = read_listing(await self._get_json(f"{api_base}/models"))
        if server.kind != "llama.cpp":
            return server
        with suppress(lm15.LM15Error, ValueError):  # it says there which file it has loaded
            return server.loaded(await self._get_json(f"{api_base.removesuffix('/v1')}/props"))
        return server

    def remember(self, servers: Sequence[Server]) -> Server:
        """Keep what the replicas have in common."""
        self.server = in_common(servers)
        if self.siblings is None:
            self.siblings = self.server.kind in ("llama.cpp", "vllm")
        return self.server

    async def post_json(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST `body` to `path` beside the API base's /v1, with the retries of a completion; ValueError if not JSON."""
        payload = _dumps(body)

        async def send(replica: Replica, left: float) -> bytes:
            return await self._post(state, replica, replica.api_base.removesuffix("/v1") + path, payload, left)

        state = await self._state()
        raw, _ = await self._persist(state, send)
        return json.loads(raw)

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
        state = self._loops.get(loop)
        if state is not None and not state.session.closed:
            return state
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT, ssl=self._certificates()),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Answers come uncompressed: over loopback or a local network compression costs more than it saves.
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            headers=self._headers,
            timeout=self._limits,
            trust_env=self.settings.proxy == "env",
            proxy=None if self.settings.proxy == "env" else self.settings.proxy,
            raise_for_status=False,
        )
        # asyncio.run() finishes open generators before it closes its loop; nothing else runs then, so the generator
        # is what closes the sockets of a loop whose user never calls aclose().
        closer = _closing(session)
        await closer.__anext__()
        replicas = Replicas(self.api_bases, self.settings.max_in_flight)
        state = _LoopState(session, closer, replicas, Gatherer(self._complete, self.settings.max_siblings))
        with self._lock:
            for ended in [each for each in self._loops if each.is_closed()]:
                del self._loops[ended]
            self._loops[loop] = state
        return state

    def _certificates(self) -> ssl.SSLContext | bool:
        if self.settings.ca_file is None:
            return True
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(self.settings.ca_file)
        return trusted

    async def _complete(self, wires: list[Wire]) -> list[lm15.Response | lm15.LM15Error]:
        """Send one HTTP request for wires of consecutive seeds and return a response for each, or its error.

        One for n that is refused for its n or that times out is made again one by one: what hangs costs its own draft.
        """
        try:
            return list(await self._together(wires))
        except lm15.LM15Error as error:
            alone = isinstance(error, lm15.TimeoutError) or (
                isinstance(error, lm15.InvalidRequestError) and _N_REFUSED.search(str(error))
            )
            if len(wires) == 1 or not alone:
                raise
            each = await asyncio.gather(*(self._together([wire]) for wire in wires), return_exceptions=True)
            found: list[lm15.Response | lm15.LM15Error] = []
            for one in each:
                if isinstance(one, list):
                    found.append(one[0])
                elif isinstance(one, lm15.LM15Error):
                    found.append(one)
                else:
                    raise one from error
            return found

    async def _together(self, wires: list[Wire]) -> list[lm15.Response]:
        """Send one HTTP request for wires of consecutive seeds and return a response for each."""
        if len(wires) > 1 and wires[0].body.get("temperature") == 0:
            (response,) = await self._together(wires[:1])  # vLLM refuses n > 1 at temperature 0: they are all equal
            return [response, *[_again(response) for _ in wires[1:]]]
        if len(wires) == 1:
            data, tally = await self._exchange(wires[0], wires[0].body)
            return [read_choice(data, data["choices"][0], data.get("usage"), _notes(tally))]
        server = await self.probe()
        kind = server.kind if server else "other"
        body = {**wires[0].body, "n": len(wires)}
        if kind == "llama.cpp":
            # Its usage for n > 1 counts one choice only; as a stream, each choice brings its own.
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        elif kind == "vllm":
            # Its usage has all outputs together, which the ids tell apart, and the prompt once; its own counters have
            # the prompt for each choice, as for n single requests.
            body["return_token_ids"] = True
        data, tally = await self._exchange(wires[0], body)
        choices = data["choices"][: len(wires)]
        shares = split_usage(data, choices, prompt_each=kind == "vllm")
        if "return_token_ids" not in wires[0].body:  # nobody else asked for them, and they are long
            for told in (data, *choices):
                told.pop("token_ids", None)
                told.pop("prompt_token_ids", None)
        notes = _notes(tally)
        responses = [read_choice(data, choice, usage, notes) for choice, usage in zip(choices, shares, strict=True)]
        if len(responses) < len(wires):  # a server that ignores `n` answers once
            self.siblings = False
            rest = [self._together([wire]) for wire in wires[len(responses) :]]
            responses += [answer[0] for answer in await asyncio.gather(*rest)]
        return responses

    async def _exchange(self, wire: Wire, body: Mapping[str, Any]) -> tuple[dict[str, Any], Tally]:
        """POST a completion request, and again where that can help; its answer has at least one choice."""
        payload = _dumps(body)
        read = read_stream if body.get("stream") else read_body
        prefix = wire.prefix
        headers = {SESSION: f"{prefix:08x}"}

        async def send(replica: Replica, left: float) -> dict[str, Any]:
            where = replica.api_base
            raw = await self._post(state, replica, f"{where}/chat/completions", payload, left, headers)
            data = read(raw, where)
            data["choices"] = choices_of(data, where)
            return data

        state = await self._state()
        return await self._persist(state, send, prefix)

    async def _persist(self, state: _LoopState, send: Any, prefix: int = 0) -> Any:
        return await persist(
            state.replicas,
            send,
            seconds=self._timeout,
            prefix=prefix,
            source=self._random,
            sleep=asyncio.sleep,
        )

    async def _post(
        self,
        state: _LoopState,
        replica: Replica,
        url: str,
        payload: bytes,
        left: float,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """One try. Raises lm15 errors only."""
        where = replica.api_base
        limits = self._limits
        if left < self._timeout:
            limits = aiohttp.ClientTimeout(
                total=left, sock_connect=min(left, CONNECTING), sock_read=self._limits.sock_read
            )
        target = self._urls.get(url) or self._urls.setdefault(url, URL(url))
        try:
            async with state.session.post(
                target, data=payload, headers=headers, timeout=limits, allow_redirects=False
            ) as reply:
                raw = await reply.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failure(where, error) from error
        if reply.status >= 300:
            raise _refusal(where, reply, raw)
        return raw

    def _failure(self, where: str, error: Exception) -> lm15.LM15Error:
        self._doubted = self._doubted or self._identified is not None
        if isinstance(error, (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError)):
            why = error.os_error.strerror if isinstance(error, aiohttp.ClientConnectorError) else None
            return Unreachable(f"no server answers at {where}: {why or error}")
        if isinstance(error, aiohttp.SocketTimeoutError):
            return Late(f"{where} sent nothing for `first_byte={self._limits.sock_read:g}` s")
        if isinstance(error, TimeoutError):
            return Late(f"{where} did not answer within `timeout={self._timeout:g}` s")
        return lm15.TransportError(f"the connection to {where} was lost: {error or type(error).__name__}")

    async def _get_json(self, url: str) -> Any:
        state = await self._state()
        where = url.removesuffix("/models")
        timeout = aiohttp.ClientTimeout(total=min(self._timeout, 10), sock_connect=5)
        try:
            async with state.session.get(url, timeout=timeout, allow_redirects=False) as reply:
                raw = await reply.read()
        except TimeoutError as error:
            raise Late(f"{where} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(where, error) from error
        if reply.status >= 300:
            raise _refusal(where, reply, raw)
        return json.loads(raw)


async def _finish(state: _LoopState) -> None:
    await state.closer.aclose()


async def _closing(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await session.close()


def _refusal(where: str, reply: aiohttp.ClientResponse, raw: bytes) -> lm15.LM15Error:
    """The error of an answer whose status is no success."""
    if reply.status < 400:
        return Foreign(
            f"{where} sends elsewhere, to {reply.headers.get('Location', 'nowhere')!r}: use the address itself as "
            "`api_base`",
            status=reply.status,
        )
    return error_for_status(
        reply.status,
        raw.decode("utf-8", "replace"),
        retry_after=retry_after(reply.headers.get("Retry-After")),
        where=where,
    )


_N_REFUSED = re.compile(
    r"\bn\b.{0,60}(?:must|only|support|greedy|greater|temperature|at most)|best_of|one completion", re.I
)


def _again(response: lm15.Response) -> lm15.Response:
    """A sibling whose completion is the same because its request is: it cost nothing more."""
    usage = lm15.Usage(input_tokens=0, output_tokens=0, total_tokens=0)
    return replace(response, usage=usage, provider_data={**(response.provider_data or {}), "pdr_equal": True})


def _notes(tally: Tally) -> dict[str, int] | None:
    return {"tries": tally.tries, "unsettled": tally.unsettled} if tally.tries > 1 else None


def _dumps(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # lone surrogates in a prompt, numbers beyond 64 bits
        return json.dumps(body).encode()
