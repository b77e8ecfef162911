"""What the README says works: its Python runs, its commands exist, its tree is the tree."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pdr_dspy.cli.app import app
from tests.support.mock_server import MockServer

README = Path("README.md").read_text(encoding="utf-8")
ROOT = Path.cwd()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def lcm(body: dict[str, Any], seed: int) -> str:
    """The right answer, from every other draft."""
    numbers = [int(n) for n in re.findall(r"\d+", body["messages"][-1]["content"].split("Candidate")[0])]
    return f"Multiples of {max(numbers)} first.\nAnswer: {math.lcm(*numbers[:2]) if seed % 2 else 1}"


def test_its_python_runs(tmp_path: Path) -> None:
    with MockServer(lcm, kind="vllm", context=8192) as server:
        code = "\n".join(blocks("python")).replace("http://127.0.0.1:8000/v1", server.api_base)
        assert server.api_base in code
        shown = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert re.fullmatch(r"\d+ done", lines[0])
    assert re.fullmatch(r"\d+ tokens on the critical path, \d+ in all", lines[1])
    assert [len(eval_list(line)) for line in lines[2:5]] == [8, 4, 1]
    assert "score" in lines[5]
    assert (tmp_path / "runs" / "lcm" / "best.json").is_file()


def eval_list(line: str) -> list[str]:
    return line.strip("[]").split(", ")


def test_the_first_example_is_short() -> None:
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 12


def commands() -> list[list[str]]:
    lines = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line and line[0] == "pdr"]


@pytest.mark.parametrize("line", commands(), ids=lambda line: " ".join(line[:3]))
def test_its_commands_exist(line: list[str]) -> None:
    command: Any = typer.main.get_command(app).commands[line[1]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in line if word.startswith("--")} <= known


def test_make_has_its_targets() -> None:
    targets = set(re.findall(r"^(\w+):", Path("Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")}
    assert named == {"optimize", "test"}
    assert named <= targets


def test_its_tree_is_the_tree() -> None:
    tree = README.partition("## The tree")[2].split("```")[1]
    inside = set(re.findall(r"^  (\w[\w.]*/?) ", tree, re.MULTILINE))
    there = {path.name for path in Path("pdr_dspy").glob("*.py") if not path.name.startswith("_")}
    there |= {f"{path.parent.name}/" for path in Path("pdr_dspy").glob("[a-z]*/__init__.py")}
    assert inside == there
    top = set(re.findall(r"^(\w+)/ ", tree, re.MULTILINE))
    assert all(Path(name).is_dir() for name in top)
    for named in re.findall(r"\b\w+\.py\b", re.search(r"^programs/.*$", tree, re.MULTILINE).group()):  # type: ignore[union-attr]
        assert (Path("programs") / named).is_file()
