"""The calls of a run: what is refused, explained and reserved."""

from __future__ import annotations

import random
from typing import Any

import dspy
import pytest

from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.errors import BudgetTooSmall, ConfigError
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.testing import ScriptedLM, ScriptedRequest
from tests.support.checks import QA, ask
from tests.support.solver import engine, role_of, solver


def test_budget_stops_are_reported_and_answered_from_what_there_is() -> None:
    program = PDR(QA, widths=(4, 4, 1), distiller="random_k", draft_tokens=60)
    full = ask(program, engine())
    first = sum(call.tokens for call in full.ledger.calls[:4])
    prediction = ask(program, engine(), budget=Budget(total=first + 4 * (60 + 120)))
    assert prediction.stop is Stop.BUDGET
    assert len(prediction.rounds) == 1
    votes = [draft.outputs["answer"] for draft in prediction.rounds[0].drafts]
    assert votes.count(prediction.answer) == max(votes.count(vote) for vote in votes)
    with pytest.raises(BudgetTooSmall, match=r"Budget\(.*total=10.*first round"):
        ask(program, engine(), budget=Budget(total=10))


@pytest.mark.slow
@pytest.mark.parametrize("distiller", ["summary", "topk", "topk_per_sample", "random_k"])
def test_no_limit_is_ever_exceeded(distiller: str) -> None:
    dice = random.Random(3)
    program = PDR(QA, widths=(3, 2, 1), distiller=distiller, k=2, draft_tokens=40, kappa=60)
    stops = set()
    for _ in range(25):
        limits = {name: dice.randrange(150, 2500) for name in ("sequential", "total") if dice.random() < 0.7}
        try:
            prediction = ask(program, engine(), budget=Budget(**limits))
        except BudgetTooSmall:
            continue
        stops.add(prediction.stop)
        for name, limit in limits.items():
            assert getattr(prediction.ledger, name) <= limit
    assert stops == {Stop.DONE, Stop.BUDGET}


@pytest.mark.slow
def test_caps_beyond_the_context_are_refused_before_anything_is_sent() -> None:
    lm = engine(context_length=300)
    with pytest.raises(ConfigError, match=r"`kappa`.*context is 300; lower"):
        ask(PDR(QA, draft_tokens=100, kappa=200), lm)
    with pytest.raises(ConfigError, match="thinking included"):
        ask(LongCoT(QA, draft_tokens=100, thinking_tokens=300), lm)
    assert lm.served.calls == 0
    ask(PDR(QA, draft_tokens=50, kappa=60), lm)


REFUSALS = [
    ("This model's maximum context length is 400 tokens. However, you requested 650 tokens.", "400"),
    ("request (650 tokens) exceeds the available context size (1,024 tokens), try increasing it", "1024"),
    ("the request exceeds the available context size", None),
]


@pytest.mark.parametrize(("said", "limit"), REFUSALS)
@pytest.mark.parametrize("early", [{}, {"quorum": 0.5}])
def test_a_refusal_for_length_names_what_decides_it(
    said: str, limit: str | None, early: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def reply(request: ScriptedRequest) -> str:
        if role_of(request) == "refine":
            raise dspy.lm15.ContextLengthError(said, status=400)
        return solver(request)

    program = PDR(QA, widths=(3, 3, 1), distiller="random_k", kappa=300, refine_tokens=77, **early)
    prediction = ask(program, engine(reply))
    assert prediction.stop is Stop.ROUND_FAILED
    (record,) = caplog.records
    message = record.getMessage()
    assert "all 3 drafts of round 2 failed" in message
    assert (f"the model's context of {limit} tokens is too small" in message) == (limit is not None)
    assert "up to `kappa=300`" in message
    assert "77 for the answer; lower `kappa` or the caps, or serve the model with a longer context" in message
    assert said in message
    refused = [call for call in prediction.ledger.calls if call.round == 2]
    assert all(call.failure and call.failure.startswith("the model's context") for call in refused)
    size = message.split("refine prompt of about ")[1].split()[0]
    assert 100 < int(size) < 400


def test_a_first_draft_beyond_the_context_does_not_blame_the_workspace() -> None:
    def reply(request: ScriptedRequest) -> str:
        raise dspy.lm15.ContextLengthError("too many tokens", status=400)

    with pytest.raises(RoundFailed, match=r"draft prompt of about \d+ tokens, and 1024 for the answer; lower the caps"):
        ask(LongCoT(QA), engine(reply))


def test_a_distiller_beyond_the_context_is_a_failed_call_that_says_so() -> None:
    def reply(request: ScriptedRequest) -> str:
        if role_of(request) == "distill":
            raise dspy.lm15.ContextLengthError("too many tokens", status=400)
        return solver(request)

    prediction = ask(PDR(QA, distiller="summary"), engine(reply))
    (call,) = [call for call in prediction.ledger.calls if call.phase is Phase.DISTILL]
    assert call.failure is not None
    assert "the solutions of the round in it" in call.failure
    assert "lower the caps or the widths" in call.failure
    assert prediction.stop is Stop.DONE


def test_equal_sibling_prompts_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[list[str]] = []
    count = ScriptedLM.count_tokens

    async def counting(lm: ScriptedLM, texts: Any) -> Any:
        counted.append([text for text in texts if "twice two" in text])
        return await count(lm, texts)

    monkeypatch.setattr(ScriptedLM, "count_tokens", counting)
    program = PDR("question -> answer: int", widths=(8, 4, 1), distiller="topk_per_sample", k=2)
    with dspy.context(lm=engine()):
        prediction = program(question="twice two", budget=Budget(total=10**6))
    assert prediction.stop is Stop.DONE
    prompts = [stage for stage in counted if stage]
    assert len(prompts) >= 5  # the first round, and two stages of each later one
    assert all(len(stage) == len(set(stage)) <= 4 for stage in prompts)
    assert [len(stage) for stage in prompts][:2] == [1, 1]  # 8 drafts, then 4 selections
