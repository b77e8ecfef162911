"""The drafts of a round. `tests/calls/test_early_stop.py` has rounds that end early, `test_first_wave.py` waves."""

from __future__ import annotations

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.testing import ScriptedRequest
from tests.support.checks import QA, ask
from tests.support.solver import engine, role_of


def test_a_round_in_which_all_drafts_fail_raises_with_what_was_spent_if_none_before_has_an_answer() -> None:
    def reply(request: ScriptedRequest) -> str:
        if role_of(request) == "refine":
            raise dspy.lm15.ServerError("gone")
        return "I cannot say."

    with pytest.raises(RoundFailed, match=r"all 1 drafts of round 2 failed.*gone") as failed:
        ask(PDR("question -> answer: int", widths=(3, 1), distiller="random_k"), engine(reply))
    assert len(failed.value.ledger) == 4
    assert failed.value.ledger.failed == 1
    assert failed.value.ledger.total > 0


def test_a_thought_that_fills_the_cap_is_reported_with_the_remedy() -> None:
    lm = engine(lambda request: "<think>on and on")
    with pytest.raises(RoundFailed, match=r"inside its thought; raise `thinking_tokens=7`"):
        ask(LongCoT("question -> answer", thinking_tokens=7), lm)


def test_drafts_whose_workspace_is_empty_start_afresh_beside_the_others() -> None:
    lm = engine()
    program = PDR(QA, widths=(3, 2, 1), distiller="oracle_correct", k=1, draft_tokens=100)
    with calls.session(oracle=lambda outputs: 0.0):
        prediction = ask(program, lm)
    assert {call.phase for call in prediction.ledger.calls} == {Phase.DRAFT}
    assert not any(role_of(request) == "refine" for request in lm.served.requests)
    seeds = [request.seed for request in lm.served.requests]
    assert len(set(seeds)) == 6


def test_the_widest_round_is_256_drafts_with_seeds_of_their_own() -> None:
    lm = engine()
    prediction = ask(PDR(QA, widths=(256, 1), distiller="random_k", draft_tokens=50), lm)
    assert len({request.seed for request in lm.served.requests}) == 257
    assert len(prediction.rounds[0].drafts) == 256
