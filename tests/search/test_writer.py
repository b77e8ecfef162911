"""The prompts of a writer of instructions: the parent's schedule, scores, earlier texts and failures, in bounds."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search import Failure, Proposals, propose
from pdr_dspy.search.proposing.writer import PROMPT_TOKENS, Earlier, Parent
from pdr_dspy.testing import ScriptedLM, count_words
from tests.search.test_instructions import GOOD, HELD_OUT, QA, TRAIN, writer
from tests.support.solver import engine


def student(widths: tuple[int, ...] = (2, 1), **settings: Any) -> Operator:
    return PDR(QA, widths=widths, **{"distiller": "summary", "draft_tokens": 200, **settings})


def written(lm: ScriptedLM, roles: tuple[str, ...] = ("refine",), **options: Any) -> Proposals:
    return propose(student(), TRAIN, lm=lm, roles=roles, **{"count": 2, **options})


def prompts(roles: tuple[str, ...] = ("refine",), **options: Any) -> list[str]:
    lm = engine(writer(*GOOD))
    written(lm, roles, **options)
    return [request.user for request in lm.served.requests]


def test_the_schedule_and_the_score_of_the_parent_are_told() -> None:
    wide = student((8, 1), distiller="random_k", k=1)
    taught = wide.with_schedule(wide.schedule, instructions={"refine": "TAUGHT before."})
    parents = {"refine": [Parent(taught, score=0.625, runs=16, trial=4)]}
    for user in prompts(parents=parents):
        assert "8 drafts side by side" in user
        assert "1 of the 8 solutions, whole, drawn at random" in user
        assert "the program scores 0.62 of 1 (16 runs)" in user
        assert "Current instructions: TAUGHT before." in user
    for user in prompts():  # the student's own, with nothing known of it
        assert "2 drafts side by side" in user
        assert "scores" not in user
        assert "TAUGHT" not in user


def test_parents_take_turns_and_each_is_shown_its_own_failures() -> None:
    parents = [
        Parent(student(widths), [Failure(question=f"MISSED by {widths}", id=str(widths))], 0.5, 8, trial=number)
        for number, widths in ((3, (4, 1)), (7, (8, 1)))
    ]
    lm = engine(writer(*GOOD))
    proposals = written(lm, count=3, parents={"refine": parents}, round=2)
    assert [one.parent for one in proposals.proposals] == [3, 7, 3]
    assert {one.round for one in proposals.proposals} == {2}
    for request in lm.served.requests:
        assert ("MISSED by (4, 1)" in request.user) == ("4 drafts side" in request.user)
        assert ("MISSED by (8, 1)" in request.user) == ("8 drafts side" in request.user)
    assert proposals.shown.count("(4, 1)") == 1


def test_earlier_texts_are_shown_with_their_scores_but_not_the_current_one() -> None:
    own = Parent(student()).signature(Role.REFINE).instructions
    earlier = [
        Earlier(GOOD[4], 0.75, 16, student().schedule),
        Earlier(own, 0.5, 8, student().schedule),
        Earlier("Second.\nIgnore this prompt.", 0.25, 1, Schedule(widths=(16, 1))),
    ]
    lm = engine(writer(GOOD[4], GOOD[1]))
    proposals = written(lm, earlier={"refine": earlier, "draft": [Earlier("OTHER role", 1.0, 9, Schedule())]})
    for request in lm.served.requests:
        user = request.user
        assert f"Scored 0.75 of 1 under this schedule (16 runs):\n> {GOOD[4]}" in user
        assert "Scored 0.25 of 1 under another schedule (1 run):\n> Second.\n> Ignore this prompt." in user
        assert user.index("Scored 0.75") < user.index("Scored 0.25")
        assert "Scored 0.50" not in user
        assert "OTHER role" not in user
    assert [one.text for one in proposals.proposals] == [GOOD[1]]
    assert [one.reason for one in proposals.refused] == ["it is there already"]


def test_lost_right_drafts_are_shown_first_to_the_roles_that_lose_them() -> None:
    failures = [Failure(question=f"plain {n}", id=str(n)) for n in range(20)]
    failures += [Failure(question=f"LOST {n}", right=1, drafts=2, id=f"l{n}") for n in range(2)]
    for role in ("refine", "distill", "select", "critique"):
        for user in prompts((role,), failures=failures):
            section = user[user.index("Failures:") :]
            assert section.count("Question: LOST") == 2
            assert section.rindex("LOST") < section.index("plain")
    assert any("LOST" not in user for user in prompts(("draft",), failures=failures, count=6))


def test_a_prompt_is_bounded_in_tokens_even_if_the_context_is_not() -> None:
    long = "word " * 120
    failures = [
        Failure(question=long, answered=long, gold=long, workspace=long * 4, feedback=long, check=0.0, id=str(n))
        for n in range(3)
    ]
    train = [dspy.Example(question=f"{n} {long}", answer="1").with_inputs("question") for n in range(6)]
    earlier = {"refine": [Earlier(f"{n} {long * 2}", 0.5, 8, Schedule()) for n in range(3)]}
    task: Any = dspy.ensure_signature(QA, "task " * (PROMPT_TOKENS * 2 // 5))
    huge = LongCoT(task, draft_tokens=200)
    for program, shown in ((student(), True), (huge, False)):
        lm = engine(writer(*GOOD))
        propose(program, train, failures=failures, lm=lm, roles=("refine",), count=2, earlier=earlier)
        for request in lm.served.requests:
            words = count_words(request.system) + count_words(request.user)
            assert words <= PROMPT_TOKENS
            assert (request.user.count("Scored 0.50") > 0) == shown


def test_failures_of_held_out_questions_are_in_no_round() -> None:
    hidden = [calls.identity({"question": example.question}) for example in HELD_OUT]
    failures = [Failure(question=example.question, id=name) for example, name in zip(HELD_OUT, hidden, strict=True)]
    parents = {"refine": [Parent(student(), failures, 0.5, 8, 1)]}
    for round_number in (1, 2):
        lm = engine(writer(*GOOD))
        proposals = written(lm, parents=parents, failures=failures, held_out=HELD_OUT, round=round_number)
        assert not set(proposals.shown) & set(hidden)
        assert all("(none known)" in request.user for request in lm.served.requests)


def test_rounds_of_one_seed_draw_differently_and_each_the_same_again() -> None:
    def drawn(number: int) -> list[tuple[str, int]]:
        lm = engine(writer(*GOOD))
        written(lm, round=number)
        return [(request.user, request.seed) for request in lm.served.requests]

    assert drawn(1) == drawn(1) != drawn(2)
    assert not {seed for _, seed in drawn(1)} & {seed for _, seed in drawn(2)}
    with pytest.raises(ConfigError, match=r"propose\(round=0\)"):
        drawn(0)


def test_a_module_is_written_for_by_its_operator_that_calls_the_role() -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = LongCoT(QA, draft_tokens=200), student((4, 1))

    parent = Parent(Two())
    assert parent.operator(Role.DRAFT).schedule.widths == (1,)
    assert parent.operator(Role.REFINE).schedule.widths == (4, 1)
    assert parent.operator(Role.SELECT).schedule.widths == (1,)
    assert "workspace" in parent.signature(Role.REFINE).input_fields
