"""Typed fields: values into prompts, texts into values, defaults, None and limits. DSPy 3.4 is the measure."""

from __future__ import annotations

import datetime
import json
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import dspy
import pytest
from pydantic import AfterValidator, BaseModel, Field

from pdr_dspy.calls import identity
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.prompts.content import json_data, pieces_of, prompt_text, text_of
from pdr_dspy.prompts.parse import read
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import FREE, Role, check_task, derive
from pdr_dspy.serving.endpoint import connect
from pdr_dspy.testing import ScriptedLM, scripted_lm
from tests.support.mock_server import MockServer

PIXEL = "data:image/png;base64,iVBORw0KGgo="
LINK = "https://example.org/cat.png"
IMAGE, OTHER = dspy.Image(PIXEL), dspy.Image(LINK)


class Person(BaseModel):
    name: str
    age: int


class Page(BaseModel):
    picture: dspy.Image
    caption: str


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def signature(*, inputs: dict[str, Any] | None = None, **outputs: Any) -> type[dspy.Signature]:
    """A signature; a field is a type, or a type and the keywords of its field."""

    def field(made: Any, given: Any) -> tuple[Any, Any]:
        kind, options = given if isinstance(given, tuple) else (given, {})
        return kind, made(**options)

    fields = {name: field(dspy.InputField, given) for name, given in (inputs or {"question": str}).items()}
    fields |= {name: field(dspy.OutputField, given) for name, given in outputs.items()}
    return dspy.Signature(fields, "Do it.")  # type: ignore[call-overload]


def reading(task: type[dspy.Signature], text: str, *, truncated: bool = False) -> dict[str, Any]:
    found = read(derive(check_task(task), Role.DRAFT), text, truncated=truncated)
    return {name: value for name, value in found.outputs.items() if name not in FREE}


def asked(program: Operator, reply: str = "Answer: 1", /, **inputs: Any) -> tuple[dspy.Prediction, ScriptedLM]:
    lm = scripted_lm(lambda _: reply)
    with dspy.context(lm=lm):
        return program(**inputs), lm


def prompt(task: type[dspy.Signature], **inputs: Any) -> str:
    _, lm = asked(LongCoT(task), **inputs)
    return lm.served.requests[0].user


def served(task: type[dspy.Signature], **inputs: Any) -> tuple[dspy.Prediction, Any]:
    """What an endpoint answers in one pass, and the last message that its server got."""
    with MockServer(lambda body, seed: "Answer: 5") as server:
        lm = connect("mock", server.api_base, context_length=4096)
        with dspy.context(lm=lm):
            prediction = LongCoT(task)(**inputs)
        lm.close()
        (body,) = server.requests
    return prediction, body["messages"][-1]["content"]


# --- what has a content of its own


def nested() -> list[tuple[str, Any, Any, list[dspy.Image]]]:
    return [
        ("plain", dspy.Image, IMAGE, [IMAGE]),
        ("list", list[dspy.Image], [IMAGE, OTHER], [IMAGE, OTHER]),
        ("twice", list[dspy.Image], [IMAGE, IMAGE], [IMAGE, IMAGE]),
        ("optional", Optional[dspy.Image], OTHER, [OTHER]),  # noqa: UP045
        ("dict", dict[str, dspy.Image], {"a": IMAGE, "b": OTHER}, [IMAGE, OTHER]),
        ("tuple", tuple[str, dspy.Image], ("x", OTHER), [OTHER]),
        ("model", Page, Page(picture=IMAGE, caption='a "cat", é'), [IMAGE]),
        ("models", list[Page], [Page(picture=p, caption="c") for p in (IMAGE, OTHER)], [IMAGE, OTHER]),
        ("deep", dict[str, list[Page]], {"p": [Page(picture=OTHER, caption="c")]}, [OTHER]),
        ("any", Any, {"in": [OTHER]}, [OTHER]),
    ]


