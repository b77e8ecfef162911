"""A board in PostgreSQL, for workers on any number of machines.

A claim is a lease on the server's clock, which a thread renews three times per lease. A worker that dies stops
renewing, and the document is free again when the lease has expired; a worker that was disconnected long enough to lose
a lease finds `lost` set on its claim. LISTEN and NOTIFY announce new documents to waiting workers.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, LiteralString, Self

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.runtime.postgres import PATIENCE, Database, Tables
from pdr_dspy.search.workers.documents import Claim, Documents, check_name

if TYPE_CHECKING:
    import psycopg

LEASE = 30.0
TABLES = Tables(
    "documents",
    1,
    (
        # Content is bytes: PostgreSQL's own text holds no NUL. `written` identifies new documents, see `_read_new`.
        """CREATE TABLE IF NOT EXISTS pdr_documents (
            study text, name text, content bytea NOT NULL, written xid8 NOT NULL DEFAULT pg_current_xact_id(),
            PRIMARY KEY (study, name))""",
        "CREATE INDEX IF NOT EXISTS pdr_documents_written ON pdr_documents (study, written)",
        """CREATE TABLE IF NOT EXISTS pdr_claims (
            study text, name text, holder text NOT NULL, expires timestamptz NOT NULL, PRIMARY KEY (study, name))""",
    ),
)
_PUT: LiteralString = """
    WITH added AS (
        INSERT INTO pdr_documents (study, name, content) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1)
    SELECT pg_notify(%s, '') FROM added"""
_CLAIM: LiteralString = """
    INSERT INTO pdr_claims AS held (study, name, holder, expires)
    VALUES (%(study)s, %(name)s, %(holder)s, clock_timestamp() + %(lease)s * interval '1 second')
    ON CONFLICT (study, name) DO UPDATE SET holder = excluded.holder, expires = excluded.expires
    WHERE held.expires < clock_timestamp() OR held.holder = excluded.holder
    RETURNING 1"""
_RENEW: LiteralString = """
    UPDATE pdr_claims SET expires = clock_timestamp() + %s * interval '1 second'
    WHERE study = %s AND holder = ANY(%s) RETURNING holder"""
_RELEASE: LiteralString = """
    WITH gone AS (DELETE FROM pdr_claims WHERE study = %s AND holder = ANY(%s) RETURNING 1)
    SELECT pg_notify(%s, '') FROM gone"""
_NEXT_EXPIRY: LiteralString = """
    SELECT extract(epoch FROM min(expires) - clock_timestamp()) FROM pdr_claims
    WHERE study = %s AND NOT holder = ANY(%s)"""


class PostgresBoard:
    """A board in PostgreSQL. See `coordination.Board`."""

    def __init__(self, url: str, study: str, *, lease: float = LEASE, patience: float = PATIENCE) -> None:
        """Connect, and create missing tables.

        Args:
            url: `postgresql://user:password@host:port/database`, or the same with `postgresql+psycopg`.
            study: distinguishes the documents of studies in one database.
            lease: seconds after which a silent worker loses its claims.
            patience: seconds for which a lost connection is retried.

        Raises:
            ConfigError: the URL cannot be read, or `lease` is not above 0.
            MissingExtra: psycopg is not installed.
            StoreError: the server does not answer, refuses, or has tables of another version.
        """
        if not lease > 0:
            raise ConfigError(f"`lease={lease!r}` must be above 0 s")
        self.study = check_name(study)
        self.lease = lease
        self._database = Database(url, tables=TABLES, patience=patience)
        self._ears: Database | None = None
        self._heard: Any = None
        self._channel = f"pdr_{hashlib.sha256(study.encode()).hexdigest()[:16]}"
        self._documents = Documents()
        self._mark = "0"
        self._lock = threading.RLock()
        self._listening = threading.Lock()
        self._deadlines: dict[str, float] = {}
        """For the held claims, by holder: when they may have expired, on this process's clock."""
        self._closed = threading.Event()
        self._renewer: threading.Thread | None = None
        self._process = os.getpid()

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
        """See `coordination.Board`."""
        check_name(name)
        values = (self.study, name, text.encode("utf-8", "surrogatepass"), self._channel)

        def write(connection: psycopg.Connection[tuple[Any, ...]]) -> str:
            if connection.execute(_PUT, values).fetchone() is not None:
                return text
            query: LiteralString = "SELECT content FROM pdr_documents WHERE study = %s AND name = %s"
            found = connection.execute(query, values[:2]).fetchone()
            if found is None:
                raise StoreError(f"the document {name!r} was removed from {self._database.name} while it was in use")
            return _text(found[0])

        there = self._database.run(write)
        with self._lock:
            return self._documents.add(name, there)

    def claim(self, name: str) -> Claim | None:
        """See `coordination.Board`."""
        if self.get(check_name(name)) is not None:
            return None
        holder = f"{socket.gethostname()}|{os.getpid()}|{uuid.uuid4().hex}"
        values = {"study": self.study, "name": name, "holder": holder, "lease": self.lease}

        def write(connection: psycopg.Connection[tuple[Any, ...]]) -> float | None:
            sent = time.monotonic()
            return sent if connection.execute(_CLAIM, values).fetchone() is not None else None

        sent = self._database.run(write)
        if sent is None:
            return None
        with self._lock:
            self._forget_parent()
            self._deadlines[holder] = sent + self.lease
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="pdr-leases", daemon=True)
                self._renewer.start()
        claim = Claim(name, release=lambda: self._release([holder]), lost=lambda: self._is_lost(holder))
        if self.get(name) is not None:  # put just before its worker released the claim
            claim.release()
            return None
        return claim

    def wait(self, seconds: float) -> None:
        """See `coordination.Board`. Also returns when the lease of another worker may have expired."""
        if not self._listening.acquire(timeout=seconds):
            return
        try:
            if self._ears is None:
                self._ears = Database(self._database.url, patience=self._database.patience)

            def listen(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
                if self._heard is not connection:
                    connection.execute(f'LISTEN "{self._channel}"'.encode())
                    self._heard = connection
                    return  # a document may have been put before
                row = connection.execute(_NEXT_EXPIRY, (self.study, list(self._deadlines))).fetchone()
                left = seconds if row is None or row[0] is None else min(seconds, max(0.01, float(row[0])))
                for _ in connection.notifies(timeout=left, stop_after=1):
                    pass
                for _ in connection.notifies(timeout=0):  # further notifications are redundant
                    pass

            self._ears.run(listen)
        finally:
            self._listening.release()

    def close(self) -> None:
        """See `coordination.Board`."""
        self._closed.set()
        with self._lock:
            self._forget_parent()
            holders, renewer = list(self._deadlines), self._renewer
        if holders:
            self._release(holders)
        if renewer is not None:
            renewer.join()
        self._database.close()
        if self._ears is not None:
            self._ears.close()

    def _read_new(self) -> None:
        """Read the documents written since the last read.

        Transactions commit in any order, so new documents are identified by transaction ids and not by a counter: all
        ids below the oldest one running at the last read were read then.
        """
        query: LiteralString = """
            SELECT name, content, pg_snapshot_xmin(pg_current_snapshot())::text FROM pdr_documents
            WHERE study = %s AND written >= %s::xid8"""
        rows = self._database.run(lambda connection: connection.execute(query, (self.study, self._mark)).fetchall())
        for name, content, mark in rows:
            self._documents.add(name, _text(content))
            self._mark = mark

    def _renew(self) -> None:
        """In a separate thread: renew the held leases."""
        while not self._closed.wait(self.lease / 3):
            with self._lock:
                holders = list(self._deadlines)
            if not holders:
                continue
            sent = time.monotonic()
            values = (self.lease, self.study, holders)
            try:
                rows = self._database.run(lambda connection: connection.execute(_RENEW, values).fetchall())  # noqa: B023
            except StoreError:
                continue  # the leases expire, and the claims are lost
            kept = {holder for (holder,) in rows}
            with self._lock:
                for holder in holders:
                    if holder in self._deadlines:
                        self._deadlines[holder] = sent + self.lease if holder in kept else 0.0

    def _is_lost(self, holder: str) -> bool:
        return time.monotonic() >= self._deadlines.get(holder, 0.0)

    def _release(self, holders: list[str]) -> None:
        with self._lock:
            for holder in holders:
                self._deadlines.pop(holder, None)
        values = (self.study, holders, self._channel)
        with suppress(StoreError):  # the server is unreachable: the lease expires by itself
            self._database.run(lambda connection: connection.execute(_RELEASE, values))

    def _forget_parent(self) -> None:
        """In a forked process: forget the parent's claims and thread."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._deadlines.clear()
            self._renewer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _text(content: bytes) -> str:
    return bytes(content).decode("utf-8", "surrogatepass")
