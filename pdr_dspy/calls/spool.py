"""The spool: a local copy, on the disk, of records that are stored elsewhere."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import IO

from pdr_dspy.calls.places import Place, Places, digest, read_at


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
            yield read_at(self._file.fileno(), place)

    def find(self, key: str) -> bytes | None:
        """The line of a record; None if it is unknown."""
        place = self._places.find(digest(key))
        return None if place is None else read_at(self._file.fileno(), place)

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
