"""A part that raises shows: one warning while it runs, a count when it has ended, and never one line per draft."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.evaluation import Report, Row, evaluate, read_rows
from pdr_dspy.evaluation.failures import failures_in_words
from pdr_dspy.evaluation.records import DraftRow, FailedCheck, RoundRow
from pdr_dspy.operators import PDR, BestOfN, distiller
from pdr_dspy.operators.distillers import DISTILLERS, DistillerInput
from pdr_dspy.operators.operator import Operator
from pdr_dspy.reporting import write_report
from pdr_dspy.search import PDROptimizer
from pdr_dspy.testing import scripted_lm
from pdr_dspy.verifiers import ExactVerifier, Score
from tests.support.checks import QA, SMALL

SHAPE: dict[str, Any] = {"widths": (2, 1), "distiller": "random_k", "k": 1, **SMALL}


def reads_gold(args: Mapping[str, Any], pred: dspy.Prediction) -> float:
    return float(pred.answer == args["gold"])  # a program has no gold answer


class Batch:
    """A check of a whole round that raises."""

    async def acheck(self, inputs: Any, outputs: Any) -> Any:
        raise NotImplementedError

    async def acheck_all(self, inputs: Any, outputs: Any) -> Any:
        raise ConnectionError("the scorer is away")


class Inside(dspy.Module):
    """A module whose prediction has no rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.solve = BestOfN(QA, n=2, check=reads_gold, **SMALL)

    async def aforward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=(await self.solve.acall(question=question)).answer)

    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=self.solve(question=question).answer)


