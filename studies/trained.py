"""The measurements of `studies.operator_rl`, one line for each checkpoint, and their page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.statistics import paired, score_interval
from pdr_dspy.runtime.atomic_write import write_whole
from studies.drawing import canvas, save
from studies.study import ROOT, shown
from studies.verification import OUT

TRAINED = ROOT / "trained"
"""One file for each model, in the repository."""
SEEDS = 3
"""Runs of each arm that a table needs."""


class About(NamedTuple):
    """A checkpoint."""

    arm: str
    seed: int
    steps: int
    calls: int
    """Sampled in training, untrained ones too."""
    sampled: int
    """Their output tokens."""
    read: int
    """Their prompt tokens."""
    seconds: float
    """CPU-seconds of training."""


class Line(NamedTuple):
    """What a checkpoint scores."""

    about: About
    scores: dict[str, list[float]]
    """By program: of each held-out question, the score."""

    @property
    def means(self) -> dict[str, float]:
        """By program."""
        return {name: round(fmean(each), 3) for name, each in self.scores.items()}


def line(found: Mapping[str, Any]) -> Line:
    """A line of a file."""
    return Line(About(**found["about"]), dict(found["scores"]))


def read(path: Path) -> tuple[dict[str, Any], list[Line]]:
    """The plan of a file, and its lines."""
    first, *others = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return first, [line(each) for each in others]


def agree(path: Path, plan: Mapping[str, Any]) -> list[Line]:
    """The lines of a file, none if there is no file. Raises StoreError for a file of another plan."""
    if not path.exists():
        return []
    held, lines = read(path)
    if held != json.loads(json.dumps(dict(plan))):
        raise StoreError(f"{path} holds the lines of another plan ({held}); move it away to run {plan}")
    return lines


def add(path: Path, new: Line, plan: Mapping[str, Any]) -> None:
    """Write a line, in the place of that of the same checkpoint.

    Raises StoreError for a file of another plan.
    """
    kept = [each for each in agree(path, plan) if each.about[:3] != new.about[:3]]
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [dict(plan), *({"about": each.about._asdict(), "scores": each.scores} for each in (*kept, new))]
    write_whole(path, "".join(f"{json.dumps(each)}\n" for each in written))


# --- the page --------------------------------------------------------------------------------------------------------

HEAD = """# Training a language model on PDR rounds

SmolLM2-135M adds two-digit numbers, after a warm-up that taught it the form of an answer. From that base it is trained
on traces alone, and on traces and PDR rounds 1:1, and measured on held-out sums at temperature 1. Plan:
`studies/plans/operator_rl.md`. Repeat: `python -m studies.operator_rl`.
"""
BASE, REFERENCE = "base", "traces"


class Place(NamedTuple):
    """The runs of one arm at one number of steps."""

    arm: str
    steps: int
    lines: tuple[Line, ...]
    """One for each seed."""

    @property
    def title(self) -> str:
        """Of a row."""
        return f"{self.arm}, {self.steps} steps" if self.steps else self.arm

    def scores(self, program: str) -> list[float]:
        """Of each held-out question, the mean over seeds."""
        return [fmean(each) for each in zip(*(line.scores[program] for line in self.lines), strict=True)]

    def mean(self, figure: str) -> float:
        """Of a figure of `About`, over seeds."""
        return fmean(getattr(line.about, figure) for line in self.lines)


def places(lines: Sequence[Line], seeds: int) -> list[Place]:
    """The checkpoints that every seed has reached."""
    found: dict[tuple[str, int], list[Line]] = {}
    for each in sorted(lines, key=lambda one: one.about.seed):
        found.setdefault((each.about.arm, each.about.steps), []).append(each)
    return [Place(arm, steps, tuple(own)) for (arm, steps), own in found.items() if len(own) >= seeds]


def difference(first: Sequence[float], second: Sequence[float]) -> str:
    """First minus second, with its interval over questions."""
    return shown(paired(first, second))


def scores_table(found: Sequence[Place]) -> str:
    """What each checkpoint scores in each program."""
    programs = list(found[0].lines[0].scores)
    text = f"| trained on | {' | '.join(programs)} | sampled calls | tokens | CPU-hours |\n"
    text += f"|---{'|--:' * (len(programs) + 3)}|\n"
    for place in found:
        cells = []
        for program in programs:
            own = place.scores(program)
            low, high = score_interval(own)
            cells.append(f"{fmean(own):.3f} [{low:.2f}, {high:.2f}]")
        costs = [f"{place.mean('calls'):,.0f}", f"{place.mean('sampled'):,.0f}", f"{place.mean('seconds') / 3600:.2f}"]
        text += f"| {place.title} | {' | '.join([*cells, *(costs if place.steps else [''] * 3)])} |\n"
    return text


def pdr_table(found: Sequence[Place]) -> str:
    """What PDR gains over the same model's one pass and vote."""
    text = "| trained on | PDR minus one pass | PDR minus vote | SR minus one pass |\n|---|--:|--:|--:|\n"
    for place in found:
        one, vote, pdr, sr = (place.scores(name) for name in place.lines[0].scores)
        text += f"| {place.title} | {difference(pdr, one)} | {difference(pdr, vote)} | {difference(sr, one)} |\n"
    return text


