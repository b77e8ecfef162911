"""What the endpoint lets its clients have."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from pdr_dspy.errors import ConfigError
from pdr_dspy.settings import Settings

SHARED = ("running", "queued", "in_flight", "connections")
"""What several workers have together."""


class Limits(Settings):
    """The server's own limits. What a client asks for is held against them: budgets and deadlines are lowered to them,
    anything else that is above them is refused."""

    budget_total: int | None = None
    """Tokens of all calls of a request (B_total); None is no limit."""
    budget_seq: int | None = None
    """Sequential tokens of a run (B_seq); None is no limit."""
    seconds: float = 600.0
    """From the end of a request's body to its answer, its wait for a place included."""
    choices: int = 8
    """The largest `n`."""
    calls: int = 256
    """Model calls of a run under a schedule that the client chose."""
    call_tokens: int = 32768
    """The largest cap, kappa or room for a thought in such a schedule, in tokens."""
    running: int = 64
    """Programs that run at once."""
    queued: int = 256
    """Runs that may wait for a place; beyond it a request is refused with 429."""
    in_flight: int | None = None
    """Requests to the model server at once, of all runs together; None leaves it to `running` and the schedules."""
    body_bytes: int = 4 * 2**20
    """A larger body is refused with 413."""
    body_seconds: float = 30.0
    """A slower body is refused with 408."""
    header_bytes: int = 32 * 2**10
    """Larger headers are refused with 400; `serve` holds this one and the next three."""
    header_seconds: float = 10.0
    """A connection is closed when a request's headers take longer."""
    connections: int = 4096
    """Open connections; beyond it a request is refused with 503."""
    drain_seconds: float = 120.0
    """After SIGTERM: how long requests under way may take before they are cancelled."""
    keepalive_seconds: float = 15.0
    """A stream that has nothing to say sends a comment after so long, which keeps proxies from closing it."""
    hosts: tuple[str, ...] = ()
    """Values of the Host header, without a port, that are answered; empty takes any. It keeps a web page that resolves
    its own name to the loopback address from asking a server without keys."""
    log_texts: bool = False
    """Write inputs, answers and errors in full to the log."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, value in self:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                least = 0 if name == "queued" else 1 if isinstance(value, int) else 0.001
                if not value >= least or value == float("inf"):
                    raise ValueError(f"`Limits({name}={value})` must be a number of at least {least}")
        return self

    def share(self, number: int, workers: int) -> Limits:
        """What worker `number`, from 0, of several has: its part of `running`, `queued`, `in_flight` and `connections`,
        which all of them together do not exceed.

        Raises ConfigError where there is less than one for each.
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
