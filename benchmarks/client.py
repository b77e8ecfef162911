"""The overhead of clients: `python -m benchmarks.client [--quick] [--peers NAMES|none|all] [--json FILE]`.

All clients use the same mock server (`benchmarks.mock_server`, a separate process on the loopback address), one after
the other, each run in a new process that has answered one question before its clock starts; that time counts as
start-up. The task is PDR (8, 4, 1) with summaries, 15 calls in 5 stages; a client without PDR runs its nearest
equivalent, and is compared with the critical path of that. Figures, by client and workload:

- makespan over the critical path: wall seconds until all questions are answered over the server's latency along the
  longest chain of dependent calls; 1 is the optimum
- client CPU, user and system, in ms for each needed completion
- peak completions in flight, as the server saw them, of the useful maximum
- resident memory that the run added at its peak, in kB for each completion in flight at the peak
- connections opened; completion requests sent and completions needed (one request can have several completions, and
  some are retried); other requests, such as counting tokens
- tokens that the client reports over tokens of the server's complete answers
- share of the prompts' 64-character blocks that a prefix cache would have had
- questions answered, of all; with faults, the failures with their reasons

Latency is 0.5 s, or log-normal with that median and sigma 0.7. Fault mixes: 40 % are status 500, 20 % status 429 with
Retry-After 0.2 s, 20 % connections closed at once, 10 % closed in the middle of the answer, 10 % answers cut short; the
last workload has 1 % of requests that are never answered, and a timeout of 3 s. Peers run in separate virtual
environments, created once under `--cache`; DSPy runs in the current one. The machine's load before each run is in the
file. `--profile` instead profiles the CPU of the DSPy program, with 256 questions or the named workloads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
from rich.console import Console

from benchmarks import mock_server
from benchmarks.client_report import Aim, Row, show, show_profile

ROOT = Path(__file__).parent.parent
PDR = (8, 1, 4, 1, 1)
EIGHT = (8,)
LATENCY = 0.5
LIMIT = 90.0
"""Seconds after which a run is stopped, including start-up."""


@dataclass(frozen=True)
class Client:
    """A client, and how it makes the calls."""

    script: str
    about: str
    mode: str = ""
    plan: tuple[int, ...] = PDR
    """Concurrent calls in each stage of a question."""
    peer: str | None = None
    """The peer whose Python runs it; None for the current one."""
    only: frozenset[str] | None = None
    """The workloads that it runs; None for all."""
    cap: int | None = None
    """Its default limit of requests in flight; None for no limit."""


@dataclass(frozen=True)
class Workload:
    """The task of every client."""

    questions: int
    kind: str = "pdr"
    latency: float = LATENCY
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the mock server."""
    timeout: float = 600.0
    """Timeout of one request in seconds, for clients with such a setting."""


def mix(rate: float) -> dict[str, float]:
    """The shares of faults that make up `rate` of all requests."""
    return {"500": 0.4 * rate, "429": 0.2 * rate, "drop": 0.2 * rate, "cut": 0.1 * rate, "truncate": 0.1 * rate}


