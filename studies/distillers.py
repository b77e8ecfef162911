"""Which distiller, and with which settings: `python -m studies.distillers`; see plans/distillers.md.

A fractional factorial on sums: every main effect and every pair of factors is estimated clear of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from math import prod
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import typer

from pdr_dspy.evaluation.statistics import Interval, paired
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from programs import arithmetic
from studies.command import command
from studies.study import Line, Study, read_lines, shown

NAME = "distillers"
BASE = Schedule(widths=(1,), kappa=384, draft_tokens=128, refine_tokens=128, temperature=0.8)
"""As in the study of sums, whose drafts are these."""
LIMIT = 40


class Factor(NamedTuple):
    """What is changed, and how its two levels are called."""

    letter: str
    name: str
    low: str
    high: str


FACTORS = (
    Factor("A", "who picks", "at random", "the model"),
    Factor("B", "count of answers shown", "no", "yes"),
    Factor("C", "k", "2", "4"),
    Factor("D", "κ", "128", "384"),
    Factor("E", "drafts of the first round", "4", "8"),
)
SUMMARY = "summary of 8"
REFERENCES = ("one pass", "vote of 4", "vote of 8")


class Point(NamedTuple):
    """A program of the design: -1 or 1 for each factor, in the order of `FACTORS`."""

    levels: tuple[int, ...]

    @property
    def name(self) -> str:
        """The letters of the factors that are high, as statisticians write a run; "(1)" has none."""
        high = [factor.letter.lower() for factor, level in zip(FACTORS, self.levels, strict=True) if level > 0]
        return "".join(high) or "(1)"

    @property
    def schedule(self) -> Schedule:
        """What it runs."""
        picks, counts, k, kappa, width = (level > 0 for level in self.levels)
        return BASE.replace(
            widths=(8 if width else 4, 1),
            distiller="topk" if picks else "random_k",
            tally=counts,
            k=4 if k else 2,
            kappa=384 if kappa else 128,
        )


def design() -> list[Point]:
    """A 2^(5-1) fraction of resolution V, I = ABCDE: 16 programs, no effect mixed with one of fewer than three
    factors."""
    return [Point((*four, prod(four))) for four in product((-1, 1), repeat=len(FACTORS) - 1)]


def programs() -> dict[str, Operator]:
    """The votes and one pass first, since their drafts are everybody's; then the design, and summaries."""
    made = {
        "vote of 8": BASE.replace(widths=(8,), final="vote"),
        "vote of 4": BASE.replace(widths=(4,), final="vote"),
        "one pass": BASE,
        **{point.name: point.schedule for point in design()},
        SUMMARY: BASE.replace(widths=(8, 1), distiller="summary"),
        f"{SUMMARY}, count shown": BASE.replace(widths=(8, 1), distiller="summary", tally=True),
    }
    return {name: Operator(arithmetic.Arithmetic, schedule) for name, schedule in made.items()}


def study(limit: int = LIMIT, seed: int = 0) -> Study:
    """The study on so many sums."""
    return Study(NAME, programs(), arithmetic.data("test", limit=limit, seed=seed), arithmetic.verifier())


class Effect(NamedTuple):
    """A contrast of the two halves of the design, over questions."""

    letters: str
    difference: float
    interval: Interval
    """95 %, of this contrast alone."""
    p: float
    """Two-sided, of this contrast alone."""
    sure: bool
    """At 5 % for all contrasts together, by Holm's step-down rule."""


