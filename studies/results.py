"""Tables and pictures of docs/results, made of the lines in studies/rows alone: `python -m studies.results`.

Pictures need matplotlib: the group `studies` of pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import typer

from pdr_dspy.evaluation.statistics import Interval, paired, pass_at_k, score_interval
from pdr_dspy.verifiers import RIGHT
from studies import calculator, distillers, verification
from studies.drawing import canvas, save
from studies.study import ROWS, Line, read_lines, shown

OUT = Path(__file__).parents[1] / "docs" / "results"
COLUMNS = ("program", "score", "95 % interval", "minus one pass", "minus {}", "B_seq", "B_total", "to one pass")
BASELINE = "one pass"
SELECTION = "best of 8"
VOTE = "vote of 8"
"""In the place of `SELECTION` where nothing can be checked."""


class Summary(NamedTuple):
    """One program of a study."""

    name: str
    scores: dict[str, float]
    """Mean score of each question over its repeats, a fraction."""
    interval: Interval
    sequential: float
    """Mean B_seq, in tokens."""
    total: float
    """Mean B_total, in tokens."""

    @property
    def score(self) -> float:
        """Mean over questions."""
        return fmean(self.scores.values())


def summary(name: str, lines: Sequence[Line]) -> Summary:
    """Of the lines of one program."""
    by_question: dict[str, list[float]] = {}
    for line in lines:
        by_question.setdefault(line.question, []).append(line.score)
    scores = {question: fmean(values) for question, values in by_question.items()}
    interval = score_interval(list(scores.values()))
    return Summary(
        name, scores, interval, fmean(line.sequential for line in lines), fmean(line.total for line in lines)
    )


def summaries(programs: Mapping[str, Sequence[Line]]) -> dict[str, Summary]:
    """Of all programs that ran on every question.

    One pass is scored over all first-round drafts of `reference`: each is what one pass would have answered at another
    seed, so that its mean is the same and its noise less.
    """
    questions = {line.question for lines in programs.values() for line in lines}
    whole = {name: lines for name, lines in programs.items() if {line.question for line in lines} == questions}
    found = {name: summary(name, lines) for name, lines in whole.items()}
    drafts = {line.question: line.drafts[0] for line in whole.get(reference(programs), ()) if line.drafts}
    if BASELINE in found and set(drafts) == questions and all(None not in scores for scores in drafts.values()):
        scores = {question: fmean(score or 0.0 for score in drafts[question]) for question in drafts}
        interval = score_interval(list(scores.values()))
        found[BASELINE] = found[BASELINE]._replace(scores=scores, interval=interval)
    return found


def reference(programs: Mapping[str, Sequence[Line]]) -> str:
    """The program whose eight drafts are everybody's: the best by the check, or the vote where there is none."""
    return SELECTION if SELECTION in programs else VOTE


def difference(first: Summary, second: Summary) -> str:
    """First minus second on the questions that both have, with a 95 % interval."""
    shared = [question for question in first.scores if question in second.scores]
    return shown(paired([first.scores[q] for q in shared], [second.scores[q] for q in shared]))


def table(programs: Mapping[str, Sequence[Line]]) -> str:
    """The programs of a study as a Markdown table, in the order in which they are given."""
    found, held_against = summaries(programs), reference(programs)
    rows = []
    for name, one in found.items():
        against = [
            "" if other not in found or name == other else difference(one, found[other])
            for other in (BASELINE, held_against)
        ]
        ratio = f"{one.total / found[BASELINE].total:.2f}x" if BASELINE in found else ""
        low, high = one.interval
        rows.append(
            [name, f"{one.score:.3f}", f"[{low:.3f}, {high:.3f}]", *against, f"{one.sequential:,.0f}",
             f"{one.total:,.0f}", ratio]
        )  # fmt: skip
    head = f"| {' | '.join(COLUMNS).format(held_against)} |\n|{'---|' * 2}{'--:|' * (len(COLUMNS) - 2)}\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def flow(programs: Mapping[str, Sequence[Line]]) -> str:
    """What the rounds of each program did to its answers, as a Markdown table."""
    text = "| program | any draft right | first draft right | last round right | wrong to right | right to wrong |\n"
    text += "|---|--:|--:|--:|--:|--:|\n"
    for name, lines in programs.items():
        several = [line for line in lines if len(line.drafts) > 1 and line.drafts[0]]
        if not several:
            continue
        first = [_right(line.drafts[0][:1]) for line in several]
        last = [_right(line.drafts[-1][:1]) for line in several]
        any_right = [_right(line.drafts[0]) for line in several]
        gained = fmean(not a and b for a, b in zip(first, last, strict=True))
        lost = fmean(a and not b for a, b in zip(first, last, strict=True))
        text += (
            f"| {name} ({len(several)} runs with more than one round) | {fmean(any_right):.2f} | {fmean(first):.2f} "
        )
        text += f"| {fmean(last):.2f} | {gained:.2f} | {lost:.2f} |\n"
    return text


def reach(lines: Sequence[Line]) -> str:
    """pass@k of the drafts of a program of one wide round."""
    counts = [(len(line.drafts[0]), sum(_right((score,)) for score in line.drafts[0])) for line in lines if line.drafts]
    most = min((count for count, _ in counts), default=0)
    shown = [k for k in (1, 2, 4, 8, 16) if k <= most]
    return ", ".join(f"pass@{k} {fmean(pass_at_k(n, right, k) for n, right in counts):.3f}" for k in shown)


