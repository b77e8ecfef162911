"""The rollout store: every finished model call, found again by the content of its request.

The address of a call is the hash of model, messages, sampling settings and seed, so draft i of a question is the same
record in every trial that asks for it in the same way: a wider schedule pays only for the drafts that are new, a killed
run goes on where it was, and a replay sends nothing.

On disk a store is a folder of append-only JSONL segments, one per writing process. A line is written whole before the
call counts as finished; a torn last line (a kill in the middle of a write) is skipped when read and never appended to.
For workers on several machines the same records are rows of a table in PostgreSQL.
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
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pdr_dspy.calls.ledger import Usage
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.runtime import postgres

if TYPE_CHECKING:
    import psycopg

VERSION = 1
TABLES = postgres.Tables(
    "rollouts",
    VERSION,
    (
        """CREATE TABLE IF NOT EXISTS pdr_rollouts (
            key text PRIMARY KEY, record bytea NOT NULL, written xid8 NOT NULL DEFAULT pg_current_xact_id())""",
        "CREATE INDEX IF NOT EXISTS pdr_rollouts_written ON pdr_rollouts (written)",
    ),
)


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
    unsettled: int = 0
    """Tries before it that the server may have served and counted too."""
    seconds: float = 0.0


def address(request: Mapping[str, Any]) -> str:
    """The content address of a request: model, messages, sampling and seed, in any order of keys."""
    return _shortened(hashlib.sha256(_CANONICAL.encode(request).encode()))


class Addresses:
    """The addresses of requests that differ in their seed alone; what they share is written and hashed once."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        """Take a request without its seed, its keys all strings."""
        written = {key: f"{_CANONICAL.encode(key)}:{_CANONICAL.encode(request[key])}" for key in sorted(request)}
        before = "".join(f"{text}," for key, text in written.items() if key < "seed")
        after = "".join(f",{text}" for key, text in written.items() if key > "seed")
        self._head = hashlib.sha256(f'{{{before}"seed":'.encode())
        self._tail = after + "}"
        whole = hashlib.sha256(f"{{{','.join(written.values())}}}".encode())
        self.unseeded = _shortened(whole)
        """The address of the request without a seed."""

    def of(self, seed: int) -> str:
        """The address of the request with this seed, as `address({**request, "seed": seed})` gives it."""
        whole = self._head.copy()
        whole.update(f"{seed}{self._tail}".encode())
        return _shortened(whole)


_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)


def _shortened(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:40]


class Rollouts:
    """A store in memory, in a folder that several processes may write, or in PostgreSQL.

    Safe to use from several threads. Only finished completions enter: a failed call is asked again next time.
    """

    def __init__(self, storage: str | Path | None = None, *, patience: float = postgres.PATIENCE) -> None:
        """Open or make the store.

        Args:
            storage: a folder for the segments; a PostgreSQL URL (`postgresql://user@host/database`), whose rollouts are
                one store, whatever study they were made for; None keeps everything in memory.
            patience: seconds for which a lost connection to a database is tried again.

        Raises:
            ConfigError: the storage is a URL of another kind.
            MissingExtra: PostgreSQL is asked for and psycopg is not installed.
            StoreError: the folder cannot be made, read or written, the database cannot be used, or either was written
                by another version.
        """
        self.folder: Path | None = None
        self._place: _Place | None = None
        if postgres.is_url(storage):
            self._place = _Table(str(storage), patience)
        elif "://" in str(storage):
            raise ConfigError(
                f'`Rollouts({postgres.shown(str(storage))!r})`: give a folder, or "postgresql://user@host/database"'
            )
        elif storage is not None:
            self.folder = Path(storage)
            self._place = _Segments(self.folder)
        self._records: dict[str, Rollout] = {}
        self._lock = threading.RLock()
        self._refreshing = threading.Lock()
        self.hits = 0
        self.pending: dict[tuple[str, int], Any] = {}
        """Requests under way, as futures by address, so that programs side by side send equal ones once."""
        self.torn = 0
        """Lines that could not be read, so far."""
        self.refresh()

    def get(self, key: str) -> Rollout | None:
        """The completion at this address, or None. Looks in memory only: `refresh` fetches what others have added."""
        with self._lock:
            found = self._records.get(key)
            self.hits += found is not None
            return found

    @property
    def slow(self) -> bool:
        """Whether `put` waits for another machine; a folder or memory takes less time than a change of threads."""
        return isinstance(self._place, _Table)

    def put(self, rollout: Rollout) -> None:
        """Keep a completion; written before this returns. One that is already there is left as it is.

        Raises StoreError when the disk is full or not writable, or the database stays away. The completion is then
        still kept in memory.
        """
        with self._lock:
            if rollout.key in self._records:
                return
            self._records[rollout.key] = rollout
        if self._place is not None:
            self._place.put(rollout.key, _line(rollout))

    def refresh(self) -> int:
        """Read what other processes have added since the last look. Returns how many records are new."""
        if self._place is None:
            return 0
        new = 0
        with self._refreshing:  # and not the lock: calls go on meanwhile
            for line in self._place.news():
                try:
                    rollout = Rollout.model_validate(json.loads(line))
                except (ValueError, ValidationError, TypeError, RecursionError):
                    self.torn += 1
                    continue
                with self._lock:
                    new += rollout.key not in self._records
                    self._records.setdefault(rollout.key, rollout)
        return new

    def close(self) -> None:
        """Let go of files and connections; the store can be used on, which opens others."""
        if self._place is not None:
            self._place.close()

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


def _line(rollout: Rollout) -> bytes:
    """A record as one line of JSON."""
    try:
        return rollout.model_dump_json(exclude_defaults=True).encode() + b"\n"
    except ValueError:  # half of a surrogate pair, which UTF-8 cannot hold
        return json.dumps(rollout.model_dump(exclude_defaults=True)).encode() + b"\n"


class _Place(Protocol):
    """Where records are kept beyond this process."""

    def put(self, key: str, line: bytes) -> None:
        """Returns when it is written."""
        ...

    def news(self) -> Iterator[bytes]:
        """The records that others added since the last time."""
        ...

    def close(self) -> None: ...


class _Segments:
    """A folder of append-only files, of which this process writes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segment: IO[bytes] | None = None
        self._read: dict[str, int] = {}
        self._own: set[str] = set()
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"`Rollouts({str(folder)!r})` cannot be made: {error.strerror}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(f"`Rollouts({str(folder)!r})` cannot be written; choose another folder")

    def put(self, key: str, line: bytes) -> None:
        del key
        with self._lock:
            try:
                if self._segment is None:
                    path = self.folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
                    self._own.add(path.name)  # never read back
                    self._segment = path.open("ab", buffering=0)
                    _write(self._segment, json.dumps({"rollouts": VERSION}).encode() + b"\n")
                _write(self._segment, line)
            except OSError as error:
                if self._segment is not None:
                    with suppress(OSError):
                        self._segment.close()
                self._segment = None  # a torn line may be at its end: the next write opens a new segment
                raise StoreError(f"the rollout store {self.folder} cannot be written: {error.strerror}") from error

    def news(self) -> Iterator[bytes]:
        try:
            with os.scandir(self.folder) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(".jsonl")}
        except OSError as error:
            raise StoreError(f"the rollout store {self.folder} cannot be read: {error.strerror}") from error
        for name in sorted(sizes.keys() - self._own):
            start = self._read.get(name, 0)
            if sizes[name] != start:
                yield from self._read_from(self.folder / name, start)

    def _read_from(self, path: Path, start: int) -> Iterator[bytes]:
        """The whole lines of `path` from byte `start`; the next look begins behind them."""
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read()
        except OSError as error:
            raise StoreError(f"the rollout segment {path} cannot be read: {error.strerror}") from error
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].splitlines()
        if lines and start == 0 and (version := _version(lines[0])) is not None:
            if version != VERSION:
                raise StoreError(
                    f"{path} is a rollout segment of version {version}, this library reads {VERSION}; use another run "
                    "folder"
                )
            del lines[0]
        self._read[path.name] = start + whole
        yield from lines

    def close(self) -> None:
        with self._lock:
            if self._segment is not None:
                self._segment.close()
                self._segment = None


