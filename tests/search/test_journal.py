"""The journal: what it keeps, who may write it, and what is left after a kill, a torn line, damage, a full disk."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.errors import StoreError
from pdr_dspy.search.driver.journal import JOURNAL, LOCK, Journal, check_not_driven, open_journal, read_journal

ROOT = Path(__file__).parents[2]
SEARCH = {"version": 3, "settings": {"seed": 0}}
TEXTS = ["{}", '{"a": "line\\nline\\u2028"}', '{"é👍": "é👍"}', '"nul \\u0000"', "[1, 2]", '"%s"' % ("x" * 100_000)]


def opened(folder: Path | None) -> Journal:
    return open_journal(folder, SEARCH)


def entries(journal: Journal | None) -> dict[str, str | None]:
    assert journal is not None
    return {name: journal.get(name) for name in journal.names()}


@pytest.mark.parametrize("kept", [True, False], ids=["a folder", "memory"])
def test_entries_come_back_by_name_as_they_were_written(tmp_path: Path, kept: bool) -> None:
    with opened(tmp_path if kept else None) as journal:
        assert journal.get("a") is None
        for number, text in enumerate(TEXTS):
            journal.put(f"text/{number}", text)
            assert journal.get(f"text/{number}") == text
        journal.put('a "name"\n', "1")
        assert [journal.get(name) for name in journal.names("text/")] == TEXTS
        assert journal.names("text/1") == ["text/1"]
        assert journal.names() == [*(f"text/{number}" for number in range(len(TEXTS))), 'a "name"\n']
        assert 'a "name"\n' in journal
        assert "text" not in journal
        with pytest.raises(ValueError, match="has an entry 'text/0'"):
            journal.put("text/0", "{}")
        before = entries(journal)
    if kept:
        with opened(tmp_path) as again:
            assert (entries(again), again.damaged) == (before, 0)


def test_each_line_is_json_and_the_first_describes_the_search(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.put("race/000/00001-000", '{"rows": {"0": {"score": 0.5}}}')
    lines = [json.loads(line) for line in (tmp_path / JOURNAL).read_bytes().splitlines()]
    assert lines == [
        {"journal": 1, "search": SEARCH},
        {"entry": "race/000/00001-000", "value": {"rows": {"0": {"score": 0.5}}}},
    ]
    with open_journal(tmp_path, {"version": 4}) as again:
        assert again.description == SEARCH  # the one that is there


def test_a_reader_sees_what_a_driver_has_written_and_writes_nothing(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "nowhere") is None
    assert not list(tmp_path.iterdir())
    with opened(tmp_path) as driver:
        driver.put("a", "1")
        with (tmp_path / JOURNAL).open("ab") as file:
            file.write(b'{"entry": "b", "va')  # a line that is being written
        before = (tmp_path / JOURNAL).read_bytes()
        reader = read_journal(tmp_path)
        assert (entries(reader), reader and reader.description) == ({"a": "1"}, SEARCH)
        assert reader is not None
        with pytest.raises(ValueError, match="opened to be read"):
            reader.put("c", "1")
        reader.close()
        assert (tmp_path / JOURNAL).read_bytes() == before


# --- one driver ---


def test_a_second_driver_is_refused_with_the_remedy_until_the_first_has_ended(tmp_path: Path) -> None:
    check_not_driven(tmp_path / "new")
    assert not list(tmp_path.iterdir())
    with opened(tmp_path) as first:
        with pytest.raises(StoreError, match="is driven by"):
            check_not_driven(tmp_path)
        first.put("a", "1")
        before = (tmp_path / JOURNAL).read_bytes()
        with pytest.raises(StoreError) as refused:
            opened(tmp_path)
        message = str(refused.value)
        assert f"the search in {tmp_path} is driven by process {os.getpid()} on " in message
        assert "wait for its end or stop it" in message
        assert "--ray" in message
        assert "\n" not in message
        first.put("b", "2")  # not disturbed
        assert (tmp_path / JOURNAL).read_bytes().startswith(before)
    check_not_driven(tmp_path)
    with opened(tmp_path) as second:
        assert entries(second) == {"a": "1", "b": "2"}
        second.close()
        second.close()
        with opened(tmp_path):
            pass


DRIVER = """
import sys
from pathlib import Path
from pdr_dspy.search.driver.journal import open_journal
journal = open_journal(Path(sys.argv[1]), {})
print("opened", flush=True)
for number in range(1_000_000):
    journal.put(f"n/{number}", '"' + "x" * (number % 50) * 100 + '"')
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_killed_driver_leaves_all_that_was_put_and_no_lock(tmp_path: Path) -> None:
    draw = random.Random(15)
    told: set[str] = set()
    for life in range(3):
        folder = tmp_path / str(life)
        with subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "opened\n"
            with pytest.raises(StoreError, match=f"driven by process {driver.pid} "):
                opened(folder)
            told = {driver.stdout.readline().strip() for _ in range(draw.randrange(50, 400))}
            driver.send_signal(signal.SIGKILL)
            told |= {line.strip() for line in driver.stdout if line.endswith("\n")}
        with opened(folder) as journal:
            assert {f"n/{number}" for number in told} <= set(journal.names())
            assert len(journal.names()) - len(told) in (0, 1)
            for name in journal.names():
                assert journal.get(name) == '"%s"' % ("x" * (int(name[2:]) % 50) * 100)
            journal.put("after", "1")


@pytest.mark.slow
def test_a_forked_copy_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from pdr_dspy.search.driver.journal import open_journal\n"
        "journal = open_journal(Path(sys.argv[1]), {})\n"
        "if os.fork() == 0:\n    print(os.getpid(), flush=True)\n    time.sleep(600)\n"
        "os.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        child = int(driver.stdout.readline())
        driver.kill()
        driver.wait()
        try:
            opened(tmp_path).close()
        finally:
            os.kill(child, signal.SIGKILL)


