"""`pdr report` on folders that hold a run, hold none, or hold some below them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pdr_dspy.cli import report
from pdr_dspy.cli.app import app
from pdr_dspy.cli.display import Display
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.records import Row


def evaluation(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"repeats": 1}))
    row = Row(id="q", repeat=0, seed=0, score=1.0, answer="1", gold="1", sequential=10, total=20)
    (folder / "rows.jsonl").write_text(row.model_dump_json() + "\n")
    return folder


def search_under_way(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").touch()
    return folder


def test_the_page_of_an_evaluation_is_written(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "mine")
    shown = CliRunner().invoke(app, ["report", str(folder)])
    assert shown.exit_code == 0
    assert shown.stdout.strip() == str(folder / "report.html")
    assert "<title>mine</title>" in (folder / "report.html").read_text()


def test_a_folder_that_holds_nothing_says_which_below_it_do(tmp_path: Path) -> None:
    evaluation(tmp_path / "runs" / "b")
    inner = evaluation(tmp_path / "runs" / "a")
    evaluation(inner / "deeper")
    search_under_way(tmp_path / "runs" / "c")
    evaluation(tmp_path / ".hidden")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")  # of something else
    (tmp_path / "other" / "report.json").write_text("not JSON")
    with pytest.raises(StoreError) as told:
        report.write(tmp_path, None)
    first, *lines = str(told.value).splitlines()
    assert "holds no run itself" in first
    runs = tmp_path / "runs"
    assert [line.split() for line in lines] == [
        ["pdr", "report", str(runs / "a"), "an", "evaluation"],
        ["pdr", "report", str(runs / "b"), "an", "evaluation"],
        ["pdr", "report", str(runs / "c"), "a", "search", "that", "is", "not", "finished"],
    ]


def test_many_runs_are_counted(tmp_path: Path) -> None:
    for number in range(report.NAMED + 3):
        evaluation(tmp_path / f"{number:02d}")
    with pytest.raises(StoreError, match="and 3 more"):
        report.write(tmp_path, None)


def test_nothing_anywhere_no_folder_and_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nor does a folder below it; `pdr eval`"):
        report.write(tmp_path, None)
    with pytest.raises(StoreError, match="is not there"):
        report.write(tmp_path / "gone", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is not a folder"):
        report.write(tmp_path / "file", None)
    with pytest.raises(StoreError, match="holds a search that is not finished; run the same command again"):
        report.write(search_under_way(tmp_path / "half"), None)
    (tmp_path / "pair" / "program").mkdir(parents=True)
    (tmp_path / "pair" / "program" / "config.json").write_text("{}")
    with pytest.raises(StoreError, match="holds a comparison that is not finished"):
        report.write(tmp_path / "pair", None)


def test_a_page_that_cannot_be_written_does_not_fail_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluation(tmp_path / "mine")
    (tmp_path / "file").write_text("")
    assert report.write_page(folder, tmp_path / "file" / "page.html", Display()) is None
    assert "cannot be written" in capsys.readouterr().err
    assert report.write_page(folder, None, Display()) == folder / "report.html"
