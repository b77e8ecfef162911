"""What a type looks like in a prompt."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NamedTuple, Optional

import dspy
import pytest
from pydantic import BaseModel, Field

from pdr_dspy.prompts.parse import read
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import Role, check_task, derive
from pdr_dspy.prompts.shapes import allows_none, described, plain_kind, shape_of


class Address(BaseModel):
    """Where somebody lives."""

    street: str
    zip: int = Field(ge=0, description="of the\n post office")


class Person(BaseModel):
    name: str = Field(max_length=10)
    nickname: str | None = None
    address: Address
    tags: list[str] = []
    children: list[Person] = []
    kind: Literal["guest", "host"]
    scores: dict[str, float]
    born: datetime.date
    member: bool


@dataclass
class Pair:
    left: int
    right: str = "x"


class Named(NamedTuple):
    first: int
    second: str


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (list[int], "[whole number, ...]"),
        (list[str], "[text, ...]"),
        (dict[str, int], "{text: whole number, ...}"),
        (tuple[int, str], "[whole number, text]"),
        (tuple[float, ...], "[number, ...]"),
        (set[int], "[whole number, ...]"),
        (Named, "[whole number, text]"),
        (Pair, '{"left": whole number, "right": text (may be left out)}'),
        (Address, '{"street": text, "zip": whole number (at least 0; of the post office)}'),
        (Address | int, '{"street": text, "zip": whole number (at least 0; of the post office)} or whole number'),
        (list[Colour], '["red" or "blue", ...]'),
        (list[Literal[1, 2]], "[1 or 2, ...]"),
        (dict, "{text: any JSON, ...}"),
        (Any, "any JSON"),
        (datetime.datetime, '"YYYY-MM-DDThh:mm:ss"'),
        (Decimal, "number or text"),
        (
            Person,
            '{"name": text (at most 10 characters), "nickname": text or null (may be left out), "address": {"street": '
            'text, "zip": whole number (at least 0; of the post office)}, "tags": [text, ...] (may be left out), '
            '"children": [{as above}, ...] (may be left out), "kind": "guest" or "host", "scores": {text: number, ...}'
            ', "born": "YYYY-MM-DD", "member": true or false}',
        ),
    ],
)
def test_a_shape_is_the_value_with_words_for_its_parts(kind: Any, shape: str) -> None:
    assert shape_of(kind) == shape


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (int, {}, "a whole number"),
        (int, {"ge": 0, "le": 10}, "a whole number, from 0 to 10"),
        (int, {"gt": 0}, "a whole number, more than 0"),
        (float, {"lt": 1.5}, "a number, less than 1.5"),
        (float, {"ge": 0.5}, "a number, at least 0.5"),
        (int, {"multiple_of": 5}, "a whole number, a multiple of 5"),
        (str, {"max_length": 1}, "at most 1 character"),
        (str, {"min_length": 2, "max_length": 4}, "2 to 4 characters"),
        (str, {"pattern": "^a+$"}, "of the pattern ^a+$"),
        (list[int], {"min_length": 2}, "JSON, as [whole number, ...], at least 2 items"),
        (list[int], {"min_length": 3, "max_length": 3}, "JSON, as [whole number, ...], 3 items"),
        (Optional[int], {}, "a whole number, or none"),  # noqa: UP045
        (int | None, {"le": 3}, "a whole number, at most 3, or none"),
        (str | None, {}, "or none"),
        (bool, {}, "yes or no"),
        (int | float, {}, "a number"),
        (int | str, {}, "a whole number or a text"),
        (int | float | None, {}, "a number, or none"),
        (Literal["a", "b"] | None, {}, "one of a, b, or none"),
        (Colour, {}, "one of red, blue"),
        (dspy.Code, {}, ""),
    ],
)
def test_what_a_field_is_told_of_its_value(kind: Any, options: dict[str, Any], told: str) -> None:
    field = dspy.Signature({"q": (str, dspy.InputField()), "a": (kind, dspy.OutputField(**options))}).fields["a"]  # type: ignore[call-overload]
    assert described(field.annotation, field) == told


@pytest.mark.parametrize(
    ("annotation", "none", "plain"),
    [
        (int, False, int),
        (Optional[int], True, int),  # noqa: UP045
        (str | None, True, str),
        (int | str | None, True, int | str),
        (None, True, None),
        (list[int | None], False, list[int | None]),
    ],
)
def test_none_is_told_from_the_type(annotation: Any, none: bool, plain: Any) -> None:
    assert allows_none(annotation) is none
    assert plain_kind(annotation) == plain


class Note(BaseModel):
    title: str
    text: str


class Writing(dspy.Signature):
    """Write a note."""

    topic: str = dspy.InputField()
    note: Note = dspy.OutputField()


def test_a_prompt_shows_no_schema_and_a_copy_of_the_shape_is_no_value() -> None:
    signature = derive(check_task(Writing), Role.DRAFT)
    prompt = render(signature, [], {"topic": "rain"})[-1]["content"]
    assert 'Note: <JSON, as {"title": text, "text": text}>' in prompt
    assert "$defs" not in prompt
    assert "properties" not in prompt
    for copied in ('Note: {"title": text, "text": text}', 'Note: <JSON, as {"title": text, "text": text}>'):
        assert read(signature, copied).missing == ("note",)
        answered = read(signature, f'{copied}\nNote: {{"title": "Rain", "text": "It rains."}}')
        assert answered.outputs["note"] == Note(title="Rain", text="It rains.")
