"""Runs the application with uvicorn: on loopback by default, with limited headers, and drained at the end."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pdr_dspy.endpoint.limits import Limits
from pdr_dspy.errors import ConfigError, ServerStartError
from pdr_dspy.runtime.worker_processes import BEAT, Pulse

BACKLOG = 2048
"""Connections that wait to be taken."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServerStartError if the address is not available."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ServerStartError(f"`--host {host} --port {port}` cannot be used: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def serve(
    app: ASGIApp,
    listener: socket.socket,
    limits: Limits,
    *,
    certificate: str | None = None,
    private_key: str | None = None,
    ready: Callable[[], None] | None = None,
    pulse: Pulse | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish active requests, for at most `limits.drain_seconds`.

    Args:
        app: the application from `app(...)`.
        listener: a socket from `bind`; it will be closed.
        limits: those of headers, connections and draining are enforced here.
        certificate, private_key: PEM files, for TLS.
        ready: called when the server accepts requests.
        pulse: the heartbeat of a worker that shares the listener with others.

    Raises ConfigError for a certificate that cannot be used.
    """
    server = make(app, limits, certificate=certificate, private_key=private_key, shared=pulse is not None)
    server.when_ready = ready
    server.pulse = pulse
    server.run(sockets=[listener])


def make(
    app: ASGIApp,
    limits: Limits,
    *,
    certificate: str | None = None,
    private_key: str | None = None,
    shared: bool = False,
) -> _Server:
    """The server of an application, for running it on an existing event loop. `shared`: other processes accept
    connections from the same socket."""

    class Protocol(_Protocol):
        header_seconds = limits.header_seconds

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # an address that a client can choose is not trusted
        server_header=False,
        backlog=1 if shared else BACKLOG,  # connections accepted at a time: a burst is spread over all processes
        h11_max_incomplete_event_size=limits.header_bytes,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
    )
    try:
        config.load()
    except OSError as error:
        raise ConfigError(f"`--certificate {certificate}` cannot be used: {error.strerror or error}") from error
    return _Server(config)


class _Server(uvicorn.Server):
    when_ready: Callable[[], None] | None = None
    pulse: Pulse | None = None
    _beating: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio made the queue as short as what is taken at a time
        if self.pulse is not None:
            self._beating = asyncio.create_task(self._beat(self.pulse))
            self.pulse.ready()
        if self.when_ready is not None:
            self.when_ready()

    async def _beat(self, pulse: Pulse) -> None:
        while True:
            pulse.beat()
            await asyncio.sleep(BEAT)


class _Protocol(H11Protocol):
    """Closes a connection whose headers do not arrive in time."""

    header_seconds = 10.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._headers_received()
        elif self._late is None:  # the first bytes of the next request
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_received()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._headers_received()
        self._late = self.loop.call_later(self.header_seconds, self._time_out)

    def _headers_received(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _time_out(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
