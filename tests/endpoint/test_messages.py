"""How a chat feeds a signature."""

from __future__ import annotations

from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel

import pdr_dspy
from pdr_dspy import LongCoT
from pdr_dspy.endpoint.errors import Refused
from pdr_dspy.endpoint.messages import checked, described, inputs_of
from pdr_dspy.endpoint.requests import Message
from pdr_dspy.errors import ConfigError
from pdr_dspy.testing import scripted_lm

PICTURE = "data:image/png;base64,iVBORw0KGgo="


class Order(BaseModel):
    item: str
    count: int


def task(text: str) -> type[dspy.Signature]:
    return dspy.ensure_signature(dspy.Signature(text, custom_types={"Order": Order}))  # type: ignore[return-value]


def chat(*turns: tuple[str, Any]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]  # type: ignore[arg-type]


FED: list[tuple[str, list[Message], dict[str, Any], list[str]]] = [
    ("question -> answer", chat(("user", "Why?")), {"question": "Why?"}, []),
    ("question -> answer", chat(("user", '{"a": 1}')), {"question": '{"a": 1}'}, []),
    ("question -> answer", chat(("user", "a: b")), {"question": "a: b"}, []),
    ("question -> answer", chat(("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])),
     {"question": "a\n\nb"}, []),
    ("n: int -> answer", chat(("user", " 7 ")), {"n": 7}, []),
    ("words: list[str] -> answer", chat(("user", '["a", "b"]')), {"words": ["a", "b"]}, []),
    ("order: Order -> answer", chat(("user", '{"item": "x", "count": 2}')), {"order": Order(item="x", count=2)}, []),
    ("size: Literal['s', 'l'] -> answer", chat(("user", "l")), {"size": "l"}, []),
    ("question, context -> answer", chat(("user", '{"question": "Why?", "context": "So."}')),
     {"question": "Why?", "context": "So."}, []),
    ("question, context -> answer", chat(("user", "Question: Why?\nAnd when?\ncontext : So.\n")),
     {"question": "Why?\nAnd when?", "context": "So."}, []),
    ("main_question, n: int -> answer", chat(("user", "Main question: Why?\nN: 3")),
     {"main_question": "Why?", "n": 3}, []),
    ("question, context -> answer",
     chat(("user", [{"type": "text", "text": "context: So."}, {"type": "text", "text": "question: Why?"}])),
     {"question": "Why?", "context": "So."}, []),
    ("system, question -> answer", chat(("system", "Be brief."), ("developer", "And kind."), ("user", "Why?")),
     {"system": "Be brief.\n\nAnd kind.", "question": "Why?"}, []),
    ("system -> answer", chat(("user", "reboot")), {"system": "reboot"}, []),
    ("question -> answer", chat(("system", "Be brief."), ("user", "Why?")), {"question": "Why?"}, ["system messages"]),
    ("question -> answer", chat(("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")), {"question": "Why?"},
     ["earlier turns"]),
    ("history: dspy.History, question -> answer", chat(("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")),
     {"history": dspy.History(messages=[{"question": "Hi", "answer": "Hello"}]), "question": "Why?"}, []),
    ("history: dspy.History, question -> answer", chat(("user", "Why?")), {"question": "Why?"}, []),
    ("picture: dspy.Image, question -> answer",
     chat(("user", [{"type": "image_url", "image_url": {"url": PICTURE}}, {"type": "text", "text": "What?"}])),
     {"picture": dspy.Image(PICTURE), "question": "What?"}, []),
    ("pictures: list[dspy.Image], question -> answer",
     chat(("user", [{"type": "image_url", "image_url": PICTURE}, {"type": "text", "text": "What?"}])),
     {"pictures": [dspy.Image(PICTURE)], "question": "What?"}, []),
]  # fmt: skip


@pytest.mark.parametrize(("signature", "messages", "inputs", "left_out"), FED, ids=[f"{n}" for n in range(len(FED))])
def test_messages_feed_inputs(
    signature: str, messages: list[Message], inputs: dict[str, Any], left_out: list[str]
) -> None:
    assert inputs_of(task(signature), messages) == (inputs, left_out)


REFUSED: list[tuple[str, list[Message], str]] = [
    ("n: int -> answer", chat(("user", "seven")), "`n`"),
    ("size: Literal['s', 'l'] -> answer", chat(("user", "m")), "`size`"),
    ("order: Order -> answer", chat(("user", '{"item": "x"}')), "`order.count`"),
    ("question, context -> answer", chat(("user", "Why?")), "takes several inputs"),
    ("question, context -> answer", chat(("user", "So be it.\nquestion: Why?")), "takes several inputs"),
    ("question, context -> answer", chat(("user", "question: Why?")), "'context' is missing"),
    ("question, context -> answer", chat(("user", "question: a\nquestion: b\ncontext: c")), "begins two parts"),
    ("question, context -> answer", chat(("user", '{"question": "a", "context": "b", "x": 1}')), "no input 'x'"),
    ("question, context -> answer", chat(("user", '{"question": 1, "context": "b"}')), "`question`"),
    ("question -> answer", chat(("user", [{"type": "image_url", "image_url": {"url": PICTURE}}])), "no images"),
    ("question -> answer", chat(("user", [{"type": "input_audio", "input_audio": {}}])), "'input_audio'"),
    ("question -> answer", chat(("user", [{"text": "a"}])), "'None'"),
    ("picture: dspy.Image -> answer", chat(("user", [{"type": "image_url", "image_url": "/etc/passwd"}])), "data URL"),
    ("picture: dspy.Image -> answer", chat(("user", [{"type": "image_url", "image_url": "http://10.0.0.1/x"}])),
     "data URL"),
    ("picture: dspy.Image -> answer", chat(("user", [{"type": "image_url", "image_url": PICTURE}] * 2)), "one image"),
    ("picture: dspy.Image -> answer", chat(("user", "What?")), "'picture' is missing"),
    ("history: dspy.History, question -> answer", chat(("assistant", "Hello"), ("user", "Why?")), "must follow a user"),
    ("question -> answer", chat(("function", "1"), ("user", "Why?")), "tools are not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("signature", "messages", "why"), REFUSED, ids=[why for _, _, why in REFUSED])
def test_what_cannot_feed_an_input_is_a_400_that_names_it(signature: str, messages: list[Message], why: str) -> None:
    with pytest.raises(Refused) as raised:
        inputs_of(task(signature), messages)
    assert raised.value.status == 400
    assert why in str(raised.value)


@pytest.mark.parametrize(
    "value", ["/etc/passwd", "http://10.0.0.1/x", {"url": "file:///etc/passwd"}, ["gs://bucket/x"], "data:text/html,x"]
)
def test_typed_images_are_data_urls_too(value: Any) -> None:
    with pytest.raises(Refused, match="data URL"):
        checked(task("picture: dspy.Image | None, question -> answer"), {"picture": value, "question": "x"}, "inputs")


def test_limits_of_a_field_are_held() -> None:
    class Bound(dspy.Signature):
        n: int = dspy.InputField(ge=1)
        answer: str = dspy.OutputField()

    assert checked(Bound, {"n": 1}, "inputs") == {"n": 1}
    with pytest.raises(Refused, match="greater than or equal to 1"):
        checked(Bound, {"n": 0}, "inputs")


def test_models_are_described_by_their_inputs() -> None:
    told = described(task("system, history: dspy.History, picture: dspy.Image, question, n: int -> answer, why"))
    assert told["inputs"]["system"] == "the text of the system and developer messages"
    assert told["inputs"]["n"] == "the last user message: its part that begins with `n:`, or its key of one JSON object"
    assert told["left_out"] == []
    assert told["answer"] == "a JSON object of answer, why"


@pytest.mark.parametrize("kind", [dspy.Audio, dspy.File, list[dspy.Audio]])
def test_a_program_that_nothing_can_feed_is_not_served(kind: Any) -> None:
    lm = scripted_lm(lambda request: "x")
    sound: Any = dspy.Signature({"sound": (kind, dspy.InputField()), "answer": (str, dspy.OutputField())})  # type: ignore
    program = LongCoT(sound)
    with pytest.raises(ConfigError, match="audio or a file"):
        pdr_dspy.app(program, lm=lm)


@pytest.mark.parametrize(
    ("kind", "taken", "refused"),
    [
        ("int", [7, 7.0, -1], [True, "7", 7.5, None]),
        ("float", [7, 7.5], [True, "7.5"]),
        ("bool", [True], [1, 0, "true"]),
        ("str", ["a", ""], [1, True, None]),
        ("list[int]", [[1, 2.0], []], [[True], ["1"], "12", {"0": 1}]),
        ("dict[str, int]", [{"a": 1}], [{"a": True}, [["a", 1]]]),
        ("Order", [{"item": "x", "count": 2}], [{"item": "x", "count": "2"}, {"item": "x", "count": True}]),
        ("int | None", [None, 3], [False, "3"]),
        ("Literal[1, 2]", [1, 2.0], ["1", 3]),
    ],
)
def test_json_is_taken_by_its_own_types(kind: str, taken: list[Any], refused: list[Any]) -> None:
    """What the OpenAPI document says of an input is what is taken: a truth value or a text is no number."""
    signature = task(f"value: {kind} -> answer")
    for value in taken:
        got = checked(signature, {"value": value}, "inputs")["value"]
        assert got == (Order(**value) if kind == "Order" else value)
        assert not isinstance(got, float) or kind == "float"
    for value in refused:
        with pytest.raises(Refused, match="`value"):
            checked(signature, {"value": value}, "inputs")


def test_literals_are_read_as_texts_of_their_own() -> None:
    signature: Any = dspy.Signature({"n": (Literal[1, 2], dspy.InputField()), "answer": (str, dspy.OutputField())})  # type: ignore
    assert inputs_of(signature, chat(("user", "2"))) == ({"n": 2}, [])
