"""A check that reads its scores off a table, and drafts with given answers, for tests of checks in the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy

from pdr_dspy.calls.ledger import Call
from pdr_dspy.operators.operator import Operator
from pdr_dspy.testing import Completion, ScriptedLM, ScriptedRequest, scripted_lm
from pdr_dspy.verifiers.base import Score
from tests.support.solver import role_of

QA = "question -> answer"
SMALL: dict[str, Any] = {"draft_tokens": 60, "kappa": 200}


@dataclass
class Marks:
    """A check that reads its scores off a table, and counts how often it was asked."""

    table: Mapping[str, float]
    calls: tuple[Call, ...] = ()
    asked: list[str] = field(default_factory=list)

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        assert inputs == {"question": "q"}
        answer = outputs["answer"]
        self.asked.append(answer)
        await asyncio.sleep(0)
        return Score(self.table.get(answer, 0.0), f"marked {answer}", self.calls, f"{answer} is not what was wanted")


def says(*answers: str, later: str = "z", delays: Mapping[int, float] | None = None) -> ScriptedLM:
    """First drafts with these answers, by index; every later draft says `later`."""
    first: list[int] = []

    def reply(request: ScriptedRequest) -> Completion:
        if role_of(request) != "draft":
            return Completion(f"I looked at it.\nAnswer: {later}")
        first[:] = first or [request.seed]
        place = (request.seed - min(first)) % len(answers)
        return Completion(f"Work {place}.\nAnswer: {answers[place]}", delay=(delays or {}).get(place, 0.0))

    return scripted_lm(reply, directly=True)


def ask(program: Operator, lm: ScriptedLM, **options: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return program(question="q", **options)
