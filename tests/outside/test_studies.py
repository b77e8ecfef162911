"""Studies: they run, go on, leave small lines, and their tables and pictures are made of those lines alone."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from pdr_dspy.operators.schedule import Schedule
from programs import humaneval as task
from studies import (
    arithmetic,
    calculator,
    countdown,
    expectation,
    extraction,
    humaneval,
    picker,
    results,
    study,
    verification,
    waves,
)
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


def test_a_study_runs_continues_and_makes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# ------------------------------------------------------------------------------- pages that are made of rows alone


def checked_rows(folder: Path) -> Path:
    """Thirty questions of eight drafts; the check passes two wrong ones in ten and every right one."""
    source = random.Random(0)
    text = ""
    for number in range(30):
        right = [float(source.random() < number / 30) for _ in range(8)]
        checks = [1.0 if good or source.random() < 0.2 else 0.5 for good in right]
        answers = [0 if good else 1 + place for place, good in enumerate(right)]
        shown = [[[0, 1]], []]
        made = line("best of 8", f"q{number}", 1.0, (right,), (checks,), answers=(answers,))
        read = line("PDR 8-1 random", f"q{number}", right[0], (right, [right[0]]), ((), ()), shown=shown)
        text += "".join(json.dumps(one._asdict()) + "\n" for one in (made, read))
    path = folder / "task-model.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_what_verification_is_worth_is_made_of_rows_alone(tmp_path: Path) -> None:
    found = verification.load(checked_rows(tmp_path / "rows"))
    assert found is not None
    place = verification.placed(found, 8)
    assert place.false_negative == (0.0, pytest.approx((0.0, 0.12), abs=0.03))
    low, high = place.false_positive[1]
    assert low < 0.2 < high
    assert place.interval.low <= place.errs <= place.interval.high
    assert place.score == pytest.approx(
        fmean(verification.over_samples(one, 8, verification.by_check) for one in found.questions.values())
    )
    shown = verification.anchoring(found)
    assert "2 of 2" in shown
    assert "| PDR 8-1 random | 0 of 2 |" in shown
    for part in (verification, calculator):
        path = part.write(tmp_path / "rows", tmp_path)
        assert path is not None
        assert "task-model" in path.read_text()
    assert (tmp_path / "check-quality.svg").read_text().startswith("<?xml")


def test_rows_without_a_check_are_no_study_of_verification(tmp_path: Path) -> None:
    (tmp_path / "plain-model.jsonl").write_text(json.dumps(line("one pass", "a", 1.0)._asdict()) + "\n")
    assert verification.load(tmp_path / "plain-model.jsonl") is None
    assert verification.write(tmp_path, tmp_path) is None


def test_the_real_check_lies_where_a_made_one_was_put() -> None:
    """A check whose every verdict was decided by chance at p = 0.2 is found near there."""
    source = random.Random(3)
    questions = {}
    for number in range(400):
        right = tuple(float(source.random() < 0.4) for _ in range(8))
        checks = tuple(good if source.random() > 0.2 else 1 - good for good in right)
        questions[str(number)] = expectation.Drafts(right, checks, tuple(range(8)))
    place = verification.placed(verification.Study("made-x", questions, {}), 8)
    assert place.errs == pytest.approx(0.2, abs=0.04)
    assert place.ranks[0] == pytest.approx(0.8, abs=0.02)
    assert place.foreseen == pytest.approx(place.score, abs=0.02)


@pytest.mark.parametrize("module", [countdown, arithmetic, extraction])
def test_the_studies_of_the_plans_run(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "ROWS", tmp_path / "rows")

    def write(body: dict[str, Any], seed: int) -> str:
        return "Yes" if body.get("max_tokens") == 1 else f"answer: {seed % 7}"

    with MockServer(write, kind="vllm", context=8192) as server:
        made = module.study(2)
        reports = study.run(made, Model(api_base=server.api_base, name="mock"), Display(quiet=True), folder=tmp_path)
    assert set(reports) == set(made.programs)
    lines = study.read_lines(tmp_path / "rows" / f"{made.name}-mock.jsonl")
    assert {name: len(some) for name, some in lines.items()} == dict.fromkeys(reports, 2)
    assert not any(one.error for some in lines.values() for one in some)
    assert all(check is not None for one in lines.get("best of 8", ()) for check in one.checks[0])
    assert results.reference(lines) == next(iter(made.programs))
    assert all(sum(map(len, one.shown[0])) for one in lines["PDR 8-1 random"])


def test_the_features_of_drafts_hold_no_text(tmp_path: Path) -> None:
    for path in picker.FEATURES.glob("*.jsonl"):
        figures = picker.read_features(path)
        lines = study.read_lines(study.ROWS / path.name)["best of 8"]
        assert set(figures) == {one.question for one in lines}
        for one in lines:
            values = figures[one.question]
            assert values.shape == (len(one.drafts[0]), len(picker.AGREEMENT) + len(picker.SYNTAX))
            assert [bool(read) for read in values[:, 0]] == [answer is not None for answer in one.answers[0]]


def test_programs_that_differ_in_names_alone_have_one_shape() -> None:
    first, second, third = (
        picker._shape(tree)
        for text in (
            'def f(a):\n    """Says."""\n    b = a + 1\n    return b',
            "def f(x):\n    y = x + 1\n    return y",
            "def f(x):\n    y = x + 2\n    return y",
        )
        if (tree := picker._tree(text)) is not None
    )
    assert first == second != third


class Mean:
    """A classifier that says how often the drafts that it learnt from are right where their first feature is 1."""

    def fit(self, inputs: Any, right: Any) -> Mean:
        self.share = right[inputs[:, 0] > 0].mean()
        return self

    def predict_proba(self, inputs: Any) -> Any:
        chance = np.where(inputs[:, 0] > 0, self.share, 0.0)
        return np.stack([1 - chance, chance], axis=1)


def test_a_picker_is_judged_on_questions_that_it_has_not_seen() -> None:
    """Half of the questions are half right and half are right: those that were not held out are a mixture."""
    names = [f"q{number:02}" for number in range(16)]
    inputs = {name: np.array([[1.0], [1.0], [0.0]]) for name in names}
    right = {name: np.array([1.0, float(number % 2), 0.0]) for number, name in enumerate(names)}
    runs = picker.cross_validated(Mean, inputs, right)
    assert len(runs) == picker.SEEDS
    for run in runs:
        assert set(run) == set(names)
        for name in names:
            assert 0.5 < run[name][0] < 1.0  # its own share is 0.5 or 1
            assert run[name][2] == 0.0
    read = np.array([True, True, False])
    assert picker.picked(np.array([0.2, 0.9, 1.0]), np.array([1.0, 0.0, 0.0]), read) == 0.0
    assert picker.picked(np.array([0.9, 0.9, 1.0]), np.array([1.0, 0.0, 1.0]), read) == 0.5
    assert "calibration error" in picker.calibration(runs, right)


def test_waves_end_a_round_as_the_library_does() -> None:
    schedule = Schedule(widths=(4,), final="vote", agree=0.8, first_wave=2, next_wave=1)
    drafts = expectation.Drafts((1.0, 1.0, 0.0, 0.0), (None,) * 4, (0, 0, 1, 2))
    assert waves.until_agreed(drafts, schedule, [0, 1, 2, 3]) == (1.0, 2, 1)
    assert waves.until_agreed(drafts, schedule, [2, 0, 1, 3]) == (1.0, 4, 3)  # 2 : 1 decides nothing
    checked = expectation.Drafts((0.0, 1.0, 1.0), (0.5, 1.0, 1.0), (None,) * 3)
    stops = Schedule(widths=(3,), final="best", check="check", stop_at=1.0, first_wave=1, next_wave=1)
    assert waves.until_passed(checked, stops, [0, 1, 2]) == (1.0, 2, 2)
    assert waves.until_passed(checked, stops, [2, 0, 1]) == (1.0, 1, 1)
    assert waves.until_passed(checked, stops.replace(stop_at=None, first_wave=None, next_wave=None), [0, 1, 2])[1] == 3


def test_the_page_of_waves_is_that_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "ORDERS", 4)
    text = waves.page()
    assert text.startswith(waves.HEAD)
    for study_ in verification.studies_of(study.ROWS):
        assert f"## {study_.name}" in text
    published = (verification.OUT / "waves.md").read_text(encoding="utf-8")
    labels = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    assert labels == [line.split("|")[1] for line in published.splitlines() if line.startswith("| ")]