# --- what is torn, damaged, foreign, gone ---


@pytest.mark.slow
def test_cut_off_anywhere_it_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    texts = {f"n/{number:02}": json.dumps({"text": "é" * number}, ensure_ascii=False) for number in range(12)}
    with opened(tmp_path / "whole") as journal:
        for name, text in texts.items():
            journal.put(name, text)
    data = (tmp_path / "whole" / JOURNAL).read_bytes()
    header, last = data.index(b"\n") + 1, data[:-1].rfind(b"\n")
    (tmp_path / "cut").mkdir()
    for cut in sorted({*range(header, len(data), 13), *range(last, len(data) + 1)}):
        (tmp_path / "cut" / JOURNAL).write_bytes(data[:cut])
        kept = dict(list(texts.items())[: data[:cut].count(b"\n") - 1 + (data[cut : cut + 1] == b"\n")])
        for more in ({}, {"new": "1"}):
            with opened(tmp_path / "cut") as journal:
                assert entries(journal) == {**kept, **more}
                if not more:
                    journal.put("new", "1")
        assert (tmp_path / "cut" / JOURNAL).read_bytes().startswith(data[:cut])  # nothing is taken away


TAILS = [
    b"\0" * 700,
    b"\0" * 20 + b"\n",
    b'{"entry": "b"}\n',
    b'{"value": 1, "entry": "b"}\n',
    b"[]\n",
    b"foreign\n",
    b"1",
]


@pytest.mark.parametrize("tail", TAILS)
def test_a_last_line_that_is_none_is_skipped(tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as journal:
        journal.put("a", "1")
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(tail)
    with opened(tmp_path) as journal:
        assert (entries(journal), journal.damaged) == ({"a": "1"}, 1)
        journal.put("b", "2")
    assert "skipped 1 line that could not be read" in caplog.text
    with opened(tmp_path) as journal:
        assert entries(journal) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("bad", [b'"\n"', b"\0\0\0", b"\xff\xff\xff", b"\n\n\n"])
def test_damage_before_whole_lines_costs_its_entry_alone(tmp_path: Path, bad: bytes) -> None:
    with opened(tmp_path) as journal:
        for name in "abc":
            journal.put(name, f'"{name}x"')
    data = (tmp_path / JOURNAL).read_bytes()
    place = data.index(b'"bx"')
    damaged = data[:place] + bad + data[place + 3 :]
    (tmp_path / JOURNAL).write_bytes(damaged)
    with opened(tmp_path) as journal:
        assert entries(journal) == {"a": '"ax"', "c": '"cx"'}
        assert journal.damaged >= 1
        journal.put("b", '"again"')
    assert (tmp_path / JOURNAL).read_bytes().startswith(damaged)
    with opened(tmp_path) as journal:
        assert entries(journal) == {"a": '"ax"', "b": '"again"', "c": '"cx"'}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b'{"journal": 1', "is not the journal of a search"),
        (b"id,score\n1,2\n", "is not the journal of a search"),
        (b"\xff\xfe\n", "is not the journal of a search"),
        (b"[1]\n", "is not the journal of a search"),
        (b'{"journal": 1}\n', "is not the journal of a search"),
        (b'{"journal": 1, "search": 2}\n', "is not the journal of a search"),
        (b'{"journal": 99, "search": {}}\n', "version 99, this library reads 1"),
    ],
)
def test_a_file_that_is_no_journal_is_named_and_left_alone(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    for use in (opened, read_journal):
        with pytest.raises(StoreError, match=why) as error:
            use(tmp_path)
        assert str(tmp_path / JOURNAL) in str(error.value)
        assert "\n" not in str(error.value)
    assert (tmp_path / JOURNAL).read_bytes() == content
    (tmp_path / JOURNAL).unlink()
    with opened(tmp_path):  # the lock was given back
        pass


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "a" / JOURNAL).mkdir(parents=True)
    (tmp_path / "b" / LOCK).mkdir(parents=True)
    for place, named in (("file", "file"), ("a", f"a/{JOURNAL}"), ("b", f"b/{LOCK}")):
        with pytest.raises(StoreError, match=f"the journal .*{named} cannot be used"):
            opened(tmp_path / place)
    for place in ("file", "a"):
        with pytest.raises(StoreError, match=f"the journal .*{place}.* cannot be read"):
            read_journal(tmp_path / place)


def test_a_journal_that_is_removed_while_in_use_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.put("a", "1")
        (tmp_path / JOURNAL).unlink()
        for use in (lambda: journal.put("b", "2"), lambda: journal.get("a")):
            with pytest.raises(StoreError, match=r"journal\.jsonl cannot be (written|read)"):
                use()


@pytest.mark.parametrize("room", [0, 1, 9, 40])
def test_a_full_disk_is_one_error_and_what_was_put_is_kept(tmp_path: Path, room: int) -> None:
    with opened(tmp_path) as journal:
        journal.put("a", "1")
        size = (tmp_path / JOURNAL).stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
        try:
            with pytest.raises(StoreError, match=r"journal\.jsonl cannot be written: " + os.strerror(errno.EFBIG)):
                journal.put("b", '"%s"' % ("y" * 100))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "b" not in journal
        journal.put("b", "2")
        assert journal.get("b") == "2"
    with opened(tmp_path) as again:
        assert entries(again) == {"a": "1", "b": "2"}


def test_two_spellings_of_a_folder_have_one_lock(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    places: list[Any] = [tmp_path / "link", tmp_path / "run" / ".." / "run"]
    with opened(tmp_path / "run"):
        for place in places:
            with pytest.raises(StoreError, match="is driven by"):
                opened(place)
