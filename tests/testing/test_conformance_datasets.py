"""The library's data sets keep the laws as far as they can be had here, and the kit catches sets that do not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import dataset, datasets
from pdr_dspy.datasets import DATASETS
from pdr_dspy.errors import ConfigError
from pdr_dspy.testing.conformance import check_dataset
from pdr_dspy.verifiers import ExactVerifier, NumberVerifier


@pytest.fixture
def named() -> Iterator[str]:
    """A name for a set of a test's own, free again afterwards."""
    yield "of-a-test"
    DATASETS.remove("of-a-test")


def rows(start: int = 0, count: int = 6) -> list[dict[str, Any]]:
    return [{"question": f"What is {n} + 1?", "answer": str(n + 1), "id": n} for n in range(start, start + count)]


def test_a_procedural_set_and_a_file_pass_conformance(tmp_path: Path) -> None:
    check_dataset("rg:number_sequence", verifier=ExactVerifier())
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows()))
    loaded = datasets.load(path)
    assert len({example.id for example in loaded}) == 6


def test_a_set_of_somebodys_own_keeps_them(named: str) -> None:
    @dataset(named, verifier="number", splits=("train", "test"))
    def sums(split: str) -> list[dict[str, Any]]:
        """Sums. More is not to say."""
        return rows(0 if split == "train" else 50)

    check_dataset(sums)
    check_dataset(named, verifier=NumberVerifier())
    assert (sums.info.about, sums.info.split) == ("Sums", "test")
    assert [example.id for example in datasets.load(named, split="train", limit=2)] == [
        f"{named}/train/0",
        f"{named}/train/1",
    ]
    assert named in datasets.names()
    with pytest.raises(ConfigError, match="its splits are train, test"):
        datasets.load(named, split="dev")


def test_examples_of_any_fields_are_taken_as_they_are(named: str) -> None:
    @dataset(named, verifier="exact")
    def pairs(split: str) -> Iterator[dspy.Example]:
        for number in range(3):
            yield dspy.Example(left=number, right=1, answer=str(number + 1)).with_inputs("left", "right")

    check_dataset(named)
    assert set(datasets.load(named)[0].inputs().keys()) == {"left", "right"}


_COUNTER = itertools.count()


def _other_order(split: str) -> list[dict[str, Any]]:
    made = rows()
    return made[::-1] if next(_COUNTER) % 2 else made


@pytest.mark.parametrize(
    ("read", "settings", "law"),
    [
        (lambda split: [], {}, "has no rows|has no examples"),
        (lambda split: [{**row, "id": 1} for row in rows()], {}, "ids must be unique"),
        (lambda split: rows(), {"splits": ("a", "b")}, "the question is also in of-a-test, split a"),
        (_other_order, {}, "another order"),
        (lambda split: [{**row, "answer": "many"} for row in rows()], {}, "cannot grade against a gold answer"),
        (lambda split: rows(), {"verifier": "nobody"}, "its verifier 'nobody' cannot be made"),
        (lambda split: rows(), {"verifier": ""}, "it names no verifier"),
        (lambda split: [{**row, "weight": float("nan")} for row in rows()], {}, "is not JSON"),
        (lambda split: 1 / 0, {}, "ZeroDivisionError"),
        (lambda split: [dspy.Example(question="q", answer="1")], {}, "does not say which fields are inputs"),
        (
            lambda split: [dspy.Example(question="", answer="1").with_inputs("question")],
            {},
            "the input 'question' is empty",
        ),
    ],
)
def test_a_set_that_violates_a_rule_names_the_rule(named: str, read: Any, settings: dict[str, Any], law: str) -> None:
    dataset(named, **{"verifier": "number", **settings})(read)
    with pytest.raises(AssertionError, match=law):
        check_dataset(named)


def test_a_right_answer_that_the_verifier_rejects_is_reported(named: str) -> None:
    dataset(named, verifier="number")(lambda split: rows())
    with pytest.raises(AssertionError, match=r"scores the right answer of 'of-a-test/0' 0 \(7 is not 1\)"):
        check_dataset(named, right=lambda example: dspy.Prediction(answer="7"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"splits": ()}, "must be a tuple of names"),
        ({"splits": "test"}, "must be a tuple of names"),
        ({"split": "dev"}, "must be one of `splits="),
        ({"name": "sums.jsonl"}, "would be taken for a file"),
        ({"name": "hub:sums"}, "cannot be the name of a data set"),
        ({"name": "gsm8k"}, "'gsm8k' is built in"),
    ],
)
def test_a_registration_that_cannot_work_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataset(**{"name": "of-a-test", "verifier": "number", **settings})(lambda split: rows())
