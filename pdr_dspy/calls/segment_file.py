"""One segment on the disk: its first line, the lines that this process appends, and the index beside a large one.

The index stores the locations of a segment's records, so that opening a folder does not read all of its texts. It is
only a hint: lines beyond it are read from the segment itself, and a record counts only if its line has the checksum in
the index. A lost, truncated or damaged index costs nothing but time.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import weakref
import zlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdr_dspy.calls.places import ENTRY, Place, read_at
from pdr_dspy.errors import StoreError
from pdr_dspy.runtime.atomic_write import Lines, write_whole

VERSION = 1
"""Version of the records, which the first line of each segment states."""
INDEXED_FROM = 2**20
"""Bytes from which a segment has an index; a smaller one is faster to read without."""
UNINDEXED = 4 * 2**20
"""Unindexed bytes of a segment from which its reader writes an index."""
OPEN_FILES = 64
"""Maximum number of segments kept open for reading."""
HEAD = b"pdr-dspy rollout index 1".ljust(ENTRY.itemsize - 1) + b"\n"
"""First bytes of an index; its entries follow."""
_REST = struct.Struct("<QII")
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would convert line ends


class SegmentWriter:
    """The file that this process appends to, and its index once it is large. Thread-safe.

    Every method raises OSError when the disk fails.
    """

    def __init__(self, path: Path, number: int) -> None:
        """Create the file; places refer to it by `number`."""
        self.lines = Lines(path, replaceable=False)
        self.number = number
        self._index = index_of(path)
        self._begun = False
        self._entries: list[bytes] = []
        """Entries that are not in the index yet."""
        self._lock = threading.Lock()
        try:
            self.lines.append(json.dumps({"rollouts": VERSION}).encode())
        except OSError:
            with suppress(OSError):
                self.lines.close()
            raise
        self.lines.synced = self._write_index

    def append(self, name: bytes, line: bytes) -> Place:
        """Append the line of the record with this digest, given without its end; return its place."""
        place = Place(self.lines.append(line), len(line), zlib.crc32(line), self.number)
        with self._lock:
            self._entries.append(name + _REST.pack(*place[:3]))
        return place

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        self.lines.sync()

    def close(self) -> None:
        """`sync`, and close the file."""
        self.lines.close()

    def _write_index(self) -> None:
        """Index the part that is on the disk by now; the index itself is not synced."""
        if self.lines.size < INDEXED_FROM:
            return
        with self._lock:
            entries, self._entries = self._entries, []
        with suppress(OSError), self._index.open("ab" if self._begun else "wb") as file:
            file.write(b"".join([HEAD] * (not self._begun) + entries))
            self._begun = True


class OpenFiles:
    """The segments of a folder that are open for reading: the last OPEN_FILES that were read. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: OrderedDict[str, int] = OrderedDict()
        """By name, in order of last use."""
        weakref.finalize(self, _close_all, self._files)

    def read(self, name: str, place: Place) -> bytes:
        """The bytes at a place of a segment; fewer if it ends before. Raises OSError."""
        if name not in self._files:
            while len(self._files) >= OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[name] = os.open(self._folder / name, os.O_RDONLY | _BINARY)
        self._files.move_to_end(name)
        return read_at(self._files[name], place)

    def drop(self, name: str) -> None:
        """Close a segment, which may have been replaced."""
        file = self._files.pop(name, None)
        if file is not None:
            os.close(file)

    def close(self) -> None:
        """Close all; `read` opens them again."""
        _close_all(self._files)


def _close_all(files: OrderedDict[str, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def first_record(path: Path) -> int | None:
    """Offset of a segment's first record; None while its first line is being written.

    Raises StoreError for a segment of another version.
    """
    with path.open("rb") as file:
        line = file.readline(64)
    version: Any = None
    with suppress(ValueError, AttributeError, RecursionError):
        version = json.loads(line).get("rollouts")
    if version is None:  # a record, or no record at all
        return 0 if line.endswith(b"\n") or len(line) == 64 else None
    if version != VERSION:
        raise StoreError(
            f"{path} is a rollout segment of version {version}, this library reads {VERSION}; use another run folder"
        )
    return len(line)


def index_of(segment: Path) -> Path:
    """The index of a segment."""
    return segment.with_suffix(".index")


def read_index(segment: Path, start: int) -> NDArray[Any]:
    """The entries of a segment's index, as long as each starts where the one before it ends and all are in the segment.

    Args:
        segment: the file with the records.
        start: offset of its first record.

    Raises OSError if the segment cannot be read; a missing or damaged index gives no entries.
    """
    size = segment.stat().st_size
    if size < INDEXED_FROM:
        return np.empty(0, ENTRY)
    try:
        data = index_of(segment).read_bytes()
    except OSError:
        return np.empty(0, ENTRY)
    if not data.startswith(HEAD):
        return np.empty(0, ENTRY)
    entries = np.frombuffer(data[: len(data) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)[1:]
    ends = entries["offset"] + entries["length"] + np.uint64(1)
    begins = np.concatenate([np.array([start], np.uint64), ends[:-1]])
    wrong = np.flatnonzero((entries["offset"] != begins) | (ends > size))
    return entries[: wrong[0]] if len(wrong) else entries


def write_index(segment: Path, entries: NDArray[Any]) -> None:
    """Write the whole index of a segment, if that is possible: it is only a hint."""
    with suppress(OSError):
        write_whole(index_of(segment), HEAD + entries.tobytes())


def end_of(entries: NDArray[Any], start: int) -> int:
    """Offset of the line after the last entry."""
    return int(entries["offset"][-1]) + int(entries["length"][-1]) + 1 if len(entries) else start


def undamaged(found: NDArray[Any], before: NDArray[Any]) -> NDArray[Any]:
    """The entries `found` now, with a digest of zero where the checksum is no longer the one `before`: these lines are
    damaged although they still parse."""
    if len(found) and len(before):
        row = np.minimum(np.searchsorted(before["offset"], found["offset"]), len(before) - 1)
        same = np.ones(len(found), bool)
        for field in ("high", "low", "offset", "length"):
            same &= before[field][row] == found[field]
        spoilt = same & (before["sum"][row] != found["sum"])
        found["high"][spoilt] = found["low"][spoilt] = 0
    return found


def holds(segment: Path, entry: Any) -> bool:
    """Whether a line is at its entry's offset: false for the last entry if any line before it changed its length."""
    with segment.open("rb") as file:
        file.seek(int(entry["offset"]))
        return zlib.crc32(file.read(int(entry["length"]))) == int(entry["sum"])
