"""A command that is told to end by a signal: its exit code, what it says, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli import app as cli
from pdr_dspy.cli import ending
from pdr_dspy.cli import evaluate as evaluating
from pdr_dspy.evaluation.records import read_rows
from tests.cli.test_app import PROGRAM

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORDS = {
    signal.SIGTERM: (143, "terminated; the same command resumes"),
    signal.SIGHUP: (129, "its terminal is gone; the same command resumes"),
    signal.SIGINT: (130, "stopped; the same command resumes"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "addition.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "addition", raising=False)
    return tmp_path


@pytest.mark.parametrize("number", WORDS)
def test_a_signal_ends_a_command_in_a_sentence(
    folder: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def command(*_: Any, **__: Any) -> None:
        try:
            signal.raise_signal(number)
            ended.append("not told")
        finally:
            if number is not signal.SIGINT:
                signal.raise_signal(number)  # another one does not cut off the clean-up
            ended.append("cleaned up")

    monkeypatch.setattr(evaluating, "evaluate", command)
    before = [signal.getsignal(one) for one in WORDS]
    done = CliRunner().invoke(cli.app, ["eval", "addition"])
    assert (done.exit_code, done.stderr) == (WORDS[number][0], WORDS[number][1] + "\n")
    assert ended == ["cleaned up"]
    assert [signal.getsignal(one) for one in WORDS] == before


RUN = "runs/mine"
ENDS = {
    "new": (["triage"], ""),
    "run": (["mine.py", "-i", "x"], ""),
    "eval": (["mine.py"], "; the same command resumes"),
    "compare": (["mine.py"], "; the same command resumes"),
    "optimize": (["mine.py"], "; the same command resumes"),
    "optimize --dry-run": (["mine.py"], ""),
    "report": ([RUN], ""),
    "view": ([RUN], ""),
    "export": ([RUN, "--to", "inspect"], ""),
    "train": (["mine.py", "--config", "c.json", "--output", RUN], "; the same command resumes"),
    "export-sft": ([RUN, "--out", "o.jsonl"], ""),
    "serve": (["best.json"], ""),
    "serve-model": (["small"], ""),
    "models": ([], ""),
    "doctor": ([], ""),
    "distillers": ([], ""),
    "axes": ([], ""),
    "verifiers": ([], ""),
    "checks": ([], ""),
    "datasets": ([], ""),
}
"""By command: arguments, and what it says about how to continue."""


@pytest.mark.parametrize("command", ENDS)
def test_only_a_command_that_resumes_says_so(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def told() -> Iterator[None]:
        raise ending.Terminated(signal.SIGTERM)
        yield

    monkeypatch.setattr(ending, "terminated_by_signals", told)
    arguments, after = ENDS[command]
    done = CliRunner().invoke(cli.app, [*command.split(), *arguments])
    assert (done.exit_code, done.stderr) == (143, f"terminated{after}\n")


def test_every_command_is_known_to_these_tests() -> None:
    assert {one.name for one in cli.app.registered_commands} == {command.split()[0] for command in ENDS}


def test_a_signal_that_is_ignored_or_seen_to_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def command(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGHUP)  # as under nohup
        signal.raise_signal(signal.SIGTERM)
        seen.append(-1)

    monkeypatch.setattr(evaluating, "evaluate", command)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda n, _: seen.append(n))
    try:
        done = CliRunner().invoke(cli.app, ["eval", "addition"])
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert done.exit_code == 0
    assert seen == [signal.SIGTERM, -1]


SERVER = """
import http.server, json, os, re, signal, sys, threading
port, told, commander, number = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
count, lock = 0, threading.Lock()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer({"data": [{"id": "small", "owned_by": "someone"}]})

    def do_POST(self):
        global count
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            count += 1
            now = count
        if now == told:
            os.kill(commander, number)
        if now >= told > 0:
            threading.Event().wait()  # in the middle of a request, for ever
        text = body["messages"][-1]["content"]
        found = int(re.search(r"What is (\\d+)", text)[1])
        choices = [
            {"index": i, "message": {"role": "assistant", "content": f"Answer: {found + 1}"}, "finish_reason": "stop"}
            for i in range(body.get("n") or 1)
        ]
        usage = {"prompt_tokens": 9, "completion_tokens": 2 * len(choices), "total_tokens": 9 + 2 * len(choices)}
        self.answer({"id": "1", "object": "chat.completion", "model": "small", "choices": choices, "usage": usage})

    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
COMMANDER = f"""
import json, os, sys
from pdr_dspy import serving
from pdr_dspy.cli import app as cli
from pdr_dspy.serving.process.server import LocalServer, ServerProcess, free_port

class Embedded(LocalServer):
    def __init__(self, name, **settings):
        super().__init__("small", port=0, log_dir=None, startup_timeout=60)

    def _connection(self):
        return {{"identity": "small:embedded"}}

    def _launch(self):
        port = free_port(0)
        command = [sys.executable, "-c", {SERVER!r}, str(port), told, str(os.getpid()), number]
        process = ServerProcess(command, name="small", port=port, env=dict(os.environ))
        began = process.start

        def start(timeout):
            began(timeout)
            print(json.dumps([port, process.pid]), file=sys.stderr, flush=True)

        process.start = start
        return process

serving.LlamaCppServer = Embedded
told, number, *arguments = sys.argv[1:]
sys.argv = ["pdr", *arguments]
cli.main()
"""


def command(folder: Path, told: int, number: int, *arguments: str) -> tuple[int, str, int, int]:
    """Run `pdr` with an embedded model that tells it to end at the `told`th request, and then answers no more.

    Returns the exit code, what it said, and the model's port and process."""
    line = [sys.executable, "-c", COMMANDER, str(told), str(number), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    began = next(line for line in done.stderr.splitlines() if line.startswith("["))
    port, group = json.loads(began)
    return done.returncode, done.stderr, port, group


def test_no_server_and_no_port_outlive_it_and_what_is_finished_is_kept(folder: Path) -> None:
    evaluation = ("eval", "addition", "--repeats", "2", "--run-dir", "out")
    code, said, port, group = command(folder, 17, signal.SIGTERM, *evaluation)
    assert code == 143
    assert said.endswith("terminated; the same command resumes\n")
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))
    with Rollouts(folder / "out" / "rollouts") as store:
        kept = {rollout.key for rollout in store}
    assert 0 < len(kept) < 8 * 4
    finished = read_rows(folder / "out" / "rows.jsonl")
    code, said, _, _ = command(folder, 0, 0, *evaluation)
    assert code == 0, said
    rows = read_rows(folder / "out" / "rows.jsonl")
    assert len(rows) == 8
    assert {key: rows[key] for key in finished} == finished
    calls = [call for row in rows.values() for call in row.calls if (row.id, row.repeat) not in finished]
    assert all(call.reused == (call.key in kept) for call in calls)
