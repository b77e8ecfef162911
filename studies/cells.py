"""Every cell of schedules x questions x seeds on one model: `python -m studies.cells`; see plans/cells.md.

With all cells known, a search over the schedules can be replayed without a model, and what it chose be held against
the truth: `python -m benchmarks.replay`. The work is ordered by question, so that whatever has run is a complete table
of fewer questions; the same command goes on, also from a table alone, on another machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import dspy
import typer

from optimize.wheel_weights import SOURCES
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.ending import resuming
from pdr_dspy.cli.model_option import DEFAULT, Model
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation import Row
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.driver.journal import Journal, open_journal, read_journal
from pdr_dspy.search.driver.measurements import Measurements
from pdr_dspy.search.racing.plan import Measure, Pair, Stage
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.verifiers import CodeVerifier
from pdr_dspy.verifiers.checks import CodeCheck
from programs import humaneval as task
from studies import humaneval, tables
from studies.once import Once
from studies.study import ApiBase, Embedded, LinesOnly, RunDir, folder_name
from studies.tables import TABLES, Cells

NAME = "cells"
LIMIT = 48
"""Problems, the first of the order of `studies.humaneval`, whose drafts these are too."""
SLOTS = 16
"""Calls that decode together."""
SIDE_BY_SIDE = 4
"""Problems whose schedules run together: the last rounds of one leave room for the first of the next."""


def schedules() -> dict[str, Schedule]:
    """The schedules of the plan, by name; the first is the student of the searches.

    All begin with the same drafts, and those of one round make no other call; the comments say how many calls the
    others add to the eight drafts of a question.
    """
    one = humaneval.BASE
    check, checked = {"check": "check"}, humaneval.CHECKED
    made = [one]
    for width in (2, 3, 4, 6, 8):
        wide = one.replace(widths=(width,), final="vote")
        made += [wide, wide.replace(final="medoid")]
        made += [wide.replace(final=final, **check) for final in ("weighted", "best")]
    for width, k in ((4, 2), (4, 4), (8, 1), (8, 2), (8, 4)):  # 5 refinements
        made.append(one.replace(widths=(width, 1), distiller="random_k", k=k))
    for width in (4, 8):  # 6 refinements
        for k in (1, 2, 4):
            made += _kept(one.replace(widths=(width, 1), **{**checked, "k": k}))
    for k in (1, 2):  # 2 selections and 2 refinements
        made.append(one.replace(widths=(4, 1), distiller="topk", k=k))
    for rounds in (2, 3):  # 4 refinements
        chain = one.replace(widths=(1,) * rounds, distiller="last")
        made += [chain, *_kept(chain.replace(**check))]
    drawn = one.replace(widths=(4, 2, 1), distiller="random_k", k=2)
    made.append(drawn)  # 2 refinements
    made += [drawn.replace(widths=(4, 2), final=final) for final in ("vote", "medoid")]
    for width in (4, 8):  # 4 refinements
        three = one.replace(widths=(width, 2, 1), **checked)
        made += _kept(three)
        made += [three.replace(widths=(width, 2), final=final) for final in ("vote", "medoid", "weighted", "best")]
    return {str(schedule): schedule for schedule in made}


def _kept(schedule: Schedule) -> list[Schedule]:
    """A schedule, and the same that answers with the best-checked draft of all rounds."""
    return [schedule, schedule.replace(keep=True)]


def problems() -> list[dspy.Example]:
    """All problems in the order of the study, which a larger limit goes on with."""
    return list(humaneval.study().examples)


class Run:
    """The cells that a table and a folder have, and those that are still to be made."""

    def __init__(
        self, journal: Journal, store: Rollouts, limit: int, seeds: int, *, display: Display, known: Cells | None = None
    ) -> None:
        """
        Args:
            journal: of the study's folder; has what is finished.
            store: of the calls.
            limit: problems.
            seeds: runs of each.
            display: where progress is shown.
            known: what an earlier run made; its questions are not made again.

        Raises StoreError if the journal or the table has other schedules.
        """
        self.programs = schedules()
        if journal.description != description():
            raise StoreError("the folder has the cells of other schedules: take another `--run-dir`")
        if known is not None and known.programs != self.programs:
            raise StoreError("the table has the cells of other schedules: move it away")
        self.known = {(unit.question, unit.repeat): unit for unit in known.units} if known else {}
        examples = problems()[:limit]
        self.wanted = {
            (example.id, repeat): Pair(place, repeat)
            for repeat in range(seeds)
            for place, example in enumerate(examples)
        }
        once = Once(CodeVerifier(), CodeCheck())
        self.request = Measure(
            Stage.RACE,
            0,
            {arm: Candidate(schedule, {}) for arm, schedule in enumerate(self.programs.values())},
            tuple(pair for key, pair in self.wanted.items() if key not in self.known),
        )
        self.measurements = Measurements(
            Operator(task.Complete, next(iter(self.programs.values())), {"check": once}),
            once,
            {Stage.RACE: [(example.id, example) for example in examples]},
            journal=journal,
            store=store,
            seed=0,
            max_in_flight=SIDE_BY_SIDE * len(self.programs),
            on_row=self._tell,
        )
        self.display = display
        self._told = -1

    def make(self) -> None:
        """Make the cells that are missing."""
        self.measurements.measure(self.request)

    def table(self) -> Cells:
        """The cells that are finished; those of further problems and seeds than are wanted stay."""
        missing = set(self.measurements.missing(self.request))
        rows = self.measurements.rows
        made = {
            key: tables.unit_of([rows[Stage.RACE, arm, pair] for arm in self.request.arms])
            for key, pair in self.wanted.items()
            if key not in self.known and pair not in missing
        }
        units = {key: self.known.get(key) or made.get(key) for key in (*self.wanted, *self.known)}
        return Cells(self.programs, tuple(unit for unit in units.values() if unit))

    def _tell(self, stage: Stage, row: Row, done: int, count: int) -> None:
        del stage
        if done != self._told:
            self._told = done
            self.display.show(f"{done} of {count} problems, the last: {row.id}")


def description() -> dict[str, Any]:
    """What the journal of a folder has to be of."""
    return {"cells": {name: schedule.model_dump(mode="json") for name, schedule in schedules().items()}}


def widest() -> Schedule:
    """Room for every call, the selections of `topk` among them."""
    return humaneval.BASE.replace(widths=(4, 1), distiller="topk", k=1)


def run(
    model: Model, display: Display, *, folder: Path, limit: int = LIMIT, seeds: int = 1, rows: Path | None = None
) -> Path:
    """Make what is missing in the table, and write it, also where it ends before; returns the table's path.

    Args:
        model: what to serve or to connect to.
        display: where progress is shown.
        folder: keeps the cells and the calls; the same study goes on from there.
        limit: problems.
        seeds: runs of each.
        rows: where the table is read and written; None is `TABLES`.
    """
    with (
        model.serving(widest(), display, slots=SLOTS) as lm,
        Rollouts(folder / "rollouts") as store,
        open_journal(folder, description()) as journal,
    ):
        path = _path(rows, model.embedded or lm.served_model)
        made = Run(journal, store, limit, seeds, display=display, known=_known(path))
        try:
            made.make()
        finally:
            tables.write(path, made.table())
    return path


def gather(folder: Path, model: str, *, limit: int = LIMIT, seeds: int = 1, rows: Path | None = None) -> Path:
    """Write the table of what has run: no model is asked. Raises StoreError without a run folder."""
    journal = read_journal(folder)
    if journal is None:
        raise StoreError(f"`--run-dir={str(folder)!r}` has no cells: leave `--lines-only` out to make them")
    path = _path(rows, model)
    made = Run(journal, Rollouts(), limit, seeds, display=Display(quiet=True), known=_known(path))
    return tables.write(path, made.table())


def _path(rows: Path | None, model: str) -> Path:
    return (rows or TABLES) / f"{NAME}-{folder_name(model)}.jsonl"


def _known(path: Path) -> Cells | None:
    return tables.read(path) if path.exists() else None


@resuming
def main(
    limit: Annotated[int, typer.Option(help="Problems, at most 121.")] = LIMIT,
    seeds: Annotated[int, typer.Option(help="Runs of each problem; all problems run once before any runs again.")] = 1,
    embedded: Embedded = DEFAULT,
    api_base: ApiBase = None,
    run_dir: RunDir = None,
    lines_only: LinesOnly = False,
) -> None:
    """Make the cells that are missing, and write the table to studies/tables."""
    folder = run_dir or Path("runs/studies") / f"{NAME}-{embedded}"
    if lines_only:
        print(gather(folder, embedded, limit=limit, seeds=seeds))
        return
    model = Model(api_base=api_base) if api_base else Model(embedded=embedded, sources=SOURCES)
    print(run(model, Display(), folder=folder, limit=limit, seeds=seeds))


if __name__ == "__main__":
    typer.run(main)
