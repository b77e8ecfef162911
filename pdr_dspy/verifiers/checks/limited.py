"""The time limit of a check: a user's check that hangs ends neither the run nor the checks of other drafts."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime.raised_by import contained
from pdr_dspy.settings import is_number

T = TypeVar("T")
TIME_LIMIT = 600.0
"""Default time limit of a check, in seconds: far above a request to a served model or a program in a sandbox, which
have limits of their own."""
AT_ONCE = min(32, (os.cpu_count() or 1) + 4)
"""Synchronous functions that run concurrently on one event loop; one that passed its limit does not count."""


def check_time_limit(called: str, seconds: Any) -> None:
    """Raise ConfigError for a time limit that is no number of seconds above 0; None is no limit.

    Args:
        called: the call as messages show it, up to the argument, such as "RewardCheck(".
        seconds: the value.
    """
    if seconds is not None and not (is_number(seconds) and 0 < seconds < math.inf):
        raise ConfigError(
            f"`{called}time_limit={seconds!r})` must be a number of seconds above 0, or None for no limit"
        )


async def within(limit: float | None, work: Callable[[], Awaitable[T]]) -> T:
    """Await a check's work for at most `limit` seconds; None waits for it however long it takes.

    Raises the work's errors (RuntimeError for one that would end more than the check), and TimeoutError at the limit:
    the work is cancelled then, and not waited for.
    """

    async def alone() -> T:
        with contained("the check"):
            return await work()

    if limit is None:
        return await alone()
    task = asyncio.ensure_future(alone())
    try:
        done, _ = await asyncio.wait({task}, timeout=limit)
    except BaseException:
        _leave(task)
        raise
    if not done:
        _leave(task)
        raise TimeoutError(f"the check gave no result within its time limit of {limit:g} s (`time_limit=`)")
    return task.result()


async def in_thread(limit: float | None, function: Callable[[], T]) -> T:
    """Call a synchronous function in a thread, in this context, for at most `limit` seconds; None is no limit.

    At most `AT_ONCE` run at a time, and the limit begins when the function does. Python cannot interrupt a thread: at
    the limit the function is left running. Its thread does not keep the interpreter alive.

    Raises as `within`.
    """
    loop = asyncio.get_running_loop()
    async with _slots(loop):
        return await within(limit, lambda: _started(loop, function))


def _started(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> asyncio.Future[T]:
    """The result of a function that runs in a thread of its own. The threads of a pool would be used up by functions
    that hang, and waited for when the interpreter ends."""
    future: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)
        elif inspect.iscoroutine(result):  # nobody waits for it any more
            result.close()

    def body() -> None:
        result, error = None, None
        try:
            with contained("the check"):
                result = context.run(function)
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=body, name="pdr-dspy-check", daemon=True).start()
    return future


_SLOTS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _slots(loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
    return _SLOTS.setdefault(loop, asyncio.Semaphore(AT_ONCE))


def _leave(task: asyncio.Task[Any]) -> None:
    """Cancel a task without waiting for it; its outcome is dropped."""
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
