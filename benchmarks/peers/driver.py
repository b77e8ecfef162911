"""The common part of the drivers of `benchmarks.client`.

A driver is a script of one client, run by that client's Python, so this file needs only the standard library. It reads
a job as one line of JSON, warms up, prints a line, waits for a line, runs, and prints its figures. CPU is that of the
whole process, user and system; memory is its resident memory.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FILLER = "A farmer has six fields, and in each of them stand seven trees that bear fruit every other year. " * 2


class Job(NamedTuple):
    """The job of a driver."""

    api_base: str
    mode: str
    """The driver's mode."""
    kind: str
    """"pdr": the schedule (8, 4, 1) with summaries, or the client's nearest equivalent; "calls": one call each."""
    questions: int
    in_flight: int
    """Limit of requests in flight, for clients with such a setting."""
    timeout: float
    """Timeout of one request in seconds, for clients with such a setting."""
    profile: bool = False


@dataclass
class Outcome:
    """The result of a run."""

    done: int = 0
    """Questions with an answer."""
    prompt_tokens: int | None = None
    """Tokens that the client reports for the whole run; None if it reports none."""
    completion_tokens: int | None = None
    failures: Counter[str] = field(default_factory=Counter)
    """Number of failed questions by reason."""
    profile: dict[str, Any] | None = None

    def add(self, prompt: int | None, completion: int | None) -> None:
        """Count tokens of an answer."""
        if prompt is not None and completion is not None:
            self.prompt_tokens = (self.prompt_tokens or 0) + prompt
            self.completion_tokens = (self.completion_tokens or 0) + completion

    def failed(self, error: BaseException) -> None:
        """Count a question that failed."""
        while getattr(error, "exceptions", None):
            error = error.exceptions[0]  # type: ignore[attr-defined]
        self.failures[type(error).__name__] += 1


Run = Callable[[Sequence[str]], Outcome]


def drive(prepare: Callable[[Job], Run]) -> None:
    """Serve one job from standard input; `prepare` imports what it needs and returns what runs questions."""
    job = Job(**json.loads(sys.stdin.readline()))
    out, sys.stdout = sys.stdout, sys.stderr  # some clients print
    run = prepare(job)
    run([question(10**6)])
    print(json.dumps({"cpu": _cpu()}), file=out, flush=True)
    if not sys.stdin.readline():
        return
    asked = [question(number) for number in range(job.questions)]
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before, cpu, started = _memory()["VmRSS"], _cpu(), time.perf_counter()
    outcome = run(asked)
    wall, used = time.perf_counter() - started, _cpu() - cpu
    figures = {"wall": wall, "cpu": used, "memory": _memory()["VmHWM"] - before, "peak_memory": _memory()["VmHWM"]}
    print(json.dumps({**figures, **vars(outcome)}), file=out, flush=True)


def question(number: int) -> str:
    """A question of about 200 characters whose calls the server lists under `number`."""
    return f"[case {number}] {FILLER}How many trees are there in all?"


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _memory() -> dict[str, int]:
    """Resident bytes now and at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in pairs}
