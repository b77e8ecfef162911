"""The quality of a check, and the gain from refining: figures of rows whose drafts were both scored and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from pdr_dspy.evaluation.records import DraftRow, Report, Row
from pdr_dspy.evaluation.statistics import Interval, Paired, paired, score_interval
from pdr_dspy.reporting.evaluation_tables import plurality_score
from pdr_dspy.verifiers import RIGHT

PASSED = 1.0
"""The default threshold of a check: all examples, all rules, a valid answer."""


class CheckQuality(NamedTuple):
    """The reliability of a check, over all drafts of all rounds. Figures are fractions, nan if undefined."""

    drafts: int
    """Drafts that were scored and checked."""
    passed: float
    """Fraction of drafts with a check of at least the threshold."""
    precision: float
    """Fraction of right drafts among those that passed."""
    precision_interval: Interval
    """95 % interval, over questions."""
    recall: float
    """Fraction of right drafts that passed."""
    auc: float
    """Probability that a right draft has a higher check than a wrong one, equal ones counting half."""


class Gap(NamedTuple):
    """The gain of the answers over a simpler choice among the same drafts: the Refinement Gap."""

    over_vote: Paired | None
    """Answer minus the most common answer of the round before the last; None without such a round."""
    over_best: Paired | None
    """Answer minus the best-checked draft of all rounds before the last; None if no draft was checked."""


def check_quality(report: Report, *, threshold: float = PASSED) -> CheckQuality | None:
    """The check's verdicts against the verifier's; None if no draft has both.

    Args:
        report: an evaluation.
        threshold: a check of at least this value passes, a fraction.
    """
    known = [(row.id, draft) for row in report.rows for draft in _drafts(row)]
    if not known:
        return None
    drafts = [draft for _, draft in known]
    passed = [(name, _right(draft)) for name, draft in known if (draft.check or 0.0) >= threshold]
    by_question: dict[str, list[float]] = {}
    for name, right in passed:
        by_question.setdefault(name, []).append(float(right))
    good = [(draft.check or 0.0) for draft in drafts if _right(draft)]
    bad = [(draft.check or 0.0) for draft in drafts if not _right(draft)]
    return CheckQuality(
        drafts=len(drafts),
        passed=len(passed) / len(drafts),
        precision=_mean([float(right) for _, right in passed]),
        precision_interval=score_interval([fmean(values) for values in by_question.values()]),
        recall=_mean([float(value >= threshold) for value in good]),
        auc=_auc(good, bad),
    )


def gap(report: Report) -> Gap:
    """The answers compared with a vote, and with the best-checked draft, of the rounds before the last.

    Runs of one round count with their own answer on both sides: there was nothing to refine.
    """
    votes: dict[str, list[tuple[float, float]]] = {}
    bests: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        before = row.rounds[:-1]
        vote = plurality_score(before[-1]) if before else row.score
        if vote is not None:
            votes.setdefault(row.id, []).append((row.score, vote))
        drafts = [draft for round_ in before for draft in round_.drafts if draft.check is not None]
        if any(draft.check is not None for draft in _drafts(row)):
            best = max(drafts, key=lambda draft: draft.check or 0.0, default=None)
            bests.setdefault(row.id, []).append((row.score, row.score if best is None else best.score or 0.0))
    deep = any(len(row.rounds) > 1 for row in report.rows)
    return Gap(_paired(votes) if deep else None, _paired(bests) if deep else None)


def _paired(pairs: dict[str, list[tuple[float, float]]]) -> Paired | None:
    if not pairs:
        return None
    means = [(fmean(a for a, _ in values), fmean(b for _, b in values)) for values in pairs.values()]
    return paired([a for a, _ in means], [b for _, b in means])


def _drafts(row: Row) -> list[DraftRow]:
    """Drafts that were scored and checked."""
    return [draft for draft in row.drafts if draft.check is not None and draft.score is not None]


def _right(draft: DraftRow) -> bool:
    return (draft.score or 0.0) >= RIGHT


def _auc(good: Sequence[float], bad: Sequence[float]) -> float:
    if not good or not bad:
        return math.nan
    ordered = sorted([(value, True) for value in good] + [(value, False) for value in bad])
    ranks: dict[float, list[int]] = {}
    for place, (value, _) in enumerate(ordered, start=1):
        ranks.setdefault(value, []).append(place)
    total = sum(fmean(ranks[value]) for value in good)
    return (total - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan
