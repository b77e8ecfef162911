"""The picture of regret against tokens: what its lines are, and that equal runs make equal files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import search_picture
from benchmarks.search_report import Run

pytestmark = pytest.mark.slow


def run(method: str, seed: int, paid: int, curve: list[tuple[int, int, float]], questions: int = 30) -> Run:
    return Run(
        method, seed, questions, 60, regret=0.0, optimism=0.0, over=False, paid=paid, full=paid, chosen="PDR 4-1",
        reached={}, dropped=0, false_drops=0, worst_drops=0, seconds=1.0, curve=curve,
    )  # fmt: skip


RUNS = [
    run("pdr-dspy", 0, 1000, [(100, 100, 9.0), (400, 500, 1.0)]),
    run("pdr-dspy", 1, 4000, [(200, 200, 5.0), (3000, 3000, 3.0)]),
    run("TPE, all questions", 0, 800, [(100, 100, 8.0)]),
    run("TPE, all questions", 1, 800, [(100, 100, 6.0)]),
    run("GP, all questions", 0, 800, [(100, 100, 6.0)]),
    run("(knowing its questions)", 0, 0, []),
    run("pdr-dspy", 0, 9000, [(100, 100, 2.0)], questions=120),
]


def test_a_line_is_the_mean_regret_of_the_choices_at_so_many_tokens() -> None:
    line = search_picture.line_of(RUNS[:2])
    assert line.tokens[0] == 200, "before, one of them had chosen nothing"
    assert line.tokens[-1] == pytest.approx(4000)
    found = dict(zip(line.tokens, line.means, strict=True))
    assert {mean for tokens, mean in found.items() if tokens < 399} == {7.0}
    assert {mean for tokens, mean in found.items() if 401 < tokens < 2999} == {3.0}
    assert {mean for tokens, mean in found.items() if tokens > 3001} == {2.0}, (
        "the first has ended, and keeps its choice"
    )
    assert line.end == 2500
    with pytest.raises(ValueError, match="have no curve"):
        search_picture.line_of(RUNS[5:6])


def test_runs_of_one_size_share_a_panel() -> None:
    found = dict(search_picture.groups(RUNS))
    assert {title: list(methods) for title, methods in found.items()} == {
        "30 questions, 60 trials, 2 worlds": ["pdr-dspy", "TPE, all questions", "GP, all questions (1 worlds)"],
        "120 questions, 60 trials, 1 worlds": ["pdr-dspy"],
    }


def test_a_file_of_runs_becomes_the_same_picture_each_time(tmp_path: Path) -> None:
    (tmp_path / "runs.json").write_text(json.dumps({"tables": [], "runs": [asdict(each) for each in RUNS]}))
    for name in ("one.svg", "two.svg"):
        search_picture.picture(search_picture.read(tmp_path / "runs.json"), tmp_path / name)
    first = (tmp_path / "one.svg").read_text()
    assert first == (tmp_path / "two.svg").read_text()
    for text in ("pdr-dspy", "TPE, all questions", "30 questions, 60 trials, 2 worlds", "tokens paid, millions"):
        assert text in first
    assert "knowing" not in first
