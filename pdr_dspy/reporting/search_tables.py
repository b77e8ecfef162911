"""A finished search as plain tables: its result, its races, its cost, and the importance of settings.

Every function is pure except `read_search`, which reads a run folder. Scores are fractions, costs are tokens.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.calibration import calibration_of_rows
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.statistics import Interval, Paired, paired
from pdr_dspy.reporting.evaluation_tables import read_report
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.search.credit import Credit
from pdr_dspy.search.front_members import Rows, by_question
from pdr_dspy.search.proposing.instructions import Proposal, Proposals
from pdr_dspy.search.racing import resampling
from pdr_dspy.search.racing.arms import Finalist
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.resampling import Optimism
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.result import SearchResult
from pdr_dspy.search.space.axes import TABLE
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.canonical import axis_of, settings_of, title_of
from pdr_dspy.search.space.prompt_axes import PROMPTS, key_of
from pdr_dspy.verifiers.checks import Calibration


class SearchFacts(NamedTuple):
    """The facts of a finished search."""

    trials: tuple[TrialRecord, ...]
    best: int
    """The number of the trial that was confirmed."""
    finalists: tuple[Finalist, ...]
    student: Report
    """Report on the confirmation's questions and seeds."""
    winner: Report
    """Likewise; the student again if it was the best."""
    difference: Paired
    """Winner minus student, paired by question."""
    kept: str
    """"winner" or "student"."""
    verdict: str
    untouched: bool
    """Whether the confirmation's questions were not used in the search."""
    stopped: str
    limits: Limits
    paid: int
    """Tokens of all calls, each counted once."""
    saved: int
    """Tokens of calls that were replayed from the store instead."""
    race: Rows
    """Runs of each trial in the race, as far as they are available."""
    fresh: Rows
    """Runs of each finalist on fresh seeds."""
    proposals: Proposals | None = None
    """Instructions that a model wrote for the search; None if none were requested."""
    credits: Mapping[str, Credit] = {}
    """What the choice at each operator with a space of its own brought, by its path."""
    places: Mapping[str, str] = {}
    """Folders of the confirmation's rows for "student" and "winner", below the run folder; empty if there is none."""

    @property
    def calibration(self) -> Calibration | None:
        """The calibration, on the training questions, of the check of the kept program; None without one."""
        return calibration_of_rows(self.runs.get(self.best if self.kept == "winner" else 0, ()))

    @property
    def runs(self) -> Rows:
        """All runs of each trial on the training questions."""
        return {number: [*rows, *self.fresh.get(number, ())] for number, rows in self.race.items()}


def facts_of(result: SearchResult) -> SearchFacts:
    """The facts of a search that has just ended."""
    confirmed = result.confirmation
    runs = {trial.number: trial.runs for trial in result.trials}
    return SearchFacts(
        result.trials,
        result.best.number,
        result.finalists,
        _named(confirmed.student, result.trials, 0, "student"),
        _named(confirmed.winner, result.trials, result.best.number, "winner"),
        confirmed.difference,
        confirmed.kept,
        confirmed.verdict,
        confirmed.untouched,
        result.stopped,
        result.limits,
        result.paid,
        result.saved,
        {number: rows[: runs[number]] for number, rows in result.rows.items()},
        {number: rows[runs[number] :] for number, rows in result.rows.items() if len(rows) > runs[number]},
        result.proposals,
        result.credits,
    )


