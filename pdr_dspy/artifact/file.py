"""The file of a saved program: plain JSON with a digest, written whole, and checked before anything is made of it.

Nothing in the file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pdr_dspy.errors import ArtifactError
from pdr_dspy.runtime import store_whole
from pdr_dspy.runtime.atomic_write import local_path

FORMAT = "pdr-dspy"
VERSION = 1
MAX_BYTES = 32 * 2**20
"""The largest file that is read or written, in bytes."""


def write(target: Path, content: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Write a content with its digest to a file, atomically; returns it as `read` will.

    Args:
        target: the file.
        content: as `saving.py` makes it.
        path: the file as the user named it, for messages.

    Raises:
        ArtifactError: the content holds a value that JSON cannot hold, or is too large.
        StoreError: the file cannot be written.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(content, ensure_ascii=True, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"`save(path={str(path)!r})`: the program holds a value that JSON cannot hold: {error}"
        ) from error
    text = json.dumps({**plain, "sha256": digest(plain)}, indent=1, ensure_ascii=False)
    encoded = text.encode("utf-8", "surrogatepass") + b"\n"
    if len(encoded) > MAX_BYTES:
        raise ArtifactError(
            f"`save(path={str(path)!r})` would write {len(encoded)} bytes, the limit is {MAX_BYTES}; "
            "drop demonstrations or points"
        )
    store_whole(target, encoded, called=f"`save(path={str(target)!r})`")
    return plain


def read(path: str | Path) -> dict[str, Any]:
    """The checked content of a file that `save` wrote, as plain data. Raises ArtifactError, as `load` does."""
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise ArtifactError(f"{path} has {size} bytes; a saved program has at most {MAX_BYTES}")
        raw = local_path(path, "load(path").read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        content = json.loads(raw.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        kind = "is empty" if not raw.strip() else "is truncated or not JSON"
        raise ArtifactError(f"{path} {kind}; a saved program is one JSON file ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = (
            " (DSPy's own state: use `program.load(path)`)"
            if isinstance(content, dict) and "metadata" in content
            else ""
        )
        raise ArtifactError(f'{path} is no saved program of this library: it has no "format": "{FORMAT}"{hint}')
    found = content.get("version")
    if not isinstance(found, int) or found < 1:
        raise ArtifactError(f"{path} has the version {found!r}, which is not a positive whole number")
    if found > VERSION:
        raise ArtifactError(
            f"{path} was written by a newer pdr-dspy (format {found}, this one reads {VERSION}); "
            "upgrade: pip install -U pdr-dspy"
        )
    written = content.pop("sha256", None)
    if written != digest(content):
        raise ArtifactError(
            f"{path} was changed after it was written: its sha256 does not match; save the program again"
        )
    points = content.get("points") or {}
    whole = isinstance(points, dict) and all(isinstance(setting, dict) for setting in points.values())
    for setting in (content, *(points.values() if whole else [{}])):
        for key in ("operators", "predictors"):
            if not isinstance(setting.get(key), dict):
                raise ArtifactError(f"{path} has no {key!r}; save the program again")
    if not content["operators"]:
        raise ArtifactError(f"{path} holds no operator; save the program again")
    return content


def digest(content: Mapping[str, Any]) -> str:
    """The sha256 of a content, however its keys are ordered."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
