"""The run folder of an evaluation: what it is of, its finished rows, and the one process at a time that adds to them.

    config.json   what the evaluation is of
    rows.jsonl    a line for each finished row
    texts.jsonl   what was asked and said, for people; see `texts.py`
    rows.lock     held by who is at work
    rollouts/     the calls, where no other store was given

A second process waits until the first has ended, and then runs what is missing: no row is run or paid twice. See
`locks.py` for where that holds.

A damaged line costs its row and nothing else, and that row's calls are in the store. Every row says which evaluation it
is of, so that they can be told from others' when `config.json` is damaged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from pdr_dspy.calls.store import address
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.records import Row, RowsRead, scan_rows
from pdr_dspy.runtime.atomic_write import Lines, write_whole
from pdr_dspy.runtime.differences import difference
from pdr_dspy.runtime.locks import alone

CONFIG = "config.json"
ROWS = "rows.jsonl"
LOCK = "rows.lock"
MAY_CHANGE = "repeats"
"""More repeats of the same evaluation only add rows."""
BLANK = b"\0 \r\n\t"
"""What an emptied file may consist of."""
logger = logging.getLogger("pdr_dspy")


class RunFolder:
    """One evaluation's folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """
        Args:
            folder: need not exist.
            config: what the evaluation is of, as `evaluation.describe` gives it.
        """
        self.folder = folder
        self.config = json.loads(json.dumps(config, default=str))
        self.identity = identity(config)
        """What rows of this evaluation say they are of."""
        self.damaged = 0
        """Lines that were skipped."""
        self._rows = Lines(folder / ROWS)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[dict[tuple[str, int], Row]]:
        """The finished rows by (id, repeat), with nobody else at work in the folder while inside.

        Raises StoreError when the folder is of another evaluation or cannot be used, or when the caller is itself
        inside an evaluation in it.
        """
        async with AsyncExitStack() as life:
            try:
                self._check()  # before there is a lock in a folder of somebody else
                self.folder.mkdir(parents=True, exist_ok=True)
                await life.enter_async_context(alone(self.folder / LOCK, on_wait=logger.warning))
                life.callback(self._close)
                self._rows.mend()
                finished = self._begin()
            except OSError as error:
                raise StoreError(f"`run_dir={str(self.folder)!r}` cannot be used: {error.strerror or error}") from error
            yield finished

    def keep(self, row: Row) -> None:
        """Append a finished row. It outlives the process at once, and the machine within `files.SYNC_SECONDS`.

        Raises StoreError.
        """
        line = row.model_dump_json(exclude_defaults=True).encode("utf-8", "backslashreplace")
        try:
            self._rows.append(line)
        except OSError as error:
            raise self._full(error) from error

    def _close(self) -> None:
        try:
            self._rows.close()
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._rows.path} cannot be written: {error.strerror or error}; finished rows are kept, the same command "
            "goes on from them"
        )

    def _begin(self) -> dict[tuple[str, int], Row]:
        self._check()
        before = read_config(self.folder)
        read = scan_rows(self.folder / ROWS)
        own = {key: row for key, row in read.rows.items() if row.evaluation == self.identity}
        unnamed = {key: row for key, row in read.rows.items() if not row.evaluation}  # of an earlier version
        if before is None or before:
            own = {**unnamed, **own}
        if not own:
            self._check_foreign(before, read)
        self.damaged = read.damaged + len(read.rows) - len(own)
        if before == {}:
            logger.warning(
                "%s was damaged and is written again; %d rows say that they are of this evaluation",
                *(self.folder / CONFIG, len(own)),
            )
        if self.damaged:
            logger.warning(
                "%s: skipped %d line%s that could not be read; what is missing is run again",
                *(self.folder / ROWS, self.damaged, "s" * (self.damaged > 1)),
            )
        if before != self.config:
            write_whole(self.folder / CONFIG, json.dumps(self.config, indent=1))
        return own

    def _check(self) -> None:
        check_config(self.folder, self.config, named=f"`run_dir={str(self.folder)!r}`")

    def _check_foreign(self, before: Mapping[str, Any] | None, read: RowsRead) -> None:
        """Refuse what is not ours: no line may be added to it, and it may not be replaced."""
        path = self.folder / ROWS
        if read.foreign is not None:
            raise StoreError(f"{path}, line {read.foreign}, is not a row of this version; use another folder")
        if not before and (read.rows or read.damaged):
            what = "is missing" if before is None else "is damaged"
            raise StoreError(
                f"{self.folder / CONFIG} {what} and no row of {path} says that it is of this evaluation; use another "
                "folder, or move that file away: what its rows asked for is in the rollouts and not paid again"
            )


def identity(config: Mapping[str, Any]) -> str:
    """What rows of an evaluation say they are of: a digest of its description, without what may change."""
    return address({key: value for key, value in config.items() if key != MAY_CHANGE})[:16]


def read_config(folder: Path) -> dict[str, Any] | None:
    """What `folder` says its evaluation is of: None where it says nothing, {} where that cannot be read.

    Raises OSError.
    """
    try:
        raw = (folder / CONFIG).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def check_config(folder: Path, now: Mapping[str, Any], *, named: str) -> None:
    """Raise StoreError when a folder is of another evaluation, naming what differs; OSError when it cannot be read.

    Args:
        folder: need not exist.
        now: what its evaluation must be of, as far as that is known.
        named: what a sentence calls the folder.
    """
    before = read_config(folder)
    if before is None:
        return
    if not before:  # what is damaged is told from the rows, as far as it is ours
        if (folder / CONFIG).read_bytes().strip(BLANK) not in (b"", b"{}") and not _is_ours(folder):
            raise StoreError(f"{folder / CONFIG} is not the record of an evaluation; use another folder")
        return
    now = json.loads(json.dumps(now, default=str))
    changed = [key for key in now if key != MAY_CHANGE and before.get(key) != now[key]]
    if changed:
        raise StoreError(
            f"{named} holds another evaluation: {difference(changed[0], before.get(changed[0]), now[changed[0]])}; use "
            "another folder, or the same arguments to go on"
        )


def _is_ours(folder: Path) -> bool:
    """Whether an evaluation was begun here, by what else there is."""
    return (folder / ROWS).exists() or (folder / "rollouts").is_dir()