def read_search(folder: str | Path) -> SearchFacts:
    """The search in `folder`; without the rows of trials if they are gone.

    Raises StoreError if there is no finished search.
    """
    folder = local_path(folder)
    path = folder / "search.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        trials = tuple(TrialRecord(**_known(trial)) for trial in facts["trials"])
        confirmed = facts["confirmation"]
        place = folder / confirmed["folder"]
        student, winner = (read_report(place / confirmed[which]) for which in ("student", "winner"))
        finalists = tuple(
            Finalist(**{**_known(one, math.nan), "interval": Interval(*one["interval"])}) for one in facts["finalists"]
        )
        return SearchFacts(
            trials,
            facts["best"],
            finalists,
            _named(student, trials, 0, "student"),
            _named(winner, trials, facts["best"], "winner"),
            paired(winner.per_question, student.per_question),
            confirmed["kept"],
            confirmed["verdict"],
            confirmed["untouched"],
            facts["stopped"],
            Limits(**facts["config"]["settings"]["limits"]),
            facts["paid"],
            facts["saved"],
            _rows(folder / "trials", [trial.number for trial in trials]),
            _rows(folder / "final", [one.number for one in finalists]),
            Proposals(**facts["proposals"]) if facts.get("proposals") else None,
            {place: _credit(one) for place, one in facts.get("credits", {}).items()},
            {which: f"{confirmed['folder']}/{confirmed[which]}" for which in ("student", "winner")},
        )
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}; is the search finished?") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged, or not of a search of this version ({error}); run the same search again to rewrite it"
        ) from error


def _credit(facts: Mapping[str, Any]) -> Credit:
    interval = facts["interval"]
    return Credit(facts["gain"], None if interval is None else Interval(*interval), facts["trial"], facts["same"])


def _known(facts: Mapping[str, Any], missing: float | None = None) -> dict[str, Any]:
    """Facts with nan restored: JSON has null for it."""
    if missing is None:
        return {key: value for key, value in facts.items() if value is not None}
    return {key: missing if value is None else value for key, value in facts.items()}


def _rows(folder: Path, numbers: Iterable[int]) -> dict[int, Sequence[Row]]:
    places = {number: folder / f"{number:04d}" for number in numbers}
    return {number: read_report(place).rows for number, place in places.items() if (place / "rows.jsonl").exists()}


def _named(report: Report, trials: Sequence[TrialRecord], number: int, role: str) -> Report:
    label = labels(trials).get(number, report.name)
    return report.model_copy(update={"name": f"{role}: {label}"})


# --- names of programs ----------------------------------------------------------------------------------------


def labels(trials: Sequence[TrialRecord]) -> dict[int, str]:
    """A name for each trial's program: its schedule, and the other settings in which the programs differ."""
    named = [(trial.number, trial.candidate.by_operator) for trial in trials]
    found: dict[int, list[str]] = {trial.number: [] for trial in trials}
    for place in dict.fromkeys(place for _, own in named for place in own):
        schedules = {number: own[place].schedule for number, own in named if place in own}
        varied = [a for a in TABLE if a.label and len({getattr(one, a.name) for one in schedules.values()}) > 1]
        for number, own in named:
            if place not in own:
                continue
            schedule = own[place].schedule
            values = [(axis.label or "", getattr(schedule, axis.name)) for axis in varied if axis.applies(schedule)]
            parts = [label.format(value) for label, value in values if value is not None]
            text = " ".join([str(own[place]), *parts])
            found[number].append(f"{place}: {text}" if place else text)
    return {number: ", ".join(texts) for number, texts in found.items()}


# --- the race --------------------------------------------------------------------------------------------------------


class Cohort(NamedTuple):
    """Trials of one race."""

    number: int
    entered: int
    left: tuple[tuple[int, int], ...]
    """(runs, number of trials left after that many), for each length at which a trial ended."""
    best: float
    """The highest pooled score of a complete trial up to this cohort; nan if there is none."""
    paid: int
    saved: int


def cohorts(trials: Sequence[TrialRecord]) -> list[Cohort]:
    """The course of each cohort's race."""
    found, best = [], math.nan
    ends = sorted({trial.runs for trial in trials})
    for number in sorted({trial.cohort for trial in trials}):
        own = [trial for trial in trials if trial.cohort == number]
        best = max([trial.pooled for trial in own if trial.state == "measured"] + [best] * (best == best), default=best)
        left = [(end, sum(trial.state == "measured" or trial.runs > end for trial in own)) for end in ends]
        found.append(Cohort(number, len(own), tuple(left), best, sum(t.paid for t in own), sum(t.saved for t in own)))
    return found


