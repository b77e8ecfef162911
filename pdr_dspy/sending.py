"""What DSPy does not say on a response, watched around one call to a model.

A reply that DSPy had in its own cache (`dspy.LM(cache=True)`, its default) looks like one that was sent and paid for:
its usage is that of the call that once was. DSPy reports usage to `dspy.settings.usage_tracker` for sent calls alone,
and that tells them apart.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dspy

_OURS: ContextVar[bool] = ContextVar("pdr_dspy_sending", default=False)


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
