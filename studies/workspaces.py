"""What a workspace should hold, on code: `python -m studies.workspaces`; see plans/distillers.md.

Contrasts of programs in the table of all cells that differ in one factor alone; no model is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import typer

from pdr_dspy.evaluation.statistics import Paired, paired
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.runtime.atomic_write import write_whole
from studies import cells, humaneval, tables
from studies.distillers import holm
from studies.study import shown
from studies.tables import TABLES, Cells
from studies.verification import OUT

NAME = "workspaces"


class Pick(NamedTuple):
    """A refinement of one round of drafts."""

    who: str
    """The distiller: "random_k", the model's "topk", or "checked"."""
    width: int
    k: int
    keep: bool = False

    @property
    def schedule(self) -> Schedule:
        """What it runs."""
        checked = humaneval.CHECKED if self.who == "checked" else {"distiller": self.who}
        return humaneval.BASE.replace(widths=(self.width, 1), **{**checked, "k": self.k, "keep": self.keep})


class Contrast(NamedTuple):
    """Two sides of matched pairs: the mean score of the first less that of the second."""

    name: str
    more: tuple[Pick, ...]
    less: tuple[Pick, ...]


def contrasts() -> list[Contrast]:
    """Those of the plan."""
    both = [("random_k", 2), ("random_k", 4), ("checked", 1), ("checked", 2), ("checked", 4)]
    matched = [(4, 2), (4, 4), (8, 1), (8, 2), (8, 4)]
    wide, k = (4, 8), (2, 4)
    return [
        Contrast(
            "picked by the check, minus at random",
            tuple(Pick("checked", *each) for each in matched),
            tuple(Pick("random_k", *each) for each in matched),
        ),
        Contrast(
            "8 drafts, minus 4",
            tuple(Pick(who, 8, k) for who, k in both),
            tuple(Pick(who, 4, k) for who, k in both),
        ),
        Contrast(
            "k = 4, minus k = 2",
            tuple(Pick(who, width, 4) for who, width in product(("random_k", "checked"), wide)),
            tuple(Pick(who, width, 2) for who, width in product(("random_k", "checked"), wide)),
        ),
        Contrast(
            "k = 2, minus k = 1",
            (Pick("random_k", 8, 2), Pick("checked", 4, 2), Pick("checked", 8, 2)),
            (Pick("random_k", 8, 1), Pick("checked", 4, 1), Pick("checked", 8, 1)),
        ),
        Contrast(
            "the check with 8 drafts rather than 4",
            tuple(pick for n in k for pick in (Pick("checked", 8, n), Pick("random_k", 4, n))),
            tuple(pick for n in k for pick in (Pick("checked", 4, n), Pick("random_k", 8, n))),
        ),
        Contrast(
            "the check with k = 4 rather than 2",
            tuple(pick for n in wide for pick in (Pick("checked", n, 4), Pick("random_k", n, 2))),
            tuple(pick for n in wide for pick in (Pick("checked", n, 2), Pick("random_k", n, 4))),
        ),
        Contrast("picked by the model, minus at random", (Pick("topk", 4, 2),), (Pick("random_k", 4, 2),)),
        Contrast(
            "picked by the check, minus by the model",
            (Pick("checked", 4, 1), Pick("checked", 4, 2)),
            (Pick("topk", 4, 1), Pick("topk", 4, 2)),
        ),
        Contrast(
            "`keep`, minus without",
            tuple(Pick("checked", *each, keep=True) for each in product(wide, (1, 2, 4))),
            tuple(Pick("checked", *each) for each in product(wide, (1, 2, 4))),
        ),
    ]


class Effect(NamedTuple):
    """What a contrast is, over questions."""

    name: str
    pairs: int
    test: Paired
    """95 %, of this contrast alone."""
    sure: bool
    """At 5 % for all contrasts together, by Holm's step-down rule."""


def scores(table: Cells) -> dict[Schedule, list[float]]:
    """Of every schedule, the score of each question, the mean over its seeds."""
    found: dict[Schedule, list[float]] = {}
    for place, schedule in enumerate(table.programs.values()):
        by_question: dict[str, list[float]] = {}
        for unit in table.units:
            by_question.setdefault(unit.question, []).append(unit.cells[place].score)
        found[schedule] = [fmean(each) for each in by_question.values()]
    return found


def effects(known: Mapping[Schedule, Sequence[float]]) -> list[Effect]:
    """Of every contrast, in the order of the plan. Raises KeyError for a table without one of its schedules."""
    tests = []
    for contrast in contrasts():
        more, less = (
            [fmean(each) for each in zip(*(known[pick.schedule] for pick in side), strict=True)]
            for side in (contrast.more, contrast.less)
        )
        tests.append(paired(more, less))
    marked = holm([test.p_value for test in tests])
    return [
        Effect(contrast.name, len(contrast.more), test, sure)
        for contrast, test, sure in zip(contrasts(), tests, marked, strict=True)
    ]


def page(path: Path) -> str:
    """Of a table of cells."""
    table = tables.read(path)
    known, model = scores(table), path.stem.removeprefix(f"{cells.NAME}-")
    text = f"# What a workspace should hold, on code, {model}\n\n"
    text += (
        f"{len(table.questions)} problems of HumanEval. Plan: the last part of `studies/plans/distillers.md`; rows: "
    )
    text += f"`studies/tables/{path.name}`. Repeat: `python -m studies.workspaces`.\n\n"
    text += "Mean over matched pairs of programs that differ in nothing else (of two factors together, half of the "
    text += "difference between differences); over problems, 95 %. The last column holds "
    text += "for all contrasts together (Holm, 5 %).\n\n| contrast | pairs | difference | sure |\n|---|--:|--:|---|\n"
    for effect in effects(known):
        text += f"| {effect.name} | {effect.pairs} | {shown(effect.test)} "
        text += f"| {'yes' if effect.sure else ''} |\n"
    text += "\n| program | score | B_seq | B_total | minus one pass | minus best of as many drafts |\n"
    text += f"|---{'|--:' * 5}|\n"
    one = known[humaneval.BASE]
    design = [pick.schedule for each in contrasts() for pick in (*each.more, *each.less)]
    for place, (name, schedule) in enumerate(table.programs.items()):
        if schedule not in design:
            continue
        best = known[humaneval.BASE.replace(widths=schedule.widths[:1], final="best", check="check")]
        own, costs = known[schedule], [unit.cells[place] for unit in table.units]
        text += f"| {name} | {fmean(own):.3f} | {fmean(cell.sequential for cell in costs):,.0f} "
        text += f"| {fmean(cell.total for cell in costs):,.0f} "
        text += f"| {' | '.join(shown(paired(own, other)) for other in (one, best))} |\n"
    return text


def write(rows: Path = TABLES, out: Path = OUT) -> list[Path]:
    """Write the page of every table of cells."""
    made = []
    for found in sorted(rows.glob(f"{cells.NAME}-*.jsonl")):
        made.append(out / f"{NAME}-{found.stem.removeprefix(f'{cells.NAME}-')}.md")
        write_whole(made[-1], page(found))
    return made


def main() -> None:
    """Write the page of every table of cells."""
    for written in write():
        print(written)


if __name__ == "__main__":
    typer.run(main)
