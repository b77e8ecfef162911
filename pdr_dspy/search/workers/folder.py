"""A board in a folder, for workers on one machine: an append-only journal of documents, and a locked file per claim.

The journal's first line says what it is. Each further line is a document: the CRC-32 of the rest, a space, and
`[name, text]` as JSON. Lines are appended under a lock; one that was cut off, by a kill, a full disk or a power
failure, can only be the last, and the next writer drops it. Its `put` never returned: nothing finished is lost by that.
A line before others that is damaged is skipped and counted: its document is worked out anew, from calls that are in the
rollout store.

A claim is a lock on a file, which the kernel gives back the instant that its process ends, however it ends. Such locks
hold between the processes of one machine; on network file systems they may not, and machines may see each other's lines
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
"""Seconds after which a journal that another process keeps locked is an error: a line takes microseconds."""
LONGEST_WAIT = 0.5
"""Seconds: what else changes in a folder is not told."""
logger = logging.getLogger("pdr_dspy.search")


class FolderBoard:
    """A board in a folder. See `coordination.Board`. A forked copy of the process finds it closed and opens its own."""

    def __init__(self, folder: str | Path, study: str = "pdr") -> None:
        """Open or make it.

        Args:
            folder: where `board.journal`, `board.lock` and `claims/` lie.
            study: what the journal is for; it is refused under another name.

        Raises:
            StoreError: the folder cannot be used, or its journal is not a board, is empty, or is of another study or
                version.
        """
        check_name(study)
        self.folder = local_path(folder)
        self.path = self.folder / JOURNAL
        self.damaged = 0
        """Lines that were skipped, so far."""
        self._documents = Documents()
        self._lock = threading.RLock()
        self._held: dict[int, Path] = {}
        self._refused: set[Path] = set()
        """Claims that others held since the last wait."""
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
                self._take_in(repair=True)
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
        """Whether a board is in a folder, or something that keeps one from being made there; nothing is made."""
        place = Path(folder)
        return (place / JOURNAL).exists() or place.is_file() or place.parent.is_file()

    def get(self, name: str) -> str | None:
        """See `coordination.Board`."""
        with self._lock:
            if name not in self._documents.texts:
                self._look()
            return self._documents.texts.get(name)

    def read(self, prefix: str) -> dict[str, str]:
        """See `coordination.Board`."""
        with self._lock:
            self._look()
            return self._documents.under(prefix)

    def put(self, name: str, text: str) -> str:
        """See `coordination.Board`. A put that a full disk stops leaves nothing behind."""
        line = _line(check_name(name), text)
        with self._lock:
            with self._alone():
                self._take_in(repair=True)
                there = self._documents.texts.get(name)
                if there is None:
                    self._append(line)
                    self._documents.add(name, text)
            try:
                # Without the lock, so that others append meanwhile. Also for a document that is there: its writer may
                # not have come to this yet.
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
            if self.get(name) is not None:  # put just before its worker gave the claim back
                claim.release()
                return None
        return claim

    def wait(self, seconds: float) -> None:
        """See `coordination.Board`. Returns also when a claim that was refused is free, or after half a second."""
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
                if same_file(file, path):  # unlinked while it is locked: nobody else can have taken this one
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

    def _look(self) -> None:
        """Take in what others wrote. Half a line is left for later, and what looks damaged is judged under the lock."""
        if self._journal < 0:
            raise StoreError(f"the board {self.folder} is closed")
        try:
            if os.fstat(self._journal).st_size != self._read_to and not self._take_in(repair=False):
                with self._alone():
                    self._take_in(repair=True)
        except OSError as error:
            raise self._error("cannot be read", error) from error

    def _take_in(self, *, repair: bool) -> bool:
        """Read on from where the last look ended; False when a line is damaged and `repair` was not asked for.

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
                        "%s is damaged at byte %d: skipped a document, which is worked out anew",
                        *(self.path, self._read_to),
                    )
                else:
                    self._documents.add(*document)
                start += len(line)
                self._read_to += len(line)
            if repair and start < len(data):
                logger.warning("%s: dropped %d bytes of a line that was cut off", self.path, len(data) - start)
                os.ftruncate(self._journal, self._read_to)
        except OSError as error:
            raise self._error("cannot be read", error) from error
        return True

    def _append(self, line: bytes) -> None:
        try:
            left = memoryview(line)
            while left:  # a write takes only a part of it when the disk fills up, without an error
                left = left[os.write(self._journal, left) :]
        except OSError as error:
            with suppress(OSError):  # else the next writer does it
                os.ftruncate(self._journal, self._read_to)
            raise self._error("cannot be written", error) from error
        self._read_to += len(line)

    def _header(self, study: str) -> int:
        """Check the first line; returns its length in bytes."""
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
            raise StoreError(f"{self.path} is of version {header['board']}, this library reads {VERSION}")
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
    """The bytes from `start` to `end`: one read may give fewer, and a writer may have dropped a torn line meanwhile."""
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
    """Name and text of a whole line; None when it is damaged."""
    content = line[9:-1]
    try:
        if int(line[:8], 16) != zlib.crc32(content):
            return None
        name, text = json.loads(content)
    except (ValueError, TypeError):
        return None
    return name, text


def _lock_new(path: Path) -> int | None:
    """The claim's file, made if need be and locked; None while another holds it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not flock(file):
            os.close(file)
            return None
        if same_file(file, path):
            return file
        os.close(file)  # its holder removed it between the two calls


def _is_free(path: Path) -> bool:
    """Whether nobody holds a claim. Who asks for it in this instant is refused, and finds it free when it waits."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        return flock(file, shared=True)
    finally:
        os.close(file)


def _forget(board: FolderBoard | None) -> None:
    """In a forked copy, which shares the locks of its parent: hold nothing, or a claim would outlive the parent."""
    if board is not None:
        board._lock = threading.RLock()
        for file in (*board._held, board._journal, board._guard):
            if file >= 0:
                os.close(file)
        board._held.clear()
        board._journal = board._guard = -1
