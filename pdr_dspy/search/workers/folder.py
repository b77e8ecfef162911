"""A board in a folder, for workers on one machine: an append-only journal of documents, and a locked file per claim.

The journal's first line identifies it. Each further line is a document: the CRC-32 of the rest, a space, and `[name,
text]` as JSON. Lines are appended under a lock; a torn line, after a kill, a full disk or a power failure, can only be
the last, and the next writer drops it. Its `put` never returned: no finished document is lost. A damaged line before
others is skipped and counted: its document is computed again, from calls in the rollout store.

A claim is a lock on a file, which the kernel releases as soon as its process ends, for whatever reason. Such locks work
between the processes of one machine; on network file systems they may not, and machines may see each other's lines
late: workers on several machines need PostgreSQL.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from pdr_dspy.errors import StoreError
from pdr_dspy.runtime.atomic_write import local_path, same_file, settle, write_whole
from pdr_dspy.runtime.locks import flock, unlock
from pdr_dspy.search.workers.documents import Claim, Documents, check_name

VERSION = 1
JOURNAL = "board.journal"
LOCKED_FOR = 30.0
"""Seconds after which another process's lock on the journal is an error: writing a line takes microseconds."""
LONGEST_WAIT = 0.5
"""Seconds between checks of a folder, whose changes send no notification."""
logger = logging.getLogger("pdr_dspy.search")