@pytest.mark.parametrize(("kind", "value", "images"), [case[1:] for case in nested()], ids=[c[0] for c in nested()])
def test_images_reach_the_model_wherever_they_stand(kind: Any, value: Any, images: list[dspy.Image]) -> None:
    task = signature(inputs={"question": str, "shown": kind}, answer=int)
    program = PDR(task, widths=(2, 1), distiller="summary", draft_tokens=64)
    lm = scripted_lm(lambda _: "Answer: 1")
    with dspy.context(lm=lm):
        prediction = program(question="What is it?", shown=value)
    assert prediction.answer == 1
    theirs = dspy.ChatAdapter().format(task, [], {"question": "What is it?", "shown": value})[-1]["content"]
    expected = [block for block in theirs if block["type"] == "image_url"]
    assert len(lm.served.requests) == 4
    for request in lm.served.requests:  # drafts, the distill call, the refinement
        parts = [part for part in request.request.messages[-1].parts if part.type == "image"]
        urls = [part.url or f"data:{part.media_type};base64,{part.data}" for part in parts]
        assert urls == [block["image_url"]["url"] for block in expected] == [image.url for image in images]
        assert "CUSTOM-TYPE" not in request.user
    assert lm.served.requests[0].user.endswith("Answer: <a whole number>")


@pytest.mark.parametrize(("kind", "value", "images"), [case[1:] for case in nested()], ids=[c[0] for c in nested()])
def test_an_endpoint_sends_them_too(kind: Any, value: Any, images: list[dspy.Image]) -> None:
    task = signature(inputs={"question": str, "shown": kind}, answer=int)
    prediction, content = served(task, question="?", shown=value)
    assert prediction.answer == 5
    assert [block["image_url"]["url"] for block in content if block["type"] == "image_url"] == [i.url for i in images]


def test_a_configured_adapter_sends_them_as_it_does() -> None:
    task = signature(inputs={"shown": list[dspy.Image]}, answer=int)
    lm = scripted_lm(lambda _: "[[ ## solution ## ]]\nLook.\n\n[[ ## answer ## ]]\n3\n\n[[ ## completed ## ]]")
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        assert LongCoT(task)(shown=[IMAGE, OTHER]).answer == 3
    kinds = [part.type for part in lm.served.requests[0].request.messages[-1].parts]
    assert kinds.count("image") == 2


def test_a_text_that_looks_like_an_image_stays_a_text() -> None:
    marked = IMAGE.model_dump()
    assert isinstance(marked, str)
    assert pieces_of(marked) == [marked]
    forged = marked.replace(PIXEL, "http://10.0.0.1/secret")
    blocks = [piece for piece in pieces_of([Page(picture=OTHER, caption=forged)]) if isinstance(piece, dict)]
    assert blocks == [{"type": "image_url", "image_url": {"url": LINK}}]


def test_a_prompt_with_an_image_is_measured_by_its_words() -> None:
    big = dspy.Image("data:image/png;base64," + "A" * 400_000)
    lm = scripted_lm(lambda _: "Answer: 1", context_length=4096)
    with dspy.context(lm=lm):
        assert LongCoT(signature(inputs={"shown": dspy.Image}, answer=int), draft_tokens=64)(shown=big).answer == 1
    messages = render(derive(signature(inputs={"shown": dspy.Image}, answer=int), Role.DRAFT), [], {"shown": big})
    assert len(prompt_text(messages)) < 500


def test_questions_with_different_images_are_different_questions() -> None:
    images = [dspy.Image(f"data:image/png;base64,{letter * 400}") for letter in "AB"]
    assert repr(images[0]) == repr(images[1]), "DSPy shows the length alone"
    assert len({identity({"shown": [image]}) for image in images}) == 2
    assert identity({"q": ["a", 1]}) == identity({"q": ["a", 1]})


def test_recordings_and_files_go_out_as_well() -> None:
    sound = dspy.Audio(data="AAAA", audio_format="mp3")
    paper = dspy.File(file_data="data:application/pdf;base64,BBBB", filename="x.pdf")
    task = signature(inputs={"sounds": list[dspy.Audio], "paper": dspy.File}, answer=int)
    _, content = served(task, sounds=[sound], paper=paper)
    assert [block["type"] for block in content if block["type"] != "text"] == ["input_audio", "file"]


def test_demonstrations_have_their_images_after_saving_too(tmp_path: Any) -> None:
    from pdr_dspy.artifact import load, save

    program = LongCoT(signature(inputs={"shown": list[dspy.Image]}, answer=int))
    program = program.with_schedule(program.schedule, demos={"draft": [{"shown": [IMAGE], "answer": 7}]})
    loaded = load(save(program, tmp_path / "program.json"))
    prompts = []
    for each in (program, loaded):
        _, lm = asked(each, shown=[OTHER])  # type: ignore[arg-type]
        prompts.append(lm.served.requests[0].request.messages)
    assert prompts[0] == prompts[1]
    assert [part.type for part in prompts[0][0].parts] == ["text", "image", "text"]


