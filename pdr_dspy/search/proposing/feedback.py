"""A verifier as the metric of `dspy.GEPA`, which reflects on a text besides the score."""

from __future__ import annotations

from typing import Any

import dspy

from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.proposing.writer import WORK
from pdr_dspy.verifiers.function import as_verifier


def feedback(verifier: Any) -> Any:
    """A verifier as the metric of `dspy.GEPA`: five arguments, and a text besides the score.

    The text has the verdict, the gold answer, and for a role that reads a workspace or candidates the hint that these
    are earlier attempts. For `dspy.BetterTogether(metric=...)` use the verifier itself.
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
        score = verifier(example, prediction)
        gold = example.get(getattr(verifier, "gold", None) or "answer")
        words = [f"The program's answer scored {float(score):g}.", str(getattr(score, "detail", "") or "")]
        words += [f"Right is: {gold}."] if gold is not None and float(score) < 1 else []
        role = str(pred_name or "").rpartition(".")[2]
        if role in set(Role):
            words.append(f"This call's role is {role}. {WORK[Role(role)]}")
        del pred_trace
        return dspy.Prediction(score=float(score), feedback=" ".join(word for word in words if word))

    return metric
