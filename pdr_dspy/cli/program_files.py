"""The target of a command: a program file, a program's name, or a saved artifact."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import dspy

from pdr_dspy.datasets.files import FILE_KINDS, read_file
from pdr_dspy.errors import ArtifactError, ConfigError, PDRError
from pdr_dspy.operators.nested import operators_of
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.search.space.schedules import larger
from pdr_dspy.verifiers import Verifier, as_verifier


@dataclass(frozen=True)
class Task:
    """A program file: a program, its data and its verifier."""

    name: str
    build: Callable[[], dspy.Module]
    data: Callable[..., list[dspy.Example]]
    verifier: Callable[[], Verifier]
    file: Path | None = None
    """None where it was not found by `find_task`, and for a signature."""
    part: str = ""
    """The name in the file of what is the program; "" for a file with `build()`."""
    graded: str = ""
    """The options of the command line that name its data and verifier, with a space in front."""

    @property
    def named(self) -> bool:
        """Whether its name alone finds it again."""
        found = None if self.part else _file_of(self.name)
        return self.file is None or (found is not None and found.resolve() == self.file.resolve())

    @property
    def option(self) -> str:
        """What a command about a saved program of it needs beside the program's path; "" where its name is enough."""
        return f"{self.beside}{self.graded}"

    @property
    def beside(self) -> str:
        """The option of the command line that names it, with a space in front; "" where its name is enough."""
        if self.file is None or self.named:
            return ""
        part = f":{self.part}" if self.part else ""
        return f" --task {shlex.quote(os.path.relpath(self.file) + part)}"


@dataclass(frozen=True)
class Target:
    """The program that `pdr run`, `pdr eval` and other commands work on."""

    name: str
    program: dspy.Module
    task: Task | None
    """None for an artifact without its program file."""
    artifact: Path | None = None


def find(target: str, *, task: str | None = None, trusted: bool = False) -> Target:
    """The program that `target` names: `best.json`, `programs/gsm8k.py`, `gsm8k`, `mine.py:Triage` (a signature, a
    module, or a function that returns one), or a signature itself, `message -> category`.

    `task` names the program file that an artifact belongs to: its data, its verifier, its custom types. `trusted` is
    that of `pdr_dspy.load`; modules of the current folder are then found, as by `python`.

    Raises ConfigError for an unknown name or a file that is not a program, ArtifactError for a bad artifact.
    """
    if trusted:
        _find_modules_in(Path.cwd())
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
    """The program file for `target`, a path or a name; or the task of a signature, which has no data."""
    if "->" in target:
        return _signature(target, _slug(target), lambda: target)
    file, _, part = target.rpartition(":")
    if file.endswith(".py"):
        return _part_of(file, part)
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


