"""Answers with their right verdicts, as data: tests/cases/{math,number,choice,exact}.jsonl."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.errors import DataError
from pdr_dspy.text.answers import to_number
from pdr_dspy.text.choices import to_choice
from pdr_dspy.verifiers import ChoiceVerifier, ExactVerifier, MathVerifier, NumberVerifier, Score, Verifier

CASES = Path(__file__).parents[1] / "cases"


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def grade(verifier: Verifier, gold: object, answer: object) -> Score:
    return verifier(dspy.Example(answer=gold), dspy.Prediction(answer=answer))


def failures(verifier: Verifier, rows: list[dict[str, Any]]) -> list[str]:
    found = []
    for row in rows:
        score = grade(verifier, row["gold"], row["answer"])
        if score != row["right"] or not score.detail:
            found.append(f"{row['kind']}: {row['gold']} / {row['answer']} scores {score!r}")
    return found


MATH = cases("math")


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({row["kind"] for row in MATH}))
def test_mathematics(kind: str) -> None:
    rows = [row for row in MATH if row["kind"] == kind]
    assert not (found := failures(MathVerifier(timeout=20), rows)), "\n".join(found)


@pytest.mark.slow
def test_every_gold_answer_can_be_graded_against() -> None:
    verifier = MathVerifier(timeout=20)
    for gold in dict.fromkeys(row["gold"] for row in MATH):
        verifier.check_gold(dspy.Example(answer=gold))


TEXTS = ["\\text{down }5", "\\text{quarter past }6", "\\text{deposit }\\$20", "f \\circ g \\to h", "\\nabla f"]
"""Gold answers that are no mathematics of the grammar."""


@pytest.mark.slow
@pytest.mark.parametrize("gold", TEXTS)
def test_a_gold_answer_that_is_no_mathematics_is_compared_as_text(gold: str) -> None:
    verifier = MathVerifier(timeout=20)
    verifier.check_gold(dspy.Example(answer=gold))
    assert grade(verifier, gold, gold.replace("text", "textbf")) == 1
    for other in (*TEXTS, "5", "6", "20", "up 5", "not " + gold, gold + " or 6"):
        assert other == gold or grade(verifier, gold, other) == 0, other


@pytest.mark.slow
@pytest.mark.parametrize(
    "gold", ["\\frac{1}{", "(1, 2", "\\frac{1}{0}", "1/2x", "2^{3^", "9^{9^{9^9}}", "a proof " * 40, "129_8", "\\text{"]
)
def test_a_gold_answer_that_is_incomplete_or_has_no_one_value_is_refused(gold: str) -> None:
    with pytest.raises(DataError, match="cannot read"):
        MathVerifier(timeout=20).check_gold(dspy.Example(answer=gold))


ANSWERS = ["5", "up", "\\text{down }5", "x = 3 \\text{ or } 4", "(C) 12", "3 hours 20 minutes", "C(10,3)", "\\frac{1}{"]


@pytest.mark.slow
def test_a_gold_answer_that_passes_its_check_never_raises_later() -> None:
    verifier = MathVerifier(timeout=20)
    golds = {str(row[key]) for name in ("math", "number", "exact") for row in cases(name) for key in ("gold", "answer")
             if row.get(key)}  # fmt: skip
    for place, gold in enumerate(sorted(golds)):
        try:
            verifier.check_gold(dspy.Example(answer=gold))
        except DataError:
            continue
        for answer in (gold, ANSWERS[place % len(ANSWERS)], f"not {gold}"):
            assert grade(verifier, gold, answer).detail


@pytest.mark.slow
def test_a_right_answer_is_right_whichever_side_it_stands_on() -> None:
    """Of two equal forms either may be the gold answer, save where one says less: a name, a base, a unit."""
    verifier = MathVerifier(timeout=20)
    kinds = ("intervals", "sets", "families", "cases", "matrices", "tuples", "large and close")
    rows = [row for row in MATH if row["kind"] in kinds and row["right"]]
    turned = [{**row, "gold": row["answer"], "answer": row["gold"]} for row in rows]
    assert not (found := failures(verifier, turned)), "\n".join(found)


def test_numbers() -> None:
    rows = cases("number")
    found = failures(NumberVerifier(), [row for row in rows if "gold" in row])
    for row in rows:
        if "names" in row:
            right = None if row["names"] is None else Fraction(row["names"])
            named = to_number(row["answer"])
            if named != right:
                found.append(f"{row['kind']}: {row['answer']} names {named}, not {right}")
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_what_names_no_number_is_no_answer_to_a_number() -> None:
    """Neither verifier takes the digits in it for the answer."""
    for verifier in (NumberVerifier(), MathVerifier(timeout=20)):
        for row in cases("number"):
            digits = "".join(sign for sign in row["answer"] if sign.isascii() and sign.isdigit())
            if row.get("names", "") is None and digits and not row["answer"].startswith(("-(-", "x \\in \\{", "x ∈ {")):
                score = grade(verifier, digits, row["answer"])
                assert score == 0, (verifier, digits, row["answer"], score)
                assert score.detail


@pytest.mark.slow
def test_choices() -> None:
    found = []
    for row in cases("choice"):
        named = to_choice(row["text"], row["options"])
        if named != row["names"]:
            found.append(f"{row['kind']}: {row['text']} of {row['options']} names {named}, not {row['names']}")
        for option in row["options"]:
            score = grade(ChoiceVerifier(options=tuple(row["options"])), option, row["text"] or None)
            if score != (option == row["names"]):
                found.append(f"{row['kind']}: {option} / {row['text']} scores {score!r}")
    assert not found, "\n".join(found)


def test_texts() -> None:
    assert not (found := failures(ExactVerifier(), cases("exact"))), "\n".join(found)


@pytest.mark.parametrize("verifier", [NumberVerifier(), MathVerifier(timeout=20), ChoiceVerifier(), ExactVerifier()])
def test_what_is_no_answer_scores_nothing_and_says_so(verifier: Verifier) -> None:
    gold = "5" if not isinstance(verifier, ChoiceVerifier) else "B"
    for answer, reason in ((None, "no answer"), (" ", "no answer"), (float("nan"), "nan"), (10**5000, "digits")):
        score = grade(verifier, gold, answer)
        assert score == 0
        assert reason in score.detail


@pytest.mark.parametrize("verifier", [NumberVerifier(), MathVerifier(timeout=20), ChoiceVerifier(), ExactVerifier()])
@pytest.mark.parametrize(
    ("gold", "reason"), [(float("nan"), "gold answer nan"), (10**5000, "5,000 digits")], ids=["nan", "long"]
)
def test_what_is_no_gold_answer_is_named(verifier: Verifier, gold: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        verifier.check_gold(dspy.Example(answer=gold))
    with pytest.raises(DataError, match=reason):
        grade(verifier, gold, "5")


@pytest.mark.parametrize("verifier", [NumberVerifier(), MathVerifier(timeout=20)])
def test_a_gold_answer_may_stand_at_the_end_of_its_solution(verifier: Verifier) -> None:
    for gold in ("#### 2", "He has 1 + 1 = <<1+1=2>>2 left.\n#### 2", "Adding them, $1+1=\\boxed{2}$.", "Add.\n####2 "):
        verifier.check_gold(dspy.Example(answer=gold))
        assert grade(verifier, gold, "2") == 1
        assert grade(verifier, gold, "1") == 0


@pytest.mark.slow
def test_typed_fields_are_mathematics() -> None:
    verifier = MathVerifier(timeout=20)
    assert grade(verifier, "1, 2", [2, 1]) == 1
    assert grade(verifier, [1, 2], "2 and 1") == 1
    assert grade(verifier, "(1, 2)", (1, 2)) == 1
    assert grade(verifier, "(1, 2)", (2, 1)) == 0
    assert grade(verifier, r"\{1, 2\}", {1, 2}) == 1
    assert grade(verifier, "1 + 2i", 1 + 2j) == 1
    assert grade(verifier, "1, 2", [1, 3]) == 0
