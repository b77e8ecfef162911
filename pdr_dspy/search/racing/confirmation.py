"""The confirmation of a search: the winner and the unchanged student are measured again, on fresh seeds and, if
available, on questions that no trial has seen, to decide which of the two is returned."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import dspy

from pdr_dspy import calls
from pdr_dspy.evaluation.records import Report
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.evaluation.statistics import Paired
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.settings import Accept

DOUBT = 0.05
"""The largest p-value at which the winner counts as better."""
TOLERANCE = 0.01
"""The largest deficit in score, as a fraction, at which a cheaper winner is still preferred to the student, unless the
search has a larger margin."""


@dataclass(frozen=True)
class Confirmation:
    """The results of the winner and the unchanged student on fresh seeds."""

    winner: Report
    student: Report
    difference: Paired
    """Winner minus student, paired by question."""
    untouched: bool
    """Whether the questions were not used in the search."""
    kept: str
    """Which of the two was returned: "winner" or "student"."""
    verdict: str
    """The outcome in one sentence."""
    over: int = 1
    """Drafts of each question that the student's score is the mean of. Above 1 if the student is one pass, and the
    winner made the same draft several times."""

    @property
    def place(self) -> str:
        """The folder of the student's rows, beside the winner's."""
        return "student" if self.over == 1 else f"student_over_{self.over}"

    def __deepcopy__(self, memo: dict[int, object]) -> Confirmation:
        """Return itself, because other optimizers copy compiled programs, which contain it, very often."""
        del memo
        return self


def split(
    trainset: list[dspy.Example], valset: Sequence[dspy.Example] | None, seed: int
) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """Split the questions into those of the trials and those of the confirmation."""
    if valset is not None:
        return trainset, list(valset)
    if len(trainset) < 8:
        return trainset, trainset
    order = list(range(len(trainset)))
    random.Random(seed).shuffle(order)
    held = set(order[: len(trainset) // 4])
    return (
        [example for place, example in enumerate(trainset) if place not in held],
        [example for place, example in enumerate(trainset) if place in held],
    )


def identities(program: dspy.Module, examples: Sequence[dspy.Example]) -> list[str]:
    """The identity of each question: its inputs, not its id."""
    return [calls.identity(inputs_of(program, example)) for example in examples]


def judge(
    winner: Report,
    student: Report,
    difference: Paired,
    limits: Limits,
    *,
    same: bool,
    seen: int,
    prompted: int = 0,
    accept: Accept = "confident",
    margin: float = 0.0,
) -> tuple[str, str]:
    """The program to return, "winner" or "student", and the reason as a sentence.

    The winner is confidently better if the interval of the difference is above 0 and the exact test agrees: on few
    questions, of which even fewer differ, an interval by Student's t is too narrow.

    Args:
        winner, student: their reports on the confirmation.
        difference: winner minus student, paired by question.
        limits: the search's limits.
        same: whether the winner is the student.
        seen: number of the questions that were used in the search.
        prompted: number of the questions that are in the space's demonstrations, or were shown to the writer of
            instructions.
        accept: the rule of the search.
        margin: a difference in score that does not count, a fraction; at least `TOLERANCE`.
    """
    allowed = max(margin, TOLERANCE)
    kept, why = _choose(winner, student, difference, limits, same=same, accept=accept, allowed=allowed)
    count = len(student.by_question)
    if seen == count:
        why += "; the questions are those of the search, only the seeds are fresh: confirm on others, given as `valset`"
    elif seen:
        why += f"; {seen} of the {count} questions took part in the search, there only the seeds are fresh"
    if prompted:
        why += f"; {prompted} of the {count} questions were shown in demonstrations or to the writer of instructions"
    for name, report in (("student's", student),) if same else (("winner's", winner), ("student's", student)):
        if report.failed:
            why += f"; {report.failed} of the {name} {len(report.rows)} runs failed and count 0"
        if report.failed_rounds:
            why += f"; {report.failed_rounds} of the {name} {len(report.rows)} runs are answered without a failed round"
    return kept, why


def _choose(
    winner: Report, student: Report, difference: Paired, limits: Limits, *, same: bool, accept: Accept, allowed: float
) -> tuple[str, str]:
    low, high = difference.interval
    figures = (
        f"{winner.score:.3f} against {student.score:.3f}, a difference of {difference.difference:+.3f} "
        f"[{low:+.3f}, {high:+.3f}] (p = {difference.p_value:.2g}), at B_seq {winner.sequential:.0f} against "
        f"{student.sequential:.0f} and B_total {winner.total:.0f} against {student.total:.0f}"
    )
    priced = winner.cost is not None and student.cost is not None
    if priced:
        figures += f", at a cost of {winner.cost:.4g} against {student.cost:.4g}"
    if same:
        too = "" if limits.allow(student) else "; on these questions it is over the limits"
        return "student", f"the untouched student was the best of the search: {student.score:.3f} on confirmation{too}"
    over = {name: _over(report, limits) for name, report in (("winner", winner), ("student", student))}
    if over["winner"] < over["student"]:
        too = "" if over["winner"] <= 0 else "; on these questions it is over them too, by less"
        return "winner", f"the winner is kept, the student costs more than the limits allow: {figures}{too}"
    if over["student"] < over["winner"]:
        too = "" if over["student"] <= 0 else "; on these questions it is over them too, by less"
        return "student", f"the student is kept, the winner costs more than the limits on confirmation: {figures}{too}"
    if winner.score == student.score == 0:
        return "student", (
            f"the student is kept, since nothing was ever right: {figures}; see in the rows whether the verifier reads "
            "the answers as you mean it, before costs decide"
        )
    if low > 0 and difference.p_value < DOUBT:
        return "winner", f"the winner is kept, it is confidently better: {figures}"
    costs = (winner.cost, student.cost) if winner.cost is not None and student.cost is not None else None
    less = winner.total < student.total if costs is None else costs[0] < costs[1]  # tokens of two models do not compare
    if less and winner.sequential <= student.sequential and difference.difference >= -allowed:
        return "winner", f"the winner is kept, it did as well for {'less' if priced else 'fewer tokens'}: {figures}"
    if difference.difference > 0 and accept == "better":
        return "winner", f"the winner is kept, it did better, though the difference may be chance: {figures}"
    if difference.difference > 0:
        return "student", (
            f"the student is kept, the winner did better but not confidently so: {figures}; confirm on more questions, "
            'or take the winner with `accept="better"`'
        )
    return "student", f"the student is kept, the winner did no better on confirmation: {figures}"


def _over(report: Report, limits: Limits) -> float:
    """How far the worse of the costs is over its limit, as a share of it; 0 within both."""
    return max([0.0, *limits.excess(report.sequential, report.total, report.cost).values()])
