"""Figures of the report, as SVG text that takes the colours of the page around it, light or dark.

Needs matplotlib (the `report` extra). Points carry one letter each; whoever shows the figure says what they mean.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pdr_dspy.analysis import RoundFlow
from pdr_dspy.errors import MissingExtra
from pdr_dspy.stats import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour until the figure is written."""
BLUE, ORANGE, GREEN, GREY = "#3b82c4", "#e07b39", "#2f9e6e", "#8a8f98"  # each readable on white and on near-black


class Point(NamedTuple):
    """One program in a figure of score against cost."""

    letter: str
    score: float
    interval: Interval
    cost: float
    """Mean tokens of a run."""
    role: Literal["trial", "front", "student", "tuned", "program"] = "program"


_LOOK = {
    "trial": (GREY, "o", 22),
    "front": (BLUE, "o", 22),
    "program": (BLUE, "o", 44),
    "student": (ORANGE, "s", 52),
    "tuned": (GREEN, "D", 52),
}


def score_against_cost(points: Sequence[Point], *, label: str, limit: float | None = None) -> str:
    """Score with its 95 % interval against tokens, the tokens on a logarithmic axis; the front is drawn through.

    Args:
        points: programs; those without a letter, the trials of a search, are drawn small and without intervals.
        label: of the cost axis.
        limit: a limit on the cost, drawn as a line.

    Raises MissingExtra without matplotlib.
    """
    figure, axes = _canvas(6.4, 3.9)
    for place, point in enumerate(points):
        colour, marker, size = _LOOK[point.role]
        if point.letter:
            low, high = point.interval
            axes.vlines(point.cost, low, high, color=colour, linewidth=1.6, alpha=0.55)
        alpha = 0.55 if point.role == "trial" else 1.0
        axes.scatter(
            [point.cost], [point.score], s=size, color=colour, marker=marker, alpha=alpha, zorder=3, linewidth=0
        )
        if point.letter:
            offset = ((6, 5), (6, -12), (-12, 5), (-12, -12))[place % 4]  # programs of equal cost stand close together
            axes.annotate(
                point.letter, (point.cost, point.score), offset, textcoords="offset points", color=INK, fontsize=10
            )
    line = sorted((p for p in points if p.role == "front"), key=lambda p: p.cost)
    if len(line) > 1:
        axes.step([p.cost for p in line], [p.score for p in line], where="post", color=BLUE, linewidth=1, alpha=0.6)
    if limit is not None:
        axes.axvline(limit, color=ORANGE, linewidth=1.2, linestyle=(0, (4, 3)))
    costs = [p.cost for p in points if p.cost > 0]
    if costs and max(costs) > 1.5 * min(costs):
        axes.set_xscale("log")
        _plain_ticks(axes)
    axes.set_xlabel(label)
    axes.set_ylabel("score")
    axes.set_ylim(-0.02, 1.02)
    return _svg(figure, f"{label}{len(points)}")


def rounds(flow: Sequence[RoundFlow]) -> str:
    """Round by round: right drafts, runs whose plurality is right, runs with any right draft.

    Raises MissingExtra without matplotlib.
    """
    figure, axes = _canvas(6.4, 3.2)
    numbers = [row.round for row in flow]
    series = (
        ("any draft right", [row.any_right for row in flow], BLUE, "^"),
        ("most common answer right", [row.majority for row in flow], GREEN, "D"),
        ("drafts right", [row.accuracy for row in flow], ORANGE, "o"),
    )
    for name, values, colour, marker in series:
        axes.plot(numbers, values, color=colour, marker=marker, linewidth=1.8, markersize=6, label=name)
    axes.vlines(
        numbers, [r.interval.low for r in flow], [r.interval.high for r in flow], color=ORANGE, linewidth=1.6, alpha=0.5
    )
    axes.set_xticks(
        numbers, [f"round {row.round}\n{row.drafts:g} draft{'' if row.drafts == 1 else 's'}" for row in flow]
    )
    axes.set_xlim(min(numbers) - 0.4, max(numbers) + 0.4)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3)
    return _svg(figure, "rounds")


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure  # its own canvas: no window system, no global state of pyplot
    except ImportError:
        raise MissingExtra("matplotlib", "report", "a figure") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_alpha(0.5)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(visible=True, axis="y", color=INK, alpha=0.12, linewidth=0.8)
    return figure, axes


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def short(value: float, _: Any) -> str:
        return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"

    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an element for a page: no header, no style of its own, text as text, ids that cannot clash."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 system-ui, sans-serif", text)
    for name in set(re.findall(r' id="([^"]+)"', text)):
        if f"#{name}" not in text:
            text = text.replace(f' id="{name}"', "")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', text, count=1)
    return text.replace(INK, "currentColor").strip()
