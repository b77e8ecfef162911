"""The folder of a training run: its lock, its identity, its log and its checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pdr_dspy.errors import StoreError
from pdr_dspy.runtime import store_errors, store_whole
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.runtime.differences import difference
from pdr_dspy.runtime.locks import held

LOCK = "train.lock"
"""Name of the lock file in a run's folder."""
Progress = Callable[[int, Mapping[str, float]], None]
"""Called with each logged step (from 1) and its metrics."""
_MAY_CHANGE = ("steps", "save_every", "loggers")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the block, after waiting for another run."""
    with ExitStack() as stack:
        with store_errors(folder, "cannot be used"):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(folder / LOCK, on_wait=logging.getLogger("pdr_dspy").warning))
        yield


def check_folder(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise StoreError for a folder that holds something else than this run; a missing folder is fine."""
    path = folder / "config.json"
    try:
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(before, dict) or before.get("kind") != about["kind"]:
                raise StoreError(f"{folder} holds another kind of run; choose another folder")
            was, now = _flat(before), _flat(json.loads(json.dumps(about)))
            changed = [key for key in now if was.get(key) != now[key] and key not in _MAY_CHANGE]
            if changed:
                differs = difference(changed[0], was.get(changed[0]), now[changed[0]])
                raise StoreError(
                    f"{folder} holds another training run: {differs}; choose another folder, or use the same arguments "
                    "to resume it"
                )
        elif folder.exists() and any(path.name != LOCK for path in folder.iterdir()):
            raise StoreError(f"{folder} is not empty and holds no training run; choose another folder")
    except OSError as error:
        raise StoreError(f"{folder} cannot be used: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(f"{path} is not readable JSON ({error}); choose another folder") from error


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    config = about.get("config")
    return {key: value for key, value in about.items() if key != "config"} | (
        config if isinstance(config, dict) else {}
    )


def finished(folder: Path) -> int | None:
    """Steps of the finished model in the folder; None without one."""
    try:
        steps = json.loads((folder / "result.json").read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def last_checkpoint(folder: Path) -> str | None:
    """The folder of the last checkpoint; None without one."""
    from transformers.trainer_utils import get_last_checkpoint

    checkpoints = folder / "checkpoints"
    return get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None


class Log:
    """log.jsonl: one line a step, without repeated steps."""

    def __init__(self, folder: Path, progress: Progress | None) -> None:
        self.path = folder / "log.jsonl"
        self.progress = progress

    def begin(self, step: int) -> None:
        """Drop the lines after `step`, the checkpoint from which the run resumes."""
        kept = [json.dumps(line) for line in read_log(self.path) if line["step"] <= step]
        store_whole(self.path, "".join(f"{line}\n" for line in kept))

    def add(self, step: int, figures: Mapping[str, Any]) -> None:
        """Append the metrics of a step. TRL's final metrics of the whole run are ignored."""
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        if "train_runtime" in numbers:
            return
        with store_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")
        if self.progress is not None:
            self.progress(step, numbers)


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl, each with its `step`; a torn last line is left out."""
    lines = []
    file = local_path(path)
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            logging.getLogger(__name__).warning("%s: a line that is not JSON is ignored", path)
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
