from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.calls.ledger import Usage
from pdr_dspy.calls.store import VERSION, Rollout, Rollouts, address
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.runtime.postgres import Database, sqlalchemy_url
from tests.support.postgres_server import PostgresServer

ROOT = Path(__file__).parents[2]


def rollout(number: int, text: str = "text") -> Rollout:
    return Rollout(key=f"key{number}", text=text, usage=Usage(input=3, output=number), seconds=0.5)


def segment(folder: Path) -> Path:
    (path,) = folder.glob("*.jsonl")
    return path


def test_what_is_put_is_found_again_by_another_store(tmp_path: Path) -> None:
    with Rollouts(tmp_path / "a" / "b") as store:
        store.put(rollout(1, "é \u2028 \ufffd 👍\r\n\ttail"))
        store.put(rollout(2))
        assert (len(store), "key2" in store, store.get("key3")) == (2, True, None)
    with Rollouts(tmp_path / "a" / "b") as again:
        assert again.get("key1") == rollout(1, "é \u2028 \ufffd 👍\r\n\ttail")
        assert (again.hits, again.torn, len(list(again))) == (1, 0, 2)


def test_the_first_completion_at_an_address_stays(tmp_path: Path) -> None:
    with Rollouts(tmp_path) as store:
        store.put(rollout(1, "first"))
        store.put(rollout(1, "second"))
    with Rollouts(tmp_path) as again:
        assert again.get("key1") == rollout(1, "first")


def test_a_torn_last_line_is_skipped_and_never_appended_to(tmp_path: Path) -> None:
    with Rollouts(tmp_path) as store:
        for number in range(3):
            store.put(rollout(number))
    whole = segment(tmp_path).read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        segment(tmp_path).write_bytes(whole[:cut])
        with Rollouts(tmp_path) as again:
            assert len(again) == 2
    with Rollouts(tmp_path) as again:
        again.put(rollout(2))
    with Rollouts(tmp_path) as third:
        assert len(third) == 3


@pytest.mark.parametrize("line", [b"[1]", b"5", b"null", b'{"key": 3}', b"\xff\xfe", b"", b'{"rollouts"', b"{" * 5000])
def test_a_line_that_is_no_record_is_skipped_and_counted(tmp_path: Path, line: bytes) -> None:
    with Rollouts(tmp_path) as store:
        store.put(rollout(1))
    good = segment(tmp_path).read_bytes()
    segment(tmp_path).write_bytes(good + line + b"\n" + rollout(2).model_dump_json().encode() + b"\n")
    with Rollouts(tmp_path) as again:
        assert len(again) == 2
        assert again.torn == 1


def test_a_segment_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text(json.dumps({"rollouts": VERSION + 1}) + "\n")
    with pytest.raises(StoreError, match=f"version {VERSION + 1}.*reads {VERSION}"):
        Rollouts(tmp_path)


def test_a_folder_that_cannot_be_made_or_written_is_refused_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="cannot be made"):
            Rollouts(folder)
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, to whom all is open
    with pytest.raises(StoreError, match="cannot be written"):
        Rollouts(tmp_path)


class FullDisk:
    """A raw file on a disk with room for some more bytes: takes a part, then nothing."""

    def __init__(self, inner: Any, room: int) -> None:
        self.inner, self.room = inner, room

    def write(self, data: Any) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = bytes(data)[: self.room]
        self.room -= len(part)
        return self.inner.write(part)

    def fileno(self) -> int:
        return self.inner.fileno()

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("room", [0, 1, 25, 60])
def test_a_full_disk_is_reported_and_spoils_nothing_that_was_written(
    tmp_path: Path, monkeypatch: Any, room: int
) -> None:
    opened = Path.open

    def full(path: Path, *args: Any, **kwargs: Any) -> Any:
        return FullDisk(opened(path, *args, **kwargs), room)

    with Rollouts(tmp_path) as store:
        store.put(rollout(1))
        store.close()
        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", full)
            with pytest.raises(StoreError, match="No space left"):
                store.put(rollout(2))
        assert store.get("key2") is not None
        store.put(rollout(3))
    with Rollouts(tmp_path) as again:
        assert {record.key for record in again} == {"key1", "key3"}


def test_others_writes_are_seen_after_a_refresh_and_half_a_line_when_it_is_whole(tmp_path: Path) -> None:
    with Rollouts(tmp_path) as one, Rollouts(tmp_path) as other:
        one.put(rollout(1))
        assert other.get("key1") is None
        assert other.refresh() == 1
        assert other.get("key1") == rollout(1)
        with segment(tmp_path).open("ab") as file:
            line = rollout(2).model_dump_json().encode() + b"\n"
            file.write(line[:20])
            file.flush()
            assert other.refresh() == 0
            file.write(line[20:])
        assert other.refresh() == 1
        assert other.torn == 0


WRITER = """
import sys
from pdr_dspy.calls.store import Rollout, Rollouts
with Rollouts(sys.argv[1]) as store:
    for number in range(300):
        store.put(Rollout(key=f"{sys.argv[2]}-{number}", text="x" * (number % 50) * 100))
        store.put(Rollout(key=f"shared-{number}", text="same"))
"""


