"""A run folder loses one row to a damaged line, belongs to one process at a time, and pays for nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.evaluation.records import read_rows
from pdr_dspy.evaluation.run_folder import CONFIG, LOCK, ROWS
from pdr_dspy.operators import Operator, Schedule
from pdr_dspy.reporting.evaluation_tables import read_report
from pdr_dspy.runtime import locks
from pdr_dspy.testing import ScriptedRequest
from tests.evaluation.test_evaluator import QA, SMALL, Exact, examples, run
from tests.support.solver import engine, solver

ROOT = Path(__file__).parents[2]
COUNT = 6


def plain(rows: Any) -> list[Any]:
    return sorted((row.id, row.repeat, row.answer, row.score, row.total, row.sequential) for row in rows)


@pytest.fixture
def whole(tmp_path: Path) -> Any:
    return run(run_dir=tmp_path)


def again(folder: Path, whole: Any, *, ran: int, damaged: int) -> None:
    """The same command runs what is missing, asks for nothing that is in the store, and says what it skipped."""
    lm, names = engine(), list[str]()
    report = run(lm=lm, run_dir=folder, progress=lambda row, *_: names.append(row.id))
    assert lm.served.calls == 0
    assert (len(names), report.damaged, report.paid) == (ran, damaged, 0)
    assert plain(report.rows) == plain(whole.rows)
    lines = (folder / ROWS).read_bytes()
    assert lines.endswith(b"\n")
    assert plain(read_rows(folder / ROWS).values()) == plain(whole.rows)


# --- damaged rows ---

DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "blanks": b"  \t",
    "half a row": b'{"id":"e1","repeat":0,"seed":0,"sc',
    "zeros": b"\0" * 40,
    "not UTF-8": b"\xff\xfe\xfa",
    "a list": b"[1, 2]",
    "null": b"null",
    "another object": b'{"score": "x"}',
    "a row without its id": b'{"repeat":0,"seed":0,"score":1.0}',
    "a row of a later version": b'{"id":"e1","repeat":0,"seed":0,"score":1.0,"mood":"fine"}',
    "deep": b"[" * 5000,
    "a number of 5,000 digits": b"9" * 5000,
    "half a surrogate pair": b'{"id":"e1","repeat":0,"seed":0,"score":1.0,"answer":"\\ud800"}',
}


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_line_anywhere_costs_its_row_alone(
    tmp_path: Path, whole: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (tmp_path / ROWS).read_bytes().split(b"\n")[:COUNT]
    blank = not DAMAGE[how].strip()
    for place in (0, 2, COUNT - 1):
        before = b"\n".join([*lines[:place], DAMAGE[how], *lines[place + 1 :]]) + b"\n"
        (tmp_path / ROWS).write_bytes(before)
        caplog.clear()
        again(tmp_path, whole, ran=1, damaged=0 if blank else 1)
        assert (tmp_path / ROWS).read_bytes().startswith(before)  # nothing is taken away
        assert ("skipped 1 line that could not be read" in caplog.text) is not blank
        caplog.clear()
        again(tmp_path, whole, ran=0, damaged=0 if blank else 1)


def test_many_damaged_lines_are_counted(tmp_path: Path, whole: Any, caplog: pytest.LogCaptureFixture) -> None:
    lines = (tmp_path / ROWS).read_bytes().splitlines()
    spoilt = [line[: len(line) // 2] if place % 2 else line for place, line in enumerate(lines)]
    (tmp_path / ROWS).write_bytes(b"\n".join(spoilt) + b"\n")
    again(tmp_path, whole, ran=COUNT // 2, damaged=COUNT // 2)
    assert "skipped 3 lines that could not be read; the missing rows are run again" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 1, 40, -1])
def test_a_torn_last_line_gets_an_end(tmp_path: Path, whole: Any, left: int) -> None:
    """`left`: bytes of the last line that are there; -1 is all but its end."""
    data = (tmp_path / ROWS).read_bytes()
    last = data[:-1].rfind(b"\n") + 1
    torn = data[:-1] if left < 0 else data[: last + left]
    (tmp_path / ROWS).write_bytes(torn)
    again(tmp_path, whole, ran=0 if left < 0 else 1, damaged=int(left > 0))
    assert (tmp_path / ROWS).read_bytes().startswith(torn)


@pytest.mark.slow
@pytest.mark.parametrize("torn", [b"", b"{", b'{"id":"e0"', b"\0\0"])
def test_a_first_line_that_is_torn_again_and_again_stops_nobody(tmp_path: Path, whole: Any, torn: bytes) -> None:
    (tmp_path / ROWS).write_bytes(torn)
    again(tmp_path, whole, ran=COUNT, damaged=int(torn != b""))
    (tmp_path / ROWS).write_bytes(torn + b"\n" + torn)
    again(tmp_path, whole, ran=COUNT, damaged=2 * int(torn != b""))


def test_a_mend_that_the_disk_refuses_empties_nothing(
    tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (tmp_path / ROWS).read_bytes()[:-20]
    (tmp_path / ROWS).write_bytes(data)
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path.name == ROWS and mode != "rb":
            raise OSError(28, "No space left on device")
        return opened(path, mode, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(StoreError, match="cannot be used: No space left"):
            run(run_dir=tmp_path)
    assert (tmp_path / ROWS).read_bytes() == data
    again(tmp_path, whole, ran=1, damaged=1)


# --- a damaged description ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [b"", b"\n", b"\0" * 300, b"{}", b"{", b'{"version": 1, "prog', b"\xff\xfe", b"[]", b"5"]
)
def test_a_description_that_is_emptied_or_damaged_is_written_again(
    tmp_path: Path, whole: Any, config: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = (tmp_path / CONFIG).read_text()
    (tmp_path / CONFIG).write_bytes(config)
    again(tmp_path, whole, ran=0, damaged=0)
    assert f"{CONFIG} was damaged and is written again; 6 rows belong to this evaluation" in caplog.text
    assert (tmp_path / CONFIG).read_text() == before


@pytest.mark.parametrize("config", [b"", b"{", b"[]", None])
def test_rows_of_another_evaluation_are_told_by_what_they_say(tmp_path: Path, whole: Any, config: bytes | None) -> None:
    rows = (tmp_path / ROWS).read_bytes()
    (tmp_path / CONFIG).unlink()
    if config is not None:
        (tmp_path / CONFIG).write_bytes(config)
    lm = engine()
    with pytest.raises(StoreError, match=r"no row of .*rows\.jsonl belongs to this evaluation.*not paid again"):
        run(lm=lm, run_dir=tmp_path, seed=9)
    assert lm.served.calls == 0
    assert (tmp_path / ROWS).read_bytes() == rows
    again(tmp_path, whole, ran=0, damaged=0)


def test_a_row_of_another_evaluation_is_no_row_of_this_one(tmp_path: Path, whole: Any) -> None:
    run(run_dir=tmp_path / "other", seed=9)
    lines = (tmp_path / ROWS).read_bytes().splitlines()
    foreign = (tmp_path / "other" / ROWS).read_bytes().splitlines()
    lines[2] = next(line for line in foreign if json.loads(line)["id"] == json.loads(lines[2])["id"])
    (tmp_path / ROWS).write_bytes(b"\n".join(lines) + b"\n")
    lm = engine()
    report = run(lm=lm, run_dir=tmp_path)
    assert (lm.served.calls, report.damaged, plain(report.rows)) == (0, 1, plain(whole.rows))


def test_a_description_is_not_written_over_a_file_of_somebody_else(tmp_path: Path) -> None:
    for text in ('{"model_type": "qwen2"}', "[1]", "model: qwen"):
        (tmp_path / CONFIG).write_text(text)
        with pytest.raises(StoreError, match=r"another evaluation|not the record of an evaluation"):
            run(run_dir=tmp_path)
        assert (tmp_path / CONFIG).read_text() == text
    (tmp_path / CONFIG).unlink()
    (tmp_path / ROWS).write_text("id,score\n1,2\n")
    with pytest.raises(StoreError, match="is missing and no row"):
        run(run_dir=tmp_path)
    assert (tmp_path / ROWS).read_text() == "id,score\n1,2\n"


def test_a_folder_killed_before_its_first_row_continues(tmp_path: Path, whole: Any) -> None:
    (tmp_path / ROWS).unlink()
    (tmp_path / CONFIG).write_text('{"ver')
    again(tmp_path, whole, ran=COUNT, damaged=0)


def test_a_report_of_a_damaged_folder_has_what_is_whole(
    tmp_path: Path, whole: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (tmp_path / ROWS).read_bytes().splitlines()
    lines[1] = lines[1][:50]
    (tmp_path / ROWS).write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / CONFIG).write_bytes(b"")
    report = read_report(tmp_path)
    assert len(report.rows) == COUNT - 1
    assert report.config == {}
    assert "skipped 1 line" in caplog.text
    assert "config.json is damaged" in caplog.text


# --- what was paid ---


def test_a_run_that_made_no_call_has_paid_nothing(tmp_path: Path) -> None:
    first = run(run_dir=tmp_path)
    assert first.paid == sum(row.paid for row in first.rows) > 0
    assert first.paid_before == 0
    second = run(run_dir=tmp_path)
    assert (second.paid, second.paid_before) == (0, first.paid)
    assert second.rows == first.rows
    lm = engine()
    more = run(lm=lm, run_dir=tmp_path, repeats=2)
    assert more.paid == lm.served.input + lm.served.output
    assert more.paid_before == first.paid
    assert read_report(tmp_path).paid == first.paid + more.paid
    fewer = run(run_dir=tmp_path)
    assert (fewer.paid, fewer.paid_before) == (0, first.paid)


def test_a_run_that_found_its_calls_in_a_store_has_paid_nothing(tmp_path: Path) -> None:
    with Rollouts(tmp_path / "store") as store:
        assert run(store=store).paid > 0
        again = run(store=store, run_dir=tmp_path / "run")
        assert (again.paid, again.paid_before) == (0, 0)


# --- one at a time ---


def test_two_at_once_in_one_process_run_and_pay_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL", (0.0, 0.0))
    lm, said, reports = engine(), list[str](), list[Any]()
    monkeypatch.setattr("pdr_dspy.evaluation.run_folder.logger.warning", lambda text, *_: said.append(text))

    class Patient(Operator):
        async def aforward(self, **inputs: Any) -> dspy.Prediction:
            while not said:  # noqa: ASYNC110  (until somebody waits for this one)
                await asyncio.sleep(0)
            return await super().aforward(**inputs)

    def work() -> None:
        with dspy.context(lm=lm):
            reports.append(evaluate(Patient(QA, Schedule(**SMALL)), examples(), Exact(), run_dir=tmp_path))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (told,) = said
    assert re.fullmatch(rf"{tmp_path} is in use by process {os.getpid()} on .*; waiting for its end", told)
    assert lm.served.calls == COUNT * 4
    assert [plain(report.rows) for report in reports] == [plain(reports[0].rows)] * 2
    assert sorted(report.paid for report in reports) == [0, lm.served.input + lm.served.output]
    assert len((tmp_path / ROWS).read_bytes().splitlines()) == COUNT


WORKER = """
import os, signal, sys
sys.path[:0] = ["tests"]
import dspy
from tests.support.solver import engine, solver
from tests.evaluation.test_evaluator import Exact, PDR, QA, SMALL, evaluate, examples
calls = open(sys.argv[2], "a", buffering=1)

