"""Requests to the replicas of an endpoint over HTTP: one try, and the tries until one succeeds."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar

import aiohttp
import orjson
from dspy import lm15
from yarl import URL

from pdr_dspy.serving.client.balancer import Replica
from pdr_dspy.serving.client.connections import CONNECTING, Connections, LoopConnections
from pdr_dspy.serving.client.decode import choices_of, read_body, read_stream
from pdr_dspy.serving.client.encode import Wire
from pdr_dspy.serving.client.failures import AGAIN, Late, Outcome, refused, unreached
from pdr_dspy.serving.client.identity import Served
from pdr_dspy.serving.client.retries import Tally, persist

T = TypeVar("T")
SESSION = "X-Session-ID"
"""Header that is equal for requests about one question, so that a router sends them to one replica."""


class Transport:
    """Posts to one endpoint, and tells `served` what the replies and the lost connections say of the server."""

    def __init__(self, seconds: float, connections: Connections, served: Served) -> None:
        """
        Args:
            seconds: the time limit of a request with its retries.
            connections: the connections to the replicas.
            served: what the endpoint serves.
        """
        self._seconds = seconds
        self._connections = connections
        self._served = served
        self._urls: dict[str, URL] = {}
        self._random = random.Random()

    async def chat_completion(
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
        served = self._served

        async def send(replica: Replica, left: float) -> dict[str, Any]:
            where = replica.api_base
            if served.doubted:
                await served.ascertain(where)
            raw = await self._post(
                here, replica, f"{where}/chat/completions", payload, left, headers, streamed=streamed
            )
            data = read(raw, where)
            data["choices"] = choices_of(data, where)
            await served.answered(where, data)
            return data

        here = await self._connections.here()
        return await self._persist(here, send, prefix, again=again, before=before, elsewhere_than=elsewhere_than)

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
            return read(await self._post(here, replica, where + path, payload, left), where + path)

        here = await self._connections.here()
        return await self._persist(here, send)

    def _persist(self, here: LoopConnections, send: Any, prefix: int = 0, **how: Any) -> Awaitable[Any]:
        return persist(
            here.replicas,
            send,
            seconds=self._seconds,
            prefix=prefix,
            source=self._random,
            sleep=asyncio.sleep,
            **how,
        )

    async def _post(
        self,
        here: LoopConnections,
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
        limits = self._connections.limits
        if left < self._seconds:
            limits = aiohttp.ClientTimeout(total=left, sock_connect=min(left, CONNECTING), sock_read=limits.sock_read)
        target = self._urls.get(url) or self._urls.setdefault(url, URL(url))
        came = bytearray()
        try:
            async with here.session.post(
                target,
                data=payload,
                headers=headers,
                timeout=limits,
                allow_redirects=False,
                proxy=here.proxies.get(where),
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
        self._served.heard()
        if reply.status >= 300:
            raise refused(where, reply, raw)
        return raw

    def _failure(self, where: str, error: Exception) -> lm15.LM15Error:
        if isinstance(error, aiohttp.SocketTimeoutError):
            return Late(f"{where} sent nothing for `first_byte={self._connections.limits.sock_read:g}` s")
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
            return Late(f"{where} did not answer within `timeout={self._seconds:g}` s")
        self._served.lost()
        return unreached(where, error)


def _dumps(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # lone surrogates in a prompt, numbers beyond 64 bits
        return json.dumps(body).encode()
