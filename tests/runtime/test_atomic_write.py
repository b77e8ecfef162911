"""Whole files or none, and files of lines from which nothing is ever taken away."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.runtime import atomic_write
from pdr_dspy.runtime.atomic_write import Lines, local_path, whole_lines, write_whole


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_whole(path, "old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.json"
    write_whole(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_utf_8_cannot_hold_is_marked(tmp_path: Path) -> None:
    write_whole(tmp_path / "b.txt", "a \ud800 b")
    assert (tmp_path / "b.txt").read_text() == "a ? b"


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/x") == local_path(Path("~/x")) == tmp_path / "x"
    assert local_path("a/~x") == Path("a/~x")
    assert local_path("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")


# --- lines ---


def test_lines_are_there_for_others_when_append_returns(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "rows")
    assert not lines.path.exists()
    assert [lines.append(text) for text in (b"one", b"", b"three")] == [0, 4, 5]
    assert lines.path.read_bytes() == b"one\n\nthree\n"
    lines.close()
    assert lines.append(b"four") == 11
    lines.close()


@pytest.mark.parametrize("torn", [b"half", b"one\nha", b"\0\0"])
def test_half_a_line_gets_an_end_and_stays(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "rows"
    for mended in (False, True):
        path.write_bytes(torn)
        lines = Lines(path)
        if mended:
            lines.mend()
            assert path.read_bytes() == torn + b"\n"
        assert lines.append(b"next") == len(torn) + 1
        lines.close()
        assert path.read_bytes() == torn + b"\nnext\n"


def test_a_whole_file_needs_no_mending(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "rows")
    lines.mend()
    assert not lines.path.exists()
    for whole in (b"", b"one\n"):
        lines.path.write_bytes(whole)
        lines.mend()
        assert lines.path.read_bytes() == whole
    lines.close()


def test_what_a_full_disk_cut_off_is_followed_by_a_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(tmp_path / "rows")
    lines.append(b"one")
    room = [3, 0]
    file: Any = lines._file

    class Full:
        def fileno(self) -> int:
            return file.fileno()

        def write(self, data: bytes) -> int:
            part = room.pop(0)
            if not part:
                raise OSError(errno.ENOSPC, "No space left on device")
            return file.write(data[:part])

    with monkeypatch.context() as patched:
        patched.setattr(lines, "_file", Full())
        with pytest.raises(OSError, match="No space left"):
            lines.append(b"two two two")
    assert lines.path.read_bytes() == b"one\ntwo"
    lines.append(b"three")
    lines.close()
    assert lines.path.read_bytes() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_removed_is_made_again_or_said(tmp_path: Path, replaced: bool) -> None:
    for replaceable in (True, False):
        lines = Lines(tmp_path / f"rows{replaceable}", replaceable=replaceable)
        lines.append(b"one")
        lines.path.unlink()
        if replaced:
            lines.path.write_bytes(b"other")
        if replaceable:
            lines.append(b"two")
            assert lines.path.read_bytes() == (b"other\n" if replaced else b"") + b"two\n"
        else:
            with pytest.raises(FileNotFoundError):
                lines.append(b"two")
        lines.close()


class Disk:
    """Counts syncs, and can be told to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.fails = False
        self.synced = threading.Event()
        self.fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.sync)

    def sync(self, file: int) -> None:
        self.syncs += 1
        self.synced.set()
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        self.fsync(file)


def test_many_lines_are_synced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(tmp_path / "rows")
    lines.append(b"the file's name is synced with its first line")
    disk = Disk(monkeypatch)
    for number in range(100):
        lines.append(str(number).encode())
    assert disk.syncs == 0
    lines.sync()
    lines.sync()
    lines.close()
    assert disk.syncs == 1


def test_lines_are_synced_without_being_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write, "SYNC_SECONDS", 0.0)
    disk = Disk(monkeypatch)
    lines = Lines(tmp_path / "rows")
    lines.append(b"one")
    assert disk.synced.wait(30)
    lines.close()


def test_what_the_disk_refused_later_is_raised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(tmp_path / "rows")
    lines.append(b"one")
    lines.sync()
    monkeypatch.setattr(atomic_write, "SYNC_SECONDS", 0.0)
    disk = Disk(monkeypatch)
    disk.fails = True
    lines.append(b"two")
    assert disk.synced.wait(30)
    with pytest.raises(OSError, match="Input/output"):
        lines.close()
    disk.fails = False
    lines.append(b"three")
    lines.close()
    assert lines.path.read_bytes() == b"one\ntwo\nthree\n"


def test_whole_lines_are_read_in_blocks_and_half_a_line_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [b"", b"a", b"bb" * 40, b"\r", b"\xe2\x80\xa8", b"c"]
    path = tmp_path / "rows"
    path.write_bytes(b"\n".join([*texts, b"half"]))
    for block in (1, 3, 7, 1000):
        monkeypatch.setattr(atomic_write, "BLOCK", block)
        read = list(whole_lines(path))
        assert [line for _, line in read] == texts
        for start, line in read:
            assert path.read_bytes()[start:].startswith(line + b"\n")
        assert list(whole_lines(path, read[2][0])) == read[2:]
