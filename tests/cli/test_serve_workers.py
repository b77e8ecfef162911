"""`pdr serve --workers`: several processes behind one port."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pdr_dspy import LongCoT, save
from pdr_dspy.cli import app as cli
from tests.cli.test_serve import BODY, post, start
from tests.endpoint.conftest import one_more, pdr, until
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.slow


@pytest.fixture
def model() -> Iterator[MockServer]:
    with MockServer(one_more) as server:
        yield server


def process_of(url: str) -> int:
    with urllib.request.urlopen(url.removesuffix("v1") + "health", timeout=30) as answer:
        return json.load(answer)["process"]


def figures(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url.removesuffix("v1") + "metrics", timeout=30) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def ask(url: str, met: list[Any]) -> threading.Thread:
    """A client in a thread: what it got, or how its connection ended."""

    def run() -> None:
        try:
            met.append(post(f"{url}/chat/completions", BODY)["choices"][0]["message"]["content"])
        except (OSError, http.client.HTTPException) as error:
            met.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def together(url: str, count: int = 2) -> set[int]:
    """The processes that serve, once there are so many."""
    found: set[int] = set()
    until(lambda: found.add(process_of(url)) or len(found) == count, seconds=60)
    return found


def test_workers_share_a_port_and_are_replaced_reloaded_counted_and_drained(model: MockServer, tmp_path: Path) -> None:
    path = save(pdr(), tmp_path / "best.json")
    process, url = start(path, "--api-base", model.api_base, "--workers", 2)
    try:
        before = together(url)
        assert process.pid not in before

        # one is killed while both work: its clients are told so at once, the other's get their answers
        model.gate = threading.Event()
        met: list[Any] = []
        clients = [ask(url, met) for _ in range(8)]
        until(lambda: model.in_flight == 24 and figures(url)["pdr_running"] == 8)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        assert victim not in together(url)  # the other one serves meanwhile
        until(lambda: figures(url)["pdr_running"] == 8 - len(met))  # who was cut off knows it, and none waits in vain
        model.gate.set()
        for client in clients:
            client.join(30)
        model.gate = None
        answers = met.count("42")
        assert len(met) == 8
        assert all(isinstance(error, (OSError, http.client.HTTPException)) for error in met if error != "42")
        counted = figures(url)
        assert counted['pdr_runs_total{model="best",stop="done"}'] == answers
        assert counted["pdr_running"] == 0

        # a changed file is served by every one of them
        save(LongCoT("question -> answer: int", draft_tokens=64), path)
        calls = [post(f"{url}/chat/completions", BODY)["pdr"]["calls"] for _ in range(8)]
        assert calls == [1] * 8
        assert figures(url)["pdr_reloads"] == 1

        # all of them end what is under way
        model.gate = threading.Event()
        met = []
        clients = [ask(url, met) for _ in range(6)]
        until(lambda: model.in_flight == 6)
        process.send_signal(signal.SIGTERM)
        model.gate.set()
        for client in clients:
            client.join(30)
        assert met == ["42"] * 6
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert f"(process {victim}) ended with signal 9; another takes its place" in log
    assert log.count("drained") == 1


@pytest.mark.parametrize("option", ["--running", "--in-flight"])
def test_a_limit_that_is_less_than_one_for_each_is_refused(model: MockServer, tmp_path: Path, option: str) -> None:
    saved = str(save(pdr(), tmp_path / "best.json"))
    line = ["serve", saved, "--api-base", model.api_base, "--workers", "3", option, "2"]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code == 2
    assert "=2` is less than one for each of 3 workers" in done.stderr


def test_a_worker_that_cannot_start_ends_the_whole(model: MockServer, tmp_path: Path) -> None:
    """The program file that a target names is read by each of them."""
    (tmp_path / "mine.py").write_text(
        "import os, multiprocessing\nfrom pdr_dspy import LongCoT\n"
        "def build():\n    assert multiprocessing.parent_process() is None\n    return LongCoT('question -> answer')\n"
        "def data(split, limit=None, seed=0):\n    return []\n"
        "def verifier():\n    return lambda gold, pred, trace=None: 1.0\n"
    )
    with pytest.raises(pytest.fail.Exception, match="ended with status 1 before it served"):
        start(tmp_path / "mine.py", "--api-base", model.api_base, "--workers", 2)
