"""The asynchronous DSPy engine of an OpenAI-compatible endpoint, on aiohttp.

DSPy's own HTTP path sends `n` completions as n requests one after the other, keeps at most 100 connections, and looks
an unpriced model up in a price list on every call. An engine object avoids all three: it does its own pooling, retries
and sibling requests, and its capability flags are those that the caller gave.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

from dspy import lm15

from pdr_dspy.calls import OUTPUT
from pdr_dspy.serving.client.completions import Completions
from pdr_dspy.serving.client.connections import Connections
from pdr_dspy.serving.client.encode import wire_request, with_adapter
from pdr_dspy.serving.client.identity import Served
from pdr_dspy.serving.client.transport import Transport
from pdr_dspy.serving.settings import EndpointSettings


class AsyncOpenAIEngine:
    """Sends canonical requests to one endpoint. Safe to use from several event loops; each has its own connections."""

    def __init__(self, settings: EndpointSettings, near: Collection[str] = ()) -> None:
        """
        Args:
            settings: the endpoint's settings.
            near: hosts whose replicas are preferred.
        """
        self.settings = settings
        self._connections = Connections(settings, near)
        self.served = Served(settings, self._connections)
        """The model behind the endpoint."""
        self.transport = Transport(settings.timeout, self._connections, self.served)
        """Sends requests other than completions."""
        self.completions = Completions(self.transport, self.served, settings.max_siblings)

    def __copy__(self) -> AsyncOpenAIEngine:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncOpenAIEngine:
        return self  # copies of an LM share its connections

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the response to `request`; raises lm15 errors, which DSPy converts into its own."""
        served, settings = self.served, self.settings
        if served.model == "auto":
            await served.resolve()
        if OUTPUT in (request.config.extensions or {}):
            await served.probe()  # each kind of server has its own fields for a format
        wire = wire_request(request, served.model, token_field=settings.token_field, kind=served.kind)
        beside = settings.adapter is not None or settings.adapters  # each kind of server has its own words for them
        server = await served.probe() if beside else served.server
        if settings.adapter is not None or (server is not None and server.adapters):
            wire = with_adapter(wire, settings.adapter, server, model=served.model, where=served.where)
        return await self.completions.complete(wire)

    async def stream(self, request: lm15.Request) -> AsyncIterator[Any]:
        """Yield the finished response as stream events, as dspy.streamify requires; nothing arrives early."""
        for event in lm15.response_to_events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """Close the connections of the running loop. Others close when their loop shuts down."""
        await self._connections.aclose()

    def close(self) -> None:
        """Close the connections of every loop, from synchronous code; waits for loops that run in other threads."""
        self._connections.close()
