"""Values of pydantic's and Python's own types, as models write them: (type, completion, value); MISSING where it must
stay so."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import dspy
import pytest
from pydantic import BaseModel, ConfigDict, Field

from pdr_dspy.prompts import Role, check_task, derive, read

MISSING = object()
ID = UUID("12345678-1234-5678-1234-567812345678")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Count(enum.IntEnum):
    ONE = 1
    TWO = 2


class Mark(enum.StrEnum):
    A = "aa"
    B = "bb"


class Kind(enum.Enum):
    SMALL = enum.auto()
    LARGE = enum.auto()


class Point(BaseModel):
    x: int
    y: int = 0


class Person(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    first_name: str = Field(alias="firstName")
    age: int | None = None


class Trip(BaseModel):
    start: Point
    tags: list[str] = []
    when: date | None = None


class Held(BaseModel):
    n: int = Field(ge=1, le=10)
    s: str = Field(max_length=3, default="a")


class Tree(BaseModel):
    v: int
    children: list[Tree] = []


@dataclasses.dataclass
class Pair:
    x: int
    y: str = "a"


class Named(NamedTuple):
    x: int
    y: str


CASES: list[tuple[Any, str, Any]] = [
    (date, "Answer: 2024-03-01", date(2024, 3, 1)),
    (date, 'Answer: "2024-03-01"', date(2024, 3, 1)),
    (date, "Answer: **2024-03-01**", date(2024, 3, 1)),
    (date, "The answer is 2024-03-01.", date(2024, 3, 1)),
    (date, "Answer: 2024-03-01.", date(2024, 3, 1)),
    (date, "2024-03-01", date(2024, 3, 1)),
    (date, "Answer: 01/03/2024", MISSING),
    (date, "Answer: March 1, 2024", MISSING),
    (date, "Answer: 0", MISSING),
    (date, "Answer: 20240301", MISSING),
    (date, "Answer: 2024-02-30", MISSING),
    (datetime, "Answer: 2024-03-01T12:30:00", datetime(2024, 3, 1, 12, 30)),
    (datetime, "Answer: `2024-03-01 12:30`", datetime(2024, 3, 1, 12, 30)),
    (datetime, "Answer: 2024-03-01T12:30:00Z", datetime(2024, 3, 1, 12, 30, tzinfo=UTC)),
    (datetime, "Answer: 5", MISSING),
    (datetime, "Answer: 1700000000", MISSING),
    (time, "Answer: **12:30**", time(12, 30)),
    (timedelta, "Answer: PT1H", timedelta(hours=1)),
    (timedelta, "Answer: 5", MISSING),
    (list[date], "Answer: 2024-03-01, 2024-03-02", [date(2024, 3, 1), date(2024, 3, 2)]),
    (Decimal, "Answer: 1.50", Decimal("1.50")),
    (Decimal, "Answer: $1.50", Decimal("1.5")),
    (Decimal, "Answer: **1.50**", Decimal("1.50")),
    (Decimal, "Answer: 1,234.5", Decimal("1234.5")),
    (Decimal, '{"answer": 0.1}', Decimal("0.1")),
    (Decimal, "1.50", Decimal("1.50")),
    (Decimal, "Answer: NaN", MISSING),
    (Decimal, "Answer: 1/3", MISSING),
    (Decimal, "Answer: ten", Decimal(10)),
    (UUID, "Answer: 12345678-1234-5678-1234-567812345678", ID),
    (UUID, "Answer: `12345678-1234-5678-1234-567812345678`", ID),
    (UUID, "Answer: 12345678-1234-5678-1234-56781234567", MISSING),
    (Colour, "Answer: RED", Colour.RED),
    (Colour, "Answer: Colour.RED", Colour.RED),
    (Colour, "Answer: not red", MISSING),
    (Colour, '{"answer": "blue"}', Colour.BLUE),
    (Count, "Answer: 1", Count.ONE),
    (Count, "Answer: ONE", Count.ONE),
    (Count, "Answer: 3", MISSING),
    (Mark, "Answer: aa", Mark.A),
    (Mark, "Answer: A", Mark.A),
    (Kind, "Answer: SMALL", Kind.SMALL),
    (Kind, "Answer: small", Kind.SMALL),
    (Kind, "Answer: neither", MISSING),
    (list[Colour], "Answer: red, blue", [Colour.RED, Colour.BLUE]),
    (Colour | None, "Answer: None", None),
    (Point, "Answer: {x: 1, y: 2}", Point(x=1, y=2)),
    (Point, "Answer: {'x': 1}", Point(x=1)),
    (Point, '{"x": 1} is wrong\n{"x": 2}', Point(x=2)),
    (Point, 'Answer: {"x": 1.5}', MISSING),
    (Point, 'Answer: {"y": 1}', MISSING),
    (Point, "<answer><x>1</x><y>2</y></answer>", Point(x=1, y=2)),
    (Person, 'Answer: {"firstName": "A"}', Person(firstName="A")),
    (Person, 'Answer: {"first_name": "A"}', Person(firstName="A")),
    (Trip, '{"start": {"x": 1}, "when": "2024-01-01"}', Trip(start=Point(x=1), when=date(2024, 1, 1))),
    (Held, 'Answer: {"n": 11}', MISSING),
    (Held, 'Answer: {"n": 1, "s": "abcd"}', MISSING),
    (Tree, 'Answer: {"v": 1, "children": [{"v": 2}]}', Tree(v=1, children=[Tree(v=2)])),
    (list[Point], 'Answer:\n- {"x": 1}\n- {"x": 2}', [Point(x=1), Point(x=2)]),
    (list[Point], 'Answer: [{"x": 1}, {"x": 2}', MISSING),
    (dict[str, Point], 'Answer: {"a": {"x": 1}}', {"a": Point(x=1)}),
    (Point | None, "Answer: None", None),
    (Pair, '{"x": 1}', Pair(1)),
    (Named, 'Answer: [1, "b"]', Named(1, "b")),
    (int | float, "Answer: 5.0", 5.0),
    (int | str, "Answer: 5", 5),
    (Literal["auto"] | int, "Answer: auto", "auto"),
    (Literal["auto"] | int, "Answer: 3", 3),
    (Annotated[int, Field(ge=0)], "Answer: -1", MISSING),
    (list[Annotated[int, Field(ge=0)]], "Answer: 1, -1", MISSING),
]
CALLS = [
    'Answer: {"tool_calls": [{"name": "f", "args": {"a": 1}}]}',
    'Answer: [{"name": "f", "args": {"a": 1}}]',
    '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    'I call it.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>',
]


def said(kind: Any, text: str) -> Any:
    fields = {"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())}
    task = derive(check_task(dspy.Signature(fields, "Answer.")), Role.DRAFT)  # type: ignore[call-overload]
    return read(task, text).outputs.get("answer", MISSING)


@pytest.mark.parametrize(("kind", "text", "value"), CASES)
def test_values_of_types(kind: Any, text: str, value: Any) -> None:
    found = said(kind, text)
    assert found is value if value is MISSING else (found == value and type(found) is type(value))


@pytest.mark.parametrize("text", CALLS)
def test_tool_calls(text: str) -> None:
    calls = said(dspy.ToolCalls, text)
    assert [(call.name, call.args) for call in calls.tool_calls] == [("f", {"a": 1})]


def test_a_call_that_cannot_be_read_is_none() -> None:
    assert said(dspy.ToolCalls, '<tool_call>{"name": "f", "arguments": {</tool_call>') is MISSING
