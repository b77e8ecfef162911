"""The addresses of calls never change: stores of users stay valid.

`golden/keys.json` has the keys that version 1 of the rollout store was first written with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.adapters.types import Code

from pdr_dspy import calls
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from tests.support.solver import engine

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "keys.json").read_text(encoding="utf-8"))


class Typed(dspy.Signature):
    """Sort the words.

    Keep their accents: é, \u2028, \U0001f44d."""

    words: list[str] = dspy.InputField(desc="words to sort")
    strict: bool = dspy.InputField()
    hint: str | None = dspy.InputField(default=None)
    sorted_words: list[str] = dspy.OutputField(desc="the words, sorted")
    count: int = dspy.OutputField()


def with_demos(program: Operator) -> Operator:
    demos = {
        "draft": [
            {"question": "1 + 1", "solution": "One and one.", "answer": "2"},
            {"question": "3 + 4", "answer": "7"},
            {"answer": "a demonstration without its question"},
        ]
    }
    return program.with_schedule(program.schedule, instructions={"refine": "Mend it."}, demos=demos)


QUESTION = {"question": 'What is 6 * 7?\n\\ "quoted" \ud800 é 👍'}
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "long": (LongCoT("question -> answer", draft_tokens=300), QUESTION, {}),
    "summary": (PDR("question -> answer: int", widths=(3, 2, 1), distiller="summary", tally=True), QUESTION, {}),
    "topk per sample": (PDR("question -> answer: int", widths=(3, 2, 1), distiller="topk_per_sample"), QUESTION, {}),
    "critique": (SR("question -> answer", rounds=2, critique=True, temperature=0.5), QUESTION, {}),
    "demos": (with_demos(PDR("question -> answer", widths=(2, 1), distiller="random_k", k=1)), QUESTION, {}),
    "typed": (LongCoT(Typed), {"words": ["b", "a"], "strict": True}, {}),
    "settings": (
        LongCoT("question -> answer", thinking_tokens=50),
        QUESTION,
        {
            "top_k": 20,
            "presence_penalty": 0.5,
            "stop": ["END"],
            "seed": 9,
            "user": "me",
            "rollout_id": 3,
            "api_base": "http://h/v1",
        },
    ),
    "reasoning": (LongCoT("question -> answer"), QUESTION, {"max_completion_tokens": 99, "temperature": 0.3}),
    "adapter": (LongCoT("question -> answer"), QUESTION, {"adapter": dspy.JSONAdapter()}),
    "custom type": (LongCoT("code: dspy.Code -> answer", draft_tokens=9), {"code": Code(code="1 + 1")}, {}),
}


def keys_of(name: str) -> list[list[str]]:
    program, inputs, settings = CASES[name]
    lm = engine()
    lm.kwargs |= {key: value for key, value in settings.items() if key != "adapter"}
    with dspy.context(lm=lm, adapter=settings.get("adapter")), calls.session(store=Rollouts(), seed=11):
        ledger = program(**inputs).ledger
    return [[call.key, call.prompt] for call in ledger.calls]


@pytest.mark.parametrize("name", CASES)
def test_keys_are_those_of_the_stores_that_are_there(name: str) -> None:
    assert keys_of(name) == GOLDEN[name]
