"""The run folder of an evaluation: its description, its finished rows, and a lock for the one process that adds rows.

    config.json   the evaluation's description
    rows.jsonl    a line for each finished row
    texts.jsonl   questions and replies, for people; see `texts.py`
    rows.lock     held by the working process
    rollouts/     the calls, if no other store was given

A second process waits until the first has ended, and then runs the missing rows: no row is run or paid for twice. See
`locks.py` for the file systems on which that holds.

A damaged line loses only its row, and that row's calls are in the store. Every row names its evaluation, so that rows
can be attributed when `config.json` is damaged.
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
"""Fields that may change: more repeats of the same evaluation only add rows."""
BLANK = b"\0 \r\n\t"
"""The bytes of a file that was truncated to nothing."""
logger = logging.getLogger("pdr_dspy")


class RunFolder:
    """One evaluation's folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """
        Args:
            folder: need not exist.
            config: the description of the evaluation, as `evaluation.describe` returns it.
        """
        self.folder = folder
        self.config = json.loads(json.dumps(config, default=str))
        self.identity = identity(config)
        """The digest in rows of this evaluation."""
        self.damaged = 0
        """Skipped lines."""
        self._rows = Lines(folder / ROWS)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[dict[tuple[str, int], Row]]:
        """The finished rows by (id, repeat); no other process works in the folder inside this context.

        Raises StoreError if the folder belongs to another evaluation or cannot be used, or if the caller is itself
        inside an evaluation in it.
        """
        async with AsyncExitStack() as life:
            try:
                self._check()  # before a lock file is created in another evaluation's folder
                self.folder.mkdir(parents=True, exist_ok=True)
                await life.enter_async_context(alone(self.folder / LOCK, on_wait=logger.warning))
                life.callback(self._close)
                self._rows.mend()
                finished = self._begin()
            except OSError as error:
                raise StoreError(f"`run_dir={str(self.folder)!r}` cannot be used: {error.strerror or error}") from error
            yield finished

    def keep(self, row: Row) -> None:
        """Append a finished row. It survives the process at once, and a crash of the machine within
        `files.SYNC_SECONDS`.

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
                "%s was damaged and is written again; %d rows belong to this evaluation",
                *(self.folder / CONFIG, len(own)),
            )
        if self.damaged:
            logger.warning(
                "%s: skipped %d line%s that could not be read; the missing rows are run again",
                *(self.folder / ROWS, self.damaged, "s" * (self.damaged > 1)),
            )
        if before != self.config:
            write_whole(self.folder / CONFIG, json.dumps(self.config, indent=1))
        return own

    def _check(self) -> None:
        check_config(self.folder, self.config, named=f"`run_dir={str(self.folder)!r}`")

    def _check_foreign(self, before: Mapping[str, Any] | None, read: RowsRead) -> None:
        """Refuse a folder of another evaluation: no line may be added to it, and it may not be replaced."""
        path = self.folder / ROWS
        if read.foreign is not None:
            raise StoreError(f"{path}, line {read.foreign}, is not a row of this version; use another folder")
        if not before and (read.rows or read.damaged):
            what = "is missing" if before is None else "is damaged"
            raise StoreError(
                f"{self.folder / CONFIG} {what} and no row of {path} belongs to this evaluation; use another "
                "folder, or move that file away: the calls of its rows are in the rollouts and not paid again"
            )


def identity(config: Mapping[str, Any]) -> str:
    """The digest of an evaluation in its rows: a hash of its description, without the fields that may change."""
    return address({key: value for key, value in config.items() if key != MAY_CHANGE})[:16]


def read_config(folder: Path) -> dict[str, Any] | None:
    """The description of the evaluation in `folder`: None if it has none, {} if that cannot be read.

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
    """Raise StoreError, naming the difference, if a folder belongs to another evaluation; OSError if it cannot be read.

    Args:
        folder: need not exist.
        now: the required description, as far as it is known.
        named: the name of the folder in the message.
    """
    before = read_config(folder)
    if before is None:
        return
    if not before:  # a damaged description of this evaluation is restored from the rows
        if (folder / CONFIG).read_bytes().strip(BLANK) not in (b"", b"{}") and not _is_ours(folder):
            raise StoreError(f"{folder / CONFIG} is not the record of an evaluation; use another folder")
        return
    now = json.loads(json.dumps(now, default=str))
    changed = [key for key in now if key != MAY_CHANGE and before.get(key) != now[key]]
    if changed:
        raise StoreError(
            f"{named} holds another evaluation: {difference(changed[0], before.get(changed[0]), now[changed[0]])}; use "
            "another folder, or the same arguments to resume"
        )


def _is_ours(folder: Path) -> bool:
    """Whether an evaluation began here, judged by the other files."""
    return (folder / ROWS).exists() or (folder / "rollouts").is_dir()