def _write(file: IO[bytes], data: bytes) -> None:
    """Write all of `data`: an unbuffered file takes only a part of it when the disk fills up, without an error."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _version(line: bytes) -> Any:
    """What the first line of a segment says; None when that is a record."""
    try:
        return json.loads(line).get("rollouts")
    except (ValueError, AttributeError, RecursionError):
        return None


class _Table:
    """The rollouts of a PostgreSQL database."""

    def __init__(self, url: str, patience: float) -> None:
        self._database = postgres.Database(url, tables=TABLES, patience=patience)
        self._mark = "0"
        self._lock = threading.Lock()
        self._queue: list[_Waiting] = []
        self._queueing = threading.Lock()

    def put(self, key: str, line: bytes) -> None:
        """Threads that come while another writes are written together, by the first of them."""
        mine = _Waiting(key, line)
        with self._queueing:
            self._queue.append(mine)
        with self._lock:
            if not mine.done:
                with self._queueing:
                    batch, self._queue = self._queue, []
                try:
                    self._write(batch)
                except StoreError as error:
                    for waiting in batch:
                        waiting.error = error
                for waiting in batch:
                    waiting.done = True
        if mine.error is not None:
            raise StoreError(str(mine.error)) from mine.error

    def news(self) -> Iterator[bytes]:
        # Ids of transactions tell what is new; all below the oldest that was running had been seen by then.
        query = (
            "SELECT record, pg_snapshot_xmin(pg_current_snapshot())::text FROM pdr_rollouts WHERE written >= %s::xid8"
        )
        rows = self._database.run(lambda connection: connection.execute(query, (self._mark,)).fetchall())
        for record, mark in rows:
            self._mark = mark
            yield bytes(record)

    def close(self) -> None:
        self._database.close()

    def _write(self, batch: list[_Waiting]) -> None:
        keys, lines = [waiting.key for waiting in batch], [waiting.line for waiting in batch]

        def insert(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
            connection.execute(
                "INSERT INTO pdr_rollouts (key, record) SELECT * FROM unnest(%s::text[], %s::bytea[]) "
                "ON CONFLICT DO NOTHING",
                (keys, lines),
            )

        self._database.run(insert)


class _Waiting:
    """A record on its way into the table."""

    def __init__(self, key: str, line: bytes) -> None:
        self.key = key
        self.line = line
        self.done = False
        self.error: StoreError | None = None
