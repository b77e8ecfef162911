"""One event loop per process on which synchronous code runs async functions.

A single loop keeps connections open between calls, and works in scripts, threads and notebooks.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")


def run(function: Callable[[], Awaitable[T]]) -> T:
    """Run an async function to its end from synchronous code, in the caller's context (DSPy settings, session).

    An interrupt cancels the function and is raised here. Raises RuntimeError when called on that event loop itself,
    which would deadlock.
    """
    portal = _start_portal()
    if getattr(portal, "_event_loop_thread_id", None) == threading.get_ident():
        raise RuntimeError(
            "a program was called synchronously from inside the event loop; use `await program.acall(...)`"
        )
    context = copy_context()
    begun: list[asyncio.Task[T]] = []
    cancelled = threading.Event()

    async def inside() -> T:
        async def body() -> T:
            return await function()

        task = asyncio.get_running_loop().create_task(body(), context=context)
        begun.append(task)
        if cancelled.is_set():
            task.cancel()
        return await task

    try:
        return portal.start_task_soon(inside).result()
    except BaseException:
        cancelled.set()  # an interrupt may come before the task is created, which then must not start
        for task in begun:
            with suppress(RuntimeError):  # the loop has ended together with its tasks
                task.get_loop().call_soon_threadsafe(task.cancel)
        raise


_portals: dict[int, tuple[BlockingPortal, Any]] = {}
"""The loop by process id, since a forked child must not use its parent's; its context manager keeps it alive."""
_portal_lock = threading.Lock()


def _start_portal() -> BlockingPortal:
    with _portal_lock:
        if os.getpid() not in _portals:
            from anyio.from_thread import start_blocking_portal

            manager = start_blocking_portal("asyncio", name="pdr-dspy")
            _portals[os.getpid()] = (manager.__enter__(), manager)
            atexit.register(_stop_portal, os.getpid())
        return _portals[os.getpid()][0]


def _stop_portal(pid: int) -> None:
    """Cancel running tasks and end the loop's thread before the interpreter unloads modules that they use."""
    if pid == os.getpid() and pid in _portals:
        _, manager = _portals.pop(pid)
        with suppress(BaseException):
            manager.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