class ReuseRow(NamedTuple):
    """Savings by the rollout store in one trial, or in all (number None)."""

    number: int | None
    program: str
    paid: int
    """Tokens."""
    saved: int
    """Tokens."""
    share: float
    """Fraction of tokens: saved over saved and paid."""


def reuse(trials: Iterable[TrialRecord]) -> list[ReuseRow]:
    """Tokens paid and saved in the race of each trial, and, last, of all trials."""
    trials = list(trials)
    paid, saved = sum(t.paid for t in trials), sum(t.saved for t in trials)
    rows = [ReuseRow(t.number, str(t.candidate), t.paid, t.saved, _share(t.saved, t.paid)) for t in trials]
    return [*rows, ReuseRow(None, "all trials", paid, saved, _share(saved, paid))]


def _share(saved: int, paid: int) -> float:
    return saved / (saved + paid) if saved + paid else 0.0


def optimism(facts: SearchFacts) -> Optimism | None:
    """By how much the finalists' race scores exceed those on fresh seeds; None if no program was chosen by score, or
    none ran again.

    The student is left out: it runs again regardless of its score.
    """
    chosen = [one for one in facts.finalists if one.number != 0 and not math.isnan(one.fresh)]
    if not chosen:
        return None
    if not all(facts.race.get(one.number) and facts.fresh.get(one.number) for one in chosen):
        return resampling.optimism([one.race for one in chosen], [one.fresh for one in chosen])
    names = sorted({row.id for one in chosen for row in facts.race[one.number]})
    race, fresh = (
        [[means[name].score if name in means else math.nan for name in names] for means in tables]
        for tables in (
            [by_question(facts.race[one.number]) for one in chosen],
            [by_question(facts.fresh[one.number]) for one in chosen],
        )
    )
    return resampling.optimism(np.array(race), np.array(fresh))


# --- proposals -----------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """An instruction that a model wrote, and its results."""

    role: str
    text: str
    tip: str
    """The advice given to its writer."""
    tokens: int
    trials: int
    """Trials that used it."""
    score: float
    """The highest pooled score of its trials with complete races; nan if there is none."""
    round: int = 1
    """The round of writing, from 1."""
    parent: int | None = None
    """The trial whose instructions it improves; None if that is unknown."""


def _has(candidate: Candidate, one: Proposal) -> bool:
    return candidate.instructions.get(one.role.value) == one.text


def written(trials: Sequence[TrialRecord], proposals: Proposals | None) -> list[Written]:
    """The proposed instructions, the best first, unused ones last."""
    found = []
    for one in proposals.proposals if proposals is not None else ():
        own = [t for t in trials if any(_has(part, one) for part in t.candidate.by_operator.values())]
        scores = [trial.pooled for trial in own if trial.state == "measured"]
        best = max(scores, default=math.nan)
        found.append(Written(one.role.value, one.text, one.tip, one.tokens, len(own), best, one.round, one.parent))
    return sorted(found, key=lambda one: (not one.trials, -one.score if math.isfinite(one.score) else 0.0))


# --- importance of settings -----------------------------------------------------------------------------------------

ENOUGH = 20
"""Minimum number of trials for importances: with fewer, the best quarter has fewer than five."""


class Value(NamedTuple):
    """One value of a setting."""

    value: str
    trials: int
    score: float
    """Mean pooled score of its trials."""


class Importance(NamedTuple):
    """How well one setting predicts whether a trial is in the best quarter."""

    name: str
    share: float
    """Fraction of all settings' importances; nan with fewer than `ENOUGH` trials."""
    values: tuple[Value, ...]


