"""Runs as logs of Inspect, read back through its own API: what is there, where it stands, and what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.calls.ledger import Phase
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.texts import TEXTS, read_texts
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.reporting.evaluation_tables import read_report
from pdr_dspy.reporting.inspect_log import UNKEPT, evaluations_in, write_inspect_logs
from pdr_dspy.search import PDROptimizer, Space
from pdr_dspy.testing import ScriptedRequest
from tests.evaluation.test_evaluator import QA, SMALL, Exact, examples, run
from tests.evaluation.test_texts import IsOne
from tests.support.solver import engine, role_of, solver

pytestmark = pytest.mark.slow  # the viewer's package alone takes seconds to import
inspect_log = pytest.importorskip("inspect_ai.log", reason="the extra `view` is not installed")
event = pytest.importorskip("inspect_ai.event")


def read(path: Path) -> Any:
    return inspect_log.read_eval_log(str(path), resolve_attachments=True)


def lanes(sample: Any) -> dict[str, list[Any]]:
    """The viewer's lanes: each with its events."""
    root = event.timeline_build(sample.events).root
    return {
        lane.name: [node.event for node in lane.content if node.type == "event"]
        for lane in root.content
        if lane.type == "span"
    }


def events(lane: list[Any], kind: str) -> list[Any]:
    return [one for one in lane if one.event == kind]


def by_row(log: Any, report: Report) -> list[tuple[Any, Row]]:
    samples = {(sample.id, sample.epoch - 1): sample for sample in log.samples}
    assert len(samples) == len(report.rows)
    return [(samples[row.id, row.repeat], row) for row in report.rows]


def test_a_sample_for_each_row_a_lane_for_each_round_with_its_drafts_checks_and_workspace(tmp_path: Path) -> None:
    report = run(PDR(QA, **SMALL, check=IsOne()), run_dir=tmp_path / "demo", repeats=2)
    (path,) = write_inspect_logs(tmp_path / "demo")
    assert path == tmp_path / "demo" / "inspect" / "demo.eval"
    log = read(path)
    assert log.status == "success"
    assert (log.eval.task, log.eval.model, log.eval.config.epochs) == ("demo", "scripted/model", 2)
    figures = {score.name: score.metrics["mean"].value for score in log.results.scores}
    assert figures == pytest.approx({"score": report.score, "B_seq": report.sequential, "B_total": report.total})
    texts = read_texts(tmp_path / "demo" / TEXTS, report.rows)
    for sample, row in by_row(log, report):
        own = texts[row.id, row.repeat]
        assert (sample.input, sample.target) == (f"q{row.id[1:]}", row.gold)
        values = {name: score.value for name, score in sample.scores.items()}
        assert values == {"score": row.score, "B_seq": row.sequential, "B_total": row.total}
        assert sample.output.completion == own.solution
        assert sum(usage.total_tokens for usage in sample.model_usage.values()) == row.total
        found = lanes(sample)
        assert list(found) == ["round 1: 3 drafts", "round 2: 1 draft", "scoring"]
        for lane, told, graded in zip(found.values(), own.rounds, row.rounds, strict=False):
            calls = events(lane, "model")
            assert [call.output.completion for call in calls] == [draft.text for draft in told.drafts]
            assert [score.score.value for score in events(lane, "score")] == [d.score for d in graded.drafts]
            checks = [info.data for info in events(lane, "info") if info.source == "check"]
            assert len(checks) == len(told.drafts)
            for draft, check in zip(told.drafts, checks, strict=True):
                assert draft.check is not None
                assert draft.check.feedback in check
        (workspace,) = [info.data for lane in found.values() for info in events(lane, "info") if info.source != "check"]
        assert workspace.endswith(own.rounds[0].workspaces[0])
        assert f"{row.rounds[0].workspace_tokens[0]} tokens" in workspace
        (refine,) = events(found["round 2: 1 draft"], "model")
        assert own.rounds[0].workspaces[0] in refine.input[0].text
        assert sum(call.output.usage.total_tokens for lane in found.values() for call in events(lane, "model")) == (
            row.total
        )


def test_without_texts_the_figures_are_there(tmp_path: Path) -> None:
    report = run(run_dir=tmp_path / "bare", max_text_bytes=0)
    (path,) = write_inspect_logs(tmp_path / "bare", tmp_path / "logs")
    assert path.parent == tmp_path / "logs"
    for sample, row in by_row(read(path), report):
        assert UNKEPT in sample.input
        first = lanes(sample)["round 1: 3 drafts"]
        assert {call.output.completion for call in events(first, "model")} == {UNKEPT}
        assert [score.score.answer for score in events(first, "score")] == [d.answer for d in row.rounds[0].drafts]


