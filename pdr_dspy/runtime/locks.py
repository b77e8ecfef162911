"""Locks on folders: one process at a time holds a folder's lock, and the lock file names the holder.

The lock is the kernel's (`flock`) on a file that is never removed. The kernel releases it when its process ends, also
after `kill -9`, so there is nothing to clean up.

Between processes of one machine these locks always work. In a folder that several machines share, they work if the
file system forwards them: Linux NFS does (version 4, and version 3 with its lock service) unless it is mounted with
`nolock` or `local_lock`; many FUSE and object-store mounts do not. On those only the note in the file is left: a
process that takes the lock and finds an unreleased note of another machine logs a warning.
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
"""Seconds between two attempts to take a lock that another process holds: first and largest interval."""
logger = logging.getLogger("pdr_dspy")
_INSIDE: ContextVar[frozenset[Path]] = ContextVar("pdr_dspy_locks", default=frozenset())
"""Locks that the current context holds; taking one again would deadlock."""
_HELD: set[int] = set()
"""Open files of this process that hold locks."""


class Holder(NamedTuple):
    """The process that holds a lock, according to the note in its file."""

    process: int
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (`{self.command}`, since {self.since})"


class Lock:
    """A lock on one file. Not thread-safe: each thread and each process makes its own `Lock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def acquire(self) -> bool:
        """Try to take the lock, without waiting; False if another holds it.

        Raises OSError when the file cannot be created or opened.
        """
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            taken = flock(file)
        except OSError as error:  # a file system without locks
            logger.warning(
                "%s cannot be locked (%s): make sure that one process at a time works there", self.path, error.strerror
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
        """The holder according to the file's note; None without a readable note."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self.path.read_text(encoding="utf-8"))
            return Holder(int(note["process"]), str(note["host"]), str(note["since"]), str(note["command"]))
        return None

    def release(self) -> None:
        """Release the lock. Harmless when it is not held."""
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
                "%s was taken by %s, which did not release it: if that process still runs, stop it; the file system "
                "may not forward locks between machines",
                self.path.parent,
                before,
            )
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        # Without the command's arguments: a storage's URL may hold a password.
        note = {"process": os.getpid(), "host": host, "since": since, "command": Path(sys.argv[0]).name[:80]}
        with suppress(OSError):  # a full disk: the lock works without the note
            os.ftruncate(self._file, 0)
            os.write(self._file, json.dumps(note).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@asynccontextmanager
async def alone(path: Path, *, on_wait: Callable[[str], None]) -> AsyncIterator[None]:
    """Hold the lock on `path` inside the block, after waiting for another holder.

    Args:
        path: the lock's file, in a folder that exists.
        on_wait: called once with a sentence that names the holder, if there is one to wait for.

    Raises StoreError when the caller already holds the same lock, OSError when the file cannot be used.
    """
    inside = _INSIDE.get() | {_identity(path)}
    if inside == _INSIDE.get():
        raise StoreError(f"{path.parent} is already in use by the same program run; use another folder")
    with Lock(path) as lock:
        pauses = _pauses(lock, on_wait)
        while not lock.acquire():  # noqa: ASYNC110  (the kernel has no event for it)
            await asyncio.sleep(next(pauses))
        token = _INSIDE.set(inside)
        try:
            yield
        finally:
            _INSIDE.reset(token)


@contextmanager
def held(path: Path, *, on_wait: Callable[[str], None]) -> Iterator[None]:
    """`alone` for synchronous code, which must not already hold the same lock. Raises OSError."""
    with Lock(path) as lock:
        pauses = _pauses(lock, on_wait)
        while not lock.acquire():
            time.sleep(next(pauses))
        yield


def wait_for(path: Path, *, on_wait: Callable[[str], None]) -> None:
    """Return when no process holds the lock on `path`; at once if the file does not exist. Raises OSError."""
    if path.exists():
        with held(path, on_wait=on_wait):
            pass


def _identity(path: Path) -> Path:
    return path.resolve()


def _pauses(lock: Lock, on_wait: Callable[[str], None]) -> Iterator[float]:
    """Seconds before each next attempt to take a lock that another holds; calls `on_wait` first."""
    on_wait(f"{lock.path.parent} is in use by {lock.holder() or 'another process'}; waiting for its end")
    seconds, most = POLL
    while True:
        yield seconds
        seconds = min(2 * seconds, most)


def flock(file: int, *, shared: bool = False) -> bool:
    """Try to lock an open file without waiting; the kernel releases the lock when the process ends.

    Raises OSError if the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # a system without `flock` supports one process at a time
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: int) -> None:
    """Release the lock of an open file."""
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
    """Close the locked files in a forked copy: it shares its parent's locks, which would outlive the parent."""
    for file in _HELD:
        with suppress(OSError):
            os.close(file)
    _HELD.clear()
