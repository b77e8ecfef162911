"""Boards: written once, claimed by one, and what is left after a kill, a torn line, a full disk, a lost connection."""

from __future__ import annotations

import collections
import errno
import fcntl
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.errors import ConfigError, MissingExtra, StoreError
from pdr_dspy.runtime import postgres as pg
from pdr_dspy.runtime.postgres import Database
from pdr_dspy.search.workers.coordination import Board, FolderBoard, MemoryBoard, PostgresBoard, open_board
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHARED = ["folder", pytest.param("postgres", marks=pytest.mark.xdist_group("postgres"))]
postgresql = pytest.mark.xdist_group("postgres")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder or a database, by the test's parameter."""
    return request.getfixturevalue("postgres").database() if request.param == "postgres" else str(tmp_path / "board")


@pytest.fixture(params=["memory", *SHARED])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Board]:
    storage: Any = {"memory": None, "folder": tmp_path / "board"}.get(request.param)
    if request.param == "postgres":
        storage = request.getfixturevalue("postgres").database()
    with open_board(storage, study="search") as opened:
        yield opened


def journal(folder: str | Path) -> Path:
    return Path(folder) / "board.journal"


# --- every board ---


def test_the_first_writer_of_a_document_wins(board: Board) -> None:
    assert board.get("a") is None
    assert board.put("a", "first") == "first"
    assert board.put("a", "second") == "first"
    assert board.get("a") == "first"


def test_any_text_comes_back_as_it_was(board: Board) -> None:
    texts = ["", "line\nline\r\n\u2028", "nul \0", "half \ud800 a pair", "👍é", "[1, 2]", "x" * 100_000]
    for number, text in enumerate(texts):
        board.put(f"text {number}", text)
    assert list(board.read("text ").values()) == texts


def test_documents_are_read_by_the_start_of_their_names_in_order(board: Board) -> None:
    for name in ("b/2", "a/1", "b/10", "b", "c/1", "b/1"):
        board.put(name, name.upper())
    assert list(board.read("b/").items()) == [("b/1", "B/1"), ("b/10", "B/10"), ("b/2", "B/2")]
    assert len(board.read("")) == 6
    assert board.read("nothing") == {}


def test_one_worker_at_a_time_holds_a_claim_and_none_once_the_document_is_there(board: Board) -> None:
    first = board.claim("a")
    assert first is not None
    assert board.claim("a") is None
    with first:
        assert not first.lost
    first.release()  # a second time does nothing
    second = board.claim("a")
    assert second is not None
    with second:
        board.put("a", "done")
    assert board.claim("a") is None


def test_a_claim_is_given_back_when_its_work_fails(board: Board) -> None:
    claim = board.claim("a")
    assert claim is not None
    with pytest.raises(ZeroDivisionError), claim:
        raise ZeroDivisionError
    again = board.claim("a")
    assert again is not None
    again.release()


