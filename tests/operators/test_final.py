"""Which draft is the answer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from pdr_dspy.operators.final import across, best, medoid, plurality, weighted
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.workspace import Checked, Draft

FIELDS = ("answer",)


def drafts(*said: tuple[str, float | None]) -> list[Draft]:
    return [
        Draft(round=1, index=index, solution=answer, outputs={"answer": answer}, check=Checked(value=score))
        for index, (answer, score) in enumerate(said)
    ]


def picks(there: Sequence[Draft]) -> tuple[int, int, int]:
    return tuple(pick(there, FIELDS).index for pick in (plurality, weighted, best))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("said", "plural", "weight", "checked"),
    [
        ([("a", 0.1), ("b", 0.9), ("a", 0.2)], 0, 1, 1),
        ([("a", 0.5), ("b", 0.9), ("a", 0.6)], 0, 2, 1),  # 1.1 against 0.9; of the winning answer the best-checked
        ([("a", None), ("b", None), ("b", None)], 1, 1, 1),  # nothing could be checked: the plurality
        ([("a", 0.0), ("b", 0.0), ("b", 0.0)], 1, 1, 1),
        ([("a", 1.0), ("b", 1.0), ("b", 1.0)], 1, 1, 1),  # equally high: the most common answer
        ([("a", None), ("b", 0.0)], 0, 0, 1),  # a check that failed is below one that says no
        ([("A", 0.4), ("a", 0.4), ("b", 0.7)], 0, 0, 2),  # case does not make another answer
    ],
)
def test_picks(said: list[tuple[str, float | None]], plural: int, weight: int, checked: int) -> None:
    assert picks(drafts(*said)) == (plural, weight, checked)


def said(*answers: object) -> list[Draft]:
    return [
        Draft(round=1, index=index, solution=str(answer), outputs={"answer": answer})
        for index, answer in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("answers", "index"),
    [
        # no two are equal, two are alike
        (["def f(x):\n    return 2 * x", "print('hello')", "def f(x):\n    return x * 2", "import os"], 0),
        # one word each: the plurality, wherever it stands
        (["41", "42", "43", "42"], 1),
        (["b", "a", "A", "a"], 1),
        # an outlier that repeats itself loses to three that nearly agree
        (["the cat sat on the mat", "no", "the cat sat on a mat", "no", "the cat sat on the red mat"], 0),
        # nothing in common: the first
        (["a", "b", "c"], 0),
        (["only"], 0),
        # signs without spaces are compared one by one
        (["答案是猫", "完全不同的文字", "答案是狗"], 0),
        # values other than text
        ([{"x": 1, "y": [1, 2, 3]}, {"x": 9}, {"x": 1, "y": [1, 2, 4]}], 0),
        ([7, 8, 8, 9], 1),
    ],
)
def test_the_medoid_is_most_like_the_others(answers: list[object], index: int) -> None:
    assert medoid(said(*answers), FIELDS).index == index


def test_the_medoid_does_not_depend_on_the_order_but_for_ties() -> None:
    answers = ["a b c d", "a b c e", "a b x y", "q r s t"]
    texts = {str(medoid(said(*order), FIELDS).outputs["answer"]) for order in itertools.permutations(answers)}
    assert texts <= {"a b c d", "a b c e"}  # as alike to the others, so that the first of both is taken


def test_the_medoid_reads_all_fields() -> None:
    drafts = [
        Draft(round=1, index=index, solution="", outputs={"title": title, "answer": answer})
        for index, (title, answer) in enumerate([("x", "one two"), ("the end", "one two"), ("the end", "three")])
    ]
    assert medoid(drafts, ("title", "answer")).index == 1


def test_the_plurality_takes_the_first_of_equals_and_ignores_case() -> None:
    made = [
        Draft(round=1, index=n, outputs={"answer": answer}) for n, answer in enumerate(["b", "Paris", "a", "PARIS"])
    ]
    assert plurality(made, ["answer"]).index == 1
    assert plurality(made[::2], ["answer"]).index == 0


WIDE = Schedule(widths=(3,), final="vote")
KEEPS = Schedule(widths=(2, 2), distiller="random_k", k=1, final="best", keep=True, check="tests")


@pytest.mark.parametrize(
    ("schedule", "rounds", "answer"),
    [
        (WIDE, [[("a", None), ("b", None), ("b", None)]], "b"),
        (WIDE, [[("a", None)], [("b", None)]], "b"),  # the latest round
        (WIDE, [[("a", None)], []], "a"),  # the latest one with an answer
        (KEEPS, [[("a", 0.8)], [("b", 0.3), ("c", 0.5)]], "a"),
        (KEEPS, [[("a", 0.5)], [("b", 0.3), ("c", 0.5)]], "c"),  # no worse: it has seen more
        (KEEPS, [[("a", None)], [("b", None)]], "b"),
        (KEEPS.replace(keep=False), [[("a", 0.8)], [("b", 0.3), ("c", 0.5)]], "c"),
        # a draft that passes is the answer, however many others agree
        (WIDE.replace(check="tests", stop_at=0.5), [[("a", 0.4), ("a", 0.4), ("b", 0.5)]], "b"),
        (WIDE.replace(check="tests", stop_at=0.5), [[("a", 0.4), ("a", 0.4), ("b", None)]], "a"),
        (WIDE.replace(check="tests", stop_at=0.5), [[("a", 0.6), ("b", 0.9), ("c", 0.9)]], "b"),
    ],
)
def test_the_answer_of_several_rounds(
    schedule: Schedule, rounds: list[list[tuple[str, float | None]]], answer: str
) -> None:
    assert across([drafts(*said) for said in rounds], FIELDS, schedule).outputs["answer"] == answer
