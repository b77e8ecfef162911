"""Records in a folder that many processes write and all read: lines in append-only files, looked up by key.

Each process appends to its own segment, so no two processes write one file and no lock is needed: a kill, a full disk
or a network file system can damage the end of one segment and nothing else. A record is one line of JSON with its
`key`. A process keeps the location of each record in memory (about 40 bytes), and reads a record when it is needed.

The locations of a large segment's records are also stored beside it, in an index, so that opening a folder does not
read all of its texts. The index is only a hint: lines beyond it are read from the segment itself, and a record counts
only if its line has the checksum in the index. A lost, truncated or damaged index costs nothing but time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import struct
import tempfile
import threading
import uuid
import weakref
import zlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from pdr_dspy.errors import StoreError
from pdr_dspy.runtime.atomic_write import Lines, whole_lines, write_whole

VERSION = 1
INDEXED_FROM = 2**20
"""Bytes from which a segment has an index; a smaller one is faster to read without."""
UNINDEXED = 4 * 2**20
"""Unindexed bytes of a segment from which its reader writes an index."""
OPEN_FILES = 64
"""Maximum number of segments kept open for reading."""
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("sum", "<u4")])
"""Fields of an index entry: the key's digest, offset of the line, its bytes without the line end, and their CRC-32. A
digest of zero marks a line that is not a record."""
HEAD = b"pdr-dspy rollout index 1".ljust(ENTRY.itemsize - 1) + b"\n"
logger = logging.getLogger("pdr_dspy")

KeyOf = Callable[[bytes], str | None]
"""Returns the key of the record in a line; None for a line that is not a record."""


class Place(NamedTuple):
    """The location of a record."""

    offset: int
    length: int
    """Bytes, without the line end."""
    sum: int
    """CRC-32 of those."""
    file: int


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
        self._open: OrderedDict[int, int] = OrderedDict()
        """Segments open for reading, by their numbers, in order of last use."""
        weakref.finalize(self, _close_all, self._open)
        self._damaged: set[int] = set()
        """Segments that were already read a second time."""
        self._segment: _Segment | None = None
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
            _close_all(self._open)
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

    def _begin(self) -> _Segment:
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._written.add(name)
        return _Segment(self.folder / name, self._number(name))

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
            start = _after_head(path) if first else self._read_to[name]
            if start is None:  # its first line is being written
                return 0, 0
            known = read_index(path, start) if first else np.empty(0, ENTRY)
            trusted = known if len(known) and _holds(path, known[-1]) else known[:0]
            end = _end(trusted, start)
            read = np.concatenate([np.empty(0, ENTRY), *self._scan(path, end)])
            found = np.concatenate([trusted, _undamaged(read, known)])
            with self._lock:
                new = self._places.extend(found, self._number(name))
            self._read_to[name] = _end(found, start)
            if first and self._read_to[name] - end > UNINDEXED:
                _write_index(path, found)
        except FileNotFoundError:  # removed meanwhile
            return 0, 0
        except OSError as error:
            raise StoreError(f"the rollout segment {path} cannot be read: {error.strerror}") from error
        return new, int(_none(found).sum())

    def _read_again(self, file: int) -> bool:
        """Read a whole segment again, at most once, after a record was not at its place; return whether it was read."""
        path = self.folder / self._names[file]
        with self._lock:
            if file in self._damaged:
                return False
            self._damaged.add(file)
            known = self._places.of(file)
            opened = self._open.pop(file, None)
            if opened is not None:  # it may have been replaced
                os.close(opened)
        try:
            start = _after_head(path)
            read = np.concatenate([np.empty(0, ENTRY), *self._scan(path, start or 0)])
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"the rollout segment {path} cannot be read: {error.strerror}") from error
        found = _undamaged(read, known)
        with self._lock:
            there = len(self._places)
            self._places.forget(file)
            self._places.extend(found, file)
            gone = there - len(self._places)
        self._warn_torn(max(gone, 0))
        if self._names[file] not in self._written and _end(found, 0) >= INDEXED_FROM:
            _write_index(path, found)
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
            yield np.array([_entry(self._key_of(line), offset, line) for offset, line in some], ENTRY)

    def _line(self, place: Place) -> bytes | None:
        """The bytes at a place; None if they have changed or the segment is missing."""
        try:
            with self._lock:  # another thread might close the file or move its position
                line = _read_at(self._reader(place.file), place)
        except FileNotFoundError:
            return None
        except OSError as error:
            path = self.folder / self._names[place.file]
            raise StoreError(f"the rollout segment {path} cannot be read: {error.strerror}") from error
        return line if zlib.crc32(line) == place.sum else None

    def _reader(self, file: int) -> int:
        if file not in self._open:
            while len(self._open) >= OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[file] = os.open(self.folder / self._names[file], os.O_RDONLY | _BINARY)
        self._open.move_to_end(file)
        return self._open[file]


_BINARY = getattr(os, "O_BINARY", 0)  # Windows would convert line ends


def _read_at(file: int, place: Place) -> bytes:
    """The bytes at a place; fewer if the file ends before."""
    if hasattr(os, "pread"):  # a forked copy shares the file's position
        return os.pread(file, place.length, place.offset)
    os.lseek(file, place.offset, os.SEEK_SET)
    return os.read(file, place.length)


def _close_all(files: OrderedDict[int, int]) -> None:
    while files:
        os.close(files.popitem()[1])


class _Segment:
    """The file that this process appends to, and its index once it is large."""

    def __init__(self, path: Path, number: int) -> None:
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
        place = Place(self.lines.append(line), len(line), zlib.crc32(line), self.number)
        with self._lock:
            self._entries.append(name + _REST.pack(*place[:3]))
        return place

    def sync(self) -> None:
        self.lines.sync()

    def close(self) -> None:
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


class Places:
    """Locations of records, by the digest of their key; about 40 bytes each. Not thread-safe.

    The latest are in a dictionary; the others, sorted by digest, in arrays.
    """

    def __init__(self) -> None:
        self._sorted = {field: np.empty(0, kind) for field, kind in _FIELDS.items()}
        self._latest: dict[bytes, bytes] = {}
        self._count = 0
        self._make_views()

    def __len__(self) -> int:
        return self._count

    def find(self, name: bytes) -> Place | None:
        """The place of a record; None if there is none."""
        packed = self._latest.get(name)
        if packed is not None:
            return Place(*_PLACE.unpack(packed))
        row = self._row(name)
        return None if row is None else Place(*(column[row] for column in self._columns))

    def add(self, name: bytes, place: Place) -> bool:
        """Add the place of a record; return False, and change nothing, if it has one."""
        if self.find(name) is not None:
            return False
        self._latest[name] = _PLACE.pack(*place)
        self._count += 1
        if len(self._latest) > max(4096, len(self._there) // 8):
            self._settle(np.empty(0, ENTRY), 0)
        return True

    def drop(self, name: bytes) -> bool:
        """Remove a record; return False if there was none."""
        if self._latest.pop(name, None) is None:
            row = self._row(name)
            if row is None:
                return False
            self._there[row] = False
        self._count -= 1
        return True

    def extend(self, entries: NDArray[Any], file: int) -> int:
        """Add the places of a segment's new records; return how many there were."""
        before = self._count
        entries = entries[~_none(entries)]
        if len(entries) < 1000:
            for high, low, *place in entries.tolist():
                self.add(_PAIR.pack(high, low), Place._make((*place, file)))
        else:
            self._settle(entries, file)
        return self._count - before

    def of(self, file: int) -> NDArray[Any]:
        """The entries of one segment, in the order of their lines."""
        self._settle(np.empty(0, ENTRY), 0)
        there = self._sorted["file"] == file
        found = np.empty(int(there.sum()), ENTRY)
        for field in ENTRY.names or ():
            found[field] = self._sorted[field][there]
        return found[np.argsort(found["offset"])]

    def forget(self, file: int) -> None:
        """Remove every record of one segment."""
        self._settle(np.empty(0, ENTRY), 0)
        for row in np.flatnonzero(self._sorted["file"] == file).tolist():
            self._there[row] = 0
        self._settle(np.empty(0, ENTRY), 0)

    def all(self) -> list[Place]:
        """Every place, file by file."""
        self._settle(np.empty(0, ENTRY), 0)
        order = np.lexsort((self._sorted["offset"], self._sorted["file"]))
        return [
            Place(*row) for row in zip(*(self._sorted[field][order].tolist() for field in Place._fields), strict=True)
        ]

    def _row(self, name: bytes) -> int | None:
        high, low = _PAIR.unpack(name)
        row = bisect_left(self._high, high)
        while row < len(self._high) and self._high[row] == high:
            if self._low[row] == low and self._there[row]:
                return row
            row += 1
        return None

    def _settle(self, entries: NDArray[Any], file: int) -> None:
        """Merge the latest records and those of a segment into the sorted arrays; the first of equal ones stays."""
        latest = np.frombuffer(b"".join(name + packed for name, packed in self._latest.items()), [*_FIELDS.items()])
        there = np.frombuffer(self._there, bool)
        whole = {
            field: np.concatenate(
                [
                    self._sorted[field][there],
                    latest[field],
                    np.full(len(entries), file, kind) if field == "file" else entries[field],
                ]
            )
            for field, kind in _FIELDS.items()
        }
        order = np.lexsort((whole["low"], whole["high"]))  # a stable sort
        high, low = whole["high"][order], whole["low"][order]
        first = np.ones(len(order), bool)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        self._sorted = {field: values[order[first]] for field, values in whole.items()}
        self._latest = {}
        self._count = int(first.sum())
        self._make_views()

    def _make_views(self) -> None:
        """Views of the arrays for looking up a single row without numpy, which is slow for one."""
        self._high, self._low, *self._columns = (memoryview(values.data) for values in self._sorted.values())
        self._there = bytearray(b"\1" * len(self._high))
        """0 for a dropped record."""


