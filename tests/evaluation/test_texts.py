"""Texts of evaluated runs: beside the rows, bounded, and never the reason for losing a row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Report, Row, read_rows
from pdr_dspy.evaluation.run_folder import ROWS
from pdr_dspy.evaluation.texts import LONGEST, TEXTS, Room, RowTexts, TextFile, clipped, read_texts, texts_of
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.testing import ScriptedRequest
from pdr_dspy.verifiers.base import Score
from tests.evaluation.test_evaluator import QA, SMALL, run
from tests.support.solver import engine, role_of, solver


def of(folder: Path, report: Report) -> dict[tuple[str, int], RowTexts]:
    return read_texts(folder / TEXTS, report.rows)


class IsOne:
    """A check: the answer is 1."""

    async def acheck(self, inputs: Any, outputs: Any) -> Score:
        right = outputs["answer"] == "1"
        return Score(float(right), "looked", feedback="" if right else f"{outputs['answer']} is not one of {inputs}")


def test_questions_drafts_feedback_and_workspaces_are_there_and_agree_with_the_rows(tmp_path: Path) -> None:
    seen: list[str] = []

    def watched(request: ScriptedRequest) -> str:
        reply = solver(request)
        seen.append(request.user if role_of(request) == "refine" else reply)
        return reply

    program = PDR(QA, **SMALL, check=IsOne())
    report = run(program, engine(watched), run_dir=tmp_path, repeats=2)
    found = of(tmp_path, report)
    assert set(found) == {(row.id, row.repeat) for row in report.rows}
    for row in report.rows:
        texts = found[row.id, row.repeat]
        assert texts.inputs == {"question": f"q{row.id[1:]}"}
        first, last = texts.rounds
        assert [len(first.drafts), len(last.drafts)] == [3, 1]
        for round_, graded in zip(texts.rounds, row.rounds, strict=True):
            for draft, judged in zip(round_.drafts, graded.drafts, strict=True):
                assert draft.text.endswith(f"Answer: {judged.answer}")
                assert draft.check is not None
                assert draft.check.value == float(judged.answer == "1")
                assert ("is not one of" in draft.check.feedback) is (judged.answer != "1")
        assert texts.solution == last.drafts[0].text
        (workspace,) = first.workspaces
        assert workspace
        assert any(workspace.splitlines()[0] in text for text in seen)


def test_another_module_keeps_its_question_and_its_reasoning(tmp_path: Path) -> None:
    report = run(dspy.ChainOfThought(QA), engine(_dspy), run_dir=tmp_path)
    texts = of(tmp_path, report)["e1", 0]
    assert (texts.inputs, texts.solution, texts.rounds) == ({"question": "q1"}, "because", ())


def _dspy(request: ScriptedRequest) -> str:
    return "[[ ## reasoning ## ]]\nbecause\n\n[[ ## answer ## ]]\n1\n\n[[ ## completed ## ]]"


def test_a_failed_run_keeps_its_question(tmp_path: Path) -> None:
    class Fails(dspy.Module):
        async def aforward(self, question: str) -> dspy.Prediction:
            raise ValueError(question)

    report = run(Fails(), run_dir=tmp_path)
    assert report.failed == 6
    assert of(tmp_path, report)["e3", 0].inputs == {"question": "q3"}


def test_an_image_is_named_and_not_kept() -> None:
    image = dspy.Image("data:image/png;base64," + "A" * 5000)
    texts = texts_of("e", 0, {"picture": image, "tags": ["a", 1]}, None)
    assert texts.inputs == {"picture": "[image_url]", "tags": '["a", 1]'}


def test_a_long_text_keeps_its_two_ends() -> None:
    text = "begin" + "x" * (2 * LONGEST) + "Answer: 4"
    short = clipped(text)
    assert len(short) < LONGEST + 60
    assert short.startswith("begin")
    assert short.endswith("Answer: 4")
    assert f"{len(text) - LONGEST:,} characters left out" in short
    assert clipped("a\0b\ud800") == clipped(clipped("a\0b\ud800"))
    clipped("a\0b\ud800").encode()


@pytest.mark.parametrize("most", [0, 1, 900, 10**7])
@pytest.mark.slow
def test_the_file_stays_within_its_bound_and_rows_are_all_there(tmp_path: Path, most: int) -> None:
    report = run(run_dir=tmp_path, max_text_bytes=most)
    size = (tmp_path / TEXTS).stat().st_size if (tmp_path / TEXTS).exists() else 0
    assert size <= most
    assert len(read_rows(tmp_path / ROWS)) == len(report.rows) == 6
    kept = len(of(tmp_path, report))
    assert kept == (6 if most == 10**7 else 0) or (most == 900 and 0 < kept < 6)
    more = run(run_dir=tmp_path, max_text_bytes=most, repeats=2)  # the bound is on the file, not on a process
    assert ((tmp_path / TEXTS).stat().st_size if size else 0) <= most
    assert len(of(tmp_path, more)) >= kept


def test_the_bound_must_be_a_size() -> None:
    with pytest.raises(ConfigError, match="max_text_bytes"):
        run(max_text_bytes=-1)


@pytest.mark.parametrize(
    "damage", [b"", b"\0" * 30, b"[1]", b"{}", b'{"id":"e1","repeat":0,"mood":1}', b"\xff\xfe", b"[" * 5000]
)
def test_a_damaged_line_costs_the_texts_of_one_row(tmp_path: Path, damage: bytes) -> None:
    report = run(run_dir=tmp_path)
    lines = (tmp_path / TEXTS).read_bytes().split(b"\n")
    (tmp_path / TEXTS).write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    assert len(of(tmp_path, report)) == 5
    again = run(run_dir=tmp_path)
    assert again.paid == 0
    assert len(again.rows) == 6


def test_a_torn_end_is_not_mixed_with_what_comes_after(tmp_path: Path) -> None:
    first = run(run_dir=tmp_path)
    whole = (tmp_path / TEXTS).read_bytes()
    (tmp_path / TEXTS).write_bytes(whole[:-20])
    assert len(of(tmp_path, first)) == 5
    report = run(run_dir=tmp_path, repeats=2)
    assert len(of(tmp_path, report)) == 11


def test_texts_of_another_evaluation_or_of_another_try_are_not_taken_for_a_rows(tmp_path: Path) -> None:
    report = run(run_dir=tmp_path)
    row = next(row for row in report.rows if row.id == "e1")
    other = row.model_copy(update={"evaluation": "another"})
    shorter = row.model_copy(update={"rounds": row.rounds[:1]})
    assert read_texts(tmp_path / TEXTS, [row])
    assert not read_texts(tmp_path / TEXTS, [other])
    assert not read_texts(tmp_path / TEXTS, [shorter])
    assert not read_texts(tmp_path / "nothing", [row])
    assert not read_texts(tmp_path, [row])


def test_where_texts_cannot_be_written_the_evaluation_continues(tmp_path: Path) -> None:
    (tmp_path / TEXTS).mkdir()
    report = run(run_dir=tmp_path)
    assert len(read_rows(tmp_path / ROWS)) == 6
    assert report.failed == 0


def test_a_full_disk_costs_texts_and_no_row(tmp_path: Path) -> None:
    file = TextFile(Path("/dev/full"), Room(tmp_path, 1000))
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    for place in range(3):
        file.keep(RowTexts(id=str(place), repeat=0))
    file.close()
    assert file.left_out == 3


def test_nothing_is_written_without_a_folder_or_for_rows_that_are_there(tmp_path: Path) -> None:
    program = LongCoT(QA, draft_tokens=60)
    run(program, run_dir=tmp_path, max_text_bytes=0)
    assert not (tmp_path / TEXTS).exists()
    run(program, run_dir=tmp_path)
    assert not (tmp_path / TEXTS).exists()
    row = Row(id="e0", repeat=0, seed=0, score=0.0)
    assert read_texts(tmp_path / TEXTS, [row]) == {}


def test_one_bound_holds_for_all_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "trials" / "0000").mkdir(parents=True)
    (tmp_path / "trials" / "0000" / TEXTS).write_bytes(b"x" * 400)
    room = Room(tmp_path, 1000)
    files = [TextFile(tmp_path / place / TEXTS, room) for place in ("trials/0001", "confirm/a/student")]
    for place in range(20):
        for file in files:
            file.keep(RowTexts(id=str(place), repeat=0, solution="some text"))
    for file in files:
        file.close()
    sizes = [path.stat().st_size for path in tmp_path.rglob(TEXTS)]
    assert len(sizes) == 3
    assert 900 < sum(sizes) <= 1000
    assert all(file.left_out for file in files)
