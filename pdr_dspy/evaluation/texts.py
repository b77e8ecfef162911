"""The texts of evaluated runs, beside their rows: questions, drafts, checks' feedback, workspaces.

Rows hold figures and are read whole; texts are large, and are read only for display. They are not results: a damaged or
omitted line affects the display of one run, and a disk that takes no texts loses no row. The file has a size limit, and
so has each text in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dspy
from pydantic import BaseModel, ConfigDict, ValidationError

from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.workspace import Checked
from pdr_dspy.prompts.content import plain_text
from pdr_dspy.runtime.atomic_write import Lines, whole_lines
from pdr_dspy.text import clean

TEXTS = "texts.jsonl"
MAX_TEXT_BYTES = 64 * 2**20
"""Maximum bytes of one run folder: some thousand runs of a small program."""
LONGEST = 24_000
"""Maximum characters of one text; of a longer text its beginning and its end, with the answer, are kept."""
logger = logging.getLogger("pdr_dspy")


class DraftTexts(BaseModel):
    """The text of one draft, and the feedback of its check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = ""
    """The solution, without any thought."""
    check: Checked | None = None


class RoundTexts(BaseModel):
    """One round, with its drafts in the order of the row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafts: tuple[DraftTexts, ...] = ()
    workspaces: tuple[str, ...] = ()


class RowTexts(BaseModel):
    """The texts of one row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    repeat: int
    evaluation: str = ""
    """The digest of the evaluation, as in the row."""
    inputs: dict[str, str] = {}
    """The program's inputs, by field."""
    solution: str = ""
    """The text with the answer; for a program that is not an operator, its reasoning."""
    rounds: tuple[RoundTexts, ...] = ()

    def belongs_to(self, row: Row) -> bool:
        """Whether these are the texts of this row, and not of another evaluation or an earlier try."""
        mine = [len(round_.drafts) for round_ in self.rounds]
        return self.evaluation == row.evaluation and mine == [len(round_.drafts) for round_ in row.rounds]


def texts_of(
    name: str, repeat: int, inputs: Mapping[str, Any], prediction: dspy.Prediction | None, *, evaluation: str = ""
) -> RowTexts:
    """The texts of one run, each of at most `LONGEST` characters.

    Args:
        name: the example's id.
        repeat: from 0.
        inputs: the program's inputs.
        prediction: the program's result; None if it failed.
        evaluation: the digest of the evaluation.
    """
    given: dict[str, Any] = {} if prediction is None else dict(prediction.items())
    return RowTexts(
        id=name,
        repeat=repeat,
        evaluation=evaluation,
        inputs={field: clipped(plain_text(value)) for field, value in inputs.items()},
        solution=clipped(str(given.get("solution") or given.get("reasoning") or "")),
        rounds=tuple(
            RoundTexts(
                drafts=tuple(
                    DraftTexts(text=clipped(draft.solution), check=_checked(draft.check)) for draft in round_.drafts
                ),
                workspaces=tuple(clipped(workspace.text) for workspace in round_.workspaces),
            )
            for round_ in given.get("rounds") or ()
        ),
    )


def clipped(text: str, most: int = LONGEST) -> str:
    """A storable text, with its middle left out if it is longer than `most` characters."""
    text = clean(text)
    if len(text) <= most:
        return text
    first, last = text[: most // 2], text[-(most // 2) :]
    return f"{first}\n[... {len(text) - len(first) - len(last):,} characters left out ...]\n{last}"


def _checked(check: Checked | None) -> Checked | None:
    if check is None:
        return None
    shortened = {name: clipped(getattr(check, name)) for name in ("detail", "feedback")}
    return check.model_copy(update={**shortened, "failure": None if check.failure is None else clean(check.failure)})


class Room:
    """The remaining bytes for texts, in one file or in several."""

    def __init__(self, folder: Path, most: int) -> None:
        """
        Args:
            folder: counts the texts in it and below.
            most: maximum bytes of all of them.
        """
        self.folder = folder
        self.most = most
        self._left: int | None = None

    def take(self, size: int) -> bool:
        """Whether this many bytes still fit; if so, they are reserved. Raises OSError."""
        if self._left is None:
            files = (path for depth in _DEPTHS for path in self.folder.glob(depth + TEXTS))
            self._left = self.most - sum(path.stat().st_size for path in files)
        if size > self._left:
            return False
        self._left -= size
        return True


_DEPTHS = ("", "*/", "*/*/", "*/*/*/")


class TextFile:
    """A file of texts to append to. Interleaved lines of another process do no harm."""

    def __init__(self, path: Path, room: Room) -> None:
        """
        Args:
            path: the file, created by the first `keep`.
            room: limits the appended texts; those that do not fit are left out.
        """
        self.room = room
        self.left_out = 0
        """Rows whose texts were left out."""
        self._lines = Lines(path)

    def keep(self, texts: RowTexts) -> None:
        """Append the texts of a row, or leave them out. Never raises: a full disk must not end an evaluation."""
        line = texts.model_dump_json(exclude_defaults=True).encode("utf-8", "backslashreplace")
        try:
            if not self.room.take(len(line) + 2):  # its line end, and that of a torn line before it
                self._leave_out(f"they are limited to {self.room.most} bytes (`max_text_bytes`)")
                return
            self._lines.path.parent.mkdir(parents=True, exist_ok=True)
            self._lines.append(line)
        except OSError as error:
            self._leave_out(error.strerror or str(error))

    def close(self) -> None:
        """Close the file; a later `keep` opens it again."""
        try:
            self._lines.close()
        except OSError as error:
            logger.warning("%s is not whole: %s", self._lines.path, error.strerror or error)

    def _leave_out(self, why: str) -> None:
        if not self.left_out:
            logger.info("%s: the texts of further rows are not kept: %s", self._lines.path, why)
        self.left_out += 1


def read_texts(path: Path, rows: Iterable[Row]) -> dict[tuple[str, int], RowTexts]:
    """The texts in a file that belong to `rows`, by (id, repeat); the last one if there are several.

    Damaged lines and texts of other rows are skipped; a missing file has none.
    """
    wanted = {(row.id, row.repeat): row for row in rows}
    found: dict[tuple[str, int], RowTexts] = {}
    try:
        for _, line in whole_lines(path):
            try:
                texts = RowTexts.model_validate_json(line)
            except ValidationError:
                continue
            row = wanted.get((texts.id, texts.repeat))
            if row is not None and texts.belongs_to(row):
                found[texts.id, texts.repeat] = texts
    except OSError:
        return found
    return found
