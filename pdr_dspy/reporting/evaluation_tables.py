"""Rows as plain tables with intervals: the figures of a report.

Every function is pure: evaluations in, lists of named tuples out. Scores and other ratios are fractions, costs are
tokens, intervals are 95 % and clustered by question.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from pdr_dspy.errors import DataError, StoreError
from pdr_dspy.evaluation.records import Report, RoundRow, Row, read_rows
from pdr_dspy.evaluation.run_folder import read_config
from pdr_dspy.evaluation.statistics import Interval, paired, score_interval, voted_score
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.verifiers import RIGHT

logger = logging.getLogger("pdr_dspy")
MATCHED = 0.1
"""Two costs are matched if they differ by at most this fraction of the larger one."""


# --- one program -----------------------------------------------------------------------------------------------------


class ProgramRow(NamedTuple):
    """One program's figures."""

    name: str
    score: float
    interval: Interval
    sequential: float
    total: float
    calls: float
    questions: int
    rows: int
    failed: int
    truncated: float
    """Fraction of calls truncated by their cap."""
    cancelled: float
    """Fraction of calls cancelled because their round had ended."""
    retried: float
    """Fraction of calls that were sent more than once."""
    cost: float | None = None
    """Mean cost of a run in the unit of the models' prices; None if a price is unknown."""


def program_row(report: Report, name: str = "") -> ProgramRow:
    """The figures of one evaluation."""
    calls = [call for row in report.rows for call in row.calls if call.sent]
    return ProgramRow(
        name or report.name or "program",
        report.score,
        report.interval,
        report.sequential,
        report.total,
        report.calls,
        len(report.by_question),
        len(report.rows),
        report.failed,
        fmean(call.truncated for call in calls) if calls else 0.0,
        fmean(call.cancelled for call in calls) if calls else 0.0,
        fmean(call.tries > 1 for call in calls) if calls else 0.0,
        report.cost,
    )


class RoundFlow(NamedTuple):
    """One round's figures over all runs that reached it."""

    round: int
    runs: int
    drafts: float
    """Mean number of drafts of a run in this round."""
    accuracy: float
    """Fraction of right drafts."""
    interval: Interval
    """Interval of `accuracy`."""
    any_right: float
    """Fraction of runs with at least one right draft: pass@M of the round."""
    majority: float
    """Fraction of runs whose most common answer is right; equally common answers share the credit."""
    unreadable: float
    """Fraction of drafts without a readable answer."""
    truncated: float
    """Fraction of drafts truncated by their cap."""
    wrong_to_right: float
    """Fraction of runs whose plurality was wrong in the round before and is right now; 0 for the first round."""
    right_to_wrong: float
    """Fraction of runs whose plurality was right in the round before and is wrong now; 0 for the first round."""
    workspace: float
    """Mean tokens of the workspaces made from this round; nan if there are none."""


class Loss(NamedTuple):
    """The stage at which runs with a wrong answer went wrong."""

    stage: str
    """"drafts": no draft before the last was right. "distill": one was, but no workspace was made from it. "refine": a
    right draft was passed on (a summary is made from all) but the answer is wrong. "extraction": no answer could be
    read from the last draft, or its cap truncated it. "failed": the program gave no answer."""
    runs: int
    share: float
    """Fraction of all runs, right ones included."""


class Flow(NamedTuple):
    """The figures of each round, and the stages of losses."""

    rounds: tuple[RoundFlow, ...]
    losses: tuple[Loss, ...]


def flow(report: Report) -> Flow:
    """Gains and losses of each round. Drafts without scores of their own (a judge would cost tokens) are left out."""
    depth = max((len(row.rounds) for row in report.rows), default=0)
    rounds = tuple(_round_flow(report, number) for number in range(depth))
    where = Counter(place for row in report.rows if (place := loss_of(row)) is not None)
    count = len(report.rows)
    stages = ("drafts", "distill", "refine", "extraction", "failed")
    return Flow(rounds, tuple(Loss(stage, where[stage], where[stage] / count if count else 0.0) for stage in stages))


def loss_of(row: Row) -> str | None:
    """The stage at which a wrong run went wrong, see `Loss`; None for a right run."""
    if row.score >= RIGHT:
        return None
    if row.error is not None:
        return "failed"
    last = row.rounds[-1].drafts[0] if row.rounds and row.rounds[-1].drafts else None
    if row.answer is None or (last is not None and (last.answer is None or last.truncated or last.failure is not None)):
        return "extraction"
    for round_ in reversed(row.rounds[:-1]):
        right = {place for place, draft in enumerate(round_.drafts) if (draft.score or 0.0) >= RIGHT}
        if right:
            shown = set(itertools.chain.from_iterable(round_.sources))
            return "refine" if right & shown else "distill"
    return "drafts"


