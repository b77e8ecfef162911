"""One self-contained HTML page about a search or some evaluations: no network, no scripts, light and dark.

Everything that came from a model or a data set is escaped.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from pdr_dspy import analysis, plots
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation import Report
from pdr_dspy.files import write_whole
from pdr_dspy.search import pareto
from pdr_dspy.search.objective import TrialRecord
from pdr_dspy.search.pareto import Limits
from pdr_dspy.search.result import SearchResult

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def write_report(
    source: str | Path | Report | Sequence[Report] | SearchResult,
    path: str | Path | None = None,
    *,
    programs: Sequence[Report] = (),
    title: str | None = None,
    commands: Sequence[str] = (),
    rows: int = 20,
) -> Path:
    """Write the page.

    Args:
        source: the run folder of a search or of an evaluation, one or several `Report`s, or a `SearchResult`.
        path: the file; None is `report.html` in the run folder.
        programs: more evaluations to show beside those of `source`, such as baselines on the same questions.
        title: of the page.
        commands: lines to show as commands; None needed for a run folder, which says how to use its program.
        rows: most wrong rows to list.

    Returns:
        The path.

    Raises:
        ConfigError: nothing to show, or no `path` for a source that is no folder.
        StoreError: the folder holds neither a finished search nor an evaluation, or the page cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    folder = Path(source) if isinstance(source, (str, Path)) else None
    if path is None and folder is None:
        raise ConfigError("`write_report(path=None)` needs a run folder as its source; give the file to write")
    facts = _facts(source)
    shown = [*facts.reports, *programs]
    if not any(report.rows for report in shown):
        raise ConfigError("`write_report(source=...)` has no rows; evaluate something first")
    target = Path(path) if path is not None else Path(folder or "") / "report.html"
    best = folder / "best.json" if folder is not None else None
    if not commands and best is not None and best.exists():
        quoted = shlex.quote(str(best))
        commands = [
            f"pdr run {quoted} --input '...'",
            f"pdr eval {quoted}",
            f"pdr report {shlex.quote(str(folder))}",
        ]
    page = _page(facts, shown, title or facts.title, commands, rows)
    try:
        write_whole(target, page)
    except OSError as error:
        raise StoreError(
            f"`write_report(path={str(target)!r})` cannot be written: {error.strerror or error}"
        ) from error
    return target


class _Facts:
    """What the page is made of, wherever it came from."""

    def __init__(self, reports: Sequence[Report], title: str) -> None:
        self.reports = list(reports)
        self.title = title
        self.roles = ["program"] * len(self.reports)
        self.trials: tuple[TrialRecord, ...] = ()
        self.limits = Limits()
        self.verdict = ""
        self.stopped = ""
        self.focus = self.reports[0] if self.reports else None


def _facts(source: Any) -> _Facts:
    if isinstance(source, Report):
        return _Facts([source], source.name or "Evaluation")
    if isinstance(source, SearchResult):
        confirmed = source.confirmation
        student = confirmed.student.model_copy(update={"name": f"student: {confirmed.student.name}"})
        winner = confirmed.winner.model_copy(update={"name": f"tuned: {source.best.candidate}"})
        return _of_search(
            source.trials, student, winner, confirmed.verdict, source.stopped, source.limits, source.best.origin
        )
    if isinstance(source, (str, Path)):
        folder = Path(source)
        if (folder / "search.json").exists():
            found = analysis.read_search(folder)
            origin = next((trial.origin for trial in found.trials if trial.number == found.best), "")
            return _of_search(
                found.trials, found.student, found.winner, found.verdict, found.stopped, found.limits, origin
            )
        return _Facts([analysis.read_report(folder)], folder.name)
    return _Facts(list(source), "Evaluation")


def _of_search(
    trials: tuple[TrialRecord, ...],
    student: Report,
    winner: Report,
    verdict: str,
    stopped: str,
    limits: Limits,
    origin: str,
) -> _Facts:
    same = origin == "student"
    facts = _Facts([student] if same else [winner, student], "Schedule search")
    facts.roles = ["student"] if same else ["tuned", "student"]
    facts.trials, facts.verdict, facts.stopped, facts.limits = trials, verdict, stopped, limits
    facts.focus = winner
    return facts


