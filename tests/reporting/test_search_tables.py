"""Tables of a search from hand-made trials, and a folder that a search wrote."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.statistics import Interval, Paired
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.reporting import search_tables
from pdr_dspy.search import Finalist, TrialRecord
from pdr_dspy.search.proposing.instructions import Proposal, Proposals
from pdr_dspy.search.racing.pareto import Limits


def trial(number: int, pooled: float, *, schedule: Schedule | None = None, **more: Any) -> TrialRecord:
    values = {"state": "measured", "origin": "search", "score": pooled, "pooled": pooled, "runs": 30, **more}
    return TrialRecord(number=number, schedule=schedule or Schedule(), sequential=50, total=100, **values)


def test_reuse_of_each_trial_and_of_all() -> None:
    dropped = trial(2, 0.1, state="dropped", paid=100)
    *each, whole = search_tables.reuse([trial(0, 0.3, paid=100), trial(1, 0.5, paid=100, saved=300), dropped])
    assert [found.share for found in each] == [0.0, 0.75, 0.0]
    assert (whole.number, whole.paid, whole.saved, whole.share) == (None, 300, 300, 0.5)


def test_cohorts_tell_who_was_left_when() -> None:
    trials = [
        trial(0, 0.3, cohort=0, paid=5),
        trial(1, 0.6, cohort=1, paid=10),
        trial(2, 0.9, cohort=1, runs=8, state="dropped", saved=7),
        trial(3, 0.2, cohort=1, runs=16, state="dropped"),
        trial(4, 0.5, cohort=2),
    ]
    first, second, third = search_tables.cohorts(trials)
    assert (first.entered, first.left, first.best, first.paid) == (1, ((8, 1), (16, 1), (30, 1)), 0.3, 5)
    assert (second.entered, second.left, second.best) == (3, ((8, 2), (16, 1), (30, 1)), 0.6)
    assert (second.paid, second.saved) == (10, 7)
    assert (third.left, third.best) == (((8, 1), (16, 1), (30, 1)), 0.6)
    (lost,) = search_tables.cohorts([trial(0, 0.3, runs=8, state="dropped")])
    assert math.isnan(lost.best)


def test_labels_have_what_differs_and_plays_a_part() -> None:
    one = Schedule(widths=(1,), temperature=0.7, refine_tokens=100)
    two = Schedule(widths=(4, 1), distiller="random_k", refine_tokens=200)
    names = search_tables.labels([trial(0, 0.1, schedule=one), trial(1, 0.2, schedule=two)])
    assert names == {0: "LongCoT T=0.7", 1: "PDR 4-1 random_k k=2 κ=2048 T=1 refine≤200"}
    assert search_tables.labels([trial(0, 0.1, schedule=one)]) == {0: "LongCoT"}


def test_importance_finds_the_setting_that_decides() -> None:
    draw = random.Random(3)
    trials = []
    for number in range(40):
        width, kappa, temperature = draw.choice((1, 2, 4)), draw.choice((512, 1024)), draw.choice((0.7, 1.0))
        schedule = Schedule(
            widths=(width, 1), distiller="random_k", k=1, kappa=kappa, temperature=temperature, top_p=0.9
        )
        trials.append(trial(number, 0.2 * math.log2(width) + 0.01 * draw.random(), schedule=schedule))
    first, *others = search_tables.importance(trials)
    assert first.name == "width, round 1"
    assert first.share > 0.7
    assert {one.name for one in others} == {"κ", "temperature"}  # the rest did not differ
    assert sum(one.share for one in (first, *others)) == pytest.approx(1.0)
    assert [value.value for value in first.values] == ["1", "2", "4"]
    assert [value.score for value in first.values] == pytest.approx([0.0, 0.2, 0.4], abs=0.01)
    assert sum(value.trials for value in first.values) == 40


def test_proposals_by_how_they_did() -> None:
    texts = {"Add slowly.": (3, 0.6), "Count.": (2, 0.8), "Guess.": (0, 0.0)}
    proposals = Proposals(
        proposals=tuple(Proposal(role=Role.DRAFT, text=text, tokens=3, tip="brief") for text in texts)
    )
    trials = [
        trial(number, score - 0.1 * number, instructions={"draft": text})
        for text, (count, score) in texts.items()
        for number in range(count)
    ]
    dropped = trial(9, 0.99, state="dropped", instructions={"draft": "Count."})
    found = search_tables.written([*trials, dropped], proposals)
    assert [(one.text, one.trials) for one in found] == [("Count.", 3), ("Add slowly.", 3), ("Guess.", 0)]
    assert found[0].score == 0.8
    assert math.isnan(found[2].score)
    assert search_tables.written(trials, None) == []


def test_few_trials_have_values_and_no_importance() -> None:
    schedules = [Schedule(widths=(1,)), Schedule(widths=(2, 1)), Schedule(widths=(4, 1))]
    found = search_tables.importance([trial(n, 0.1 * n, schedule=schedule) for n, schedule in enumerate(schedules)])
    assert {one.name for one in found} == {"rounds", "width, round 1"}
    assert all(math.isnan(one.share) for one in found)
    assert search_tables.importance([trial(0, 0.3)]) == []


def test_prompts_are_settings_of_the_programs_that_use_them() -> None:
    single, wide = Schedule(widths=(1,)), Schedule(widths=(4, 1), distiller="summary")
    trials = [
        trial(0, 0.2, schedule=single),
        trial(1, 0.4, schedule=wide, instructions={"draft": "Think.", "distill": "Short."}),
        trial(2, 0.6, schedule=wide, instructions={"draft": "Think hard."}),
        trial(3, 0.8, schedule=wide, demos={"draft": ({"question": "q", "answer": "a"},)}),
    ]
    found = {one.name: [(v.value, v.trials, v.score) for v in one.values] for one in search_tables.importance(trials)}
    assert found["draft instructions"] == [("no. 1", 1, 0.4), ("no. 2", 1, 0.6), ("own", 2, pytest.approx(0.5))]
    assert found["distill instructions"] == [("no. 1", 1, 0.4), ("own", 2, pytest.approx(0.7))]
    assert found["draft demos"] == [("no. 1", 1, 0.8), ("own", 3, pytest.approx(0.4))]


def rows(scores: list[float]) -> list[Row]:
    return [Row(id=f"q{place}", repeat=0, seed=0, score=score) for place, score in enumerate(scores)]


def facts(
    finalists: list[Finalist], race: dict[int, list[Row]], fresh: dict[int, list[Row]]
) -> search_tables.SearchFacts:
    empty, none = Report(rows=()), Paired(0.0, Interval(-1, 1), 1.0)
    trials = (trial(0, 0.3),)
    return search_tables.SearchFacts(
        trials, 0, tuple(finalists), empty, empty, none, "student", "", True, "", Limits(), 0, 0, race, fresh
    )


def test_optimism_is_of_those_that_their_race_chose() -> None:
    def finalist(number: int, race: float, fresh: float) -> Finalist:
        return Finalist(number, race, fresh, 0.5, Interval(0, 1), 1, 1)

    known = [finalist(1, 0.75, 0.5), finalist(2, 0.75, 0.75), finalist(0, 0.0, 1.0)]
    race = {1: rows([1, 1, 1, 0]), 2: rows([1, 1, 0, 1]), 0: rows([0, 0, 0, 0])}
    fresh = {1: rows([1, 0, 1, 0]), 2: rows([1, 1, 0, 1]), 0: rows([1, 1, 1, 1])}
    found = search_tables.optimism(facts(known, race, fresh))
    assert found is not None
    assert found.mean == pytest.approx(0.125)
    assert found.interval.low == pytest.approx(0.125 - 3.18245 * 0.125, abs=1e-4)  # 0, .5, 0, 0 by question: t(3)
    without = search_tables.optimism(facts(known, {}, {}))
    assert without is not None
    assert without.mean == pytest.approx(0.125)
    assert search_tables.optimism(facts(known[2:], race, fresh)) is None


def test_folders_without_a_search_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is the search finished"):
        search_tables.read_search(tmp_path)
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(StoreError, match="not of a search"):
        search_tables.read_search(tmp_path)
