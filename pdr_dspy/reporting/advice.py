"""Advice in one sentence, for people who want to use the program without reading intervals.

Every sentence follows from the figures below it on the page, by a rule in this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from pdr_dspy.evaluation.records import Report
from pdr_dspy.evaluation.statistics import paired
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.reporting.search_tables import SearchFacts
from pdr_dspy.search.racing.confirmation import DOUBT
from pdr_dspy.search.space.candidate import Candidate

WIDE = 0.2
"""A wider interval is too uncertain to act on."""
ALIKE = 0.05
"""Costs that differ by less than this fraction are reported as equal."""


class Advice(NamedTuple):
    """A recommendation, and its reason."""

    do: str
    """Without a full stop."""
    why: str = ""
    """Likewise."""


def on_search(facts: SearchFacts) -> Advice:
    """Whether to use the result of a search."""
    student, winner = (called_all(facts.trials[number].candidate) for number in (0, facts.best))
    reason = facts.verdict[:1].upper() + facts.verdict[1:]
    if facts.best == 0:
        return Advice(f"Keep {student}: nothing better was found", reason)
    if winner == student:  # only its settings or instructions differ
        winner = f"the tuned {student}"
    low, difference = facts.difference.interval.low, facts.difference.difference
    over = {name: not facts.limits.allow(one) for name, one in (("student", facts.student), ("winner", facts.winner))}
    if facts.kept == "student":
        if over["winner"] and not over["student"]:
            why = "the best that was found costs more than your limits allow"
        elif difference > 0:
            why = "nothing was shown to be better"
            count = len(facts.student.by_question)
            reason = (
                f"On {count} questions the best that was found was right on {_points(difference)}, which may be "
                f"luck: confirm on more questions to know. {reason}"
            )
        else:
            why = "what looked better in the search did no better on fresh runs"
        return Advice(f"Keep {student}: {why}", reason)
    if over["student"] and not over["winner"]:
        why = f"{student} costs more than your limits allow"
    elif low > 0 and facts.difference.p_value < DOUBT:
        why = f"it is right on {_points(difference)}, {_costs(facts.winner, facts.student)}"
    elif facts.winner.total < facts.student.total:
        why = f"it does as well, {_costs(facts.winner, facts.student)}"
    else:
        why = "it did better, which may be luck, and you asked for it all the same"
    return Advice(f"Use {winner}: {why}", reason)


def on_programs(reports: Sequence[Report]) -> Advice:
    """Which of some programs to use: the cheapest, unless a more expensive one was shown to be better.

    Programs are compared in the order of their B_total. A more expensive one replaces the current choice if the
    interval of their difference is above 0 and the exact test agrees, at a significance level shared among the
    comparisons.
    """
    if len(reports) == 1:
        return _on_one(reports[0])
    ordered = sorted(reports, key=lambda report: report.total)
    best = ordered[0]
    for report in ordered[1:]:
        difference = _difference(report, best)
        if difference is not None and difference[0] > 0 and difference[1] < DOUBT / (len(ordered) - 1):
            best = report
    cheapest = ordered[0]
    if best is cheapest:
        questions = len(best.by_question)
        return Advice(
            f"Keep {cheapest.name}, the cheapest: nothing was shown to be better",
            f"On {questions} questions no other program's lead over it is beyond chance",
        )
    more = _points(best.score - cheapest.score)
    return Advice(
        f"Use {best.name}: it is right on {more} than {cheapest.name}, {_costs(best, cheapest)}",
        "Each step to a dearer program is one that was shown to be better, paired by question",
    )


def _on_one(report: Report) -> Advice:
    low, high = report.interval
    questions = len(report.by_question)
    if report.failed == len(report.rows):
        return Advice("Mend what failed first: no run gave an answer", report.rows[0].error or "")
    if high - low > WIDE:
        return Advice(
            f"Ask more questions before you rely on this: {questions} leave open anything from {100 * low:.0f} to "
            f"{100 * high:.0f}\xa0%",
            f"{100 * report.score:.1f}\xa0% were right",
        )
    return Advice(
        f"Expect it to be right on {100 * report.score:.0f}\xa0% of such questions",
        f"Between {100 * low:.1f} and {100 * high:.1f}\xa0%, by {questions} questions",
    )


def _difference(first: Report, second: Report) -> tuple[float, float] | None:
    """The lower end of the difference's interval, and p; None if they share no question."""
    left, right = first.by_question, second.by_question
    common = [question for question in left if question in right]
    if not common:
        return None
    result = paired(
        [fmean(row.score for row in left[question]) for question in common],
        [fmean(row.score for row in right[question]) for question in common],
    )
    return result.interval.low, result.p_value


def called_all(candidate: Candidate) -> str:
    """A short description of a candidate, whose operators may have different schedules."""
    parts = {place: called(part.schedule) for place, part in candidate.by_operator.items()}
    return parts.get("") or " and ".join(f"{name} at {place}" for place, name in parts.items())


def called(schedule: Schedule) -> str:
    """A short description of a program."""
    if schedule.widths == (1,):
        return "one pass"
    if schedule.strategy == "PDR":
        return f"PDR {'-'.join(map(str, schedule.widths))}"
    if schedule.strategy == "SR":
        return f"SR x{schedule.rounds}"
    return f"{'vote' if schedule.final in ('vote', 'weighted') else 'best'} of {schedule.widths[0]}"


def _points(difference: float) -> str:
    return f"{100 * difference:.0f} more of 100 questions"


def _costs(first: Report, second: Report) -> str:
    """The first program's cost relative to the second's."""
    if not second.total or not second.sequential:
        return "at a cost that is not known"
    total, sequential = first.total / second.total, first.sequential / second.sequential
    if abs(total - 1) < ALIKE and abs(sequential - 1) < ALIKE:
        return "for as many tokens"
    if total < 1:
        return f"for {100 * (1 - total):.0f}\xa0% fewer tokens" if total < 1 - ALIKE else "for about as many tokens"
    return (
        f"for {total:.2g} times the tokens"
        if abs(sequential - total) < 0.1
        else (f"for {total:.2g} times the tokens and {sequential:.2g} times the wait")
    )
