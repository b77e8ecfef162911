"""A verifier as the metric of `dspy.GEPA`, which reflects on a text besides the score."""

from __future__ import annotations

from typing import Any

import dspy

from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.proposing.failures import check_of
from pdr_dspy.search.proposing.writer import WORK
from pdr_dspy.verifiers import RIGHT
from pdr_dspy.verifiers.base import Verifier, verdict
from pdr_dspy.verifiers.function import as_verifier


def feedback(verifier: Any) -> Any:
    """A verifier as the metric of `dspy.GEPA`: five arguments, and a text besides the score.

    The text has the verdict, the gold answer, what the program's check said of the answer, and the work of the role
    that is reflected on; for a role after the first draft also how many of the earlier attempts were right, unless
    grading them costs tokens. A verifier that raises, or ends the program, fails that example in GEPA. For
    `dspy.BetterTogether(metric=...)` use the verifier itself.
    """

    verifier = as_verifier(verifier)

    def metric(
        example: dspy.Example,
        prediction: dspy.Prediction,
        trace: Any = None,
        pred_name: Any = None,
        pred_trace: Any = None,
    ) -> dspy.Prediction:
        del trace
        score = verdict(verifier, example, prediction)
        gold = example.get(getattr(verifier, "gold", None) or "answer")
        words = [f"The program's answer scored {float(score):g}.", str(getattr(score, "detail", "") or "")]
        words += [f"Right is: {gold}."] if gold is not None and float(score) < 1 else []
        check = None if prediction.get("rounds") is None else check_of(prediction)
        if check is not None and check.value is not None and float(score) < 1:
            words.append(
                f"The program's check gave it {check.value:.2f} of 1: {check.feedback or check.detail}".strip()
            )
        role = str(pred_name or "").rpartition(".")[2]
        if role in set(Role):
            words.append(f"This call's role is {role}. {WORK[Role(role)]}")
            if role != Role.DRAFT and float(score) < 1:
                words += _before(verifier, example, prediction)
        del pred_trace
        return dspy.Prediction(score=float(score), feedback=" ".join(word for word in words if word))

    return metric


def _before(verifier: Verifier, example: dspy.Example, prediction: dspy.Prediction) -> list[str]:
    """How many drafts of the round before the last were right; nothing without one, or if grading costs tokens."""
    rounds = prediction.get("rounds") or ()
    if len(rounds) < 2 or (hasattr(verifier, "averify") and not getattr(verifier, "grades_drafts", False)):
        return []
    drafts = rounds[-2].drafts
    graded = [verdict(verifier, example, dspy.Prediction(**one.outputs)) if one.outputs else 0.0 for one in drafts]
    scores = [float(score) for score in graded]
    right = sum(score >= RIGHT for score in scores)
    some = f"Of {len(drafts)} earlier attempts {right} were right, and what followed lost them."
    return [some if right else f"None of {len(drafts)} earlier attempts was right."]
