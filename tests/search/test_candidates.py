"""What a search tries: baselines, presets, then what is drawn; the same each time, new, and never too expensive."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import dspy
import pytest

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import StoreError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import PRESETS, Schedule
from pdr_dspy.operators.strategies import PDR, SR, BestOfN, SelfConsistency
from pdr_dspy.search import PDROptimizer, Race, SearchSettings
from pdr_dspy.search.candidates import baselines
from pdr_dspy.search.driver.controller import Run
from pdr_dspy.search.driver.journal import Journal
from pdr_dspy.search.driver.measurements import Measurements
from pdr_dspy.search.problem import prepare
from pdr_dspy.search.racing.cost_model import predict
from pdr_dspy.search.racing.requests import Propose, Proposed, Stage
from pdr_dspy.testing import ScriptedLM, scripted_lm
from pdr_dspy.verifiers.base import Score
from tests.search.test_optimizer import SMALL, Exact, another, compiled, mixed, questions, reasoner, student

pytestmark = pytest.mark.slow

SPACE = SMALL.extend(temperature=(0.7, 1.0))


class Asked:
    """A search that has come to its first request for candidates."""

    def __init__(
        self,
        journal: Journal | None = None,
        program: dspy.Module | None = None,
        lm: ScriptedLM | None = None,
        **settings: Any,
    ) -> None:
        self.lm = lm or scripted_lm(reasoner)
        keywords: dict[str, Any] = {"space": SPACE, "trials": 12, **settings}
        given = PDROptimizer(Exact(), **keywords)
        self.journal: Journal = Journal({}) if journal is None else journal
        with dspy.context(lm=self.lm):
            problem = prepare(given.settings, given.verifier, program or student(), questions(8), questions(8, 100))
            self.run = Run(problem, given.options, self.journal, Rollouts())
            self.measurements: Measurements = self.run.measurements
            steps = self.run.plan.run(baselines(problem))
            reply: Any = None
            while not isinstance(request := steps.send(reply), Propose):
                reply = self.run.answer(request)
        self.request = request

    def proposed(self, **changes: Any) -> Any:
        with dspy.context(lm=self.lm):
            return self.run.answer(self.request._replace(**changes))


def keys(proposed: list[Proposed]) -> list[tuple[str, str]]:
    return [(one.origin, one.candidate.key) for one in proposed]


def first_of(program: dspy.Module, **settings: Any) -> list[tuple[str, Schedule]]:
    keywords: dict[str, Any] = {"space": SPACE, **settings}
    given = PDROptimizer(Exact(), **keywords)
    with dspy.context(lm=scripted_lm(reasoner)):
        problem = prepare(given.settings, given.verifier, program, questions(8), questions(8, 100))
    return [(one.origin, one.candidate.schedule) for one in baselines(problem)]


def test_the_untouched_student_is_first_and_one_pass_second_where_it_is_another_program() -> None:
    one_pass = student()
    assert first_of(one_pass) == [("student", one_pass.schedule)]
    wide = PDR("question -> answer", Schedule(widths=(4, 1), kappa=200, draft_tokens=60))
    first, second = first_of(wide)
    assert first == ("student", wide.schedule)
    assert (second[0], second[1].widths) == ("LongCoT", (1,))
    assert second[1] == wide.schedule.replace(widths=(1,))
    assert first_of(wide, space=SPACE.narrow(rounds=(2,))) == [first]  # one that the space has not
    assert [origin for origin, _ in first_of(mixed())] == [
        "student",
        "LongCoT",
    ]  # of several the first is not the student


def test_what_is_known_to_be_good_is_tried_before_anything_is_drawn() -> None:
    proposed = Asked().proposed()
    origins = [one.origin for one in proposed]
    named = [origin for origin in origins if origin != "search"]
    assert named
    assert origins == named + ["search"] * (len(origins) - len(named))
    assert set(named) <= {"SR", *PRESETS}
    assert all(one.candidate in SPACE for one in proposed)


@pytest.mark.parametrize("wanted", [1, 3, 8])
def test_as_many_as_are_wanted_all_different_and_all_new(wanted: int) -> None:
    asked = Asked()
    proposed = asked.proposed(wanted=wanted)
    seen = [key for _, key in keys(proposed)]
    assert len(seen) == len(set(seen)) == wanted
    assert not {one.candidate.key for one in asked.request.tried} & set(seen)


def test_presets_that_were_tried_are_not_tried_again() -> None:
    asked = Asked()
    first = asked.proposed()
    tried = tuple(asked.request.tried[0]._replace(candidate=one.candidate) for one in first)
    second = asked.proposed(cohort=2, tried=(*asked.request.tried, *tried))
    assert {one.origin for one in second} == {"search"}
    assert not {key for _, key in keys(first)} & {key for _, key in keys(second)}


def test_a_space_that_is_used_up_has_no_more() -> None:
    small = SPACE.narrow(rounds=(1,))
    asked = Asked(space=small)
    (other,) = asked.proposed()
    assert other.candidate.schedule.temperature == 0.7
    tried = (*asked.request.tried, asked.request.tried[0]._replace(candidate=other.candidate))
    assert asked.proposed(cohort=2, tried=tried) == []


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_proposals_are_the_seeds_and_the_same_however_many_requests_are_in_flight(sampler: str) -> None:
    first, second = (keys(Asked(sampler=sampler, max_in_flight=count).proposed()) for count in (1, 64))
    assert first == second
    others = [keys(Asked(sampler=sampler, seed=seed).proposed()) for seed in (1, 2)]
    assert any(other != first for other in others)


def test_a_whole_search_tries_the_same_however_many_requests_are_in_flight() -> None:
    found = []
    for count in (1, 64):
        result = compiled(scripted_lm(reasoner), space=SPACE, trials=11, max_in_flight=count, confirm_repeats=1).result
        assert result is not None
        found.append([(t.number, t.origin, t.candidate.key, t.cohort, t.dropped) for t in result.trials])
    assert found[0] == found[1]
    assert len({cohort for *_, cohort, _ in found[0]}) == 3


def test_a_resumed_search_gets_the_candidates_of_its_journal() -> None:
    journal = Journal({})
    first = Asked(journal)
    proposed = first.proposed()
    assert journal.names("propose/") == ["propose/001"]
    entry = journal.get("propose/001")
    second = Asked(journal, sampler="random", time_limit=1e-9)  # another sampler, and a clock that has run out
    assert keys(second.proposed()) == keys(proposed)
    assert keys(second.proposed(wanted=2)) == keys(proposed[:2])  # a search that ends sooner
    assert (journal.names("propose/"), journal.get("propose/001")) == (["propose/001"], entry)
    assert second.lm.served.calls == 0  # nor was anything measured twice


def test_a_clock_that_has_run_out_ends_the_search_and_is_not_in_the_journal() -> None:
    asked = Asked(time_limit=1e-9)
    assert asked.proposed() == "0 seconds have passed, `time_limit` is 1e-09"
    assert not asked.journal.names("propose/")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"candidates": 1}', '{"candidates": [{"origin": "search"}]}'])
def test_an_entry_of_another_search_is_refused_by_name(text: str) -> None:
    asked = Asked()
    asked.journal.put("propose/001", text)
    with pytest.raises(StoreError, match=r"the entry 'propose/001' in .* is not of this search"):
        asked.proposed()


def test_what_the_journal_has_reads_as_it_was_proposed() -> None:
    demos = SPACE.extend(instructions={"draft": ("So.",)}, demos={"draft": ([{"question": "q", "answer": "a"}],)})
    journal = Journal({})
    proposed = Asked(journal, space=demos).proposed()
    assert {len(one.candidate.instructions) + len(one.candidate.demos) for one in proposed} >= {0, 1}
    assert json.loads(journal.get("propose/001") or "")["candidates"][0]["origin"] == proposed[0].origin
    assert [one.candidate for one in Asked(journal, space=demos).proposed()] == [one.candidate for one in proposed]


def test_what_would_surely_cost_more_than_a_limit_is_not_proposed(caplog: pytest.LogCaptureFixture) -> None:
    free = Asked(space=SMALL)
    profile = free.measurements.profile()
    costs = {key: predict(one.candidate.schedule, profile) for one in free.proposed() for _, key in keys([one])}
    totals = sorted(cost.total for cost in costs.values() if cost is not None)
    limit = totals[len(totals) // 2]
    with caplog.at_level(logging.INFO, logger="pdr_dspy.search"):
        proposed = Asked(space=SMALL, max_total=limit).proposed()
    assert proposed
    for one in proposed:
        cost = predict(one.candidate.schedule, profile)
        assert cost is not None
        assert cost.total <= 1.1 * limit
    refused = [text for text in caplog.messages if text.startswith("not run: ")]
    assert refused
    assert all("would cost B_seq" in text for text in refused)
    assert len(refused) == len(set(refused))  # each said once


def test_what_the_models_context_has_no_room_for_is_not_proposed(caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked(space=SPACE.extend(kappa=(750,)), lm=scripted_lm(reasoner, context_length=800))
    with caplog.at_level(logging.WARNING, logger="pdr_dspy.search"):
        proposed = asked.proposed()
    assert {one.candidate.schedule.kappa for one in proposed if one.candidate.schedule.rounds > 1} == {200}
    assert any("the model's context is 800" in text for text in caplog.messages)


def test_the_first_of_several_operators_that_differ_is_tried_as_one_schedule_for_all() -> None:
    asked = Asked(program=mixed())
    assert [arm.origin for arm in asked.run.plan.arms] == ["student", "LongCoT"]
    rows = [asked.measurements.rows_of(Stage.RACE, number) for number in (0, 1)]
    assert [len(row[0].calls) for row in rows] == [4, 2]
    single = asked.request.tried[1].candidate.key
    assert single not in {key for _, key in keys(asked.proposed())}


def test_a_space_that_is_too_large_to_list_is_drawn_from_as_a_whole() -> None:
    grid = {"temperature": tuple(t / 100 for t in range(100)), "top_p": tuple(p / 100 for p in range(10, 90))}
    proposed = Asked(space=SMALL.extend(**grid), sampler="random").proposed()
    assert len({key for _, key in keys(proposed)}) == 8
    drawn = {one.candidate.schedule.temperature for one in proposed if one.origin == "search"}
    assert max(drawn) > 0.5


class Knows:
    """A check that is right about every draft, from what the question says."""

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return Score(float(outputs["answer"] == f"a{inputs['question'][1:]}"))

    def describe(self) -> dict[str, Any]:
        return {"kind": "Knows"}


def checked(**settings: Any) -> Operator:
    return PDR("question -> answer", check=Knows(), **{"widths": (4, 1), "draft_tokens": 60, "kappa": 200, **settings})


def origins_of(asked: Asked, **changes: Any) -> dict[str, Schedule]:
    found = asked.proposed(wanted=8, **changes)
    return {one.origin: one.candidate.schedule for one in found if one.origin != "search"}


def test_a_vote_the_best_by_the_check_and_a_refinement_by_it_are_tried_before_all_else() -> None:
    named = origins_of(Asked(program=checked(), space=None))
    vote, best, refined, *_ = named.items()
    assert vote == ("vote", named["vote"])
    assert (vote[1].widths, vote[1].final, vote[1].check) == ((8,), "vote", None)
    assert best[0] == "best by check"
    assert (best[1].widths, best[1].final, best[1].check) == ((8,), "best", "check")
    assert refined[0] == "refined by check"
    assert (refined[1].widths, refined[1].distiller, refined[1].keep, refined[1].stop_at) == (
        (8, 1),
        "checked",
        True,
        1.0,
    )
    without = origins_of(Asked(program=another(), space=None))
    assert "vote" in without
    assert not [name for name in without if name.endswith("check")]
    assert "vote" not in origins_of(Asked())  # a space that has no vote


@pytest.mark.parametrize(
    "waves",
    [
        SelfConsistency("question -> answer", n=8, agree=0.8, first_wave=2, next_wave=1),
        BestOfN("question -> answer", n=16, check=lambda args, pred: 1.0, stop_at=1.0, first_wave=12),
        PDR("question -> answer", widths=(4, 1), distiller="random_k", agree=0.8, first_wave=2),
    ],
    ids=["agree", "stop_at", "PDR"],
)
def test_a_student_that_makes_its_drafts_in_waves_is_tuned(waves: Operator) -> None:
    """The programs tried first have rounds of other widths, which may have no room for its waves."""
    asked = Asked(program=waves, space=None)
    named = origins_of(asked)
    assert asked.run.problem.own.schedule == waves.schedule
    assert {"vote", "SR"} <= set(named)
    for schedule in named.values():
        assert schedule.first_wave is None or schedule.first_wave < max(schedule.widths)


def test_they_are_as_wide_as_the_limits_allow() -> None:
    with_limit = Asked(program=checked(), space=None, max_total=150)
    free = origins_of(Asked(program=checked(), space=None))["vote"]
    narrow = origins_of(with_limit)["vote"]
    assert free.widths == (8,)
    assert 1 < narrow.widths[0] < 8


@pytest.mark.parametrize("strategy", ["one pass", "SR", "best", "PDR"])
def test_where_a_check_knows_the_search_returns_a_program_that_goes_by_it(strategy: str) -> None:
    """Whatever the student is."""
    settings: dict[str, Any] = {"draft_tokens": 60, "kappa": 200, "check": Knows()}
    program = {
        "one pass": checked(widths=(1,)),
        "SR": SR("question -> answer", rounds=2, **settings),
        "best": BestOfN("question -> answer", n=2, **settings),
        "PDR": checked(),
    }[strategy]
    optimizer = compiled(scripted_lm(reasoner), program, count=16, space=None, trials=8, confirm_repeats=1)
    assert optimizer.result is not None
    winner = optimizer.result.best
    assert winner.candidate.schedule.check == "check"
    best = next(trial for trial in optimizer.result.trials if trial.origin == "best by check")
    assert winner.score >= best.score - 1e-9


def test_other_finals_of_measured_drafts_are_tried_at_no_tokens_and_are_no_trials() -> None:
    settings: dict[str, Any] = {"space": SPACE.extend(final=("refine", "vote")), "trials": 8, "cohort": 3}
    result = compiled(scripted_lm(reasoner), **settings).result
    assert result is not None
    free = [trial for trial in result.trials if trial.free]
    assert free
    assert {trial.origin for trial in free} == {"same calls"}
    assert [trial.paid for trial in free] == [0] * len(free)
    assert len(result.trials) - len(free) == 8
    plain = compiled(scripted_lm(reasoner), **settings, settings=SearchSettings(race=Race(free=0))).result
    assert plain is not None
    assert not any(trial.free for trial in plain.trials)
