"""What a check is worth: its verdicts against the verifier's, and the refinement against what is simpler."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dspy
import pytest
from typer.testing import CliRunner

from pdr_dspy import PDR, BestOfN, PDROptimizer, Space, evaluate, load
from pdr_dspy.cli.app import app
from pdr_dspy.evaluation.calibration import calibration_of_rows
from pdr_dspy.evaluation.records import DraftRow, Report, RoundRow, Row
from pdr_dspy.reporting import write_report
from pdr_dspy.reporting.check_tables import check_quality, gap
from pdr_dspy.reporting.search_tables import read_search
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.verifiers import ExactVerifier


def row(name: str, score: float, *rounds: Sequence[tuple[float | None, float | None]], repeat: int = 0) -> Row:
    """A run whose drafts have these (score, check); its drafts' answers are their scores."""
    made = tuple(
        RoundRow(drafts=tuple(DraftRow(answer=str(score), score=score, check=check) for score, check in drafts))
        for drafts in rounds
    )
    return Row(id=name, repeat=repeat, seed=0, score=score, rounds=made)


def test_precision_recall_and_order_of_a_check() -> None:
    report = Report(
        rows=(
            row("a", 1, [(1, 1.0), (0, 0.5), (0, 1.0)]),
            row("b", 0, [(1, 0.5), (0, 0.0)], [(0, None)]),
            row("c", 0, [(None, 1.0), (1, None)]),  # neither both graded and checked
        )
    )
    found = check_quality(report)
    assert found is not None
    assert found.drafts == 5
    assert found.passed == pytest.approx(2 / 5)
    assert found.precision == pytest.approx(1 / 2)
    assert found.recall == pytest.approx(1 / 2)
    # pairs of (right, wrong): (1.0; 0.5, 1.0, 0.0) is 1 + 1/2 + 1, (0.5; 0.5, 1.0, 0.0) is 1/2 + 0 + 1
    assert found.auc == pytest.approx(4 / 6)
    lower = check_quality(report, threshold=0.5)
    assert lower is not None
    assert (lower.passed, lower.precision, lower.recall) == pytest.approx((4 / 5, 1 / 2, 1.0))


def test_auc_is_that_of_counted_pairs() -> None:
    draw = random.Random(3)
    drafts = [(float(draw.random() < 0.4), draw.choice((0.0, 0.25, 0.5, 1.0))) for _ in range(60)]
    found = check_quality(Report(rows=(row("a", 1, drafts),)))
    pairs = [(x, y) for right, x in drafts if right for wrong, y in drafts if not wrong]
    assert found is not None
    assert found.auc == pytest.approx(sum((x > y) + (x == y) / 2 for x, y in pairs) / len(pairs))


@pytest.mark.parametrize("drafts", [[(None, 1.0)], [(1.0, None)], []])
def test_without_both_verdicts_nothing_is_reported(drafts: Any) -> None:
    assert check_quality(Report(rows=(row("a", 1, drafts),))) is None
    assert gap(Report(rows=(row("a", 1, drafts),))).over_best is None


def test_a_check_that_passes_none_has_no_precision() -> None:
    found = check_quality(Report(rows=(row("a", 1, [(1, 0.5), (0, 0.0)]),)))
    assert found is not None
    assert math.isnan(found.precision)
    assert (found.passed, found.recall, found.auc) == (0, 0, 1)


def test_the_refinement_gap_is_against_the_vote_and_the_best_checked_draft() -> None:
    report = Report(
        rows=(
            row("a", 1, [(0, 0.5), (0, 0.5), (1, 1.0)], [(1, 1.0)]),  # the vote is wrong, the best draft right
            row("b", 0, [(1, 1.0), (1, 1.0), (0, 0.0)], [(0, 0.0)]),  # both were right, and refining spoilt it
            row("c", 1, [(1, 1.0)]),  # ended with its first draft: nothing to compare
        )
    )
    found = gap(report)
    assert found.over_vote is not None
    assert found.over_best is not None
    assert found.over_vote.difference == pytest.approx((1 - 1 + 0) / 3)
    assert found.over_best.difference == pytest.approx((0 - 1 + 0) / 3)
    assert gap(Report(rows=(row("a", 1, [(1, 1.0), (0, 0.0)]),))) == (None, None)


