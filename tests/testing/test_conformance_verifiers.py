"""The library's own verifiers keep the laws, and the kit catches verifiers that do not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import dspy
import pytest

from pdr_dspy import Score, verifier
from pdr_dspy.errors import ConfigError
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.testing.conformance import check_verifier
from pdr_dspy.verifiers import (
    VERIFIERS,
    ChoiceVerifier,
    ExactVerifier,
    Fields,
    JudgeVerifier,
    MathVerifier,
    NumberVerifier,
    answer_text,
    gold_text,
)


def example(**values: Any) -> dspy.Example:
    return dspy.Example(question="How many?", **values).with_inputs("question")


def says(answer: str) -> Callable[[dspy.Example], dspy.Prediction]:
    return lambda example: dspy.Prediction(answer=answer)


def yes_to_paris(request: ScriptedRequest) -> str:
    return "yes" if "<answer>\nParis\n</answer>" in request.user else "no"


JUDGE = scripted_lm(yes_to_paris)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "golds", "wrong", "lm"),
    [
        (ExactVerifier(ignore_case=True), ["Paris", "a b"], "Rome", None),
        (NumberVerifier(tolerance=0.5), ["42", "-1,000.5", "1/3"], "7", None),
        (ChoiceVerifier(), ["B", "(c)"], "A", None),
        (ChoiceVerifier(options=("yes", "no", "maybe")), ["maybe"], "no", None),
        (MathVerifier(), ["\\frac{1}{2}", "x^2 + 1"], "0", None),
        (JudgeVerifier(lm=JUDGE), ["Paris"], "Rome", JUDGE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_librarys_verifiers_pass_conformance(part: Any, golds: list[str], wrong: str, lm: dspy.LM | None) -> None:
    check_verifier(part, [example(answer=gold) for gold in golds], wrong=says(wrong), lm=lm)


@pytest.mark.slow
def test_the_procedural_verifier_keeps_them_on_an_item_of_its_own() -> None:
    from pdr_dspy import datasets
    from pdr_dspy.verifiers import ProceduralVerifier

    check_verifier(ProceduralVerifier(timeout=60), datasets.load("rg:basic_arithmetic", size=1), wrong=says("-7777"))


@pytest.fixture
def own() -> Iterator[None]:
    """A place for verifiers of a test's own."""
    yield
    VERIFIERS.remove("of-a-test")


@dataclass(frozen=True)
class Keen(Fields):
    """Keeps all the laws; those below each break one."""

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(answer_text(prediction, self.field) == gold_text(example, self.gold))

    def check_gold(self, example: dspy.Example) -> None:
        gold_text(example, self.gold)


class Raises(Keen):
    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(prediction.answer == example.answer)


class Lenient(Keen):
    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(1.0)


class Bare(Keen):
    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
        return float(super().__call__(example, prediction))


class Severe(Keen):
    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(0.0)


class Moody(Keen):
    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(random.random() / 2 if answer_text(prediction, self.field) is None else 1.0)


class Tidies(Keen):
    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        prediction.answer = f" {prediction.get('answer')}".strip()
        return super().__call__(example, prediction)


class Strict(Keen):
    def check_gold(self, example: dspy.Example) -> None:
        if "answer" not in example:
            raise KeyError("answer")


class Picky(Keen):
    def check_gold(self, example: dspy.Example) -> None:
        gold_text(example, "solution")


class Forgetful(Keen):
    def describe(self) -> dict[str, Any]:
        return {"kind": "of-a-test"}


class Unplain(Keen):
    def describe(self) -> dict[str, Any]:
        return {"kind": "of-a-test", "gold": object()}


@pytest.mark.parametrize(
    ("kind", "settings", "law"),
    [
        (Raises, {}, "it raised AttributeError"),
        (Lenient, {}, "is no answer, and scores"),
        (Bare, {}, "it returned float, not a `Score`"),
        (Severe, {}, "the gold answer must pass its own verifier"),
        (Moody, {}, r"scored 0\.\d+, then 0\.\d+"),
        (Tidies, {}, "it changed the example or the prediction"),
        (Strict, {}, "must raise DataError, got KeyError"),
        (Picky, {}, "`check_gold` refuses an example"),
        (Forgetful, {"gold": "reply"}, "it is not equal"),
        (Unplain, {}, r"`describe\(\)` is not JSON"),
    ],
)
def test_a_verifier_that_violates_a_rule_names_the_rule(
    own: None, kind: Any, settings: dict[str, Any], law: str
) -> None:
    named = verifier("of-a-test")(kind)
    with pytest.raises(AssertionError, match=f"(?s){law}"):
        check_verifier(named(**settings), [example(answer="2", reply="2")])


def test_a_verifier_that_keeps_them_passes_once_it_is_registered(own: None) -> None:
    with pytest.raises(AssertionError, match="Register it with"):
        check_verifier(Keen(), [example(answer="2")])
    registered = verifier("of-a-test")(type("Registered", (Keen,), {}))
    check_verifier(registered(), [example(answer="2")])
    assert registered().describe() == {"kind": "of-a-test", "gold": "answer", "field": "answer"}
    with pytest.raises(AssertionError, match="at least one example"):
        check_verifier(registered(), [])


def test_a_taken_name_of_a_verifier_is_refused() -> None:
    with pytest.raises(ConfigError, match="'number' is built in"):
        verifier("number")(Keen)
