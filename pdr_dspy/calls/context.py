"""What the calls of a program share: the run seed, the store, the places in flight, and who is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from pdr_dspy.calls.account import Account
from pdr_dspy.calls.ledger import Call, Usage
from pdr_dspy.calls.store import Rollout, Rollouts


class _Unkept(Rollouts):
    """The store where none was given: it knows the requests under way, and keeps no completion."""

    keeps = False

    def put(self, rollout: Rollout) -> None:
        """Nothing: the same request is sent again next time."""


@dataclass(frozen=True)
class Session:
    """What the calls made inside `session(...)` share."""

    seed: int = 0
    """The run seed: repeats of an evaluation differ in it, trials of a study do not."""
    store: Rollouts = field(default_factory=_Unkept)
    """Keeps completions, and the requests under way, so that two equal ones are sent once."""
    in_flight: asyncio.Semaphore | None = None
    """Bounds requests on the wire; None leaves it to the schedule's widths. It serves the event loop on which the
    session was begun; a synchronous program that runs beside that loop is not held up by it."""
    loop: asyncio.AbstractEventLoop | None = None
    """Where `in_flight` was given; None outside of any loop."""
    oracle: Callable[[Mapping[str, Any]], float] | None = None
    """Scores a draft's outputs; only the oracle distillers of an analysis may look."""
    on_call: Callable[[Call], None] | None = None
    """Told of every call as it ends, in the thread that runs the calls."""
    on_response: Callable[[Usage], None] | None = None
    """Told of the tokens of every response as it comes, while its siblings still run, in that thread; not of what was
    replayed. For displays: what is paid for calls that fail or are cancelled is known from the ledger alone."""
    on_progress: Callable[[Any], None] | None = None
    """Told where a program is, a `pdr_dspy.operators.Progress` each time, in the thread that runs the calls."""
    deadline: float | None = None
    """Of `time.monotonic()`: a program cancels then what it has under way, and answers from what it has."""
    account: Account | None = None
    """What all programs may spend together, and where each leaves its ledger when it ends; None is no limit."""


_SESSION: ContextVar[Session] = ContextVar("pdr_dspy_session", default=Session())  # noqa: B039  (frozen)


def current() -> Session:
    """The session that calls made here and now would join."""
    return _SESSION.get()


@contextmanager
def session(**changes: Any) -> Iterator[Session]:
    """Run calls with some fields of the session changed, in this context and the tasks started from it.

    With `store=None` no completion is kept inside.
    """
    if changes.get("store", ...) is None:
        changes["store"] = _Unkept()
    if "in_flight" in changes:
        with suppress(RuntimeError):
            changes["loop"] = None  # no loop runs here: the calls will all run on the portal's
            changes["loop"] = asyncio.get_running_loop()
    changed = replace(_SESSION.get(), **changes)
    token = _SESSION.set(changed)
    try:
        yield changed
    finally:
        _SESSION.reset(token)
