"""A command whose output nobody reads to its end, as in `pdr run ... | head`, ends quietly as one killed by SIGPIPE."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pdr_dspy.cli import app as cli
from pdr_dspy.cli import list_parts
from tests.cli.test_app import PROGRAM, add_one
from tests.evaluation.test_evaluator import run
from tests.support.mock_server import MockServer

ROOT = Path(__file__).parents[2]
PIPE = 141


def unread(*arguments: str | Path, folder: Path, both: bool = False) -> tuple[int, str]:
    """Run `pdr` with an output that nobody reads; its exit code, and what it said on stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pdr_dspy", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=writer, stderr=writer if both else subprocess.PIPE,
            text=True, timeout=200, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.mark.slow
@pytest.mark.parametrize("command", [["--help"], ["--version"], ["eval", "--help"], ["models"], ["checks"]], ids=str)
def test_a_list_that_nobody_reads_ends_quietly(command: list[str], tmp_path: Path) -> None:
    assert unread(*command, folder=tmp_path) == (PIPE, "")


@pytest.mark.slow
def test_bad_input_keeps_its_exit_code(tmp_path: Path) -> None:
    code, said = unread("export", "--to", "parquet", "runs/mine", folder=tmp_path)
    assert code == 2
    assert "`--to parquet`" in said


@pytest.mark.slow
def test_a_report_ends_quietly(tmp_path: Path) -> None:
    run(run_dir=tmp_path / "demo")
    assert unread("report", "demo", folder=tmp_path) == (PIPE, "")
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_answers_that_nobody_reads_end_quietly(both: bool, tmp_path: Path) -> None:
    (tmp_path / "addition.py").write_text(PROGRAM)
    lines = [json.dumps({"question": f"What is {number} + 1?"}) for number in range(4)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with MockServer(add_one) as server:
        base = ["--api-base", server.api_base]
        code, said = unread("run", "addition.py", "--jsonl", "in.jsonl", *base, folder=tmp_path, both=both)
        assert code == PIPE
        assert "Traceback" not in said
        assert "rror" not in said
        code, said = unread("eval", "addition.py", "--run-dir", "out", *base, folder=tmp_path, both=both)
        assert code == PIPE
        assert "rror" not in said
        if not both:
            assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 4


def test_a_broken_pipe_to_a_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(list_parts, "checks", broken)
    done = CliRunner().invoke(cli.app, ["checks"])
    assert (done.exit_code, done.stderr) == (1, "error: Broken pipe\n")