# --- how values are written


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (3, "3"),
        (True, "yes"),
        ([1, 2], "[1, 2]"),
        ({"a": (1, None)}, '{"a": [1, null]}'),
        (Colour.RED, "red"),
        ([Colour.RED], '["red"]'),
        (Person(name="Ann", age=3), '{"name":"Ann","age":3}'),
        ([Person(name="Ann", age=3)], '[{"name": "Ann", "age": 3}]'),
        ({"who": Person(name="é", age=3)}, '{"who": {"name": "é", "age": 3}}'),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        ({1, 2}, "[1, 2]"),
        (dspy.Code(code="x = 1"), "x = 1"),
        (dspy.Example(a=1), '{"a": 1}'),
    ],
)
def test_values_are_written_as_dspy_writes_them(value: Any, text: str) -> None:
    assert text_of(value) == text


def test_json_data_is_json_whatever_the_value() -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    circle: list[Any] = []
    circle.append(circle)
    for value in (Odd(), [Odd()], {"a": Odd()}, b"\xff", circle, float("nan"), 10**400, "\ud800"):
        json.dumps(json_data(value))


def test_models_in_lists_are_json_in_the_prompt() -> None:
    people = [Person(name="Ann", age=3), Person(name="Bo", age=4)]
    text = prompt(signature(inputs={"people": list[Person]}, answer=int), people=people)
    assert text.startswith('People: [{"name": "Ann", "age": 3}, {"name": "Bo", "age": 4}]')


# --- defaults


def test_an_inputs_default_reaches_the_prompt_and_what_is_given_replaces_it() -> None:
    task = signature(
        inputs={
            "question": str,
            "style": (str, {"default": "in one word"}),
            "tags": (list[str], {"default_factory": lambda: ["a", "b"]}),
            "hint": (str | None, {"default": None}),
        },
        answer=int,
    )
    text = prompt(task, question="?")
    assert text.startswith('Question: ?\n\nStyle: in one word\n\nTags: ["a", "b"]\n\nWrite the steps')
    assert "Style: at length" in prompt(task, question="?", style="at length", hint="h")
    assert "Hint: h" in prompt(task, question="?", style="at length", hint="h")


def test_a_default_is_made_once_for_all_calls_of_a_program() -> None:
    made: list[int] = []

    def now() -> int:
        made.append(len(made))
        return made[-1]

    task = signature(inputs={"question": str, "moment": (int, {"default_factory": now})}, answer=int)
    _, lm = asked(PDR(task, widths=(2, 1), distiller="random_k", k=1), question="?")
    assert len({request.user.split("Moment: ")[1][0] for request in lm.served.requests}) == 1


def test_what_may_be_none_need_not_be_given() -> None:
    task = signature(inputs={"question": str, "context": str | None, "history": dspy.History}, answer=int)
    assert prompt(task, question="?").startswith("Question: ?\n\nWrite")


def test_demonstrations_may_do_without_what_may_be_left_out() -> None:
    task = signature(inputs={"question": str, "hint": str | None, "style": (str, {"default": "s"})}, answer=int)
    messages = render(derive(task, Role.DRAFT), [{"question": "1 + 1", "answer": 2}], {"question": "?"})
    assert len(messages) == 4


@pytest.mark.parametrize(
    ("outputs", "text", "expected"),
    [
        ({"answer": int, "note": (str, {"default": "none given"})}, "Answer: 4", {"answer": 4, "note": "none given"}),
        ({"answer": int, "note": (str, {"default": "d"})}, "Answer: 4\nNote: mine", {"answer": 4, "note": "mine"}),
        ({"answer": int, "tags": (list[str], {"default_factory": list})}, "Answer: 4", {"answer": 4, "tags": []}),
        ({"label": (Literal["a", "b"], {"default": "b"})}, "I do not know.", {"label": "b"}),
        ({"answer": int, "note": str | None}, "Answer: 4", {"answer": 4, "note": None}),
        ({"answer": int, "note": (str | None, {"default": "d"})}, "Answer: 4", {"answer": 4, "note": "d"}),
        ({"answer": int, "n": (int, {"default": 3})}, "Answer: 4\nN: many", {"answer": 4}),  # stated, and not readable
        ({"answer": int | None}, "I do not know.", {}),  # nothing was stated at all
        ({"answer": int, "note": str}, "Answer: 4", {"answer": 4}),
    ],
)
def test_an_outputs_default_is_used_where_it_is_not_stated(outputs: Any, text: str, expected: Any) -> None:
    assert reading(signature(**outputs), text) == expected


