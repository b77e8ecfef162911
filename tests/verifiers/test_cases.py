"""Answers with their right verdicts, as data: tests/cases/{math,number,choice}.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy.text.answers import to_choice, to_number
from pdr_dspy.verifiers import ExactVerifier, MathVerifier, NumberVerifier, Score

CASES = Path(__file__).parents[1] / "cases"


def cases(name: str) -> Iterator[dict[str, Any]]:
    for line in (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def grade(verifier: Any, gold: Any, answer: Any) -> Score:
    return verifier(dspy.Example(answer=gold), dspy.Prediction(answer=answer))


def test_math() -> None:
    verifier = MathVerifier(timeout=20)
    wrong = []
    for case in cases("math"):
        score = grade(verifier, case["gold"], case["answer"])
        if float(score) != case["right"]:
            wrong.append((case["kind"], case["gold"], case["answer"], case["right"], score.detail))
    assert not wrong, "\n".join(map(str, wrong))


def test_numbers() -> None:
    wrong = []
    for case in cases("number"):
        found, right = to_number(case["text"]), None if case["names"] is None else Fraction(case["names"])
        if found != right:
            wrong.append((case["text"], right, found))
    assert not wrong, "\n".join(map(str, wrong))


def test_what_names_no_number_is_no_answer_to_a_number() -> None:
    """Neither verifier takes the digits in it for the answer."""
    math = MathVerifier(timeout=20)
    for case in cases("number"):
        digits = "".join(sign for sign in case["text"] if sign.isascii() and sign.isdigit())
        if case["names"] is None and digits:
            for verifier in (NumberVerifier(), math):
                score = grade(verifier, digits, case["text"])
                assert score == 0, (verifier, digits, case["text"], score)
                assert score.detail


def test_choices() -> None:
    wrong = []
    for case in cases("choice"):
        found = to_choice(case["text"], case["options"])
        if found != case["names"]:
            wrong.append((case["text"], case["names"], found))
    assert not wrong, "\n".join(map(str, wrong))


def test_names_in_code_are_compared_as_they_are() -> None:
    verifier = ExactVerifier()
    for gold, answer, right in [
        ("__init__", "init", 0),
        ("__init__", "__init__", 1),
        ("__init__", "`__init__`", 1),
        ("_id", "id", 0),
        ("C", "C*", 0),
        ("C*", "C*", 1),
        ("Paris", "**Paris**", 1),
        ("Paris", "Paris.", 1),
        ("Paris", '"Paris"', 1),
        ("e.g.", "e.g.", 1),
        ("Roses are red,\nViolets are blue.", "Roses are red,\nViolets are blue.", 1),
        ("Roses are red,\nViolets are blue.", "Roses are red,", 0),
    ]:
        assert grade(verifier, gold, answer) == right, (gold, answer)
