"""The board that the workers of one search share: named documents that are written once, and claims on future ones.

Every worker runs the same deterministic search. The next piece of information that it needs is a document; the worker
that claims it first computes it, the others read it. A document never changes once it is written, so the outcome does
not depend on the number of workers, on their division of work, or on how many died.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol, Self

from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime import postgres
from pdr_dspy.search.workers.documents import Claim, Documents, check_name
from pdr_dspy.search.workers.folder import FolderBoard
from pdr_dspy.search.workers.postgres import PostgresBoard

__all__ = ["Board", "Claim", "FolderBoard", "MemoryBoard", "PostgresBoard", "open_board"]


class Board(Protocol):
    """Thread-safe. Every method raises StoreError if the storage cannot be read or written."""

    def get(self, name: str) -> str | None:
        """The document of this name; None if there is none."""
        ...

    def read(self, prefix: str) -> dict[str, str]:
        """All documents whose names start with `prefix`, in the order of their names. Only new ones are fetched."""
        ...

    def put(self, name: str, text: str) -> str:
        """Write a document; it is durable once this returns.

        Returns the document on the board: the text of the first writer, which may be another worker's. Raises
        ConfigError for a name that is empty, longer than 200 characters or not printable.
        """
        ...

    def claim(self, name: str) -> Claim | None:
        """The right to compute a document; None while a live worker holds it, or if the document exists."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after at most `seconds`, earlier if something may have changed."""
        ...

    def close(self) -> None:
        """Release all claims, and close files and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_board(storage: str | Path | None, *, study: str) -> Board:
    """Open or create the board of a study.

    Args:
        storage: None for a board in memory; a folder, for workers on one machine; or a PostgreSQL URL
            (`postgresql://user@host/database`, also spelt `postgresql+psycopg://`), for workers anywhere.
        study: distinguishes studies in one storage.

    Raises:
        ConfigError: the storage is of another kind.
        MissingExtra: the storage is PostgreSQL and psycopg is not installed.
        StoreError: the storage cannot be used.
    """
    if storage is None:
        return MemoryBoard()
    if postgres.is_url(storage):
        return PostgresBoard(str(storage), study)
    if isinstance(storage, (str, Path)) and "://" not in str(storage):
        return FolderBoard(storage, study)
    given = postgres.shown(storage) if isinstance(storage, str) else storage
    raise ConfigError(
        f'`storage={given!r}` cannot be shared by workers; give a folder, or "postgresql://user@host/database"'
    )


def open_existing(storage: str | Path | None, *, study: str) -> Board | None:
    """`open_board` for an existing study; None if there is none, and nothing is created."""
    if storage is None:
        return None
    if "://" not in str(storage) and not FolderBoard.is_at(storage):
        return None
    return open_board(storage, study=study)


class MemoryBoard:
    """For the threads of one process; lost with it."""

    LONGEST_WAIT = 0.5

    def __init__(self) -> None:
        self._documents = Documents()
        self._held: set[str] = set()
        self._changed = threading.Condition()

    def get(self, name: str) -> str | None:
        """See `Board`."""
        with self._changed:
            return self._documents.texts.get(name)

    def read(self, prefix: str) -> dict[str, str]:
        """See `Board`."""
        with self._changed:
            return self._documents.under(prefix)

    def put(self, name: str, text: str) -> str:
        """See `Board`."""
        with self._changed:
            self._changed.notify_all()
            return self._documents.add(check_name(name), text)

    def claim(self, name: str) -> Claim | None:
        """See `Board`."""
        with self._changed:
            if check_name(name) in self._held or name in self._documents.texts:
                return None
            self._held.add(name)
        return Claim(name, release=lambda: self._release(name), lost=lambda: name not in self._held)

    def wait(self, seconds: float) -> None:
        """See `Board`."""
        with self._changed:
            self._changed.wait(min(seconds, self.LONGEST_WAIT))

    def close(self) -> None:
        """See `Board`."""
        with self._changed:
            self._held.clear()

    def _release(self, name: str) -> None:
        with self._changed:
            self._held.discard(name)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
