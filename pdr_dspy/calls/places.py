"""Where records are: the locations of many, by the digest of their key, in about 40 bytes each."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("sum", "<u4")])
"""What is known of one line: the digest of its key, its offset in the file, its bytes without the line end, and their
CRC-32. A digest of zero marks a line that is not a record."""


class Place(NamedTuple):
    """The location of a record."""

    offset: int
    length: int
    """Bytes, without the line end."""
    sum: int
    """CRC-32 of those."""
    file: int


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
        entries = entries[~not_records(entries)]
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
_PLACE = struct.Struct("<QIII")
_FIELDS = {**{name: ENTRY[name].str for name in ENTRY.names or ()}, "file": "<u4"}
"""Packed form of a place with its key's digest."""


def digest(key: str) -> bytes:
    """The lookup digest of a key: 16 bytes, unique in practice and never all zero."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def entry_of(key: str | None, offset: int, line: bytes) -> tuple[int, int, int, int, int]:
    """The ENTRY of a line, given without its end; `key` is None for a line that is not a record."""
    high, low = (0, 0) if key is None else _PAIR.unpack(digest(key))
    return high, low, offset, len(line), zlib.crc32(line)


def not_records(entries: NDArray[Any]) -> NDArray[np.bool_]:
    """Which entries belong to lines that are not records."""
    return (entries["high"] == 0) & (entries["low"] == 0)


def read_at(file: int, place: Place) -> bytes:
    """The bytes at a place of an open file; fewer if the file ends before."""
    if hasattr(os, "pread"):  # a forked copy shares the file's position
        return os.pread(file, place.length, place.offset)
    os.lseek(file, place.offset, os.SEEK_SET)
    return os.read(file, place.length)
