"""The rollout store: every finished model call, found again by the content of its request.

The address of a call is the hash of model, messages, sampling settings and seed, so draft i of a question is the same
record in every trial that asks for it in the same way: a wider schedule pays only for the drafts that are new, a killed
run goes on where it was, and a replay sends nothing.

On disk a store is a folder of append-only JSONL segments, one per writing process. A line is written whole before the
call counts as finished; a torn last line (a kill in the middle of a write) is skipped when read and never appended to.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pdr_dspy.budget import Usage
from pdr_dspy.errors import StoreError

VERSION = 1


class Rollout(BaseModel):
    """One finished completion, with what it cost when it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    text: str
    """After any thought."""
    thought: str = ""
    finish: str = "stop"
    usage: Usage = Usage()
    estimated: bool = False
    seconds: float = 0.0


def address(request: Mapping[str, Any]) -> str:
    """The content address of a request: model, messages, sampling and seed, in any order of keys."""
    canonical = json.dumps(request, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]


def _write(file: IO[bytes], data: bytes) -> None:
    """Write all of `data`: an unbuffered file takes only a part of it when the disk fills up, without an error."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


class Rollouts:
    """A store in memory, or in a folder that several processes may write at the same time.

    Safe to use from several threads. Only finished completions enter: a failed call is asked again next time.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Open or make the store.

        Args:
            folder: where the segments lie; None keeps everything in memory.

        Raises:
            StoreError: the folder cannot be made, read or written, or was written by another version.
        """
        self.folder = None if folder is None else Path(folder)
        self._records: dict[str, Rollout] = {}
        self._read: dict[Path, int] = {}
        self._lock = threading.RLock()
        self._segment: IO[bytes] | None = None
        self.hits = 0
        self.pending: dict[str, Any] = {}
        """Requests under way, as futures by address, so that programs side by side send equal ones once."""
        self.torn = 0
        """Lines that could not be read, so far."""
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"`Rollouts(folder={str(folder)!r})` cannot be made: {error.strerror}") from error
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise StoreError(f"`Rollouts(folder={str(folder)!r})` cannot be written; choose another folder")
            self.refresh()

    def get(self, key: str) -> Rollout | None:
        """The completion at this address, or None."""
        with self._lock:
            found = self._records.get(key)
            self.hits += found is not None
            return found

    def put(self, rollout: Rollout) -> None:
        """Keep a completion; on disk before this returns. One that is already there is left as it is.

        Raises StoreError when the disk is full or not writable. The completion is then still kept in memory.
        """
        with self._lock:
            if rollout.key in self._records:
                return
            self._records[rollout.key] = rollout
            if self.folder is None:
                return
            line = rollout.model_dump_json(exclude_defaults=True).encode("utf-8", "backslashreplace") + b"\n"
            try:
                if self._segment is None:
                    path = self.folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
                    self._segment = path.open("ab", buffering=0)
                    self._read[path] = -1  # our own: never read back
                    _write(self._segment, json.dumps({"rollouts": VERSION}).encode() + b"\n")
                _write(self._segment, line)
            except OSError as error:
                if self._segment is not None:
                    with suppress(OSError):
                        self._segment.close()
                self._segment = None  # a torn line may be at its end: the next write opens a new segment
                raise StoreError(f"the rollout store {self.folder} cannot be written: {error.strerror}") from error

    def refresh(self) -> int:
        """Read what other processes have added since the last look. Returns how many records are new."""
        if self.folder is None:
            return 0
        before = len(self._records)
        with self._lock:
            for path in sorted(self.folder.glob("*.jsonl")):
                if self._read.get(path) != -1:
                    self._read[path] = self._read_from(path, self._read.get(path, 0))
        return len(self._records) - before

    def _read_from(self, path: Path, start: int) -> int:
        """Take in the whole lines of `path` from byte `start`; returns where the next look begins."""
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read()
        except OSError as error:
            raise StoreError(f"the rollout segment {path} cannot be read: {error.strerror}") from error
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            try:
                record = json.loads(line)
                if "rollouts" in record:
                    if record["rollouts"] != VERSION:
                        raise StoreError(
                            f"{path} is a rollout segment of version {record['rollouts']}, this library reads "
                            f"{VERSION}; use another run folder"
                        )
                    continue
                rollout = Rollout.model_validate(record)
            except (ValueError, ValidationError, TypeError):
                self.torn += 1
                continue
            self._records.setdefault(rollout.key, rollout)
        return start + whole

    def close(self) -> None:
        """Close this process's segment; the store can be used on, which opens another."""
        with self._lock:
            if self._segment is not None:
                self._segment.close()
                self._segment = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[Rollout]:
        return iter(list(self._records.values()))
