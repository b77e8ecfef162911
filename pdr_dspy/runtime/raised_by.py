"""Which part of a program raised an exception: a note on it, shown by tracebacks and by `in_words`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pdr_dspy.errors import PDRError

_BEGIN = "raised by "


@contextmanager
def raised_by(part: str) -> Iterator[None]:
    """An exception that leaves this block gets a note that names `part`, unless a part inside it has one already.

    Errors of this library name their cause themselves.
    """
    try:
        yield
    except PDRError:
        raise
    except Exception as error:
        if not _notes(error):
            error.add_note(f"{_BEGIN}{part}")
        raise


def in_words(error: BaseException) -> str:
    """An exception in one text: its type, its message, and the part that raised it, if that is known."""
    notes = _notes(error)
    return f"{type(error).__name__}: {error}" + (f" ({notes[0]})" if notes else "")


def _notes(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", ()) if note.startswith(_BEGIN)]
