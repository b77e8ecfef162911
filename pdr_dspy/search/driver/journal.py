"""The journal of a search: what is finished, one line each, written by the one process that drives the search.

    journal.jsonl   the search's description, then a line for each finished step
    journal.lock    held by the driver

The first line describes the search. Each further line is a JSON object with the name of a step (`entry`) and its result
(`value`), and is written once. When `put` returns, the entry survives the end of the process, and a crash of the
machine after `atomic_write.SYNC_SECONDS`. A kill or a full disk can leave half a line, whose `put` never returned; it
is ended with a newline when the journal is next opened. A line that cannot be read is skipped and counted: what it held
is measured again, from calls in the rollout store. Nothing is ever removed from the file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from pdr_dspy.errors import StoreError
from pdr_dspy.runtime.atomic_write import Lines, whole_lines, write_whole
from pdr_dspy.runtime.locks import Lock

VERSION = 1
JOURNAL = "journal.jsonl"
LOCK = "journal.lock"
logger = logging.getLogger("pdr_dspy.search")


class Journal:
    """Results of finished steps by the steps' names, in a run folder or in memory. For one thread at a time."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        """A journal in memory; `open_journal` and `read_journal` make those of folders."""
        self.description = description
        """The description of the search, as JSON data."""
        self.damaged = 0
        """Lines that could not be read."""
        self._texts: dict[str, str] = {}
        """Entries in memory."""
        self._path: Path | None = None
        self._lines: Lines | None = None
        """The file if this process may write it."""
        self._places: dict[str, int] = {}
        """Offset of each entry's line in the file, in bytes."""
        self._life = ExitStack()

    def __contains__(self, name: str) -> bool:
        return name in self._texts or name in self._places

    def names(self, prefix: str = "") -> list[str]:
        """The names that start with `prefix`, in the order in which they were written."""
        return [name for known in (self._places, self._texts) for name in known if name.startswith(prefix)]

    def get(self, name: str) -> str | None:
        """The result of a step as JSON; None if it is not finished. Raises StoreError if the file cannot be read."""
        if self._path is None or name not in self._places:
            return self._texts.get(name)
        try:
            with self._path.open("rb") as file:
                file.seek(self._places[name])
                line = file.readline().rstrip(b"\n")
        except OSError as error:
            raise _unusable(self._path, "cannot be read", error) from error
        return line[len(_head(name)) : -1].decode("utf-8", "replace")

    def put(self, name: str, value: str) -> None:
        """Keep the result of a step, as JSON in one line. A name has one result: a second one is a ValueError.

        Raises StoreError if the disk is full or the file is gone; finished entries are kept.
        """
        if name in self:
            raise ValueError(f"the journal has an entry {name!r}")
        if self._path is None:
            self._texts[name] = value
            return
        if self._lines is None:
            raise ValueError(f"the journal {self._path} is closed, or was opened to be read")
        try:
            self._places[name] = self._lines.append(_head(name) + value.encode() + b"}")
        except OSError as error:
            raise _unusable(self._path, "cannot be written", error) from error

    def close(self) -> None:
        """Sync and close the file, and release its lock. Further calls do nothing. Raises StoreError."""
        self._lines = None
        try:
            self._life.close()
        except OSError as error:
            assert self._path is not None
            raise _unusable(self._path, "cannot be written", error) from error

    def _find(self, path: Path) -> None:
        """Find the entries of a file."""
        self._path = path
        lines = whole_lines(path)
        next(lines)  # the header
        for place, line in lines:
            name = _name(line)
            if name is None:
                self.damaged += 1
            else:
                self._places.setdefault(name, place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_journal(folder: Path | None, description: Mapping[str, Any]) -> Journal:
    """The journal of a run folder, for its one driver; created if there is none.

    Args:
        folder: the run folder, which need not exist; None for a journal in memory.
        description: of the search, as JSON data; the header of a new journal. An existing one keeps its own.

    Raises StoreError if another process drives the search, or the folder or the journal cannot be used.
    """
    if folder is None:
        return Journal(description)
    path = folder / JOURNAL
    with ExitStack() as life:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            life.enter_context(_locked(folder))
            if not path.exists():
                write_whole(path, json.dumps({"journal": VERSION, "search": description}) + "\n")
            journal = Journal(_header(path))
            lines = Lines(path, replaceable=False)
            life.callback(lines.close)
            lines.mend()
            journal._find(path)
        except OSError as error:
            raise _unusable(error.filename or path, "cannot be used", error) from error
        journal._lines, journal._life = lines, life.pop_all()
    if journal.damaged:
        logger.warning(
            "%s: skipped %d line%s that could not be read; what is missing is measured again, from stored calls",
            *(path, journal.damaged, "s" * (journal.damaged > 1)),
        )
    return journal


def check_not_driven(folder: Path) -> None:
    """Raise StoreError, as `open_journal` does, if another process drives the search of a folder; it need not exist."""
    if (folder / LOCK).exists():
        with suppress(OSError), _locked(folder):
            pass


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder's driver. Raises StoreError if another process does; OSError."""
    with Lock(folder / LOCK) as lock:
        if not lock.acquire():
            raise StoreError(
                f"the search in {folder} is driven by {lock.holder() or 'another process'}: wait for its end or stop "
                "it, then the same command resumes; to search on several machines give the one driver a Ray cluster "
                "(`--ray`, `executor=RayExecutor(...)`)"
            )
        yield


def read_journal(folder: Path) -> Journal | None:
    """The journal of a run folder as it is now, also while a driver writes it; None if there is none. Writes nothing.

    Raises StoreError if it cannot be read.
    """
    path = folder / JOURNAL
    try:
        journal = Journal(_header(path))
        journal._find(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, "cannot be read", error) from error
    return journal


def _header(path: Path) -> Mapping[str, Any]:
    """The description in the first line. Raises StoreError, OSError."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        header = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("search"), dict) or "journal" not in header:
        raise StoreError(
            f"{path} {'is not the journal of a search' if line else 'is empty'}, so it cannot be checked which search "
            "its folder holds; remove it to begin again (calls in the store are not paid again), or use another "
            "`run_dir`"
        )
    if header["journal"] != VERSION:
        raise StoreError(f"{path} has version {header['journal']!r}, this library reads {VERSION}")
    return header["search"]


def _head(name: str) -> bytes:
    return b'{"entry": ' + json.dumps(name).encode() + b', "value": '


def _name(line: bytes) -> str | None:
    """The name of a whole line's entry; None if the line is damaged."""
    try:
        name = json.loads(line)["entry"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) and line.startswith(_head(name)) else None


def _unusable(place: str | Path, what: str, error: OSError) -> StoreError:
    return StoreError(f"the journal {place} {what}: {error.strerror or error}; what is finished is kept")
