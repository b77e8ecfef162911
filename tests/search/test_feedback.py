"""A verifier as GEPA's metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy
import pytest

from pdr_dspy.operators.strategies import PDR
from pdr_dspy.search import feedback
from pdr_dspy.verifiers import ExactVerifier
from pdr_dspy.verifiers.base import Score
from tests.support.solver import engine, role_of


def test_feedback_makes_a_verifier_the_metric_of_gepa() -> None:
    metric = feedback(ExactVerifier())
    example = dspy.Example(question="q", answer="7").with_inputs("question")
    wrong = metric(example, dspy.Prediction(answer="8"), None, "inner.refine", None)
    assert wrong.score == 0
    assert "Right is: 7." in wrong.feedback
    assert "workspace" in wrong.feedback
    right = metric(example, dspy.Prediction(answer="7"))
    assert (right.score, "Right is" in right.feedback) == (1, False)


class Even:
    """A check that an odd answer fails."""

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        odd = int(outputs["answer"]) % 2
        return Score(0.5, "odd", feedback=f"{outputs['answer']} is odd") if odd else Score(1.0, "even")

    def describe(self) -> dict[str, Any]:
        return {"kind": "Even"}


@pytest.mark.parametrize(
    ("drafted", "refined", "lost", "said"),
    [
        ("8", "9", "Of 3 earlier attempts 3 were right, and what followed lost them.", "0.50 of 1: 9 is odd"),
        ("7", "9", "None of 3 earlier attempts was right.", "0.50 of 1: 9 is odd"),
        ("7", "6", "None of 3 earlier attempts was right.", "1.00 of 1: even"),
        ("7", "8", "", ""),
    ],
)
def test_a_run_of_an_operator_tells_the_checks_word_and_lost_drafts(
    drafted: str, refined: str, lost: str, said: str
) -> None:
    program = PDR("question -> answer", widths=(3, 1), distiller="checked", check=Even(), draft_tokens=200)
    with dspy.context(lm=engine(lambda r: f"Answer: {refined if role_of(r) == 'refine' else drafted}")):
        prediction = program(question="q")
    example = dspy.Example(question="q", answer="8").with_inputs("question")
    by_role = {
        role: feedback(ExactVerifier())(example, prediction, None, role).feedback for role in ("draft", "refine")
    }
    assert all(said in text for text in by_role.values())
    assert (
        "earlier attempts" in by_role["refine"].partition("role is refine")[2].partition("solution of its own.")[2]
    ) == bool(lost)
    assert lost in by_role["refine"]
    assert "were right" not in by_role["draft"]


def test_a_judge_is_not_asked_about_drafts() -> None:
    class Judge(ExactVerifier):
        asked = 0

        async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
            return self(example, prediction)

        def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
            type(self).asked += 1
            return super().__call__(example, prediction, trace)

    program = PDR("question -> answer", widths=(3, 1), distiller="random_k", k=1, draft_tokens=200)
    with dspy.context(lm=engine(lambda r: "Answer: 9")):
        prediction = program(question="q")
    example = dspy.Example(question="q", answer="8").with_inputs("question")
    told = feedback(Judge())(example, prediction, None, "refine").feedback
    assert "attempts was right" not in told
    assert Judge.asked == 1
