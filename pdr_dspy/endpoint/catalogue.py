"""The served programs, by name; saved programs are loaded again when their file has changed and is valid."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy.artifact import load, read
from pdr_dspy.endpoint import messages
from pdr_dspy.endpoint.programs import check_served, task_of
from pdr_dspy.errors import ConfigError, PDRError

log = logging.getLogger("pdr_dspy.endpoint")

EFFORTS = {"low": "fast", "medium": "balanced", "high": "best"}
"""The point of a front for each `reasoning_effort`."""


@dataclass(frozen=True)
class ProgramFile:
    """A saved program, loaded as by `pdr_dspy.load(path, program, trusted=trusted)`."""

    path: Path
    program: dspy.Module | None = None
    """A program with the signature, for signatures with the user's types."""
    trusted: bool = False
    given_name: str = ""
    """The name, if not the file's."""

    @property
    def name(self) -> str:
        """The name for clients."""
        return self.given_name or self.path.stem

    def called(self, name: str) -> ProgramFile:
        """The same file under another name."""
        return replace(self, given_name=name)

    @property
    def stamp(self) -> tuple[int, int, int] | None:
        """Changes when the file is written again; None if there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def programs(self) -> dict[str, Served]:
        """The program and its points by name. Raises ArtifactError or ConfigError if they cannot be served."""
        content = read(self.path)
        version = hashlib.sha256(self.path.read_bytes()).hexdigest()
        names = {"": self.name, **{point: f"{self.name}:{point}" for point in content.get("points") or {}}}
        return {
            name: served(
                name,
                load(self.path, self.program, trusted=self.trusted, point=point or None),
                point=point,
                version=version,
            )
            for point, name in names.items()
        }


@dataclass(frozen=True)
class Served:
    """A program with its name."""

    name: str
    program: dspy.Module
    """An operator, or a module that holds some."""
    point: str = ""
    """Its position on the front; empty for the program itself."""
    figure: Mapping[str, Any] | None = None
    """Its score when it was tuned."""
    notes: str | None = None
    version: str = ""
    """The SHA-256 of the file; empty for a program given as an object."""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def task(self) -> type[dspy.Signature]:
        """The signature of its inputs and outputs."""
        return task_of(self.program)

    @property
    def base(self) -> str:
        """The name without its point."""
        return self.name.removesuffix(f":{self.point}") if self.point else self.name


def served(name: str, program: Any, *, point: str = "", version: str = "") -> Served:
    """The record of a program. Raises ConfigError if it cannot be served."""
    check_served(name, program)
    if not name or not name.isprintable() or "/" in name:
        raise ConfigError(f"`app({name!r}: ...)`: a name needs printable characters without a slash")
    messages.check(task_of(program), name)
    facts = getattr(program, "artifact", None) or {}
    figures = facts.get("figures") or [None]
    figure = (facts.get("points") or {}).get(point) if point else figures[0]
    return Served(name, program, point, figure, facts.get("notes"), version)


class Catalogue:
    """The programs that are currently served."""

    def __init__(self, programs: Mapping[str, dspy.Module], files: Sequence[ProgramFile]) -> None:
        """Raises ConfigError for two programs of one name, and as `served` and `ProgramFile.programs` do."""
        self._given = {name: served(name, program) for name, program in programs.items()}
        self._files = list(files)
        self._of_file: list[dict[str, Served]] = []
        self._stamps = [file.stamp for file in self._files]
        for file in self._files:
            self._of_file.append(file.programs())
        self._lock = asyncio.Lock()
        self._names = self._together(self._of_file)
        if not self._names:
            raise ConfigError("`app()` was given no program")
        self.failures: dict[str, str] = {}
        """By file, why its last change was rejected."""
        self.reloads = 0
        """The number of accepted changes."""

    def __iter__(self) -> Any:
        return iter(self._names.values())

    def get(self, name: str) -> Served | None:
        """The program with a name."""
        return self._names.get(name)

    def points(self, base: str) -> dict[str, Served]:
        """The points of a program's front by their own names."""
        return {each.point: each for each in self._names.values() if each.point and each.base == base}

    def efforts(self, base: str) -> dict[str, Served]:
        """The program for each `reasoning_effort`: a point of its front, if it has that one."""
        points = self.points(base)
        return {effort: points[point] for effort, point in EFFORTS.items() if point in points}

    async def refresh(self) -> None:
        """Load changed files again. A file that cannot be served is logged, and its old program stays."""
        if not any(file.stamp != stamp for file, stamp in zip(self._files, self._stamps, strict=True)):
            return
        async with self._lock:
            for place, file in enumerate(self._files):
                stamp = file.stamp
                if stamp == self._stamps[place]:
                    continue
                self._stamps[place] = stamp
                try:
                    changed = list(self._of_file)
                    changed[place] = await asyncio.to_thread(file.programs)
                    self._names = self._together(changed)
                except (PDRError, OSError) as error:
                    self.failures[file.name] = str(error)
                    log.error("%s was changed and cannot be served; the old version stays: %s", file.name, error)
                else:
                    self._of_file = changed
                    self.failures.pop(file.name, None)
                    self.reloads += 1
                    log.info("%s was changed; the new version is served", file.name)

    def _together(self, of_file: Sequence[Mapping[str, Served]]) -> dict[str, Served]:
        names = dict(self._given)
        for one in of_file:
            for name, program in one.items():
                if name in names:
                    raise ConfigError(f"two programs are called {name!r}; rename a file")
                names[name] = program
        return names
