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

from pdr_dspy.budget import Usage
from pdr_dspy.errors import StoreError
from pdr_dspy.rollouts import VERSION, Rollout, Rollouts, address

ROOT = Path(__file__).parent.parent


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

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("room", [0, 1, 25, 60])
def test_a_full_disk_is_said_and_spoils_nothing_that_was_written(tmp_path: Path, monkeypatch: Any, room: int) -> None:
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
from pdr_dspy.rollouts import Rollout, Rollouts
with Rollouts(sys.argv[1]) as store:
    for number in range(300):
        store.put(Rollout(key=f"{sys.argv[2]}-{number}", text="x" * (number % 50) * 100))
        store.put(Rollout(key=f"shared-{number}", text="same"))
"""


def test_processes_write_side_by_side(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, name], cwd=ROOT) for name in ("a", "b")]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    with Rollouts(tmp_path) as store:
        assert (len(store), store.torn) == (900, 0)


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
