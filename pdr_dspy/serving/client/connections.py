"""The connections of an engine: one HTTP session for each event loop that uses it, and how each of them is closed.

A session of aiohttp belongs to the event loop that opened it. Synchronous callers share the library's loop; each
`asyncio.run` has a loop of its own, and so has each worker thread.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import weakref
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from pdr_dspy.serving.client.balancer import Replicas
from pdr_dspy.serving.client.failures import Late, refused, unreached
from pdr_dspy.serving.client.network import proxy_for
from pdr_dspy.serving.settings import EndpointSettings

CONNECTING = 10.0
"""Seconds for opening a connection."""
_KEPT = 4.0
"""Seconds that an idle connection is kept: less than the 5 after which vLLM and llama.cpp close it."""


@dataclass
class LoopConnections:
    """The connections of one event loop, and its queue in front of the replicas."""

    session: aiohttp.ClientSession
    closer: AsyncGenerator[None, None]
    """Closes the session when it is closed itself."""
    replicas: Replicas
    proxies: Mapping[str, str | None]
    """Of each replica."""
    forgotten: weakref.finalize[..., Any]
    """Closes the session when nobody has the connections any more."""
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the replicas are asked for their descriptions."""


class Connections:
    """The connections to the replicas of one endpoint. Safe to use from several event loops."""

    def __init__(self, settings: EndpointSettings, near: Collection[str] = ()) -> None:
        """
        Args:
            settings: addresses, key, headers, certificates, proxy and time limits.
            near: hosts whose replicas are preferred.
        """
        self.limits = aiohttp.ClientTimeout(
            total=settings.timeout, sock_connect=min(settings.timeout, CONNECTING), sock_read=settings.first_byte
        )
        """The time limits of a completion's first try."""
        self._settings = settings
        self._near = near
        self._headers = {"Content-Type": "application/json", **settings.headers}
        if settings.api_key:
            self._headers["Authorization"] = f"Bearer {settings.api_key}"
        self._loops: dict[asyncio.AbstractEventLoop, LoopConnections] = {}
        self._lock = threading.Lock()

    async def here(self) -> LoopConnections:
        """The connections of the running event loop; the first call opens its session."""
        loop = asyncio.get_running_loop()
        known = self._loops.get(loop)
        if known is not None and not known.session.closed:
            return known
        settings = self._settings
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT, ssl=self._certificates()),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Replies are uncompressed: over loopback or a local network compression costs more than it saves.
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            headers=self._headers,
            timeout=self.limits,
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
        replicas = Replicas(settings.api_base, settings.max_in_flight, self._near)
        proxies = {base: proxy_for(base, settings.proxy) for base in settings.api_base}
        opened = LoopConnections(session, closer, replicas, proxies, forgotten)
        with self._lock:
            for ended in [each for each in self._loops if each.is_closed()]:
                self._loops.pop(ended).forgotten.detach()
            self._loops[loop] = opened
        return opened

    def _certificates(self) -> ssl.SSLContext | bool:
        if self._settings.ca_file is None:
            return True
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(self._settings.ca_file)
        return trusted

    async def get_json(self, api_base: str, path: str) -> Any:
        """GET `path` below `api_base`, the address of a replica or its beginning, and return the JSON; one try.

        Raises the lm15 errors, and ValueError for a reply that is not JSON.
        """
        here = await self.here()
        timeout = aiohttp.ClientTimeout(total=min(self._settings.timeout, 10), sock_connect=5)
        proxy = next((here.proxies[base] for base in self._settings.api_base if base.startswith(api_base)), None)
        try:
            async with here.session.get(
                f"{api_base}{path}", timeout=timeout, allow_redirects=False, proxy=proxy
            ) as reply:
                raw = await reply.read()
        except TimeoutError as error:
            raise Late(f"{api_base} did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unreached(api_base, error) from error
        if reply.status >= 300:
            raise refused(api_base, reply, raw)
        return json.loads(raw)

    async def aclose(self) -> None:
        """Close the connections of the running loop. Others close when their loop shuts down."""
        with self._lock:
            known = self._loops.pop(asyncio.get_running_loop(), None)
        if known is not None:
            known.forgotten.detach()
            await known.closer.aclose()

    def close(self) -> None:
        """Close the connections of every loop, from synchronous code; waits for loops that run in other threads."""
        with self._lock:
            everywhere, self._loops = self._loops, {}
        for loop, known in everywhere.items():
            known.forgotten.detach()
            if loop.is_closed():
                continue
            try:
                here = asyncio.get_running_loop() is loop
            except RuntimeError:
                here = False
            if here:
                loop.create_task(_finish(known.closer))
            elif loop.is_running():
                with suppress(TimeoutError, RuntimeError):  # a loop that is stopping closes its generators itself
                    asyncio.run_coroutine_threadsafe(_finish(known.closer), loop).result(timeout=5)


async def _closing(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await session.close()


async def _finish(closer: AsyncGenerator[None, None]) -> None:
    await closer.aclose()


def _finish_in(loop: asyncio.AbstractEventLoop, closer: AsyncGenerator[None, None]) -> None:
    with suppress(RuntimeError):  # the loop is closed and has closed its generators
        loop.call_soon_threadsafe(lambda: loop.create_task(_finish(closer)))
