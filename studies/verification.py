"""What verification is worth: best-of-n under a check that errs with probability p, from the drafts of the studies.

    python -m studies.verification

needs no model: the rows of a study hold which of its drafts are right, what its check gave each, and which answered
the same. Writes docs/results/verification.md and its picture; see plans/verification.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from pdr_dspy.evaluation.statistics import Interval, paired, resamples, score_interval, wilson
from pdr_dspy.verifiers import RIGHT
from studies.drawing import canvas, save
from studies.expectation import Drafts, best_of, by_check, by_vote, over_samples
from studies.study import ROWS, Line, read_lines, shown

OUT = Path(__file__).parents[1] / "docs" / "results"
SOURCE = "best of 8"
"""The program whose first-round drafts are used: it has a check."""
GRID = tuple(round(step / 50, 2) for step in range(26))
"""Chances of an error of the check, from none to a coin's."""
SHOWN = (0.0, 0.1, 0.2, 0.3, 0.5)
RESAMPLES = 2000


class Study(NamedTuple):
    """The drafts of a study with a check."""

    name: str
    questions: dict[str, Drafts]
    lines: Mapping[str, Sequence[Line]]

    @property
    def width(self) -> int:
        """Drafts of each question."""
        return min(len(drafts.scores) for drafts in self.questions.values())


def load(path: Path) -> Study | None:
    """The study of a file of rows; None where it has no drafts that were graded and checked."""
    lines = read_lines(path)
    questions = {
        line.question: Drafts(tuple(score or 0.0 for score in line.drafts[0]), line.checks[0], line.answers[0])
        for line in lines.get(SOURCE, ())
        if line.drafts and line.answers and line.repeat == 0 and line.error is None
    }
    if not questions or all(check is None for drafts in questions.values() for check in drafts.checks):
        return None
    return Study(path.stem, questions, lines)


def studies_of(rows: Path) -> list[Study]:
    """Every study of a folder of rows that has a check."""
    return [study for path in sorted(rows.glob("*.jsonl")) if (study := load(path)) is not None]


class Placed(NamedTuple):
    """Where the real check of a study lies."""

    score: float
    """Of best-of-n by it."""
    errs: float
    """The chance p at which a check that errs by itself would do as well, from 0 to 0.5."""
    interval: Interval
    """Of `errs`, over questions."""
    false_positive: tuple[float, Interval]
    """How often it passes a wrong draft that can be read."""
    false_negative: tuple[float, Interval]
    """How often it fails a right one."""
    ranks: tuple[float, Interval]
    """How often, on one question, a right draft scores above a wrong one that can be read; ties count half. A check
    that errs with probability p has 1 - p."""
    foreseen: float
    """Best-of-n by a check with these two rates that errs on each draft by itself."""


def scores_at(study: Study, n: int, errs: float) -> list[float]:
    """Of each question: best-of-n by a check that is wrong with this probability."""
    return [best_of(drafts.counts, n, errs, errs) for drafts in study.questions.values()]


PASS = 0.999
"""An executed check passes what keeps all of its examples or rules."""
JUDGED = {"arithmetic": 0.5}
"""Studies whose check gives a probability, and from where on that is a yes."""


def threshold_of(study: Study) -> float:
    """From which score on the check of a study passes a draft."""
    return JUDGED.get(study.name.partition("-")[0], PASS)


def rates(questions: Sequence[Drafts], threshold: float) -> tuple[float, float]:
    """How often a check passes wrong drafts that can be read, and fails right ones."""
    facts = np.array([_facts(drafts, threshold) for drafts in questions])
    return _ratio(facts[:, 0], facts[:, 1]), _ratio(facts[:, 2], facts[:, 3])


def placed(study: Study, n: int) -> Placed:
    """Where the real check lies on the curve of best-of-n."""
    questions = list(study.questions.values())
    threshold = threshold_of(study)
    real = np.array([over_samples(drafts, n, by_check) for drafts in questions])
    curve = np.array([scores_at(study, n, errs) for errs in GRID])  # of each p, each question
    facts = np.array([_facts(drafts, threshold) for drafts in questions])
    picks = resamples(len(questions), RESAMPLES, seed=0)
    errs = [_where(curve[:, pick].mean(axis=1), float(real[pick].mean())) for pick in picks]
    found: list[tuple[float, Interval]] = []
    for column in (0, 2, 4):
        above, below = facts[:, column], facts[:, column + 1]
        rate = _ratio(above, below)
        if rate in (0.0, 1.0):  # no sample of these questions says anything else
            questions_with = int((below > 0).sum())
            found.append((rate, wilson(rate * questions_with, questions_with)))
        else:
            found.append((rate, _interval([_ratio(above[pick], below[pick]) for pick in picks])))
    passed, failed, ranks = found
    foreseen = fmean(best_of(drafts.counts, n, passed[0], failed[0]) for drafts in questions)
    score = float(real.mean())
    return Placed(score, _where(curve.mean(axis=1), score), _interval(errs), passed, failed, ranks, foreseen)