_PAIR = struct.Struct("<QQ")
_REST = struct.Struct("<QII")
_PLACE = struct.Struct("<QIII")
_FIELDS = {**{name: ENTRY[name].str for name in ENTRY.names or ()}, "file": "<u4"}
"""Packed form of a place with its key's digest."""


def digest(key: str) -> bytes:
    """The lookup digest of a key: 16 bytes, unique in practice and never all zero."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


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


def _entry(key: str | None, offset: int, line: bytes) -> tuple[int, int, int, int, int]:
    high, low = (0, 0) if key is None else _PAIR.unpack(digest(key))
    return high, low, offset, len(line), zlib.crc32(line)


def _none(entries: NDArray[Any]) -> NDArray[np.bool_]:
    """Which entries belong to lines that are not records."""
    return (entries["high"] == 0) & (entries["low"] == 0)


def _end(entries: NDArray[Any], start: int) -> int:
    """Offset of the line after the last entry."""
    return int(entries["offset"][-1]) + int(entries["length"][-1]) + 1 if len(entries) else start


def _undamaged(found: NDArray[Any], before: NDArray[Any]) -> NDArray[Any]:
    """The current entries without those whose checksum has changed: these lines are damaged although they still
    parse."""
    if len(found) and len(before):
        row = np.minimum(np.searchsorted(before["offset"], found["offset"]), len(before) - 1)
        same = np.ones(len(found), bool)
        for field in ("high", "low", "offset", "length"):
            same &= before[field][row] == found[field]
        spoilt = same & (before["sum"][row] != found["sum"])
        found["high"][spoilt] = found["low"][spoilt] = 0
    return found


def _holds(segment: Path, entry: Any) -> bool:
    """Whether a line is at its entry's offset: false for the last entry if any line before it changed its length."""
    with segment.open("rb") as file:
        file.seek(int(entry["offset"]))
        return zlib.crc32(file.read(int(entry["length"]))) == int(entry["sum"])


