"""Tables for replays: of every question and repeat, what each of many schedules scored and which calls it made.

    {"table": 1, "programs": {name: schedule, ...}}
    {"question": ..., "repeat": 0, "calls": [tokens, ...], "cells": [[score, B_seq, B_total, [call, ...]], ...]}

The first line has the schedules; each further one is a question under one seed, its cells in the order of the
schedules. `calls` has the tokens of every different call, once: cells with a call in common name it by the same place,
so that a replay can count a call once, as a rollout store pays for it. A table is rectangular: it has a line only for
what all of its schedules have run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pdr_dspy.evaluation import Row
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.runtime.atomic_write import write_whole

VERSION = 1
TABLES = Path(__file__).parent / "tables"
"""One file for each study and model, in the repository."""


class Measured(NamedTuple):
    """One schedule on one question under one seed."""

    score: float
    """A fraction."""
    sequential: int
    """B_seq, in tokens."""
    total: int
    """B_total, in tokens."""
    calls: tuple[int, ...]
    """Places in `Unit.calls`, in the order in which the calls were made."""


class Unit(NamedTuple):
    """One question under one seed."""

    question: str
    repeat: int
    calls: tuple[int, ...]
    """Tokens of every different call."""
    cells: tuple[Measured, ...]
    """Of each schedule, in their order."""


@dataclass(frozen=True)
class Cells:
    """A table."""

    programs: Mapping[str, Schedule]
    units: tuple[Unit, ...]

    @property
    def questions(self) -> tuple[str, ...]:
        """Different questions, in the order of the table."""
        return tuple(dict.fromkeys(unit.question for unit in self.units))


def of_rows(programs: Mapping[str, Schedule], rows: Mapping[str, Sequence[Row]]) -> Cells:
    """The table of the runs of several schedules, with what all of them ran.

    Args:
        programs: schedules by name.
        rows: of each schedule, by its name.
    """
    found = {name: {(row.id, row.repeat): row for row in rows.get(name, ())} for name in programs}
    first = next(iter(found.values()))
    places = [place for place in first if all(place in some for some in found.values())]
    units = [unit_of([found[name][place] for name in programs]) for place in places]
    return Cells(programs, tuple(units))


def unit_of(rows: Sequence[Row]) -> Unit:
    """What is kept of the rows of all schedules on one question under one seed."""
    tokens: dict[str, int] = {}
    places: dict[str, int] = {}
    cells = []
    for arm, row in enumerate(rows):
        made = []
        for number, call in enumerate(row.calls):
            if not call.sent or (call.cancelled and call.reused):
                continue  # a replay leaves it out again
            key = (call.key or f"{arm}/{number}") + "/cancelled" * call.cancelled
            made.append(places.setdefault(key, len(places)))
            tokens[key] = call.tokens
        cells.append(Measured(row.score, row.sequential, row.total, tuple(made)))
    return Unit(rows[0].id, rows[0].repeat, tuple(tokens.values()), tuple(cells))


def write(path: Path, table: Cells) -> Path:
    """Write a table, whole or not at all."""
    head = {
        "table": VERSION,
        "programs": {name: one.model_dump(mode="json") for name, one in table.programs.items()},
    }
    lines = [head, *(unit._asdict() for unit in table.units)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return path


def read(path: Path) -> Cells:
    """A table of a file. Raises ValueError for anything else."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    facts = json.loads(head)
    if not isinstance(facts, dict) or facts.get("table") != VERSION:
        raise ValueError(f"{path} is not a table of version {VERSION}: it begins with {head[:60]!r}")
    programs = {name: Schedule(**values) for name, values in facts["programs"].items()}
    return Cells(programs, tuple(_unit(json.loads(line)) for line in lines))


def _unit(data: Mapping[str, Any]) -> Unit:
    cells = tuple(Measured(score, seq, total, tuple(calls)) for score, seq, total, calls in data["cells"])
    return Unit(data["question"], data["repeat"], tuple(data["calls"]), cells)
