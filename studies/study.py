"""A study: programs x questions x repeats on one model, resumable, and the small lines that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import dspy

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from pdr_dspy.evaluation import Report, Row, evaluate
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.verifiers import Verifier

ROOT = Path(__file__).parent
ROWS = ROOT / "rows"
"""One file for each study and model, in the repository."""


@dataclass(frozen=True)
class Study:
    """What is run: every program on every question, with shared seeds and one store."""

    name: str
    programs: Mapping[str, Operator]
    """By what the tables call them; the first is what the others are held against."""
    examples: Sequence[dspy.Example]
    verifier: Verifier
    repeats: int = 1

    @property
    def widest(self) -> Schedule:
        """A schedule with room for every program's prompts."""
        schedules = [program.schedule for program in self.programs.values()]
        return max(schedules, key=lambda s: (max(s.widths), s.rounds, s.kappa + s.draft_tokens))


class Line(NamedTuple):
    """One run of a program on a question."""

    program: str
    question: str
    repeat: int
    score: float
    """Of the answer, by the hidden tests or the gold answer."""
    sequential: int
    """B_seq, in tokens."""
    total: int
    """B_total, in tokens."""
    seconds: float
    """Of the program alone: its calls' own times on its critical path are not measured where the store replays them."""
    stop: str | None
    drafts: tuple[tuple[float | None, ...], ...]
    """Of each round, the score of each draft; None where it could not be graded."""
    error: str | None


def run(study: Study, model: Model, display: Display, *, folder: Path) -> dict[str, Report]:
    """Run what is missing, and write the lines after every program.

    Args:
        study: what to run.
        model: what to serve or to connect to.
        display: where progress is shown.
        folder: keeps the rows and the calls; the same study goes on from there.
    """
    reports: dict[str, Report] = {}
    with model.serving(study.widest, display), Rollouts(folder / "rollouts") as store:
        for name, program in study.programs.items():
            with display.rows(name, len(study.examples) * study.repeats) as progress:
                reports[name] = evaluate(
                    program,
                    study.examples,
                    study.verifier,
                    repeats=study.repeats,
                    run_dir=folder / _folder(name),
                    store=store,
                    max_in_flight=model.in_flight,
                    name=name,
                    progress=progress,
                )
            write_lines(study.name, str(model), reports)
    return reports


def write_lines(study: str, model: str, reports: Mapping[str, Report]) -> Path:
    """The lines of a study's reports, as one file in `ROWS`."""
    path = ROWS / f"{study}-{_folder(model)}.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = (line_of(name, row) for name, report in reports.items() for row in report.rows)
    ordered = sorted(lines, key=lambda line: (list(reports).index(line.program), line.question, line.repeat))
    write_whole(path, "".join(json.dumps(line._asdict()) + "\n" for line in ordered))
    return path


def line_of(name: str, row: Row) -> Line:
    """What is kept of a row."""
    drafts = tuple(tuple(draft.score for draft in round_.drafts) for round_ in row.rounds)
    return Line(
        name,
        row.id,
        row.repeat,
        row.score,
        row.sequential,
        row.total,
        round(row.seconds, 2),
        row.stop,
        drafts,
        row.error,
    )


def read_lines(path: Path) -> dict[str, list[Line]]:
    """The lines of a file by program, in its order."""
    found: dict[str, list[Line]] = {}
    for line in _read(path):
        found.setdefault(line.program, []).append(line)
    return found


def _read(path: Path) -> Iterator[Line]:
    for text in path.read_text(encoding="utf-8").splitlines():
        data = json.loads(text)
        yield Line(**{**data, "drafts": tuple(map(tuple, data["drafts"]))})


def _folder(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)
