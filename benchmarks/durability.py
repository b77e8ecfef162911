"""The cost of durability and its growth: `python -m benchmarks.durability [PARTS] [--quick] [--json FILE]`.

Parts, by default all but `kills`:

- rows: PDR 4-1 on a scripted model, 5,000, 20,000 and 100,000 questions in a run folder. CPU and wall time, memory that
  the run added at its peak, bytes on the disk for each row; then the same command again, which finds every row
- store: 50,000, 100,000 and 500,000 completions of 2 kB in a folder. Time to put one, to open the folder (with its
  index, and without, which rebuilds it), to look up an existing and a missing one, memory that opening added
- sync: microseconds for each completion put without sync, with one sync for all within a second (the library's
  policy), and with one sync for each
- search: 200 questions, 25, 50 and 100 trials on a scripted model. CPU time for each run of a program, by cohort, and
  of the same command again, which reads everything from journal and store
- kills: `pdr eval` and `pdr optimize` against a mock server are killed (SIGKILL) at random moments and restarted,
  `--moments` times (50). Lost completions, completions paid twice, and differences in the result

A figure's growth is the exponent of the power law through its smallest and its largest size: 1 is linear. Each
measurement is a separate process; its memory excludes that of the imports.
"""

from __future__ import annotations

import argparse
import collections
import gc
import hashlib
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import dspy
from rich.console import Console
from rich.table import Table

from benchmarks import kills, mock_server
from pdr_dspy import PDR, Rollouts, Schedule, evaluate
from pdr_dspy.calls.ledger import Usage
from pdr_dspy.calls.store import Rollout
from pdr_dspy.runtime import atomic_write
from pdr_dspy.search import PDROptimizer, SearchProgress
from pdr_dspy.testing import ScriptedLM, ScriptedRequest, scripted_lm
from pdr_dspy.verifiers import ExactVerifier

ROOT = Path(__file__).parent.parent
SIZES: dict[str, list[dict[str, int]]] = {
    "rows": [{"rows": rows} for rows in (5_000, 20_000, 100_000)],
    "store": [{"completions": count} for count in (50_000, 100_000, 500_000)],
    "sync": [{"puts": 2_000}],
    "search": [{"questions": 200, "trials": trials} for trials in (25, 50, 100)],
}
QUICK: dict[str, list[dict[str, int]]] = {
    "rows": [{"rows": 100}, {"rows": 200}],
    "store": [{"completions": 2_000}, {"completions": 4_000}],
    "sync": [{"puts": 100}],
    "search": [{"questions": 12, "trials": trials} for trials in (6, 12)],
}
PROGRAM = Schedule(widths=(4, 1), distiller="random_k", k=2, draft_tokens=64, kappa=200)
TEXT = "A step of a solution that a model wrote, and another one after it. " * 30


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join([*SIZES, "kills"]))
    parser.add_argument("--quick", action="store_true", help="small sizes, and 4 moments")
    parser.add_argument("--moments", type=int, help="kills of each command: 50")
    parser.add_argument("--folder", type=Path, help="folder of the temporary files")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        job = json.loads(options.child)
        sys.stdout.write(json.dumps(MEASURES[job.pop("part")](Path(job.pop("folder")), **job)) + "\n")
        return
    unknown = set(options.parts) - {*SIZES, "kills"}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join([*SIZES, 'kills'])}")
    parts, console = options.parts or list(SIZES), Console()
    figures: dict[str, Any] = {}
    for part in parts:
        if part == "kills":
            figures[part] = killed(options.moments or (4 if options.quick else 50), options.folder)
        else:
            sizes = (QUICK if options.quick else SIZES)[part]
            figures[part] = [{**size, **measured(part, size, options.folder)} for size in sizes]
        show(console, part, figures[part])
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1))


