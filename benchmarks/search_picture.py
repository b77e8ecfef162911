"""Regret against tokens of every search: `python -m benchmarks.search_picture RUNS.json ... --out PICTURE.svg`.

RUNS.json is what `python -m benchmarks.search --json RUNS.json` writes; several are drawn together. A line is the mean
over worlds of the true regret of what a search would return if it ended when it has paid so many tokens, each call
once; a search that has ended keeps its choice. It begins where every run has made a choice, and has a dot at the mean
of all that was paid.
"""

from __future__ import annotations

import argparse
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.search_report import REFERENCE, Run
from pdr_dspy.evaluation.statistics import mean_interval
from studies.drawing import canvas, save

OURS = "pdr-dspy"
NAMED = {OURS: "#c33", REFERENCE: "#26a"}
"""The two searches with intervals, and their colours."""
LEFT_OUT = ("(knowing its questions)",)
"""Not a search: it pays nothing."""
POINTS = 120
TOP = 12
"""Points of regret that the picture shows: a search begins with far more."""
COLOURS = ("#2a2", "#e80", "#808", "#888", "#0aa", "#a60", "#d7d", "#333")
"""Of the others."""


class Line(NamedTuple):
    """A search on several worlds."""

    tokens: tuple[float, ...]
    """Paid, each call once."""
    regrets: tuple[tuple[float, ...], ...]
    """At each of these, of each world, in points."""
    end: float
    """Mean of all tokens that were paid."""

    @property
    def means(self) -> list[float]:
        """Over worlds."""
        return [fmean(each) for each in self.regrets]


def line_of(runs: Sequence[Run]) -> Line:
    """The line of one method's runs. Raises ValueError if one has no curve."""
    if not all(run.curve for run in runs):
        raise ValueError(
            f"the runs of {runs[0].method!r} have no curve: run `python -m benchmarks.search --json` again"
        )
    first, last = max(run.curve[0][0] for run in runs), max(run.paid for run in runs)
    tokens = tuple(first * (last / first) ** (n / (POINTS - 1)) for n in range(POINTS))
    regrets = tuple(tuple(_regret(run, each) for run in runs) for each in tokens)
    return Line(tokens, regrets, fmean(run.paid for run in runs))


def _regret(run: Run, tokens: float) -> float:
    place = bisect_right([step[0] for step in run.curve], tokens * (1 + 1e-9)) - 1
    return run.curve[place][2]


def read(path: Path) -> list[Run]:
    """The runs of a file."""
    return [Run(**each) for each in json.loads(path.read_text(encoding="utf-8"))["runs"]]


def groups(runs: Sequence[Run]) -> Iterator[tuple[str, dict[str, list[Run]]]]:
    """For each number of questions and trials its title, and the runs of each method."""

    def size(run: Run) -> tuple[int, int]:
        return run.questions, run.trials

    for (questions, trials), found in groupby(sorted(runs, key=size), key=size):
        methods: dict[str, list[Run]] = {}
        for run in found:
            if run.method not in LEFT_OUT:
                methods.setdefault(run.method, []).append(run)
        most = max(len(each) for each in methods.values())
        named = {name if len(each) == most else f"{name} ({len(each)} worlds)": each for name, each in methods.items()}
        yield f"{questions} questions, {trials} trials, {most} worlds", named


def picture(runs: Sequence[Run], path: Path) -> None:
    """A panel for each number of questions and trials, as an SVG; bands are 95 % intervals over worlds."""
    pyplot = canvas()
    panels = list(groups(runs))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.4 * len(panels) + 2.4, 4.4), squeeze=False, sharey=True, layout="constrained"
    )
    for panel, (title, methods) in zip(axes[0], panels, strict=True):
        lines = {name: line_of(found) for name, found in methods.items()}
        for number, (name, line) in enumerate(lines.items()):
            colour = NAMED.get(name, COLOURS[number % len(COLOURS)])
            tokens = [each / 1e6 for each in line.tokens]
            strong = name in NAMED
            panel.plot(tokens, line.means, color=colour, label=name, linewidth=2.2 if strong else 1.2)
            panel.plot(line.end / 1e6, line.means[-1], "o", color=colour, markersize=5 if strong else 3)
            if strong and len(methods[name]) > 1:
                bands = [mean_interval(each) for each in line.regrets]
                panel.fill_between(tokens, [b.low for b in bands], [b.high for b in bands], color=colour, alpha=0.12)
        panel.set_title(title, fontsize=10)
        panel.set_xscale("log")
        if firsts := [line.tokens[0] / 1e6 for name, line in lines.items() if name in NAMED]:
            panel.set_xlim(left=0.7 * min(firsts))
        panel.set_ylim(0, TOP)
        panel.set_xlabel("tokens paid, millions")
        panel.grid(visible=True, alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("regret, points")
    fullest = max(axes[0], key=lambda panel: len(panel.lines))
    axes[0][-1].legend(
        *fullest.get_legend_handles_labels(), fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False
    )
    save(figure, path)


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("search.svg"))
    options = parser.parse_args()
    picture([run for path in options.runs for run in read(path)], options.out)
    print(options.out)


if __name__ == "__main__":
    main()
