"""The pack for a machine with a GPU: a dry run on a mock server, its parts, its time, and that it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import LongCoT
from pdr_dspy.testing import scripted_lm
from pdr_dspy.verifiers import NumberVerifier
from studies import gpu
from studies.study import Study, read_lines
from tests.support.mock_server import MockServer


def sums(count: int, name: str = "sums") -> Study:
    examples = [
        dspy.Example(id=f"q{number}", question=f"{number} + 1?", answer=number + 1).with_inputs("question")
        for number in range(count)
    ]
    programs = {
        "one pass": LongCoT("question -> answer: int"),
        "again": LongCoT("question -> answer: int", temperature=0.5),
    }
    return Study(name, programs, examples, NumberVerifier())


class Clock:
    """Goes on by a step each time that it is read."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def answering(asked: list[str]) -> dspy.LM:
    def reply(*args: Any, **options: Any) -> str:
        asked.append(str(args))
        return "answer: 3"

    return scripted_lm(reply)


def test_whole_parts_are_run_as_long_as_there_is_time(tmp_path: Path) -> None:
    asked: list[str] = []
    with dspy.context(lm=answering(asked)):
        clock = Clock(10.0)  # a part takes one step
        reports = gpu.run_in_parts(sums(10), tmp_path, until=60.0, part=2, clock=clock)
    assert set(reports) == {"one pass", "again"}
    rows = [{row.id for row in report.rows} for report in reports.values()]
    assert rows[0] == rows[1] == {f"q{number}" for number in range(6)}  # the fourth would have ended at 80
    assert reports["one pass"].score == pytest.approx(1 / 6)


def test_it_continues_from_where_it_stopped(tmp_path: Path) -> None:
    asked: list[str] = []
    with dspy.context(lm=answering(asked)):
        gpu.run_in_parts(sums(6), tmp_path, until=35.0, part=2, clock=Clock(10.0))
        before = len(asked)
        reports = gpu.run_in_parts(sums(6), tmp_path, until=1e9, part=2, clock=Clock(10.0))
        assert 0 < before < len(asked) == 12
        gpu.run_in_parts(sums(6), tmp_path, until=1e9, part=2, clock=Clock(10.0))
    assert len(asked) == 12
    assert len(reports["again"].rows) == 6


def test_studies_share_the_time_and_say_what_was_not_begun(tmp_path: Path) -> None:
    with dspy.context(lm=answering([])):
        studies = [sums(4, "first"), sums(4, "second")]
        summary = gpu.run_all(studies, tmp_path, "scripted", minutes=0.5, part=4, clock=Clock(8.0))
    assert list(summary["studies"]) == ["first"]
    assert summary["not begun"] == ["second"]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert len(read_lines(tmp_path / "rows" / "first-scripted.jsonl")["one pass"]) == 4
    with pytest.raises(ConfigError, match="minutes 0"):
        gpu.run_all([], tmp_path, "scripted", minutes=0)


@pytest.mark.slow
def test_a_dry_run_of_the_whole_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every study, AIME with a thinking model among them, on a server that answers at once."""
    problems = tmp_path / "aime.jsonl"
    problems.write_text(
        "".join(json.dumps({"problem": f"What is {n} + {n}?", "answer": str(2 * n)}) + "\n" for n in (1, 2))
    )

    def write(body: dict[str, Any], seed: int) -> str:
        return "Yes" if body.get("max_tokens") == 1 else f"answer: {2 if seed % 2 else 4}"

    main: Callable[..., None] = gpu.main
    with MockServer(write, kind="vllm", context=32_768) as server:
        main(api_base=server.api_base, minutes=25.0, questions=2, aime_file=problems, thinking=64, out=tmp_path / "out")
        sent = len(server.requests)
        main(api_base=server.api_base, minutes=25.0, questions=2, aime_file=problems, thinking=64, out=tmp_path / "out")
        assert len(server.requests) == sent
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["studies"]) == ["aime", "humaneval", "countdown", "arithmetic"]
    for study in summary["studies"].values():
        assert study["questions"] == 2
        assert all(program["failed"] == 0 for program in study["programs"].values())
    assert "summary" not in capsys.readouterr().err
    assert len(list((tmp_path / "out" / "rows").glob("*.jsonl"))) == 4


def test_what_has_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give `--weights`"), gpu.serving(None, None, 4096, ()):
        pass
    with pytest.raises(ConfigError, match="is no folder"), gpu.serving(tmp_path / "none", None, 4096, ()):
        pass