def examples(count: int = 3) -> list[dspy.Example]:
    return [dspy.Example(id=f"q{i}", question=f"{i}?", answer="a").with_inputs("question") for i in range(count)]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def run(program: dspy.Module, **options: Any) -> Report:
    with dspy.context(lm=scripted_lm(lambda request: "Answer: a")):
        return evaluate(program, examples(), options.pop("verifier", ExactVerifier()), **options)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (BestOfN(QA, n=4, check=reads_gold, **SMALL), "'check' failed on 4 of 4 drafts, with KeyError: 'gold'"),
        (PDR(QA, check=reads_gold, **SHAPE), "'check' failed on 3 of 3 drafts, with KeyError: 'gold'"),
        (
            BestOfN(QA, n=2, check=Batch(), **SMALL),
            "'check' failed on 2 of 2 drafts, with ConnectionError: the scorer is away",
        ),
        (BestOfN(QA, n=2, check=lambda args, pred: 1.0, **SMALL), None),
    ],
    ids=["best of n", "two rounds", "whole round", "sound"],
)
def test_a_run_whose_check_fails_logs_one_warning(
    program: Operator, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with dspy.context(lm=scripted_lm(lambda request: "Answer: a")):
        assert program(question="?").answer == "a"
    lines = warned(caplog)
    assert len(lines) == (said is not None)
    assert all(str(said) in line and "program.checks['check'].acheck(" in line for line in lines)


@pytest.mark.parametrize("program", [BestOfN(QA, n=2, check=reads_gold, **SMALL), Inside()], ids=["operator", "module"])
def test_an_evaluation_warns_once_and_counts_the_rest(
    program: dspy.Module, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    report = run(program, run_dir=tmp_path)
    (line,) = warned(caplog)
    assert "the check 'check' failed on 2 of 2 drafts of question q" in line
    assert "KeyError: 'gold'" in line
    assert (report.failed, report.unchecked) == (0, 6)
    assert str(report).endswith("6 drafts unchecked since their check failed")
    (sentence,) = failures_in_words(report.rows)
    assert sentence == "6 drafts unchecked, since the check 'check' failed, with KeyError: 'gold'"
    kept = read_rows(tmp_path / "rows.jsonl").values()
    assert {row.failed_checks for row in kept} == {(FailedCheck(check="check", reason="KeyError: 'gold'", drafts=2),)}
    page = write_report(report, tmp_path / "page.html").read_text()
    assert "6 drafts unchecked, since the check" in page
    caplog.clear()
    run(program, run_dir=tmp_path)  # nothing runs again
    assert warned(caplog) == []


def raises(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
    return float(prediction.answer == example.wanted)


def test_a_verifier_that_raises_is_named_once_and_on_each_row(caplog: pytest.LogCaptureFixture) -> None:
    report = run(BestOfN(QA, n=2, check=lambda args, pred: 1.0, **SMALL), verifier=raises)
    of_gold, line = warned(caplog)
    assert "on the gold answer of an example" in of_gold
    assert line.startswith("question q")
    assert "(raised by the verifier <verifier raises>)" in line
    assert {row.error for row in report.rows} == {next(row.error for row in report.rows if row.error is not None)}
    assert all(str(row.error).endswith("(raised by the verifier <verifier raises>)") for row in report.rows)
    (sentence,) = failures_in_words(report.rows)
    assert sentence.startswith("3 of 3 rows failed, with AttributeError: ")


def strict(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
    """A metric that cannot read `b`, as `int(prediction.answer)` cannot read some answers."""
    if prediction.answer != example.answer:
        raise ValueError(f"cannot read {prediction.answer}")
    return 1.0


class Awaited:
    """The same, awaited."""

    grades_drafts = True
    kept: tuple[str, ...] = ()

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(strict(example, prediction))

    async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        return self(example, prediction)

    def check_gold(self, example: dspy.Example) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {"kind": "Awaited"}


@pytest.mark.parametrize("verifier", [strict, Awaited()], ids=["function", "awaited"])
def test_a_verifier_that_fails_on_a_draft_grades_the_answer_all_the_same(
    verifier: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    program = PDR(QA, widths=(2, 1), distiller="random_k", k=1, **SMALL)

    def wrong_then_right(request: Any) -> str:
        return "Answer: a" if "Answer: b" in request.user or "answer: b" in request.user else "Answer: b"

    with dspy.context(lm=scripted_lm(wrong_then_right)):
        report = evaluate(program, examples(), verifier, run_dir=tmp_path)
    assert (report.score, report.failed, report.ungraded) == (1.0, 0, 6)
    assert "6 drafts without a score since the verifier failed on them" in str(report)
    (line,) = warned(caplog)
    assert "the verifier failed on 2 of 3 drafts of question q" in line
    assert "ValueError: cannot read b" in line
    (sentence,) = failures_in_words(report.rows)
    assert sentence.startswith("6 drafts without a score, since the verifier failed, with ValueError: cannot read b")
    for row in read_rows(tmp_path / "rows.jsonl").values():
        assert [draft.score for draft in row.drafts] == [None, None, 1.0]
        assert [draft.ungraded is None for draft in row.drafts] == [False, False, True]


@pytest.fixture
def broken_distiller() -> Any:
    @distiller("broken_for_a_test")
    async def broken(given: DistillerInput) -> Any:
        raise IndexError("no such draft")

    yield "broken_for_a_test"
    DISTILLERS.remove("broken_for_a_test")


def test_a_distiller_that_raises_is_named(broken_distiller: str, caplog: pytest.LogCaptureFixture) -> None:
    program = PDR(QA, widths=(2, 1), distiller=broken_distiller, **SMALL)
    report = run(program)
    (line,) = warned(caplog)
    assert "IndexError: no such draft (raised by the distiller 'broken_for_a_test')" in line
    assert report.failed == 3
    with dspy.context(lm=scripted_lm(lambda request: "Answer: a")), pytest.raises(IndexError) as caught:
        program(question="?")
    assert caught.value.__notes__ == ["raised by the distiller 'broken_for_a_test'"]


@pytest.mark.slow
def test_a_search_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = PDROptimizer(ExactVerifier(), trials=3, cohort=2, finalists=1, seed=1)
    with dspy.context(lm=scripted_lm(lambda request: "Answer: a")):
        optimizer.compile(BestOfN(QA, n=2, check=reads_gold, **SMALL), trainset=examples(8))
    assert len([line for line in warned(caplog) if "the check 'check' failed" in line]) == 1


def test_counts_name_the_most_common_reason() -> None:
    def row(place: int, error: str | None, *failed: FailedCheck) -> Row:
        return Row(id=str(place), repeat=0, seed=0, score=0.0, error=error, failed_checks=failed)

    one, other = (FailedCheck(check="c", reason=reason, drafts=count) for reason, count in (("A: x", 2), ("B: y", 3)))
    rows = [row(0, "E: 1"), row(1, "F: 2", one), row(2, "F: 2", one, other), row(3, None)]
    assert failures_in_words(rows) == [
        "3 of 4 rows failed, 2 of them with F: 2",
        "7 drafts unchecked, since the check 'c' failed, 4 of them with A: x",
    ]
    assert failures_in_words(rows[3:]) == []


def test_drafts_that_end_at_their_cap_are_counted_and_the_setting_to_raise_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def long(request: Any) -> str:
        return "Let me think. " * 100 + "Answer: a"

    with dspy.context(lm=scripted_lm(long)):
        report = evaluate(BestOfN(QA, n=4, check=lambda args, pred: 1.0, **SMALL), examples(), ExactVerifier())
    assert report.cut == 12
    assert "12 drafts without an answer at their cap" in str(report)
    (said,) = [line for line in warned(caplog) if "ended at their cap" in line]
    assert said.startswith("all drafts of round 1 of question q")
    assert "before an answer could be read: raise `draft_tokens`" in said
    assert "12 of 12 drafts ended at their cap before an answer could be read; raise `draft_tokens`" in " ".join(
        failures_in_words(report.rows)
    )


def test_a_single_draft_without_an_end_is_only_counted() -> None:
    whole, cut = DraftRow(answer="a"), DraftRow(truncated=True)
    row = Row(id="q", repeat=0, seed=0, score=1.0, rounds=(RoundRow(drafts=(*[whole] * 24, cut)),))
    assert failures_in_words([row]) == []
    assert Report(rows=(row,)).cut == 1
    assert DraftRow(answer="a", truncated=True).cut is False


def test_rows_and_reports_are_a_line_each_in_a_session() -> None:
    long = Row(id="q1", repeat=0, seed=5, score=0.5, answer="x" * 500, gold="7", total=90, sequential=80)
    failed = Row(id="q2", repeat=1, seed=5, score=0.0, error="RoundFailed: all 3 drafts failed")
    for row in (long, failed):
        assert len(repr(row)) < 200
        assert repr(row).startswith(f"Row(id={row.id!r}, repeat={row.repeat}, score={row.score}")
    assert f"answer='{'x' * 60}…', gold='7'" in repr(long)
    assert "error='RoundFailed: all 3 drafts failed'" in repr(failed)
    report = Report(rows=(long, failed), name="mine")
    assert repr(report) == f"<Report {report}>"
    assert len(repr(report)) < 200
