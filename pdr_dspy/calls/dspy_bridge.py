"""One request to a model through DSPy, and what DSPy does not say on the response.

A reply that DSPy had in its own cache (`dspy.LM(cache=True)`, its default) looks like one that was sent and paid for:
its usage is that of the call that once was. DSPy reports usage to `dspy.settings.usage_tracker` for sent calls alone,
and that tells them apart.

An LM with a method `send_directly(request)` (an endpoint's) is asked past DSPy's own road where that would only cost
time: 0.4 ms and two changes of threads a call. History and usage tracking are still DSPy's; whatever else is asked for
(callbacks, streaming, its cache, its retries) takes the long road.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import dspy
from dspy.clients.call_result import CallResult
from dspy.clients.errors import error_boundary
from dspy.clients.execution import PreparedCall, finalize
from dspy.lm15 import Request, Response

_OURS: ContextVar[bool] = ContextVar("pdr_dspy_sending", default=False)


class Sent(NamedTuple):
    """What came back."""

    response: Response
    reused: bool
    """DSPy's cache had it: nothing was sent."""


class Tries(NamedTuple):
    """How often a request went out, as an endpoint says."""

    tries: int = 1
    unsettled: int = 0
    """Tries, a failed last one included, that the server may have served and counted without its answer coming through:
    connections lost after sending, time-outs, 5xx other than 503."""


def tries_of(outcome: Response | BaseException) -> Tries:
    """What a response, or the error raised in its place, took; one try where nobody says more.

    The responses of siblings that shared a request have that request's tries, each.
    """
    if isinstance(outcome, Response):
        notes: Any = (outcome.provider_data or {}).get("pdr")
        return Tries(int(notes["tries"]), int(notes["unsettled"])) if isinstance(notes, dict) else Tries()
    error: BaseException | None = outcome
    while error is not None:
        tally = getattr(error, "tally", None)  # on the lm15 error that DSPy's is raised from
        if tally is not None:
            return Tries(tally.tries, tally.unsettled)
        error = error.__cause__
    return Tries()


async def send(lm: dspy.LM, request: Request) -> Sent:
    """Send one request. Raises the errors of `dspy.utils.exceptions`."""
    rollout_id = lm.kwargs.get("rollout_id")
    extra = {} if rollout_id is None else {"rollout_id": rollout_id}
    if _direct(lm):
        with error_boundary(lm.model, unexpected=True):
            response: Response = await lm.send_directly(request)  # type: ignore[attr-defined]
        _record(lm, request, response, extra)
        return Sent(response, False)
    with sending(lm) as sent:
        response = await lm.acall(request, **extra)
    return Sent(response, sent.reused)


def _direct(lm: dspy.LM) -> bool:
    """Whether DSPy would do nothing with a call that `_record` does not do."""
    return (
        hasattr(lm, "send_directly")
        and not lm.cache
        and not lm.num_retries
        and not lm.callbacks
        and not dspy.settings.callbacks
        and dspy.settings.send_stream is None
        and type(lm).acall is dspy.BaseLM.acall
        and type(lm).aforward is dspy.LM.aforward
        and _REPLACED.isdisjoint(vars(lm))
    )


_REPLACED = frozenset({"acall", "forward", "aforward"})
"""Methods that somebody may have set on an LM of theirs."""


def _record(lm: dspy.LM, request: Request, response: Response, extra: dict[str, Any]) -> None:
    """Tell DSPy's history and usage tracker of a call, as DSPy does."""
    if dspy.settings.disable_history and not dspy.settings.usage_tracker:
        return
    result = CallResult.native(response, model_type=lm.model_type, logprobs=request.config.logprobs is not None)
    result.cost_details = {"kind": "unknown", "reason": "custom engine has no pricing provider"}
    finalize(lm, PreparedCall(None, None, extra, {"model": lm.model}, request, False, 1, True), result)


class Sending:
    """One call to `lm`, as far as it has come."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        # An LM with an `acall` or `__call__` of its own may report no usage at all.
        own = type(lm).acall is not dspy.BaseLM.acall or type(lm).__call__ is not dspy.BaseLM.__call__
        self.can_reuse = bool(getattr(lm, "cache", False)) and not own
        self.tracker = dspy.settings.usage_tracker
        self.reported = False

    def add_usage(self, lm: str, usage: dict[str, Any]) -> None:
        """DSPy's report of a call that was sent; passed on to the tracker that was there before."""
        self.reported = True
        if self.tracker:
            self.tracker.add_usage(lm, usage)

    @property
    def reused(self) -> bool:
        """Once the call has ended without an error: whether DSPy's cache had the reply, and nothing was sent."""
        return self.can_reuse and not self.reported


@contextmanager
def sending(lm: dspy.BaseLM) -> Iterator[Sending]:
    """Around one call to `lm`, whose finish reason the caller records: DSPy does not log that it was truncated.

    Calls outside, also those that run at the same time, are logged as ever.
    """
    call = Sending(lm)
    logger = logging.getLogger("dspy.clients.lm")
    logger.addFilter(_told_elsewhere)  # added once, however often; it lets everything else pass
    token = _OURS.set(True)
    try:
        if call.can_reuse:
            with dspy.context(usage_tracker=call):
                yield call
        else:
            yield call
    finally:
        _OURS.reset(token)


def _told_elsewhere(record: logging.LogRecord) -> bool:
    """Whether DSPy's logger may go on with a record: not with the truncation of a call of ours."""
    return not (_OURS.get() and str(record.msg).startswith("LM response was truncated"))
