"""One event loop per process on which synchronous code runs async functions.

A single loop keeps connections open between calls, and works in scripts, threads and notebooks. A SystemExit or
KeyboardInterrupt that a function raises on it is raised by its own caller only: the loop serves the other callers on.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")


def run(function: Callable[[], Awaitable[T]]) -> T:
    """Run an async function to its end from synchronous code, in the caller's context (DSPy settings, session).

    An interrupt cancels the function and is raised here; so are SystemExit and KeyboardInterrupt of the function.
    Raises RuntimeError when called on that event loop itself, which would deadlock.
    """
    portal = _start_portal()
    if getattr(portal, "_event_loop_thread_id", None) == threading.get_ident():
        raise RuntimeError(
            "a program was called synchronously from inside the event loop; use `await program.acall(...)`"
        )
    context = copy_context()
    begun: list[asyncio.Task[T]] = []
    cancelled = threading.Event()
    ended: list[BaseException] = []

    async def inside() -> T | None:
        async def body() -> T:
            return await function()

        task = asyncio.get_running_loop().create_task(body(), context=context)
        begun.append(task)
        if cancelled.is_set():
            task.cancel()
        try:
            return await task
        except (SystemExit, KeyboardInterrupt) as error:  # would end the portal
            ended.append(error)
            return None

    try:
        try:
            future = portal.start_task_soon(inside)
        except RuntimeError:  # its loop was stopped by code that ran on it
            future = _start_portal(instead_of=portal).start_task_soon(inside)
        result = future.result()
    except BaseException:
        cancelled.set()  # an interrupt may come before the task is created, which then must not start
        for task in begun:
            with suppress(RuntimeError):  # the loop has ended together with its tasks
                task.get_loop().call_soon_threadsafe(task.cancel)
        raise
    if ended:
        raise ended[0]
    return cast(T, result)


class _Loop(asyncio.ProactorEventLoop if sys.platform == "win32" else asyncio.SelectorEventLoop):
    """An event loop that goes on after a task has raised SystemExit or KeyboardInterrupt, which would end asyncio's own
    with all other tasks. Whoever awaits that task gets the exception, as any other."""

    _stopped = False

    def run_forever(self) -> None:
        self._stopped = False
        while True:
            try:
                super().run_forever()
            except (SystemExit, KeyboardInterrupt):
                if not self._stopped:  # asyncio itself has forgotten that it was
                    continue
            return

    def stop(self) -> None:
        self._stopped = True
        super().stop()


_portals: dict[int, tuple[BlockingPortal, Any]] = {}
"""The loop by process id, since a forked child must not use its parent's; its context manager keeps it alive."""
_ended_portals: list[Any] = []
"""Context managers of loops that have ended: releasing one waits for its threads."""
_portal_lock = threading.Lock()


def _start_portal(*, instead_of: BlockingPortal | None = None) -> BlockingPortal:
    """This process's portal; it is started if there is none, or only `instead_of`, which has ended."""
    with _portal_lock:
        pid = os.getpid()
        if pid in _portals and _portals[pid][0] is instead_of:
            _ended_portals.append(_portals.pop(pid)[1])
        if pid not in _portals:
            from anyio.from_thread import start_blocking_portal

            manager = start_blocking_portal("asyncio", {"loop_factory": _Loop}, name="pdr-dspy")
            _portals[pid] = (manager.__enter__(), manager)
            atexit.register(_stop_portal, pid)
        return _portals[pid][0]


def _stop_portal(pid: int) -> None:
    """Cancel running tasks and end the loop's thread before the interpreter unloads modules that they use."""
    if pid == os.getpid() and pid in _portals:
        _, manager = _portals.pop(pid)
        with suppress(BaseException):
            manager.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
