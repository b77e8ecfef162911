"""One connection to PostgreSQL: opened on first use, reopened when lost, never shown with its password.

Needs PostgreSQL 13 or newer.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from urllib.parse import parse_qsl, unquote

from pdr_dspy.errors import ConfigError, MissingExtra, StoreError

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
PATIENCE = 30.0
"""Seconds for which a lost connection is retried."""
OLDEST = 130_000
"""The first server version with `xid8`, as libpq counts versions."""
TIMES = {"connect_timeout": "10", "keepalives_idle": "20", "keepalives_interval": "5", "tcp_user_timeout": "30000"}
"""Timeouts that detect a silently lost server within half a minute. The same names in a URL override them."""


class Tables(NamedTuple):
    """The tables of one part of the library, with the version of their layout."""

    name: str
    version: int
    statements: tuple[str, ...]
    """SQL statements that create the tables; each does nothing to tables that exist."""


def is_url(storage: object) -> bool:
    """Whether `storage` is the URL of a PostgreSQL database, in libpq's or SQLAlchemy's spelling."""
    return isinstance(storage, str) and storage.partition("://")[0] in SCHEMES and "://" in storage


def libpq_url(url: str) -> str:
    """The URL as psycopg and psql take it."""
    return f"postgresql://{_after_scheme(url)}"


def sqlalchemy_url(url: str) -> str:
    """The URL as `optuna.storages.RDBStorage` takes it, with the driver that this library installs."""
    return f"postgresql+psycopg://{_after_scheme(url)}"


def shown(url: str) -> str:
    """The URL without its password, for messages; any other text is returned unchanged."""
    if "://" not in url:
        return url
    scheme = url.partition("://")[0]
    secret, user, place, query = _parts(url)
    if secret is None:
        return f"{scheme}://..."
    kept = [part for part in query.split("&") if part and "pass" not in part.partition("=")[0].lower()]
    return f"{scheme}://{user}{'@' if user else ''}{place}{'?' if kept else ''}{'&'.join(kept)}"


def _parts(url: str) -> tuple[str | None, str, str, str]:
    """Password, user, place and query of a URL, as they are written; the password is None if it cannot be located."""
    base, _, query = url.partition("://")[2].partition("?")
    before, at, place = base.rpartition("@")
    user, _, password = before.partition(":")
    if "/" in before or ("@" in query and not at):  # a password with special characters, or none
        return None, "", "", ""
    return password, user, place, query


def _after_scheme(url: str) -> str:
    if not is_url(url):
        raise ConfigError(f'`storage={shown(url)!r}` is no PostgreSQL URL; write "postgresql://user@host/database"')
    return url.partition("://")[2]


class Database:
    """A connection in autocommit mode. Threads take turns with it; a forked process opens a connection of its own."""

    def __init__(self, url: str, *, tables: Tables | None = None, patience: float = PATIENCE) -> None:
        """Connect, and create missing tables.

        Args:
            url: `postgresql://user:password@host:port/database`, or the same with `postgresql+psycopg`.
            tables: the tables to create if they are missing.
            patience: seconds for which a lost connection is retried.

        Raises:
            ConfigError: the URL cannot be read.
            MissingExtra: psycopg is not installed.
            StoreError: the server does not answer, refuses, is older than PostgreSQL 13, or has the tables of another
                version.
        """
        self.url = libpq_url(url)
        self.name = shown(self.url)
        self.patience = patience
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._process = os.getpid()
        self._forgotten: list[Any] = []
        psycopg = import_psycopg()
        try:
            if _parts(self.url)[0] is None:
                raise psycopg.ProgrammingError
            self._settings = {"application_name": "pdr-dspy", **TIMES, **psycopg.conninfo.conninfo_to_dict(self.url)}
        except psycopg.Error:  # its text has the whole URL
            raise ConfigError(
                f'`storage={self.name!r}` cannot be read; write "postgresql://user@host:port/database", with %-escapes '
                "for special characters"
            ) from None
        with self._lock:
            try:
                connection = self._connected()
                if connection.info.server_version < OLDEST:
                    raise StoreError(f"{self.name} is PostgreSQL {connection.info.server_version // 10_000}; needs 13")
                if tables is not None:
                    self._check(connection, tables)
            except psycopg.Error as error:
                self.close()
                raise self._store_error("cannot be used", error) from None
            except StoreError:
                self.close()
                raise

    def run(self, work: Callable[[psycopg.Connection[tuple[Any, ...]]], T]) -> T:
        """Call `work` with the connection. It is called again if the connection is lost meanwhile, so it must be
        idempotent.

        Raises StoreError when the connection does not come back, or for any other error of the database.
        """
        psycopg = import_psycopg()
        end: float | None = None
        pause = 0.05
        with self._lock:
            while True:
                try:
                    return work(self._connected())
                except psycopg.Error as error:
                    if self._connection is not None and not self._connection.closed:
                        raise self._store_error("refused", error) from None
                    end = time.monotonic() + self.patience if end is None else end
                    if time.monotonic() + pause > end:
                        raise self._store_error(f"did not come back within {self.patience:g} s", error) from None
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def close(self) -> None:
        """Close the connection. A later `run` opens another."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._process == os.getpid():
                with suppress(import_psycopg().Error):
                    connection.close()

    def _check(self, connection: psycopg.Connection[tuple[Any, ...]], tables: Tables) -> None:
        """Create the tables if they are missing; a user may lack the right to create any. Check their version."""
        found = _version(connection, tables.name)
        if found is None:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(725001202)")  # CREATE ... IF NOT EXISTS can race
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS pdr_versions (name text PRIMARY KEY, version integer NOT NULL)"
                )
                for statement in tables.statements:
                    connection.execute(statement.encode())
                connection.execute("INSERT INTO pdr_versions VALUES (%s, %s) ON CONFLICT DO NOTHING", tables[:2])
            found = _version(connection, tables.name)
        if found != tables.version:
            raise StoreError(
                f"the {tables.name} in {self.name} are of version {found}, this library reads {tables.version}; "
                "use another database"
            )

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._process != os.getpid():  # the parent's connection: closing it here would end the parent's session
            self._process = os.getpid()
            self._forgotten.append(self._connection)
            self._connection = None
        if self._connection is None or self._connection.closed:
            self._connection = import_psycopg().connect(autocommit=True, **self._settings)
        assert self._connection is not None
        return self._connection

    def _store_error(self, what: str, error: Exception) -> StoreError:
        text = " ".join(str(error).split())
        for secret in _secrets(self.url):
            text = text.replace(secret, "***")
        return StoreError(f"the database {self.name} {what}: {text}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def import_psycopg() -> Any:
    """Import the driver. Raises MissingExtra."""
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        raise MissingExtra("psycopg", "postgres", "a PostgreSQL `storage`") from error
    return psycopg


def _version(connection: psycopg.Connection[tuple[Any, ...]], name: str) -> int | None:
    row = connection.execute("SELECT to_regclass('pdr_versions') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return None
    row = connection.execute("SELECT version FROM pdr_versions WHERE name = %s", (name,)).fetchone()
    return None if row is None else row[0]


def _secrets(url: str) -> list[str]:
    """The password of a URL in each spelling that an error message may contain."""
    password, _, _, query = _parts(url)
    found = [password, *(value for key, value in parse_qsl(query) if "pass" in key.lower())]
    return [secret for text in found if text for secret in {text, unquote(text)}]