def named_in(file: str, name: str, *, option: str) -> Any:
    """What a Python file calls `name`. Raises ConfigError, with the names it has, if there is nothing."""
    module = _module(file)
    if not hasattr(module, name):
        own = [
            one
            for one, value in vars(module).items()
            if not one.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        raise ConfigError(f"`{option}`: {file} has no {name!r}; it defines {', '.join(own) or 'nothing'}")
    return getattr(module, name)


OWN = Schedule(widths=(4, 1), distiller="random_k", k=2, kappa=1024, draft_tokens=512)
"""The schedule of a signature that is given as the program: four drafts, then one that reads two of them."""


def _signature(shown: str, name: str, made: Callable[[], Any], **facts: Any) -> Task:
    def lacking(*_: Any, **__: Any) -> Any:
        raise ConfigError(
            f"{shown!r} is a signature, without data: add `--data FILE`, and `--metric FILE.py:NAME` or `--verifier "
            "NAME`"
        )

    return Task(name, build=lambda: PDR(made(), OWN), data=lacking, verifier=lacking, **facts)


def _part_of(file: str, part: str) -> Task:
    """The task of a signature, a module, or a function that returns one, in a Python file."""
    found = named_in(file, part, option=f"{file}:{part}")
    facts: dict[str, Any] = {"file": local_path(file).resolve(), "part": part}
    if isinstance(found, str) or (isinstance(found, type) and issubclass(found, dspy.Signature)):
        return _signature(f"{file}:{part}", part, lambda: found, **facts)
    if not callable(found):
        raise ConfigError(
            f"`{file}:{part}` is {found!r}; name a signature, a dspy.Module or a function that returns one"
        )
    made: Any = (lambda: found) if isinstance(found, dspy.Module) else found
    return Task(
        part,
        build=made,
        data=_part(_module(file), "data"),
        verifier=lambda: as_verifier(_part(_module(file), "verifier")(), argument="verifier() -> ..."),
        **facts,
    )


def _slug(signature: str) -> str:
    """A name of a signature for folders."""
    return re.sub(r"\W+", "-", signature.replace("->", "-to-")).strip("-")[:40].strip("-") or "task"


def _lacks(module: ModuleType, part: str) -> ConfigError:
    return ConfigError(
        f"{module.__file__} has no function `{part}()`; a program file has build(), and for commands other than "
        "`pdr run` and `pdr serve` data(split, limit=, seed=) and verifier(), unless `--data` and `--metric` are "
        "given; `pdr new NAME` writes one"
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


def schedules_of(program: dspy.Module) -> str:
    """The schedule of a program, or of each of its operators with its path if there are several. Raises ConfigError if
    it has none."""
    own = operators_of(program, type(program).__name__)
    return "; ".join(str(one.schedule) if len(own) == 1 else f"{place}: {one.schedule}" for place, one in own.items())


def schedule_of(program: dspy.Module) -> Schedule:
    """A schedule that needs as much of a model as any operator's in a program. Raises ConfigError if it has none."""
    own = [operator.schedule for operator in operators_of(program, type(program).__name__).values()]
    return functools.reduce(larger, own)


def _artifact(path: Path, task: Task | None, trusted: bool) -> Target:
    """A saved program, with the program file that it was tuned for if its name still finds it."""
    from pdr_dspy import artifact

    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; `pdr optimize` writes one, `pdr_dspy.save(program, path)` too")
    if task is None:
        name = (artifact.read(path).get("data") or {}).get("task")
        if isinstance(name, str) and _file_of(name) is not None:
            task = find_task(name)
    if task is None and list(saved := artifact.read(path).get("operators") or [""]) != [""]:
        raise ArtifactError(
            f"{path} was saved from a custom module with operators at {', '.join(saved)}; give `--task` its program "
            "file, such as `--task mine.py`"
        )
    program = artifact.load(path, program=None if task is None else build(task), trusted=trusted)
    return Target(path.stem, program, task, path)


def _module(target: str) -> ModuleType:
    path = local_path(target)
    if path.suffix.lower() in FILE_KINDS:
        raise ConfigError(_is_data(target, path))
    if path.suffix == ".py" or (path.exists() and path.is_file()):
        if not path.is_file():
            raise ConfigError(f"{target} does not exist")
        return _import(path.resolve())
    if (beside := _file_of(target)) is not None:
        return _import(beside.resolve())
    known = {file.stem: None for place in _places() for file in sorted(place.glob("*.py")) if _is_program(file)}
    near = difflib.get_close_matches(target, known, n=1)
    looked = " and ".join(str(place) for place in _places())
    raise ConfigError(
        f'`{target}` is neither a .json artifact, nor a program file (.py), nor a signature such as "question -> '
        f'answer", nor the name of a program in {looked}'
        + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}; `pdr new NAME` writes one")
    )


def _places() -> tuple[Path, ...]:
    """The folders of programs that a name finds: the current folder's, and the library's."""
    package = Path(__file__).parent.parent
    carried = package / "_programs"  # in the wheel; in a checkout they are beside the package
    return Path("programs").absolute(), carried if carried.is_dir() else package.parent / "programs"


def _file_of(name: str) -> Path | None:
    """The program file of a name; None if no place has one."""
    files = [place / f"{name}.py" for place in _places()] if name.isidentifier() else []
    return next((file for file in files if file.is_file()), None)


def _is_data(target: str, path: Path) -> str:
    """The message for a data file in a program's place, with a command for its own columns."""
    columns: list[str] = []
    with suppress(PDRError):
        columns = [str(column) for column in next(iter(read_file(path)))[1]]
    names = [column for column in columns if column.isidentifier() and column not in ("id", "source")]
    task = f'"{", ".join(names[:-1])} -> {names[-1]}"' if len(names) > 1 else "PROGRAM"
    given = shlex.quote(target)
    return (
        f"{target} is data, not a program; a program takes it: `pdr eval PROGRAM --data {given}`. A program is a "
        f"signature, too: `pdr eval {task} --data {given} --metric mine.py:score`"
    )


def _is_program(path: Path) -> bool:
    return "def build(" in path.read_text(encoding="utf-8")


def _apart(path: Path) -> ModuleType:
    """Import a program of the library's checkout for a user whose own folder is called `programs`, too: one package of
    that name can be imported."""
    name = f"pdr_dspy._programs.{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def _find_modules_in(folder: Path) -> None:
    """Let the modules of a folder be imported, as `python` does for the folder that it runs in."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import(path: Path) -> ModuleType:
    """Import a file under its dotted name, so that a file of a package can import its neighbours."""
    parts: list[str] = [path.stem]
    root = path.parent
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    _find_modules_in(root)
    own, carried = _places()
    if path.parent == carried.resolve() != own.resolve() and own.is_dir() and carried.name == own.name:
        return _apart(path)
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
