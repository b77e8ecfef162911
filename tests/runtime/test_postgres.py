"""A connection to PostgreSQL: opened again when it is lost, of each process its own, and no password in any message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pdr_dspy.calls.store import Rollout, Rollouts
from pdr_dspy.errors import ConfigError, MissingExtra, StoreError
from pdr_dspy.runtime import postgres as pg
from pdr_dspy.runtime.postgres import Database
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.slow
postgresql = pytest.mark.xdist_group("postgres")
ROOT = Path(__file__).parents[2]
CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@postgresql
def test_lost_connections_are_opened_again(postgres: PostgresServer) -> None:
    url = postgres.database()
    with Rollouts(url) as store, Database(url) as other:
        for number in range(3):
            assert other.run(lambda connection: connection.execute(CUT).fetchall())
            store.put(Rollout(key=str(number), text="x"))
            assert other.run(lambda connection: connection.execute(CUT).fetchall())
            assert store.refresh() == 0
    with Rollouts(url) as again:
        assert len(again) == 3


FORK = """
import os, sys
from pdr_dspy.runtime.postgres import Database
with Database(sys.argv[1]) as database:
    number = lambda: database.run(lambda connection: connection.execute("SELECT pg_backend_pid()").fetchone())
    mine = number()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if number() not in (None, mine) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert number() == mine  # not ended by the child
"""


@postgresql
def test_a_forked_process_has_a_connection_of_its_own(postgres: PostgresServer) -> None:
    command = [sys.executable, "-c", FORK, postgres.database()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _number(connection: object) -> int | None:
    """The server's process behind a connection."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()  # type: ignore[attr-defined]
    return None if row is None else row[0]


@postgresql
def test_a_server_that_stays_away_is_one_sentence_without_the_password(own_postgres: PostgresServer) -> None:
    url = own_postgres.database().replace("postgres@", "postgres:s3cret%40@")
    with Database(url, patience=0.1) as database:
        own_postgres.stop()
        with pytest.raises(StoreError, match=r"did not come back within 0\.1 s") as error:
            database.run(_number)
        assert "s3cret" not in str(error.value)
        assert "\n" not in str(error.value)
        own_postgres.start()
        assert database.run(_number)


@postgresql
def test_late_commits_are_not_overlooked(postgres: PostgresServer) -> None:
    import psycopg

    url = postgres.database()
    with Rollouts(url) as store, Rollouts(url) as writer, psycopg.connect(pg.libpq_url(url)) as slow:
        line = b'{"key": "slow", "text": "x"}\n'
        slow.execute("INSERT INTO pdr_rollouts (key, record) VALUES ('slow', %s)", (line,))
        writer.put(Rollout(key="quick", text="x"))
        assert store.refresh() == 1
        slow.commit()
        assert store.refresh() == 1
        assert store.get("slow") is not None


@postgresql
def test_optuna_and_the_calls_share_a_database_under_either_spelling(postgres: PostgresServer) -> None:
    import optuna

    url = postgres.database()
    sqlalchemy = pg.sqlalchemy_url(url)
    assert pg.libpq_url(sqlalchemy) == url
    with Rollouts(sqlalchemy) as store, Rollouts(url) as other:
        store.put(Rollout(key="a", text="x"))
        assert other.refresh() == 1
        storage = optuna.storages.RDBStorage(sqlalchemy)
        study = optuna.create_study(storage=storage, study_name="s")
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        assert len(study.trials) == 2
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.parametrize(
    ("url", "as_shown"),
    [
        (
            "postgresql://u:s3cret@h:5/d?sslmode=require&password=s3cret&host=/tmp",
            "postgresql://u@h:5/d?sslmode=require&host=/tmp",
        ),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql:///d?host=/tmp", "postgresql:///d?host=/tmp"),
        ("postgresql://u:s3/cret@h/d", "postgresql://..."),
        ("mysql://u:s3:cret@h/d", "mysql://u@h/d"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, as_shown: str) -> None:
    assert pg.shown(url) == as_shown


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
        Database(url)
    assert "s3cret" not in str(error.value)


def test_a_server_that_is_not_there_is_said_at_once_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be used: .*No such file") as error:
        Database(f"postgresql://u:s3cret@/db?host={tmp_path}&password=s3cret2")
    assert "s3cret" not in str(error.value)


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r'pip install "pdr-dspy\[postgres\]"'):
        Database("postgresql://u@h/db")
