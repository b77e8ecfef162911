"""One self-contained HTML page about a search or some evaluations: no network, no scripts, light and dark.

All texts from a model or a data set are escaped.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.calibration import calibration_of_rows
from pdr_dspy.evaluation.failures import failures_in_words
from pdr_dspy.evaluation.records import Report
from pdr_dspy.evaluation.statistics import Interval
from pdr_dspy.evaluation.texts import TEXTS, RowTexts, clipped, read_texts
from pdr_dspy.reporting import advice, check_tables, evaluation_tables, figures, search_tables
from pdr_dspy.reporting.search_tables import SearchFacts
from pdr_dspy.runtime import store_whole
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.search.dashboard import ARTIFACTS
from pdr_dspy.search.front_members import Member, by_estimate, cheapest_within, estimated_front, members
from pdr_dspy.search.optuna_mirror import JOURNAL
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.result import SearchResult
from pdr_dspy.verifiers import RIGHT
from pdr_dspy.verifiers.checks import Calibration

if TYPE_CHECKING:
    from jinja2 import Template

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MARGINS = (0.01, 0.03)
"""Differences of scores for which the page names the cheapest program."""


def write_report(
    source: str | Path | Report | Sequence[Report] | SearchResult,
    path: str | Path | None = None,
    *,
    programs: Sequence[Report] = (),
    title: str | None = None,
    commands: Sequence[str] = (),
    rows: int = 20,
    texts: Mapping[tuple[str, int], RowTexts] | None = None,
) -> Path:
    """Write the page.

    Args:
        source: the run folder of a search or of an evaluation, one or several `Report`s, or a `SearchResult`.
        path: the file; None is `report.html` in the run folder.
        programs: further evaluations to show beside those of `source`, such as baselines on the same questions.
        title: of the page.
        commands: lines to show as commands; None for those that use the program of a run folder.
        rows: maximum number of wrong rows to list.
        texts: texts of the first report's rows, by (id, repeat), to show; None reads those of a folder.

    Returns:
        The path.

    Raises:
        ConfigError: nothing to show, or no `path` for a source other than a folder.
        StoreError: the folder holds neither a finished search nor an evaluation, or the page cannot be written.
    """
    folder = local_path(source) if isinstance(source, (str, Path)) else None
    if path is None and folder is None:
        raise ConfigError("`write_report(path=None)` needs a run folder as its source; give the file to write")
    search, reports, own_title = _read(source if folder is None else folder)
    shown = [report for report in (*reports, *programs) if report.rows]
    if not shown:
        raise ConfigError("`write_report(source=...)` has no rows; evaluate something first")
    target = local_path(path) if path is not None else (folder or Path()) / "report.html"
    described = [("", command) for command in commands] or ([] if folder is None else _commands(folder))
    if texts is None:
        texts = {} if folder is None else read_texts(_focus(folder, search) / TEXTS, shown[0].rows)
    page = _page(search, shown, title or own_title, described, rows, texts)
    store_whole(target, page, called=f"`write_report(path={str(target)!r})`")
    return target


def _read(source: Any) -> tuple[SearchFacts | None, list[Report], str]:
    """The search, if there is one; the evaluations to show, first the one in focus; a title."""
    if isinstance(source, Report):
        return None, [source], source.name or "Evaluation"
    if isinstance(source, SearchResult):
        found = search_tables.facts_of(source)
    elif isinstance(source, Path):
        if not (source / "search.json").exists():
            return None, [evaluation_tables.read_report(source)], source.absolute().name
        found = search_tables.read_search(source)
    else:
        return None, list(source), "Evaluation"
    both = [found.winner, found.student]
    return found, both[1:] if found.best == 0 else both, "Schedule search"


def _focus(folder: Path, search: SearchFacts | None) -> Path:
    """The folder of the rows in the page's focus."""
    return folder if search is None else folder / search.places["student" if search.best == 0 else "winner"]


def _commands(folder: Path) -> list[tuple[str, str]]:
    """Tasks for a run folder, each with its command line."""
    best, own = shlex.quote(str(folder / "best.json")), shlex.quote(str(folder))
    found = []
    if (folder / "best.json").exists():
        found = [
            ("Ask it", f"pdr run {best} --input '...'"),
            ("Measure it", f"pdr eval {best}"),
            ("Compare it with voting and SR", f"pdr compare {best}"),
        ]
    if (folder / JOURNAL).exists():
        study, artifacts = shlex.quote(str(folder / JOURNAL)), shlex.quote(str(folder / ARTIFACTS))
        found.append(("Look at the study", f"optuna-dashboard {study} --artifact-dir {artifacts}"))
    return [*found, ("Write this page again", f"pdr report {own}")] if found else []


