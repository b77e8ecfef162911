"""One at a time in a folder, and who it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pdr_dspy.errors import StoreError
from pdr_dspy.runtime import locks
from pdr_dspy.runtime.locks import Lock, alone, wait_for

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from pdr_dspy.runtime.locks import Lock
assert Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def held_elsewhere(path: Path) -> subprocess.Popen[str]:
    """Another process that holds a lock until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_one_has_it_and_says_who_that_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path) as mine, Lock(path) as other:
        assert mine.acquire()
        assert not other.acquire()
        holder = other.holder()
        assert holder is not None
        assert (holder.process, holder.host) == (os.getpid(), socket.gethostname())
        assert f"process {os.getpid()} on " in str(holder)
        mine.release()
        assert other.holder() is None
        assert other.acquire()
        assert not mine.acquire()
    with Lock(path) as again:
        assert again.acquire()


def test_the_note_has_nothing_that_a_command_was_called_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pdr", "optimize", "--storage", "postgresql://u:s3cret@h/d"])
    with Lock(tmp_path / "lock") as lock:
        assert lock.acquire()
        assert "s3cret" not in lock.path.read_text()
        assert json.loads(lock.path.read_text())["command"] == "pdr"


@pytest.mark.parametrize("note", ["", "{", "[1]", "null", '{"process": "x"}', '{"process": 1}', "\0\0"])
def test_a_note_that_says_nothing_stops_nobody(tmp_path: Path, note: str) -> None:
    (tmp_path / "lock").write_text(note)
    with Lock(tmp_path / "lock") as lock:
        assert lock.holder() is None
        assert lock.acquire()


def test_a_killed_process_gives_it_back_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = held_elsewhere(path)
    with Lock(path) as lock:
        assert not lock.acquire()
        holder = lock.holder()
        assert holder is not None
        assert holder.process == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lock.acquire()
        mine = lock.holder()
        assert mine is not None
        assert mine.process == os.getpid()
    process.communicate()


def test_a_forked_copy_lets_go_of_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    begun, ready = os.pipe()
    held, finish = os.pipe()
    child = os.fork()
    if not child:
        os.write(ready, b"x")
        os.close(finish)
        os.read(held, 1)  # lives on until the parent has seen that the lock is free
        lock.release()
        os._exit(0)
    os.read(begun, 1)
    lock.release()
    with Lock(tmp_path / "lock") as other:
        assert other.acquire()
        os.close(finish)
        assert os.waitpid(child, 0)[1] == 0
        assert other.holder() is not None
    for file in (begun, ready, held):
        os.close(file)


def test_what_another_machine_did_not_take_back_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    note = {"process": 7, "host": "elsewhere", "since": "then", "command": "pdr"}
    (tmp_path / "lock").write_text(json.dumps(note))
    with Lock(tmp_path / "lock") as lock:
        assert lock.acquire()
    assert "process 7 on elsewhere (`pdr`, since then), which did not release it" in caplog.text


def test_a_file_system_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(file: int, **_: bool) -> bool:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks, "flock", none)
    with Lock(tmp_path / "lock") as lock:
        assert lock.acquire()
    assert "cannot be locked (Operation not supported): make sure that one process at a time" in caplog.text


@pytest.mark.slow
def test_who_waits_says_for_whom_and_continues_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL", (0.0, 0.0))
    path = tmp_path / "lock"
    process, told = held_elsewhere(path), list[str]()

    def tell(text: str) -> None:
        told.append(text)
        end(process)

    wait_for(path, on_wait=tell)
    (said,) = told
    assert said.startswith(f"{tmp_path} is in use by process {process.pid} on ")
    assert said.endswith("; waiting for its end")
    process = held_elsewhere(path)

    async def inside() -> None:
        async with alone(path, on_wait=tell):
            with Lock(path) as other:
                assert not other.acquire()

    asyncio.run(inside())
    assert len(told) == 2


def test_nobody_is_waited_for_where_nobody_is(tmp_path: Path) -> None:
    told = list[str]()
    wait_for(tmp_path / "none" / "lock", on_wait=told.append)
    wait_for(tmp_path / "lock", on_wait=told.append)
    assert not (tmp_path / "lock").exists()
    (tmp_path / "lock").write_text("")
    wait_for(tmp_path / "lock", on_wait=told.append)
    assert told == []


def test_two_tasks_take_turns_and_one_inside_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "POLL", (0.0, 0.0))
    path, inside, most = tmp_path / "lock", 0, 0

    async def task() -> None:
        nonlocal inside, most
        async with alone(path, on_wait=lambda _: None):
            inside += 1
            most = max(most, inside)
            for _ in range(5):
                await asyncio.sleep(0)
            inside -= 1

    async def nested() -> None:
        async with alone(path, on_wait=lambda _: None):
            await task()

    async def main() -> None:
        await asyncio.gather(*(task() for _ in range(4)))
        with pytest.raises(StoreError, match="already in use by the same program run"):
            await nested()
        await task()

    asyncio.run(main())
    assert most == 1
