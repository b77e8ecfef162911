"""The studies of `optimize/`, shortened, on a mock server: they run, write what they say, and go on from there."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import pytest

from optimize import aime, quickstart
from pdr_dspy import artifact, datasets
from pdr_dspy.cli.model_option import Model
from pdr_dspy.verifiers.checks import CalibratedCheck
from programs import aime as task
from programs import humaneval
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.slow


def reckon(body: dict[str, Any], seed: int) -> str:
    """Arithmetic, right for every third seed and whenever there is a workspace."""
    text = body["messages"][-1]["content"]
    question = text.split("Workspace")[0]
    terms = [int(sign + number) for sign, number in re.findall(r"(?:([-+]) )?(\d+)", question)]
    right = "Candidate" in text or seed % 3 == 0
    return f"Let me see.\nAnswer: {sum(terms) if right else 1}"


@pytest.fixture(scope="module")
def solutions() -> dict[str, str]:
    """The reference program of each HumanEval problem, by the first line of what is asked."""
    return {problem.prompt.strip(): problem.answer for problem in humaneval.all_problems()}


def test_the_quickstart_writes_a_program_that_goes_by_the_check_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], solutions: dict[str, str]
) -> None:
    def write(body: dict[str, Any], seed: int) -> str:
        """Right for every third seed; a refinement spoils what it reads."""
        text = body["messages"][-1]["content"]
        (program,) = (answer for prompt, answer in solutions.items() if prompt in text)
        right = seed % 3 == 0 and "Workspace" not in text
        name = re.findall(r"def (\w+)\(", program)[-1]
        return f"```python\n{program if right else f'def {name}(*inputs): return None'}\n```"

    monkeypatch.chdir(tmp_path)
    with MockServer(write, kind="vllm", context=8192) as server:
        model = Model(api_base=server.api_base)
        quickstart.main(model=model, train=6, dev=8, trials=3)
        shown = capsys.readouterr()
        sent = len(server.requests)
        drafts: Counter[str] = Counter()
        for body in server.requests:
            text = body["messages"][-1]["content"]
            drafts[text] += 0 if "Workspace" in text else body.get("n", 1)
        drafts = +drafts
        # One pass, the vote, best-of-N, SR and PDR have the same five drafts of each problem, and none is made twice.
        assert set(drafts.values()) == {5}
        assert len(drafts) == 6 + 8
        quickstart.main(model=model, train=6, dev=8, trials=3)
        assert len(server.requests) == sent
        quickstart.main(model=model, train=6, dev=9, trials=4)  # confirmed and compared anew, beside what is there
        assert "9 questions unseen by the search" in capsys.readouterr().out
    for line in (
        "tuned: best of 5",
        "one pass, mean of 5 drafts",
        "majority of 5",
        "medoid of 5",
        "best of 5",
        "SR x2",
        "untuned PDR",
    ):
        assert re.search(rf"^{line}.* \[\d\.\d", shown.out, re.MULTILINE), line
    for line in ("SR x2", "untuned PDR 2-1"):
        assert f"{line}, 2 questions " in shown.out
    single = re.search(r"^one pass, mean of 5 drafts.* \+\d\.\d+ \[\+\d", shown.out, re.MULTILINE)
    assert single is not None, "the tuned program is better than one pass, and the interval excludes 0"
    assert "confidently better" in shown.err
    assert "pdr run runs/quickstart/best.json" in shown.err
    page = (tmp_path / "runs" / "quickstart" / "report.html").read_text()
    assert "one pass" in page
    assert "best of" in page
    program = artifact.load(tmp_path / "runs" / "quickstart" / "best.json")
    assert list(program.task.output_fields) == ["code"]  # type: ignore[attr-defined]
    assert program.schedule.check == "check"  # type: ignore[attr-defined]
    check = program.checks["check"]  # type: ignore[attr-defined]
    assert isinstance(check, CalibratedCheck)
    assert check.base == humaneval.check()


def test_the_study_on_aime_runs_against_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **how: Any) -> list[dspy.Example]:
        made = [dspy.Example(question=f"{name}: {i} + {i}", answer=str(2 * i), id=f"{name}/{i}") for i in range(5)]
        return [one.with_inputs("question") for one in made]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load", load)
    monkeypatch.setattr(task, "TRAIN", 3)
    with MockServer(reckon, kind="vllm", context=10**6) as server:
        aime.main(["--api-base", server.api_base, "--model", "mock", "--trials", "2", "--max-tokens", "100000"])
    facts = json.loads((tmp_path / "runs" / "aime" / "best.json").read_text())
    assert facts["data"]["task"] == "aime"


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_the_study_on_aime_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SystemExit) as ended:
        aime.main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