def test_threads_share_a_board(board: Board) -> None:
    done: list[str] = []

    def work() -> None:
        for number in range(40):
            claim = board.claim(f"u/{number}")
            if claim is not None:
                with claim:
                    board.put(claim.name, "x")
                    done.append(claim.name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(board.read("u/"))
    assert len(done) == 40


def test_waiting_ends(board: Board) -> None:
    for _ in range(3):
        board.wait(0.01)
    board.put("a", "x")
    assert board.get("a") == "x"


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\ud800", "x" * 201])
def test_a_name_that_not_every_board_can_keep_is_refused(board: Board, name: str) -> None:
    for use in (board.claim, lambda given: board.put(given, "text")):
        with pytest.raises(ConfigError, match="1 to 200 printable"):
            use(name)


# --- boards that are shared ---


@pytest.mark.parametrize("place", SHARED, indirect=True)
def test_two_boards_over_one_place(place: str) -> None:
    with open_board(place, study="s") as one, open_board(place, study="s") as other:
        claim = one.claim("a")
        assert claim is not None
        assert other.claim("a") is None
        with claim:
            one.put("a", "from one")
        assert (other.put("a", "from other"), other.get("a")) == ("from one", "from one")
        one.put("b", "x")
        assert set(other.read("")) == {"a", "b"}
        held = other.claim("c")
        assert held is not None
        assert one.claim("c") is None
    with open_board(place, study="s") as again:
        assert set(again.read("")) == {"a", "b"}
        assert again.claim("c") is not None  # closing a board gives its claims back


@pytest.mark.parametrize("place", SHARED, indirect=True)
def test_a_waiter_is_woken_by_a_document(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdr_dspy.search.workers.folder.LONGEST_WAIT", 600.0)
    with open_board(place, study="s") as one, open_board(place, study="s") as other:
        other.wait(0)
        other.read("")
        writer = threading.Thread(target=one.put, args=("a", "x"))
        writer.start()
        while other.get("a") is None:
            other.wait(600)
        writer.join()


def run_plan(tmp_path: Path, **plan: Any) -> Any:
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, str(HERE / "board_workers.py"), str(tmp_path / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


DEATHS = {"0": [1, "working"], "2": [3, "in put"], "3": [2, "claimed"], "5": [4, "after put"], "6": [2, "working"]}
"""Workers that are killed: at which of their claims, and where."""


@pytest.mark.parametrize("place", SHARED, indirect=True)
def test_eight_workers_of_which_some_are_killed_do_everything_once(place: str, tmp_path: Path) -> None:
    deaths = {
        worker: [claim, "working" if pg.is_url(place) and at == "in put" else at]
        for worker, (claim, at) in DEATHS.items()
    }
    names = [f"unit/{number}" for number in range(120)]
    (tmp_path / "logs").mkdir()
    ended = run_plan(
        tmp_path, mode="share", place=place, logs=str(tmp_path / "logs"), names=names, workers=8, deaths=deaths
    )
    assert ended["failed"] == []
    assert set(ended["killed"]) == {0, 2, 3, 5, 6}

    logs = {path.name: path.read_text().splitlines() for path in (tmp_path / "logs").iterdir()}
    said = collections.Counter(line for lines in logs.values() for line in lines)
    unfinished = {  # what a killed worker had begun and not put
        logs[str(worker)][-1].removeprefix("start ")
        for worker in ended["killed"]
        if deaths[str(worker)][1] in ("working", "in put")
    }
    with open_board(place, study="search") as board:
        assert set(board.read("")) == set(names)
        by = {name: json.loads(text)["by"] for name, text in board.read("unit/").items()}
        for name in names:
            assert said[f"put {name}"] == 1
            assert f"put {name}" in logs[by[name]]
            assert said[f"found {name}"] == 0  # nobody's work was for nothing
            assert said[f"start {name}"] == 1 + (name in unfinished)
        extra = board.claim("unit/new")
        assert extra is not None
        extra.release()
    if not pg.is_url(place):
        lines = journal(place).read_text().splitlines()[1:]
        assert sorted(json.loads(line[9:])[0] for line in lines) == sorted(names)
        for left in (Path(place) / "claims").iterdir():
            with left.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if somebody still held it


@pytest.mark.parametrize("place", SHARED, indirect=True)
def test_a_kill_in_the_middle_of_a_put_loses_nothing_that_was_put(place: str, tmp_path: Path) -> None:
    lost, told = run_plan(tmp_path, mode="acknowledge", place=place, points=50, seed=7)
    assert lost == []
    assert len(told) >= 50
    with open_board(place, study="search") as board:
        assert set(told) <= set(board.read(""))
        assert len(board.read("after/")) == 50


# --- the folder ---


def test_a_journal_that_was_cut_off_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    texts = {f"n/{number:02}": "é" * number for number in range(12)}
    with FolderBoard(tmp_path / "whole") as board:
        for name, text in texts.items():
            board.put(name, text)
    data = journal(tmp_path / "whole").read_bytes()
    header = data.index(b"\n") + 1
    folder = tmp_path / "cut"
    with FolderBoard(folder):
        pass
    last = data[:-1].rfind(b"\n")
    for cut in sorted({*range(header, len(data), 13), *range(last, len(data) + 1)}):
        journal(folder).write_bytes(data[:cut])
        whole = data[:cut].count(b"\n") - 1
        with FolderBoard(folder) as board:
            assert board.read("") == dict(list(texts.items())[:whole])
            board.put("new", "text")
        with FolderBoard(folder) as board:
            assert len(board.read("")) == whole + 1


def test_a_torn_line_is_dropped_by_the_next_writer_and_not_taken_for_one_by_a_reader(tmp_path: Path) -> None:
    with FolderBoard(tmp_path) as one, FolderBoard(tmp_path) as other:
        one.put("a", "x")
        whole = journal(tmp_path).stat().st_size
        one.put("b", "y")
        line = journal(tmp_path).read_bytes()[whole:]
        os.truncate(journal(tmp_path), whole + 10)
        assert other.read("") == {"a": "x"}
        assert other.put("c", "z") == "z"
        assert line not in journal(tmp_path).read_bytes()
        assert set(other.read("")) == {"a", "c"}


def test_a_torn_line_that_a_writer_drops_while_another_reads_it_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FolderBoard(tmp_path) as writer, FolderBoard(tmp_path) as reader:
        writer.put("a", "x")
        whole = journal(tmp_path).stat().st_size
        with journal(tmp_path).open("ab") as file:
            file.write(b"01234567 [")
        pread = os.pread

        def late(file: int, size: int, start: int) -> bytes:
            os.truncate(journal(tmp_path), whole)  # as the writer does, after the reader asked for the size
            return pread(file, size, start)

        monkeypatch.setattr(os, "pread", late)
        assert reader.read("") == {"a": "x"}


def test_a_last_line_of_zeros_or_with_a_wrong_sum_is_dropped(tmp_path: Path) -> None:
    with FolderBoard(tmp_path) as board:
        board.put("a", "x")
    good = journal(tmp_path).read_bytes()
    for tail in (b"\0" * 700, b"\0" * 20 + b"\n", b'00000000 ["b", "y"]\n', b"foreign\n"):
        journal(tmp_path).write_bytes(good + tail)
        with FolderBoard(tmp_path) as board:
            assert board.read("") == {"a": "x"}
        assert journal(tmp_path).read_bytes() == good


@pytest.mark.parametrize("bad", [b'"X"', b'"\n"', b"\0\0\0", b"\xff\xff\xff", b"\n\n\n"])
def test_damage_before_whole_lines_costs_its_document_alone(
    tmp_path: Path, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with FolderBoard(tmp_path) as board:
        for name in "abc":
            board.put(name, f"{name}x")
        data = journal(tmp_path).read_bytes()
        place = data.index(b'"bx"')
        damaged = data[:place] + bad + data[place + 3 :]
        journal(tmp_path).write_bytes(damaged)
    with FolderBoard(tmp_path) as board:
        assert board.read("") == {"a": "ax", "c": "cx"}
        assert board.damaged >= 1
        assert "damaged at byte" in caplog.text
        claim = board.claim("b")
        assert claim is not None
        with claim:
            assert board.put("b", "again") == "again"
        assert journal(tmp_path).read_bytes().startswith(damaged)  # nothing is taken away
    with FolderBoard(tmp_path) as board:
        assert board.read("") == {"a": "ax", "b": "again", "c": "cx"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b'{"board": 1', "is not the journal of a board"),
        (b"id,score\n1,2\n", "is not the journal of a board"),
        (b"\xff\xfe\n", "is not the journal of a board"),
        (b"[1]\n", "is not the journal of a board"),
        (b'{"board": 99, "study": "pdr"}\n', "version 99, this library reads 1"),
        (b'{"board": 1, "study": "lcm"}\n', "study 'lcm', not of 'pdr'"),
    ],
)
def test_a_file_that_is_no_board_is_named_and_left_alone(tmp_path: Path, content: bytes, why: str) -> None:
    journal(tmp_path).write_bytes(content)
    with pytest.raises(StoreError, match=why) as error:
        FolderBoard(tmp_path)
    assert str(journal(tmp_path)) in str(error.value)
    assert "\n" not in str(error.value)
    assert journal(tmp_path).read_bytes() == content


def test_a_journal_that_vanished_or_shrank_while_in_use_is_reported(tmp_path: Path) -> None:
    with FolderBoard(tmp_path) as board:
        board.put("a", "x")
        os.truncate(journal(tmp_path), 30)
        with pytest.raises(StoreError, match="shorter"):
            board.put("b", "y")
        journal(tmp_path).unlink()
        with pytest.raises(StoreError, match="removed or replaced"):
            board.put("b", "y")


@pytest.mark.parametrize("room", [0, 1, 9, 40])
def test_a_full_disk_is_reported_and_leaves_no_half_line(tmp_path: Path, room: int) -> None:
    with FolderBoard(tmp_path) as board, FolderBoard(tmp_path) as other:
        board.put("a", "x")
        before = journal(tmp_path).read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, hard))
        try:
            with pytest.raises(StoreError, match=r"board\.journal cannot be written: " + os.strerror(errno.EFBIG)):
                board.put("b", "y" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert journal(tmp_path).read_bytes() == before
        assert board.get("b") is None
        assert other.put("b", "later") == "later"
        assert board.put("b", "y") == "later"


def test_a_folder_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        FolderBoard(tmp_path / "file")
    (tmp_path / "board.journal").mkdir()
    with pytest.raises(StoreError, match=r"board\.journal.*cannot be opened"):
        FolderBoard(tmp_path)


def test_a_locked_journal_is_an_error_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdr_dspy.search.workers.folder.LOCKED_FOR", 0.01)
    with FolderBoard(tmp_path) as board, (tmp_path / "board.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"board\.lock is locked by another process"):
            board.put("a", "x")
        fcntl.flock(file, fcntl.LOCK_UN)
        assert board.put("a", "x") == "x"


def test_a_claim_whose_file_was_removed_is_lost(tmp_path: Path) -> None:
    with FolderBoard(tmp_path) as board, FolderBoard(tmp_path) as other:
        claim = board.claim("a")
        assert claim is not None
        (file,) = (tmp_path / "claims").iterdir()
        file.unlink()
        assert claim.lost
        again = other.claim("a")
        assert again is not None
        claim.release()
        assert not again.lost
        again.release()
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_closed_board_says_so(tmp_path: Path) -> None:
    board = FolderBoard(tmp_path)
    board.close()
    board.close()
    for use in (lambda: board.read(""), lambda: board.put("a", "x"), lambda: board.claim("a")):
        with pytest.raises(StoreError, match="is closed"):
            use()


def test_a_waiter_is_woken_when_a_killed_worker_gives_its_claim_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdr_dspy.search.workers.folder.LONGEST_WAIT", 600.0)
    holder = "import sys, time\nfrom pdr_dspy.search.workers.folder import FolderBoard\n"
    holder += "claim = FolderBoard(sys.argv[1]).claim('a')\nprint(claim.name, flush=True)\ntime.sleep(600)"
    command = [sys.executable, "-c", holder, str(tmp_path)]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process,
        FolderBoard(tmp_path) as board,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"a\n"
        assert board.claim("a") is None
        process.kill()
        board.wait(600)
        claim = board.claim("a")
        assert claim is not None
        claim.release()


# --- PostgreSQL ---


@postgresql
def test_studies_in_one_database_are_apart(postgres: PostgresServer) -> None:
    url = postgres.database()
    with PostgresBoard(url, "one") as one, PostgresBoard(url, "two") as two:
        assert one.put("a", "1") == "1"
        assert two.put("a", "2") == "2"
        assert one.read("") == {"a": "1"}
        first, second = one.claim("b"), two.claim("b")
        assert first is not None
        assert second is not None


@postgresql
def test_a_lease_that_is_not_renewed_runs_out_on_the_servers_clock(postgres: PostgresServer) -> None:
    url = postgres.database()
    with PostgresBoard(url, "s") as holder, PostgresBoard(url, "s") as other, Database(url) as clock:
        claim = holder.claim("a")
        assert claim is not None
        assert other.claim("a") is None
        clock.run(lambda connection: connection.execute("UPDATE pdr_claims SET expires = expires - interval '1 hour'"))
        other.wait(600)  # the first time it begins to listen
        other.wait(600)  # returns: the lease may have run out
        taken = other.claim("a")
        assert taken is not None
        claim.release()  # gives back nothing that is another's by now
        assert holder.claim("a") is None
        taken.release()


@postgresql
def test_a_worker_learns_that_it_lost_its_lease_and_another_keeps_its_own(postgres: PostgresServer) -> None:
    url = postgres.database()
    with PostgresBoard(url, "s", lease=0.3) as holder, Database(url) as clock:
        lost, kept = holder.claim("lost"), holder.claim("kept")
        assert lost is not None
        assert kept is not None
        clock.run(lambda connection: connection.execute("UPDATE pdr_claims SET holder = 'x' WHERE name = 'lost'"))
        written = "SELECT expires FROM pdr_claims WHERE name = 'kept'"
        before = clock.run(lambda connection: connection.execute(written).fetchone())
        while not lost.lost or clock.run(lambda connection: connection.execute(written).fetchone()) == before:
            holder.wait(0.05)
        assert holder.put("lost", "x") == "x"  # harmless: the first to come


@postgresql
def test_lost_connections_are_opened_again(postgres: PostgresServer) -> None:
    url = postgres.database()
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with PostgresBoard(url, "s") as board, Database(url) as other:
        board.wait(0)
        claim = board.claim("a")
        assert claim is not None
        for number in range(3):
            assert len(other.run(lambda connection: connection.execute(cut).fetchall())) >= 2
            board.put(f"n/{number}", "x")
            board.wait(0.01)
        assert len(board.read("n/")) == 3
        assert not claim.lost
        claim.release()


@postgresql
def test_a_server_that_stays_away_is_one_sentence_without_the_password(own_postgres: PostgresServer) -> None:
    url = own_postgres.database().replace("postgres@", "postgres:s3cret%40@")
    with PostgresBoard(url, "s", patience=0.1) as board:
        board.put("a", "x")
        own_postgres.stop()
        with pytest.raises(StoreError, match=r"did not come back within 0\.1 s") as error:
            board.put("b", "y")
        assert "s3cret" not in str(error.value)
        assert board.get("a") == "x"
        own_postgres.start()
        assert board.put("b", "y") == "y"
        claim = board.claim("c")
        assert claim is not None
        own_postgres.stop()
        claim.release()  # it runs out by itself


@postgresql
def test_tables_of_another_version_are_refused(postgres: PostgresServer) -> None:
    url = postgres.database()
    PostgresBoard(url, "s").close()
    with Database(url) as database:
        database.run(lambda connection: connection.execute("UPDATE pdr_versions SET version = 9"))
    with pytest.raises(StoreError, match=r"documents in .* are of version 9, this library reads 1"):
        PostgresBoard(url, "s")


@postgresql
def test_late_commits_are_not_overlooked(postgres: PostgresServer) -> None:
    import psycopg

    url = postgres.database()
    with PostgresBoard(url, "s") as board, psycopg.connect(pg.libpq_url(url)) as slow:
        slow.execute("INSERT INTO pdr_documents (study, name, content) VALUES ('s', 'slow', 'x')")
        board.put("quick", "x")
        assert set(board.read("")) == {"quick"}
        slow.commit()
        assert set(board.read("")) == {"quick", "slow"}


@postgresql
def test_optuna_and_boards_share_a_database_under_either_spelling(postgres: PostgresServer) -> None:
    import optuna

    url = postgres.database()
    sqlalchemy = pg.sqlalchemy_url(url)
    assert pg.libpq_url(sqlalchemy) == url
    with PostgresBoard(sqlalchemy, "s") as board, PostgresBoard(url, "s") as other:
        board.put("a", "x")
        assert other.get("a") == "x"
        storage = optuna.storages.RDBStorage(sqlalchemy)
        study = optuna.create_study(storage=storage, study_name="s")
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        assert len(study.trials) == 2
        storage.remove_session()
        storage.engine.dispose()


# --- opening ---


def test_a_url_is_shown_without_its_password() -> None:
    for url, as_shown in [
        (
            "postgresql://u:s3cret@h:5/d?sslmode=require&password=s3cret&host=/tmp",
            "postgresql://u@h:5/d?sslmode=require&host=/tmp",
        ),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql:///d?host=/tmp", "postgresql:///d?host=/tmp"),
        ("postgresql://u:s3/cret@h/d", "postgresql://..."),
        ("mysql://u:s3:cret@h/d", "mysql://u@h/d"),
    ]:
        assert pg.shown(url) == as_shown


def test_storages_by_their_kind(tmp_path: Path) -> None:
    with open_board(None, study="s") as memory, open_board(tmp_path, study="s") as folder:
        assert isinstance(memory, MemoryBoard)
        assert isinstance(folder, FolderBoard)
    for storage in ("sqlite:///study.db", "mysql://u:s3cret@h/db", 5):
        with pytest.raises(ConfigError, match="cannot be shared by workers") as error:
            open_board(storage, study="s")  # type: ignore[arg-type]
        assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret/s3cret@h/db",
        "postgresql://u:s3cret?s3cret@h/db",
        "postgresql://u:s3cret@[h/db",
        "postgresql://u:s3cret@h/db?nonsense=1",
        "postgresql://u:s3cret%@h/db",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as error:
        open_board(url, study="s")
    assert "s3cret" not in str(error.value)


def test_a_server_that_is_not_there_is_reported_at_once_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be used: .*No such file") as error:
        open_board(f"postgresql://u:s3cret@/db?host={tmp_path}&password=s3cret2", study="s")
    assert "s3cret" not in str(error.value)


def test_what_to_install_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r'pip install "pdr-dspy\[postgres\]"'):
        open_board("postgresql://u@h/db", study="s")


def test_a_lease_has_a_length() -> None:
    with pytest.raises(ConfigError, match="lease"):
        PostgresBoard("postgresql://u@h/db", "s", lease=0)
