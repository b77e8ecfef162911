"""Writing a file so that a reader finds the old one or the new one, never a half."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: Path, data: str | bytes) -> None:
    """Write `data` to a file beside `path`, then rename that over it; folders on the way are made.

    Text is UTF-8; what UTF-8 cannot hold becomes "?". The bytes are on the disk before the rename, so a crash leaves no
    empty file. Raises OSError when that is not possible; nothing is left behind then.
    """
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
