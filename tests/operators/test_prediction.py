"""What a program returns: it prints short, is JSON data, and can be pickled with its program."""

from __future__ import annotations

import copy
import csv
import datetime
import io
import json
import pickle
from enum import Enum
from pathlib import Path
from typing import Any

import dspy
import pytest
from pydantic import BaseModel

from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.prompts.roles import Role
from pdr_dspy.serving.endpoint import EndpointLM, connect
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.verifiers import ExactVerifier


class Colour(Enum):
    RED = "red"


class Point(BaseModel):
    x: int
    when: datetime.date


class Rich(dspy.Signature):
    """Find it."""

    question: str = dspy.InputField()
    point: Point = dspy.OutputField()
    colour: Colour = dspy.OutputField()
    code: dspy.Code = dspy.OutputField()


RICH = 'Here.\nPoint: {"x": 1, "when": "2026-01-02"}\nColour: red\nCode:\n```python\nx = 1\n```'


def answer(_: ScriptedRequest) -> str:
    return "Step by step, at length. " * 40 + "\nAnswer: 42"


def test_it_prints_in_a_few_lines() -> None:
    with dspy.context(lm=scripted_lm(answer)):
        prediction = PDR("question -> answer: int", widths=(4, 2, 1), distiller="summary")(question="?")
    shown = str(prediction).splitlines()
    assert len(shown) == 7
    assert max(map(len, shown)) < 130
    assert shown[1] == "    answer=42,"
    assert "1,0" in shown[2]
    assert "characters)" in shown[2]
    assert "<Ledger: 9 calls, " in shown[3]
    assert shown[4] == "    rounds=<drafts by round: 4-2-1>,"
    assert shown[5] == "    stop='done',"
    assert len(str(prediction.ledger)) < 120
    assert len(prediction.ledger.calls) == 9, "the details are there for who asks"
    assert len(prediction.rounds[0].drafts) == 4


def test_a_ledger_says_what_is_odd_about_it() -> None:
    def reply(request: ScriptedRequest) -> str:
        if request.seed % 2:
            raise dspy.lm15.ServerError("gone")
        return "Answer: 1"

    with dspy.context(lm=scripted_lm(reply)):
        ledger = PDR("question -> answer", widths=(2, 1), distiller="random_k", k=1)(question="?").ledger
    assert str(ledger).endswith("total tokens, 1 failed, not exact>")


def test_it_is_json_data() -> None:
    with dspy.context(lm=scripted_lm(lambda _: RICH)):
        prediction = PDR(Rich, widths=(2, 1), distiller="random_k", k=1)(question="?")
    data = json.loads(json.dumps(prediction.toDict()))
    assert data["point"] == {"x": 1, "when": "2026-01-02"}
    assert (data["colour"], data["code"], data["stop"]) == ("red", "x = 1", "done")
    assert len(data["ledger"]["calls"]) == 3
    assert data["rounds"][0]["drafts"][0]["outputs"]["point"] == data["point"]
    assert isinstance(prediction.point, Point), "its values are what they were"


@pytest.mark.parametrize("task", ["question -> answer", Rich])
def test_dspys_evaluate_writes_its_files(task: Any, tmp_path: Path) -> None:
    devset = [dspy.Example(question=f"q{n}", answer="42", colour="red").with_inputs("question") for n in range(3)]
    metric = ExactVerifier(field="answer" if task != Rich else "code", gold="answer")
    reply = answer if task != Rich else lambda _: RICH
    with dspy.context(lm=scripted_lm(reply)):
        result = dspy.Evaluate(
            devset=devset,
            metric=metric,
            num_threads=2,
            save_as_json=str(tmp_path / "rows.json"),
            save_as_csv=str(tmp_path / "rows.csv"),
        )(LongCoT(task))
    assert result.score == (100 if task != Rich else 0)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["ExactVerifier"] for row in rows] == [result.score / 100] * 3
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text(), newline="")))) == 3


def test_copies_are_equal() -> None:
    with dspy.context(lm=scripted_lm(answer)):
        prediction = LongCoT("question -> answer")(question="?")
    for other in (copy.copy(prediction), copy.deepcopy(prediction), pickle.loads(pickle.dumps(prediction))):
        assert other == prediction
        assert other.toDict() == prediction.toDict()
        assert str(other) == str(prediction)


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_a_state_that_cannot_be_saved_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    program, path = PDR("question -> answer"), tmp_path / f"best{suffix}"
    program.save(str(path))
    before = path.read_bytes()
    broken = dspy.Example(question="q", answer=(each for each in "ab"))  # neither JSON nor pickled
    program.predictor(Role.DRAFT).demos = [broken]
    with pytest.raises((RuntimeError, TypeError)):
        program.save(str(path))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    program.predictor(Role.DRAFT).demos = []
    program.save(path)
    again = PDR("question -> answer")
    again.load(str(path), allow_pickle=True)
    assert again.schedule == program.schedule


def test_a_program_is_saved_whole_with_its_model(tmp_path: Path) -> None:
    program: Any = PDR("question -> answer: int", widths=(2, 1), distiller="summary")
    program.set_lm(connect("mock", "http://127.0.0.1:9/v1", api_key="very-secret", temperature=0.3))
    program.save(str(tmp_path / "served"), save_program=True)
    assert b"very-secret" not in (tmp_path / "served" / "program.pkl").read_bytes()
    loaded: Any = dspy.load(str(tmp_path / "served"), allow_pickle=True)
    assert isinstance(loaded.draft.lm, EndpointLM)
    assert loaded.draft.lm.kwargs == program.draft.lm.kwargs  # type: ignore
    assert loaded.draft.lm.dump_state() == program.draft.lm.dump_state()  # type: ignore
    assert loaded.schedule == program.schedule

    program.set_lm(scripted_lm(answer, model="a/b"))
    program.save(str(tmp_path / "scripted"), save_program=True)
    loaded = dspy.load(str(tmp_path / "scripted"), allow_pickle=True)
    assert loaded(question="?").answer == 42
    assert (loaded.draft.lm.model, program.draft.lm.served.calls) == ("a/b", 0)  # type: ignore
