"""The rollout store: every finished model call, looked up by the content of its request.

The address of a call is the hash of model, messages, sampling settings and seed, so draft i of a question is the same
record in every trial that requests it in the same way: a wider schedule pays only for its new drafts, a killed run
resumes where it was, and a replay sends nothing.

On disk a store is a folder of append-only JSONL segments, one per writing process (`segments`). A line is written
completely before the call counts as finished, and survives the end of the process; a crash of the machine can lose the
calls finished in its last second (`files.SYNC_SECONDS`). A torn or damaged line, wherever it is, is skipped and counted
when it is read. Texts stay on the disk: a process knows the location of each, and reads those it needs.
For machines without a common folder the same records are rows of a PostgreSQL table, of which each keeps a copy.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pdr_dspy.arguments import explained
from pdr_dspy.calls.ledger import FormatFate, Usage
from pdr_dspy.calls.segment_file import VERSION
from pdr_dspy.calls.segments import Segments
from pdr_dspy.calls.spool import Spool
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.runtime import postgres
from pdr_dspy.runtime.atomic_write import local_path

if TYPE_CHECKING:
    import psycopg

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
    """One finished completion, with its cost when it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    text: str
    """The text after any thought."""
    thought: str = ""
    finish: str = "stop"
    usage: Usage = Usage()
    estimated: bool = False
    unsettled: int = 0
    """Earlier tries that the server may have served and counted too."""
    seconds: float = 0.0
    format: FormatFate = ""
    """The fate of the request's output format."""


def address(request: Mapping[str, Any]) -> str:
    """The content address of a request: model, messages, sampling and seed, independent of the order of keys."""
    return _shortened(hashlib.sha256(_CANONICAL.encode(request).encode()))


class Addresses:
    """The addresses of requests that differ only in their seed; the shared part is serialized and hashed once."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        """Take a request without its seed; all keys are strings."""
        before = _CANONICAL.encode({key: value for key, value in request.items() if key < "seed"})[1:-1]
        after = _CANONICAL.encode({key: value for key, value in request.items() if key > "seed"})[1:-1]
        self._head = hashlib.sha256(f'{{{before}{"," * bool(before)}"seed":'.encode())
        self._tail = f",{after}}}" if after else "}"
        whole = hashlib.sha256(f"{{{before}{',' * bool(before and after)}{after}}}".encode())
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

    Thread-safe. Only finished completions are stored: a failed call is sent again next time.
    """

    keeps = True
    """Whether completions can be looked up again."""

    @explained
    def __init__(self, storage: str | Path | None = None, *, patience: float = postgres.PATIENCE) -> None:
        """Open or create the store.

        Args:
            storage: a folder for the segments; a PostgreSQL URL (`postgresql://user@host/database`), whose rollouts
                form one store for all studies; None keeps everything in memory.
            patience: seconds for which a lost database connection is retried.

        Raises:
            ConfigError: the storage is a URL of another kind.
            MissingExtra: the storage is PostgreSQL and psycopg is not installed.
            StoreError: the folder cannot be created, read or written, the database cannot be used, or either was
                written by another version.
        """
        self.storage = storage
        """The storage as given, for other processes that open it too."""
        self.folder: Path | None = None
        self._place: _Backend | None = None
        if postgres.is_url(storage):
            self._place = _Table(str(storage), patience)
        elif "://" in str(storage):
            raise ConfigError(
                f'`Rollouts({postgres.shown(str(storage))!r})`: give a folder, or "postgresql://user@host/database"'
            )
        elif storage is not None:
            self.folder = local_path(storage, "Rollouts(storage")
            self._place = Segments(self.folder, _key_of)
        self._records: dict[str, Rollout] = {}
        """Completions held in memory only: all of them, or those that could not be written."""
        self._lock = threading.RLock()
        self._refreshing = threading.Lock()
        self.hits = 0
        self.pending: dict[tuple[str, int], Any] = {}
        """Pending requests, as futures by address, so that concurrent programs send equal requests once."""
        self.refresh()

    @property
    def torn(self) -> int:
        """Lines so far that could not be read."""
        return 0 if self._place is None else self._place.torn

    def get(self, key: str) -> Rollout | None:
        """The completion at this address, or None. Searches the records known to this process: `refresh` reads those
        that others have added. Raises StoreError when the disk fails."""
        found = self._records.get(key)
        if found is None and self._place is not None:
            line = self._place.find(key)
            found = None if line is None else _rollout(line)
            if line is not None and (found is None or found.key != key):
                self._place.drop(key)
                found = None
        if found is not None:
            with self._lock:
                self.hits += 1
        return found

    @property
    def slow(self) -> bool:
        """Whether `put` waits for another machine; a folder or memory takes less time than a thread switch."""
        return isinstance(self._place, _Table)

    def put(self, rollout: Rollout) -> None:
        """Store a completion; it is written when this returns. An existing one is left unchanged.

        Raises StoreError when the disk is full or not writable, or the database is unreachable. The completion is then
        still held in memory.
        """
        if self._place is None:
            with self._lock:
                self._records.setdefault(rollout.key, rollout)
            return
        try:
            self._place.put(rollout.key, _line(rollout))
        except StoreError:
            if rollout.key not in self._place:
                self._records.setdefault(rollout.key, rollout)
            raise

    def refresh(self) -> int:
        """Read the records that other processes have added since the last call. Returns how many are new."""
        if self._place is None:
            return 0
        with self._refreshing:  # not the lock: calls proceed meanwhile
            return self._place.refresh()

    def sync(self) -> None:
        """Return when everything put here would survive a crash of the machine; without it, that takes a second.

        Raises StoreError when the disk fails.
        """
        if self._place is not None:
            self._place.sync()

    def close(self) -> None:
        """`sync`, and close files and connections; the store opens them again when it is used."""
        if self._place is not None:
            self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._records) + (0 if self._place is None else len(self._place))

    def __contains__(self, key: object) -> bool:
        return key in self._records or (self._place is not None and isinstance(key, str) and key in self._place)

    def __iter__(self) -> Iterator[Rollout]:
        yield from list(self._records.values())
        for line in self._place or ():
            rollout = _rollout(line)
            if rollout is not None:
                yield rollout


