"""Notes, files and the plot that a mirrored search has for optuna-dashboard, read by its public API."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta

from pdr_dspy.search.dashboard import ARTIFACTS, front_figure, note_of, note_of_search
from tests.search.test_optuna_mirror import RECORDS, mirrored, study_of


def test_a_note_has_program_interval_and_cost() -> None:
    note = note_of(RECORDS[1].model_copy(update={"instructions": {"draft": "Think.\nThen | write."}, "failed": 2}))
    assert str(RECORDS[1].candidate) in note
    assert "| score | 0.700, 95 % 0.000 to 1.000, 8 runs" in note
    assert "| B_seq, mean | 200 tokens |" in note
    assert "| B_total, mean | 300 tokens |" in note
    assert "> Then | write." in note
    assert "without an answer | 2" in note
    assert "| dropped | worse than trial 0" in note_of(RECORDS[2])


def test_the_note_of_the_study_is_the_front() -> None:
    note = note_of_search(RECORDS)
    rows = [line for line in note.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row[2] for row in rows] == ["0", "1"]  # trial 2 was dropped, trial 3 is dearer and worse than trial 1
    unknown = RECORDS[0].model_copy(update={"number": 9, "pooled": math.nan})
    assert "| 9 |" not in note_of_search([*RECORDS, unknown])
    assert "0 programs" in note_of_search([])


def test_the_plot_shows_the_front_and_the_others_with_intervals() -> None:
    figure = front_figure(RECORDS)
    traces = {(trace.name, trace.xaxis): trace for trace in figure.data}
    assert list(traces["front", "x"].x) == [100.0, 300.0]
    assert list(traces["front", "x2"].x) == [100.0, 200.0]
    assert list(traces["measured", "x"].x) == [1700.0]
    assert traces["front", "x"].error_y.array[0] == pytest.approx(0.196)
    assert front_figure(RECORDS[2:3]) is None


@pytest.mark.slow
def test_a_study_has_them_once_and_as_they_are_now(tmp_path: Path) -> None:
    best = tmp_path / "best.json"
    best.write_text("{}")
    mirrored(tmp_path, RECORDS[:2], files=[best])
    first = study_of(tmp_path)
    assert optuna_dashboard.get_note(first) == note_of_search(RECORDS[:2])
    mirrored(tmp_path, RECORDS, files=[best])
    best.write_text('{"better": 1}')
    mirrored(tmp_path, RECORDS, files=[best])
    study = study_of(tmp_path)
    assert optuna_dashboard.get_note(study) == note_of_search(RECORDS)
    store = FileSystemArtifactStore(str(tmp_path / ARTIFACTS))

    def contents(of: optuna.Study | optuna.trial.FrozenTrial) -> list[bytes]:
        found = []
        for meta in get_all_artifact_meta(of, storage=study._storage):
            with store.open_reader(meta.artifact_id) as reader:
                found.append(reader.read())
        return found

    assert contents(study) == [b"{}", b'{"better": 1}']
    trials = [trial for trial in study.get_trials() if trial.state.is_finished()]
    for trial in trials:
        (record,) = contents(trial)
        assert json.loads(record)["number"] == trial.user_attrs["number"]


def test_without_the_dashboard_a_study_is_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    mirrored(tmp_path)
    assert len([trial for trial in study_of(tmp_path).get_trials() if trial.state.is_finished()]) == len(RECORDS)


def test_without_plotly_there_are_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.subplots", None)
    mirrored(tmp_path)
    assert optuna_dashboard.get_note(study_of(tmp_path)) == note_of_search(RECORDS)
