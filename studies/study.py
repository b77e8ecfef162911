"""A study: programs x questions x repeats on one model, resumable, and the small lines that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import dspy
import typer

from optimize.wheel_weights import SOURCES
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from pdr_dspy.evaluation import Report, Row, evaluate
from pdr_dspy.evaluation.statistics import Paired
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.reporting.evaluation_tables import read_report
from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.text.wrapping import tidy
from pdr_dspy.verifiers import Verifier
from studies import tables

ROOT = Path(__file__).parent
ROWS = ROOT / "rows"
"""One file for each study and model, in the repository."""

Embedded = Annotated[str, typer.Option(help="Name of the embedded model.")]
ApiBase = Annotated[str | None, typer.Option(help="Address of a server that runs already.")]
RunDir = Annotated[Path | None, typer.Option(help="Where rows and calls are kept.")]
Slots = Annotated[
    int | None, typer.Option(help="Drafts that decode together, for a slow model: as many as answer within 10 minutes.")
]
LinesOnly = Annotated[bool, typer.Option("--lines-only", help="Run nothing: write the lines of what ran.")]


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


def eight_drafts(base: Schedule, *, keep: bool) -> dict[str, Schedule]:
    """The strategies that every study compares, by name, each a change of one pass.

    Best of 8 is first: its drafts are everybody's. `keep` says whether the checked refinement answers with the
    best-checked draft of both rounds.
    """
    checked = {"check": "check", "distiller": "checked", "k": 2}
    kept = "PDR 8-1 checked, keeps" if keep else "PDR 8-1 checked"
    return {
        "best of 8": base.replace(widths=(8,), final="best", check="check"),
        "one pass": base,
        "vote of 8": base.replace(widths=(8,), final="vote"),
        "medoid of 8": base.replace(widths=(8,), final="medoid"),
        "PDR 8-1 random": base.replace(widths=(8, 1), distiller="random_k", k=2),
        kept: base.replace(widths=(8, 1), **checked, keep=keep),
        "SR x3 blind": base.replace(widths=(1, 1, 1), distiller="last"),
        "SR x3 checked": base.replace(widths=(1, 1, 1), distiller="last", check="check"),
    }


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
    checks: tuple[tuple[float | None, ...], ...]
    """Of each round, what the check gave each draft; None where it was not checked."""
    error: str | None
    answers: tuple[tuple[int | None, ...], ...] = ()
    """Of each round, which drafts answered the same: equal numbers; None where no answer could be read."""
    shown: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """Of each round, the places of the drafts that each workspace made of it holds."""


def run(
    study: Study, model: Model, display: Display, *, folder: Path, keep_lines: bool = True, slots: int | None = None
) -> dict[str, Report]:
    """Run what is missing, and write the lines after every program.

    Args:
        study: what to run.
        model: what to serve or to connect to.
        display: where progress is shown.
        folder: keeps the rows and the calls; the same study goes on from there.
        keep_lines: write lines to `ROWS` after every program.
        slots: of the embedded server; as many questions are in flight as have room for the program's widest round. None
            leaves both to the model.
    """
    reports: dict[str, Report] = {}
    with model.serving(study.widest, display, slots=slots) as lm, Rollouts(folder / "rollouts") as store:
        for name, program in study.programs.items():
            in_flight = model.in_flight if slots is None else max(slots // max(program.schedule.widths), 1)
            with display.rows(name, len(study.examples) * study.repeats) as progress:
                reports[name] = evaluate(
                    program,
                    study.examples,
                    study.verifier,
                    repeats=study.repeats,
                    run_dir=folder / folder_name(name),
                    store=store,
                    max_in_flight=in_flight,
                    name=name,
                    progress=progress,
                )
            if keep_lines:
                gather(study, folder, model.embedded or lm.served_model)
    return reports


def go(
    study: Study,
    embedded: str,
    api_base: str | None,
    folder: Path | None,
    *,
    lines_only: bool = False,
    keep_lines: bool = True,
    slots: int | None = None,
) -> None:
    """What the command of a study does: run what is missing on the embedded model or a server that runs already.

    Args:
        study: what to run.
        embedded: name of the embedded model, and of the rows that `lines_only` writes.
        api_base: address of a server, whose model names the rows; None starts the embedded model.
        folder: of rows and calls; None is runs/studies/<study>-<model>.
        lines_only: write the lines of what is in the folder, and run nothing.
        keep_lines: write lines to `ROWS`; a pilot's are only in its run folder.
        slots: of the embedded server, as in `run`.
    """
    place = folder or Path("runs/studies") / f"{study.name}-{embedded}"
    if lines_only:
        print(gather(study, place, embedded))
        return
    model = Model(api_base=api_base) if api_base else Model(embedded=embedded, sources=SOURCES)
    for report in run(study, model, Display(), folder=place, keep_lines=keep_lines, slots=slots).values():
        print(report)


def pilot(study: Study, kind: str) -> Study:
    """The study's eight drafts and one pass alone: to choose among kinds of questions before the study runs."""
    few = {name: study.programs[name] for name in (next(iter(study.programs)), "one pass")}
    return Study(f"pilot-{study.name}-{kind}", few, study.examples, study.verifier)