def _line(rollout: Rollout) -> bytes:
    """A record as one line of JSON, without its end."""
    try:
        return rollout.model_dump_json(exclude_defaults=True).encode()
    except ValueError:  # a lone surrogate, which UTF-8 cannot encode
        return json.dumps(rollout.model_dump(exclude_defaults=True)).encode()


def _rollout(line: bytes) -> Rollout | None:
    """The record in a line; None if there is none."""
    try:
        return Rollout.model_validate_json(line)
    except ValidationError:
        pass  # or a lone surrogate
    try:
        return Rollout.model_validate(json.loads(line))
    except (ValueError, ValidationError, TypeError, RecursionError):
        return None


def _key_of(line: bytes) -> str | None:
    rollout = _rollout(line)
    return None if rollout is None else rollout.key


class _Backend(Protocol):
    """A storage of records outside this process's memory, as lines by key."""

    torn: int
    """Lines so far that were not records."""

    def find(self, key: str) -> bytes | None:
        """The line of a record known to this process; None if it is unknown."""
        ...

    def drop(self, key: str) -> None:
        """Forget a line that is not a record."""
        ...

    def put(self, key: str, line: bytes) -> None:
        """Return when the line is written; do nothing if the key is known."""
        ...

    def refresh(self) -> int:
        """Read the records that others added; return how many are new."""
        ...

    def sync(self) -> None: ...

    def close(self) -> None: ...

    def __len__(self) -> int: ...

    def __contains__(self, key: str) -> bool: ...

    def __iter__(self) -> Iterator[bytes]: ...


FETCHED = 500
"""Rows fetched from the table at a time."""


class _Table:
    """The rollouts of a PostgreSQL database, with a copy of the known ones on the local disk."""

    def __init__(self, url: str, patience: float) -> None:
        self.torn = 0
        self._database = postgres.Database(url, tables=TABLES, patience=patience)
        self._mark = "0"
        self._writing = threading.Lock()
        self._queue: list[_Waiting] = []
        self._queueing = threading.Lock()
        self._lock = threading.Lock()
        """Guards the local copy."""
        try:
            self._known = Spool()
        except OSError as error:
            self._fail(error)

    def find(self, key: str) -> bytes | None:
        try:
            with self._lock:
                return self._known.find(key)
        except OSError as error:
            self._fail(error)

    def drop(self, key: str) -> None:
        """Nothing to do: a database returns rows as they were written."""

    def put(self, key: str, line: bytes) -> None:
        """Records of threads that arrive during a write are written together, by the first of these threads."""
        if not self._keep(key, line):
            return
        mine = _Waiting(key, line)
        with self._queueing:
            self._queue.append(mine)
        with self._writing:
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

    def refresh(self) -> int:
        # New rows have newer transaction ids; every row below the oldest transaction then running was already read.
        query = (
            "SELECT record, pg_snapshot_xmin(pg_current_snapshot())::text FROM pdr_rollouts WHERE written >= %s::xid8"
        )
        new = 0

        def read(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
            nonlocal new
            mark = self._mark
            with connection.transaction(), connection.cursor("pdr_news") as cursor:  # not all rows at a time
                cursor.execute(query, (mark,))
                while rows := cursor.fetchmany(FETCHED):
                    for record, _ in rows:
                        line = bytes(record).rstrip(b"\n")
                        key = _key_of(line)
                        self.torn += key is None
                        new += key is not None and self._keep(key, line)
                    mark = rows[-1][1]
            self._mark = mark

        self._database.run(read)
        return new

    def sync(self) -> None:
        """A row is on the server's disk when `put` returns."""

    def close(self) -> None:
        self._database.close()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._known

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._known)

    def _keep(self, key: str, line: bytes) -> bool:
        """Add a record to the local copy; return False if it is there."""
        try:
            with self._lock:
                if self._known.renewed():
                    self._mark = "0"
                return self._known.add(key, line)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> NoReturn:
        raise StoreError(
            f"the temporary copy of the rollouts cannot be used: {error.strerror or error}; set TMPDIR to a folder "
            "with more space"
        ) from error

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
    """A record waiting to be written to the table."""

    def __init__(self, key: str, line: bytes) -> None:
        self.key = key
        self.line = line
        self.done = False
        self.error: StoreError | None = None
