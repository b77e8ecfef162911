"""The first sentence of a page says what to do, and follows from the figures."""

from __future__ import annotations

from typing import Any

import pytest

from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.statistics import paired
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.reporting.advice import called, on_programs, on_search
from pdr_dspy.reporting.search_tables import SearchFacts
from pdr_dspy.search.racing.confirmation import judge
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.records import TrialRecord

FREE = Limits()
ONE, WIDE = Schedule(widths=(1,)), Schedule(widths=(4, 1))


def report(name: str, scores: list[float], *, total: int = 100, sequential: int = 100) -> Report:
    rows = [
        Row(id=f"q{n:03d}", repeat=0, seed=0, score=score, total=total, sequential=sequential)
        for n, score in enumerate(scores)
    ]
    return Report(rows=tuple(rows), name=name)


def facts(student: Report, winner: Report, *, limits: Limits = FREE, same: bool = False, **more: Any) -> SearchFacts:
    difference = paired(winner.per_question, student.per_question)
    kept, verdict = judge(winner, student, difference, limits, same=same, seen=0, **more)
    trials = tuple(
        TrialRecord(number=number, origin="x", state="measured", schedule=schedule)
        for number, schedule in enumerate((ONE, WIDE))
    )
    return SearchFacts(
        trials, 0 if same else 1, (), student, winner, difference, kept, verdict, True, "", limits, 0, 0, {}, {}
    )  # fmt: skip


HALF = [float(n % 2) for n in range(40)]
MOST = [1.0] * 36 + [0.0] * 4
FEW = [float(n % 8 == 0) for n in range(40)]


@pytest.mark.parametrize(
    ("student", "winner", "more", "sentence"),
    [
        (HALF, [*HALF[:-2], 1.0, 1.0], {}, "Keep one pass: nothing was shown to be better"),
        (HALF, FEW, {}, "Keep one pass: what looked better in the search did no better on fresh runs"),
        (HALF, HALF, {"same": True}, "Keep one pass: nothing better was found"),
        (
            HALF,
            MOST,
            {"limits": Limits(total=300)},
            "Keep one pass: the best that was found costs more than your limits",
        ),
        (FEW, MOST, {}, "Use PDR 4-1: it is right on 78 more of 100 questions, for 4 times the tokens"),
        (HALF, [*HALF[:-2], 1.0, 1.0], {"accept": "better"}, "Use PDR 4-1: it did better, which may be luck"),
    ],
)
def test_a_search_is_told_as_what_to_do(
    student: list[float], winner: list[float], more: dict[str, Any], sentence: str
) -> None:
    found = facts(report("student", student), report("winner", winner, total=400, sequential=200), **more)
    told = on_search(found)
    assert told.do.startswith(sentence)
    assert found.verdict[1:] in told.why  # the figures are not lost
    assert told.do.startswith("Use") is (found.kept == "winner")


def test_what_is_cheaper_and_as_good_raises() -> None:
    found = facts(report("student", HALF, total=200, sequential=200), report("winner", HALF, total=100))
    assert on_search(found).do == "Use PDR 4-1: it does as well, for 50\xa0% fewer tokens"
    over = facts(report("student", HALF, total=900), report("winner", HALF, total=100), limits=Limits(total=200))
    assert on_search(over).do == "Use PDR 4-1: one pass costs more than your limits allow"


def test_why_nothing_was_shown_says_what_to_do_about_it() -> None:
    told = on_search(facts(report("s", HALF[:8]), report("w", [*HALF[:7], 1.0, 1.0][:8])))
    assert "confirm on more questions" in told.why or "did no better" in told.do


def test_of_programs_the_cheapest_is_kept_unless_another_was_shown_to_be_better() -> None:
    cheap, same, good = report("one pass", FEW), report("vote", FEW, total=300), report("mine", MOST, total=500)
    assert on_programs([good, cheap, same]).do.startswith(
        "Use mine: it is right on 78 more of 100 questions than one pass"
    )
    assert on_programs([same, cheap]).do == "Keep one pass, the cheapest: nothing was shown to be better"
    dearer = report("dearer", [*MOST[:-1], 1.0], total=900)
    assert on_programs([dearer, good, cheap]).do.startswith("Use mine")  # one question more is no reason


def test_a_lead_among_many_programs_has_to_be_clearer_than_among_two() -> None:
    lead = [*FEW[:8], *[1.0] * 8, *FEW[16:]]
    cheap, other = report("one pass", FEW), report("other", lead, total=200)
    assert on_programs([cheap, other]).do.startswith("Use other")
    more = [report(f"more {n}", FEW, total=300 + n) for n in range(40)]
    assert on_programs([cheap, other, *more]).do.startswith("Keep one pass")


def test_programs_that_share_no_question_are_not_compared() -> None:
    other = report("other", MOST, total=500)
    moved = other.model_copy(update={"rows": tuple(row.model_copy(update={"id": f"x{row.id}"}) for row in other.rows)})
    assert on_programs([report("one pass", FEW), moved]).do.startswith("Keep one pass")


def test_one_program_is_told_by_how_much_is_open() -> None:
    assert on_programs([report("a", HALF[:8])]).do.startswith(
        "Ask more questions before you rely on this: 8 leave open anything from "
    )
    assert on_programs([report("a", HALF * 10)]).do == "Expect it to be right on 50\xa0% of such questions"
    failed = Report(rows=(Row(id="a", repeat=0, seed=0, score=0.0, error="no server"),))
    assert on_programs([failed]) == ("Mend what failed first: no run gave an answer", "no server")


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (ONE, "one pass"),
        (WIDE, "PDR 4-1"),
        (Schedule(widths=(1, 1, 1), distiller="last"), "SR x3"),
        (Schedule(widths=(5,), final="vote"), "vote of 5"),
    ],
)
def test_programs_have_short_names(schedule: Schedule, name: str) -> None:
    assert called(schedule) == name
