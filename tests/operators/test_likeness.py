"""How alike two answers are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy.operators.likeness import Shingles, likeness, shingles

TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(["a", "b", "c"]), max_size=12).map(" ".join)


def of(text: object) -> Shingles:
    return shingles({"answer": text}, ["answer"])


@given(TEXTS, TEXTS)
def test_it_is_a_fraction_and_has_no_direction(first: str, second: str) -> None:
    value = likeness(of(first), of(second))
    assert 0.0 <= value <= 1.0
    assert value == likeness(of(second), of(first))
    assert likeness(of(first), of(first)) == 1.0


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ("a b", "a b", 1.0),
        ("A  b\n", "a b", 1.0),  # case and spaces do not count
        ("a b", "b a", 0.5),  # the same words, no common neighbours
        ("a b", "c d", 0.0),
        ("", "", 1.0),
        ("", "a", 0.5),  # neither has a pair
        ("a b c", "a b d", (2 / 3 + 1 / 2) / 2),
        (12, "12", 1.0),
    ],
)
def test_values(first: object, second: object, value: float) -> None:
    assert likeness(of(first), of(second)) == pytest.approx(value)