class FolderBoard:
    """A board in a folder. See `coordination.Board`. In a forked process it is closed and opened again."""

    def __init__(self, folder: str | Path, study: str = "pdr") -> None:
        """Open or create it.

        Args:
            folder: contains `board.journal`, `board.lock` and `claims/`.
            study: the study of the journal; another name is refused.

        Raises:
            StoreError: the folder cannot be used, or its journal is not a board, is empty, or is of another study or
                version.
        """
        check_name(study)
        self.folder = local_path(folder)
        self.path = self.folder / JOURNAL
        self.damaged = 0
        """Skipped lines so far."""
        self._documents = Documents()
        self._lock = threading.RLock()
        self._held: dict[int, Path] = {}
        self._refused: set[Path] = set()
        """Claims held by others since the last wait."""
        try:
            (self.folder / "claims").mkdir(parents=True, exist_ok=True)
            self._guard = os.open(self.folder / "board.lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._error("cannot be made", error) from error
        self._journal = -1
        try:
            with self._alone():
                if not self.path.exists():
                    write_whole(self.path, json.dumps({"board": VERSION, "study": study}) + "\n")
                    settle(self.folder)
                self._journal = os.open(self.path, os.O_RDWR | os.O_APPEND)
                self._read_to = self._header(study)
                self._read_on(repair=True)
        except OSError as error:
            self.close()
            raise self._error("cannot be opened", error) from error
        except StoreError:
            self.close()
            raise
        if hasattr(os, "register_at_fork"):
            own = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _forget(own()))

    @staticmethod
    def is_at(folder: str | Path) -> bool:
        """Whether a folder has a board, or a file that prevents one from being created; creates nothing."""
        place = Path(folder)
        return (place / JOURNAL).exists() or place.is_file() or place.parent.is_file()

    def get(self, name: str) -> str | None:
        """See `coordination.Board`."""
        with self._lock:
            if name not in self._documents.texts:
                self._read_new()
            return self._documents.texts.get(name)

    def read(self, prefix: str) -> dict[str, str]:
        """See `coordination.Board`."""
        with self._lock:
            self._read_new()
            return self._documents.under(prefix)

    def put(self, name: str, text: str) -> str:
        """See `coordination.Board`. A put that fails on a full disk leaves nothing behind."""
        line = _line(check_name(name), text)
        with self._lock:
            with self._alone():
                self._read_on(repair=True)
                there = self._documents.texts.get(name)
                if there is None:
                    self._append(line)
                    self._documents.add(name, text)
            try:
                # Without the lock, so that others append meanwhile. Also for an existing document: its writer may not
                # have synced it yet.
                os.fsync(self._journal)
            except OSError as error:
                raise self._error("cannot be written", error) from error
        return text if there is None else there

    def claim(self, name: str) -> Claim | None:
        """See `coordination.Board`."""
        check_name(name)
        path = self.folder / "claims" / hashlib.sha256(name.encode()).hexdigest()[:32]
        if self.get(name) is not None:
            return None
        with self._lock:
            try:
                file = _lock_new(path)
            except OSError as error:
                raise StoreError(f"the claim {path} cannot be made: {error.strerror}") from error
            if file is None:
                self._refused.add(path)
                return None
            self._held[file] = path
            claim = Claim(
                name,
                release=lambda: self._release(file),
                lost=lambda: file not in self._held or not same_file(file, path),
            )
            if self.get(name) is not None:  # put just before its worker released the claim
                claim.release()
                return None
        return claim

    def wait(self, seconds: float) -> None:
        """See `coordination.Board`. Also returns when a refused claim is free, or after half a second."""
        end = time.monotonic() + min(seconds, LONGEST_WAIT)
        pause = 0.002
        with self._lock:
            refused = list(self._refused)
            self._refused.clear()
        while self._journal >= 0 and os.fstat(self._journal).st_size == self._read_to:
            left = end - time.monotonic()
            if left <= 0 or any(map(_is_free, refused)):
                return
            time.sleep(min(pause, left))
            pause = min(2 * pause, 0.05)

    def close(self) -> None:
        """See `coordination.Board`."""
        with self._lock:
            for file in list(self._held):
                self._release(file)
            for file in (self._journal, self._guard):
                if file >= 0:
                    os.close(file)
            self._journal = self._guard = -1

    def _release(self, file: int) -> None:
        with self._lock:
            path = self._held.pop(file, None)
            if path is None:
                return
            with suppress(OSError):
                if same_file(file, path):  # unlinked while locked: no other process can have taken it
                    os.unlink(path)
            os.close(file)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the journal's lock."""
        if self._guard < 0:
            raise StoreError(f"the board {self.folder} is closed")
        end = time.monotonic() + LOCKED_FOR
        pause = 0.0005
        while not flock(self._guard):
            if time.monotonic() > end:
                raise StoreError(f"{self.folder / 'board.lock'} is locked by another process for {LOCKED_FOR:g} s")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        try:
            yield
        finally:
            unlock(self._guard)

    def _read_new(self) -> None:
        """Read the lines of other processes. Half a line is left for later; damaged ones are checked under the lock."""
        if self._journal < 0:
            raise StoreError(f"the board {self.folder} is closed")
        try:
            if os.fstat(self._journal).st_size != self._read_to and not self._read_on(repair=False):
                with self._alone():
                    self._read_on(repair=True)
        except OSError as error:
            raise self._error("cannot be read", error) from error

    def _read_on(self, *, repair: bool) -> bool:
        """Read on from the end of the last read; False if a line is damaged and `repair` is not set.

        `repair` needs the lock: no writer is in the middle of a line then.
        """
        try:
            if repair and not same_file(self._journal, self.path):
                raise StoreError(f"the journal {self.path} was removed or replaced while it was in use")
            size = os.fstat(self._journal).st_size
            if size < self._read_to:
                raise StoreError(f"the journal {self.path} has become shorter while it was in use")
            data = _read(self._journal, self._read_to, size)
            whole = data.rfind(b"\n") + 1
            start = 0
            for line in data[:whole].splitlines(keepends=True):
                document = _document(line)
                if document is None:
                    if not repair:
                        return False
                    if start + len(line) == whole:
                        break
                    self.damaged += 1
                    logger.warning(
                        "%s is damaged at byte %d: skipped a document, which is computed again",
                        *(self.path, self._read_to),
                    )
                else:
                    self._documents.add(*document)
                start += len(line)
                self._read_to += len(line)
            if repair and start < len(data):
                logger.warning("%s: dropped %d bytes of a torn line", self.path, len(data) - start)
                os.ftruncate(self._journal, self._read_to)
        except OSError as error:
            raise self._error("cannot be read", error) from error
        return True

    def _append(self, line: bytes) -> None:
        try:
            left = memoryview(line)
            while left:  # on a full disk a write may be partial without an error
                left = left[os.write(self._journal, left) :]
        except OSError as error:
            with suppress(OSError):  # otherwise the next writer does it
                os.ftruncate(self._journal, self._read_to)
            raise self._error("cannot be written", error) from error
        self._read_to += len(line)

    def _header(self, study: str) -> int:
        """Check the first line; return its length in bytes."""
        first = os.pread(self._journal, 4096, 0).partition(b"\n")
        try:
            header = json.loads(first[0]) if first[1] else None
        except ValueError:
            header = None
        if not isinstance(header, dict) or "board" not in header:
            empty = os.fstat(self._journal).st_size == 0
            what = "is empty" if empty else "is not the journal of a board"
            raise StoreError(f"{self.path} {what}; remove it to begin anew, or use another folder")
        if header["board"] != VERSION:
            raise StoreError(f"{self.path} has version {header['board']}, this library reads {VERSION}")
        if header.get("study") != study:
            raise StoreError(f"{self.path} is the board of the study {header.get('study')!r}, not of {study!r}")
        return len(first[0]) + 1

    def _error(self, what: str, error: OSError) -> StoreError:
        place = error.filename or self.path
        return StoreError(f"the board {place} {what}: {error.strerror or error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(file: int, start: int, end: int) -> bytes:
    """The bytes from `start` to `end`; fewer if a read is partial, or a writer has dropped a torn line meanwhile."""
    parts: list[bytes] = []
    while start < end:
        part = os.pread(file, end - start, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _line(name: str, text: str) -> bytes:
    content = json.dumps([name, text]).encode()
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _document(line: bytes) -> tuple[str, str] | None:
    """Name and text of a complete line; None if it is damaged."""
    content = line[9:-1]
    try:
        if int(line[:8], 16) != zlib.crc32(content):
            return None
        name, text = json.loads(content)
    except (ValueError, TypeError):
        return None
    return name, text


def _lock_new(path: Path) -> int | None:
    """The claim's file, created if necessary and locked; None while another process holds it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not flock(file):
            os.close(file)
            return None
        if same_file(file, path):
            return file
        os.close(file)  # its holder removed it between the two calls


def _is_free(path: Path) -> bool:
    """Whether no process holds a claim. A concurrent claim is refused during the check, and succeeds after a wait."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        return flock(file, shared=True)
    finally:
        os.close(file)


def _forget(board: FolderBoard | None) -> None:
    """In a forked process, which shares its parent's locks: release everything, or a claim would outlive the parent."""
    if board is not None:
        board._lock = threading.RLock()
        for file in (*board._held, board._journal, board._guard):
            if file >= 0:
                os.close(file)
        board._held.clear()
        board._journal = board._guard = -1
