"""A verifier as GEPA's metric."""

from __future__ import annotations

import dspy

from pdr_dspy.search import feedback
from pdr_dspy.verifiers import ExactVerifier


def test_feedback_makes_a_verifier_the_metric_of_gepa() -> None:
    metric = feedback(ExactVerifier())
    example = dspy.Example(question="q", answer="7").with_inputs("question")
    wrong = metric(example, dspy.Prediction(answer="8"), None, "inner.refine", None)
    assert wrong.score == 0
    assert "Right is: 7." in wrong.feedback
    assert "workspace" in wrong.feedback
    right = metric(example, dspy.Prediction(answer="7"))
    assert (right.score, "Right is" in right.feedback) == (1, False)
