"""Crash-safe files: replaced atomically, or appended to line by line.

A killed process loses nothing that it has handed to the system. A machine that goes down loses everything that is not
yet on the disk; `os.fsync` brings it there, at the price of a disk access. `write_whole` calls it for each file,
`Lines` for many lines together (group commit).
"""

from __future__ import annotations

import errno
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pdr_dspy.arguments import shown
from pdr_dspy.errors import ConfigError

SYNC_SECONDS = 1.0
"""The longest time that an appended line waits for the disk; a machine that goes down loses at most that much."""
BLOCK = 4 * 2**20
"""Bytes of a file that are read at a time."""


def write_whole(path: Path, data: str | bytes) -> None:
    """Write `data` to a temporary file beside `path`, then rename it to `path`; missing folders are created.

    Text is UTF-8; characters that UTF-8 cannot hold become "?". The bytes are on the disk before the rename, so a crash
    leaves no empty file. Raises OSError on failure, and removes the temporary file.
    """
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    settle(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` for somebody else to write a file to, which then takes the place of `path` as a file of
    `write_whole` does; when that fails, the old file stays."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    settle(path.parent)


def local_path(given: str | Path, called: str = "path") -> Path:
    """A path as users write it, with `~` for the home folder.

    Args:
        given: the path.
        called: the call as messages show it, up to the value, such as "load(path".

    Raises ConfigError for anything but a path.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise ConfigError(
            f"`{called}={shown(given)}{')' * ('(' in called)}` must be a path, as a text or a `pathlib.Path`"
        )
    try:
        return Path(given).expanduser()
    except RuntimeError:  # no such user
        return Path(given)


def settle(folder: Path) -> None:
    """Sync a folder, so that its new files are found after a crash; does nothing where the system cannot."""
    with suppress(OSError):  # not every system can open a folder, nor every file system sync one
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def same_file(file: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def ends_whole(path: Path) -> bool:
    """Whether a file is empty or its last line ends with a newline. Raises OSError."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def whole_lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line without its newline) from byte `start` on; an unfinished last line is left out.

    One block of the file at a time is in memory. Raises OSError.
    """
    with path.open("rb") as file:
        file.seek(start)
        rest = b""
        while block := file.read(BLOCK):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield start, line
                start += len(line) + 1


class Lines:
    """A file that one process appends whole lines to, while others may read it. Safe to use from several threads.

    When `append` returns, the system has the line: it survives the end of the process. It survives a crash of the
    machine after the next `sync`: a thread syncs all pending lines within `SYNC_SECONDS`, and `close` syncs too.

    Nothing is ever removed from the file. Half a line, which a kill or a full disk left, is ended with a newline before
    the next line is written; readers skip it because it does not parse.
    """

    def __init__(self, path: Path, *, replaceable: bool = True) -> None:
        """The first `append` creates the file.

        Args:
            path: the file.
            replaceable: whether to create the file again if it is removed while in use; else `append` raises.
        """
        self.path = path
        self.replaceable = replaceable
        self.synced: Callable[[], None] = _nothing
        """Called after every sync."""
        self.size = 0
        """Size of the file in bytes, as of this process's last write."""
        self._file: IO[bytes] | None = None
        self._torn = False
        self._lock = threading.RLock()
        self._group = _Group(self._flush)

    def append(self, line: bytes) -> int:
        """Append a line, given without its newline, and return its offset in bytes.

        Raises OSError, also for an earlier line whose sync failed later.
        """
        self._group.check()
        with self._lock:
            file = self._opened()
            begins = self.size + self._torn
            data = b"\n" * self._torn + line + b"\n"
            try:
                left = memoryview(data)
                while left:  # a write to a full disk takes a part of the line and raises nothing
                    left = left[file.write(left) :]
            except OSError:
                before, self.size = self.size, os.fstat(file.fileno()).st_size
                self._torn = self._torn or self.size > before
                raise
            self._torn = False
            self.size += len(data)
        self._group.begin()
        return begins

    def mend(self) -> None:
        """End an unfinished last line with a newline; no other process may write meanwhile. Raises OSError."""
        with self._lock:
            if self.path.exists() and not ends_whole(self.path):
                file = self._opened()
                self.size += file.write(b"\n") or 0
                self._torn = False

    def sync(self) -> None:
        """Return when all lines are on the disk. Raises OSError."""
        self._group.sync()

    def close(self) -> None:
        """`sync`, then close the file; a later `append` opens it again. Raises OSError."""
        try:
            self._group.sync()
        finally:
            with self._lock:
                file, self._file = self._file, None
                if file is not None:
                    file.close()

    def _opened(self) -> IO[bytes]:
        """The open file, opened again if it was removed or replaced. Sets `size` and `_torn` on opening."""
        if self._file is not None:
            if same_file(self._file.fileno(), self.path):
                return self._file
            if not self.replaceable:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
            self._file.close()
            self._file = None
        new = not self.path.exists()
        self._file = self.path.open("ab", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        self._torn = not new and not ends_whole(self.path)
        if new:
            settle(self.path.parent)
        return self._file

    def _flush(self) -> None:
        with self._lock:
            file = -1 if self._file is None else os.dup(self._file.fileno())
        if file >= 0:  # without the lock, so that other threads can append meanwhile
            try:
                os.fsync(file)
            finally:
                os.close(file)
            self.synced()


def _nothing() -> None:
    pass


class _Group:
    """Group commit: one sync for the writes of many threads, within `SYNC_SECONDS` of the first write.

    The next `check` or `sync` raises an error of that sync, once.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._timer: threading.Timer | None = None
        self._waiting = False
        """Whether there are writes that no sync has begun to bring to the disk."""
        self._error: OSError | None = None
        self._lock = threading.Lock()
        self._flushing = threading.Lock()

    def begin(self) -> None:
        """Note a write, and start the timer of the next sync."""
        with self._lock:
            self._waiting = True
            if self._timer is None or not self._timer.is_alive():  # a forked copy lacks its parent's threads
                self._timer = threading.Timer(SYNC_SECONDS, self._due)
                self._timer.daemon = True
                self._timer.name = "pdr-dspy-sync"
                self._timer.start()

    def check(self) -> None:
        """Raise the error of an earlier sync, once."""
        with self._lock:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def sync(self) -> None:
        """Sync now. Raises OSError."""
        with self._lock:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._run()
        self.check()

    def _due(self) -> None:
        with self._lock:
            self._timer = None
        self._run()

    def _run(self) -> None:
        with self._flushing:  # waits for a sync that is in progress
            with self._lock:
                waiting, self._waiting = self._waiting, False
            if waiting:
                try:
                    self._flush()
                except OSError as error:
                    with self._lock:
                        self._error = error
