"""Questions as the trainer's data set."""

from __future__ import annotations

from fractions import Fraction

import dspy
import pytest

from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.training.dataset import COLUMNS, example_json, example_of, mode_rows


def question(text: str = "1 + 1?", **fields: object) -> dspy.Example:
    return dspy.Example(question=text, answer="2", **fields).with_inputs("question")


def test_each_example_stands_once_for_every_mode() -> None:
    rows = mode_rows([question("a"), question("b")])
    assert [(row["mode"], row["prompt"]) for row in rows] == [
        ("trace", "a"),
        ("trace", "b"),
        ("operator", "a"),
        ("operator", "b"),
    ]
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [row["mode"] for row in mode_rows([question()], ["trace"])] == ["trace"]


def test_an_example_comes_back_as_it_was() -> None:
    example = question("ναί\n2", id="x", rg_entry={"answer": "2", "metadata": {"n": [1, 2.5, None]}})
    (row, _) = mode_rows([example])
    again = example_of(row)
    assert dict(again.items()) == dict(example.items())
    assert dict(again.inputs().items()) == {"question": "ναί\n2"}
    bare = example_of(example_json(dspy.Example(question="q", answer="a")))
    assert getattr(bare, "_input_keys", None) is None


def test_they_go_through_a_table() -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(mode_rows([question(id=1), question("b", id="two", extra=[1])]))
    assert [example_of(row)["id"] for row in table] == [1, "two", 1, "two"]


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(DataError, match="`half` of type Fraction"):
        mode_rows([question(half=Fraction(1, 2))])
    with pytest.raises(DataError, match="`pair` of type tuple"):
        mode_rows([question(pair=(1, 2))])


@pytest.mark.parametrize("modes", [[], ["both"], ["trace", "trace"]])
def test_modes_are_checked(modes: list[str]) -> None:
    with pytest.raises(ConfigError, match="trace, operator"):
        mode_rows([question()], modes)  # type: ignore[arg-type]


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        mode_rows([])


@pytest.mark.parametrize("row", ["", "{}", "[1]", {"prompt": "x"}, '{"fields": 3, "inputs": null}'])
def test_foreign_rows_are_refused(row: object) -> None:
    with pytest.raises(DataError, match="not a row of"):
        example_of(row)  # type: ignore[arg-type]