def go_pilots(
    pilots: Mapping[str, Study], embedded: str, api_base: str | None, folder: Path | None, *, lines_only: bool = False
) -> None:
    """`go` with the pilot of each kind, in folders of their own; their rows are in no table."""
    for kind, one in pilots.items():
        place = None if folder is None else folder / kind
        go(one, embedded, api_base, place, lines_only=lines_only, keep_lines=False)


def gather(study: Study, folder: Path, model: str) -> Path:
    """Write the lines of those programs that have run on every question, and the table of their cells beside them
    (`studies.tables`), from a run folder alone: no model is asked. Returns the path of the lines.

    Programs that are still running, or have not begun, are left out, so that every table compares equal questions.
    """
    reports: dict[str, Report] = {}
    for name in study.programs:
        place = folder / folder_name(name)
        if (place / "rows.jsonl").is_file():
            report = read_report(place, name)
            if len(report.rows) >= len(study.examples) * study.repeats:
                reports[name] = report
    if reports:
        schedules = {name: study.programs[name].schedule for name in reports}
        table = tables.of_rows(schedules, {name: report.rows for name, report in reports.items()})
        tables.write(ROWS.parent / "tables" / f"{study.name}-{folder_name(model)}.jsonl", table)
    return write_lines(study.name, model, reports)


def write_lines(study: str, model: str, reports: Mapping[str, Report], *, rows: Path | None = None) -> Path:
    """The lines of a study's reports, as one file in `rows`, or in `ROWS`."""
    path = (rows or ROWS) / f"{study}-{folder_name(model)}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (line_of(name, row) for name, report in reports.items() for row in report.rows)
    ordered = sorted(lines, key=lambda line: (list(reports).index(line.program), line.question, line.repeat))
    write_whole(path, "".join(json.dumps(line._asdict()) + "\n" for line in ordered))
    return path


def line_of(name: str, row: Row) -> Line:
    """What is kept of a row."""
    drafts = tuple(tuple(draft.score for draft in round_.drafts) for round_ in row.rounds)
    checks = tuple(tuple(draft.check for draft in round_.drafts) for round_ in row.rounds)
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
        checks,
        row.error,
        tuple(_labels([draft.answer for draft in round_.drafts]) for round_ in row.rounds),
        tuple(round_.sources for round_ in row.rounds),
    )


def _labels(answers: Sequence[str | None]) -> tuple[int | None, ...]:
    """Equal numbers for answers that are equal but for case and for what wraps them, as in a vote."""
    known: dict[str, int] = {}
    return tuple(
        None if answer is None else known.setdefault(tidy(answer).casefold(), len(known)) for answer in answers
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
        yield Line(**{name: _frozen(value) for name, value in data.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def shown(test: Paired) -> str:
    """A difference with its interval, as tables have it."""
    return f"{test.difference:+.3f} [{test.interval.low:+.3f}, {test.interval.high:+.3f}]"


def folder_name(name: str) -> str:
    """A name as that of a folder."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)
