"""The endpoint's limits for its clients."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from pdr_dspy.errors import ConfigError
from pdr_dspy.settings import Settings, is_number

SHARED = ("running", "queued", "in_flight", "connections")
"""The limits that several workers share."""


class Limits(Settings):
    """The server's own limits. A client's budgets and deadlines are lowered to them; other requests above them are
    refused."""

    budget_total: int | None = None
    """Tokens of all calls of a request (B_total); None is no limit."""
    budget_seq: int | None = None
    """Sequential tokens of a run (B_seq); None is no limit."""
    seconds: float = 600.0
    """Seconds from the end of a request's body to its answer, waiting for a place included."""
    choices: int = 8
    """The largest `n`."""
    calls: int = 256
    """Maximum model calls of a run under a schedule chosen by the client."""
    call_tokens: int = 32768
    """Maximum cap, kappa or thinking tokens in such a schedule."""
    running: int = 64
    """Maximum of concurrent runs."""
    queued: int = 256
    """Maximum of waiting runs; further requests are refused with 429."""
    in_flight: int | None = None
    """Maximum of requests to the model server at once, over all runs; None leaves it to `running` and the schedules."""
    body_bytes: int = 4 * 2**20
    """Maximum bytes of a body; a larger one is refused with 413."""
    body_seconds: float = 30.0
    """Maximum seconds for receiving a body; a slower one is refused with 408."""
    header_bytes: int = 32 * 2**10
    """Maximum bytes of headers; larger ones are refused with 400. `serve` enforces this limit and the next three."""
    header_seconds: float = 10.0
    """Maximum seconds for receiving headers; then the connection is closed."""
    connections: int = 4096
    """Maximum of open connections; further requests are refused with 503."""
    drain_seconds: float = 120.0
    """Seconds after SIGTERM until active requests are cancelled."""
    keepalive_seconds: float = 15.0
    """Seconds of silence after which a stream sends a comment, which keeps proxies from closing it."""
    hosts: tuple[str, ...] = ()
    """Accepted values of the Host header, without a port; empty accepts any. It keeps a web page that resolves its own
    name to the loopback address from using a server without keys."""
    ignore_tools: bool = False
    """Answer requests that offer tools without calling any, as a model may that is free to choose; the response says
    so. Otherwise they are refused, as are requests that force a call in any case."""
    log_texts: bool = False
    """Log inputs, answers and errors in full."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, value in self:
            if is_number(value):
                least = 0 if name == "queued" else 1 if isinstance(value, int) else 0.001
                if not value >= least or value == float("inf"):
                    raise ValueError(f"`Limits({name}={value})` must be a number of at least {least}")
        return self

    def share(self, number: int, workers: int) -> Limits:
        """The limits of worker `number`, from 0: its share of `running`, `queued`, `in_flight` and `connections`, which
        all workers together do not exceed.

        Raises ConfigError if a limit is smaller than the number of workers.
        """
        parts: dict[str, int] = {}
        for name in SHARED:
            value = getattr(self, name)
            if value is None:
                continue
            if value < workers and name != "queued":
                raise ConfigError(f"`{name}={value}` is less than one for each of {workers} workers")
            parts[name] = value // workers + (number < value % workers)
        return self.model_copy(update=parts)