def curve(programs: Mapping[str, Sequence[Line]]) -> list[Summary]:
    """Best of 1, 2, 4 and 8 by the check, of the drafts of `SELECTION`: every part of so many drafts counts.

    Their tokens lie on the line between one pass and all drafts: siblings share a prompt and cost alike.
    """
    found, lines = summaries(programs), programs.get(SELECTION, ())
    if BASELINE not in found or SELECTION not in found or not all(line.drafts and line.checks for line in lines):
        return []
    first, last = found[BASELINE], found[SELECTION]
    width = min(len(line.drafts[0]) for line in lines)
    made = []
    for k in (k for k in (2, 4) if k < width):
        scores: dict[str, float] = {}
        for line in lines:
            pairs = list(zip(line.checks[0], line.drafts[0], strict=True))
            parts = [pairs[start : start + k] for start in range(0, width - k + 1, k)]
            scores[line.question] = fmean(max(part, key=lambda pair: pair[0] or 0.0)[1] or 0.0 for part in parts)
        share = (k - 1) / (width - 1)
        costs = [a + share * (b - a) for a, b in ((first.sequential, last.sequential), (first.total, last.total))]
        made.append(Summary(f"best of {k}", scores, score_interval(list(scores.values())), *costs))
    return [first, *made, last]


def picture(programs: Mapping[str, Sequence[Line]], path: Path, title: str) -> None:
    """Score against B_seq and against B_total as an SVG. Bars are 95 % intervals of the difference from one pass."""
    pyplot = canvas()
    found = summaries(programs)
    front = curve(programs)
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    colours = pyplot.get_cmap("tab10")
    for panel, cost in zip(panels, COSTS, strict=True):
        if BASELINE in found:
            panel.axhline(found[BASELINE].score, color="#888", linewidth=1, linestyle="--", zorder=0)
        if front:
            along = [getattr(one, cost) for one in front]
            panel.plot(
                along,
                [one.score for one in front],
                color=colours(0),
                linewidth=1.5,
                marker=".",
                zorder=1,
                label="best of 1, 2, 4, 8",
            )
        for number, one in enumerate(found.values()):
            _point(
                panel, one, found.get(BASELINE), getattr(one, cost), colours(number % 10), "os^DvP*X<>dh"[number % 12]
            )
        values = [getattr(one, cost) for one in found.values()]
        several = FINE if max(values) < 2.5 * min(values) else COARSE
        ticks = [tick for tick in several if min(values) * 0.85 <= tick <= max(values) * 1.15]
        panel.set_xscale("log")
        panel.set_xticks([], minor=True)
        panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        panel.set_xlabel(COSTS[cost])
        panel.grid(visible=True, alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of problems solved")
    figure.suptitle(title, fontsize=11)
    handles = panels[1].get_legend_handles_labels()
    panels[1].legend(*handles, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    save(figure, path)


COSTS = {"sequential": "B_seq: tokens one after the other (latency)", "total": "B_total: all tokens (cost)"}
FINE = (300, 350, 400, 450, 500, 600, 700, 800, 1000)
COARSE = (200, 300, 500, 1000, 2000, 3000, 5000, 10_000, 20_000)


def _point(panel: Any, one: Summary, baseline: Summary | None, cost: float, colour: Any, marker: str) -> None:
    low, high = one.interval
    if baseline is not None and baseline is not one:
        found = paired([one.scores[q] for q in one.scores], [baseline.scores[q] for q in one.scores])
        low, high = (baseline.score + edge for edge in found.interval)
    bars = None if baseline is one else [[max(0.0, one.score - low)], [max(0.0, high - one.score)]]
    panel.errorbar(cost, one.score, yerr=bars, fmt=marker, color=colour, label=one.name, markersize=8, elinewidth=1.2)


def _right(scores: Sequence[float | None]) -> bool:
    return any(score is not None and score >= RIGHT for score in scores)


def page(path: Path) -> str:
    """The page of one study on one model."""
    programs = read_lines(path)
    questions = len({line.question for lines in programs.values() for line in lines})
    study, _, model = path.stem.partition("-")
    text = f"# {study}, {model}\n\n"
    text += f"{questions} questions; plan: `studies/plans/{study}.md`; rows: `studies/rows/{path.name}`.\n"
    text += f"Repeat: `python -m studies.{study}`, then `python -m studies.results`.\n\n![]({path.stem}.svg)\n\n"
    text += table(programs)
    drafted = reference(programs)
    text += f"\n`{BASELINE}` is the mean over all drafts of `{drafted}`, each of which it could have been.\n"
    for name, lines in programs.items():
        if failed := sum(line.error is not None for line in lines):
            text += f"\n{failed} of {len(lines)} runs of `{name}` failed and count as wrong; they are tried again.\n"
    if drafted in programs:
        text += f"\nDrafts of `{drafted}`: {reach(programs[drafted])}.\n"
    if rounds := flow(programs):
        text += f"\nThe first drafts of each round; shares of all these runs:\n\n{rounds}"
    return text


def main() -> None:
    """Write every page and picture."""
    for path in sorted(ROWS.glob("*.jsonl")):
        if path.name.startswith(f"{distillers.NAME}-"):  # has a page of its own: effects, not programs
            continue
        programs = read_lines(path)
        questions = len({line.question for lines in programs.values() for line in lines})
        picture(
            programs,
            OUT / f"{path.stem}.svg",
            f"{path.stem}, {questions} questions, bars: 95 % interval of the difference from one pass",
        )
        (OUT / f"{path.stem}.md").write_text(page(path), encoding="utf-8")
        print(OUT / f"{path.stem}.md")
    for part in (verification, calculator, distillers):
        if (path := part.write(ROWS, OUT)) is not None:
            print(path)


if __name__ == "__main__":
    typer.run(main)