def _page(facts: _Facts, shown: Sequence[Report], title: str, commands: Sequence[str], count: int) -> str:
    from jinja2 import Environment
    from markupsafe import Markup

    shown = [report for report in shown if report.rows]
    roles = [*facts.roles, *["program"] * (len(shown) - len(facts.roles))]
    names = analysis.named(shown)
    programs = []
    for place, ((name, report), role) in enumerate(zip(names.items(), roles, strict=False)):
        row = analysis.program_row(report, name)
        extra = {"letter": LETTERS[place % 26], "role": role, "low": row.interval.low, "high": row.interval.high}
        programs.append({**row._asdict(), **extra})
    flow = analysis.flow(facts.focus) if facts.focus is not None else None
    measured = [trial for trial in facts.trials if trial.state == "measured"]
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters.update(_FILTERS)
    template = environment.from_string(files("pdr_dspy").joinpath("report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        verdict=facts.verdict[:1].upper() + facts.verdict[1:],
        subtitle=_subtitle(facts, shown),
        cards=_cards(facts) if measured else [],
        by_sequential=Markup(_figure(programs, measured, "sequential", facts.limits)),
        by_total=Markup(_figure(programs, measured, "total", facts.limits)),
        has_trials=bool(measured),
        programs=programs,
        programs_note="Tuned program and student ran on fresh seeds: none of these samples chose the schedule."
        if measured
        else "",
        comparisons=_comparisons(names),
        flow=flow,
        flow_of=facts.focus.name if facts.focus is not None else "",
        rounds_figure=Markup(plots.rounds(flow.rounds)) if flow is not None and flow.rounds else "",
        rows=analysis.look_at(facts.focus, count) if facts.focus is not None else [],
        trials=facts.trials,
        reused=analysis.reuse(facts.trials)[-1].share,
        commands=commands,
        version=_version(),
    )


def _subtitle(facts: _Facts, shown: Sequence[Report]) -> str:
    first = shown[0]
    models = ", ".join(str(model) for model in first.config.get("models", []))
    verifier = first.config.get("verifier", {}).get("kind", "")
    parts = [f"{len(first.by_question)} questions, {len(first.rows)} rows"]
    parts += [f"model {models}"] if models else []
    parts += [f"verifier {verifier}"] if verifier else []
    parts += [f"search ended: {facts.stopped}"] if facts.stopped else []
    return " · ".join(parts)


def _cards(facts: _Facts) -> list[dict[str, str]]:
    total = analysis.reuse(facts.trials)[-1]
    measured = [trial for trial in facts.trials if trial.state == "measured"]
    cards = []
    for report, role in zip(facts.reports, facts.roles, strict=False):
        low, high = report.interval
        name = "Tuned" if role == "tuned" else "Untouched student"
        cards.append({"name": name, "value": _share(report.score), "note": f"{_share(low)} – {_share(high)}"})
    focus = facts.focus
    if focus is not None:
        tokens = {"value": _tokens(focus.sequential), "note": f"B_total {_tokens(focus.total)}"}
        cards.append({"name": "B_seq of a run", **tokens})
    rejected = sum(trial.state == "rejected" for trial in facts.trials)
    note = f"{rejected} too dear, not run" if rejected else "measured"
    cards.append({"name": "Schedules tried", "value": str(len(measured)), "note": note})
    note = f"{_tokens(total.saved)} more were reused"
    cards.append({"name": "Tokens of the trials", "value": _tokens(total.paid), "note": note})
    return cards


def _figure(programs: Sequence[dict[str, Any]], trials: Sequence[TrialRecord], cost: str, limits: Limits) -> str:
    ahead = {trial.number for trial in pareto.front(trials, (cost,))}
    role: dict[bool, Any] = {True: "front", False: "trial"}
    points = [
        plots.Point("", trial.score, trial.interval, getattr(trial, cost), role[trial.number in ahead])
        for trial in trials
    ] + [
        plots.Point(row["letter"], row["score"], row["interval"], row[cost], row["role"]) for row in programs
    ]  # fmt: skip
    label = "B_seq: tokens a user waits for" if cost == "sequential" else "B_total: tokens of every call"
    return plots.score_against_cost(points, label=label, limit=getattr(limits, cost))


def _comparisons(names: dict[str, Report]) -> list[analysis.Comparison]:
    """The first program against each of the others, where they share questions."""
    (first, report), *others = names.items()
    found = []
    for name, other in others:
        if report.by_question.keys() & other.by_question.keys():
            found += analysis.compare({name: other, first: report})
    return found


def _version() -> str:
    try:
        return version("pdr-dspy")
    except PackageNotFoundError:
        return ""


# --- how values are written ------------------------------------------------------------------------------------------


def _share(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _signed(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{100 * value:+.1f}"


def _percent(value: float) -> str:
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%" if math.isfinite(value) else "0%"


def _tokens(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:,.0f}"


def _short(value: str | None, most: int = 160) -> str:
    text = " ".join(str("–" if value is None else value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


_FILTERS = {
    "share": _share,
    "signed": _signed,
    "percent": _percent,
    "tokens": _tokens,
    "short": _short,
    "one": lambda value: "–" if math.isnan(value) else f"{value:.1f}",
    "two": lambda value: "–" if math.isnan(value) else f"{value:.2f}",
}
