"""The asynchronous DSPy engine of an OpenAI-compatible endpoint, on aiohttp.

DSPy's own HTTP path sends `n` completions as n requests one after the other, keeps at most 100 connections, and looks
an unpriced model up in a price list on every call. An engine object avoids all three: it does its own pooling, retries
and sibling requests, and its capability flags are those that the caller gave.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import re
import ssl
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import orjson
from dspy import lm15
from yarl import URL

from pdr_dspy.calls import OUTPUT, Capabilities
from pdr_dspy.serving import fingerprint
from pdr_dspy.serving.client import retries
from pdr_dspy.serving.client.balancer import Replica, Replicas
from pdr_dspy.serving.client.batching import Gatherer
from pdr_dspy.serving.client.decode import (
    by_place,
    choices_of,
    failure_of,
    finished_choices,
    read_body,
    read_choice,
    read_stream,
    split_usage,
)
from pdr_dspy.serving.client.encode import Wire, error_for_status, formats_of, wire_request
from pdr_dspy.serving.client.failures import (
    AGAIN,
    Exchanged,
    Foreign,
    Late,
    Outcome,
    Unreachable,
    judge,
    retry_after,
    unreached,
)
from pdr_dspy.serving.client.models import Server, differ, in_common, read_listing
from pdr_dspy.serving.client.network import is_loopback, proxy_for
from pdr_dspy.serving.client.reported import OWN_NAMES, Reported
from pdr_dspy.serving.client.retries import Tally, persist
from pdr_dspy.serving.settings import EndpointSettings

T = TypeVar("T")
SESSION = "X-Session-ID"
"""Header that is equal for requests about one question, so that a router sends them to one replica."""
CONNECTING = 10.0
"""Seconds for opening a connection."""
_KEPT = 4.0
"""Seconds that an idle connection is kept: less than the 5 after which vLLM and llama.cpp close it."""

FRESH = 5.0
"""Seconds of silence after which the server's identity is queried again, before the next stage of calls: longer than an
idle connection is kept, shorter than any restart with other weights. Of a shorter one a lost connection tells; vLLM's
`created` is the time of the query, and its responses name neither weights nor process."""
_GIVEN_UP = 2.0
"""Seconds for which a failed query of the server is not repeated by callers that can do without it."""
logger = logging.getLogger("pdr_dspy")


@dataclass
class _LoopState:
    """The state of one event loop: its connections, its queue, and the waiting sibling groups."""

    session: aiohttp.ClientSession
    closer: AsyncGenerator[None, None]
    replicas: Replicas
    gatherer: Gatherer
    proxies: Mapping[str, str | None]
    """Of each replica."""
    forgotten: weakref.finalize[..., Any]
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)


class AsyncOpenAIEngine:
    """Sends canonical requests to one endpoint. Safe to use from several event loops; each has its own connections."""

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.model = settings.model
        self.api_bases = settings.api_base
        self.near: frozenset[str] = frozenset()
        """Hosts whose replicas are preferred; set before the first request."""
        self.siblings = settings.siblings
        self.server: Server | None = None
        """The properties that all replicas reached so far have in common."""
        self._unheard: lm15.LM15Error | None = None
        """The error of the last failed query."""
        self._silent = False
        """Whether the server answers but does not describe itself."""
        self._identity: str | None = settings.identity
        """The identity, once it is known."""
        self._descriptions: dict[str, Server] = {}
        """The description that each replica gave."""
        self._failed = -math.inf
        """Time of the last failed query, by the monotonic clock."""
        self._doubted = False
        """Whether a connection has failed since the last query of the identity: another server may answer now."""
        self._heard = 0.0
        """Time of the server's last answer, by the monotonic clock."""
        self._reported = Reported()
        self._replaced = ""
        """The evidence that another server answers now; empty if there is none."""
        self._unknown = uuid4().hex
        """Replaces an unknown identity, so that no store has completions under it."""
        self._limits = aiohttp.ClientTimeout(
            total=settings.timeout, sock_connect=min(settings.timeout, CONNECTING), sock_read=settings.first_byte
        )
        self._headers = {"Content-Type": "application/json", **settings.headers}
        if settings.api_key:
            self._headers["Authorization"] = f"Bearer {settings.api_key}"
        self._urls: dict[str, URL] = {}
        self._capabilities: tuple[tuple[Any, ...], Capabilities] | None = None
        """The latest record, and the state that it was made of."""
        self._loops: dict[asyncio.AbstractEventLoop, _LoopState] = {}
        self._lock = threading.Lock()
        self._random = random.Random()
        self._logged_equal = False
        self._logged_names = False
        self.refused_formats: set[str] = set()
        """Kinds and keys of the output formats that the server has refused."""

    @property
    def _timeout(self) -> float:
        return self.settings.timeout

    def __copy__(self) -> AsyncOpenAIEngine:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncOpenAIEngine:
        return self  # copies of an LM share its connections

    @property
    def where(self) -> str:
        """The endpoint's addresses, for messages."""
        return ", ".join(self.api_bases)

    @property
    def kind(self) -> str:
        """The kind of server, as far as it is known."""
        return "other" if self.server is None else self.server.kind

    @property
    def identity(self) -> str | None:
        """The identity of the endpoint's model; None until the server has given it."""
        return self._identity

    async def identify(self, *, surely: bool = False) -> str | None:
        """Query which model the server serves and from which weights; return the identity, None while it does not
        answer. With `surely`, query even after a recent failure.

        The result is kept. After a failed connection or a long silence it is queried again, and Exchanged is raised if
        it has changed, so that replies of another model do not count as those of the first.
        """
        if self.settings.identity is not None:
            return self._identity
        if self._replaced:
            raise Exchanged(self._replaced)
        quiet = self._heard and time.monotonic() - self._heard > FRESH
        if self._identity is not None and not (self._doubted or quiet):
            return self._identity
        state = await self._state()
        async with state.probing:
            quiet = self._heard and time.monotonic() - self._heard > FRESH
            if self._identity is not None and not (self._doubted or quiet):
                return self._identity  # settled by the previous holder of the lock
            if self._may_say(surely=surely):
                self._settle(self._described(await self._survey()))
            if self._silent:
                self._doubted, self._heard = False, time.monotonic()
                if self._identity is None and self.model != "auto":
                    self._identity = self.settings.named(self.model)
        return self._identity

    async def survey(self) -> dict[str, Server | Exception]:
        """Query every replica's description; the error in place of one that gives none."""
        state = await self._state()
        async with state.probing:
            return await self._survey()

    async def take(self, servers: Mapping[str, Server]) -> None:
        """Accept the replicas as they are now. Raises Exchanged if they differ from each other."""
        state = await self._state()
        async with state.probing:
            self._descriptions, self._replaced = {}, ""
            self._reported.forget()
            if self.settings.identity is None:
                self._identity = None
            self.model = self.settings.model
            self._settle(servers)

    def _settle(self, servers: Mapping[str, Server]) -> None:
        """Derive the identity from the replicas' descriptions. Raises Exchanged if it has changed, or if the replicas
        differ."""
        if not servers:
            return
        found = list(servers.values())
        server = in_common(found)
        model = (server.only or "auto") if self.model == "auto" else self.model
        for base, now in servers.items():
            before = self._descriptions.get(base)
            if before is not None and before.exchanged(now, now.row(model, self.settings.adapter)):
                raise Exchanged(
                    f"{base} serves another model than before: it was {before.shown(model)} and is now "
                    f"{now.shown(model)}. Replies of both models would be mixed; "
                    "`await lm.check()` accepts the new one"
                )
        replies = {**self._descriptions, **servers}
        different = None if self.settings.identity is not None else differ(list(replies.values()), model)
        if different is not None:
            raise Exchanged(
                f"the replicas {self.where} serve {model!r} from different weights ({different[0]}; {different[1]}): "
                "give each its own `connect`, or declare them equal with `identity=`"
            )
        self._descriptions = replies
        self.model = model
        if self._identity is None and model != "auto":
            mixed = len({each.kind for each in replies.values()}) > 1
            made_of, weights = ("", None) if mixed else self._made_of(server, model)
            self._identity = self.settings.named(model, made_of, weights)
        self._doubted, self._heard = False, time.monotonic()
        self.remember(found)

    def _made_of(self, server: Server, model: str) -> tuple[str, str | None]:
        """What the model, with its adapter, is made of: the server's facts, and the digest of its files if known."""
        served = server.row(model, self.settings.adapter)
        facts, weights = server.made_of(served), server.weights.get(served)
        file = server.adapters.get(self.settings.adapter or "")
        if file is None:
            return facts, weights
        both = f"{weights}+{file.sha256[:12]}" if weights and file.sha256 else None
        return f"{facts} lora={file.path}" + (f" lora_files={file.sha256[:12]}" if file.sha256 else ""), both

    async def _adapted(self, wire: Wire) -> Wire:
        """The request with the adapter, or without any, in the words of this kind of server.

        Raises UnsupportedModelError if the server says that it has no such adapter.
        """
        adapter = self.settings.adapter
        server = await self.probe() if adapter is not None or self.settings.adapters else self.server
        if server is not None and server.kind == "llama.cpp" and server.adapters and adapter is None:
            return replace(wire, body={**wire.body, "lora": server.scales(None)})
        if adapter is None:
            return wire
        if server is not None and server.kind in ("llama.cpp", "vllm") and not server.has(adapter):
            raise lm15.UnsupportedModelError(f"{self.where} has no adapter {adapter!r}; {_adapters_of(server)}")
        if server is not None and server.kind == "llama.cpp":
            return replace(wire, body={**wire.body, "lora": server.scales(adapter)})
        # vLLM serves an adapter under its own name; SGLang as one of its model.
        model = adapter if server is not None and server.kind == "vllm" else f"{self.model}:{adapter}"
        return replace(wire, body={**wire.body, "model": model})

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the response to `request`; raises lm15 errors, which DSPy converts into its own."""
        if self.model == "auto":
            await self.resolve()
        if OUTPUT in (request.config.extensions or {}):
            await self.probe()  # each kind of server has its own fields for a format
        wire = wire_request(request, self.model, token_field=self.settings.token_field, kind=self.kind)
        wire = await self._adapted(wire)
        if wire.group is not None and wire.size > 1 and self.siblings:
            return await (await self._state()).gatherer.submit(wire)
        return await self._alone(wire)

    async def stream(self, request: lm15.Request) -> AsyncIterator[Any]:
        """Yield the finished response as stream events, as dspy.streamify requires; nothing arrives early."""
        for event in lm15.response_to_events(await self.complete(request)):
            yield event

    async def probe(self) -> Server | None:
        """Return the server's description of itself, queried once; None if it gives none. Never raises.

        With several replicas, the description combines those that answer.
        """
        if self.server is None and self._may_say():
            state = await self._state()
            async with state.probing:
                if self.server is None and self._may_say():
                    servers = self._described(await self._survey())
                    if servers:
                        self.remember(list(servers.values()))
        return self.server

    def _may_say(self, *, surely: bool = False) -> bool:
        """Whether a query of the server may succeed."""
        if self._silent and self.model != "auto":
            return False
        return surely or time.monotonic() - self._failed > _GIVEN_UP

    async def _survey(self) -> dict[str, Server | Exception]:
        """Query every replica, under the lock of `probing`."""
        replies = await asyncio.gather(*map(self.listing, self.api_bases), return_exceptions=True)
        for each in replies:
            if not isinstance(each, (Server, lm15.LM15Error, ValueError)):
                raise each
        self._unheard = next((each for each in replies if isinstance(each, lm15.LM15Error)), None)
        later = any(isinstance(each, lm15.LM15Error) and judge(each) in AGAIN for each in replies)
        nobody = not any(isinstance(each, Server) for each in replies)
        self._silent = nobody and not later  # it answers, but does not describe itself
        if nobody:
            self._failed = time.monotonic()
        if self._silent and self.siblings is None:
            self.siblings = False
        return dict(zip(self.api_bases, replies, strict=True))  # type: ignore[arg-type]

    @staticmethod
    def _described(replies: Mapping[str, Server | Exception]) -> dict[str, Server]:
        return {base: each for base, each in replies.items() if isinstance(each, Server)}

    async def resolve(self) -> None:
        """Replace the model name "auto" by the only served model; raises lm15.UnsupportedModelError if there is not
        one."""
        await self.identify(surely=True)
        if self.model != "auto":
            return
        server = await self.probe()
        if server is None and self._unheard is not None:
            raise self._unheard  # unreachable, or the key is refused; may be retried
        if server is None or server.only is None:
            served = ", ".join(server.models) if server else "no readable list of models"
            raise lm15.UnsupportedModelError(f'model="auto" needs exactly one served model; {self.where} has {served}')
        self.model = server.only

    async def listing(self, api_base: str) -> Server:
        """One replica's description of itself; raises ValueError for a malformed one.

        Waits for a server that is loading its model, within the timeout; no other failure is retried.
        """
        until = time.monotonic() + self._timeout
        while True:
            try:
                server = read_listing(await self._get_json(api_base, "/models"))
                break
            except lm15.LM15Error as error:
                if judge(error) is not Outcome.LOADING or time.monotonic() + retries.LOADING > until:
                    raise
            await asyncio.sleep(retries.LOADING)
        name = server.row(self.model if self.model != "auto" else server.only or "", self.settings.adapter)
        if server.kind == "llama.cpp" and name in server.models:
            root = api_base.removesuffix("/v1")
            props, adapters = await asyncio.gather(
                self._get_json(root, f"/props?model={quote(name)}"),
                self._get_json(root, "/lora-adapters"),
                return_exceptions=True,
            )
            path = props.get("model_path") if isinstance(props, dict) else None
            found = await _sha256_here(api_base, path) if name not in server.weights else None
            described = server.with_props(name, props, adapters, found)
            own = described.adapters.get(self.settings.adapter or "")
            if own is None:
                return described
            own = own._replace(sha256=await _sha256_here(api_base, own.path))
            return replace(described, adapters={**described.adapters, str(self.settings.adapter): own})
        if server.kind == "vllm" and name in server.models:
            return await _with_folders_here(server, name, api_base)
        for path in server.asked if name else ():
            with suppress(lm15.LM15Error, ValueError):
                return server.with_weights(name, await self._get_json(api_base.removesuffix("/v1"), path))
        return server

    def remember(self, servers: Sequence[Server]) -> Server:
        """Keep the properties that the replicas have in common."""
        self.server = in_common(servers)
        if self.siblings is None:
            self.siblings = self.server.kind in ("llama.cpp", "vllm")
        return self.server

    async def capabilities(self) -> Capabilities:
        """The endpoint's capabilities. Raises Exchanged as `identify` does."""
        settings = self.settings
        identity = await self.identify()
        server = self.server or await self.probe()
        state = (identity, self.model, server, self.siblings)
        kept = self._capabilities
        if kept is not None and kept[0] == state:
            return kept[1]
        kind = self.kind
        context = settings.context_length
        if context is None and server is not None:
            context = server.context.get(server.model(self.model))
        found = Capabilities(
            identity=f"endpoint/{identity or f'{settings.named(self.model)}?{self._unknown}'}",
            known=identity is not None,
            context_length=context,
            thinking_budget=settings.thinking_budget or ("continue" if kind in ("vllm", "llama.cpp") else "cap"),
            siblings=bool(self.siblings),
            prompt_once=bool(self.siblings) and kind != "vllm",
            counts_tokens=kind != "other" or settings.tokenizer is not None,
            output_formats=formats_of(kind, constrained=settings.constrained),
        )
        self._capabilities = (state, found)
        return found

    async def post_json(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST `body` to `path` relative to the API base's /v1, with the retries of a completion; ValueError if not
        JSON."""
        return json.loads((await self.exchange(path, body, lambda raw, where: raw))[0])

    async def exchange(self, path: str, body: Mapping[str, Any], read: Callable[[bytes, str], T]) -> tuple[T, Tally]:
        """POST `body` to `path` relative to the API base's /v1, with the retries of a completion; return the reply and
        its tries.

        `read(raw, where)` parses the reply's bytes; the lm15 errors that it raises are retried like others.
        """
        payload = _dumps(body)

        async def send(replica: Replica, left: float) -> T:
            where = replica.api_base.removesuffix("/v1")
            return read(await self._post(state, replica, where + path, payload, left), where + path)

        state = await self._state()
        return await self._persist(state, send)

    async def aclose(self) -> None:
        """Close the connections of the running loop. Others close when their loop shuts down."""
        with self._lock:
            state = self._loops.pop(asyncio.get_running_loop(), None)
        if state is not None:
            state.forgotten.detach()
            await state.closer.aclose()

    def close(self) -> None:
        """Close the connections of every loop, from synchronous code; waits for loops that run in other threads."""
        with self._lock:
            states, self._loops = self._loops, {}
        for loop, state in states.items():
            state.forgotten.detach()
            if loop.is_closed():
                continue
            try:
                here = asyncio.get_running_loop() is loop
            except RuntimeError:
                here = False
            if here:
                loop.create_task(_finish(state.closer))
            elif loop.is_running():
                with suppress(TimeoutError, RuntimeError):  # a loop that is stopping closes its generators itself
                    asyncio.run_coroutine_threadsafe(_finish(state.closer), loop).result(timeout=5)

    async def _state(self) -> _LoopState:
        loop = asyncio.get_running_loop()
        state = self._loops.get(loop)
        if state is not None and not state.session.closed:
            return state
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT, ssl=self._certificates()),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Replies are uncompressed: over loopback or a local network compression costs more than it saves.
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            headers=self._headers,
            timeout=self._limits,
            trust_env=False,  # only proxies come from the environment, see below; ~/.netrc is not used
            raise_for_status=False,
        )
        # asyncio.run() finishes open generators before it closes its loop; nothing else runs then, so the generator
        # closes the sockets of a loop whose user never calls aclose().
        closer = _closing(session)
        await closer.__anext__()
        # A loop may outlive an LM that was dropped without closing: its connections are closed with the LM.
        forgotten = weakref.finalize(self, _finish_in, loop, closer)
        forgotten.atexit = False
        replicas = Replicas(self.api_bases, self.settings.max_in_flight, self.near)
        proxies = {base: proxy_for(base, self.settings.proxy) for base in self.api_bases}
        gatherer = Gatherer(self._complete, self.settings.max_siblings)
        state = _LoopState(session, closer, replicas, gatherer, proxies, forgotten)
        with self._lock:
            for ended in [each for each in self._loops if each.is_closed()]:
                self._loops.pop(ended).forgotten.detach()
            self._loops[loop] = state
        return state

    def _certificates(self) -> ssl.SSLContext | bool:
        if self.settings.ca_file is None:
            return True
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(self.settings.ca_file)
        return trusted

    async def _complete(self, wires: list[Wire]) -> list[lm15.Response | lm15.LM15Error]:
        """Send one HTTP request for wires of consecutive seeds and return a response or an error for each.

        A request for n that is refused for its n, or that times out, is repeated as n requests, each with its own
        timeout: a hanging draft costs only itself.
        """
        if len(wires) == 1:
            return [await self._alone(wires[0])]
        if wires[0].greedy:  # vLLM refuses n > 1 at temperature 0; all would be equal
            response = await self._alone(wires[0])
            self._log_equal(len(wires))
            return [response, *(_again(response, wires[0].seed) for _ in wires[1:])]
        try:
            return await self._together(wires)
        except lm15.LM15Error as error:
            refused = isinstance(error, lm15.InvalidRequestError) and _N_REFUSED.search(str(error))
            if not refused and judge(error) is not Outcome.LATE:
                raise
            done = _finished(error, wires, self._prompt_each)
            return await self._one_by_one(wires, done, error)

    async def _alone(
        self, wire: Wire, before: Tally | None = None, elsewhere_than: Collection[Replica] = ()
    ) -> lm15.Response:
        """One completion; its notes include the tries `before` it."""
        data, tally = await self._exchange(wire, wire.body, before=before, elsewhere_than=elsewhere_than)
        return read_choice(data, data["choices"][0], data.get("usage"), _notes(tally), cap=wire.cap)

    async def _together(self, wires: list[Wire]) -> list[lm15.Response | lm15.LM15Error]:
        """Send one request for all wires."""
        server = await self.probe()
        kind = server.kind if server else "other"
        body = {**wires[0].body, "n": len(wires)}
        if kind == "llama.cpp":
            # Its usage for n > 1 counts one choice only; in a stream, each choice has its own.
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        elif kind == "vllm":
            # Its usage has the sum of all outputs, separable by the token ids, and the prompt once; its own counters
            # have the prompt for each choice, as for n single requests.
            body["return_token_ids"] = True
        data, tally = await self._exchange(wires[0], body, again=AGAIN - {Outcome.LATE})
        where = self.where
        placed = [
            None if choice is None or failure_of(choice, where) else choice
            for choice in by_place(data["choices"], len(wires))
        ]
        if len(data["choices"]) == 1:  # a server that ignores `n` returns one choice
            self.siblings = False
        return await self._one_by_one(wires, _responses(data, placed, wires, tally, self._prompt_each), None)

    @property
    def _prompt_each(self) -> bool:
        """Whether the server counts the prompt for each choice of a request for n."""
        return self.kind == "vllm"

    async def _one_by_one(
        self, wires: list[Wire], done: list[lm15.Response | None], error: lm15.LM15Error | None
    ) -> list[lm15.Response | lm15.LM15Error]:
        """Send single requests for the choices missing after a request for all, which failed with `error` if given."""
        before: Tally | None = getattr(error, "tally", None)
        failed: Collection[Replica] = getattr(error, "failed", ())
        missing = [place for place, response in enumerate(done) if response is None]
        if not missing:
            return [response for response in done if response is not None]
        found = await asyncio.gather(
            *(self._alone(wires[place], before, failed) for place in missing), return_exceptions=True
        )
        results: list[Any] = list(done)
        for place, one in zip(missing, found, strict=True):
            if isinstance(one, BaseException) and not isinstance(one, lm15.LM15Error):
                raise one
            results[place] = one
        return results

    def _log_equal(self, count: int) -> None:
        """Log once that completions at temperature 0 are equal."""
        if not self._logged_equal:
            self._logged_equal = True
            logger.warning(
                "temperature 0: the %d drafts of a prompt are equal, so one request is sent for all of them",
                count,
            )

    async def _exchange(
        self,
        wire: Wire,
        body: Mapping[str, Any],
        *,
        again: Collection[Outcome] = AGAIN,
        before: Tally | None = None,
        elsewhere_than: Collection[Replica] = (),
    ) -> tuple[dict[str, Any], Tally]:
        """POST a completion request, with retries; its reply has at least one choice."""
        payload = _dumps(body)
        streamed = bool(body.get("stream"))
        read = read_stream if streamed else read_body
        prefix = wire.prefix
        headers = {SESSION: f"{prefix:08x}"}

        async def send(replica: Replica, left: float) -> dict[str, Any]:
            where = replica.api_base
            if self._doubted:
                await self.identify(surely=True)
                if self._doubted and self.settings.identity is None:
                    raise self._unheard or Unreachable(f"no server answers at {where}")
            raw = await self._post(
                state, replica, f"{where}/chat/completions", payload, left, headers, streamed=streamed
            )
            data = read(raw, where)
            data["choices"] = choices_of(data, where)
            await self._who_answered(where, data)
            return data

        state = await self._state()
        return await self._persist(state, send, prefix, again=again, before=before, elsewhere_than=elsewhere_than)

    async def _who_answered(self, api_base: str, data: Mapping[str, Any]) -> None:
        """Look at the names under which a replica answered. Raises Exchanged where they show that it was exchanged."""
        if self.settings.identity is not None:
            return  # whoever answers is one, as the user says
        asked = self.model
        news = self._reported.news(api_base, asked, data)
        if news is None:
            return
        if news.field == "model" or self.kind in OWN_NAMES:  # hosted services change their fingerprint at any time
            self._doubted = True
            await self.identify(surely=True)
            if self._doubted:
                raise self._unheard or Unreachable(f"no server answers at {api_base}")
        if news.field == "model":
            became = f"{api_base} answers requests for {asked!r} as {news.now!r} now, and answered as {news.before!r}"
            if self.kind in OWN_NAMES:
                self._replaced = (
                    f"{became} before: another model took its place, and its replies would be mixed with those of the "
                    "model before; `await lm.check()` takes it as it is now, and `identity=` says that both are one"
                )
                raise Exchanged(self._replaced)
            if not self._logged_names:
                self._logged_names = True
                logger.warning(
                    "%s before. If another model took its place, its replies are mixed with those of the model before; "
                    "where a router or a proxy names its deployments in turn, say with `identity=` that they are one",
                    became,
                )
        self._reported.accept(api_base, asked, data)

    def _persist(self, state: _LoopState, send: Any, prefix: int = 0, **how: Any) -> Awaitable[Any]:
        return persist(
            state.replicas,
            send,
            seconds=self._timeout,
            prefix=prefix,
            source=self._random,
            sleep=asyncio.sleep,
            **how,
        )

    async def _post(
        self,
        state: _LoopState,
        replica: Replica,
        url: str,
        payload: bytes,
        left: float,
        headers: Mapping[str, str] | None = None,
        *,
        streamed: bool = False,
    ) -> bytes:
        """One try. Raises lm15 errors only; the error of a broken stream has the bytes received so far as `came`."""
        where = replica.api_base
        limits = self._limits
        if left < self._timeout:
            limits = aiohttp.ClientTimeout(
                total=left, sock_connect=min(left, CONNECTING), sock_read=self._limits.sock_read
            )
        target = self._urls.get(url) or self._urls.setdefault(url, URL(url))
        came = bytearray()
        try:
            async with state.session.post(
                target,
                data=payload,
                headers=headers,
                timeout=limits,
                allow_redirects=False,
                proxy=state.proxies.get(where),
            ) as reply:
                if not streamed:
                    raw = await reply.read()
                else:
                    async for chunk in reply.content.iter_any():
                        came += chunk
                    raw = bytes(came)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = self._failure(where, error)
            failure.came = bytes(came)  # type: ignore[attr-defined]
            raise failure from error
        self._heard = time.monotonic()
        if reply.status >= 300:
            raise _refusal(where, reply, raw)
        return raw

    def _failure(self, where: str, error: Exception) -> lm15.LM15Error:
        if isinstance(error, aiohttp.SocketTimeoutError):
            return Late(f"{where} sent nothing for `first_byte={self._limits.sock_read:g}` s")
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
            return Late(f"{where} did not answer within `timeout={self._timeout:g}` s")
        self._doubted = self._doubted or self._identity is not None
        return unreached(where, error)

    async def _get_json(self, api_base: str, path: str) -> Any:
        state = await self._state()
        where = api_base
        timeout = aiohttp.ClientTimeout(total=min(self._timeout, 10), sock_connect=5)
        proxy = next((state.proxies[base] for base in self.api_bases if base.startswith(api_base)), None)
        try:
            async with state.session.get(
                f"{api_base}{path}", timeout=timeout, allow_redirects=False, proxy=proxy
            ) as reply:
                raw = await reply.read()
        except TimeoutError as error:
            raise Late(f"{where} did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unreached(where, error) from error
        if reply.status >= 300:
            raise _refusal(where, reply, raw)
        return json.loads(raw)


async def _finish(closer: AsyncGenerator[None, None]) -> None:
    await closer.aclose()


def _finish_in(loop: asyncio.AbstractEventLoop, closer: AsyncGenerator[None, None]) -> None:
    with suppress(RuntimeError):  # the loop is closed and has closed its generators
        loop.call_soon_threadsafe(lambda: loop.create_task(_finish(closer)))


async def _closing(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await session.close()


def _refusal(where: str, reply: aiohttp.ClientResponse, raw: bytes) -> lm15.LM15Error:
    """The error for a reply with a status other than success."""
    if reply.status < 400:
        return Foreign(f"{where} {_elsewhere(reply)}", status=reply.status)
    return error_for_status(
        reply.status,
        raw.decode("utf-8", "replace"),
        retry_after=retry_after(reply.headers.get("Retry-After")),
        where=where,
    )


def _elsewhere(reply: aiohttp.ClientResponse) -> str:
    """Explains a redirection: prompts and key are never sent on to another address unasked."""
    given = reply.headers.get("Location", "")
    target = str(reply.url.join(URL(given))) if given else "nowhere"
    for method in ("/chat/completions", "/models"):
        if target.rstrip("/").endswith(method):
            base = target.rstrip("/").removesuffix(method)
            return f"redirects to {target}: use `api_base={base!r}` if that is your server"
    return f"redirects to {target}, which is not an API: use the address of the API itself as `api_base`"


_N_REFUSED = re.compile(
    r"\bn(?:_cmpl)?\b.{0,60}(?:must|only|support|greedy|greater|temperature|at most|slots)|best_of|one completion", re.I
)


def _responses(
    data: Mapping[str, Any],
    placed: Sequence[dict[str, Any] | None],
    wires: Sequence[Wire],
    tally: Tally,
    prompt_each: bool,
) -> list[lm15.Response | None]:
    """The responses of a request for n, for the choices that are present."""
    choices = [choice for choice in placed if choice is not None]
    if not choices:
        return [None for _ in placed]
    shares = iter(split_usage(data, choices, prompt_each=prompt_each))
    if "return_token_ids" not in wires[0].body:  # requested for this purpose only, and long
        data = {name: value for name, value in data.items() if name not in _IDS}
        placed = [choice and {name: choice[name] for name in choice if name not in _IDS} for choice in placed]
    notes = _notes(tally)
    return [
        None if choice is None else read_choice(data, choice, next(shares), notes, cap=wires[0].cap)
        for choice in placed
    ]


_IDS = frozenset({"token_ids", "prompt_token_ids"})


def _finished(error: lm15.LM15Error, wires: Sequence[Wire], prompt_each: bool) -> list[lm15.Response | None]:
    """The responses of the choices that had ended when a stream broke off."""
    choices = finished_choices(getattr(error, "came", b""), "")
    placed = [choices.get(place) for place in range(len(wires))]
    return _responses({}, placed, wires, getattr(error, "tally", Tally(1)), prompt_each)


def _again(response: lm15.Response, seed: int | None) -> lm15.Response:
    """A sibling's response for an equal request: the same completion at no further cost."""
    usage = lm15.Usage(input_tokens=0, output_tokens=0, total_tokens=0)
    return replace(response, usage=usage, provider_data={**(response.provider_data or {}), "pdr": {"shared": seed}})


def _adapters_of(server: Server) -> str:
    names = ", ".join(map(repr, server.adapter_names)) or "none"
    remedy = "`--lora-scaled FILE:0`" if server.kind == "llama.cpp" else "`--lora-modules NAME=PATH`"
    return f"it has {names}; start it with {remedy}"


async def _sha256_here(api_base: str, path: Any) -> str | None:
    """The sha256 of the file that a server on this machine reports; None if it cannot be determined.

    A tunnel to another machine that also has this path is not detected: give such an endpoint an `identity`.
    """
    if not isinstance(path, str) or not is_loopback(api_base):
        return None
    with suppress(OSError, ValueError):
        if await asyncio.to_thread(Path(path).is_file):
            return await asyncio.to_thread(fingerprint.file_sha256, Path(path))
    return None


async def _with_folders_here(server: Server, name: str, api_base: str) -> Server:
    """The server with the state of the local folders from which a vLLM on this machine serves a model and its adapter:
    a training run may have overwritten the last checkpoint with the next."""
    facts = server.facts.get(name, {})
    states = {}
    for key in ("root", "parent_root") if is_loopback(api_base) else ():
        with suppress(OSError, ValueError):
            if key in facts and await asyncio.to_thread(Path(facts[key]).is_dir):
                states[f"{key}_files"] = await asyncio.to_thread(fingerprint.folder_state, Path(facts[key]))
    return server.with_facts(name, states) if states else server


def _notes(tally: Tally) -> dict[str, int] | None:
    return {"tries": tally.tries, "unsettled": tally.unsettled} if tally.tries > 1 else None


def _dumps(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # lone surrogates in a prompt, numbers beyond 64 bits
        return json.dumps(body).encode()