def test_failures_are_told_where_they_happened(tmp_path: Path) -> None:
    def some_fail(request: ScriptedRequest) -> str:
        if "q1" in request.user or (role_of(request) == "draft" and request.seed % 3 == 1):
            raise dspy.lm15.RateLimitError("slow down")
        return solver(request)

    report = run(lm=engine(some_fail), run_dir=tmp_path)
    assert report.failed
    (path,) = write_inspect_logs(tmp_path)
    for sample, row in by_row(read(path), report):
        assert (sample.error is not None) is (row.error is not None)
        if sample.error is not None:
            assert "slow down" in sample.error.message
        failed = [call for call in row.calls if call.failure]
        shown = [call for call in events(sample.events, "model") if call.error]
        assert [call.error for call in shown] == [call.failure for call in failed]


def test_a_round_that_ended_early_shows_which_draft_said_what(tmp_path: Path) -> None:
    """Drafts that were left out have a place in the lane and no text: the others keep theirs."""
    program = PDR(QA, widths=(4, 1), distiller="random_k", k=2, draft_tokens=60, kappa=60, quorum=0.5)
    report = run(program, run_dir=tmp_path)
    assert any(call.fate == "left" for row in report.rows for call in row.calls)
    (path,) = write_inspect_logs(tmp_path)
    texts = read_texts(tmp_path / TEXTS, report.rows)
    for sample, row in by_row(read(path), report):
        lane = next(iter(lanes(sample).values()))
        told = [call.output.completion for call in events(lane, "model") if call.output.completion != UNKEPT]
        assert told == [draft.text for draft in texts[row.id, row.repeat].rounds[0].drafts]
        drafting = [call for call in row.calls if call.round == 1 and call.phase is Phase.DRAFT]
        assert len(events(lane, "model")) == len(drafting) >= len(told)


@pytest.mark.slow
def test_every_evaluation_of_a_search_becomes_a_log_named_by_its_program(tmp_path: Path) -> None:
    space = Space(rounds=(1, 2), widths=(1, 2), kappa=(60,), distiller=("random_k",), k=(1,), draft_tokens=(60,))
    with dspy.context(lm=engine()):
        PDROptimizer(Exact(), space=space, trials=3, confirm_repeats=2, run_dir=tmp_path / "s").compile(
            LongCoT(QA, draft_tokens=60), trainset=examples(12)
        )
    for place in evaluations_in(tmp_path / "s"):
        rows = read_report(place).rows
        assert len(rows) > 0
        if "_over_" not in place.name:  # one pass over the winner's drafts: their texts are the winner's
            assert len(read_texts(place / TEXTS, rows)) == len(rows)
    places = {place.relative_to(tmp_path / "s").as_posix() for place in evaluations_in(tmp_path / "s")}
    paths = write_inspect_logs(tmp_path / "s")
    assert {path.stem for path in paths} == {place.replace("/", "-") for place in places}
    assert {"trials-0000", "trials-0001", "trials-0002"} <= {path.stem for path in paths}
    assert any(path.stem.startswith("confirm-") for path in paths)
    titles = {read(path).eval.task_display_name for path in paths}
    assert any("student" in title for title in titles)
    assert len(titles) == len(paths)


def test_texts_can_be_shown_plainly(tmp_path: Path) -> None:
    run(run_dir=tmp_path)
    for markdown, trusted in ((True, None), (False, False)):
        (path,) = write_inspect_logs(tmp_path, markdown=markdown)
        assert read(path).eval.viewer.trust_content is trusted


def test_a_program_that_is_no_operator(tmp_path: Path) -> None:
    reply = "[[ ## reasoning ## ]]\nbecause\n\n[[ ## answer ## ]]\n1\n\n[[ ## completed ## ]]"
    with dspy.context(lm=engine(lambda _: reply)):
        report = evaluate(dspy.ChainOfThought(QA), examples(2), Exact(), run_dir=tmp_path)
    (path,) = write_inspect_logs(tmp_path)
    for sample, row in by_row(read(path), report):
        assert sample.output.completion == "because"
        assert sample.scores["B_total"].value == row.total


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no evaluation"):
        write_inspect_logs(tmp_path)
