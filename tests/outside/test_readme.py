"""What the README says works: its Python runs over HTTP too, and the tree of docs/tree.md is the tree."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.mock_server import MockServer

README = Path("README.md").read_text(encoding="utf-8")
TREE = Path("docs/tree.md").read_text(encoding="utf-8")
ROOT = Path.cwd()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def lcm(body: dict[str, Any], seed: int) -> str:
    """The right answer, from every other draft."""
    numbers = [int(n) for n in re.findall(r"\d+", body["messages"][-1]["content"].split("Candidate")[0])]
    return f"Multiples of {max(numbers)} first.\nAnswer: {math.lcm(*numbers[:2]) if seed % 2 else 1}"


@pytest.mark.slow
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
    assert [len(eval_list(line)) for line in lines[1:4]] == [8, 4, 1]
    assert re.fullmatch(r"<Ledger: 13 calls, [\d,]+ sequential and [\d,]+ total tokens>", lines[4])


def eval_list(line: str) -> list[str]:
    return line.strip("[]").split(", ")


def test_it_is_a_screen_and_a_half() -> None:
    assert len(README.splitlines()) <= 90
    assert len(blocks("python")) == 1


def test_the_first_example_is_short() -> None:
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 10


def test_make_has_its_targets() -> None:
    targets = set(re.findall(r"^(\w+):", Path("Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")}
    assert named == {"optimize", "test"}
    assert named <= targets


def test_its_tree_is_the_tree() -> None:
    tree = TREE.split("```")[1].removeprefix("text")
    inside = set(re.findall(r"^  (\w[\w.]*/?) ", tree, re.MULTILINE))
    there = {path.name for path in Path("pdr_dspy").glob("*.py") if not path.name.startswith("_")}
    there |= {f"{path.parent.name}/" for path in Path("pdr_dspy").glob("[a-z]*/__init__.py")}
    assert inside == there
    top = set(re.findall(r"^(\w+)/ ", tree, re.MULTILINE))
    assert all(Path(name).is_dir() for name in top)
    for named in re.findall(r"\b\w+\.py\b", re.search(r"^programs/.*$", tree, re.MULTILINE).group()):  # type: ignore[union-attr]
        assert (Path("programs") / named).is_file()
