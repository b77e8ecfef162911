"""Tables from hand-made rows with known answers."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.calls.ledger import Call, Phase, Usage
from pdr_dspy.errors import DataError, StoreError
from pdr_dspy.evaluation.records import DraftRow, Report, RoundRow, Row
from pdr_dspy.reporting import evaluation_tables

GOLD = "7"


def draft(answer: str | None, *, truncated: bool = False) -> DraftRow:
    return DraftRow(answer=answer, score=float(answer == GOLD), truncated=truncated)


def row(
    question: str, *rounds: tuple[list[str | None], tuple[int, ...]], repeat: int = 0, error: str | None = None
) -> Row:
    """Rounds as (answers, indices that the next workspace was made of); the last round's first answer is the answer."""
    last = rounds[-1][0][0] if rounds else None
    call = Call(phase=Phase.DRAFT, usage=Usage(input=10, output=5 * (1 + len(rounds))))
    return Row(
        id=question,
        repeat=repeat,
        seed=repeat,
        score=float(last == GOLD),
        answer=last,
        gold=GOLD,
        sequential=20 * max(len(rounds), 1),
        total=100 * max(len(rounds), 1),
        calls=(call,),
        rounds=tuple(
            RoundRow(
                drafts=tuple(map(draft, answers)),
                sources=(sources,) if sources else (),
                workspace_tokens=(30,) if sources else (),
            )
            for answers, sources in rounds
        ),
        error=error,
    )


PDR = Report(
    name="PDR",
    rows=(
        row("a", (["7", "1", "7"], (0, 2)), (["7"], ())),  # right all the way
        row("b", (["1", "1", "7"], (2,)), (["7"], ())),  # the plurality was wrong, the answer is right
        row("c", (["7", "7", "1"], (0,)), (["1"], ())),  # refined from right to wrong
        row("d", (["7", "1", "2"], (1, 2)), (["1"], ())),  # the right one was not handed on
        row("e", (["1", "2", None], (0, 1)), (["1"], ())),  # nothing to hand on
        row("f", (["7", "7", "7"], (0,)), ([None], ())),  # no answer could be read
        row("g", error="RoundFailed: gone"),
    ),
)


def test_flow_counts_what_each_round_did() -> None:
    first, second = evaluation_tables.flow(PDR).rounds
    assert (first.round, first.runs, first.drafts) == (1, 6, 3.0)
    assert first.accuracy == pytest.approx(9 / 18)
    assert first.any_right == pytest.approx(5 / 6)
    assert first.majority == pytest.approx((1 + 0 + 1 + 1 / 3 + 0 + 1) / 6)
    assert first.unreadable == pytest.approx(1 / 18)
    assert first.workspace == 30
    assert (first.wrong_to_right, first.right_to_wrong) == (0.0, 0.0)
    assert second.accuracy == pytest.approx(2 / 6)
    assert second.wrong_to_right == pytest.approx(1 / 6)
    assert second.right_to_wrong == pytest.approx(2 / 6)
    assert math.isnan(second.workspace)


def test_each_loss_is_at_its_stage() -> None:
    losses = {loss.stage: loss.runs for loss in evaluation_tables.flow(PDR).losses}
    assert losses == {"drafts": 1, "distill": 1, "refine": 1, "extraction": 1, "failed": 1}
    assert sum(loss.share for loss in evaluation_tables.flow(PDR).losses) == pytest.approx(5 / 7)
    assert evaluation_tables.loss_of(PDR.rows[0]) is None


def test_a_truncated_last_draft_is_lost_in_extraction() -> None:
    cut = row("q", (["1"], ())).model_copy(update={"rounds": (RoundRow(drafts=(draft("1", truncated=True),)),)})
    assert evaluation_tables.loss_of(cut) == "extraction"
    assert [look.kind for look in evaluation_tables.look_at(Report(rows=(cut,)))] == ["cut"]


def test_an_empty_report_has_an_empty_flow() -> None:
    empty = evaluation_tables.flow(Report(rows=()))
    assert empty.rounds == ()
    assert all(loss.share == 0.0 for loss in empty.losses)


def test_rows_to_look_into_begin_with_what_was_thrown_away() -> None:
    found = evaluation_tables.look_at(PDR)
    assert [(look.id, look.lost_in) for look in found] == [
        ("c", "refine"), ("d", "distill"), ("f", "extraction"), ("g", "failed"), ("e", "drafts"),
    ]  # fmt: skip
    assert found[3].detail == "RoundFailed: gone"
    assert [look.kind for look in found] == ["had it", "had it", "had it", "failed", "wrong"]
    assert found[0].row is PDR.rows[2]
    assert len(evaluation_tables.look_at(PDR, 2)) == 2


def passes(answers: dict[str, list[str]], name: str = "LongCoT") -> Report:
    rows = [row(q, ([a], ()), repeat=i) for q, values in answers.items() for i, a in enumerate(values)]
    return Report(rows=tuple(rows), name=name)


