from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pdr_dspy.errors import ConfigError
from pdr_dspy.prompts.parse import read
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import FREE, Role, check_task, derive

CASES = json.loads((Path(__file__).parents[1] / "golden" / "reading.json").read_text(encoding="utf-8"))


def reading(signature: Any, text: str, *, truncated: bool = False) -> dict[str, Any]:
    draft = derive(check_task(signature), Role.DRAFT)
    found = read(draft, text, truncated=truncated)
    assert set(found.missing) == set(draft.output_fields) - set(found.outputs)
    return {name: value for name, value in found.outputs.items() if name not in FREE}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['signature']}: {case['text'][:40]!r}")
def test_reading_as_a_careful_person_would(case: dict[str, Any]) -> None:
    outputs = reading(case["signature"], case["text"], truncated=case.get("truncated", False))
    assert outputs == case["expected"]
    assert [type(value) for value in outputs.values()] == [type(value) for value in case["expected"].values()]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    y: int


class Typed(dspy.Signature):
    """Find the point."""

    question: str = dspy.InputField()
    point: Point = dspy.OutputField()
    colour: Colour = dspy.OutputField(desc="of the point")


def test_enums_and_models() -> None:
    text = 'It lies there.\nPoint: {"x": 1, "y": -2}\nColour: Blue'
    assert reading(Typed, text) == {"point": Point(x=1, y=-2), "colour": Colour.BLUE}
    fenced = 'Point:\n```json\n{"x": 1,\n "y": -2}\n```\nColour: red'
    assert reading(Typed, fenced) == {"point": Point(x=1, y=-2), "colour": Colour.RED}
    assert reading(Typed, 'Colour: red\nPoint: {"x": 1, "y"', truncated=True) == {"colour": Colour.RED}


@pytest.mark.slow
@given(st.text(max_size=400), st.booleans())
def test_any_text_can_be_read_and_gives_declared_types_only(text: str, truncated: bool) -> None:
    for signature, kind in (("q -> answer", str), ("q -> answer: int", int), ("q -> answer: list[int]", list)):
        outputs = reading(signature, text, truncated=truncated)
        assert all(type(value) is kind for value in outputs.values())


@pytest.mark.parametrize("text", ["Answer: " * 20_000, "{" * 50_000, "\\boxed{" * 20_000, "<" * 50_000, "\n" * 100_000])
def test_long_and_odd_texts_are_read_or_left(text: str) -> None:
    assert isinstance(reading("q -> answer: int", text), dict)


