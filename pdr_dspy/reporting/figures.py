"""Figures of the report as SVG: text stays text, colours come from the page, nothing is loaded.

Drawn directly: a page on a phone needs system fonts, few elements and sizes that survive scaling. Outside of a page
that sets `--accent` and `--soft` the figures use colours of their own. Tooltips are escaped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Literal, NamedTuple

from pdr_dspy.evaluation.statistics import Interval
from pdr_dspy.reporting.evaluation_tables import RoundFlow

ACCENT, SOFT, INK = "var(--accent,#3157d5)", "var(--soft,#6b7280)", "currentColor"
WIDTH = 440.0
"""Width of a figure in units: about the pixels of a phone, so that its text is as large as the page's."""

Role = Literal["dropped", "trial", "front", "student", "tuned", "program"]


class Point(NamedTuple):
    """One program in a figure of score against cost."""

    letter: str
    """Label beside the mark; empty for none."""
    score: float
    interval: Interval | None
    """Drawn as a band; None for none."""
    cost: float
    """Mean tokens of a run."""
    role: Role = "program"
    cost_interval: Interval | None = None
    ring: bool = False
    """Whether it is a finalist."""
    title: str = ""
    """Tooltip."""


class Lane(NamedTuple):
    """One trial in the figure of a race."""

    letter: str
    cohort: int
    runs: int
    role: Role
    title: str = ""


FAR = 8.0
"""A limit is drawn only up to this multiple of the most expensive program's cost."""


def score_against_cost(
    points: Sequence[Point], *, label: str, limit: float | None = None, line: Sequence[tuple[float, float]] = ()
) -> str:
    """Score against tokens, the tokens on a logarithmic axis.

    Args:
        points: programs; later ones are drawn over earlier ones of the same role.
        label: of the cost axis.
        limit: a limit on the cost, drawn as a line; a limit far from all programs is only stated, since it would
            compress them at the other side.
        line: (cost, score) of the front, the cheapest first; drawn as steps.
    """
    points = [point for point in points if math.isfinite(point.score) and point.cost > 0]
    bands = [edge for p in points if p.interval is not None for edge in p.interval]
    costs = [p.cost for p in points]
    costs += [edge for p in points if p.cost_interval is not None for edge in p.cost_interval if 0 < edge < math.inf]
    far = limit is not None and bool(costs) and limit > FAR * max(costs)
    if limit and not far:
        costs.append(limit)
    y = _Axis.scores([*bands, *(p.score for p in points)], top=26.0, bottom=266.0)
    x = _Axis.tokens(costs, left=44.0, right=WIDTH - 14.0)
    parts = [_frame(x, y, label)]
    if far and limit is not None:
        text = f"limit {_short(limit)}, to the right"
        parts.append(_text(WIDTH - 14.0, y.high - 8, text, anchor="end", size=12, colour=SOFT))
    elif limit is not None:
        at = x(limit)
        anchor, shift = ("end", -5) if at > WIDTH * 0.6 else ("start", 5)
        parts.append(_path(f"M{at:.1f} {y.low:.1f}V{y.high:.1f}", INK, 1.2, dash="5 4", opacity=0.7))
        parts.append(_text(at + shift, y.high - 8, f"limit {_short(limit)}", anchor=anchor, size=12, colour=SOFT))
    if len(line) > 1:
        steps = f"M{x(line[0][0]):.1f} {y(line[0][1]):.1f}" + "".join(
            f"H{x(cost):.1f}V{y(score):.1f}" for cost, score in line[1:]
        )
        parts.append(_path(steps, ACCENT, 1.6, opacity=0.55))
    order = ("dropped", "trial", "program", "front", "student", "tuned")
    ordered = sorted(points, key=lambda point: order.index(point.role))
    spots = _apart([_Extent.of(point, x, y) for point in ordered], x)
    for point, at in zip(ordered, spots, strict=True):
        parts.append(_bands(point, at, x, y))
        if abs(at - x(point.cost)) > 2:  # its original position
            b = y(point.score)
            parts.append(_path(f"M{x(point.cost):.1f} {b:.1f}H{at:.1f}", INK, 0.8, opacity=0.5))
            parts.append(_circle(x(point.cost), b, 1.3, fill=INK))
    for point, at in zip(ordered, spots, strict=True):
        parts.append(_mark(point.role, at, y(point.score), point.title, ring=point.ring))
    places = [(at, y(point.score)) for point, at in zip(ordered, spots, strict=True)]
    reach = [5 + 5 * point.ring for point in ordered]
    taken = [
        (a - r, b - r, a + r, b + r)
        for (a, b), r, point in zip(places, reach, ordered, strict=True)
        if point.role != "dropped"
    ]
    for point, (a, b) in reversed(list(zip(ordered, places, strict=True))):
        if point.letter:
            crowded = any(0 < other - a < 2 * APART and abs(level - b) < APART for other, level in places)
            parts.append(_placed(point.letter, a, b, taken, bold=point.role == "tuned", left=crowded))
    return _svg(parts, 310.0, f"score against {label}")