def importance(trials: Sequence[TrialRecord]) -> list[Importance]:
    """The settings that differed between trials, the most important first.

    PED-ANOVA (Watanabe 2023, arXiv 2304.10255) on pooled scores: the distance between the values of the best quarter of
    the trials and those of all. A setting that some schedules lack is judged among those that have it.
    """
    known = [trial for trial in trials if math.isfinite(trial.pooled)]
    settings = [_settings(trial.candidate) for trial in known]
    for own, prompts in zip(settings, _prompts([trial.candidate for trial in known]), strict=True):
        own.update(prompts)
    names = list(dict.fromkeys(name for own in settings for name in own))
    varied = [name for name in names if len({own[name] for own in settings if name in own}) > 1]
    shares = dict.fromkeys(varied, math.nan)
    if len(known) >= ENOUGH and varied:
        shares = _ped_anova(settings, [trial.pooled for trial in known], varied)
    found = []
    for name in varied:
        groups: dict[Any, list[float]] = {}
        for trial, own in zip(known, settings, strict=True):
            if name in own:
                groups.setdefault(own[name], []).append(trial.pooled)
        ordered = sorted(groups, key=lambda value: (isinstance(value, str), value))
        values = tuple(Value(str(value), len(groups[value]), fmean(groups[value])) for value in ordered)
        place, colon, parameter = name.rpartition(": ")
        found.append(Importance(f"{place}{colon}{title_of(parameter)}", shares[name], values))
    return sorted(found, key=lambda one: -one.share if one.share == one.share else 0.0)


def _settings(candidate: Candidate) -> dict[str, Any]:
    """The settings that affect a program, by parameter, as comparable numbers and texts."""
    found = {}
    for place, part in candidate.by_operator.items():
        values = {**settings_of(part.schedule), **part.axes}
        found |= {_at(place, name): _readable(name, value) for name, value in values.items()}
    return found


def _at(place: str, name: str) -> str:
    return f"{place}: {name}" if place else name


def _readable(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        axis = axis_of(name)
        return "as it is" if axis is None or axis.none is None else axis.none
    return value


def _prompts(candidates: Sequence[Candidate]) -> list[dict[str, str]]:
    """For each candidate, the numbered instructions and demonstrations of each role that it calls."""
    found: list[dict[str, str]] = [{} for _ in candidates]
    for place in dict.fromkeys(place for candidate in candidates for place in candidate.by_operator):
        parts = [(own, candidate.by_operator.get(place)) for own, candidate in zip(found, candidates, strict=True)]
        there = [(own, part) for own, part in parts if part is not None]
        for kind in PROMPTS:
            for role in dict.fromkeys(role for _, part in there for role in getattr(part, kind)):
                numbers: dict[str, str] = {}
                for own, part in there:
                    prompt = getattr(part, kind).get(role)
                    if prompt is not None:
                        number = numbers.setdefault(key_of(prompt), f"no. {len(numbers) + 1}")
                        own[_at(place, f"{role}_{kind}")] = number
                    elif role in part.schedule.roles:
                        own[_at(place, f"{role}_{kind}")] = "own"
    return found


def _ped_anova(
    settings: Sequence[Mapping[str, Any]], scores: Sequence[float], names: Sequence[str]
) -> dict[str, float]:
    import optuna
    from optuna.distributions import CategoricalDistribution

    distributions = {
        name: CategoricalDistribution(sorted({own[name] for own in settings if name in own}, key=str)) for name in names
    }
    library = logging.getLogger("optuna")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize")
        for own, score in zip(settings, scores, strict=True):
            params = {name: own[name] for name in names if name in own}
            study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions={name: distributions[name] for name in params}, value=score
                )
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # settings that only one or two schedules have count as 0
            found = evaluator.evaluate(study, params=list(names))
    finally:
        library.setLevel(level)
    total = sum(found.values())
    return {name: found.get(name, 0.0) / total if total else 0.0 for name in names}
