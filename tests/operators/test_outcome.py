"""What ends a run, and which draft its answer is taken from."""

from __future__ import annotations

from typing import Any

import pytest

from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.operators.outcome import Outcome, Round, Stop
from pdr_dspy.operators.question import Question
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.operators.workspace import Draft
from pdr_dspy.prompts.roles import check_task
from tests.support.checks import QA, ask
from tests.support.solver import answers


def test_an_unreadable_last_draft_falls_back_to_the_plurality_before_it() -> None:
    votes = ["3", "5", "5", "4"]
    lm = answers({"draft": lambda seed: f"Answer: {votes[seed % 256]}", "refine": "I give up."})
    prediction = ask(PDR(QA, widths=(4, 1), distiller="random_k"), lm)
    assert (prediction.answer, prediction.stop) == ("5", Stop.FELL_BACK)
    assert prediction.solution == "Answer: 5"


def test_without_any_answer_the_outputs_are_none_and_it_is_reported() -> None:
    lm = answers({"draft": "hm.", "refine": "hm."})
    prediction = ask(PDR("question -> answer: int, unit", widths=(3, 1), distiller="random_k"), lm)
    assert (prediction.answer, prediction.unit, prediction.stop) == (None, None, Stop.NO_ANSWER)


def test_a_truncated_last_draft_is_never_passed_off_as_an_answer() -> None:
    lm = answers({"draft": "Answer: 7", "refine": "So it is one thousand and then Answer: 12345"})
    prediction = ask(PDR("question -> answer: int", widths=(1, 1), distiller="random_k", k=1, refine_tokens=9), lm)
    assert prediction.rounds[1].drafts[0].truncated
    assert (prediction.answer, prediction.stop) == (7, Stop.FELL_BACK)


A, NONE = {"answer": "a", "unit": "m"}, {"answer": "b"}


@pytest.mark.parametrize(
    ("rounds", "why", "stop", "outputs"),
    [
        ([[NONE, A]], Stop.DONE, Stop.DONE, A),
        ([[A], [NONE]], Stop.DONE, Stop.FELL_BACK, A),
        ([[A], [NONE]], Stop.DEADLINE, Stop.DEADLINE, A),
        ([[NONE], [NONE]], Stop.DONE, Stop.NO_ANSWER, {"answer": "b", "unit": None}),
        ([[NONE]], Stop.BUDGET, Stop.BUDGET, {"answer": "b", "unit": None}),  # what ended it, though nothing was read
        ([[{}]], Stop.DEADLINE, Stop.DEADLINE, {"answer": None, "unit": None}),
    ],
)
def test_why_a_run_stopped(rounds: list[list[dict[str, str]]], why: Stop, stop: Stop, outputs: dict[str, Any]) -> None:
    made = [
        Round(drafts=tuple(Draft(round=number, index=index, outputs=own) for index, own in enumerate(drafts)))
        for number, drafts in enumerate(rounds, start=1)
    ]
    question = Question(check_task("question -> answer, unit"), Schedule(widths=(2,), final="vote"), {}, {})
    outcome = Outcome.of(question, made, why, Ledger())
    assert (outcome.stop, outcome.outputs, outcome.rounds) == (stop, outputs, tuple(made))