def _facts(drafts: Drafts, threshold: float) -> tuple[float, ...]:
    """Wrong drafts that pass, wrong ones; right ones that fail, right ones; pairs in order, pairs (one or none)."""
    right = [c or 0.0 for c, s in zip(drafts.checks, drafts.scores, strict=True) if s >= RIGHT]
    wrong = [
        c or 0.0
        for c, s, a in zip(drafts.checks, drafts.scores, drafts.answers, strict=True)
        if s < RIGHT and a is not None
    ]
    pairs = [1.0 if r > w else 0.5 if r == w else 0.0 for r in right for w in wrong]
    ordered = (fmean(pairs), 1.0) if pairs else (0.0, 0.0)
    return (
        float(sum(w >= threshold for w in wrong)),
        float(len(wrong)),
        float(sum(r < threshold for r in right)),
        float(len(right)),
        *ordered,
    )


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> float:
    return float(above.sum() / below.sum()) if below.sum() else 0.0


def _interval(values: Sequence[float]) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))


def _where(curve: NDArray[np.float64], score: float) -> float:
    """The p at which a curve that falls with p has this score, held to its ends."""
    return float(np.interp(-score, -np.maximum.accumulate(curve[::-1])[::-1], GRID))


def sizes(study: Study) -> list[int]:
    """The n of the table."""
    return [n for n in (1, 2, 4, 8, 16) if n <= study.width]


def table(study: Study) -> str:
    """Best-of-n by checks of growing error, beside votes, the real check and pass@n, each against one pass."""
    questions = list(study.questions.values())
    one = scores_at_one(study)
    columns: list[tuple[str, list[list[float]]]] = [
        ("perfect check: pass@n", [scores_at(study, n, 0.0) for n in sizes(study)]),
        ("the real check", [[over_samples(drafts, n, by_check) for drafts in questions] for n in sizes(study)]),
        *((f"errs {errs:g}", [scores_at(study, n, errs) for n in sizes(study)]) for errs in SHOWN[1:]),
        ("vote", [[over_samples(drafts, n, by_vote) for drafts in questions] for n in sizes(study)]),
    ]
    text = f"| pick | {' | '.join(f'n = {n}' for n in sizes(study))} | n = {sizes(study)[-1]} minus one pass |\n"
    text += f"|---|{'--:|' * (len(sizes(study)) + 1)}\n"
    for name, found in columns:
        cells = []
        for values in found:
            low, high = score_interval(values)
            cells.append(f"{fmean(values):.3f} [{low:.2f}, {high:.2f}]")
        cells.append(shown(paired(found[-1], one)))
        text += f"| {name} | {' | '.join(cells)} |\n"
    return text


def scores_at_one(study: Study) -> list[float]:
    """Of each question the share of drafts that are right: one pass."""
    return [fmean(drafts.scores) for drafts in study.questions.values()]


def where(study: Study) -> str:
    """Where the real check lies, as a Markdown table."""
    n = sizes(study)[-1]
    found = placed(study, n)
    rows = [
        ("passes a wrong draft that can be read", _rate(found.false_positive)),
        ("fails a right draft", _rate(found.false_negative)),
        ("ranks a right draft of a question above a wrong one", _rate(found.ranks)),
        (f"best of {n} by it", f"{found.score:.3f}"),
        ("the same, foreseen from the two rates", f"{found.foreseen:.3f}"),
        ("as good as a check that errs with probability", _rate((found.errs, found.interval))),
    ]
    return "| the real check | |\n|---|--:|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _rate(found: tuple[float, Interval]) -> str:
    value, (low, high) = found
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def anchoring(study: Study) -> str:
    """How often a refinement is right by how many of the drafts that it read were, as a Markdown table."""
    rows = ""
    told: list[list[object]] = []
    for name, lines in study.lines.items():
        ran: list[object] = [(line.question, line.repeat, line.shown, line.drafts) for line in lines]
        if ran in told:  # programs that only answer differently made the same refinements
            continue
        told.append(ran)
        by_right: dict[tuple[int, int], list[float]] = {}
        for line in lines:
            for number, workspaces in enumerate(line.shown[:-1]):
                scores, after = line.drafts[number], line.drafts[number + 1]
                for place, sources in enumerate(workspaces):
                    reading = after[place : place + 1] if len(workspaces) > 1 else after
                    right = sum((scores[source] or 0.0) >= RIGHT for source in sources)
                    by_right.setdefault((right, len(sources)), []).append(fmean(score or 0.0 for score in reading))
        for (right, of), values in sorted(by_right.items(), key=lambda item: (item[0][1], item[0][0])):
            low, high = score_interval(values)
            rows += f"| {name} | {right} of {of} | {len(values)} | {fmean(values):.2f} [{low:.2f}, {high:.2f}] |\n"
    head = "| program | right drafts among those shown | workspaces | refinement right |\n|---|--:|--:|--:|\n"
    return head + rows if rows else ""


