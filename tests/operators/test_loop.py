"""The loop until it ends: a session's deadline passes, and it answers from the drafts it has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import dspy
import pytest

from pdr_dspy import PDR, LongCoT, Stop, session
from pdr_dspy.calls import DeadlinePassed
from pdr_dspy.testing import Completion, ScriptedLM, ScriptedRequest, scripted_lm

LATE = 0.4


def hanging(when: Callable[[ScriptedRequest], bool]) -> ScriptedLM:
    """Answers 7, except where it never ends."""
    return scripted_lm(
        lambda request: Completion("So.\nAnswer: 7", delay=math.inf if when(request) else 0.0), directly=True
    )


def program(**settings: object) -> dspy.Module:
    return PDR("question -> answer: int", **{"widths": (3, 2, 1), "draft_tokens": 64, "kappa": 200, **settings})


def test_a_deadline_that_does_not_pass_changes_nothing() -> None:
    free, bound = hanging(lambda request: False), hanging(lambda request: False)
    with dspy.context(lm=free):
        one = program()(question="What?")
    with dspy.context(lm=bound), session(deadline=time.monotonic() + 1000):
        other = program()(question="What?")
    assert [request.seed for request in free.served.requests] == [request.seed for request in bound.served.requests]
    assert one.ledger.total == other.ledger.total
    assert other.stop is Stop.DONE


@pytest.mark.parametrize("quorum", [1.0, 0.9])
def test_the_answer_is_that_of_the_last_finished_round(quorum: float) -> None:
    lm = hanging(lambda request: "Candidate" in request.user)
    with dspy.context(lm=lm), session(deadline=time.monotonic() + LATE):
        prediction = program(distiller="random_k", k=2, widths=(3, 3, 1), quorum=quorum)(question="What?")
    assert prediction.answer == 7
    assert prediction.stop is Stop.DEADLINE
    assert len(prediction.rounds) == 1
    ledger = prediction.ledger
    assert (len(ledger), ledger.cancelled, ledger.failed) == (6, 3, 0)
    assert lm.served.cancelled == 3
    assert ledger.total == lm.served.input + lm.served.output
    assert not ledger.exact  # of the cancelled ones nobody knows what they cost
    assert [call.usage.tokens for call in ledger.calls if call.cancelled] == [None] * 3


def test_drafts_count_whose_workspace_was_not_there_yet() -> None:
    lm = hanging(lambda request: "Candidate 1" in request.user)
    with dspy.context(lm=lm), session(deadline=time.monotonic() + LATE):
        prediction = program(distiller="summary")(question="What?")
    assert (prediction.answer, prediction.stop) == (7, Stop.DEADLINE)
    assert [len(each.drafts) for each in prediction.rounds] == [3]
    assert [str(call.phase) for call in prediction.ledger.calls] == ["draft"] * 3 + ["distill"]
    assert prediction.ledger.calls[-1].cancelled


@pytest.mark.parametrize("late", [LATE, -1.0])
def test_before_the_first_round_there_is_nothing_to_answer_from(late: float) -> None:
    lm = hanging(lambda request: True)
    with dspy.context(lm=lm), session(deadline=time.monotonic() + late), pytest.raises(DeadlinePassed) as raised:
        LongCoT("question -> answer: int")(question="What?")
    assert raised.value.ledger.total == 0
    assert len(raised.value.ledger) == raised.value.ledger.cancelled == (1 if late > 0 else 0)


def test_drafts_without_an_answer_are_none_at_the_deadline_either() -> None:
    lm = scripted_lm(
        lambda request: Completion("I cannot say.", delay=math.inf if "Candidate" in request.user else 0.0),
        directly=True,
    )
    with dspy.context(lm=lm), session(deadline=time.monotonic() + LATE):
        prediction = program(distiller="random_k", k=2, widths=(3, 1))(question="What?")
    assert (prediction.answer, prediction.stop) == (None, Stop.DEADLINE)