@pytest.mark.slow
@given(st.integers(-(10**9), 10**9))
def test_what_is_written_is_read_back(number: int) -> None:
    draft = derive(check_task("question -> answer: int"), Role.DRAFT)
    demo = {"question": "q", "solution": "Add them.", "answer": number}
    messages = render(draft, [demo], {"question": "other"})
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert read(draft, messages[2]["content"]).outputs["answer"] == number


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("question", "not a DSPy signature"),
        ("question ->", "not a DSPy signature|no output"),
        ("-> answer", "no input fields"),
        ("question -> answer: Nonsense", "not a DSPy signature"),
        ("question -> solution", "'solution'.*rename"),
        ("workspace -> answer", "'workspace'.*rename"),
        ("question -> ledger", "'ledger'.*rename"),
        ("question, budget -> answer", "'budget'.*rename"),
        ("question, seed -> answer", "'seed'.*rename"),
        (42, "not a DSPy signature"),
    ],
)
def test_a_task_that_cannot_work_is_refused_in_a_sentence(signature: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_task(signature)


def test_roles_read_and_write_what_they_should() -> None:
    task = check_task("context, question -> answer: int, unit")
    fields = {role: derive(task, role, k=3) for role in Role}
    assert list(fields[Role.DRAFT].input_fields) == ["context", "question"]
    assert list(fields[Role.DRAFT].output_fields) == ["solution", "answer", "unit"]
    assert list(fields[Role.REFINE].input_fields) == ["context", "question", "workspace"]
    assert list(fields[Role.DISTILL].input_fields) == ["context", "question", "candidates"]
    assert list(fields[Role.DISTILL].output_fields) == ["summary"]
    assert list(fields[Role.SELECT].output_fields) == ["selected"]
    assert "pick the 3" in fields[Role.SELECT].instructions
    assert list(fields[Role.CRITIQUE].output_fields) == ["flaws"]
    assert "flaws_found" in derive(task, Role.REFINE, last=True, critique=True).input_fields
    for signature in fields.values():
        assert signature.instructions.startswith(task.instructions)


def test_instructions_with_braces_and_inputs_of_any_text_are_left_alone() -> None:
    class Braces(dspy.Signature):
        """Use {braces} and {0}."""

        question: str = dspy.InputField()
        answer: str = dspy.OutputField(desc="in {this} form")

    for role in Role:
        signature = derive(check_task(Braces), role)
        values = {"question": "{x} %s \\n", "workspace": "{y}", "candidates": "{z}"}
        messages = render(signature, [], values)
        assert "{braces} and {0}" in messages[0]["content"]
        assert "{x} %s \\n" in messages[-1]["content"]


def test_the_prompt_of_a_question_is_the_prefix_of_its_refinement() -> None:
    task = check_task("question -> answer")
    draft = render(derive(task, Role.DRAFT), [], {"question": "q"})[-1]["content"]
    refine = render(derive(task, Role.REFINE), [], {"question": "q", "workspace": "w"})[-1]["content"]
    question, form = draft.split("\n\n", 1)
    assert question == "Question: q"
    assert refine.startswith(question)
    assert refine.endswith(form)  # the form of the reply comes last, after the workspace


def test_demonstrations_that_teach_nothing_are_left_out() -> None:
    draft = derive(check_task("question -> answer"), Role.DRAFT)
    demos: list[dict[str, Any]] = [{"answer": "1"}, {"question": "q"}, {"question": "a", "answer": "1"}]
    assert len(render(draft, demos, {"question": "q"})) == 4


def test_a_configured_adapter_is_obeyed() -> None:
    draft = derive(check_task("question -> answer"), Role.DRAFT)
    with dspy.context(adapter=dspy.XMLAdapter()):
        assert "<answer>" in render(draft, [], {"question": "q"})[0]["content"]
        assert read(draft, "<solution>s</solution>\n<answer>Rome</answer>").outputs["answer"] == "Rome"


def test_hints_say_what_is_wanted() -> None:
    class Hinted(dspy.Signature):
        """Do it."""

        question: str = dspy.InputField(desc="in English")
        size: Literal["small", "large"] = dspy.OutputField()
        ready: bool = dspy.OutputField(desc="whether it is done")

    system, user = (
        message["content"] for message in render(derive(check_task(Hinted), Role.DRAFT), [], {"question": "q"})
    )
    assert "Question: in English" in system
    assert "Size: <one of small, large>" in user
    assert "Ready: <whether it is done; yes or no>" in user


# --- what is kept between prompts


def test_a_prompt_follows_what_is_changed_in_its_place() -> None:
    signature = derive(check_task("question, words: list[str] -> answer"), Role.DRAFT)
    inputs = {"question": "q", "words": ["w"]}
    demos: list[dict[str, Any]] = [{"question": "1 + 1", "words": [], "answer": "2"}]

    def prompt() -> str:
        return str(render(signature, demos, inputs))

    seen = [prompt()]
    signature.instructions = "Do something else."
    seen.append(prompt())
    extra = signature.output_fields["answer"].json_schema_extra
    assert isinstance(extra, dict)
    extra["desc"] = "a colour"
    seen.append(prompt())
    demos[0]["answer"] = "blue"
    seen.append(prompt())
    demos[0]["words"].append("sky")
    seen.append(prompt())
    demos.append({"question": "2 + 2", "words": [], "answer": "red"})
    seen.append(prompt())
    assert len(set(seen)) == len(seen)
    assert "Do something else." in seen[-1]
    assert read(signature, "Answer: <a colour>").missing == ("answer",)


def test_a_prompt_can_be_written_on_without_a_trace_in_the_next_one() -> None:
    signature = derive(check_task("question -> answer"), Role.DRAFT)
    demos = [{"question": "1 + 1", "answer": "2"}]
    first = render(signature, demos, {"question": "q"})
    expected = [dict(message) for message in first]
    for message in first:
        message["content"] += " and more"
    assert render(signature, demos, {"question": "q"}) == expected
