"""A user's own signature, metric and CSV, in a folder with nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pdr_dspy import datasets
from pdr_dspy.cli import app as cli
from pdr_dspy.cli import program_files
from pdr_dspy.errors import DataError
from tests.support.mock_server import MockServer

OWN = """
import dspy
from pydantic import BaseModel
from pdr_dspy import PDR

class Item(BaseModel):
    name: str
    count: int

class Order(dspy.Signature):
    "List the items."
    message: str = dspy.InputField()
    items: list[Item] = dspy.OutputField()

class Two(dspy.Module):
    def __init__(self):
        super().__init__()
        self.short = PDR("message -> topic", widths=(1,))
        self.sort = PDR("topic -> category", widths=(2, 1), distiller="random_k", k=1, draft_tokens=64)

    def forward(self, message):
        return self.sort(topic=self.short(message=message).topic)

def score(example, prediction, trace=None):
    return example.category == prediction.category

def partial(example, prediction, trace=None):
    assert all(type(item).__name__ == "Item" for item in example.items_)
    return 0.5
"""


def reply(body: dict[str, Any], seed: int) -> str:
    text = body["messages"][-1]["content"]
    kind = "billing" if "invoice" in text else "bug"
    return f"Topic: {kind} invoice" if "Topic: <" in text else f"Category: {kind}"


@pytest.fixture
def pdr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_task", raising=False)
    (tmp_path / "own_task.py").write_text(OWN)
    rows = [("The invoice is wrong", "billing"), ("It crashes", "bug")] * 4
    lines = [f"{message} {number},{category}" for number, (message, category) in enumerate(rows)]
    (tmp_path / "mine.csv").write_text("\n".join(["message,category", *lines]))
    (tmp_path / "other.csv").write_text("\n".join(["Text,label", *lines]))
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


MAPPED = ("--field", "message=Text", "--field", "category=label")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "data"),
    [
        ("message -> category", ("mine.csv",)),
        ("message -> category", ("other.csv", *MAPPED)),
        ("own_task.py:Two", ("mine.csv",)),
    ],
)
@pytest.mark.parametrize("graded", [("--metric", "own_task.py:score"), ("--verifier", "exact")])
def test_own_data_is_evaluated(pdr: Callable[..., Result], target: str, data: tuple[str, ...], graded: Any) -> None:
    if target.endswith("Two") and "--verifier" in graded:
        graded = ("--verifier", "exact:field=category,gold=category")
    with MockServer(reply, kind="vllm") as server:
        done = pdr("eval", target, "--data", *data, *graded, "--api-base", server.api_base, "--json", "--run-dir", "o")
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["rows"] == 8
    assert summary["failed"] == 0
    row = json.loads(Path("o/rows.jsonl").read_text().splitlines()[0])
    assert row["gold"] in ("billing", "bug", '{"category": "billing"}')


@pytest.mark.parametrize(
    ("target", "answer", "remedy"),
    [
        ("message -> category", "Money matters", True),
        ("message -> category", "bug", False),  # a label, though the wrong one for half of the rows
        ("message -> category: Literal['billing', 'bug']", "bug", False),
    ],
)
@pytest.mark.slow
def test_wrong_answers_are_shown_with_the_labels_that_the_model_was_not_told(
    pdr: Callable[..., Result], target: str, answer: str, remedy: bool
) -> None:
    with MockServer(lambda body, seed: f"Category: {answer}", kind="vllm") as server:
        own = ("--data", "mine.csv", "--metric", "own_task.py:score", "--run-dir", "o")
        done = pdr("eval", target, *own, "--api-base", server.api_base)
    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert f"{answer!r}, where gold is 'billing'" in said
    assert ("such as `category: Literal['billing', 'bug']`" in said) == remedy


@pytest.mark.slow
def test_own_data_is_searched(pdr: Callable[..., Result]) -> None:
    own = ("message -> category", "--data", "mine.csv", "--metric", "own_task.py:score", "--trials", "2")
    with MockServer(reply, kind="vllm") as server:
        done = pdr("optimize", *own, "--api-base", server.api_base, "--run-dir", "out")
        assert done.exit_code == 0, done.stderr
    assert "pdr compare out/best.json --data mine.csv --metric own_task.py:score" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("eval", "mine.csv"), 'pdr eval "message -> category" --data mine.csv --metric mine.py:score'),
        (("eval", "a -> b"), "is a signature, without data: add `--data FILE`"),
        (("eval", "question -> b", "--data", "mine.csv", "--verifier", "exact"), "--field question=message"),
        (("eval", "message -> category", "--data", "mine.csv"), "add `--metric FILE.py:NAME`"),
        (("eval", "message -> category", "--data", "mine.csv", "--metric", "own_task.py:x"), "it defines Item, Order"),
        (("eval", "gsm9"), "did you mean 'gsm8k'?"),
        (("new", "own_task"), "overwrites nothing"),
    ],
)
def test_what_is_missing_is_named(pdr: Callable[..., Result], arguments: tuple[str, ...], sentence: str) -> None:
    done = pdr(*arguments)
    assert sentence in done.stderr
    assert done.exit_code in (1, 2)


MINE = """
from programs.helper import GOLD
from pdr_dspy import LongCoT
import dspy