def effects(lines: Mapping[str, Sequence[Line]]) -> list[Effect]:
    """Of every factor and every pair, largest first; [] unless all 16 programs ran."""
    points = design()
    if any(point.name not in lines for point in points):
        return []
    scores = {point: {line.question: line.score for line in lines[point.name]} for point in points}
    questions = sorted(set.intersection(*(set(found) for found in scores.values())))
    found = []
    for letters in [*((i,) for i in range(len(FACTORS))), *combinations(range(len(FACTORS)), 2)]:
        halves: dict[int, list[Point]] = {-1: [], 1: []}
        for point in points:
            halves[prod(point.levels[i] for i in letters)].append(point)
        low, high = ([fmean(scores[point][q] for point in halves[side]) for q in questions] for side in (-1, 1))
        test = paired(high, low)
        name = "".join(FACTORS[i].letter for i in letters)
        found.append(Effect(name, test.difference, test.interval, test.p_value, False))
    marked = holm([effect.p for effect in found])
    together = [effect._replace(sure=sure) for effect, sure in zip(found, marked, strict=True)]
    return sorted(together, key=lambda effect: (-abs(effect.difference), effect.p))


def holm(ps: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which p-values are sure at `level` for all of them together, by Holm's step-down rule."""
    ordered = sorted(range(len(ps)), key=lambda place: ps[place])
    sure = [False] * len(ps)
    for rank, place in enumerate(ordered):
        if ps[place] > level / (len(ps) - rank):
            break
        sure[place] = True
    return sure


def page(path: Path) -> str:
    """Of a file of lines."""
    lines = read_lines(path)
    model = path.stem.removeprefix(f"{NAME}-")
    questions = len({line.question for found in lines.values() for line in found})
    text = (
        f"# Which distiller, {model}\n\n{questions} sums of three numbers. Plan: `studies/plans/distillers.md`; rows: "
    )
    text += f"`studies/rows/{path.name}`. Repeat: `python -m studies.distillers`, then `python -m studies.results`.\n\n"
    text += (
        "Effects: mean score of the programs at the high level minus that at the low, and of pairs equal levels minus "
    )
    text += "different ones; over questions, 95 %. The last column holds for all contrasts together (Holm, 5 %).\n\n"
    text += "| | factor | low | high | effect | sure |\n|---|---|---|---|---|---|\n"
    known = {factor.letter: factor for factor in FACTORS}
    for effect in effects(lines):
        shown = [known[letter] for letter in effect.letters]
        level = (shown[0].low, shown[0].high) if len(shown) == 1 else ("", "")
        names = " with ".join(factor.name for factor in shown)
        low, high = effect.interval
        text += f"| {effect.letters} | {names} | {level[0]} | {level[1]} "
        text += f"| {effect.difference:+.3f} [{low:+.3f}, {high:+.3f}] | {'yes' if effect.sure else ''} |\n"
    text += "\n`one pass` is the first draft alone.\n"
    text += "\n| program | score | B_seq | B_total | against the vote of as many drafts |\n|---|--:|--:|--:|---|\n"
    for name, found in lines.items():
        wide = "vote of 4" if len(found[0].drafts) > 1 and len(found[0].drafts[0]) == 4 else "vote of 8"
        against = "" if name in REFERENCES or wide not in lines else _against(found, lines[wide])
        text += f"| {_label(name)} | {fmean(line.score for line in found):.3f} "
        text += f"| {fmean(line.sequential for line in found):,.0f} | {fmean(line.total for line in found):,.0f} "
        text += f"| {against} |\n"
    return text


def _against(first: Sequence[Line], second: Sequence[Line]) -> str:
    scores = {line.question: line.score for line in second}
    return shown(paired([line.score for line in first], [scores[line.question] for line in first]))


def _label(name: str) -> str:
    known = {point.name: point.schedule for point in design()}
    if name not in known:
        return name
    schedule = known[name]
    tally = " +tally" if schedule.tally else ""
    return f"`{name}` PDR {schedule.widths[0]}-1 {schedule.distiller} k={schedule.k}{tally} κ={schedule.kappa}"


def write(rows: Path, out: Path) -> Path | None:
    """Write the page of every model; None where there are no rows."""
    path = None
    for found in sorted(rows.glob(f"{NAME}-*.jsonl")):
        path = out / f"{found.stem}.md"
        path.write_text(page(found), encoding="utf-8")
    return path


main = command(study, limit=LIMIT, questions="Sums, at most 100")

if __name__ == "__main__":
    typer.run(main)