def picture(studies: Sequence[Study], path: Path) -> None:
    """Score against the check's chance of an error, a panel for each study, as an SVG."""
    pyplot = canvas()
    figure, panels = pyplot.subplots(
        1, len(studies), figsize=(5.4 * len(studies) + 1.2, 4.4), squeeze=False, layout="constrained"
    )
    colours = pyplot.get_cmap("viridis")
    for panel, study in zip(panels[0], studies, strict=True):
        several = [n for n in sizes(study) if n > 1]
        for number, n in enumerate(several):
            means = [fmean(scores_at(study, n, errs)) for errs in GRID]
            colour = colours(0.8 * (1 - number / max(1, len(several) - 1)))
            panel.plot(GRID, means, color=colour, label=f"best of {n}")
            if n == several[-1]:
                base = scores_at_one(study)
                found = [paired(scores_at(study, n, errs), base).interval for errs in GRID]
                one = fmean(base)
                panel.fill_between(
                    GRID, [one + f.low for f in found], [one + f.high for f in found], color=colour, alpha=0.12
                )
        n = several[-1]
        real = placed(study, n)
        spread = [[max(0.0, real.errs - real.interval.low)], [max(0.0, real.interval.high - real.errs)]]
        panel.errorbar(real.errs, real.score, xerr=spread, fmt="o", color="#c33", label=f"the real check, n = {n}")
        voted = fmean(over_samples(drafts, n, by_vote) for drafts in study.questions.values())
        panel.axhline(voted, color="#888", linestyle=":", label=f"vote of {n}")
        panel.axhline(fmean(scores_at_one(study)), color="#888", linestyle="--", label="one pass")
        panel.set_title(f"{study.name}, {len(study.questions)} questions", fontsize=10)
        panel.set_xlabel("chance that the check is wrong about a draft")
        panel.grid(visible=True, alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("share of questions solved")
    panels[0][-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    save(figure, path)


HEAD = """# What verification is worth

Best of n drafts under a check that is wrong about each draft with probability p, from no error to a coin; then where
the real check of each study lies. No simulation: sums over all choices of n drafts of the stored ones, and over the
check's errors. Drafts that cannot be read are picked by no check, so that the coin's end (p = 0.5) is above one pass
where some cannot be. Intervals are 95 %, over questions; the picture's band is that of the difference from one pass at
the largest n.
Plan: `studies/plans/verification.md`. Repeat: `python -m studies.verification`; no model is asked.

![](check-quality.svg)
"""


def page(studies: Sequence[Study]) -> str:
    """The page of all studies."""
    text = HEAD
    for study in studies:
        text += f"\n## {study.name}\n\n{len(study.questions)} questions, {study.width} drafts each; rows: "
        text += f"`studies/rows/{study.name}.jsonl`.\n\n{table(study)}\n{where(study)}"
        if shown := anchoring(study):
            text += f"\nWhat a refinement makes of what it is shown:\n\n{shown}"
    return text


def write(rows: Path, out: Path) -> Path | None:
    """Write the page and its picture; None where no study has a check."""
    studies = studies_of(rows)
    if not studies:
        return None
    picture(studies, out / "check-quality.svg")
    path = out / "verification.md"
    path.write_text(page(studies), encoding="utf-8")
    return path


def main() -> None:
    """Write docs/results/verification.md and check-quality.svg."""
    print(write(ROWS, OUT))


if __name__ == "__main__":
    typer.run(main)
