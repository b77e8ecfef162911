"""Digests of weights on this machine's disk."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.serving.weights import cache_folder

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".jinja", ".model")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex. It is computed once for each state of the file (size, modification time) and kept
    in the cache folder. Raises OSError when the file cannot be read."""
    path = path.resolve()
    stat = path.stat()
    state = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino]
    kept = cache_folder() / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before["state"] == state:
            return str(before["sha256"])
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):  # without a writable cache the digest is computed again
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps({"state": state, "sha256": sha256}))
    return sha256


def folder_state(path: Path) -> str:
    """A digest of the names, sizes and modification times of a model's files in a folder. It changes when a training
    run overwrites a checkpoint with the next. Raises OSError when the folder cannot be read."""
    files = sorted(each for each in path.iterdir() if each.suffix in _WEIGHTS and each.is_file())
    states = [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:12]
