"""What each kind of server is sent for the form of a completion, by the calls that have one."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from pdr_dspy.calls import OutputFormat, Prompt, Sampling, capabilities
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.serving import connect
from pdr_dspy.verifiers import JudgeVerifier
from pdr_dspy.verifiers.checks import JudgeCheck
from tests.support.mock_server import MockServer

FORMS = {"structured_outputs", "json_schema", "grammar", "response_format"}
SELECTION = {
    "type": "object",
    "properties": {"selected": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 2}},
    "required": ["selected"],
    "additionalProperties": False,
}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "selection", "schema": SELECTION, "strict": True}}


def form_of(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name in FORMS}


def picking(body: dict[str, Any], seed: int) -> str:
    return '{"selected": [3, 1]}' if form_of(body) else "Selected: [3, 1]" if "pick" in str(body) else "Answer: 4"


@pytest.mark.parametrize(
    ("kind", "settings", "sent"),
    [
        ("vllm", {}, {"structured_outputs": {"json": SELECTION}}),
        ("llama.cpp", {}, {"json_schema": SELECTION}),
        ("other", {"constrained": True}, {"response_format": WRAPPED}),
        ("other", {}, {}),  # some refuse the field
        *((kind, {"constrained": False}, {}) for kind in ("vllm", "llama.cpp", "other")),
    ],
)
def test_a_selection_alone_is_held_to_its_form(kind: str, settings: dict[str, Any], sent: dict[str, Any]) -> None:
    with MockServer(picking, kind=kind) as server, dspy.context(lm=connect("mock", server.api_base, **settings)):
        said = PDR("question -> answer: int", widths=(3, 1), distiller="topk", k=2)(question="2 + 2?")
    forms = [form_of(body) for body in server.requests]
    assert [form for form in forms if form] == ([sent] if sent else [])
    assert said.answer == 4
    assert all(call.failure is None for call in said.ledger.calls)
    assert len(said.rounds[1].drafts) == 1


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("vllm", {"structured_outputs": {"choice": ["yes", "no"]}}),
        ("llama.cpp", {"grammar": 'root ::= "yes" | "no"'}),
        ("other", {}),
    ],
)
def test_a_judge_is_held_to_its_words(kind: str, sent: dict[str, Any]) -> None:
    example = dspy.Example(question="2 + 2?", answer="4").with_inputs("question")
    with MockServer(lambda body, seed: "yes", kind=kind) as server:
        judge = JudgeVerifier(lm=connect("mock", server.api_base))
        assert judge(example, dspy.Prediction(answer="four")) == 1
        assert asyncio.run(judge.averify(example, dspy.Prediction(answer="four"))) == 1
        assert [form_of(body) for body in server.requests] == [sent, sent]


def test_a_check_is_held_to_its_words() -> None:
    with MockServer(lambda body, seed: "Yes", kind="vllm") as server:
        check = JudgeCheck(lm=connect("mock", server.api_base))
        assert asyncio.run(check.acheck({"question": "2 + 2?"}, {"answer": "4"})) == 1
        assert form_of(server.requests[-1]) == {"structured_outputs": {"choice": ["Yes", "No"]}}


def test_a_form_is_a_part_of_the_key_and_its_absence_is_not() -> None:
    messages = [{"role": "user", "content": "2 + 2?"}]

    async def keys(server: MockServer) -> list[str]:
        lm = connect("mock", server.api_base)
        about = await capabilities(lm)
        forms = [None, None, OutputFormat(choices=["a", "b"]), OutputFormat(choices=["a", "c"])]
        made = [Prompt(lm, messages, Sampling(8, 0.0, output_format=form), capabilities=about) for form in forms]
        plain = Prompt(lm, messages, Sampling(8, 0.0), capabilities=about)
        return [prompt.job(0).key for prompt in (plain, *made)]

    with MockServer(kind="vllm") as server:
        plain, first, again, one, other = asyncio.run(keys(server))
    assert plain == first == again
    assert len({plain, one, other}) == 3