@cache
def _template() -> Template:
    """The page, compiled once in a process: that takes longer than filling it in."""
    from jinja2 import Environment
    from markupsafe import Markup, escape

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(_FILTERS)
    environment.filters["marked"] = lambda text: Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))
    return environment.from_string(files("pdr_dspy.reporting").joinpath("page.html.j2").read_text(encoding="utf-8"))


def _page(
    search: SearchFacts | None,
    shown: Sequence[Report],
    title: str,
    commands: Sequence[tuple[str, str]],
    count: int,
    texts: Mapping[tuple[str, int], RowTexts],
) -> str:
    from markupsafe import Markup

    names = evaluation_tables.named(shown)
    programs = [_program(search, place, name, report) for place, (name, report) in enumerate(names.items())]
    focus = shown[0]
    flow = evaluation_tables.flow(focus)
    looks = _listed(focus, count)
    calibration = calibration_of_rows(focus.rows) if search is None else search.calibration
    return _template().render(
        title=title,
        advice=_advice(search, names),
        facts=_subtitle(search, shown),
        search=None if search is None else _search(search),
        figures=[]
        if search is not None or len(programs) == 1
        else [Markup(_programs_figure(programs, cost)) for cost in _AXES],
        priced=any(report.cost is not None for report in shown),
        programs=programs if search is None or len(programs) > 2 else [],
        failures=_failures(names),
        comparisons=_comparisons(names) if search is None or len(programs) > 2 else [],
        flow=flow,
        flow_of=focus.name,
        majority=flow.rounds[0].majority if len(flow.rounds) > 1 and flow.rounds[0].drafts > 1 else math.nan,
        score=focus.score,
        rounds_figure=Markup(figures.rounds(flow.rounds)) if flow.rounds else "",
        looks=[(kind, text, [look for look in looks if look.kind == kind]) for kind, text in _KINDS.items()],
        wrong=sum(row.score < RIGHT for row in focus.rows),
        runs=len(focus.rows),
        check=check_tables.check_quality(focus),
        gap=check_tables.gap(focus),
        calibration=None if calibration is None else _calibration(calibration, focus, searched=search is not None),
        shown=[evaluation_tables.shown_drafts(focus, number) for number in range(len(flow.rounds))],
        examples=[(text, row, texts[row.id, row.repeat]) for text, row in evaluation_tables.examples(focus, texts)],
        texts=texts,
        kept=len(texts),
        listed=len(looks),
        right=RIGHT,
        commands=commands,
        version=_version(),
    )


def _failures(names: Mapping[str, Report]) -> list[str]:
    """What failed, in sentences; each with its program, where there are several."""
    several = len(names) > 1
    return [
        f"{name}: {failed}" if several else failed
        for name, report in names.items()
        for failed in failures_in_words(report.rows)
    ]


def _advice(search: SearchFacts | None, names: Mapping[str, Report]) -> advice.Advice:
    if search is not None:
        return advice.on_search(search)
    return advice.on_programs([report.model_copy(update={"name": name}) for name, report in names.items()])


