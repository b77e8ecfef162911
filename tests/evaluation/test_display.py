"""`progress=` of `evaluate` and `PDROptimizer`: what a terminal, a notebook and a log see of it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.calls import Rollouts
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation import Row, evaluate
from pdr_dspy.evaluation.display import MINUTE, ProgressDisplay
from pdr_dspy.operators import PDR, LongCoT
from pdr_dspy.search import PDROptimizer, SearchProgress
from pdr_dspy.testing import scripted_lm
from pdr_dspy.verifiers import ExactVerifier
from tests.support.checks import QA, SMALL

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import sys
import dspy
from pdr_dspy import PDROptimizer, PDR, evaluate
from pdr_dspy.testing import scripted_lm
from pdr_dspy.verifiers import ExactVerifier

if __name__ == "__main__":
    dspy.configure(lm=scripted_lm(lambda request: "Answer: a"))
    program = PDR("question -> answer", widths=(2, 1), distiller="random_k", k=1, draft_tokens=60, kappa=200)
    questions = [dspy.Example(id=str(i), question=f"{i}?", answer="a").with_inputs("question") for i in range(8)]
    shown = {"None": None, "True": True, "False": False}[sys.argv[1]]
    evaluate(program, questions, ExactVerifier(), progress=shown, name="mine")
    optimizer = PDROptimizer(ExactVerifier(), trials=3, cohort=2, finalists=1, seed=1, progress=shown)
    optimizer.compile(program, trainset=questions)
    print("done")
"""


def questions(count: int = 8) -> list[dspy.Example]:
    return [dspy.Example(id=str(i), question=f"{i}?", answer="a").with_inputs("question") for i in range(count)]


def lm() -> dspy.LM:
    return scripted_lm(lambda request: "Answer: a")


def scripted(tmp_path: Path, shown: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, str(script), shown]
    return subprocess.run(command, env=environment, text=True, timeout=200, check=True, **streams)


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["None", "False"])
def test_a_script_whose_stderr_is_a_file_stays_silent_for_less_than_a_minute(shown: str, tmp_path: Path) -> None:
    done = scripted(tmp_path, shown, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.slow
def test_bars_appear_on_a_terminal_without_being_asked_for(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = scripted(tmp_path, "None", stdout=subprocess.PIPE, stderr=theirs)
        os.set_blocking(ours, False)
        drawn = b""
        try:
            while block := os.read(ours, 65536):
                drawn += block
        except BlockingIOError:
            pass
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout == "done\n"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    assert re.search(r"mine .* 8/8", text)
    assert "score 1.00" in text
    assert re.search(r"trials .* 3/3", text)


def test_lines_appear_everywhere_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with dspy.context(lm=lm()):
        evaluate(
            LongCoT(QA, draft_tokens=60), questions(), ExactVerifier(), progress=True, name="mine", max_in_flight=1
        )
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/8", "3/8", "5/8", "7/8", "8/8"]
    assert all(line.startswith("mine: ") and "score 1.00" in line for line in lines)


@pytest.mark.slow
def test_a_search_prints_a_line_for_each_trial_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = PDROptimizer(ExactVerifier(), trials=3, cohort=2, finalists=1, seed=1, progress=True)
    with dspy.context(lm=lm()):
        optimizer.compile(PDR(QA, widths=(2, 1), distiller="random_k", k=1, **SMALL), trainset=questions())
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("trial")] == [
        f"trial {number} of 3" for number in (1, 2, 3)
    ]
    assert lines[-1] == "the search has ended"


class Time:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_elsewhere_a_long_evaluation_shows_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Time()
    display = ProgressDisplay.of(None, clock=clock)
    row = Row(id="a", repeat=0, seed=0, score=1.0, total=10, paid=10)
    with display.rows("mine", 4) as on_row:
        for done in (1, 2):
            clock.now += MINUTE / 2 - 1
            on_row(row, done, 4)
        assert capsys.readouterr().err == ""
        clock.now += MINUTE
        on_row(row, 3, 4)
        assert capsys.readouterr().err == "mine: 3/4  score 1.00  30 tokens\n"
        on_row(row, 4, 4)
        assert capsys.readouterr().err == ""


def test_a_notebook_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shell:
        kernel = object()

    class IPython:
        get_ipython = staticmethod(lambda: Shell())

    monkeypatch.setitem(sys.modules, "IPython", IPython)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "ipykernel", IPython)  # type: ignore[arg-type]
    display = ProgressDisplay.of(None)
    assert (display.quiet, display.sparse, display.live) == (False, False, False)


@pytest.mark.slow
def test_a_function_is_called_and_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[tuple[int, int]] = []
    steps: list[SearchProgress] = []
    optimizer = PDROptimizer(ExactVerifier(), trials=2, cohort=2, finalists=1, seed=1, progress=steps.append)
    with dspy.context(lm=lm()):
        evaluate(
            LongCoT(QA, draft_tokens=60), questions(2), ExactVerifier(),
            progress=lambda row, done, count: rows.append((done, count)),
        )  # fmt: skip
        optimizer.compile(PDR(QA, widths=(2, 1), distiller="random_k", k=1, **SMALL), trainset=questions())
    assert rows == [(1, 2), (2, 2)]
    assert steps[-1].event == "done"
    assert capsys.readouterr().err == ""


def test_nothing_is_shown_for_an_evaluation_that_is_already_finished(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with dspy.context(lm=lm()), Rollouts() as store:
        for _ in range(2):
            capsys.readouterr()
            evaluate(
                LongCoT(QA, draft_tokens=60), questions(2), ExactVerifier(),
                progress=True, run_dir=tmp_path, store=store,
            )  # fmt: skip
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("progress", ["yes", 1, object()])
def test_anything_else_is_refused(progress: Any) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\(progress="):
        evaluate(LongCoT(QA), questions(1), ExactVerifier(), progress=progress)
    with pytest.raises(ConfigError, match=r"PDROptimizer\(progress="):
        PDROptimizer(ExactVerifier(), progress=progress)
