"""The folder of a training run: its lock, its identity, its log and its checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.runtime import store_errors, store_whole
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.runtime.differences import difference
from pdr_dspy.runtime.locks import held

logger = logging.getLogger("pdr_dspy")

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
            stack.enter_context(held(folder / LOCK, on_wait=logger.warning))
        yield


def check_folder(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise StoreError for a folder that holds something else than this run. A missing folder is fine, and so is one of
    a run of this kind that has trained nothing, as a start with a mistake in the config leaves it."""
    path = folder / "config.json"
    try:
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(before, dict) or before.get("kind") != about["kind"]:
                raise StoreError(f"{folder} holds another kind of run; choose another folder")
            if not _trained(folder):
                return
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


def check_steps(folder: Path, steps: int) -> None:
    """Raise ConfigError if the run would have to go back: its last checkpoint is that of a step after `steps`."""
    checkpoint = last_checkpoint(folder)
    step = 0 if checkpoint is None else _step(checkpoint)
    if steps < step:
        raise ConfigError(
            f"`steps` is {steps}, and {folder} was trained for {step} steps already (checkpoint-{step}): "
            f"give at least {step} steps, or another folder"
        )


def last_checkpoint(folder: Path, *, tell: bool = False) -> Path | None:
    """The folder of the last checkpoint that was written to its end; None without one.

    Args:
        folder: the run's folder.
        tell: log a warning for later ones that are left out.
    """
    broken: dict[Path, str] = {}
    found = None
    for path in reversed(_checkpoints(folder)):
        fault = _fault(path)
        if fault is None:
            found = path
            break
        broken[path] = fault
    if broken and tell:
        logger.warning(
            "%s %s not whole, as a stop while a checkpoint is written leaves it (%s): the training %s",
            *(", ".join(map(str, broken)), "is" if len(broken) == 1 else "are", "; ".join(broken.values())),
            "begins again" if found is None else f"goes on from {found.name}",
        )
    return found


def _trained(folder: Path) -> bool:
    """Whether a run has left anything that was trained."""
    return bool(_checkpoints(folder) or (folder / "result.json").exists() or read_log(folder / "log.jsonl"))


def _checkpoints(folder: Path) -> list[Path]:
    """The folders of the checkpoints, by step."""
    return sorted((path for path in folder.glob("checkpoints/checkpoint-*") if _step(path)), key=_step)


def _step(checkpoint: Path) -> int:
    """The step of a checkpoint's folder; 0 for anything else."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() and checkpoint.is_dir() else 0


def _fault(checkpoint: Path) -> str | None:
    """What shows that a checkpoint was not written to its end; None for a whole one. Nothing of it is loaded."""
    from safetensors import SafetensorError, safe_open

    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # transformers writes it last
    except FileNotFoundError:
        return "there is no trainer_state.json"
    except (OSError, ValueError):
        return "trainer_state.json cannot be read"
    # A machine that goes down may still lose the end of what was written before.
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in (".pt", ".pth") and not is_zipfile(path):
            return f"{path.name} is cut"
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "np"):  # it compares the lengths in the header with the file's
                    pass
            except (OSError, SafetensorError):
                return f"{path.name} is cut"
    return None


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
            logger.warning("%s: a line that is not JSON is ignored", path)
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
