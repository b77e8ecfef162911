"""The winner of a search and the untouched student, measured again on fresh seeds and, where there are any, questions
that no trial has seen: which of the two is returned, and what can honestly be said of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import dspy

from pdr_dspy import calls
from pdr_dspy.evaluation import Report
from pdr_dspy.search.pareto import Limits
from pdr_dspy.stats import Paired

CONFIRMATION_SEED = 104_729
"""Added to the search's seed when the winner is confirmed: none of its samples took part in choosing it."""


@dataclass(frozen=True)
class Confirmation:
    """The winner and the untouched student on fresh seeds."""

    winner: Report
    student: Report
    difference: Paired
    """Winner minus student, paired by question."""
    untouched: bool
    """Whether the questions took no part in the search."""
    kept: str
    """Which of the two was returned: "winner" or "student"."""
    verdict: str
    """The outcome in one sentence."""


def split(
    trainset: list[dspy.Example], valset: Sequence[dspy.Example] | None, seed: int
) -> tuple[list[dspy.Example], list[dspy.Example], bool]:
    """Questions for the trials, questions for the confirmation, and whether the two are apart."""
    if valset is not None:
        asked = {calls.identity(dict(example.inputs())) for example in trainset}
        apart = not any(calls.identity(dict(example.inputs())) in asked for example in valset)
        return trainset, list(valset), apart
    if len(trainset) < 8:
        return trainset, trainset, False
    order = list(range(len(trainset)))
    random.Random(seed).shuffle(order)
    held = set(order[: len(trainset) // 4])
    return (
        [example for place, example in enumerate(trainset) if place not in held],
        [example for place, example in enumerate(trainset) if place in held],
        True,
    )


def judge(winner: Report, student: Report, difference: Paired, limits: Limits, *, same: bool) -> tuple[str, str]:
    """Which of the two to return, and why."""
    low, high = difference.interval
    figures = (
        f"{winner.score:.3f} against {student.score:.3f}, a difference of {difference.difference:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], at B_seq {winner.sequential:.0f} against {student.sequential:.0f} and B_total "
        f"{winner.total:.0f} against {student.total:.0f}"
    )
    if same:
        return "student", f"the untouched student was the best of the search: {student.score:.3f} on confirmation"
    if not limits.allow(student):
        over = "" if limits.allow(winner) else "; on these questions it is over the limits too"
        return "winner", f"the winner is kept, the student costs more than the limits allow: {figures}{over}"
    if not limits.allow(winner):
        return "student", f"the student is kept, the winner costs more than the limits on confirmation: {figures}"
    if difference.difference > 0:
        sure = "" if low > 0 else "; the difference may be chance"
        return "winner", f"the winner is kept: {figures}{sure}"
    if difference.difference == 0 and (winner.total, winner.sequential) < (student.total, student.sequential):
        return "winner", f"the winner is kept, it is as good for fewer tokens: {figures}"
    return "student", f"the student is kept, the winner did no better on confirmation: {figures}"
