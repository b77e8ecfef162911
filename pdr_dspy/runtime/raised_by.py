"""Which part of a program raised an exception: a note on it, shown by tracebacks and by `in_words`; and exceptions of a
user's part that would end more than the part."""

from __future__ import annotations

import asyncio
from types import TracebackType

from pdr_dspy.errors import PDRError

_BEGIN = "raised by "


class contained:  # noqa: N801 - a context manager, used like a function
    """An exception that would end more than the user's part in this block becomes a RuntimeError that names `part`.

    Such are SystemExit and other exceptions that are no `Exception`, a CancelledError while nobody cancels the current
    task, and StopIteration, which no future can hold. KeyboardInterrupt, GeneratorExit and a real cancellation pass.
    """

    def __init__(self, part: str) -> None:
        """
        Args:
            part: the part in messages, such as "the check".
        """
        self.part = part

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and _ends_more(error):
            raise RuntimeError(f"{self.part} raised {type(error).__name__}: {error}".rstrip(": ")) from error


def _ends_more(error: BaseException) -> bool:
    """Whether a part's exception would end more than the part, and nobody else wants that."""
    if isinstance(error, asyncio.CancelledError):
        return not _is_cancelled()
    return isinstance(error, StopIteration) or not isinstance(error, (Exception, KeyboardInterrupt, GeneratorExit))


def _is_cancelled() -> bool:
    """Whether the current task is being cancelled; False in a thread without an event loop."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


class raised_by(contained):  # noqa: N801
    """An exception that leaves this block gets a note that names `part`, unless a part inside it has one already.

    Errors of this library name their cause themselves. Exceptions that would end more than the part are `contained`.
    """

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        super().__exit__(kind, error, _)
        if isinstance(error, Exception) and not isinstance(error, PDRError) and not _notes(error):
            error.add_note(f"{_BEGIN}{self.part}")


def in_words(error: BaseException) -> str:
    """An exception in one text: its type, its message, and the part that raised it, if that is known."""
    notes = _notes(error)
    return f"{type(error).__name__}: {error}" + (f" ({notes[0]})" if notes else "")


def _notes(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", ()) if note.startswith(_BEGIN)]
