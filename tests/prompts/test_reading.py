"""Completions with what they say, as data: tests/cases/reading.jsonl. A case has a signature, a completion, whether it
was cut at its cap, the right value of each field (one that must stay missing is left out), its kind and, where it
matters, how the fields are found."""

from __future__ import annotations

import json
from collections import Counter
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from dspy.signatures.signature import make_signature
from pydantic import BaseModel

from pdr_dspy.prompts.parse import Reading, read
from pdr_dspy.prompts.roles import FREE, Role, check_task, derive
from pdr_dspy.text.answers import final_answer, to_number

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "cases" / "reading.jsonl").read_text(encoding="utf-8").splitlines()
]


@cache
def draft(signature: str) -> type[dspy.Signature]:
    return derive(check_task(signature), Role.DRAFT)


def said(signature: str, text: str, *, truncated: bool = False) -> dict[str, Any]:
    outputs = read(draft(signature), text, truncated=truncated).outputs
    return {name: value for name, value in outputs.items() if name not in FREE}


def plain(value: Any) -> Any:
    """Sets and tuples as the lists that JSON has for them."""
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({case["kind"] for case in CASES}))
def test_completions_are_read_as_a_careful_person_would(kind: str) -> None:
    wrong = []
    for case in CASES:
        if case["kind"] != kind:
            continue
        reading = read(draft(case["signature"]), case["completion"], truncated=case["truncated"])
        found = {name: plain(value) for name, value in reading.outputs.items() if name not in FREE}
        same = json.dumps(found, sort_keys=True) == json.dumps(case["value"], sort_keys=True)  # 1 is not true
        how = set(reading.how.values())
        if not same or ("how" in case and how != {case["how"]}) or set(reading.how) != set(found):
            wrong.append(f"{case['signature']}: {case['completion']!r} gives {found} ({how}), not {case['value']}")
    assert not wrong, "\n".join(wrong)


def test_the_cases_are_many_and_each_is_there_once() -> None:
    assert len(CASES) >= 1500
    counts = Counter((case["signature"], case["completion"], case["truncated"]) for case in CASES)
    assert [case for case, count in counts.items() if count > 1] == []


# --- what no string signature can say


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    y: int


def typed(kind: Any) -> type[dspy.Signature]:
    fields: dict[str, Any] = {"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())}
    return derive(check_task(make_signature(fields, "Answer.")), Role.DRAFT)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (list[Colour], "Answer: red and blue", [Colour.RED, Colour.BLUE]),
        (list[Colour], "Answer:\n- Red\n- **Blue**", [Colour.RED, Colour.BLUE]),
        (list[Colour], "Answer: red, green", None),
        (set[Colour], "Answer: {red, blue}", {Colour.RED, Colour.BLUE}),
        (tuple[Colour, int], "Answer: (red, 3)", (Colour.RED, 3)),
        (list[Literal[1, 2]], "Answer: 1, 2", [1, 2]),
        (Point, '{"x": 1, "y": 2}', Point(x=1, y=2)),
        (Point, 'Here:\n```json\n{"answer": {"x": 1, "y": 2}}\n```', Point(x=1, y=2)),
        (Point, '{"x": 1}', None),
        (Point, "<answer><x>1</x><y>2</y></answer>", Point(x=1, y=2)),
        (list[Point], 'Answer:\n- {"x": 1, "y": 2}\n- {"x": 3, "y": 4}', [Point(x=1, y=2), Point(x=3, y=4)]),
        (list[Point], 'Answer: [{"x": 1, "y": 2}, {"x": 3}]', None),
        (list[Point], "<answer><item><x>1</x><y>2</y></item></answer>", [Point(x=1, y=2)]),
    ],
)
def test_types_of_the_users(kind: Any, text: str, value: Any) -> None:
    assert read(typed(kind), text).outputs.get("answer") == value


# --- what a reading tells