def test_compare_pairs_by_question() -> None:
    first = passes({"a": ["7", "7"], "b": ["7", "1"], "c": ["1", "1"]}, "first")
    second = passes({"c": ["1", "7"], "b": ["7", "7"], "a": ["7", "7"]}, "second")
    (found,) = evaluation_tables.compare([first, second])
    assert (found.first, found.second, found.questions) == ("second", "first", 3)
    assert found.difference == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert found.interval.low < found.difference < found.interval.high
    assert (found.sequential, found.total, found.matched) == (1.0, 1.0, "both")


def test_compare_says_which_cost_is_matched() -> None:
    one = passes({"a": ["7"], "b": ["1"]}, "one")
    dear = Report(name="dear", rows=tuple(r.model_copy(update={"total": 900}) for r in one.rows))
    slow = Report(name="slow", rows=tuple(r.model_copy(update={"total": 900, "sequential": 90}) for r in one.rows))
    found = {
        (c.first, c.second): c.matched for c in evaluation_tables.compare({"one": one, "dear": dear, "slow": slow})
    }
    assert found == {("dear", "one"): "sequential", ("slow", "one"): "neither", ("slow", "dear"): "total"}
    with pytest.raises(DataError, match="share no question"):
        evaluation_tables.compare([one, passes({"z": ["7"]})])


def test_equal_names_are_told_apart() -> None:
    one = passes({"a": ["7"]}, "same")
    assert list(evaluation_tables.named([one, one])) == ["same", "same (2)"]


def test_majority_is_the_mean_over_all_choices_of_the_repeats() -> None:
    answers = {"a": ["7", "7", "1", "2"], "b": ["1", "1", "7", "7"], "c": ["1", "2", "3", "7"]}
    for n in (1, 2, 3, 4):
        expected = []
        for values in answers.values():
            scores = []
            for some in itertools.combinations(values, n):
                votes = Counter(some)
                leaders = [answer for answer in votes if votes[answer] == max(votes.values())]
                scores.append(sum(answer == GOLD for answer in leaders) / len(leaders))
            expected.append(sum(scores) / len(scores))
        found = evaluation_tables.majority(passes(answers), n)
        assert found.score == pytest.approx(sum(expected) / 3)
        assert (found.total, found.sequential) == (100 * n, 20)
    with pytest.raises(DataError, match="has 4 repeats"):
        evaluation_tables.majority(passes(answers), 5)


def test_majority_at_a_budget_buys_what_it_can() -> None:
    report = passes({"a": ["7", "7", "1"], "b": ["1", "7", "7"]})
    assert evaluation_tables.majority_at_tokens(report, 50)[:1] == (1,)
    assert evaluation_tables.majority_at_tokens(report, 299).n == 2
    assert not evaluation_tables.majority_at_tokens(report, 399).short
    rich = evaluation_tables.majority_at_tokens(report, 1000)
    assert (rich.n, rich.short, rich.total, rich.score) == (3, True, 300, 1.0)


def test_program_row() -> None:
    found = evaluation_tables.program_row(PDR)
    assert (found.name, found.questions, found.rows, found.failed) == ("PDR", 7, 7, 1)
    assert found.score == pytest.approx(2 / 7)


def test_calls_that_were_cut_cancelled_or_retried_are_shares_of_all_calls() -> None:
    def made(**facts: Any) -> Call:
        return Call(phase=Phase.DRAFT, **facts)

    calls = (made(), made(finish="length"), made(finish="cancelled", fate="left"), made(tries=3))
    row = evaluation_tables.program_row(Report(rows=(Row(id="a", repeat=0, seed=0, score=1.0, calls=calls),)))
    assert (row.truncated, row.cancelled, row.retried) == (0.25, 0.25, 0.25)
    assert (evaluation_tables.program_row(PDR).cancelled, evaluation_tables.program_row(PDR).retried) == (0.0, 0.0)


def test_folders_without_anything_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no evaluation"):
        evaluation_tables.read_report(tmp_path)


def test_what_failed_counts_0_in_a_folder_as_it_did_in_the_run(tmp_path: Path) -> None:
    run = [
        Row(id="a", repeat=0, seed=0, score=0.0, error="the server went away"),
        Row(id="b", repeat=0, seed=0, score=0.0, error="the server went away"),
        Row(id="b", repeat=0, seed=0, score=1.0, answer="1"),  # the same command again
        Row(id="b", repeat=1, seed=1, score=1.0, answer="1"),  # of an earlier run with more repeats
    ]
    lines = "".join(row.model_dump_json() + "\n" for row in run) + '{"id": "torn'
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "config.json").write_text('{"repeats": 1}')
    report = evaluation_tables.read_report(tmp_path)
    assert (report.score, report.failed, len(report.rows)) == (0.5, 1, 2)
    assert (tmp_path / "rows.jsonl").read_text() == lines  # someone may be writing to it