def test_checks_of_drafts_are_on_rows_and_on_the_page(tmp_path: Path) -> None:
    def reply(request: ScriptedRequest) -> str:
        return f"Answer: {'yes' if request.seed % 3 else 'no'}"

    def reward(args: dict[str, Any], pred: dspy.Prediction) -> float:
        return 1.0 if pred.answer == "yes" else 0.25

    program = PDR("question -> answer", widths=(4, 1), distiller="checked", k=2, check=reward, draft_tokens=60)
    examples = [dspy.Example(id=f"q{i}", question=f"q{i}", answer="yes").with_inputs("question") for i in range(6)]
    with dspy.context(lm=scripted_lm(reply)):
        report = evaluate(program, examples, ExactVerifier(), run_dir=tmp_path)
    drafts = [draft for row in report.rows for round_ in row.rounds for draft in round_.drafts]
    assert {(draft.score, draft.check) for draft in drafts} == {(1.0, 1.0), (0.0, 0.25)}
    found = check_quality(report)
    assert found is not None
    assert (found.precision, found.recall, found.auc) == (1, 1, 1)
    page = write_report(tmp_path).read_text()
    assert "Its check passed" in page
    assert "against the best-checked draft" in page


def drafts_of(draw: random.Random, count: int) -> list[tuple[float | None, float | None]]:
    """Drafts whose check is above a half for most of the right ones and few of the wrong ones."""
    right = [float(draw.random() < 0.5) for _ in range(count)]
    return [(score, 0.8 if (draw.random() < 0.8) == bool(score) else 0.2) for score in right]


def test_a_page_tells_how_far_its_check_can_be_trusted(tmp_path: Path) -> None:
    draw = random.Random(5)
    report = Report(rows=tuple(row(f"q{i}", 1, drafts_of(draw, 6)) for i in range(30)), name="mine")
    found = calibration_of_rows(report.rows)
    assert found is not None
    assert (found.questions, found.answers, found.folds) == (30, 180, 5)
    assert 0.2 < found.threshold <= 0.8
    page = write_report(report, tmp_path / "report.html").read_text()
    assert "How far its check can be trusted" in page
    assert "right drafts that pass against wrong ones" in page
    assert f"at least <b>{found.threshold:.3g}</b> passes" in page
    assert found.precision is not None
    low, high = found.precision_interval
    assert low < found.precision < high
    assert f"<b>{100 * found.auc:.1f}" in page


@pytest.mark.parametrize("scores", [(None, 1.0), (1, None), (1, 1.0)])
def test_a_page_without_anything_to_tell_apart_says_nothing(scores: tuple[Any, Any], tmp_path: Path) -> None:
    report = Report(rows=tuple(row(f"q{i}", 1, [scores]) for i in range(12)), name="mine")
    assert calibration_of_rows(report.rows) is None
    assert "can be trusted" not in write_report(report, tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_search_learns_the_threshold_and_saves_it_with_the_program(tmp_path: Path) -> None:
    def unsure(request: ScriptedRequest) -> str:
        question = next(part for part in request.user.split() if part.startswith("q") and part[1:].isdigit())
        return f"Answer: {question[1:] if (request.seed + int(question[1:])) % 3 else 'none'}"

    def number(args: Any, pred: Any) -> float:
        return 0.75 if pred.answer.isdigit() else 0.25

    examples = [dspy.Example(question=f"q{i}", answer=str(i)).with_inputs("question") for i in range(24)]
    program = BestOfN("question -> answer", n=4, check=number, draft_tokens=60)
    space = Space(rounds=(1,), widths=(4,), final=("best",), check=("check",), draft_tokens=(60,))
    optimizer = PDROptimizer(ExactVerifier(), space=space, trials=2, run_dir=tmp_path, confirm_repeats=1)
    with dspy.context(lm=scripted_lm(unsure)):
        optimizer.compile(program, trainset=examples[:12], valset=examples[12:])
    result = optimizer.result
    assert result is not None
    learned = result.calibrations["check"]
    assert learned.threshold == 0.5
    loaded: Any = load(tmp_path / "best.json", program=program)
    assert loaded.checks["check"].calibration == learned
    assert loaded.checks["check"].threshold == 0.5
    assert read_search(tmp_path).calibration == learned
    page = write_report(tmp_path).read_text()
    assert "How far its check can be trusted" in page
    assert "On the questions of the confirmation" in page
    said = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert said.exit_code == 0
    assert f"its check: {learned}" in said.output