def gains_table(found: Sequence[Place]) -> str:
    """Each checkpoint less those of the reference at as many steps, and at about as many calls."""
    text = "| | program | difference | by seed |\n|---|---|--:|---|\n"
    for place in found:
        for other in found:
            near = other.steps == place.steps or abs(other.mean("calls") / max(place.mean("calls"), 1) - 1) < 0.1
            if other.arm != REFERENCE or place.arm in (BASE, REFERENCE) or not near:
                continue
            for program in place.lines[0].scores:
                each = [
                    f"{fmean(mine.scores[program]) - fmean(theirs.scores[program]):+.3f}"
                    for mine, theirs in zip(place.lines, other.lines, strict=True)
                ]
                shown = difference(place.scores(program), other.scores(program))
                text += f"| {place.title}, minus {other.title} | {program} | {shown} | {', '.join(each)} |\n"
    return text


def picture(found: Sequence[Place], title: str) -> Any:
    """A figure of what each checkpoint scores in each program: bars with their intervals, a point for each seed."""
    pyplot = canvas()
    figure, panel = pyplot.subplots(figsize=(9.5, 4.6), layout="constrained")
    programs = list(found[0].lines[0].scores)
    wide = 0.8 / len(programs)
    for number, program in enumerate(programs):
        at = [place + (number - (len(programs) - 1) / 2) * wide for place in range(len(found))]
        means = [fmean(place.scores(program)) for place in found]
        edges = [score_interval(place.scores(program)) for place in found]
        bars = [
            [mean - edge.low for mean, edge in zip(means, edges, strict=True)],
            [edge.high - mean for mean, edge in zip(means, edges, strict=True)],
        ]
        panel.bar(at, means, width=0.9 * wide, yerr=bars, label=program, error_kw={"elinewidth": 1})
        for x, place in zip(at, found, strict=True):
            seeds = [fmean(line.scores[program]) for line in place.lines]
            panel.plot([x] * len(seeds), seeds, "k.", markersize=4)
    panel.set_xticks(range(len(found)), [place.title.replace(", ", "\n", 1) for place in found])
    panel.set_ylim(0, 1)
    panel.set_ylabel("right, a share of the held-out sums")
    panel.set_title(title)
    panel.legend(frameon=False, ncols=len(programs), loc="upper left")
    return figure


def table(path: Path, seeds: int = SEEDS) -> str:
    """The tables of a file; checkpoints that not every seed has reached are left out."""
    _, lines = read(path)
    found = places(lines, seeds)
    if not found:
        return f"No checkpoint has all {seeds} seeds yet.\n"
    questions = len(found[0].scores(next(iter(found[0].lines[0].scores))))
    return (
        f"![]({_drawn(path)})\n\n"
        f"{questions} held-out sums, {seeds} seeds. Intervals are 95 % over sums, of means over seeds.\n\n"
        f"{scores_table(found)}\n{pdr_table(found)}\n"
        f"Less training on traces alone, at as many steps or as many calls:\n\n{gains_table(found)}"
    )


def _drawn(path: Path) -> str:
    """The name of a file's picture."""
    return f"operator-rl-{path.stem}.svg"


def page(place: Path | None = None) -> str:
    """Of all files."""
    files = sorted((place or TRAINED).glob("*.jsonl"))
    text = HEAD if files else f"{HEAD}\nThe study has not been run yet.\n"
    for path in files:
        text += f"\n## {path.stem}\n\n{table(path)}"
    return text


def write_page(out: Path | None = None, place: Path | None = None) -> Path:
    """The page and its pictures, in docs/results."""
    room = out or OUT
    for lines in sorted((place or TRAINED).glob("*.jsonl")):
        if found := places(read(lines)[1], SEEDS):
            save(picture(found, f"SmolLM2-135M trained on sums, {SEEDS} seeds"), room / _drawn(lines))
    write_whole(room / "operator-rl.md", page(place))
    return room / "operator-rl.md"