def measured(part: str, size: Mapping[str, int], folder: Path | None = None) -> dict[str, Any]:
    """The figures of one size, from a separate process."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        job = json.dumps({"part": part, "folder": place, **size})
        command = [sys.executable, "-m", "benchmarks.durability", "--child", job]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{part} {dict(size)} failed: {done.stderr}")
        return json.loads(done.stdout)


def killed(moments: int, folder: Path | None = None) -> list[dict[str, Any]]:
    """The figures of both commands, each killed `moments` times."""
    found = []
    for command in ("eval", "optimize"):
        with tempfile.TemporaryDirectory(dir=folder) as place, mock_server.serve(latency=0.05, sigma=0.7) as server:
            found.append(kills.chain(command, Path(place), server, moments=moments, seed=1))
    return found


# --- the measurements ---


class Clock:
    """CPU and wall seconds since its creation, and the memory added at the peak."""

    def __init__(self) -> None:
        gc.collect()
        with suppress(OSError):  # Linux: reset the peak, which otherwise includes the imports
            Path("/proc/self/clear_refs").write_text("5")
        self.memory = peak()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """The figures, memory in bytes."""
        figures = {"cpu": time.process_time() - self.cpu, "wall": time.perf_counter() - self.wall}
        return {**figures, "memory": max(0, peak() - self.memory)}  # the kernel counts it in batches


def peak() -> int:
    """This process's peak memory in bytes since the last reset."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found is not None:
            return int(found[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def named(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    """The figures with a prefix on their names."""
    return {f"{prefix} {name}": value for name, value in figures.items()}


def model(reply: Callable[[ScriptedRequest], str]) -> ScriptedLM:
    """A scripted model that records no requests."""
    lm = scripted_lm(reply, directly=True)
    lm.served.requests = collections.deque(maxlen=0)  # type: ignore[assignment]
    return lm


def numbered(count: int, first: int = 0) -> list[dspy.Example]:
    """Questions whose answers are their numbers."""
    numbers = range(first, first + count)
    made = [dspy.Example(id=f"q{n}", question=f"What is question {n}?", answer=str(n)) for n in numbers]
    return [example.with_inputs("question") for example in made]


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rows(folder: Path, rows: int) -> dict[str, Any]:
    """An evaluation, then the same evaluation again."""
    lm = model(lambda request: f"One step, seed {request.seed}. Then two.\nAnswer: {request.seed % 3}")
    examples, program = numbered(rows), PDR("question -> answer", PROGRAM)
    with dspy.context(lm=lm, disable_history=True):
        clock = Clock()
        report = evaluate(program, examples, ExactVerifier(), run_dir=folder)
        run = clock.read()
        paid, calls = report.paid, lm.served.calls
        assert len(report.rows) == rows
        del report
        clock = Clock()
        again = evaluate(program, examples, ExactVerifier(), run_dir=folder)
        resumed = clock.read()
    assert (len(again.rows), again.paid, lm.served.calls) == (rows, 0, calls)
    return {**named("run", run), **named("again", resumed), "paid": paid, "disk": size_of(folder)}


def store(folder: Path, completions: int) -> dict[str, Any]:
    """Fill a store, open it and look up completions, also without its index."""
    clock = Clock()
    with Rollouts(folder) as filled:
        for number in range(completions):
            filled.put(completion(number))
    filling = clock.read()
    del filled
    cold = opened(folder, completions)
    index = next(folder.glob("*.index"), None)
    if index is not None:
        index.unlink()
    return {
        "put": filling["wall"] / completions,
        "put memory": filling["memory"],
        **cold,
        **named("no index", opened(folder, completions)),
        "disk": size_of(folder),
    }


def opened(folder: Path, completions: int) -> dict[str, float]:
    """Open a store in a separate process and look up completions."""
    code = "import sys; from benchmarks.durability import print_opening as run; run(sys.argv[1], int(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(folder), str(completions)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


def print_opening(folder: str, completions: int) -> None:
    """Open a store, look up completions, and print the times."""
    clock = Clock()
    with Rollouts(folder) as there:
        opening = clock.read()
        assert len(there) == completions
        draw = random.Random(1)
        some = [completion(draw.randrange(completions)) for _ in range(2_000)]
        begun = time.perf_counter()
        assert all(there.get(one.key) == one for one in some)
        found = (time.perf_counter() - begun) / len(some)
        begun = time.perf_counter()
        assert all(there.get(f"{number:040x}") is None for number in range(len(some)))
        missed = (time.perf_counter() - begun) / len(some)
    figures = {"open": opening["wall"], "open memory": opening["memory"], "found": found, "missed": missed}
    sys.stdout.write(json.dumps(figures) + "\n")


def completion(number: int) -> Rollout:
    """A completion of 2 kB."""
    key = hashlib.sha256(str(number).encode()).hexdigest()[:40]
    text = f"{number}: {TEXT}"[:2000]
    return Rollout(key=key, text=text, usage=Usage(input=100, output=500), seconds=1.5)


def sync(folder: Path, puts: int) -> dict[str, Any]:
    """Seconds for each put, under each policy."""
    figures, usual = {}, atomic_write.SYNC_SECONDS
    try:
        for policy in ("none", "group", "each"):
            atomic_write.SYNC_SECONDS = 1e6 if policy == "none" else usual
            store = Rollouts(folder / policy)
            begun = time.perf_counter()
            for number in range(puts):
                store.put(completion(number))
                if policy == "each":
                    store.sync()
            if policy == "group":
                store.sync()  # includes the latest put
            figures[policy] = (time.perf_counter() - begun) / puts
            store.close()
    finally:
        atomic_write.SYNC_SECONDS = usual
    return figures


def search(folder: Path, questions: int, trials: int) -> dict[str, Any]:
    """A search, then the same search again; CPU seconds by cohort."""
    lm, spent = model(guess), Spent()
    student = PDR("question -> answer", PROGRAM)
    sets: dict[str, Any] = {"trainset": numbered(questions), "valset": numbered(questions, 10**6)}
    with dspy.context(lm=lm, disable_history=True):
        settings: dict[str, Any] = {"trials": trials, "run_dir": folder, "max_in_flight": 64}
        clock = Clock()
        optimizer = PDROptimizer(ExactVerifier(), progress=spent, **settings)
        optimizer.compile(student, **sets)
        run, calls = clock.read(), lm.served.calls
        assert optimizer.result is not None
        paid, runs = optimizer.result.paid, sum(len(some) for some in optimizer.result.rows.values())
        del optimizer
        clock = Clock()
        again = PDROptimizer(ExactVerifier(), **settings)
        again.compile(student, **sets)
    assert again.result is not None
    assert (lm.served.calls, again.result.paid) == (calls, paid)
    return {
        **named("run", run),
        **named("again", clock.read()),
        "runs": runs,
        "calls": calls,
        "cohorts": spent.by_cohort(),
        "disk": size_of(folder),
    }


def guess(request: ScriptedRequest) -> str:
    """An answer that is right with a probability by the question's difficulty, a little higher with a workspace."""
    found = re.search(r"question (\d+)\?", request.user)
    assert found is not None
    if "Selected: <" in request.user:
        return "Selected: [1]"
    number = found[1]
    odds = 0.2 + 0.6 * chance("hard", number) + 0.1 * ("Workspace:" in request.user)
    right = chance(number, request.seed, request.cap) < odds
    return f"One step, seed {request.seed}. Then two.\nAnswer: {number if right else f'w{request.seed % 3}'}"


def chance(*parts: object) -> float:
    """A fraction determined by the parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big") / 2**32


class Spent:
    """CPU seconds and runs of each cohort, from a search's progress."""

    def __init__(self) -> None:
        self.cohort = 0
        self.began = time.process_time()
        self.seconds: dict[int, float] = defaultdict(float)
        self.runs: dict[int, int] = defaultdict(int)

    def __call__(self, now: SearchProgress) -> None:
        """Attribute the time since the last call to the running cohort."""
        if now.event == "row":
            return
        seconds, self.began = time.process_time() - self.began, time.process_time()
        self.seconds[self.cohort] += seconds
        if now.trial is not None:
            self.runs[now.trial.cohort + 1] += now.trial.runs
        named = re.match(r"cohort (\d+):", now.what)
        if now.event == "racing" and named is not None:
            self.cohort = int(named[1])
        elif now.event != "finished":
            self.cohort = 0

    def by_cohort(self) -> list[float]:
        """CPU seconds for each run, cohort by cohort."""
        return [self.seconds[cohort] / self.runs[cohort] for cohort in sorted(self.runs)]


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {"rows": rows, "store": store, "sync": sync, "search": search}


# --- the tables ---


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent of a power law through the first and the last point; nan for fewer than two points."""
    if len(sizes) < 2 or min(values[0], values[-1], sizes[0]) <= 0 or sizes[0] == sizes[-1]:
        return math.nan
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


Column = tuple[str, str, float]
"""(heading, figure, divisor)."""
COLUMNS: dict[str, list[Column]] = {
    "rows": [
        ("run, CPU s", "run cpu", 1),
        ("run, s", "run wall", 1),
        ("MB", "run memory", 1e6),
        ("again, CPU s", "again cpu", 1),
        ("disk MB", "disk", 1e6),
    ],
    "store": [
        ("put µs", "put", 1e-6),
        ("open s", "open", 1),
        ("MB", "open memory", 1e6),
        ("found µs", "found", 1e-6),
        ("missed µs", "missed", 1e-6),
        ("no index: open s", "no index open", 1),
        ("MB", "no index open memory", 1e6),
        ("disk MB", "disk", 1e6),
    ],
    "search": [
        ("runs", "runs", 1),
        ("calls", "calls", 1),
        ("CPU s", "run cpu", 1),
        ("MB", "run memory", 1e6),
        ("again, CPU s", "again cpu", 1),
    ],
}


def show(console: Console, part: str, figures: Sequence[Mapping[str, Any]]) -> None:
    """One table."""
    if part == "sync":
        table = Table("µs for each put", *figures[0])
        table.add_row("", *(f"{1e6 * v:.0f}" if name != "puts" else str(v) for name, v in figures[0].items()))
        console.print(table)
        return
    if part == "kills":
        table = Table("", *(str(row["command"]) for row in figures))
        for name in list(figures[0])[1:]:
            table.add_row(name, *(str(row[name]) for row in figures))
        console.print(table)
        return
    size = {"rows": "rows", "store": "completions", "search": "trials"}[part]
    per = "runs" if part == "search" else size
    table = Table(size, *(head for head, _, _ in COLUMNS[part]), title=part)
    for row in figures:
        table.add_row(f"{row[size]:,}", *(f"{row[name] / unit:,.3g}" for _, name, unit in COLUMNS[part]))
    sizes = [row[per] for row in figures]
    table.add_row("growth", *(f"{growth(sizes, [row[name] for row in figures]):.2f}" for _, name, _ in COLUMNS[part]))
    console.print(table)
    if part == "search":
        each = figures[-1]["cohorts"]
        console.print("CPU ms for each run, by cohort: " + ", ".join(f"{1000 * seconds:.2f}" for seconds in each))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
