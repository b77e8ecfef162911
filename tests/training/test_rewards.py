"""What a call earns."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from pdr_dspy.evaluation.runner import Runner
from pdr_dspy.operators.workspace import Draft, Workspace
from pdr_dspy.training.rewards import Grader, Verdict, workspace_reward
from pdr_dspy.verifiers import Score

FIELDS = ("answer",)


def drafts(*answers: Any) -> list[Draft]:
    return [Draft(round=1, index=place, outputs={"answer": answer}) for place, answer in enumerate(answers)]


def kept(text: str, answer: Any = "2", *, chosen: bool = False, sources: tuple[int, ...] = ()) -> float | None:
    workspace = Workspace(text=text, sources=sources)
    return workspace_reward(drafts(answer, "7"), [True, False], workspace, fields=FIELDS, chosen=chosen)


@pytest.mark.parametrize(
    ("text", "answer", "reward"),
    [
        ("It is 2.", "2", 1.0),
        ("It is 2", 2, 1.0),
        ("It is 22.", "2", -1.0),
        ("It is 1.2", "2", -1.0),
        ("It is 2.5", "2", -1.0),
        ("Candidate 2:\nIt is 7", "2", -1.0),
        ("Candidate 2 (unfinished):\nIt is 7", "2", -1.0),
        ("Answers of all attempts: 2 (1 of 2), 7 (1 of 2)\n\nIt is 7", "2", -1.0),
        ("The  LEFT\nhand", "left hand", 1.0),
        ("-3 is the answer", "-3", 1.0),
        ("", "2", -1.0),
    ],
)
def test_a_workspace_keeps_a_right_answer(text: str, answer: Any, reward: float) -> None:
    assert kept(text, answer) == reward


def test_a_choice_must_have_the_right_one_among_its_sources() -> None:
    assert kept("It is 2, not 7", chosen=True, sources=(0,)) == 1.0
    assert kept("It is 2, not 7", chosen=True, sources=(1,)) == -1.0


def test_nothing_to_keep_is_no_reward() -> None:
    found = workspace_reward(drafts("1", "7"), [False, False], Workspace(text="2"), fields=FIELDS, chosen=False)
    assert found is None


def test_each_answer_is_graded_once_and_no_answer_is_wrong() -> None:
    asked: list[Any] = []

    def verifier(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        asked.append(prediction.answer)
        return Score(float(prediction.answer == example.answer), "compared")

    runner = Runner(dspy.Predict("question -> answer"), verifier)  # type: ignore[arg-type]
    grader = Grader(runner, dspy.Example(answer="2"), FIELDS)

    async def all_of(*answers: Any) -> list[Verdict]:
        return [await grader.grade({} if answer is None else {"answer": answer}) for answer in answers]

    try:
        found = asyncio.run(all_of("2", "2", "3", None, "2"))
    finally:
        runner.close()
    assert [verdict.reward for verdict in found] == [1.0, 1.0, -1.0, -1.0, 1.0]
    assert [verdict.right for verdict in found] == [True, True, False, False, True]
    assert asked == ["2", "3"]
    assert grader.failures == 0