def _write_index(segment: Path, entries: NDArray[Any]) -> None:
    with suppress(OSError):  # it is only a hint
        write_whole(index_of(segment), HEAD + entries.tobytes())


def _after_head(path: Path) -> int | None:
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


class Spool:
    """A local copy of records stored elsewhere, in a temporary file of this process.

    Not thread-safe. Every method raises OSError when the temporary folder fails.
    """

    def __init__(self) -> None:
        self._begin()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return self._places.find(digest(key)) is not None

    def __iter__(self) -> Iterator[bytes]:
        for place in self._places.all():
            yield _read_at(self._file.fileno(), place)

    def find(self, key: str) -> bytes | None:
        """The line of a record; None if it is unknown."""
        place = self._places.find(digest(key))
        return None if place is None else _read_at(self._file.fileno(), place)

    def add(self, key: str, line: bytes) -> bool:
        """Add a record; return False, and change nothing, if it is known."""
        if key in self:
            return False
        left, begins = memoryview(line), self._end
        self._file.seek(self._end)
        while left:
            written = self._file.write(left)
            left, self._end = left[written:], self._end + written
        return self._places.add(digest(key), Place(begins, len(line), 0, 0))

    def renewed(self) -> bool:
        """In a forked copy, which shares the file with its parent, begin an empty file. Returns whether it did."""
        if self._process == os.getpid():
            return False
        self._release()
        self._begin()
        return True

    def _begin(self) -> None:
        self._process = os.getpid()
        self._places = Places()
        self._end = 0
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="pdr-rollouts-", buffering=0)  # noqa: SIM115
        self._release = weakref.finalize(self, self._file.close)
