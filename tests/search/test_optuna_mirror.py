"""The study that mirrors a search: one trial for each record, read by Optuna, repaired where that is safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pdr_dspy.errors import StoreError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.runtime.postgres import sqlalchemy_url
from pdr_dspy.search import Space
from pdr_dspy.search.optuna_mirror import JOURNAL, mirror
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.records import TrialRecord
from tests.support.postgres_server import PostgresServer

SPACE = Space(rounds=(1, 2), widths=(1, 2, 4), kappa=(200,), distiller=("random_k",), draft_tokens=(60,))
RECORDS = [
    TrialRecord(
        number=number,
        origin="student" if number == 0 else "search",
        state=state,
        schedule=Schedule(widths=widths, kappa=200, distiller="random_k", k=2, draft_tokens=60),
        score=score,
        pooled=score - 0.01,
        pooled_sd=0.1,
        sequential=100.0 * len(widths),
        total=100.0 * sum(widths),
        runs=8,
        dropped="worse than trial 0 after 8 runs" if state == "dropped" else None,
    )
    for number, (state, widths, score) in enumerate(
        [
            ("measured", (1,), 0.5),
            ("measured", (2, 1), 0.7),
            ("dropped", (4, 1), 0.2),
            ("measured", (16, 1), 0.6),  # not of the space
        ]
    )
]


def mirrored(folder: str | Path, records: list[TrialRecord] | None = None, **changes: Any) -> None:
    settings: dict[str, Any] = {"search": "mine", "space": SPACE, "limits": Limits(), **changes}
    name = settings.pop("name", "pdr")
    mirror(folder, name, RECORDS if records is None else records, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [b"", b"{", b"[1]", b"\0\0\0", b"\xff", b'{"a": 1}'])
def test_a_study_that_is_damaged_in_the_middle_is_put_aside_and_written_again(
    tmp_path: Path, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    mirrored(tmp_path)
    whole = facts(study_of(tmp_path))
    lines = (tmp_path / JOURNAL).read_bytes().split(b"\n")
    lines[3] = bad
    damaged = b"\n".join(lines)
    (tmp_path / JOURNAL).write_bytes(damaged)
    mirrored(tmp_path)
    assert facts(study_of(tmp_path)) == whole
    assert f"{JOURNAL}, line 4, is damaged" in caplog.text
    (aside,) = tmp_path.glob(f"{JOURNAL}.damaged-*")
    assert aside.read_bytes() == damaged


def study_of(folder: Path, name: str = "pdr") -> optuna.Study:
    journal = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    return optuna.load_study(study_name=name, storage=journal)


def facts(study: optuna.Study) -> list[Any]:
    finished = [trial for trial in study.get_trials() if trial.state.is_finished()]
    return sorted((t.user_attrs["number"], t.state.name, t.values, t.params) for t in finished)


def test_optuna_reads_values_states_and_parameters(tmp_path: Path) -> None:
    mirrored(tmp_path)
    study = study_of(tmp_path)
    assert study.direction.name == "MAXIMIZE"
    assert [(number, state) for number, state, *_ in facts(study)] == [
        (0, "COMPLETE"),
        (1, "COMPLETE"),
        (2, "PRUNED"),
        (3, "COMPLETE"),
    ]
    assert [trial.value for trial in study.trials if trial.state.name == "COMPLETE"] == [0.49, 0.69, 0.59]
    assert study.best_trial.user_attrs["number"] == 1
    for trial in study.trials:
        record = RECORDS[trial.user_attrs["number"]]
        if record.candidate in SPACE:
            assert trial.params == SPACE.params_of(record.candidate)
        else:
            assert trial.params == {}
        assert trial.user_attrs["dropped"] == record.dropped
        assert trial.user_attrs["runs"] == 8


@pytest.mark.slow
def test_limits_are_constraints_that_samplers_and_the_best_trial_respect(tmp_path: Path) -> None:
    mirrored(tmp_path, limits=Limits(None, 250))
    study = study_of(tmp_path)
    assert study.best_trial.user_attrs["number"] == 0  # trial 1 costs 300
    for trial in study.trials:
        record = RECORDS[trial.user_attrs["number"]]
        assert [value <= 0 for value in trial.constraints.values()] == [record.total <= 250]


def test_costs_are_objectives(tmp_path: Path) -> None:
    mirrored(tmp_path, costs=("sequential", "total"))
    study = study_of(tmp_path)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert facts(study)[1][2] == [0.69, 200.0, 300.0]
    assert {trial.user_attrs["number"] for trial in study.best_trials} == {0, 1}


@pytest.mark.slow
def test_a_second_time_adds_nothing_and_a_longer_search_its_new_trials(tmp_path: Path) -> None:
    mirrored(tmp_path, RECORDS[:2])
    before, known = (tmp_path / JOURNAL).read_bytes(), facts(study_of(tmp_path))
    mirrored(tmp_path, RECORDS[:2])
    assert facts(study_of(tmp_path)) == known
    assert len(study_of(tmp_path).trials) == 2
    mirrored(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes().startswith(before)  # only ever added to
    mirrored(tmp_path / "at once")
    assert facts(study_of(tmp_path)) == facts(study_of(tmp_path / "at once"))


@pytest.mark.slow
def test_cut_off_anywhere_it_is_made_whole(tmp_path: Path) -> None:
    mirrored(tmp_path / "whole")
    whole = facts(study_of(tmp_path / "whole"))
    data = (tmp_path / "whole" / JOURNAL).read_bytes()
    ends = [place for place, byte in enumerate(data) if byte == ord("\n")]
    for cut in [0, 5, 30, *(end + by for end in ends[::20] for by in (-3, 0, 1, 20))]:
        (tmp_path / JOURNAL).write_bytes(data[:cut])
        mirrored(tmp_path)
        assert facts(study_of(tmp_path)) == whole


@pytest.mark.slow
def test_a_lock_that_a_killed_process_left_is_taken_away(tmp_path: Path) -> None:
    mirrored(tmp_path, RECORDS[:2])
    (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)
    mirrored(tmp_path)
    assert len(facts(study_of(tmp_path))) == 4
    assert not (tmp_path / f"{JOURNAL}.lock").is_symlink()


@pytest.mark.parametrize("content", [b"id,score\n1,2\n", b"hello", b"[1]\n", b"\xff\xfe\n\0", b'{"a": 1}\n', b"\0"])
def test_a_file_that_is_no_study_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    with pytest.raises(
        StoreError, match=r"study\.journal, line 1, does not belong to a study; use another `run_dir`"
    ) as raised:
        mirrored(tmp_path)
    assert str(tmp_path / JOURNAL) in str(raised.value)
    assert (tmp_path / JOURNAL).read_bytes() == content


def test_a_folder_in_its_place_a_study_of_other_objectives_and_a_closed_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "a" / JOURNAL).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"a/study\.journal|the study in .*a cannot be written"):
        mirrored(tmp_path / "a")
    mirrored(tmp_path / "b", RECORDS[:2])
    with pytest.raises(StoreError, match=r"the study 'pdr' in .*b\S* has 1 objectives, this search has 2"):
        mirrored(tmp_path / "b", RECORDS, costs=("total",))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        mirrored(tmp_path / "file")


@pytest.mark.slow
def test_a_study_of_another_search_is_refused_and_left_alone(tmp_path: Path) -> None:
    mirrored(tmp_path, RECORDS[:2])
    before = facts(study_of(tmp_path))
    with pytest.raises(StoreError, match=r"the study 'pdr' in .* is of another search; use another `study`"):
        mirrored(tmp_path, search="yours")
    assert facts(study_of(tmp_path)) == before
    mirrored(tmp_path, search="yours", name="other")
    assert len(facts(study_of(tmp_path, "other"))) == 4


@pytest.mark.slow
def test_studies_of_two_names_lie_in_one_journal(tmp_path: Path) -> None:
    mirrored(tmp_path, RECORDS[:1], name="one")
    mirrored(tmp_path, name="two")
    assert (len(study_of(tmp_path, "one").trials), len(study_of(tmp_path, "two").trials)) == (1, 4)


@pytest.mark.slow
@pytest.mark.xdist_group("postgres")
def test_in_a_database(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.database()
    mirrored(url, RECORDS[:2])
    mirrored(url)
    mirrored(tmp_path)
    storage = optuna.storages.RDBStorage(sqlalchemy_url(url))
    study = optuna.load_study(study_name="pdr", storage=storage)
    try:
        assert facts(study) == facts(study_of(tmp_path))
        assert study.best_trial.user_attrs["number"] == 1
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.slow
def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be written") as raised:
        mirrored(f"postgresql://me:secret@/none?host={tmp_path}")
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