def test_a_reply_that_was_cut_takes_no_defaults() -> None:
    task = signature(answer=int, note=(str, {"default": "d"}), more=str | None)
    assert reading(task, "Answer: 4\nSo the note", truncated=True) == {"answer": 4}


# --- None


@pytest.mark.parametrize("said", ["none", "None", "**None**", "null", "N/A", "`none`.", "<none>"])
@pytest.mark.parametrize("kind", [int, float, str, bool, Literal["a", "b"], Person, list[str], Colour])
def test_a_stated_none_is_a_value(kind: Any, said: str) -> None:
    assert reading(signature(answer=kind | None), f"Nothing fits.\nAnswer: {said}") == {"answer": None}


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (int | None, '{"answer": null}', None),
        (int | None, "The answer is None.", None),
        (int | None, "Answer: 5\nNo, wait.\nAnswer: none", None),
        (int | None, "Answer: none\nNo, wait.\nAnswer: 5", 5),
        (Literal["none", "some"] | None, "Answer: none", "none"),
        (str | None, "Answer: None of the above", "None of the above"),
    ],
)
def test_the_last_word_counts_for_none_too(kind: Any, text: str, expected: Any) -> None:
    assert reading(signature(answer=kind), text) == {"answer": expected}


def test_none_where_it_is_no_value_is_no_answer() -> None:
    assert reading(signature(answer=int), "Answer: none") == {}
    assert reading(signature(answer=int), '{"answer": null}') == {}


def test_a_program_may_answer_none() -> None:
    prediction, lm = asked(PDR(signature(answer=int | None), widths=(3, 1), k=1), "Answer: none", question="?")
    assert (prediction.answer, prediction.stop) == (None, Stop.DONE)
    assert "Answer: <a whole number, or none>" in lm.served.requests[0].user
    prediction, _ = asked(LongCoT(signature(answer=int | None)), "I cannot say.", question="?")
    assert (prediction.answer, prediction.stop) == (None, Stop.NO_ANSWER)


# --- limits


@pytest.mark.parametrize(
    ("kind", "options", "text", "value", "why"),
    [
        (int, {"ge": 0, "le": 10}, "Answer: 7", 7, ""),
        (int, {"ge": 0, "le": 10}, "Answer: 70", None, "less than or equal to 10"),
        (int, {"gt": 0}, "Answer: 0", None, "greater than 0"),
        (float, {"lt": 1}, "Answer: 1.5", None, "less than 1"),
        (int, {"multiple_of": 5}, "Answer: 7", None, "multiple of 5"),
        (str, {"max_length": 5}, "Answer: Paris", "Paris", ""),
        (str, {"max_length": 5}, "Answer: Rome, Italy", None, "at most 5 characters"),
        (str, {"pattern": "^[A-Z]{3}$"}, "Answer: ROM", "ROM", ""),
        (str, {"pattern": "^[A-Z]{3}$"}, "Answer: rom", None, "match pattern"),
        (list[int], {"min_length": 2}, "Answer: [1]", None, "at least 2 items"),
        (int | None, {"le": 3}, "Answer: none", None, ""),
        (int | None, {"le": 3}, "Answer: 4", None, "less than or equal to 3"),
        (Annotated[str, AfterValidator(str.upper)], {}, "Answer: rome", "ROME", ""),
    ],
)
def test_limits_are_held(kind: Any, options: Any, text: str, value: Any, why: str) -> None:
    found = read(derive(signature(answer=(kind, options)), Role.DRAFT), text)
    if why:
        assert found.missing == ("answer",)
        assert why in found.broken["answer"]
    else:
        assert found.outputs["answer"] == value
        assert not found.broken


def test_what_breaks_a_limit_is_no_answer_and_the_draft_says_why() -> None:
    task = signature(score=(int, {"ge": 0, "le": 10}))
    prediction, lm = asked(LongCoT(task), "Score: 5\nNo, more.\nScore: 50", question="?")
    assert (prediction.score, prediction.stop) == (None, Stop.NO_ANSWER)
    (draft,) = prediction.rounds[0].drafts
    assert "score" in draft.broken
    assert draft.outputs == {}
    assert "Score: <a whole number, from 0 to 10>" in lm.served.requests[0].user