WORKLOADS = {
    "1 question": Workload(1),
    "16 questions": Workload(16),
    "64 questions": Workload(64),
    "256 questions": Workload(256),
    "2,048 single calls": Workload(2048, kind="calls"),
    "64, log-normal": Workload(64, settings={"sigma": 0.7}),
    "64, 5 % faults": Workload(64, settings={"faults": mix(0.05), "retry_after": 0.2}),
    "64, 20 % faults": Workload(64, settings={"faults": mix(0.20), "retry_after": 0.2}),
    "64, 1 % hangs": Workload(64, settings={"faults": {"hang": 0.01}}, timeout=3.0),
}
QUICK = {
    "1 question": Workload(1, latency=0.2),
    "16 questions": Workload(16, latency=0.2),
    "16, 5 % faults": Workload(16, latency=0.2, settings={"faults": mix(0.05), "retry_after": 0.2}),
}
_SOME = frozenset({"1 question", "64 questions", "64, 5 % faults"})
_MOST = frozenset(WORKLOADS) - {"16 questions", "64, 1 % hangs"}
CLIENTS = {
    "aiohttp (floor)": Client(
        "with_aiohttp.py", "the calls of PDR, no retries", only=frozenset(WORKLOADS) - {"64, 1 % hangs"}
    ),
    "pdr-dspy, engine": Client("with_pdr.py", "the calls of PDR", "engine"),
    "pdr-dspy, LM": Client("with_pdr.py", "the calls of PDR", "lm"),
    "pdr-dspy, program": Client("with_pdr.py", "PDR", "program"),
    "pdr-dspy, singles": Client(
        "with_pdr.py", "PDR, no n > 1", "singles", only=frozenset({"64 questions", "256 questions"})
    ),
    "pdr-dspy, evaluate": Client("with_pdr.py", "PDR", "evaluate"),
    "openai SDK": Client("with_openai.py", "the calls of PDR", peer="openai", cap=1000),
    "DSPy BestOfN": Client("with_dspy.py", "best of 8", "bestofn", EIGHT, "dspy", _SOME, 64),
    "DSPy Refine": Client("with_dspy.py", "4 attempts, 3 advices", "refine", (1,) * 7, "dspy", _SOME, 64),
    "DSPy MultiChain": Client("with_dspy.py", "8 and a comparison", "mcc", (8, 1), "dspy", _SOME, 64),
    "DSPy Parallel": Client("with_dspy.py", "8 of each", "parallel", EIGHT, "dspy", _MOST, 64),
    "its-hub": Client("with_its_hub.py", "self-consistency of 8", "", EIGHT, "its-hub", _MOST, 100),
    "inspect-ai": Client("with_inspect.py", "8 epochs", "", EIGHT, "inspect-ai", _SOME | {"2,048 single calls"}),
}
QUICK_CLIENTS = ("aiohttp (floor)", "pdr-dspy, engine", "pdr-dspy, program")
PEERS = {
    "dspy": (),
    "openai": ("openai==3.54.0",),
    "its-hub": ("its-hub[lm]==1.2.0",),
    "inspect-ai": ("inspect-ai==0.3.285", "openai==3.54.0"),
}
"""The requirements of each peer; empty for a package of the current environment."""


def _figure(name: str, client: str, workload: str) -> Callable[[Callable[[str, str], Row | None]], float | None]:
    def reach(row_of: Callable[[str, str], Row | None]) -> float | None:
        row = row_of(client, workload)
        return getattr(row, name) if row is not None else None

    return reach


def _slower(row_of: Callable[[str, str], Row | None]) -> float | None:
    rows = row_of("pdr-dspy, program", "64, 5 % faults"), row_of("pdr-dspy, program", "64 questions")
    walls = [row.wall for row in rows if row is not None and row.wall is not None]
    return walls[0] / walls[1] if len(walls) == 2 else None


def _furthest(row_of: Callable[[str, str], Row | None]) -> float | None:
    """The ratio of reported to served tokens that is furthest from 1, over all rows of this library."""
    rows = (row_of(client, workload) for client in CLIENTS if client.startswith("pdr-dspy") for workload in WORKLOADS)
    figures = [row.truth if row.truth is not None else 0.0 for row in rows if row is not None]
    return max(figures, key=lambda figure: abs(figure - 1), default=None)


def _megabytes(row_of: Callable[[str, str], Row | None]) -> float | None:
    row = row_of("pdr-dspy, program", "2,048 single calls")
    if row is None or row.peak_memory is None or row.counters["peak_completions"] < 2048:
        return None
    return row.peak_memory / 2**20


AIMS = (
    *(
        Aim(
            f"{client}: makespan over path, {workload}",
            f"at most {most}",
            _figure("ratio", client, workload),
            most.__ge__,
        )
        for client in ("pdr-dspy, program", "pdr-dspy, evaluate")
        for workload, most in (("1 question", 1.05), ("64 questions", 1.15))
    ),
    Aim(
        "engine: CPU ms a call, 64 questions",
        "at most 0.35",
        _figure("cpu_ms", "pdr-dspy, engine", "64 questions"),
        (0.35).__ge__,
    ),
    Aim(
        "program: CPU ms a call, 64 questions",
        "at most 0.8",
        _figure("cpu_ms", "pdr-dspy, program", "64 questions"),
        (0.8).__ge__,
    ),
    Aim("tokens reported over served, the furthest from 1", "1.000", _furthest, lambda figure: abs(figure - 1) < 5e-7),
    Aim("program: makespan at 5 % faults over without", "at most 1.5", _slower, (1.5).__ge__),
    Aim("program: MB of the process with 2,048 in flight", "below 400", _megabytes, (400.0).__gt__),
)


