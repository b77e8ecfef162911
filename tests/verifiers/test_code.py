"""Programs are graded by tests of every form, and written in every order; what tests nothing is no verdict."""

# ruff: noqa: E501  (tables of programs)

from __future__ import annotations

import os
from typing import Any

import dspy
import pytest

from pdr_dspy.errors import DataError
from pdr_dspy.verifiers import CodeVerifier
from pdr_dspy.verifiers.checks import CodeCheck
from pdr_dspy.verifiers.sandbox import Limits, bubblewrap

WHY = bubblewrap.missing()
isolated = pytest.mark.skipif(WHY is not None and not os.environ.get("CI"), reason=f"cannot isolate: {WHY}")
DOUBLE = "def double(n):\n    return 2 * n"
CHECK = "def check(candidate):\n    assert candidate(2) == 4"
TEXTS: dict[str, Any] = {
    "an import first": "import math\nassert double(2) == 4",
    "a name first": "r = double(2)\nassert r == 4",
    "a loop": "for n in (2, 5):\n    assert double(n) == 2 * n",
    "a condition": "if double(2) != 4:\n    raise AssertionError('wrong')",
    "a comment first": "# the tests\nassert double(2) == 4",
    "a docstring first": '"""The tests."""\nassert double(2) == 4',
    "several lines": "assert double(\n    2\n) == 4",
    "its own helper": "def same(a, b):\n    return a == b\n\nassert same(double(2), 4)",
    "a check": CHECK,
    "a check of another name": "METADATA = {}\n\n\ndef check(f):\n    assert f(2) == 4",
    "a check that calls a helper": "def near(a, b):\n    return a == b\n\ndef check(candidate):\n    assert near(candidate(2), 4)",
    "a check that calls a helper of the task": "def check(candidate):\n    assert half(candidate(2)) == 2",
    "a check that is called": f"{CHECK}\n\ncheck(double)",
    "the candidate itself": "assert candidate(2) == 4",
    "a test function": "def test_it():\n    assert double(2) == 4",
    "a list in Python's notation": "['assert double(2) == 4']",
    "a list": ["n = 2", "assert double(n) == 4"],
    "a list of a statement that prepares, and an assertion": ["r = double(2)", "assert r == 4"],
}
BEGINNINGS = {
    "code": 'def half(n):\n    return n // 2\n\n\ndef double(n):\n    """Doubles."""\n',
    "a quoted beginning": "Write `def double(n)`, which doubles.",
}


@pytest.mark.slow
@isolated
@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("form", TEXTS)
def test_tests_of_every_form_grade_right_and_wrong_programs(form: str, beginning: str) -> None:
    if "of the task" in form and beginning != "code":
        pytest.skip("this task has no helper")
    task = {"prompt": BEGINNINGS[beginning], "test": TEXTS[form]}
    verifier, check = CodeVerifier(), CodeCheck(tests="test")
    verifier.check_gold(dspy.Example(**task))
    for program, value in ((DOUBLE, 1), (DOUBLE.replace("2", "3"), 0)):
        assert verifier(dspy.Example(**task), dspy.Prediction(code=program)) == value
        assert check.check(task, {"code": program}) == value


@pytest.mark.slow
@isolated
@pytest.mark.parametrize("make", [str, lambda code: dspy.Code(code=code)])
@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("TWO = 2\n\ndef double(n):\n    return TWO * n", 1),
        ("```python\nTWO = 2\n\ndef double(n):\n    return TWO * n\n```", 1),
        ("if True:\n    TWO = 2\ndef double(n):\n    return TWO * n", 1),
        (f"raise SystemExit(3)\n{DOUBLE}", 0),
        (f"while True: pass\n{DOUBLE}", 0),
    ],
)
def test_statements_before_the_function_decide(code: str, value: int, make: Any) -> None:
    task = {"prompt": "Write `def double(n)`.", "test": CHECK}
    limits = Limits(seconds=0.5)
    assert CodeVerifier(limits=limits)(dspy.Example(**task), dspy.Prediction(code=make(code))) == value
    assert CodeCheck(tests="test", limits=limits).check(task, {"code": make(code)}) == value


@pytest.mark.slow
@isolated
@pytest.mark.parametrize(("first", "value"), [("TWO = 2", 1), ("while True: pass", 0)])
def test_a_script_may_begin_with_any_statement(first: str, value: int) -> None:
    tests = [{"input": "3\n", "output": "6"}]
    code = f"{first}\nimport sys\nprint(int(sys.stdin.read()) * TWO)"
    check = CodeCheck(tests="test", limits=Limits(seconds=0.5))
    assert check.check({"prompt": "Double it.", "test": tests}, {"code": code}) == value


@pytest.mark.slow
@isolated
def test_a_method_that_the_task_begins() -> None:
    task = {"prompt": "class Solution:\n    def double(self, n):\n", "test": CHECK}
    program = "class Solution:\n    def double(self, n):\n        return 2 * n"
    assert CodeCheck(tests="test").check(task, {"code": program}) == 1
    assert CodeCheck(tests="test").check(task, {"code": program.replace("2", "3")}) == 0


@pytest.mark.slow
@isolated
def test_statements_that_prepare_are_not_counted() -> None:
    task = {"prompt": "", "test": ["n = 2", "assert double(n) == 4", "assert double(n) == 6"]}
    assert CodeCheck(tests="test").check(task, {"code": DOUBLE}) == 0.5


@pytest.mark.parametrize("test", [CHECK, "assert candidate(2) == 4"])
def test_a_candidate_without_a_name_is_no_verdict(test: str) -> None:
    task = {"prompt": "Double a number.", "test": test}
    with pytest.raises(DataError, match=r"'test' name no function.*'entry_point'"):
        CodeVerifier().check_gold(dspy.Example(**task))
    with pytest.raises(DataError, match=r"'test' name no function.*CodeCheck\(entry_point"):
        CodeCheck(tests="test").check(task, {"code": DOUBLE})


@pytest.mark.parametrize(
    "test",
    [
        '{"input": "2", "output": "4"}',
        {"input": "2", "output": "4"},
        "{'a': 1}",
        "5",
        '"text"',
        "null",
        "# nothing",
        " ",
    ],
)
def test_a_text_that_tests_nothing_is_refused(test: Any) -> None:
    with pytest.raises(DataError, match=r"'test' cannot be read.*write Python statements"):
        CodeVerifier().check_gold(dspy.Example(prompt="", test=test))
    with pytest.raises(DataError, match=r"'test' cannot be read.*write Python statements"):
        CodeCheck(tests="test").check({"prompt": "", "test": test}, {"code": DOUBLE})
