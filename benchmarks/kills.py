"""`pdr eval` and `pdr optimize`, killed at random moments and restarted until they end.

Nothing finished may be lost: a completion in the store stays there and is not requested again, a row stays in its file,
and the result is that of an uninterrupted command. A moment is given by the server's number of completed answers.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.evaluation.records import read_rows

ROOT = Path(__file__).parent.parent
PROGRAM = """
import dspy
from pdr_dspy import PDR, Schedule
from pdr_dspy.verifiers import NumberVerifier

FIRST = {"train": 0, "dev": 1000, "test": 2000}

def data(split="test", *, limit=None, seed=0):
    numbers = range(FIRST[split], FIRST[split] + 16)
    made = [dspy.Example(id=f"q{n}", question=f"[case {n}] What is six times seven?", answer="42") for n in numbers]
    return [one.with_inputs("question") for one in made][:limit]

def verifier():
    return NumberVerifier()

def build():
    schedule = Schedule(widths=(4, 1), distiller="random_k", k=2, draft_tokens=128, kappa=200)
    return PDR("question -> answer: int", schedule)
"""
COMMANDS = {
    "eval": ["eval", "six_times_seven.py", "--repeats", "3"],
    "optimize": [
        "optimize",
        "six_times_seven.py",
        "--trials",
        "6",
        "--finalists",
        "1",
        "--limit",
        "6",
        "--confirm",
        "6",
    ],
}


class Server(Protocol):
    """A mock server with counters."""

    api_base: str

    def counters(self) -> dict[str, Any]:
        """`requests` and `completions`, which it has answered in full, since the last reset."""
        ...


class Process(Protocol):
    """A running command."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


Start = Callable[[list[str], Path], Process]
"""Starts `pdr` with some arguments, in a folder."""
Kill = Callable[[Process, Server, int, float], None]
"""Kills a process some seconds after its server's `completions` have reached a number, unless it ends before."""


def start(arguments: list[str], folder: Path) -> Process:
    """Start a separate process."""
    command = [sys.executable, "-m", "pdr_dspy.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)


def kill(process: Process, server: Server, answers: int, later: float) -> None:
    """Poll the server until the moment of the kill."""
    while process.poll() is None:
        if server.counters()["completions"] >= answers:
            time.sleep(later)
            process.kill()
            return
        time.sleep(0.002)


def chain(
    command: str,
    folder: Path,
    server: Server,
    *,
    moments: int,
    seed: int,
    start: Start = start,
    kill: Kill = kill,
) -> dict[str, Any]:
    """Kill `command` `moments` times, resuming it in one run folder until it ends, and then in another.

    Args:
        command: one of `COMMANDS`.
        folder: the folder of the program and the runs.
        server: the model's server.
        moments: number of kills.
        seed: seed of the moments.
        start: starts a command.
        kill: kills a command.

    Returns:
        Totals over all kills: `lost`, served completions that are not in the store because they were in transit; `most
        lost`, the largest number of one kill; `asked again`, completions requested although the store had them; `rows
        lost`; `other ends`, runs whose result differs from an uninterrupted run's; and the moments of the kills.
    """
    (folder / "six_times_seven.py").write_text(PROGRAM)
    draw = random.Random(f"{command} {seed}")
    begun = time.perf_counter()
    whole = Run(command, folder, "whole", server, start, kill)
    assert whole.go(None) == 0, (folder / "output.txt").read_text()
    reference, total = whole.outcome(), len(whole.stored())
    figures = Counter[str]()
    lost: list[int] = []
    number = 0
    run = Run(command, folder, "run0", server, start, kill)
    while len(lost) < moments or run.stored():
        before, rows, served = run.stored(), run.rows(), server.counters()["completions"]
        moment = 1 + draw.randrange(max(1, int(1.2 * (total - len(before)))))
        code = run.go(moment if len(lost) < moments else None, draw.random() * 0.05)
        served, after = server.counters()["completions"] - served, run.stored()
        figures["lost records"] += len(before - after)
        figures["rows lost"] += len(rows.keys() - run.rows().keys())
        gone = served - (len(after) - len(before))
        if code == -signal.SIGKILL:
            lost.append(gone)
            continue
        assert code == 0, (folder / "output.txt").read_text()
        figures["asked again"] += gone
        figures["ends"] += 1
        figures["other ends"] += run.outcome() != reference or after != whole.stored()
        number += 1
        run = Run(command, folder, f"run{number}", server, start, kill)
    return {
        "command": f"pdr {command}",
        "kills": len(lost),
        "completions": total,
        "lost, mean": round(sum(lost) / max(len(lost), 1), 2),
        "lost, most": max(lost, default=0),
        **{name: figures[name] for name in ("lost records", "rows lost", "asked again", "ends", "other ends")},
        "seconds": round(time.perf_counter() - begun),
    }


class Run:
    """One run folder, and the command that uses it."""

    def __init__(self, command: str, folder: Path, name: str, server: Server, start: Start, kill: Kill) -> None:
        self.command = command
        self.folder = folder
        self.name = name
        self.server = server
        self.start = start
        self.kill = kill

    def go(self, answers: int | None, later: float = 0.0) -> int:
        """Start the command, and kill it some seconds after the server has given `answers` answers; returns its exit
        code."""
        where = ["--run-dir", self.name, "--api-base", self.server.api_base, "--quiet"]
        first = self.server.counters()["completions"]
        process = self.start([*COMMANDS[self.command], *where], self.folder)
        if answers is not None:
            self.kill(process, self.server, first + answers, later)
        return process.wait()

    def stored(self) -> set[str]:
        """The addresses of the completions in the store."""
        place = self.folder / self.name / "rollouts"
        if not place.exists():
            return set()
        with Rollouts(place) as store:
            return {rollout.key for rollout in store}

    def rows(self) -> dict[tuple[str, int], Any]:
        """The finished rows of an evaluation."""
        return read_rows(self.folder / self.name / "rows.jsonl")

    def outcome(self) -> Any:
        """The part of the result that must not depend on interruptions."""
        folder = self.folder / self.name
        if self.command == "eval":
            kept = ("id", "repeat", "score", "answer", "total", "sequential")
            return sorted(tuple(getattr(row, name) for name in kept) for row in self.rows().values())
        facts = json.loads((folder / "search.json").read_text())
        trials = [{name: value for name, value in trial.items() if name != "seconds"} for trial in facts["trials"]]
        return [trials, facts["confirmation"], facts["paid"], facts["stopped"]]
