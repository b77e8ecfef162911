"""Whether a reply came from DSPy's own cache, and DSPy's log of truncated replies during a call of this library.

A reply from that cache (`dspy.LM(cache=True)`, its default) looks like one that was sent and paid for: it carries the
usage of the original call. DSPy reports usage to `dspy.settings.usage_tracker` for sent calls alone, which tells the
two apart.
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
    """The state of one call to `lm`."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        # An LM that overrides `acall` or `__call__` may report no usage at all.
        own = type(lm).acall is not dspy.BaseLM.acall or type(lm).__call__ is not dspy.BaseLM.__call__
        self.can_reuse = bool(getattr(lm, "cache", False)) and not own
        self.tracker = dspy.settings.usage_tracker
        self.reported = False

    def add_usage(self, lm: str, usage: dict[str, Any]) -> None:
        """Take DSPy's usage report of a sent call; it is passed on to the tracker that was set before."""
        self.reported = True
        if self.tracker:
            self.tracker.add_usage(lm, usage)

    @property
    def reused(self) -> bool:
        """After a call without error: whether the reply came from DSPy's cache and nothing was sent."""
        return self.can_reuse and not self.reported


@contextmanager
def sending(lm: dspy.BaseLM) -> Iterator[Sending]:
    """Around one call to `lm` whose finish reason the caller records: DSPy does not log that it was truncated.

    Other calls, including concurrent ones, are logged as usual.
    """
    call = Sending(lm)
    logger = logging.getLogger("dspy.clients.lm")
    logger.addFilter(_not_ours)  # adding it again has no effect
    token = _OURS.set(True)
    try:
        if call.can_reuse:
            with dspy.context(usage_tracker=call):
                yield call
        else:
            yield call
    finally:
        _OURS.reset(token)


def _not_ours(record: logging.LogRecord) -> bool:
    """Whether DSPy's logger may handle a record: False for the truncation of a call of this library."""
    return not (_OURS.get() and str(record.msg).startswith("LM response was truncated"))