# --- types


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Think.\nCode:\n```python\nprint(1)\n```", "print(1)"),
        ("Code: ```python\nprint(1)\nprint(2)\n```", "print(1)\nprint(2)"),
        ("Code: x = 1", "x = 1"),
        ("Code:\nx = 1\ny = 2", "x = 1\ny = 2"),
        ("Here it is:\n```py\nprint(2)\n```\nIt prints 2.", "print(2)"),
        ("First:\n```python\nprint(1)\n```\nBetter:\n```python\nprint(2)\n```", "print(2)"),
        ("Code:\n```python\nprint(1)", "print(1)"),  # the fence was never closed
        ('Code: {"code": "x = 1"}', "x = 1"),
        ('Code:\nprint("hi")', 'print("hi")'),
    ],
)
def test_code_loses_its_fence_and_its_language(text: str, code: str) -> None:
    found = reading(signature(code=dspy.Code["python"]), text)["code"]  # type: ignore[index]
    assert (found.code, found.language) == (code, "python")


def test_code_that_was_cut_is_missing() -> None:
    assert reading(signature(code=dspy.Code), "Code:\n```python\nprint(1", truncated=True) == {}


def test_a_prompt_asks_for_code_in_its_fence() -> None:
    text = prompt(signature(code=dspy.Code["java"]), question="?")  # type: ignore[index]
    assert text.endswith("exactly this form:\nCode:\n```java\n<code>\n```")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ann", "age": 3}',
        'Sure.\n```json\n{"name": "Ann", "age": 3}\n```',
        'Not {"name": "Bo", "age": 1}, I think.\nSo it is {"name": "Ann", "age": 3}.',
        "{'name': 'Ann', 'age': 3}",
        '{\n  "name": "Ann",\n  "age": 3\n}\nThat is all.',
        '{"person": {"name": "Ann", "age": 3}}',
        'Person: {"name": "Ann", "age": 3}',
    ],
)
def test_a_bare_object_is_the_only_output(text: str) -> None:
    assert reading(signature(person=Person), text) == {"person": Person(name="Ann", age=3)}


@pytest.mark.parametrize(
    "text",
    ["Ann is 3.", 'I had {"name": "Bo", "age": 1} in mind, but no.', '{"name": "Ann"}', '[{"name": "Ann", "age": 3}]'],
)
def test_what_is_no_such_object_is_none(text: str) -> None:
    assert reading(signature(person=Person), text) == {}
    assert reading(signature(person=Person, other=Person), '{"name": "Ann", "age": 3}') == {}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int | float, "3 apples", 3),
        (int | float, "3.5 apples", 3.5),
        (int | float, "3.0", 3.0),
        (int | float, "many", None),
        (int | str, "12", 12),
        (int | str, "Paris 2024", "Paris 2024"),
        (bool | int, "yes", True),
        (bool | int, "7 apples", 7),
        (Literal["all"] | int, "All", "all"),
        (Literal["all"] | int, "3", 3),
        (Person | list[Person], '[{"name": "Ann", "age": 3}]', [Person(name="Ann", age=3)]),
        (Person | str, "nobody", "nobody"),
        (dspy.Reasoning, "because", "because"),
    ],
)
def test_unions_and_dspys_own_types(kind: Any, text: str, value: Any) -> None:
    found = reading(signature(answer=kind), f"Answer: {text}").get("answer")
    assert (str(found) if kind is dspy.Reasoning else found) == value
    assert kind is dspy.Reasoning or type(found) is type(value)


def test_tools_are_reported_and_their_calls_are_read() -> None:
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    task = signature(inputs={"question": str, "tools": list[dspy.Tool]}, calls=dspy.ToolCalls)
    text = prompt(task, question="?", tools=[dspy.Tool(add)])
    assert "Adds two numbers." in text
    assert '"tool_calls": [{' in text
    read_back = reading(task, 'Calls: {"tool_calls": [{"name": "add", "args": {"a": 1, "b": 2}}]}')["calls"]
    assert [(call.name, call.args) for call in read_back.tool_calls] == [("add", {"a": 1, "b": 2})]


# --- history


