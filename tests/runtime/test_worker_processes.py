"""Processes that share a listening socket, and what watches over them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class Pool:
    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        assert process.stdout is not None
        self.said = process.stdout
        self.port = int(self.said.readline())

    def connect(self, text: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(text)
        return connection

    def ask(self, text: bytes = b"p") -> str:
        with self.connect(text) as connection:
            return connection.recv(100).decode()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def running(count: int, folder: Path) -> Iterator[Pool]:
    line = [sys.executable, "-m", "tests.support.worker_pool", str(count), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Pool(process, folder)
        finally:
            process.kill()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """One worker that serves."""
    with running(1, tmp_path) as pool:
        assert pool.said.readline() == "ready\n"
        yield pool


def until(true: Callable[[], bool]) -> None:
    ends, pause = time.monotonic() + 20, threading.Event()
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        pause.wait(0.01)


def there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_that_is_killed_is_replaced_and_connections_wait_meanwhile(pool: Pool) -> None:
    first = pool.ask()
    os.kill(int(first), signal.SIGKILL)
    second = pool.ask()  # in the queue of the socket until the next one is there
    assert second != first
    assert pool.end() == 0
    assert not there(int(second))


def test_one_that_is_stopped_is_killed_and_replaced(pool: Pool) -> None:
    first = pool.ask()
    with pool.connect(b"s") as waits:
        assert waits.recv(100) == b""  # closed with its process: it does not hang
    assert pool.ask() != first
    until(lambda: not there(int(first)))


def test_all_of_them_drain_when_told_to_end(tmp_path: Path) -> None:
    with running(2, tmp_path) as pool:
        assert pool.said.readline() == "ready\n"
        pids: set[str] = set()
        until(lambda: pids.add(pool.ask()) or len(pids) == 2)
        held = [pool.connect(b"h") for _ in range(6)]
        assert [connection.recv(5) for connection in held] == [b"held "] * 6
        pool.process.send_signal(signal.SIGTERM)

        def closed() -> bool:
            try:
                socket.create_connection(("127.0.0.1", pool.port), timeout=5).close()
            except OSError:
                return True
            return False

        (tmp_path / "release").touch()
        assert [connection.recv(100) for connection in held] == [b"released"] * 6
        for connection in held:
            connection.close()
        assert pool.process.wait(30) == 0
        assert closed()
        assert not any(there(int(pid)) for pid in pids)


def test_what_takes_longer_than_the_drain_is_killed(pool: Pool) -> None:
    pid = int(pool.ask())
    with pool.connect(b"h") as held:
        assert held.recv(5) == b"held "
        assert pool.end() == 0
        assert held.recv(100) == b""
    assert not there(pid)


def test_workers_end_with_the_process_that_watches(pool: Pool) -> None:
    pid = int(pool.ask())
    pool.process.kill()
    pool.process.wait(30)
    until(lambda: not there(pid))


def test_one_that_does_not_start_ends_the_whole(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with running(2, tmp_path) as pool:
        assert "ended with status 1 before it served" in pool.said.readline()
        assert pool.process.wait(30) == 1


def test_without_any_left_that_starts_the_whole_ends_and_nobody_waits(pool: Pool) -> None:
    pid = int(pool.ask())
    (pool.folder / "broken").touch()
    os.kill(pid, signal.SIGKILL)
    with pool.connect(b"p") as waits, suppress(ConnectionResetError):
        assert waits.recv(100) == b""
    assert "no worker is left" in pool.said.readline()
    assert pool.process.wait(30) == 1
