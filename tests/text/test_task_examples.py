"""Examples in tasks."""

# ruff: noqa: E501  (a table of examples)

from __future__ import annotations

import ast

import pytest

from pdr_dspy.text.task_examples import code_examples


def doc(text: str, head: str = "def f(x, y=1):") -> str:
    return f'{head}\n    """{text}\n    """\n'


EXAMPLES: list[tuple[str, list[tuple[str, str | None]]]] = [
    (">>> f(1)\n    2", [("f(1)", "2")]),
    ("\n    >>> f(1)\n    2\n    >>> f([\n    ...   1])\n    [2,\n     3]\n\n    Text.", [("f(1)", "2"), ("f([\n  1])", "[2,\n 3]")]),
    (">>> x = [1]\n    >>> f(x)\n    2", [("x = [1]", None), ("f(x)", "2")]),
    (">>> f(1)", []),
    (">>> f(1)  # doctest: +SKIP\n    2", []),
    ("f(1) ➞ 2\n    f(2) ➞ 3", [("f(1)", "2"), ("f(2)", "3")]),
    ("f(1) => 2", [("f(1)", "2")]),
    ("f(1) ==> [2, 3]", [("f(1)", "[2, 3]")]),
    ("f(1)==>True", [("f(1)", "True")]),
    ("f(1) -> 'a'", [("f(1)", "'a'")]),
    ("f(1) --> 2", [("f(1)", "2")]),
    ("f(1) → 2", [("f(1)", "2")]),
    ("f(1) == (1, 2)", [("f(1)", "(1, 2)")]),
    ("f(1) = 2", [("f(1)", "2")]),
    ("f(1) returns 2", [("f(1)", "2")]),
    ("f(1) should return 2.", [("f(1)", "2")]),
    ("f(1) # returns \"2\"", [("f(1)", '"2"')]),
    ("f(1) # => 'Yes'", [("f(1)", "'Yes'")]),
    ("f(1) # => 'No' (the name should start with a letter)", [("f(1)", "'No'")]),
    ("f(1) evaluates to 2", [("f(1)", "2")]),
    ("f(1) => true", [("f(1)", "True")]),
    ("f([1,\n     2], 3) == 2", [("f([1,      2], 3)", "2")]),
    ("* f('a, (b') => 2", [("f('a, (b')", "2")]),
    ("for f(7) == 34", [("f(7)", "34")]),
    ("f(1) == 2 # a remark = 3", [("f(1)", "2")]),
    ("For x = 3, y = 4 the output should be 7.", [("f(x = 3, y = 4)", "7")]),
    ("For x = 'a', y = 'b' the result should be ('a', True)", [("f(x = 'a', y = 'b')", "('a', True)")]),
    ("Input: x = [1], y = 3\n    Output: [2]", [("f(x = [1], y = 3)", "[2]")]),
    ("assert f(1) == 2", [("assert f(1) == 2", "")]),
    # not certain
    ("f(1) = 2\n    f(2) = [3]", []),
    ("f(a) => 2", []),
    ("f(1) => 1 + 2 = 3", []),
    ("f(1) => the sum", []),
    ("f(1) => ('Venus')", []),
    ("g(1) => 2", []),
    ("f(1) + f(2) == 3", []),
    ("For n = 3 the output should be 7", []),
    ("For x = 3, the sum of digits will be 1 the output should be 7", []),
    ("Input: [1], 2\n    Output: [2]", []),
    ("f(n) = 1 + n / 2", []),
    ("f(1) returns", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), EXAMPLES, ids=[text for text, _ in EXAMPLES])
def test_examples_that_are_certain(text: str, expected: list[tuple[str, str | None]]) -> None:
    assert [(example.source, example.want) for example in code_examples(doc(text), "f")] == expected


def test_a_single_parameter_takes_an_input_without_a_name() -> None:
    text = doc("Input: [4,2,3]\n    Output: [2, 1]", "def f(xs):")
    assert [(example.source, example.want) for example in code_examples(text, "f")] == [("f([4,2,3])", "[2, 1]")]


def test_helpers_have_examples_of_their_own() -> None:
    text = doc(">>> g(1)\n    1", "def g(x):") + "    return x\n\n\n" + doc(">>> f(1)\n    2")
    assert [example.source for example in code_examples(text, "f")] == ["f(1)"]


def test_escapes_that_break_an_example_are_read_as_they_stand() -> None:
    text = 'def f(x):\n    """\n    >>> f("a\\nb")\n    \'ab\'\n    """\n'
    (example,) = code_examples(text, "f")
    assert ast.parse(example.source)


def test_a_task_in_prose_has_assertions() -> None:
    text = "Write a function.\nIt has to pass this test:\nassert f((1, 2)) == {1: 2}"
    assert [example.source for example in code_examples(text)] == ["assert f((1, 2)) == {1: 2}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["```" * 50_000, "`" * 100_000, "def f(" * 20_000, "(" * 100_000, "\n" * 100_000, "'''" * 30_000]
)
def test_hostile_tasks_are_read_in_no_time(text: str) -> None:
    assert isinstance(code_examples(text, "f"), tuple)