@pytest.mark.slow
def test_processes_write_side_by_side(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    reader = Rollouts(tmp_path)
    writers = [subprocess.Popen([*command, name], cwd=ROOT) for name in "abcdefgh"]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        seen += reader.refresh()
    assert [writer.returncode for writer in writers] == [0] * 8
    seen += reader.refresh()
    assert (seen, len(reader), reader.torn, reader.refresh()) == (2700, 2700, 0, 0)
    with Rollouts(tmp_path) as store:
        assert (len(store), store.torn) == (2700, 0)


@pytest.mark.parametrize("text", ["nul \0", "half \ud800 a pair", "\udfff"])
def test_text_that_utf_8_cannot_hold_comes_back(tmp_path: Path, text: str) -> None:
    with Rollouts(tmp_path) as store:
        store.put(rollout(1, text))
    with Rollouts(tmp_path) as again:
        assert again.get("key1") == rollout(1, text)


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    with Rollouts(tmp_path) as store:
        threads = [
            threading.Thread(target=lambda part=part: [store.put(rollout(part * 50 + n)) for n in range(50)])
            for part in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Rollouts(tmp_path) as again:
        assert (len(again), again.torn) == (200, 0)


def test_the_address_does_not_depend_on_the_order_of_keys() -> None:
    assert address({"a": 1, "b": [1, "é"]}) == address({"b": [1, "é"], "a": 1})
    assert address({"a": 1}) != address({"a": 2})
    assert len(address({"a": "\ud800\x00"})) == 40


def test_a_storage_of_another_kind_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigError, match="give a folder, or") as error:
        Rollouts("mysql://u:s3cret@h/db")
    assert "s3cret" not in str(error.value)


# --- PostgreSQL ---

postgresql = pytest.mark.xdist_group("postgres")


@pytest.mark.slow
@postgresql
def test_a_database_keeps_rollouts_as_a_folder_does(postgres: PostgresServer) -> None:
    url = postgres.database()
    texts = ["é \u2028 👍\r\n\ttail", "nul \0", "half \ud800 a pair", ""]
    with Rollouts(url) as store:
        for number, text in enumerate(texts):
            store.put(rollout(number, text))
        store.put(rollout(0, "second"))
        assert (len(store), store.folder) == (4, None)
    with Rollouts(sqlalchemy_url(url)) as again:
        assert [again.get(f"key{number}") for number in range(4)] == [rollout(n, text) for n, text in enumerate(texts)]
        assert (again.hits, again.torn) == (4, 0)


@pytest.mark.slow
@postgresql
def test_what_others_put_in_a_database_is_seen_after_a_refresh(postgres: PostgresServer) -> None:
    url = postgres.database()
    with Rollouts(url) as one, Rollouts(url) as other:
        one.put(rollout(1, "first"))
        assert other.get("key1") is None
        assert (other.refresh(), other.refresh()) == (1, 0)
        assert other.get("key1") == rollout(1, "first")
        other.put(rollout(2))
        assert (other.refresh(), one.refresh()) == (0, 1)
        one.put(rollout(3, "first"))
        other.put(rollout(3, "second"))  # it did not know; the first stays
    with Rollouts(url) as again:
        assert again.get("key3") == rollout(3, "first")


@pytest.mark.slow
@postgresql
def test_threads_put_into_a_database(postgres: PostgresServer) -> None:
    url = postgres.database()
    with Rollouts(url) as store:
        threads = [
            threading.Thread(target=lambda part=part: [store.put(rollout(part * 25 + n)) for n in range(25)])
            for part in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Rollouts(url) as again:
        assert len(again) == 200


TELLER = """
import sys
from pdr_dspy.calls.store import Rollout, Rollouts
with Rollouts(sys.argv[1]) as store:
    for number in range(100_000):
        store.put(Rollout(key=str(number), text="x" * (number % 50) * 100))
        print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", pytest.param("postgres", marks=postgresql)])
def test_what_was_put_before_a_kill_is_there(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue("postgres").database() if kind == "postgres" else str(tmp_path)
    command = [sys.executable, "-c", TELLER, place]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as teller:
        assert teller.stdout is not None
        told = [teller.stdout.readline().strip() for _ in range(200)]
        teller.kill()
        told += [line.strip() for line in teller.stdout if line.endswith("\n")]
    with Rollouts(place) as store:
        assert all(store.get(key) is not None for key in told)
        assert len(store) - len(told) in (0, 1)


@pytest.mark.slow
@postgresql
def test_a_database_that_goes_away_is_reported_and_what_was_put_is_still_in_memory(
    own_postgres: PostgresServer,
) -> None:
    url = own_postgres.database()
    with Rollouts(f"{url}&connect_timeout=2", patience=0.1) as store:
        store.put(rollout(1))
        own_postgres.stop()
        with pytest.raises(StoreError, match="did not come back"):
            store.put(rollout(2))
        assert store.get("key2") == rollout(2)
        own_postgres.start()
        store.put(rollout(3))
    with Rollouts(url) as again:
        assert {record.key for record in again} == {"key1", "key3"}


@pytest.mark.slow
@postgresql
def test_a_table_of_another_version_is_refused(postgres: PostgresServer) -> None:
    url = postgres.database()
    Rollouts(url).close()
    with Database(url) as database:
        database.run(lambda connection: connection.execute("UPDATE pdr_versions SET version = 9"))
    with pytest.raises(StoreError, match=r"rollouts in .* are of version 9"):
        Rollouts(url)
