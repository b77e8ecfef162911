"""Records in a folder that many processes write and all read: lines in append-only files, looked up by key.

Each process appends to its own segment, so no two processes write one file and no lock is needed: a kill, a full disk
or a network file system can damage the end of one segment and nothing else. A record is one line of JSON with its
`key`. A process keeps the location of each record in memory (about 40 bytes), and reads a record when it is needed.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pdr_dspy.calls import segment_file
from pdr_dspy.calls.places import ENTRY, Place, Places, digest, entry_of, not_records
from pdr_dspy.calls.segment_file import (
    OpenFiles,
    SegmentWriter,
    end_of,
    first_record,
    holds,
    read_index,
    undamaged,
    write_index,
)
from pdr_dspy.errors import StoreError
from pdr_dspy.runtime.atomic_write import whole_lines

logger = logging.getLogger("pdr_dspy")

KeyOf = Callable[[bytes], str | None]
"""Returns the key of the record in a line; None for a line that is not a record."""


class Segments:
    """The records of a folder. Thread-safe; a forked copy of the process writes its own file."""

    def __init__(self, folder: Path, key_of: KeyOf) -> None:
        """Raises StoreError if the folder cannot be created or written."""
        self.folder = folder
        self.torn = 0
        """Lines so far that were not records."""
        self._key_of = key_of
        self._places = Places()
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._read_to: dict[str, int] = {}
        self._written: set[str] = set()
        """Segments of this process, which are not read again."""
        self._open = OpenFiles(folder)
        self._damaged: set[int] = set()
        """Segments that were already read a second time."""
        self._segment: SegmentWriter | None = None
        self._process = os.getpid()
        self._lock = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"`Rollouts({str(folder)!r})` cannot be made: {error.strerror}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(f"`Rollouts({str(folder)!r})` cannot be written; choose another folder")

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return self._places.find(digest(key)) is not None

    def __iter__(self) -> Iterator[bytes]:
        """The lines of all records, in the order within each segment."""
        with self._lock:
            places = self._places.all()
        for place in places:
            line = self._line(place)
            if line is not None:
                yield line

    def find(self, key: str) -> bytes | None:
        """The line of a record; None if there is no readable one. Raises StoreError when the disk fails."""
        name = digest(key)
        for again in (True, False):
            with self._lock:
                place = self._places.find(name)
            line = None if place is None else self._line(place)
            if line is not None or place is None:
                return line
            if not (again and self._read_again(place.file)):
                break
        self.drop(key)
        return None

    def drop(self, key: str) -> None:
        """Forget a record whose line is damaged, so that it can be put again."""
        with self._lock:
            if self._places.drop(digest(key)):
                self._warn_torn(1)

    def put(self, key: str, line: bytes) -> None:
        """Append a record unless its key is present. The line is given without its end.

        The operating system has it when this returns, the disk within `files.SYNC_SECONDS`. Raises StoreError.
        """
        name = digest(key)
        with self._lock:
            if self._places.find(name) is not None:
                return
            if self._process != os.getpid():
                self._after_fork()
            try:
                place = self._append(name, line)
            except OSError as error:
                self._fail(error)
            self._places.add(name, place)

    def refresh(self) -> int:
        """Read the records that other processes have added; return how many are new. Raises StoreError."""
        try:
            with os.scandir(self.folder) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(".jsonl")}
        except OSError as error:
            raise StoreError(f"the rollout store {self.folder} cannot be read: {error.strerror}") from error
        new = torn = 0
        for name in sorted(sizes.keys() - self._written):
            if sizes[name] > self._read_to.get(name, 0):
                more, bad = self._read_on(name)
                new, torn = new + more, torn + bad
        self._warn_torn(torn)
        return new

    def sync(self) -> None:
        """Return when all records put by this process are on the disk. Raises StoreError."""
        with self._lock:
            segment = self._segment if self._process == os.getpid() else None
        if segment is not None:
            try:
                segment.sync()
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """`sync`, and close all files; they are opened again when needed."""
        with self._lock:
            segment, self._segment = self._segment, None
            self._open.close()
        if segment is not None and self._process == os.getpid():
            try:
                segment.close()
            except OSError as error:
                self._fail(error)

    # --- segments of this process ---

    def _append(self, name: bytes, line: bytes) -> Place:
        try:
            if self._segment is None:
                self._segment = self._begin()
            return self._segment.append(name, line)
        except OSError as error:
            # The segment may end in half a line: the next record opens a new one.
            segment, self._segment = self._segment, None
            if segment is not None:
                with suppress(OSError):
                    segment.close()
                if isinstance(error, FileNotFoundError) and self.folder.is_dir():  # removed while it was in use
                    return self._append(name, line)
            raise

    def _begin(self) -> SegmentWriter:
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._written.add(name)
        return SegmentWriter(self.folder / name, self._number(name))

    def _number(self, name: str) -> int:
        """The number by which a place refers to a segment."""
        number = self._numbers.setdefault(name, len(self._names))
        if number == len(self._names):
            self._names.append(name)
        return number

    def _after_fork(self) -> None:
        """The segment belongs to the parent: read it from here on like any other."""
        if self._segment is not None:
            name = self._segment.lines.path.name
            self._written.discard(name)
            self._read_to[name] = self._segment.lines.size
            self._segment = None
        self._process = os.getpid()

    def _fail(self, error: OSError) -> NoReturn:
        raise StoreError(f"the rollout store {self.folder} cannot be written: {error.strerror or error}") from error

    # --- segments of other processes ---

    def _read_on(self, name: str) -> tuple[int, int]:
        """Read a segment from where the last read ended; return how many records are new, and how many lines were not
        records."""
        path = self.folder / name
        try:
            first = name not in self._read_to
            start = first_record(path) if first else self._read_to[name]
            if start is None:  # its first line is being written
                return 0, 0
            known = read_index(path, start) if first else np.empty(0, ENTRY)
            trusted = known if len(known) and holds(path, known[-1]) else known[:0]
            end = end_of(trusted, start)
            read = np.concatenate([np.empty(0, ENTRY), *self._scan(path, end)])
            found = np.concatenate([trusted, undamaged(read, known)])
            with self._lock:
                new = self._places.extend(found, self._number(name))
            self._read_to[name] = end_of(found, start)
            if first and self._read_to[name] - end > segment_file.UNINDEXED:
                write_index(path, found)
        except FileNotFoundError:  # removed meanwhile
            return 0, 0
        except OSError as error:
            raise StoreError(f"the rollout segment {path} cannot be read: {error.strerror}") from error
        return new, int(not_records(found).sum())

    def _read_again(self, file: int) -> bool:
        """Read a whole segment again, at most once, after a record was not at its place; return whether it was read."""
        path = self.folder / self._names[file]
        with self._lock:
            if file in self._damaged:
                return False
            self._damaged.add(file)
            known = self._places.of(file)
            self._open.drop(path.name)
        try:
            start = first_record(path)
            read = np.concatenate([np.empty(0, ENTRY), *self._scan(path, start or 0)])
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"the rollout segment {path} cannot be read: {error.strerror}") from error
        found = undamaged(read, known)
        with self._lock:
            there = len(self._places)
            self._places.forget(file)
            self._places.extend(found, file)
            gone = there - len(self._places)
        self._warn_torn(max(gone, 0))
        if self._names[file] not in self._written and end_of(found, 0) >= segment_file.INDEXED_FROM:
            write_index(path, found)
        return True

    def _warn_torn(self, count: int) -> None:
        if count:
            with self._lock:
                self.torn += count
            logger.warning(
                "%s: %d line%s could not be read and %s skipped; the missing records are made again when needed",
                *(self.folder, count, *(("s", "were") if count > 1 else ("", "was"))),
            )

    def _scan(self, path: Path, start: int) -> Iterator[NDArray[Any]]:
        """Entries of the whole lines from byte `start` on, some thousands at a time."""
        lines = whole_lines(path, start)
        while some := list(itertools.islice(lines, 10_000)):
            yield np.array([entry_of(self._key_of(line), offset, line) for offset, line in some], ENTRY)

    def _line(self, place: Place) -> bytes | None:
        """The bytes at a place; None if they have changed or the segment is missing."""
        try:
            with self._lock:  # another thread might close the file or move its position
                line = self._open.read(self._names[place.file], place)
        except FileNotFoundError:
            return None
        except OSError as error:
            path = self.folder / self._names[place.file]
            raise StoreError(f"the rollout segment {path} cannot be read: {error.strerror}") from error
        return line if zlib.crc32(line) == place.sum else None
