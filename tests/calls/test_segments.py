"""Records in append-only files: found by their index or without it, whatever is damaged, whoever wrote them."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.calls import segment_file, segments
from pdr_dspy.calls.places import ENTRY
from pdr_dspy.calls.segment_file import HEAD, index_of
from pdr_dspy.calls.segments import Segments
from pdr_dspy.errors import StoreError

COUNT = 300


def key_of(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["key"])
    except (ValueError, KeyError, TypeError):
        return None


def record(number: int, text: str = "") -> tuple[str, bytes]:
    key = f"key {number}"
    return key, json.dumps({"key": key, "text": text or f"{number} " * (1 + number % 7)}).encode()


def opened(folder: Path) -> Segments:
    store = Segments(folder, key_of)
    store.refresh()
    return store


def filled(folder: Path, count: int = COUNT) -> Path:
    store = opened(folder)
    for number in range(count):
        store.put(*record(number))
    store.close()
    (path,) = folder.glob("*.jsonl")
    return path


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segment counts as a large one."""
    monkeypatch.setattr(segment_file, "INDEXED_FROM", 1)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the lines begin that are read to find records."""
    seen: list[int] = []
    whole_lines = segments.whole_lines

    def counted(path: Path, start: int = 0) -> Any:
        for offset, line in whole_lines(path, start):
            seen.append(offset)
            yield offset, line

    monkeypatch.setattr(segments, "whole_lines", counted)
    return seen


def check(store: Segments, but: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """Everything is there but some, and can be put again."""
    for number in range(COUNT):
        key, line = record(number)
        assert store.find(key) == (None if number in but else line)
    assert len(store) == COUNT - len(but)
    assert sorted(store) == sorted(record(number)[1] for number in range(COUNT) if number not in but)
    for number in but:
        store.put(*record(number))
        assert store.find(record(number)[0]) == record(number)[1]
    store.close()
    assert len(store) == COUNT


def test_a_large_segment_is_opened_without_reading_its_texts(
    tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path)
    assert index_of(path).stat().st_size == (COUNT + 1) * ENTRY.itemsize
    seen = reads(monkeypatch)
    check(opened(tmp_path))
    assert seen == []


def test_a_small_segment_has_no_index(tmp_path: Path) -> None:
    path = filled(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    check(opened(tmp_path))


@pytest.mark.parametrize("cut", [0, 1, ENTRY.itemsize, 5 * ENTRY.itemsize, 5 * ENTRY.itemsize + 7])
def test_what_the_index_does_not_cover_is_read(
    tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    index = index_of(filled(tmp_path))
    os.truncate(index, cut)
    seen = reads(monkeypatch)
    check(opened(tmp_path))
    assert len(seen) == COUNT - max(0, cut // ENTRY.itemsize - 1)


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "gone": lambda data: b"",
    "foreign": lambda data: b"id,score\n" * 2000,
    "zeros": lambda data: bytes(len(data)),
    "zeros from the middle on": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "noise": lambda data: HEAD + random.Random(1).randbytes(len(data) - len(HEAD)),
    "an entry twice": lambda data: data[: 9 * ENTRY.itemsize] + data[8 * ENTRY.itemsize :],
    "an entry left out": lambda data: data[: 8 * ENTRY.itemsize] + data[9 * ENTRY.itemsize :],
    "of another version": lambda data: data.replace(b"index 1", b"index 2"),
    "of a longer segment": lambda data: data + data[-ENTRY.itemsize :],
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_index_costs_nothing_but_time(tmp_path: Path, large: None, how: str) -> None:
    index = index_of(filled(tmp_path))
    index.write_bytes(SPOILT[how](index.read_bytes()))
    check(opened(tmp_path))


def test_an_index_with_another_key_loses_that_record_alone(tmp_path: Path, large: None) -> None:
    index = index_of(filled(tmp_path))
    data = bytearray(index.read_bytes())
    data[8 * ENTRY.itemsize] ^= 1
    index.write_bytes(data)
    store = opened(tmp_path)
    assert store.find(record(7)[0]) is None
    store.put(*record(7))
    assert store.find(record(7)[0]) == record(7)[1]
    store.close()


def test_a_segment_without_an_index_gets_one_from_its_reader(
    tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_file, "UNINDEXED", 1)
    index = index_of(filled(tmp_path))
    whole = index.read_bytes()
    index.unlink()
    check(opened(tmp_path))
    assert index.read_bytes() == whole
    seen = reads(monkeypatch)
    check(opened(tmp_path))
    assert seen == []


def test_a_damaged_text_is_found_out_where_there_is_an_index(
    tmp_path: Path, large: None, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled(tmp_path)
    data = path.read_bytes()
    place = data.index(b'"5 5 5')
    path.write_bytes(data[: place + 1] + b"6" + data[place + 2 :])  # it is a record of that key still
    store = opened(tmp_path)
    assert store.find(record(5)[0]) is None
    assert store.torn == 1
    assert "1 line could not be read and was skipped" in caplog.text
    check(store, but={5})
    check(opened(tmp_path))


BAD = [b"", b"[1]", b"null", b'{"key"', b"\xff\xfe", b"\0" * 99, b"x" * 5000]


@pytest.mark.slow
@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("bad", BAD)
def test_lines_that_are_no_records_are_counted_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: bytes, indexed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if indexed:
        monkeypatch.setattr(segment_file, "INDEXED_FROM", 1)
        monkeypatch.setattr(segment_file, "UNINDEXED", 1)
    path = filled(tmp_path)
    whole = path.read_bytes().split(b"\n")
    index = index_of(path).read_bytes() if indexed else b""
    for place in (1, 2, COUNT // 2, COUNT):
        path.write_bytes(b"\n".join([*whole[:place], bad, *whole[place + 1 :]]))
        if indexed:
            index_of(path).write_bytes(index)
        for _ in range(2):  # by the index of the segment as it was, and then by that of how it is
            store = opened(tmp_path)
            assert store.torn == 1
            assert "1 line could not be read and was skipped" in caplog.text
            assert store.find(record(place - 1)[0]) is None
            assert len(store) == COUNT - 1
            assert all(store.find(record(n)[0]) == record(n)[1] for n in range(COUNT) if n != place - 1)
            assert (store.refresh(), store.torn) == (0, 1)
            store.close()


@pytest.mark.parametrize("places", [[3], [1, COUNT], [5, 6, 7], [*range(2, 60, 3)]])
def test_lines_that_are_spoilt_in_their_place_are_found_out_by_the_index(
    tmp_path: Path, large: None, places: list[int]
) -> None:
    path = filled(tmp_path)
    lines = path.read_bytes().split(b"\n")
    for place in places:
        lines[place] = bytes(len(lines[place]))
    path.write_bytes(b"\n".join(lines))
    gone = {place - 1 for place in places}
    store = opened(tmp_path)
    assert all((store.find(record(n)[0]) is None) == (n in gone) for n in range(COUNT))
    assert store.torn == len(places)
    check(store, but=gone)
    again = opened(tmp_path)
    assert again.torn == len(places)
    check(again)


def test_a_line_that_is_taken_out_costs_that_record_alone(tmp_path: Path, large: None) -> None:
    store = opened(tmp_path)
    for number in range(COUNT):  # all of one length
        store.put(*record(number, f"{number:05}"))
    store.close()
    (path,) = tmp_path.glob("*.jsonl")
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:8], *lines[9:]]))
    again = opened(tmp_path)
    assert {n for n in range(COUNT) if again.find(record(n)[0]) != record(n, f"{n:05}")[1]} == {7}
    assert len(again) == COUNT - 1
    again.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_what_moves_while_the_store_is_open_is_found_again(tmp_path: Path, replaced: bool) -> None:
    path = filled(tmp_path)
    store = opened(tmp_path)
    assert store.find(record(3)[0]) == record(3)[1]
    lines = path.read_bytes().split(b"\n")
    if replaced:
        path.unlink()
        store.close()  # which lets go of the file
    path.write_bytes(b"\n".join([lines[0], b"a line that somebody put there", *lines[1:]]))
    check(store)


@pytest.mark.slow
def test_every_byte_that_is_cut_off_costs_the_last_record_at_most(tmp_path: Path, large: None) -> None:
    path = filled(tmp_path)
    data = path.read_bytes()
    for size in range(len(data) - 60, len(data)):
        path.write_bytes(data[:size])
        store = opened(tmp_path)
        assert len(store) == data[:size].count(b"\n") - 1
        assert all(store.find(record(number)[0]) == record(number)[1] for number in range(len(store)))
        store.close()


def test_the_first_of_equal_keys_stays_whoever_wrote_them(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.put("a", b'{"key": "a", "text": "one"}')
    other.put("a", b'{"key": "a", "text": "other"}')
    assert (one.refresh(), other.refresh()) == (0, 0)
    assert (one.find("a"), other.find("a")) == (b'{"key": "a", "text": "one"}', b'{"key": "a", "text": "other"}')
    first = sorted(tmp_path.glob("*.jsonl"))[0].read_bytes().splitlines()[1]
    for _ in range(2):
        third = opened(tmp_path)
        assert third.find("a") == first
        assert len(third) == len(list(third)) == 1
        third.close()
    one.close()
    other.close()


def test_a_folder_of_many_segments_keeps_few_of_them_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_file, "OPEN_FILES", 3)
    for number in range(12):
        store = opened(tmp_path)
        store.put(*record(number))
        store.close()
    store = opened(tmp_path)
    before = len(os.listdir("/dev/fd"))
    for number in [*range(12)] * 2:
        assert store.find(record(number)[0]) == record(number)[1]
        assert len(os.listdir("/dev/fd")) <= before + 3
    store.close()
    assert store.find(record(3)[0]) == record(3)[1]
    store.close()


def test_a_segment_that_is_removed_meanwhile_is_missed_and_no_error(tmp_path: Path) -> None:
    filled(tmp_path)
    store = opened(tmp_path)
    mine = "mine", b'{"key": "mine"}'
    store.put(*mine)
    for path in tmp_path.iterdir():
        path.unlink()
    assert store.find(record(1)[0]) is None
    store.put(*record(1))
    assert store.find(record(1)[0]) == record(1)[1]
    assert len(list(tmp_path.glob("*.jsonl"))) == 1
    store.close()
    again = opened(tmp_path)
    assert again.find(record(1)[0]) == record(1)[1]
    again.close()


def test_a_folder_that_is_removed_meanwhile_is_reported(tmp_path: Path) -> None:
    store = opened(tmp_path / "a")
    store.put(*record(1))
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    (tmp_path / "a").rmdir()
    with pytest.raises(StoreError, match="cannot be written"):
        store.put(*record(2))
    with pytest.raises(StoreError, match="cannot be read"):
        store.refresh()
    store.close()


def test_a_forked_copy_writes_a_segment_of_its_own(tmp_path: Path, large: None) -> None:
    store = opened(tmp_path)
    store.put(*record(0))
    child = os.fork()
    if not child:
        try:
            for number in range(1, 50):
                store.put(*record(number))
            store.close()
            os._exit(0 if store.find(record(0)[0]) == record(0)[1] else 1)
        finally:
            os._exit(2)
    for number in range(50, COUNT):
        store.put(*record(number))
    assert os.waitpid(child, 0)[1] == 0
    assert store.refresh() == 49
    store.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    check(opened(tmp_path))


def test_texts_are_not_kept_in_memory(tmp_path: Path) -> None:
    long = "a long text " * 1000
    store = opened(tmp_path)
    store.put(*record(0, long))
    tracemalloc.start()
    try:
        for number in range(1, 200):
            store.put(*record(number, long))
        again = opened(tmp_path)
        for number in range(200):
            assert again.find(record(number)[0]) == record(number, long)[1]
        assert tracemalloc.get_traced_memory()[0] < 200_000  # of 2.4 MB of texts
    finally:
        tracemalloc.stop()
    store.close()
    again.close()
