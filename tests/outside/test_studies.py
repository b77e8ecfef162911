"""Studies: they run, go on, leave small lines, and their tables and pictures are made of those lines alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from programs import humaneval as task
from studies import humaneval, results, study
from studies.study import Line
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.slow


def line(program: str, question: str, score: float, drafts: Any = (), checks: Any = (), **facts: Any) -> Line:
    costs = {"sequential": 100, "total": 200, "seconds": 0.1, "stop": "done", "error": None, **facts}
    return Line(program, question, 0, score, drafts=drafts, checks=checks, **costs)


def two_questions() -> dict[str, list[Line]]:
    """Best of 4, one pass and a program that has run on one question of two."""
    drafts = {"a": (((1.0, 0.0, 0.0, 1.0),), ((1.0, 0.5, 0.0, 1.0),)), "b": (((0.0,) * 4,), ((0.5, 0.0, 0.5, 0.0),))}
    return {
        "best of 8": [line("best of 8", q, s, *drafts[q], total=800) for q, s in (("a", 1.0), ("b", 0.0))],
        "one pass": [line("one pass", q, s, (((s,)),)) for q, s in (("a", 1.0), ("b", 0.0))],
        "PDR": [line("PDR", "a", 1.0)],
    }


def test_one_pass_is_scored_over_all_drafts_and_unfinished_programs_are_left_out() -> None:
    found = results.summaries(two_questions())
    assert set(found) == {"best of 8", "one pass"}
    assert found["one pass"].scores == {"a": 0.5, "b": 0.0}
    assert found["best of 8"].scores == {"a": 1.0, "b": 0.0}


def test_the_curve_takes_the_best_of_every_part_of_the_drafts() -> None:
    first, two, last = results.curve(two_questions())
    assert (first.score, last.score) == (0.25, 0.5)
    assert two.scores == {"a": 1.0, "b": 0.0}  # of both pairs the check picks a right one
    assert two.total == pytest.approx(200 + (800 - 200) / 3)


def test_a_study_runs_goes_on_and_makes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "ROWS", tmp_path / "rows")
    monkeypatch.setattr(results, "ROWS", tmp_path / "rows")
    monkeypatch.setattr(results, "OUT", tmp_path / "results")
    solutions = {problem.prompt.strip(): problem.answer for problem in task.all_problems()}

    def write(body: dict[str, Any], seed: int) -> str:
        text = body["messages"][-1]["content"]
        (program,) = (answer for prompt, answer in solutions.items() if prompt in text)
        name = re.findall(r"def (\w+)\(", program)[-1]
        return f"```python\n{program if seed % 3 == 0 else f'def {name}(*inputs): return None'}\n```"

    with MockServer(write, kind="vllm", context=8192) as server:
        model = Model(api_base=server.api_base, name="mock")
        made = humaneval.study(3)
        reports = study.run(made, model, Display(quiet=True), folder=tmp_path / "run")
        sent = len(server.requests)
        study.run(made, model, Display(quiet=True), folder=tmp_path / "run")
        assert len(server.requests) == sent
    assert set(reports) == set(humaneval.programs())
    path = tmp_path / "rows" / "humaneval-mock.jsonl"
    lines = study.read_lines(path)
    assert {name: len(some) for name, some in lines.items()} == dict.fromkeys(reports, 3)
    for name, report in reports.items():
        assert [one.score for one in lines[name]] == [row.score for row in sorted(report.rows, key=lambda row: row.id)]
    assert all(len(one.drafts[0]) == len(one.checks[0]) == 8 for one in lines["best of 8"])
    results.main()
    page = (tmp_path / "results" / "humaneval-mock.md").read_text()
    assert all(f"| {name} |" in page for name in reports)
    assert "pass@8" in page
    assert (tmp_path / "results" / "humaneval-mock.svg").read_text().startswith("<?xml")


def test_the_lines_that_are_kept_are_those_of_the_plan() -> None:
    for path in results.ROWS.glob("humaneval-*.jsonl"):
        lines = study.read_lines(path)
        assert set(lines) <= set(humaneval.programs())
        known = {problem.id for problem in task.all_problems()}
        assert {one.question for some in lines.values() for one in some} <= known
