"""One pass over the drafts of other programs: the same mean, from calls that are paid for anyway, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import dspy
import pytest

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.evaluation import evaluate
from pdr_dspy.evaluation.drafts import drafts_in, over_drafts, pass_prompt
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from tests.evaluation.test_evaluator import QA, Exact, examples

ONE = Schedule(widths=(1,), draft_tokens=60, kappa=60)


def guess(request: ScriptedRequest) -> str:
    return f"Answer: {request.seed % 3}"


def measured(schedule: Schedule, store: Rollouts, instructions: dict[str, str] | None = None) -> Report:
    program = Operator(QA, schedule).with_schedule(schedule, instructions=instructions or {})
    with dspy.context(lm=scripted_lm(guess)):
        return evaluate(program, examples(), Exact(), store=store, repeats=2, name="it")


@pytest.fixture(scope="module")
def store() -> Rollouts:
    return Rollouts()


@pytest.fixture(scope="module")
def wide(store: Rollouts) -> Report:
    return measured(ONE.replace(widths=(8,), final="vote"), store)


@pytest.fixture(scope="module")
def single(wide: Report, store: Rollouts) -> Report:
    return measured(ONE, store)


@pytest.mark.parametrize(
    "schedule",
    [
        ONE,
        ONE.replace(widths=(4,), final="vote"),
        ONE.replace(widths=(8,), final="vote"),
        ONE.replace(widths=(4, 1), distiller="random_k", k=1),
        ONE.replace(widths=(8, 4, 1), distiller="random_k", k=1),
    ],
    ids=str,
)
def test_the_drafts_of_a_narrower_program_are_the_first_of_a_wider_one(
    schedule: Schedule, wide: Report, store: Rollouts
) -> None:
    def drafts(row: Row) -> list[str]:
        return [call.key for call in row.calls if call.round == 1]

    width, calls = schedule.widths[0], {(row.id, row.repeat): drafts(row) for row in wide.rows}
    for row in measured(schedule, store).rows:
        assert drafts(row) == calls[row.id, row.repeat][:width]
        assert all(call.reused for call in row.calls if call.round == 1)


def test_each_question_is_scored_over_all_its_drafts_at_the_cost_of_one(single: Report, wide: Report) -> None:
    found = over_drafts(single, wide)
    assert found.name == "it, mean of 8 drafts"
    assert found.config == {**single.config, "repeats": 16, "over": 8}
    assert [(row.repeat, row.id) for row in found.rows] == sorted((row.repeat, row.id) for row in found.rows)
    assert {name: len(rows) for name, rows in found.by_question.items()} == {f"e{n}": 16 for n in range(6)}
    for name, rows in wide.by_question.items():
        drafts = [draft for row in rows for draft in row.rounds[0].drafts]
        assert fmean(row.score for row in found.by_question[name]) == fmean(draft.score or 0.0 for draft in drafts)
        assert [row.answer for row in found.by_question[name]] == [draft.answer for draft in drafts]
    assert 0.0 < found.score < 1.0
    costs = ("sequential", "total", "calls", "paid", "reused", "cost", "failed")
    assert [getattr(found, cost) for cost in costs] == [getattr(single, cost) for cost in costs]


def unscored(row: Row) -> Row:
    first, *others = row.rounds[0].drafts
    round_ = row.rounds[0].model_copy(update={"drafts": (first.model_copy(update={"score": None}), *others)})
    return row.model_copy(update={"rounds": (round_,)})


def left(row: Row) -> Row:
    return row.model_copy(update={"rounds": (row.rounds[0].model_copy(update={"drafts": row.rounds[0].drafts[1:]}),)})


def cancelled(row: Row) -> Row:
    first, *others = row.calls
    return row.model_copy(update={"calls": (first.model_copy(update={"finish": "cancelled"}), *others)})


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(unscored, id="a draft that was not scored"),
        pytest.param(left, id="a draft that its round did not wait for"),
        pytest.param(cancelled, id="a cancelled draft"),
        pytest.param(lambda row: row.model_copy(update={"error": "no server"}), id="a failed run"),
        pytest.param(lambda row: row.model_copy(update={"rounds": ()}), id="a program without rounds"),
        pytest.param(
            lambda row: row.model_copy(
                update={"calls": tuple(call.model_copy(update={"prompt": ""}) for call in row.calls)}
            ),
            id="calls of unknown prompts",
        ),
    ],
)
def test_a_question_with_missing_drafts_leaves_the_pass_as_it_was(
    spoil: Callable[[Row], Row], single: Report, wide: Report
) -> None:
    first, *others = wide.rows
    assert drafts_in(spoil(first)) is None
    assert over_drafts(single, wide.model_copy(update={"rows": (spoil(first), *others)})) is single
    assert over_drafts(single, wide.model_copy(update={"rows": tuple(others)})) is single


@pytest.mark.parametrize(
    ("schedule", "instructions"),
    [
        (ONE.replace(widths=(4,), final="vote", temperature=0.5), None),
        (ONE.replace(widths=(4,), final="vote", draft_tokens=61), None),
        (ONE.replace(widths=(4,), final="vote"), {"draft": "Guess."}),
        (ONE, None),
    ],
    ids=["another temperature", "another cap", "other instructions", "a single draft"],
)
def test_drafts_of_other_requests_are_not_those_of_the_pass(
    schedule: Schedule, instructions: dict[str, str] | None, single: Report, store: Rollouts
) -> None:
    assert over_drafts(single, measured(schedule, store, instructions)) is single


def test_only_one_pass_has_a_prompt_of_its_own(single: Report, wide: Report, store: Rollouts) -> None:
    chain = measured(ONE.replace(widths=(1, 1), distiller="last"), store)
    assert all(pass_prompt(row) for row in single.rows)
    assert not any(pass_prompt(row) for report in (wide, chain) for row in report.rows)
    assert over_drafts(chain, wide) is chain
    assert pass_prompt(single.rows[0].model_copy(update={"error": "no server"})) == ""