def _round_flow(report: Report, number: int) -> RoundFlow:
    runs = [row for row in report.rows if len(row.rounds) > number]
    rounds = [row.rounds[number] for row in runs]
    drafts = [draft for round_ in rounds for draft in round_.drafts]
    graded = [[d.score for d in round_.drafts if d.score is not None] for round_ in rounds]
    by_question: dict[str, list[float]] = {}
    for row, scores in zip(runs, graded, strict=True):
        by_question.setdefault(row.id, []).extend(float(score >= RIGHT) for score in scores)
    shares = [fmean(values) for values in by_question.values() if values]
    before = [plurality_score(row.rounds[number - 1]) if number else None for row in runs]
    now = [plurality_score(round_) for round_ in rounds]
    pairs = [(a, b) for a, b in zip(before, now, strict=True) if a is not None and b is not None]
    sizes = [tokens for round_ in rounds for tokens in round_.workspace_tokens]
    known = [value for value in now if value is not None]
    return RoundFlow(
        round=number + 1,
        runs=len(runs),
        drafts=_mean([len(round_.drafts) for round_ in rounds]),
        accuracy=_mean([float(score >= RIGHT) for scores in graded for score in scores]),
        interval=score_interval(shares),
        any_right=_mean([float(any(score >= RIGHT for score in scores)) for scores in graded if scores]),
        majority=_mean(known),
        unreadable=_mean([float(draft.answer is None) for draft in drafts]),
        truncated=_mean([float(draft.truncated) for draft in drafts]),
        wrong_to_right=sum(a < RIGHT <= b for a, b in pairs) / len(pairs) if pairs else 0.0,
        right_to_wrong=sum(b < RIGHT <= a for a, b in pairs) / len(pairs) if pairs else 0.0,
        workspace=_mean(sizes),
    )


def plurality_score(round_: RoundRow) -> float | None:
    """The score of a round's most common answer, averaged over equally common ones; None if no draft was scored."""
    if all(draft.score is None for draft in round_.drafts):
        return None
    return voted_score([(draft.answer, draft.score or 0.0) for draft in round_.drafts])


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


class LookAt(NamedTuple):
    """A row worth reading."""

    id: str
    repeat: int
    answer: str | None
    gold: str | None
    stop: str | None
    lost_in: str
    detail: str
    kind: str
    """"had it": wrong, although some draft was right. "failed": the program gave no answer. "cut": wrong, and a cap
    truncated the answer or a draft. "wrong": none of these."""
    row: Row


def look_at(report: Report, count: int = 20) -> list[LookAt]:
    """Wrong rows, first those with a discarded right draft: they tell most about prompts and distillers."""
    order = {"refine": 0, "distill": 1, "extraction": 2, "failed": 3, "drafts": 4}
    found = [(order[place], row, place) for row in report.rows if (place := loss_of(row)) is not None]
    found.sort(key=lambda item: (item[0], item[1].id, item[1].repeat))
    return [
        LookAt(row.id, row.repeat, row.answer, row.gold, row.stop, place, row.error or row.detail, _kind(row), row)
        for _, row, place in found[:count]
    ]


def _kind(row: Row) -> str:
    if row.error is not None:
        return "failed"
    if any((draft.score or 0.0) >= RIGHT for draft in row.drafts):
        return "had it"
    return "cut" if any(draft.truncated for draft in row.drafts) else "wrong"


def shown_drafts(report: Report, number: int) -> float:
    """Mean number of drafts that a workspace of a round is made from; nan if it has none. Rounds count from 0."""
    rounds = [row.rounds[number] for row in report.rows if len(row.rounds) > number]
    return _mean([float(len(sources)) for round_ in rounds for sources in round_.sources])


EXAMPLES = {
    "rescued": "A later round put it right",
    "lost": "A right draft was there, and the answer is wrong",
    "agreed": "Right from the first round on",
    "missed": "No draft was right",
}


def examples(report: Report, among: Container[tuple[str, int]]) -> list[tuple[str, Row]]:
    """One run of each kind, with a description of the kind: the first one among those with texts."""
    found: dict[str, Row] = {}
    for row in sorted(report.rows, key=lambda row: (row.repeat, row.id)):
        if (row.id, row.repeat) in among and row.rounds:
            found.setdefault(_example(row), row)
    return [(text, found[kind]) for kind, text in EXAMPLES.items() if kind in found]


def _example(row: Row) -> str:
    if row.score < RIGHT:
        return "lost" if _kind(row) == "had it" else "missed"
    first = plurality_score(row.rounds[0])
    return "rescued" if len(row.rounds) > 1 and first is not None and first < RIGHT else "agreed"


# --- several programs ------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Two programs on their common questions."""

    first: str
    second: str
    difference: float
    """Mean score of the first minus that of the second, paired by question."""
    interval: Interval
    p_value: float
    """Two-sided."""
    questions: int
    sequential: float
    """The ratio of the first program's B_seq to the second's."""
    total: float
    """The ratio of the first program's B_total to the second's."""
    matched: str
    """The costs that differ by at most a tenth: "both", "sequential", "total" or "neither"."""