def test_history_becomes_turns() -> None:
    task = signature(inputs={"question": str, "history": dspy.History}, answer=str)
    first, _ = asked(LongCoT(task), "Look.\nAnswer: Paris", question="Capital of France?")
    history = dspy.History(
        messages=[
            {"question": "Capital of France?", **first.toDict()},
            {"question": "And of Italy?", "answer": "Rome"},
        ]
    )
    program = PDR(task, widths=(2, 1), distiller="summary")
    _, lm = asked(program, "Answer: Madrid", question="And of Spain?", history=history)
    for request in lm.served.requests:
        roles = [message.role for message in request.request.messages]
        texts = [str(message.text) for message in request.request.messages]
        assert roles == ["user", "assistant"] * 2 + ["user"]
        assert texts[0].startswith("Question: Capital of France?\n\n")  # type: ignore
        assert texts[1] == "Look.\nAnswer: Paris"
        assert texts[3] == "Answer: Rome"
        assert texts[4].startswith("Question: And of Spain?")  # type: ignore
        assert "History" not in "".join(texts)  # type: ignore
        assert "ledger" not in "".join(texts).lower()  # type: ignore


def test_a_conversation_that_continues_has_the_prefix_of_the_one_before() -> None:
    task = derive(signature(inputs={"question": str, "history": dspy.History}, answer=str), Role.DRAFT)
    before = render(task, [], {"question": "one?"})
    history = {"messages": [{"question": "one?", "answer": "1"}]}
    after = render(task, [], {"question": "two?", "history": history})
    assert after[: len(before)] == before


# --- saving


class Tagged(dspy.Signature):
    """Tag it."""

    text: str = dspy.InputField()
    style: list[str] = dspy.InputField(default_factory=lambda: ["short"])
    pair: tuple[int, str] = dspy.InputField(default=(1, "x"))
    shown: list[dspy.Image] = dspy.InputField(default_factory=list)
    level: int | None = dspy.OutputField(ge=0, le=3)
    code: str = dspy.OutputField(pattern="^[a-z]+$", max_length=4, default="none")
    tags: list[str] = dspy.OutputField(default_factory=list)


def test_defaults_and_limits_survive_saving(tmp_path: Any) -> None:
    from pdr_dspy.artifact import load, save
    from pdr_dspy.evaluation.fingerprint import fingerprint

    program = PDR(Tagged, Schedule(widths=(2, 1)))
    loaded: Any = load(save(program, tmp_path / "program.json"))
    for name, field in Tagged.fields.items():
        again = loaded.task.fields[name]
        assert again.annotation == field.annotation
        assert str(again.metadata) == str(field.metadata)
        assert again.is_required() == field.is_required()
        assert field.is_required() or again.get_default(call_default_factory=True) == field.get_default(
            call_default_factory=True
        )
    assert fingerprint(loaded) == fingerprint(program)
    assert fingerprint(loaded) != fingerprint(PDR(signature(inputs={"text": str}, level=int), Schedule(widths=(2, 1))))


def test_limits_and_defaults_make_another_program() -> None:
    from pdr_dspy.evaluation.fingerprint import fingerprint

    tasks = [
        signature(n=int),
        signature(n=(int, {"ge": 0})),
        signature(n=(int, {"ge": 1})),
        signature(n=(int, {"default": 1})),
    ]
    assert len({fingerprint(LongCoT(task)) for task in tasks}) == 4


def test_a_default_of_ones_own_is_named_where_the_file_cannot_hold_it(tmp_path: Any) -> None:
    import itertools

    from pdr_dspy.artifact import load, save
    from pdr_dspy.errors import ArtifactError

    counter = itertools.count()
    task = signature(inputs={"question": str, "number": (int, {"default_factory": lambda: next(counter)})}, answer=int)
    path = save(LongCoT(task), tmp_path / "program.json")
    with pytest.raises(ArtifactError, match=r"'number'.*a custom default or validator"):
        load(path)
    assert isinstance(load(path, LongCoT(task)), Operator)


class Checked(BaseModel):
    score: int = Field(ge=0, le=5)


def test_limits_inside_a_model_are_reported_and_held() -> None:
    task = signature(result=Checked)
    assert '{"score": whole number (from 0 to 5)}' in prompt(task, question="?")
    assert reading(task, 'Result: {"score": 9}') == {}
    assert reading(task, 'Result: {"score": 4}') == {"result": Checked(score=4)}