def noted(request):
    calls.write(f"{request.user!r} {request.seed} {request.cap}\\n")
    return solver(request)

def tell(row, done, count):
    if done == 1:
        print("at work", flush=True)
        sys.stdin.readline()
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

with dspy.context(lm=engine(noted)):
    report = evaluate(PDR(QA, **SMALL), examples(), Exact(), run_dir=sys.argv[1], max_in_flight=2, progress=tell)
print(report.paid, len(report.rows))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("killed", [0, 3])
def test_two_processes_run_and_pay_each_row_once(tmp_path: Path, killed: int) -> None:
    """The second is started while the first is at work; the first ends, or is killed after so many rows."""

    def start(death: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(tmp_path / "run"), str(tmp_path / "calls"), str(death)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)

    first = start(killed or -1)
    assert first.stdout is not None
    assert first.stdout.readline() == "at work\n"
    second = start(-1)
    assert second.stderr is not None
    waits = second.stderr.readline()
    assert f"in use by process {first.pid} on " in waits
    out, err = first.communicate("\n")
    assert first.returncode == (-signal.SIGKILL if killed else 0), err
    there = [json.loads(line)["id"] for line in (tmp_path / "run" / ROWS).read_bytes().splitlines()]
    out, err = second.communicate("\n")
    assert second.returncode == 0, err
    paid, count = out.splitlines()[-1].split()
    assert int(count) == COUNT
    ids = [json.loads(line)["id"] for line in (tmp_path / "run" / ROWS).read_bytes().splitlines()]
    assert len(ids) == len(set(ids)) == COUNT
    assert ids[: len(there)] == there
    assert len(there) == (killed or COUNT)
    calls = (tmp_path / "calls").read_text().splitlines()
    if not killed:
        assert paid == "0"
        assert len(calls) == COUNT * 4
    assert len(set(calls)) == COUNT * 4
    assert len(calls) <= COUNT * 4 + 2 * 3  # what was in flight is asked again