def main() -> None:
    """Run the selected clients and workloads, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few clients, small workloads, no peers; under a minute")
    parser.add_argument("--peers", default="all", help=f"all, none, or some of {', '.join(PEERS)}, with commas")
    parser.add_argument("--clients", help="only these, by the start of their names, with commas")
    parser.add_argument("--workloads", help="only these, by the start of their names, with semicolons")
    parser.add_argument("--cache", type=Path, default=Path(platformdirs.user_cache_dir("pdr-dspy")) / "peers")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which a run is stopped")
    parser.add_argument("--profile", action="store_true", help="profile the CPU of the DSPy program instead")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args()
    peers = [] if options.quick or options.peers == "none" else list(PEERS)
    if options.peers not in ("all", "none"):
        peers = options.peers.split(",")
        if unknown := set(peers) - set(PEERS):
            parser.error(f"--peers {unknown.pop()}: the peers are {', '.join(PEERS)}")
    workloads = _named(QUICK if options.quick else WORKLOADS, options.workloads, ";")
    clients = _named(
        {name: CLIENTS[name] for name in QUICK_CLIENTS} if options.quick else CLIENTS, options.clients, ","
    )
    if options.profile:
        clients = {"pdr-dspy, program": CLIENTS["pdr-dspy, program"]}
        workloads = workloads if options.workloads else {"256 questions": WORKLOADS["256 questions"]}
    console = Console() if sys.stdout.isatty() else Console(width=190)
    pythons, missing = {}, {}
    for name in peers:
        if any(client.peer == name for client in clients.values()):
            try:
                with console.status(f"the environment of {name}"):
                    pythons[name] = environment(name, options.cache)
            except RuntimeError as error:
                missing[name] = str(error)
    rows = measure(
        clients,
        workloads,
        pythons,
        limit=options.limit,
        profile=options.profile,
        progress=lambda text: console.print(text, style="dim"),
    )
    if options.profile:
        for row in rows:
            show_profile(console, row)
    else:
        show(console, rows, () if options.quick else AIMS)
    for name, reason in missing.items():
        console.print(f"{name} is left out: {reason}")
    if options.json:
        options.json.write_text(json.dumps([_plain(row) for row in rows], indent=1))


def environment(name: str, cache: Path) -> str:
    """The Python of a peer, in a virtual environment that is created if it is missing.

    Raises RuntimeError with pip's last line if that fails.
    """
    wanted = PEERS[name]
    if not wanted:
        return sys.executable
    folder = cache / f"{name}-{wanted[0].partition('==')[2]}"
    python = folder / "bin" / "python"
    ready = folder / "installed"
    if ready.is_file() and ready.read_text() == " ".join(wanted):
        return str(python)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise RuntimeError(f"{' '.join(wanted)}: {words[-1] if words else 'pip failed'}")
    ready.write_text(" ".join(wanted))
    return str(python)


def measure(
    clients: Mapping[str, Client],
    workloads: Mapping[str, Workload],
    pythons: Mapping[str, str],
    *,
    limit: float = LIMIT,
    profile: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """One row for each client and workload, one run after the other; `pythons` are the interpreters of the peers."""
    rows = []
    with mock_server.serve() as server, tempfile.TemporaryDirectory() as folder:
        for title, workload in workloads.items():
            for name, client in clients.items():
                if client.only is not None and title in WORKLOADS and title not in client.only:
                    continue
                if client.peer is not None and client.peer not in pythons:
                    continue
                python = sys.executable if client.peer is None else pythons[client.peer]
                row = run(name, title, client, workload, server, python, Path(folder), limit=limit, profile=profile)
                progress(f"{title}, {name}: " + (row.stopped or f"{row.wall:.1f} s, {row.cpu_ms:.2f} ms a call"))
                rows.append(row)
    return rows


def run(
    name: str,
    title: str,
    client: Client,
    workload: Workload,
    server: mock_server.Handle,
    python: str,
    folder: Path,
    *,
    limit: float = LIMIT,
    profile: bool = False,
) -> Row:
    """Run one client on one workload, in a new process."""
    plan = client.plan if workload.kind == "pdr" else (1,)
    count, useful = workload.questions, workload.questions * max(plan)
    about = client.about if workload.kind == "pdr" else "single calls"
    row = Row(name, about, title, os.getloadavg()[0], count, count * sum(plan), min(useful, client.cap or useful))
    job = {
        "api_base": server.api_base,
        "mode": client.mode,
        "kind": workload.kind,
        "questions": workload.questions,
        "in_flight": useful,
        "timeout": workload.timeout,
        "profile": profile,
    }
    server.reset(latency=0.001, sigma=0, seed=1, usage=True, faults={})
    command = [python, str(ROOT / "benchmarks" / "peers" / client.script)]
    started = time.perf_counter()
    with (
        (folder / "errors.txt").open("w+") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=_surroundings(folder)
        ) as process,
    ):
        watchdog = threading.Timer(limit, process.kill)
        watchdog.start()
        try:
            warm = _exchange(process, job)
            row.startup = time.perf_counter() - started
            server.reset(**{"latency": workload.latency, **workload.settings})
            figures = _exchange(process, {}) if warm is not None else None
        finally:
            watchdog.cancel()
        process.kill()
        if warm is None or figures is None:
            errors.seek(0)
            words = " ".join(errors.read().strip().splitlines()[-3:])
            late = time.perf_counter() - started >= limit
            row.stopped = f"stopped after {limit:g} s" if late else words[-200:] or "it ended"
            return row
    row.counters = server.counters()
    row.startup_cpu = warm["cpu"]
    row.wall, row.cpu_ms = figures["wall"], 1000 * figures["cpu"] / row.needed
    row.path = critical_path(server.calls(), plan, workload)
    row.memory, row.peak_memory = figures["memory"], figures["peak_memory"]
    if figures["prompt_tokens"] is not None:
        row.reported = figures["prompt_tokens"] + figures["completion_tokens"]
    row.done, row.failures, row.profile = figures["done"], figures["failures"], figures["profile"]
    return row


def critical_path(calls: Sequence[Mapping[str, Any]], plan: Sequence[int], workload: Workload) -> float:
    """The lower bound of the makespan in seconds: the slowest question's stages, each as long as its slowest call.

    With a constant latency that is the number of stages times the latency, with or without faults.
    """
    if not workload.settings.get("sigma"):
        return len(plan) * workload.latency
    questions: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for call in calls:
        questions[call["case"]].append(call)
    return max((longest_chain(own, plan) for own in questions.values()), default=0.0)


def longest_chain(calls: Sequence[Mapping[str, Any]], plan: Sequence[int]) -> float:
    """The summed latency of one question's stages; calls are assigned to stages in the order of their arrival."""
    waiting = sorted(calls, key=lambda call: call["arrived"])
    total = 0.0
    for width in plan:
        slowest, choices = 0.0, 0
        while waiting and choices < width:
            call = waiting.pop(0)
            slowest, choices = max(slowest, call["latency"]), choices + call["choices"]
        total += slowest
    return total


def _plain(row: Row) -> dict[str, Any]:
    return {**asdict(row), "ratio": row.ratio, "truth": row.truth, "hits": row.hits}


def _named(all_of: Mapping[str, Any], names: str | None, separator: str) -> dict[str, Any]:
    wanted = [name.strip() for name in (names or "").split(separator) if name.strip()]
    return {name: value for name, value in all_of.items() if not wanted or any(map(name.startswith, wanted))}


def _surroundings(folder: Path) -> dict[str, str]:
    """The environment of a driver, without outside settings and caches of earlier runs."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
        "DSPY_CACHEDIR": str(folder / "dspy"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        "INSPECT_LOG_DIR": str(folder / "inspect"),
    }


def _exchange(process: subprocess.Popen[str], value: Any) -> Any:
    """Send a line and wait for a line; None if the process ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(value) + "\n")
        process.stdin.flush()
    except OSError:
        return None
    line = process.stdout.readline()
    return json.loads(line) if line else None


if __name__ == "__main__":
    main()
