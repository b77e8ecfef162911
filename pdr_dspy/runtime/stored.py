"""Files of a run: OSErrors become StoreErrors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdr_dspy.errors import StoreError
from pdr_dspy.runtime.atomic_write import write_whole


def store_whole(path: Path, data: str | bytes, *, called: str | None = None) -> None:
    """Write a file as `write_whole` does. Raises StoreError, naming `called`, else the path."""
    with store_errors(called or str(path)):
        write_whole(path, data)


@contextmanager
def store_errors(called: str | Path, fault: str = "cannot be written") -> Iterator[None]:
    """Turn an OSError raised inside into a StoreError: `called`, `fault` and the system's reason."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{called} {fault}: {error.strerror or error}") from error
