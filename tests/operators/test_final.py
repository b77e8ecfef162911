"""Which draft is the answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pdr_dspy.operators.final import best, plurality, weighted
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