def compare(reports: Mapping[str, Report] | Sequence[Report]) -> list[Comparison]:
    """Every pair of programs, each later one compared with each earlier one.

    Raises DataError if two share no question.
    """
    known = named(reports)
    return [_compare(b, known[b], a, known[a]) for a, b in itertools.combinations(known, 2)]


def _compare(first: str, one: Report, second: str, other: Report) -> Comparison:
    left, right = one.by_question, other.by_question
    common = [question for question in left if question in right]
    if not common:
        raise DataError(f"{first!r} and {second!r} share no question; compare programs on the same examples")
    result = paired(
        [fmean(row.score for row in left[question]) for question in common],
        [fmean(row.score for row in right[question]) for question in common],
    )
    same = {
        cost: abs(a - b) <= MATCHED * max(a, b)
        for cost, a, b in (("sequential", one.sequential, other.sequential), ("total", one.total, other.total))
    }
    matched = "both" if all(same.values()) else next((cost for cost, is_same in same.items() if is_same), "neither")
    return Comparison(
        first,
        second,
        result.difference,
        result.interval,
        result.p_value,
        len(common),
        one.sequential / other.sequential if other.sequential else math.nan,
        one.total / other.total if other.total else math.nan,
        matched,
    )


def named(reports: Mapping[str, Report] | Sequence[Report]) -> dict[str, Report]:
    """Reports by name; equal names are made distinct."""
    if isinstance(reports, Mapping):
        return dict(reports)
    known: dict[str, Report] = {}
    for place, report in enumerate(reports, start=1):
        name = report.name or f"program {place}"
        known[name if name not in known else f"{name} ({place})"] = report
    return known


class MajorityRow(NamedTuple):
    """A majority vote of n single passes."""

    n: int
    score: float
    interval: Interval
    sequential: float
    """Mean of the most expensive of n passes: they run concurrently."""
    total: float
    """n passes."""
    short: bool
    """Whether there were too few repeats for the budget: n is the number available."""


SUBSETS = 256
"""Maximum number of samples of n repeats, if there are more combinations; drawn with a fixed seed."""


def majority(report: Report, n: int) -> MajorityRow:
    """The vote of n passes, averaged over the choices of n repeats.

    Raises DataError if a question has fewer than n repeats.
    """
    scores, sequential = [], []
    for question, rows in report.by_question.items():
        if len(rows) < n:
            raise DataError(f"`majority(n={n})`: question {question!r} has {len(rows)} repeats; evaluate with more")
        chosen = _subsets(rows, n)
        scores.append(fmean(voted_score([(row.answer, row.score) for row in some]) for some in chosen))
        sequential.append(fmean(max(row.sequential for row in some) for some in chosen))
    return MajorityRow(n, _mean(scores), score_interval(scores), _mean(sequential), n * report.total, False)


def majority_at_tokens(report: Report, total: float) -> MajorityRow:
    """The majority vote of as many single passes as a question's `total` tokens pay for, at least one.

    Args:
        report: LongCoT with repeats.
        total: the B_total to match, in mean tokens of a run.
    """
    affordable = max(1, int(total / report.total)) if report.total else 1
    there = min((len(rows) for rows in report.by_question.values()), default=0)
    return majority(report, min(affordable, there))._replace(short=affordable > there)


def _subsets(rows: Sequence[Row], n: int) -> list[tuple[Row, ...]]:
    if math.comb(len(rows), n) <= SUBSETS:
        return list(itertools.combinations(rows, n))
    draw = random.Random(f"{len(rows)}|{n}")
    return [tuple(draw.sample(rows, n)) for _ in range(SUBSETS)]


# --- files -----------------------------------------------------------------------------------------------------------


def read_report(folder: str | Path, name: str = "") -> Report:
    """The evaluation in `folder`, failed rows with their score of 0.

    Damaged lines are left out, and a damaged `config.json` is ignored; a warning is logged for either. Raises
    StoreError if there is no evaluation.
    """
    place = local_path(folder)
    try:
        config = read_config(place)
        if config is None:
            raise StoreError(f"{place} holds no evaluation: it has no config.json")
        rows = read_rows(place / "rows.jsonl", failed=True)
    except OSError as error:
        raise StoreError(f"{place} holds no evaluation: {error.strerror}") from error
    if not config:
        if not rows:
            raise StoreError(f"{place / 'config.json'} is not the record of an evaluation")
        logger.warning("%s is damaged: the evaluation of its rows is unknown", place / "config.json")
    repeats = config.get("repeats", math.inf)  # of the last run; rows of further repeats stay in the file
    ordered = sorted((r for r in rows.values() if r.repeat < repeats), key=lambda row: (row.repeat, row.id))
    return Report(rows=tuple(ordered), name=name or place.name, config=config)
