"""random_k takes drafts with an answer first; random_any takes any."""

from __future__ import annotations

import dspy
import pytest

from pdr_dspy import PDR
from pdr_dspy.testing import ScriptedRequest, scripted_lm


def reply(request: ScriptedRequest) -> str:
    return "Answer: 7" if request.seed % 4 == 0 else "I cannot say"


@pytest.mark.parametrize("seed", range(6))
def test_a_workspace_has_an_answer_where_a_draft_has_one(seed: int) -> None:
    program = PDR("question -> answer: int", widths=(8, 2, 1), distiller="random_k", k=2, draft_tokens=64)
    with dspy.context(lm=scripted_lm(reply)):
        prediction = program(question="What?", seed=seed)
    for round_ in prediction.rounds:
        parsed = {draft.index for draft in round_.drafts if draft.outputs}
        for workspace in round_.workspaces:
            assert len(parsed & set(workspace.sources)) == min(2, len(parsed))