def roc(curve: Sequence[tuple[float, float]], *, at: tuple[float, float]) -> str:
    """The ROC curve of a check: the fraction of right drafts that pass against that of wrong ones.

    Args:
        curve: (fraction of wrong drafts, fraction of right ones) that pass, from the highest threshold down.
        at: the point of the threshold in use.
    """
    x = _Axis(0.0, 1.0, 44.0, 274.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    y = _Axis(0.0, 1.0, 256.0, 26.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    parts = [_path(f"M{x(0):.1f} {y(0):.1f}V{y(1):.1f}H{x(1):.1f}V{y(0):.1f}Z", SOFT, 0.8, opacity=0.6)]
    for tick in (0.0, 0.5, 1.0):
        parts.append(_text(x.low - 6, y(tick) + 4, f"{100 * tick:.0f}", anchor="end", size=12, colour=SOFT))
        parts.append(_text(x(tick), y.low + 16, f"{100 * tick:.0f}", anchor="middle", size=12, colour=SOFT))
    parts.append(_path(f"M{x(0):.1f} {y(0):.1f}L{x(1):.1f} {y(1):.1f}", SOFT, 1.0, dash="5 4"))
    line = "L".join(f"{x(wrong):.1f} {y(right):.1f}" for wrong, right in [(0.0, 0.0), *curve, (1.0, 1.0)])
    parts.append(_path(f"M{line}", ACCENT, 2.0))
    parts.append(_titled(_circle(x(at[0]), y(at[1]), 5.0, fill=ACCENT), "the threshold"))
    parts.append(_text(x.low, 14, "% of right drafts that pass", size=12, colour=SOFT))
    parts.append(_text(x(1), y.low + 34, "% of wrong drafts that pass", anchor="end", size=12, colour=SOFT))
    return _svg(parts, 296.0, "right drafts that pass against wrong ones")


APART = 12.0
"""Minimum distance, in units, between marks with labels."""
BESIDE = 5.0
"""Minimum distance, in units, between bands."""


class _Extent(NamedTuple):
    """The position at which a point is drawn."""

    a: float
    b: float
    high: float
    low: float
    """Ends of its band; lower on the page is more."""
    labelled: bool

    @classmethod
    def of(cls, point: Point, x: _Axis, y: _Axis) -> _Extent:
        b = y(point.score)
        ends = (b, b) if point.interval is None else (y(point.interval.high), y(point.interval.low))
        return cls(x(point.cost), b, *ends, bool(point.letter))

    def room(self, other: _Extent) -> float:
        """The distance that the two need along the cost axis, in units."""
        if abs(self.b - other.b) < APART:
            return APART
        return BESIDE if self.high < other.low and other.high < self.low else 0.0


def _apart(extents: Sequence[_Extent], x: _Axis) -> list[float]:
    """Positions of points along the cost axis: labelled points that are too close to another are moved aside."""
    at = [extent.a for extent in extents]
    moved = sorted((place for place, one in enumerate(extents) if one.labelled), key=lambda place: at[place])
    pairs = [
        (left, right, room)
        for left, right in itertools.combinations(moved, 2)
        if (room := extents[left].room(extents[right]))
    ]
    for _ in range(200):
        worst = 0.0
        for left, right, room in pairs:
            lack = room - (at[right] - at[left])
            if lack > 0.1:
                at[left], at[right] = at[left] - lack / 2, at[right] + lack / 2
                worst = max(worst, lack)
        for place in moved:
            at[place] = min(max(at[place], x.low + 4), x.high - 4)
        if worst == 0.0:
            break
    return at


def race(lanes: Sequence[Lane], runs: int) -> str:
    """The length of each trial's run: a line each, grouped by cohort.

    Args:
        lanes: in their order.
        runs: of a complete race.
    """
    pitch = 11.0 if len(lanes) <= 40 else 7.0
    groups = [list(group) for _, group in itertools.groupby(lanes, key=lambda lane: lane.cohort)]
    height = sum(len(group) * pitch + 9.0 for group in groups) + 12.0
    x = _Axis(0.0, float(runs), 62.0, WIDTH - 52.0, tuple(sorted({lane.runs for lane in lanes} | {runs})))
    parts = [_path(f"M{x(tick):.1f} 6V{height:.1f}", INK, 1, opacity=0.14) for tick in x.ticks]
    parts += [
        _text(x(tick), height + 15, f"{tick:g}", anchor="middle", size=12, colour=SOFT) for tick in _spaced(x, 22)
    ]
    parts.append(_text((x.low + x.high) / 2, height + 32, "runs in the race", anchor="middle", size=12, colour=SOFT))
    top, last, right = 14.0, -math.inf, 0.0
    for group in groups:
        middle = top + (len(group) - 1) * pitch / 2 + 4
        parts.append(_text(52, middle, f"cohort {group[0].cohort}", anchor="end", size=12, colour=SOFT))
        for lane in group:
            end, chosen = x(lane.runs), lane.role in ("front", "student", "tuned")
            colour = ACCENT if lane.role in ("front", "tuned") else INK if lane.role == "student" else SOFT
            opacity = 1.0 if chosen else 0.45 if lane.role == "dropped" else 0.75
            parts.append(_path(f"M{x.low:.1f} {top:.1f}H{end:.1f}", colour, 2.4 if chosen else 1.6, opacity=opacity))
            if lane.role == "dropped":
                cross = f"M{end - 3:.1f} {top - 3:.1f}l6 6m0 -6l-6 6"
                parts.append(_titled(_path(cross, SOFT, 1.4), lane.title))
            else:
                parts.append(_mark(lane.role, end, top, lane.title))
            if lane.letter:
                start = right if top - last < 10.0 and right > end else end + 11  # beside the label above, not over it
                parts.append(_text(start, top + 4, lane.letter, size=11, bold=lane.role == "tuned"))
                last, right = top, start + 7.0 * len(lane.letter) + 5
            top += pitch
        top += 9.0
    return _svg(parts, height + 40, "runs of each trial in the race")


_ASIDE = 11.0


def rounds(flow: Sequence[RoundFlow]) -> str:
    """Round by round: right drafts, runs whose plurality is right, runs with any right draft."""
    series: tuple[tuple[str, Callable[[RoundFlow], float], str, str], ...] = (
        ("any draft right", lambda row: row.any_right, SOFT, "3 4"),
        ("most common right", lambda row: row.majority, INK, ""),
        ("drafts right", lambda row: row.accuracy, ACCENT, ""),
    )
    flow = [row for row in flow if row.accuracy == row.accuracy]
    low = [edge for row in flow for edge in row.interval]
    y = _Axis.scores([value(row) for row in flow for _, value, _, _ in series] + low, top=44.0, bottom=236.0)
    gap = (WIDTH - 44.0 - 40.0) / max(len(flow), 1)
    places = [44.0 + gap * (place + 0.5) + 13 for place in range(len(flow))]
    parts = [_grid(y, 44.0, WIDTH - 14.0)]
    for place, row in zip(places, flow, strict=True):
        count = f"{row.drafts:.3g} draft{'' if row.drafts == 1 else 's'}"
        parts.append(_text(place, y.low + 18, f"round {row.round}", anchor="middle", size=12))
        parts.append(_text(place, y.low + 33, count, anchor="middle", size=12, colour=SOFT))
        band = place + _ASIDE * (len(series) - 1) / 2
        parts.append(
            _path(f"M{band:.1f} {y(row.interval.low):.1f}V{y(row.interval.high):.1f}", ACCENT, 5, opacity=0.22)
        )
    start = 6.0
    for number, (name, value, colour, dash) in enumerate(series):
        aside = _ASIDE * (number - (len(series) - 1) / 2)  # equal values would hide each other
        spots = [(place + aside, y(value(row))) for place, row in zip(places, flow, strict=True)]
        if len(spots) > 1:
            parts.append(_path("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in spots), colour, 1.8, dash=dash))
        for (a, b), row in zip(spots, flow, strict=True):
            parts.append(_titled(_circle(a, b, 4, fill=colour), f"round {row.round}, {name}: {100 * value(row):.1f} %"))
        parts.append(_path(f"M{start} 14h16", colour, 1.8, dash=dash) + _circle(start + 8, 14, 3.4, fill=colour))
        parts.append(_text(start + 21, 18, name, size=12.5))
        start += 36 + 6.7 * len(name)
    return _svg(parts, 282.0, "shares of right drafts and answers, round by round")


# --- axes ------------------------------------------------------------------------------------------------------------


class _Axis:
    """Maps values to positions. `low` and `high` are the positions of the ends."""

    def __init__(
        self, first: float, last: float, low: float, high: float, ticks: Sequence[float], *, log: bool = False
    ) -> None:
        self.first, self.last, self.low, self.high, self.log = first, last, low, high, log
        self.ticks = tuple(tick for tick in ticks if first - 1e-9 <= tick <= last + 1e-9)

    def __call__(self, value: float) -> float:
        value = min(max(value, self.first), self.last)
        first, last = (math.log(self.first), math.log(self.last)) if self.log else (self.first, self.last)
        share = ((math.log(value) if self.log else value) - first) / (last - first)
        return self.low + share * (self.high - self.low)

    @classmethod
    def scores(cls, values: Sequence[float], *, top: float, bottom: float) -> _Axis:
        """A fraction from the bottom up, just wide enough for all values."""
        known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        span = max(max(known) - min(known), 0.1)
        step = next(step for step in (0.05, 0.1, 0.2, 0.25) if span / step <= 6 or step == 0.25)
        first = max(0.0, math.floor(min(known) / step - 0.15) * step)
        last = min(1.0, math.ceil(max(known) / step + 0.15) * step)
        ticks = [place * step for place in range(round(1 / step) + 1)]
        return cls(first, last, bottom, top, ticks)

    @classmethod
    def tokens(cls, values: Sequence[float], *, left: float, right: float) -> _Axis:
        """Tokens on a logarithmic axis."""
        known = [value for value in values if 0 < value < math.inf] or [1.0, 10.0]
        first, last = min(known) / 1.12, max(known) * 1.12
        if last / first < 2:
            first, last = first / 1.3, last * 1.3
        powers = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            ticks = [step * 10.0**power for power in powers for step in steps if first <= step * 10.0**power <= last]
            if len(ticks) >= 4:
                break
        return cls(first, last, left, right, ticks, log=True)


def _spaced(axis: _Axis, least: float) -> list[float]:
    """Ticks whose labels do not touch; the last one is always included."""
    kept: list[float] = []
    for tick in reversed(axis.ticks):
        if not kept or axis(kept[-1]) - axis(tick) >= least:
            kept.append(tick)
    return kept


def _frame(x: _Axis, y: _Axis, label: str) -> str:
    parts = [_grid(y, x.low, x.high), _path(f"M{x.low:.1f} {y.low:.1f}H{x.high:.1f}", INK, 1, opacity=0.45)]
    for tick in x.ticks:
        parts.append(_path(f"M{x(tick):.1f} {y.low:.1f}v4", INK, 1, opacity=0.45))
        parts.append(_text(x(tick), y.low + 17, _short(tick), anchor="middle", size=12, colour=SOFT))
    parts.append(_text((x.low + x.high) / 2, y.low + 36, label, anchor="middle", size=12.5, colour=SOFT))
    return "".join(parts)


def _grid(y: _Axis, left: float, right: float) -> str:
    lines = [_path(f"M{left:.1f} {y(tick):.1f}H{right:.1f}", INK, 1, opacity=0.1) for tick in y.ticks]
    return "".join(lines) + "".join(
        _text(left - 7, y(tick) + 4, f"{100 * tick:g}{' %' if tick == y.ticks[-1] else ''}", anchor="end", size=12,
              colour=SOFT)
        for tick in y.ticks
    )  # fmt: skip


def _short(tokens: float) -> str:
    if tokens >= 1_000_000:
        return f"{tokens / 1_000_000:.3g}M"
    return f"{tokens / 1000:.3g}k" if tokens >= 1000 else f"{tokens:.3g}"


# --- marks -----------------------------------------------------------------------------------------------------------


def _bands(point: Point, a: float, x: _Axis, y: _Axis) -> str:
    """The intervals of a mark at position `a`."""
    colour = {"front": ACCENT, "tuned": ACCENT, "trial": SOFT, "dropped": SOFT}.get(point.role, INK)
    parts, b = [], y(point.score)
    if point.interval is not None:
        low, high = (y(edge) for edge in point.interval)
        parts.append(_path(f"M{a:.1f} {low:.1f}V{high:.1f}", colour, 1.6, opacity=0.38))
    if point.cost_interval is not None and all(map(math.isfinite, point.cost_interval)):
        low, high = (x(edge) for edge in point.cost_interval)
        parts.append(_path(f"M{low:.1f} {b:.1f}H{high:.1f}", colour, 1.6, opacity=0.38))
    return "".join(parts)


def _mark(role: Role, a: float, b: float, title: str, *, ring: bool = False) -> str:
    page = "var(--page,#fff)"
    if role == "tuned":
        mark = _path(f"M{a:.1f} {b - 7:.1f}l7 7l-7 7l-7 -7z", page, 1.5, fill=ACCENT)
    elif role == "student":
        mark = _path(f"M{a - 5:.1f} {b - 5:.1f}h10v10h-10z", INK, 1.8, fill=page)
    elif role == "dropped":
        mark = _circle(a, b, 2.6, stroke=SOFT, opacity=0.6)
    else:
        radius, fill = {"trial": (3.2, SOFT), "front": (4.4, ACCENT)}.get(role, (4.6, INK))
        mark = _circle(a, b, radius, fill=fill, opacity=0.6 if role == "trial" else 1.0)
    if ring:
        mark += _circle(a, b, 10.0 if role == "tuned" else 8.0, stroke=INK)
    return _titled(mark, title)


def _placed(
    text: str, a: float, b: float, taken: list[tuple[float, float, float, float]], *, bold: bool, left: bool
) -> str:
    """A label beside a mark, where it covers least of the other elements; on the `left` if that is as good."""
    wide = 7.4 * len(text)
    near = ((9, -7), (-9 - wide, -7), (9, 15), (-9 - wide, 15), (-wide / 2, -13), (-wide / 2, 21))
    far = ((-wide / 2, -27), (-wide / 2, 34), (14, -22), (-14 - wide, -22), (14, 30), (-14 - wide, 30))
    near = (near[1], near[0], near[3], near[2], *near[4:]) if left else near
    best: tuple[float, float, float] | None = None
    for place, (dx, dy) in enumerate((*near, *far)):
        start, low = a + dx, b + dy
        box = (start, low - 10, start + wide, low + 1)
        covered = sum(
            max(0.0, min(box[2], t[2]) - max(box[0], t[0])) * max(0.0, min(box[3], t[3]) - max(box[1], t[1]))
            for t in taken
        )
        outside = 500.0 if start < 40 or box[2] > WIDTH or box[1] < 0 else 0.0
        if best is None or covered + outside + place < best[0]:
            best = (covered + outside + place, start, low)
    assert best is not None
    _, start, low = best
    taken.append((start, low - 10, start + wide, low + 1))
    edge = low - 11 if low > b else low + 2
    lead = "" if abs(low - b) < 22 else _path(
        f"M{a:.1f} {b:.1f}L{start + wide / 2:.1f} {edge:.1f}", SOFT, 0.8, opacity=0.6
    )  # fmt: skip
    return lead + _text(start, low, text, size=12.5, bold=bold)


def _titled(mark: str, title: str) -> str:
    return f"<g><title>{escape(title)}</title>{mark}</g>" if title else mark


def _circle(
    a: float, b: float, radius: float, *, fill: str = "none", stroke: str = "none", opacity: float = 1.0
) -> str:
    return (
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{radius:g}" style="fill:{fill};stroke:{stroke};stroke-width:1.3;'
        f'opacity:{opacity:g}"/>'
    )


def _path(data: str, colour: str, width: float, *, dash: str = "", opacity: float = 1.0, fill: str = "none") -> str:
    dashed = f";stroke-dasharray:{dash}" if dash else ""
    return f'<path d="{data}" style="fill:{fill};stroke:{colour};stroke-width:{width:g};opacity:{opacity:g}{dashed}"/>'


def _text(
    a: float, b: float, text: str, *, anchor: str = "start", size: float = 12, colour: str = INK, bold: bool = False
) -> str:
    weight = ";font-weight:700" if bold else ""
    return (
        f'<text x="{a:.1f}" y="{b:.1f}" text-anchor="{anchor}" style="font-size:{size:g}px;fill:{colour}{weight}">'
        f"{escape(text)}</text>"
    )


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}" style="font-family:system-ui,-apple-system,\'Segoe UI\',sans-serif;'
        f'font-variant-numeric:tabular-nums">{"".join(parts)}</svg>'
    )