def build():
    return LongCoT("question -> answer: int", draft_tokens=64)

def data(split, *, limit=None, seed=0):
    return [dspy.Example(question="1 + 1", answer=GOLD).with_inputs("question")]

def verifier():
    return lambda example, prediction: prediction.answer == example.answer
"""


def own_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "programs" or "._programs" in name]:
        monkeypatch.delitem(sys.modules, name)
    (folder / "programs").mkdir()
    for name, text in {"__init__": "", "helper": "GOLD = 2", "mine": MINE, "aime": MINE}.items():
        (folder / "programs" / f"{name}.py").write_text(text)


@pytest.mark.parametrize("order", [("mine", "gsm8k"), ("gsm8k", "mine")])
@pytest.mark.slow
def test_a_folder_of_ones_own_called_programs_stands_beside_the_built_in_ones(
    pdr: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]
) -> None:
    own_programs(tmp_path, monkeypatch)
    for name in (*order, "aime"):
        found = program_files.find(name)
        assert found.task is not None
        assert found.task.file is not None
        assert (found.task.file.parent == tmp_path / "programs") == (name != "gsm8k"), name
        assert found.task.named
    with MockServer(lambda body, seed: "Answer: 2", kind="vllm") as server:
        done = pdr("eval", "aime", "--api-base", server.api_base, "--json")  # one's own wins, not the built-in
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["score"] == 1.0
    assert set(sys.modules) & {"programs.gsm8k"} == set()


def test_a_new_program_runs(pdr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fresh", raising=False)
    assert pdr("new", "fresh").stdout == "fresh.py\n"
    with MockServer(lambda body, seed: "Answer: 16", kind="vllm") as server:
        done = pdr("eval", "fresh.py", "--limit", "4", "--api-base", server.api_base, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 4


@pytest.mark.parametrize(
    ("old", "new"), [("widths=(4, 1)", "widths=(2, 1)"), ("prediction.answer ==", "prediction.answer + 1 ==")]
)
@pytest.mark.slow
def test_an_edited_program_has_a_run_folder_of_its_own(
    pdr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which is as old as its source, to the second
    pdr("new", "edited")
    with MockServer(lambda body, seed: "Answer: 16", kind="vllm") as server:
        for _ in range(2):
            monkeypatch.delitem(sys.modules, "edited", raising=False)
            done = pdr("eval", "edited.py", "--limit", "2", "--api-base", server.api_base)
            assert done.exit_code == 0, done.stderr
            text = Path("edited.py").read_text()
            assert old in text or new in text
            Path("edited.py").write_text(text.replace(old, new))
    assert len(list(Path("runs").iterdir())) == 2


def test_cells_have_the_types_of_the_signature(tmp_path: Path) -> None:
    path = tmp_path / "typed.csv"
    path.write_text('text,Due Hours,tags\nhello,24,"[""a""]"\n')
    (row,) = datasets.load(path, signature="text -> due_hours: int, tags: list[str]")
    assert (row.due_hours, row.tags, list(row.inputs().keys())) == (24, ["a"], ["text"])
    path.write_text("text,due_hours\nhello,soon\n")
    with pytest.raises(DataError, match=r"line 2: the column 'due_hours' .* holds 'soon', which is not a whole number"):
        datasets.load(path, signature="text -> due_hours: int")
