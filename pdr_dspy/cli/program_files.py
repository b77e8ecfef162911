"""The target of a command: a program file, a program's name, or a saved artifact."""

from __future__ import annotations

import difflib
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import dspy

from pdr_dspy.errors import ArtifactError, ConfigError, PDRError
from pdr_dspy.operators.nested import operators_of
from pdr_dspy.operators.operator import Operator
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.verifiers import Verifier, as_verifier


@dataclass(frozen=True)
class Task:
    """A program file: a program, its data and its verifier."""

    name: str
    build: Callable[[], dspy.Module]
    data: Callable[..., list[dspy.Example]]
    verifier: Callable[[], Verifier]
    file: Path | None = None
    """None where it was not found by `find_task`."""

    @property
    def option(self) -> str:
        """What a command about a saved program of it needs beside the program's path; "" where its name is enough."""
        beside = Path("programs") / f"{self.name}.py"
        if self.file is None or (beside.is_file() and beside.resolve() == self.file.resolve()):
            return ""
        return f" --task {shlex.quote(os.path.relpath(self.file))}"


@dataclass(frozen=True)
class Target:
    """The program that `pdr run`, `pdr eval` and other commands work on."""

    name: str
    program: dspy.Module
    task: Task | None
    """None for an artifact without its program file."""
    artifact: Path | None = None


def find(target: str, *, task: str | None = None, trusted: bool = False) -> Target:
    """The program that `target` names: `best.json`, `programs/gsm8k.py` or `gsm8k`.

    `task` names the program file that an artifact belongs to: its data, its verifier, its custom types. `trusted` is
    that of `pdr_dspy.load`.

    Raises ConfigError for an unknown name or a file that is not a program, ArtifactError for a bad artifact.
    """
    beside = None if task is None else find_task(task)
    if target.endswith(".json"):
        return _artifact(local_path(target), beside, trusted)
    found = find_task(target)
    return Target(found.name, build(found), beside or found)


def build(task: Task) -> dspy.Module:
    """The program of a program file. Raises ConfigError if its `build()` does not return one."""
    with program_file(f"`build()` of {task.name}"):
        program = task.build()
    if not isinstance(program, dspy.Module):
        raise ConfigError(f"`build()` of {task.name} returned {program!r}; return a program, such as PDR(...)")
    return program


@contextmanager
def program_file(what: str) -> Iterator[None]:
    """Runs the user's code inside; its errors become one sentence with the line that raised it."""
    try:
        yield
    except PDRError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        own = [frame for frame in frames if "site-packages" not in frame.filename and "<" not in frame.filename]
        place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
        raise ConfigError(f"{what} failed: {type(error).__name__}: {error}{place}") from error


def find_task(target: str) -> Task:
    """The program file for `target`, a path or a name."""
    module = _module(target)
    if not callable(getattr(module, "build", None)):
        raise _lacks(module, "build")
    made = _part(module, "verifier")
    return Task(
        module.__name__.rpartition(".")[2],
        build=_part(module, "build"),
        data=_part(module, "data"),
        verifier=lambda: as_verifier(made(), argument="verifier() -> ..."),
        file=None if module.__file__ is None else Path(module.__file__),
    )


def _lacks(module: ModuleType, part: str) -> ConfigError:
    return ConfigError(
        f"{module.__file__} has no function `{part}()`; a program file has build(), and for commands other than "
        "`pdr run` and `pdr serve` data(split, limit=, seed=) and verifier()"
    )


def _part(module: ModuleType, name: str) -> Any:
    """A function of a program file; if it lacks one, a function that raises: commands that do not use it work."""
    found = getattr(module, name, None)
    if callable(found):
        return found

    def lacking(*_: Any, **__: Any) -> Any:
        raise _lacks(module, name)

    return lacking


def operator_of(program: dspy.Module) -> Operator:
    """The first operator inside a program. Raises ConfigError if there is none."""
    return next(iter(operators_of(program, type(program).__name__).values()))


def _artifact(path: Path, task: Task | None, trusted: bool) -> Target:
    """A saved program, with the program file that it was tuned for if that is still in programs/."""
    from pdr_dspy import artifact

    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; `pdr optimize` writes one, `pdr_dspy.save(program, path)` too")
    if task is None:
        name = (artifact.read(path).get("data") or {}).get("task")
        if isinstance(name, str) and name.isidentifier() and (Path("programs") / f"{name}.py").is_file():
            task = find_task(name)
    program = artifact.load(path, program=None if task is None else build(task), trusted=trusted)
    return Target(path.stem, program, task, path)


def _module(target: str) -> ModuleType:
    path = local_path(target)
    if path.suffix in (".jsonl", ".csv", ".parquet"):
        raise ConfigError(f"{target} is data, not a program; a program takes it: `pdr eval PROGRAM --data {target}`")
    if path.suffix == ".py" or (path.exists() and path.is_file()):
        if not path.is_file():
            raise ConfigError(f"{target} does not exist")
        return _import(path.resolve())
    beside = Path("programs") / f"{target}.py"
    if target.isidentifier() and beside.is_file():
        return _import(beside.resolve())
    known = sorted(file.stem for file in Path("programs").glob("*.py") if _is_program(file))
    near = difflib.get_close_matches(target, known, n=1)
    if near:
        hint = f"; did you mean {near[0]!r}?"
    elif known:
        hint = f"; programs here: {', '.join(known)}"
    else:
        hint = ", which is not in this folder; write a file with build(), data() and verifier(), and give its path"
    raise ConfigError(f"`{target}` is neither a .json artifact, nor a program file, nor a name in programs/{hint}")


def _is_program(path: Path) -> bool:
    return "def build(" in path.read_text(encoding="utf-8")


def _import(path: Path) -> ModuleType:
    """Import a file under its dotted name, so that a file of a package can import its neighbours."""
    parts: list[str] = [path.stem]
    root = path.parent
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    name = ".".join(parts)
    loaded: Any = sys.modules.get(name)
    if loaded is not None and Path(loaded.__file__ or "").resolve() != path:
        raise ConfigError(f"{path} has the name of a module that is already imported, `{name}`; rename the file")
    try:
        with program_file(f"the import of {path}"):
            return importlib.import_module(name)
    except ConfigError as error:
        if isinstance(error.__cause__, SyntaxError):
            raise ConfigError(f"{path}, line {error.__cause__.lineno}, is not Python: {error.__cause__.msg}") from error
        raise