def _listed(report: Report, count: int) -> list[evaluation_tables.LookAt]:
    """The rows to list: the first ones, including some of each kind if there are any."""
    looks = evaluation_tables.look_at(report, len(report.rows))
    seen: dict[str, int] = {}
    ahead = []
    for place, look in enumerate(looks):
        seen[look.kind] = seen.get(look.kind, 0) + 1
        ahead.append((seen[look.kind] > max(1, count // len(_KINDS)), place))
    return [looks[place] for place in sorted(place for _, place in sorted(ahead)[:count])]


_AXES = {
    "total": "B_total: mean tokens of every call of a run",
    "sequential": "B_seq: mean tokens that a user waits for",
}
_KINDS = {
    "had it": "A draft was right, the answer is wrong",
    "failed": "Failed: no answer at all",
    "cut": "No draft was right, and a cap cut some of them",
    "wrong": "No draft was right",
}


def _program(search: SearchFacts | None, place: int, name: str, report: Report) -> dict[str, Any]:
    roles = [] if search is None else ["student"] if search.best == 0 else ["tuned", "student"]
    role = roles[place] if place < len(roles) else "program" if place else "front"  # the first one is in focus
    row = evaluation_tables.program_row(report, name)
    extra = {"letter": LETTERS[place % 26], "role": role, "low": row.interval.low, "high": row.interval.high}
    return {**row._asdict(), **extra}


def _programs_figure(programs: Sequence[dict[str, Any]], cost: str) -> str:
    points = [
        figures.Point(row["letter"], row["score"], row["interval"], row[cost], row["role"], title=row["name"])
        for row in programs
    ]
    return figures.score_against_cost(points, label=_AXES[cost])


def _subtitle(search: SearchFacts | None, shown: Sequence[Report]) -> list[str]:
    first = shown[0]
    verifier = first.config.get("verifier", {}).get("kind", "")
    parts = [f"{len(first.by_question)} questions, {len(first.rows)} runs"]
    if search is not None:
        untouched = "untouched questions" if search.untouched else "questions of the search, fresh seeds"
        parts = [f"confirmed on {len(first.by_question)} {untouched}, {len(first.rows)} runs each"]
    models = [str(model) for model in first.config.get("models", [])]
    parts += [f"model {model}" for model in models]
    return [*parts, f"verifier {verifier}"] if verifier else parts


# --- a check ---------------------------------------------------------------------------------------------------------


def _calibration(calibration: Calibration, focus: Report, *, searched: bool) -> dict[str, Any]:
    """The template's values for a check: its curve and, if it was calibrated on other questions, its results on the
    page's own."""
    from markupsafe import Markup

    chosen = [(wrong, right) for wrong, right, level in calibration.roc if level >= calibration.threshold]
    place = chosen[-1] if chosen else (0.0, 0.0)
    return {
        "is": calibration,
        "precision": Interval(*calibration.precision_interval),
        "auc": Interval(*calibration.auc_interval),
        "figure": Markup(figures.roc([(wrong, right) for wrong, right, _ in calibration.roc], at=place)),
        "held": check_tables.check_quality(focus, threshold=calibration.threshold) if searched else None,
    }


# --- a search --------------------------------------------------------------------------------------------------------


def _search(facts: SearchFacts) -> dict[str, Any]:
    """The template's values for a search."""
    from markupsafe import Markup

    names = search_tables.labels(facts.trials)
    front = members(facts.trials, facts.runs, facts.limits)
    finalists = {one.number for one in facts.finalists}
    reused = search_tables.reuse(facts.trials)[-1]
    marks = search_tables.importance(facts.trials)
    whole = max(trial.runs for trial in facts.trials)
    cohorts = search_tables.cohorts(facts.trials)
    return {
        "facts": facts,
        "same": facts.best == 0,
        "names": names,
        "finalist_numbers": finalists,
        "ratio": {cost: _ratio(getattr(facts.winner, cost), getattr(facts.student, cost)) for cost in _COLUMNS},
        "optimism": search_tables.optimism(facts),
        "reran": any(not math.isnan(one.fresh) for one in facts.finalists),
        "race_paid": reused.paid,
        "dropped": sum(trial.state == "dropped" for trial in facts.trials),
        "runs": sum(trial.runs for trial in facts.trials),
        "by": [Markup(_front_figure(facts, front, cost, names)) for cost in _AXES],
        "front": front,
        "best": next((m.trial for m in front if m.deficit == 0.0), facts.trials[facts.best]),
        "within": _within(facts, front),
        "race": Markup(_race_figure(facts, names)),
        "cohorts": cohorts,
        "looks": [end for end, _ in cohorts[0].left],
        "whole": whole,
        "span": _span(facts),
        "importance": marks,
        "proposals": facts.proposals,
        "written": search_tables.written(facts.trials, facts.proposals),
        "enough": search_tables.ENOUGH,
        "known": any(mark.share == mark.share for mark in marks),
        "most": max([mark.share for mark in marks if mark.share == mark.share], default=1.0) or 1.0,
    }


_COLUMNS = ("sequential", "total", "calls")


def _ratio(first: float, second: float) -> float:
    return first / second if second else math.nan


def _role(facts: SearchFacts, trial: TrialRecord, front: set[int]) -> figures.Role:
    if trial.number == facts.best and trial.number != 0:
        return "tuned"
    if trial.number == 0:
        return "student"
    if trial.state != "measured":
        return "dropped"
    return "front" if trial.number in front else "trial"


def _front_figure(facts: SearchFacts, front: Sequence[Member], cost: str, names: dict[int, str]) -> str:
    bands = {member.trial.number: member.bands for member in front}
    finalists = {one.number for one in facts.finalists}
    points = []
    for trial in facts.trials:
        band = bands.get(trial.number)
        chosen = band is not None or trial.number in finalists
        low, high = trial.interval
        shift = trial.pooled - trial.score
        own = (
            figures.Interval(max(0.0, low + shift), min(1.0, high + shift)) if trial.number in (0, facts.best) else None
        )
        points.append(
            figures.Point(
                str(trial.number) if chosen else "",
                trial.pooled,
                own if band is None or trial.number not in facts.race else band.score,
                getattr(trial, cost),
                _role(facts, trial, set(bands)),
                None if band is None else getattr(band, cost),
                trial.number in finalists,
                f"trial {trial.number}, {names[trial.number]}: {_share(trial.pooled)}, {_tokens(getattr(trial, cost))} "
                f"tokens{f', {trial.dropped}' if trial.dropped else ''}",
            )
        )
    line = [(getattr(trial, cost), trial.pooled) for trial in estimated_front(facts.trials, (cost,))]
    return figures.score_against_cost(points, label=_AXES[cost], limit=getattr(facts.limits, cost), line=sorted(line))


def _race_figure(facts: SearchFacts, names: dict[int, str]) -> str:
    finalists = {one.number for one in facts.finalists}
    lanes = [
        figures.Lane(
            str(trial.number) if trial.number in finalists else "",
            trial.cohort,
            trial.runs,
            _role(facts, trial, finalists),
            f"trial {trial.number}, {names[trial.number]}: {trial.dropped or f'{trial.runs} runs'}",
        )
        for trial in facts.trials
    ]
    return figures.race(lanes, max(trial.runs for trial in facts.trials))


def _within(facts: SearchFacts, front: Sequence[Member]) -> list[tuple[str, Member, float]]:
    """(margins in words, the cheapest member of the front within them, the ratio of the best member's cost to its
    cost)."""
    allowed = {member.trial.number: member for member in front if facts.limits.allow(member.trial)}
    if not allowed:
        return []
    best = min((member.trial for member in allowed.values()), key=by_estimate)
    found: dict[int, list[str]] = {}
    for margin in MARGINS:
        found.setdefault(cheapest_within(margin, facts.trials, facts.limits).number, []).append(f"{100 * margin:g}")
    return [
        (
            f"{' or '.join(margins)} point{'' if margins == ['1'] else 's'}",
            allowed[number],
            _ratio(best.total, allowed[number].trial.total),
        )
        for number, margins in found.items()
    ]


def _span(facts: SearchFacts) -> tuple[float, float]:
    """The range of scores of the finalists' bars."""
    ends = [value for one in facts.finalists for value in (*one.interval, one.race, one.fresh) if value == value]
    low, high = max(0.0, min(ends) - 0.02), min(1.0, max(ends) + 0.02)
    return low, high


def _comparisons(names: dict[str, Report]) -> list[evaluation_tables.Comparison]:
    """The first program compared with each of the others, if they share questions."""
    (first, report), *others = names.items()
    found = []
    for name, other in others:
        if report.by_question.keys() & other.by_question.keys():
            found += evaluation_tables.compare({name: other, first: report})
    return found


def _version() -> str:
    try:
        return version("pdr-dspy")
    except PackageNotFoundError:
        return ""


# --- how values are written ------------------------------------------------------------------------------------------


def _share(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _number(value: float) -> str:
    """A fraction as a percentage, without its sign."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{100 * value:+.1f}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%" if math.isfinite(value) else "0%"


def _tokens(value: float) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _large(value: float) -> str:
    """Tokens to three figures."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 10 * unit or (unit == 1e6 and value >= unit):
            return f"{value / unit:.3g} {name}"
    return _tokens(value)


def _short(value: str | None, most: int = 160) -> str:
    text = " ".join(str("–" if value is None else value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _along(value: float, span: tuple[float, float]) -> str:
    """The relative position of a score within a range, for a style."""
    low, high = span
    return _percent((value - low) / (high - low) if high > low else 0.0)


def _count(number: float, what: str) -> str:
    """A number of things, possibly a mean."""
    return f"{number:.3g} {what}{'' if number == 1 else 's'}"


TEXT = 3000
"""Maximum characters of a text on the page."""


_CODE = re.compile(r"`([^`]*)`")
_FILTERS = {
    "clip": lambda text: clipped(text, TEXT),
    "count": _count,
    "share": _share,
    "number": _number,
    "signed": _signed,
    "percent": _percent,
    "tokens": _tokens,
    "large": _large,
    "short": _short,
    "along": _along,
    "one": lambda value: "–" if math.isnan(value) else f"{value:.1f}",
    "two": lambda value: "–" if math.isnan(value) else f"{value:.2f}",
    "three": lambda value: "–" if math.isnan(value) else f"{value:.3g}",
}