def test_an_evaluation_inside_itself_is_refused_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    class Inner(Exact):
        def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
            run(run_dir=tmp_path, examples=examples(1))
            return super().__call__(example, prediction)

    with pytest.raises(StoreError, match="already in use by the same program run"):
        run(run_dir=tmp_path, verifier=Inner(), examples=examples(1))


def test_a_lock_that_is_left_over_stops_nobody(tmp_path: Path, whole: Any) -> None:
    (tmp_path / LOCK).write_text('{"process": 1, "host": "x", "since": "", "command": ""}')
    again(tmp_path, whole, ran=0, damaged=0)


def test_rows_and_calls_are_on_the_disk_when_evaluate_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: dict[int, int] = {}
    sync = os.fsync

    def noted(file: int) -> None:
        sync(file)
        facts = os.fstat(file)
        synced[facts.st_ino] = facts.st_size

    monkeypatch.setattr(os, "fsync", noted)
    run(run_dir=tmp_path)
    (segment,) = (tmp_path / "rollouts").iterdir()
    for path in (tmp_path / ROWS, tmp_path / CONFIG, segment):
        facts = path.stat()
        assert synced[facts.st_ino] == facts.st_size


def test_the_model_is_not_told_of_a_folder(tmp_path: Path) -> None:
    seen: list[str] = []

    def noted(request: ScriptedRequest) -> str:
        seen.append(request.user)
        return solver(request)

    run(lm=engine(noted), run_dir=tmp_path)
    assert not any(str(tmp_path) in text for text in seen)
