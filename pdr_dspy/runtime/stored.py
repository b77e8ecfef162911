"""Files of a run: written whole, or StoreError in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdr_dspy.errors import StoreError
from pdr_dspy.runtime.atomic_write import write_whole


def store_whole(path: Path, data: str | bytes, *, called: str | None = None) -> None:
    """Write a file as `write_whole` does. Raises StoreError, naming the file or what it is `called`."""
    with store_errors(called or str(path)):
        write_whole(path, data)


@contextmanager
def store_errors(called: str | Path) -> Iterator[None]:
    """An OSError that is raised inside becomes a StoreError that says what cannot be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{called} cannot be written: {error.strerror or error}") from error