def test_a_reading_says_how_and_what_it_could_not_read() -> None:
    reading = read(draft("question -> city, year: int"), "City: Rome\nYear: about 1.960,5")
    assert reading.how == {"city": "label"}
    assert reading.missing == ("year",)
    assert reading.unclear == {"year": "about 1.960,5"}
    outputs, missing = reading
    assert (outputs["city"], missing) == ("Rome", ("year",))
    assert Reading({}, ("a",)).how == {}


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("Answer: 42", "label"),
        ("<answer>42</answer>", "label"),
        ("| Answer | 42 |", "label"),
        ("so the answer: 42", "label"),
        ("\\boxed{42}", "box"),
        ('{"answer": 42}', "json"),
        ("The answer is 42.", "sentence"),
        ("42", "alone"),
    ],
)
def test_how_an_answer_is_found(text: str, how: str) -> None:
    assert read(draft("question -> answer: int"), text).how == {"answer": how}


# --- the user's own adapter

ADAPTERS = [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize(
    "value",
    ["Roses are red,\nViolets are blue.\n\nAnswer: none", "__init__", "a < b && c", "- x\n- y.", '"quoted"', "C*"],
)
def test_the_forms_of_dspys_adapters_are_followed_to_the_letter(adapter: Any, configured: bool, value: str) -> None:
    """What an adapter writes of a value is read back as that value, whether or not the user has configured it."""
    signature = draft("question -> text, year: int")
    outputs = {"solution": "Think.", "text": value, "year": 1960}
    written = adapter.format_assistant_message_content(signature, outputs)
    with dspy.context(adapter=adapter if configured else None):
        reading = read(signature, written)
    assert {name: reading.outputs[name] for name in ("text", "year")} == {"text": value, "year": 1960}
    assert set(reading.how.values()) == {"json" if isinstance(adapter, dspy.JSONAdapter) else "label"}


class Shouting(dspy.ChatAdapter):
    """An adapter whose form is its own."""

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        return {name: completion.partition("!!")[2].strip() for name in signature.output_fields}


def test_a_form_of_the_users_own_has_the_first_word() -> None:
    with dspy.context(adapter=Shouting()):
        reading = read(draft("question -> text"), "Text: no !! yes")
    assert (reading.outputs["text"], reading.how) == ("yes", {"text": "label"})
    assert reading.outputs["solution"] == "Text: no !! yes"


# --- what the graders are given


@pytest.mark.parametrize(
    "text", ["Answer:\n\\[\n42\n\\]", "Answer: **42**.", "Answer: \\boxed{42}", "Answer: 42.", "Answer:\n```\n42\n```"]
)
def test_a_text_that_is_whole_still_names_its_number(text: str) -> None:
    answer = said("question -> answer", text)["answer"]
    assert to_number(final_answer(answer) or answer) == 42


# --- hostile completions

PIECES = [
    *(
        "Answer: x\n",
        "answer = 3\n",
        "<answer>",
        "</answer>",
        "[[ ## answer ## ]]\n",
        '{"a":',
        '{"answer": "\\f',
        "\\boxed{",
    ),
    *(
        "\\boxed 4 ",
        "| Answer | x |\n",
        "|---|---|\n",
        "```\nAnswer: x\n",
        "the answer is ",
        "答案：x",
        "- 1\n",
        "1. 2\n",
    ),
    *("a, ", '"', "(", "**", "<|im_end|>", "<s>", "#### 4\n", "$$", "\n", "\t", "Explanation:\n", "Items:\n- "),
]


@pytest.mark.slow
@pytest.mark.parametrize("piece", PIECES)
def test_a_long_completion_of_one_piece_is_read_or_left(piece: str) -> None:
    """In linear time: what is quadratic takes minutes here. `python -m benchmarks.reading` has the seconds."""
    text = piece * (30_000 // len(piece))
    for signature in ("question -> answer, items: list[str]", "question -> answer: int"):
        for truncated in (False, True):
            assert set(said(signature, text, truncated=truncated)) <= {"answer", "items"}
