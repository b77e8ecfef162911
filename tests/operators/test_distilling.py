"""What a round passes on to the next. `test_distillers.py` has each distiller."""

from __future__ import annotations

import asyncio

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.operators.distillers import DISTILLERS, Distilled, DistillerInput, distiller
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.strategies import PDR, SR
from pdr_dspy.prompts.roles import Role
from pdr_dspy.testing import ScriptedRequest
from tests.support.checks import QA, ask
from tests.support.solver import answers, engine, role_of, solver


def test_a_failed_distiller_does_not_end_the_program() -> None:
    def reply(request: ScriptedRequest) -> str:
        if role_of(request) in ("distill", "select", "critique"):
            raise dspy.lm15.ServerError("gone")
        return solver(request)

    for program in (PDR(QA, distiller="summary"), PDR(QA, "quality"), SR(QA, critique=True)):
        prediction = ask(program, engine(reply))
        assert prediction.stop is Stop.DONE
        assert prediction.ledger.failed >= 1


def test_critique_is_read_by_the_refiner() -> None:
    lm = answers({"draft": "Answer: 1", "critique": "the carry is missing", "refine": "Answer: 2"})
    prediction = ask(SR(QA, rounds=2, critique=True), lm)
    (refined,) = [request for request in lm.served.requests if "Flaws found" in request.user]
    assert "the carry is missing" in refined.user
    assert [call.phase for call in prediction.ledger.calls] == [Phase.DRAFT, Phase.CRITIQUE, Phase.REFINE]


def test_a_call_of_a_distiller_that_is_cancelled_later_is_on_the_ledger() -> None:
    asked = asyncio.Event()

    async def lingers(given: DistillerInput) -> Distilled:
        """Calls the model, and never ends."""
        await given.ask([{"candidates": await given.shown(given.drafts)}])
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    account, lm = calls.Account(), engine()

    async def run() -> None:
        with dspy.context(lm=lm), calls.session(account=account):
            program = PDR(QA, widths=(2, 1), distiller="lingers")
            task = asyncio.create_task(program.aforward(question="q"))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    distiller("lingers", role=Role.DISTILL, calls=lambda next_width: 1)(lingers)
    try:
        asyncio.run(run())
    finally:
        DISTILLERS.remove("lingers")
    assert [call.phase for call in account.ledger.calls] == [Phase.DRAFT, Phase.DRAFT, Phase.DISTILL]
    assert len(account.ledger) == lm.served.calls
    assert not account.ledger.exact
