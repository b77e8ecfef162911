"""Two programs are one where they would do the same."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from pdr_dspy.evaluation.fingerprint import fingerprint
from pdr_dspy.verifiers.checks import SchemaCheck

QA = "question -> answer"


class Voting(dspy.Module):
    """A program of somebody's own whose settings are plain attributes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        for name, value in settings.items():
            setattr(self, name, value)


def reward(args: dict[str, Any], pred: dspy.Prediction) -> float:
    return 1.0


def another_reward(args: dict[str, Any], pred: dspy.Prediction) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"n": 8}, {"n": 64}),
        ({"n": 8}, {}),
        ({"words": ["a", "b"]}, {"words": ["b", "a"]}),
        ({"limits": {"tokens": 5}}, {"limits": {"tokens": 6}}),
        ({"reward_fn": reward}, {"reward_fn": another_reward}),
        ({"check": SchemaCheck({"answer": int})}, {"check": SchemaCheck({"answer": float})}),
    ],
)
def test_programs_that_differ_in_a_plain_attribute_are_two(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert fingerprint(Voting(**one)) == fingerprint(Voting(**one))
    assert fingerprint(Voting(**one)) != fingerprint(Voting(**other))


def test_what_a_program_remembers_is_no_part_of_it() -> None:
    program: Any = Voting(n=8)
    before = fingerprint(program)
    program.history.append({"messages": []})
    for name, value in {"_count": 3, "tool": object()}.items():
        setattr(program, name, value)
    assert fingerprint(program) == before


def test_a_refining_module_of_dspy_is_known_by_its_settings() -> None:
    made = [dspy.BestOfN(dspy.Predict(QA), N=n, reward_fn=reward, threshold=1.0) for n in (8, 8, 64)]
    first, again, other = map(fingerprint, made)
    assert first == again != other
