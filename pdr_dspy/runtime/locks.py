"""Who is at work in a folder: a lock that one process at a time holds, and that says who it is.

The lock is the kernel's (`flock`) on a file that stays where it is. The kernel gives it back the instant that its
process ends, however it ends, so nothing is left to clean up after `kill -9`. The file holds a note of who has it.

Between the processes of one machine such locks always hold. In a folder that several machines share they hold where the
file system passes them on: NFS of Linux does (version 4, and version 3 with its lock service) unless it was mounted
with `nolock` or `local_lock`; many FUSE and object-store mounts do not. There the note is all there is: who takes the
lock finds a note of another machine that nobody took back, and says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

from pdr_dspy.errors import StoreError

POLL = 0.05, 1.0
"""Seconds between two looks at a lock that another process holds, at first and at most."""
logger = logging.getLogger("pdr_dspy")
_INSIDE: ContextVar[frozenset[Path]] = ContextVar("pdr_dspy_locks", default=frozenset())
"""Locks that this very course of calls holds, which would wait for itself for ever."""
_HELD: set[int] = set()
"""Open files of this process that hold locks."""


class Holder(NamedTuple):
    """Who holds a lock, as the note says."""

    process: int
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (`{self.command}`, since {self.since})"


class Lock:
    """A lock on one file. Not for several threads at once; other threads and processes have locks of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def acquire(self) -> bool:
        """Take it, without waiting; False when somebody else has it.

        Raises OSError when the file cannot be made or opened.
        """
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            taken = flock(file)
        except OSError as error:  # a file system without locks
            logger.warning(
                "%s cannot be locked (%s): see to it that one process at a time works there", self.path, error.strerror
            )
            taken = True
        if not taken:
            os.close(file)
            return False
        _keep(file)
        self._file = file
        self._write_note()
        return True

    def holder(self) -> Holder | None:
        """Who has it, as far as that can be read; None when nobody said so."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self.path.read_text(encoding="utf-8"))
            return Holder(int(note["process"]), str(note["host"]), str(note["since"]), str(note["command"]))
        return None

    def release(self) -> None:
        """Give it back. Harmless when it is not held."""
        file, self._file = self._file, -1
        if file >= 0 and file in _HELD:
            with suppress(OSError):
                os.ftruncate(file, 0)
            _HELD.discard(file)
            os.close(file)

    def _write_note(self) -> None:
        host = socket.gethostname()
        before = self.holder()
        if before is not None and before.host != host:
            logger.warning(
                "%s was taken by %s, which did not give it back: if that is still at work, stop it; the file system "
                "may not pass locks on from one machine to another",
                self.path.parent,
                before,
            )
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        # Not what it was called with: a storage's URL may hold a password.
        note = {"process": os.getpid(), "host": host, "since": since, "command": Path(sys.argv[0]).name[:80]}
        with suppress(OSError):  # a full disk: the lock holds without it
            os.ftruncate(self._file, 0)
            os.write(self._file, json.dumps(note).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@asynccontextmanager
async def alone(path: Path, *, told: Callable[[str], None]) -> AsyncIterator[None]:
    """Hold the lock on `path` inside; wait for whoever has it.

    Args:
        path: the lock's file; its folder is there.
        told: told who has it, once, when there is somebody to wait for.

    Raises StoreError when the caller itself is inside the same lock, OSError when the file cannot be used.
    """
    inside = _INSIDE.get() | {_identity(path)}
    if inside == _INSIDE.get():
        raise StoreError(
            f"{path.parent} is at work already, for the very program that asks for it now; use another folder"
        )
    with Lock(path) as lock:
        pauses = _pauses(lock, told)
        while not lock.acquire():  # noqa: ASYNC110  (the kernel tells nobody)
            await asyncio.sleep(next(pauses))
        token = _INSIDE.set(inside)
        try:
            yield
        finally:
            _INSIDE.reset(token)


@contextmanager
def held(path: Path, *, told: Callable[[str], None]) -> Iterator[None]:
    """`alone` for synchronous code, which must not be inside the same lock. Raises OSError."""
    with Lock(path) as lock:
        pauses = _pauses(lock, told)
        while not lock.acquire():
            time.sleep(next(pauses))
        yield


def wait_for(path: Path, *, told: Callable[[str], None]) -> None:
    """Return when nobody holds the lock on `path`; what is not there is held by nobody. Raises OSError."""
    if path.exists():
        with held(path, told=told):
            pass


def _identity(path: Path) -> Path:
    return path.resolve()


def _pauses(lock: Lock, told: Callable[[str], None]) -> Iterator[float]:
    """Seconds until each next look at a lock that another holds, who is told of first."""
    told(f"{lock.path.parent} is in use by {lock.holder() or 'another process'}; waiting for its end")
    seconds, most = POLL
    while True:
        yield seconds
        seconds = min(2 * seconds, most)


def flock(file: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting; the system gives it back when the process ends, however it ends.

    Raises OSError where the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system: one process at a time, then
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: int) -> None:
    """Give back the lock of an open file."""
    with suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


def _keep(file: int) -> None:
    _HELD.add(file)
    _watch_forks()


@cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """In a forked copy, which shares its parent's locks: let go of them, or they would outlive the parent."""
    for file in _HELD:
        with suppress(OSError):
            os.close(file)
    _HELD.clear()
