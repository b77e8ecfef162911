"""The state that the calls of a program share: run seed, store, bound on requests in flight, and listeners."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pdr_dspy.arguments import meant, shown
from pdr_dspy.calls.account import Account
from pdr_dspy.calls.ledger import Call, Usage
from pdr_dspy.calls.pricing import Price
from pdr_dspy.calls.store import Rollout, Rollouts
from pdr_dspy.errors import ConfigError, WrongCall
from pdr_dspy.settings import is_number, whole_number


class _PendingOnly(Rollouts):
    """The store used where none was given: it tracks pending requests and keeps no completion."""

    keeps = False

    def put(self, rollout: Rollout) -> None:
        """Do nothing: the same request is sent again next time."""


@dataclass(frozen=True)
class Session:
    """The state that calls inside `session(...)` share."""

    seed: int = 0
    """The run seed: it differs between repeats of an evaluation, not between trials of a study."""
    store: Rollouts = field(default_factory=_PendingOnly)
    """Keeps completions and tracks pending requests, so that equal requests are sent once."""
    in_flight: asyncio.Semaphore | None = None
    """Bounds the requests in flight; with None only the schedule's widths do. It belongs to the event loop on which the
    session began; a synchronous program beside that loop is not bounded by it."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop on which `in_flight` was given; None outside of any loop."""
    oracle: Callable[[Mapping[str, Any]], float] | None = None
    """Scores a draft's outputs; only the oracle distillers of an analysis may use it."""
    on_call: Callable[[Call], None] | None = None
    """Called after every call that was sent, in the thread that runs the calls."""
    serves: Mapping[int, Any] = field(default_factory=dict)
    """The LM that a schedule chose for a predictor, by the predictor's `id`: it takes precedence over its own."""
    prices: Mapping[int | str, Price] = field(default_factory=dict)
    """Prices per token, by the `id` of an LM or by its name (`lm.model`)."""
    name_of: Callable[[Any], str] | None = None
    """Called with an operator whose run begins; returns the mark of its calls (`Call.operator`) for `on_call`. None if
    the program is the operator itself."""
    on_response: Callable[[Usage], None] | None = None
    """Called with the tokens of every response as it arrives, while its siblings still run, in that thread; not called
    for replayed calls. For displays: only the ledger has the cost of calls that fail or are cancelled."""
    on_failed_check: Callable[[str, str], None] | None = None
    """Called with the check's name and the reason for each draft that a check failed on; None logs one line a run."""
    on_failed_round: Callable[[str], None] | None = None
    """Called with the reason when every draft of a later round failed and the program answers from the rounds before
    it; None logs it."""
    on_progress: Callable[[Any], None] | None = None
    """Called with a `pdr_dspy.operators.Progress` as a program advances, in the thread that runs the calls."""
    deadline: float | None = None
    """A time of `time.monotonic()` at which a program cancels its pending calls and answers from the drafts it has."""
    account: Account | None = None
    """The joint limit of all programs; each adds its ledger when it ends. None is no limit."""


_SESSION: ContextVar[Session] = ContextVar("pdr_dspy_session", default=Session())  # noqa: B039  (frozen)


def current() -> Session:
    """The session that calls made in this context belong to."""
    return _SESSION.get()


def price_of(lm: Any) -> Price | None:
    """The price per token of a model in this session; None if it is unknown."""
    prices = _SESSION.get().prices
    return prices.get(id(lm), prices.get(lm.model))


UNCHANGED: AbstractContextManager[Any] = nullcontext()
"""The session as it is."""


def run_of(operator: Any) -> AbstractContextManager[Any]:
    """One run of an operator: its calls are marked with its name where the session has one for it."""
    now = _SESSION.get()
    name = "" if now.name_of is None else now.name_of(operator)
    if not name or now.on_call is None:
        return UNCHANGED
    on_call = now.on_call
    return session(on_call=lambda call: on_call(call.model_copy(update={"operator": name})))


@contextmanager
def session(**changes: Any) -> Iterator[Session]:
    """Run calls with some fields of the session changed, in this context and the tasks started from it.

    With `store=None` no completion is kept. Raises ConfigError for a field that there is not, and for a seed, a store
    or a deadline of another kind.
    """
    _check(changes)
    if changes.get("store", ...) is None:
        changes["store"] = _PendingOnly()
    if "in_flight" in changes:
        with suppress(RuntimeError):
            changes["loop"] = None  # no loop runs here: all calls will run on the portal's loop
            changes["loop"] = asyncio.get_running_loop()
    changed = replace(_SESSION.get(), **changes)
    token = _SESSION.set(changed)
    try:
        yield changed
    finally:
        _SESSION.reset(token)


_FIELDS = tuple(one.name for one in fields(Session))


def _check(changes: Mapping[str, Any]) -> None:
    """Raise ConfigError for changes of a session that cannot be made."""
    for name, value in changes.items():
        if name not in _FIELDS:
            raise WrongCall(f"`session({name}={shown(value)})`: there is no `{name}`; {meant(name, _FIELDS)}")
        if name == "seed":
            whole_number("session(", name, value, least=None)
        elif name == "store" and not (value is None or isinstance(value, Rollouts)):
            raise ConfigError(f"`session(store={shown(value)})` must be `Rollouts(folder)`, or None to keep nothing")
        elif name == "deadline" and not (value is None or _is_a_time(value)):
            raise ConfigError(
                f"`session(deadline={shown(value)})` must be a time of `time.monotonic()`, in seconds, or None"
            )


def _is_a_time(value: Any) -> bool:
    return is_number(value) and not math.isnan(value)
