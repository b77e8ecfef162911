"""A search ends well with every kind of argument that it takes: what cannot work is said before anything is paid."""

from __future__ import annotations

import json
import re
import uuid
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel

from pdr_dspy.artifact import load
from pdr_dspy.errors import ArtifactError, ConfigError
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from pdr_dspy.search import PDROptimizer, Space
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.verifiers.function import as_verifier, try_on_gold
from tests.verifiers.test_function import METRICS

SMALL = Space(rounds=(1, 2), widths=(1, 2), kappa=(200,), distiller=("random_k", "summary"), k=(1,), draft_tokens=(60,))
FEW: dict[str, Any] = {"trials": 4, "finalists": 1, "finalist_repeats": 1, "confirm_repeats": 1, "cohort": 4}


class Point(BaseModel):
    x: int


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def compiled(student: dspy.Module, metric: Any, rows: list[dspy.Example], reply: Any, run_dir: Path | None) -> Any:
    optimizer = PDROptimizer(metric, space=SMALL, run_dir=run_dir, **FEW)
    with dspy.context(lm=scripted_lm(reply)):
        program = optimizer.compile(student, trainset=rows[:4], valset=rows[4:])
    assert optimizer.result is not None
    assert 0 <= program.score <= 1  # type: ignore[attr-defined]
    return program


def sums(count: int = 6) -> list[dspy.Example]:
    return [dspy.Example(id=f"q{n}", question=f"q{n}", answer=str(n % 2)).with_inputs("question") for n in range(count)]


def guess(request: ScriptedRequest) -> str:
    return f"Some steps.\nAnswer: {request.seed % 2}"


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_with_every_kind_of_metric(name: str, tmp_path: Path) -> None:
    student = LongCoT("question -> answer", draft_tokens=60, kappa=200)
    compiled(student, METRICS[name], sums(), guess, tmp_path)
    facts = json.loads((tmp_path / "search.json").read_text())
    assert len(facts["trials"]) == 4
    loaded: Any = load(tmp_path / "best.json")
    assert loaded.artifact["verifier"] == json.loads(json.dumps(facts["config"]["verifier"]))


class Default(dspy.Signature):
    """Answer it."""

    question: str = dspy.InputField()
    tags: list[str] = dspy.InputField(default_factory=list)
    moment: str = dspy.InputField(default_factory=lambda: uuid.uuid4().hex)
    answer: str = dspy.OutputField()
    note: str = dspy.OutputField(default="none")


class Structured(dspy.Signature):
    """Answer it."""

    question: str = dspy.InputField()
    point: Point = dspy.OutputField()
    colour: Colour = dspy.OutputField()
    size: Literal["small", "large"] | None = dspy.OutputField()
    score: float = dspy.OutputField(ge=0, le=1)


class Shown(dspy.Signature):
    """Look at it."""

    picture: dspy.Image | None = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


Python: Any = dspy.Code["python"]  # type: ignore[index]


class Talk(dspy.Signature):
    """Answer it."""

    history: dspy.History = dspy.InputField()
    question: str = dspy.InputField()
    code: Python = dspy.OutputField()  # type: ignore[valid-type]


REPLIES = {
    Default: "Some steps.\nAnswer: 1",
    Structured: 'Some steps.\nPoint: {"x": 1}\nColour: red\nSize: none\nScore: 0.5',
    Shown: "Some steps.\nAnswer: 1",
    Talk: "Some steps.\nCode:\n```python\nprint(1)\n```",
}


@pytest.mark.slow
@pytest.mark.parametrize("task", REPLIES, ids=lambda task: task.__name__)
@pytest.mark.parametrize("kept", [True, False], ids=["a folder", "in memory"])
def test_with_every_kind_of_signature(task: Any, kept: bool, tmp_path: Path) -> None:
    rows = [
        dspy.Example(id=f"q{n}", question=f"q{n}", answer="1", history=None, picture=None).with_inputs(
            "question", "history", "picture"
        )
        for n in range(6)
    ]
    student = PDR(task, widths=(2, 1), distiller="random_k", k=1, draft_tokens=60, kappa=200)
    folder = tmp_path if kept else None
    program = compiled(student, lambda _, made: made.stop == "done", rows, lambda _: REPLIES[task], folder)
    assert program.score == 1
    if kept:
        loaded: Any = load(tmp_path / "best.json", student)
        assert loaded.schedule == program.schedule
        json.loads((tmp_path / "search.json").read_text())


class InTurn(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = LongCoT("question -> answer", draft_tokens=60, kappa=200)
        self.other = dspy.Predict("question -> note")

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.first.acall(question=question)


@pytest.mark.slow
@pytest.mark.parametrize(
    "student",
    [
        LongCoT("question -> answer", draft_tokens=60),
        SR("question -> answer", rounds=2, critique=True, draft_tokens=60),
        PDR("question -> answer", widths=(2, 1), distiller="topk_per_sample", draft_tokens=60),
        InTurn(),
    ],
    ids=["LongCoT", "SR", "PDR", "module"],
)
def test_with_every_kind_of_student(student: dspy.Module, tmp_path: Path) -> None:
    def reply(request: ScriptedRequest) -> str:
        return "Selected: [1, 2]" if "Selected:" in request.user else guess(request)

    compiled(student, lambda example, prediction: example.answer == prediction.answer, sums(), reply, tmp_path)
    assert isinstance(load(tmp_path / "best.json", student), type(student))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda prediction: True, "cannot be called with an example and a prediction"),
        (lambda example, prediction: None, "returned None"),
        (lambda example, prediction: 50, "divide a percentage by 100"),
        ("exact", "must be a verifier"),
    ],
)
def test_a_metric_that_cannot_work_costs_nothing(metric: Any, message: str, tmp_path: Path) -> None:
    lm = scripted_lm(guess)
    with dspy.context(lm=lm), pytest.raises(ConfigError, match=re.escape(message)):
        PDROptimizer(metric, space=SMALL, run_dir=tmp_path, **FEW).compile(
            LongCoT("question -> answer"), trainset=sums(4), valset=sums()
        )
    assert lm.served.calls == 0


def test_a_metric_that_raises_on_gold_answers_says_so_before_it_costs(caplog: pytest.LogCaptureFixture) -> None:
    def metric(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return example.gold == prediction.answer

    example = dspy.Example(question="q", answer="1").with_inputs("question")
    try_on_gold(as_verifier(metric), example, ("answer",))
    assert "the metric `metric` raised AttributeError" in caplog.text
    caplog.clear()
    try_on_gold(as_verifier(lambda example, prediction: True), example, ("answer",))
    assert not caplog.text


def test_a_program_that_cannot_be_saved_costs_nothing(tmp_path: Path) -> None:
    student: Any = LongCoT("question, thing -> answer")
    student.draft.demos = [dspy.Example(question="q", thing=object(), answer="1")]
    lm = scripted_lm(guess)
    with dspy.context(lm=lm), pytest.raises(ArtifactError, match="holds a value that JSON cannot hold"):
        PDROptimizer(METRICS["bool"], space=SMALL, run_dir=tmp_path, **FEW).compile(student, trainset=sums())
    assert lm.served.calls == 0
