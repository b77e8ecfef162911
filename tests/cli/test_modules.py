"""Commands on a module of two operators: its own inputs and outputs, every operator's schedule, and hints that work."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pdr_dspy.cli import app as cli
from tests.support.mock_server import MockServer

PROGRAM = '''
"""Reads two numbers out of a story, then adds them."""
import dspy

from pdr_dspy import LongCoT
from pdr_dspy.verifiers import NumberVerifier


class Two(dspy.Module):
    def __init__(self):
        super().__init__()
        self.read = LongCoT("question -> sum: str", draft_tokens=64)
        self.solve = LongCoT("sum -> answer: int", draft_tokens=64)

    FORWARD


def data(split="test", *, limit=None, seed=0):
    start = {"train": 0, "dev": 100, "test": 200}[split]
    numbers = range(start, start + 8)
    return [dspy.Example(story=f"Ann has {n} apples.", answer=str(2 * n)).with_inputs("story") for n in numbers][:limit]


def verifier():
    return NumberVerifier()


def build():
    return Two()
'''
FORWARDS = {
    "forward": """def forward(self, story):
        found = self.read(question=story)
        return dspy.Prediction(sum=found.sum, answer=self.solve(sum=found.sum).answer)""",
    "aforward": """async def aforward(self, story):
        found = await self.read.acall(question=story)
        return dspy.Prediction(sum=found.sum, answer=(await self.solve.acall(sum=found.sum)).answer)""",
}


def reply(body: dict[str, Any], seed: int) -> str:
    """Reading is right; adding is right for even seeds, and where candidates are read."""
    text = str(body["messages"][-1]["content"])
    story = re.search(r"Ann has (\d+)", text)
    if story is not None:
        return f"Twice.\nAnswer: {story[1]} + {story[1]}"
    first, second = map(int, re.findall(r"(\d+) \+ (\d+)", text)[0])
    right = "Candidate" in text or seed % 2 == 0
    return f"So.\nAnswer: {first + second if right else 1}"


@pytest.fixture(params=list(FORWARDS))
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "twostep.py").write_text(PROGRAM.replace("FORWARD", FORWARDS[request.param]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "twostep", raising=False)
    return tmp_path


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(reply, kind="vllm") as running:
        yield running


def pdr(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_run_takes_and_prints_what_the_module_does(folder: Path, server: MockServer) -> None:
    done = pdr("run", "twostep.py", "-i", "Ann has 4 apples.", "--api-base", server.api_base, "--seed", 1)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0] == "sum: 4 + 4"
    assert done.stdout.splitlines()[1].startswith("answer: ")
    assert "2 calls, B_seq " in done.stderr
    assert "read: LongCoT; solve: LongCoT" in done.stderr
    (folder / "many.jsonl").write_text('{"story": "Ann has 5 apples."}\n{"story": "Ann has 6 apples."}\n')
    done = pdr("run", "twostep.py", "--jsonl", "many.jsonl", "--api-base", server.api_base)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["sum"] for record in records] == ["5 + 5", "6 + 6"]
    assert all(record["calls"] == 2 and record["sequential"] == record["total"] for record in records)
    done = pdr("run", "twostep.py", "-i", "question=x", "-i", "y", "--api-base", server.api_base)
    assert "with NAME one of story" in done.stderr


def test_a_budget_of_run_holds_for_all_operators_together(folder: Path, server: MockServer) -> None:
    done = pdr("run", "twostep.py", "-i", "Ann has 4 apples.", "--api-base", server.api_base, "--budget-total", 150)
    assert done.exit_code != 0
    assert "total=150" in done.stderr


def test_compare_gives_every_operator_the_baselines(folder: Path, server: MockServer) -> None:
    done = pdr("compare", "twostep.py", "--limit", 4, "--api-base", server.api_base, "--run-dir", "out", "--json")
    assert done.exit_code == 0, done.stderr
    lines = {line["name"]: line for line in json.loads(done.stdout)}
    assert lines["one pass"]["calls"] == 2.0
    assert lines["one pass"]["score"] == lines["twostep"]["score"]
    refined = lines["SR x2 at each operator"]
    assert refined["calls"] == 4.0
    assert refined["score"] == 1.0  # who reads candidates adds rightly; a reader alone would have no answer


@pytest.mark.slow
def test_the_lines_that_a_search_prints_work(folder: Path, server: MockServer) -> None:
    axes = [part for axis in ("read.widths=1", "solve.widths=1,2", "rounds=1,2") for part in ("--axis", axis)]
    few = ("--trials", 3, "--finalists", 1)
    done = pdr("optimize", "twostep.py", *axes, *few, "--api-base", server.api_base, "--run-dir", "out")
    assert done.exit_code == 0, done.stderr
    if json.loads(Path("out/search.json").read_text())["best"]:
        assert "what its schedule at 'solve' brought trial " in done.stderr
    assert 'pdr_dspy.load("out/best.json", program=Two()); program(story="...")' in done.stderr
    line = next(line for line in done.stderr.splitlines() if "pdr run " in line).partition("pdr ")[2]
    done = pdr(*(word.replace("...", "Ann has 7 apples.") for word in shlex.split(line)))
    assert done.exit_code == 0, done.stderr
    assert "sum: 7 + 7" in done.stdout
    done = pdr("run", "out/best.json", "-i", "Ann has 7 apples.", "--api-base", server.api_base)
    assert "give `--task` its program file" in done.stderr
