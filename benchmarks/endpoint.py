"""What `pdr serve` costs, and what it does when things die: `python -m benchmarks.endpoint [--quick] [--json FILE]`.

PDR (4, 2, 1) with random-k workspaces, 7 calls in 3 stages, against the mock server (`benchmarks.mock_server`); server,
endpoint and clients are processes of their own on the loopback address.

- overhead: one request after the other, answers at once. Seconds of a request to the endpoint over seconds of the same
  program called directly, with the same seeds, medians of 200 (`--quick`: 40), taken in turns.
- crowd: 512 clients at once (`--quick`: 128), answers after 0.2 s; the same programs called directly in one process.
- model killed: `kill -9` of the model server while the crowd is served; then another on the same port, and each client
  again.
- endpoint killed: `kill -9` of the endpoint while the crowd is served.
- 2 workers: the crowd before `pdr serve --workers 2`; worker killed: `kill -9` of one of them, which is replaced while
  the crowd is served; then each client again.

Figures: clients that got an answer, an error with a status, or a closed connection; those that still hung after 60 s;
the slowest of them, seconds; tokens that the answers say over tokens of the model server's own book, 1 where they are
equal; calls still open at the model server when all clients had ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import dspy
from rich.console import Console
from rich.table import Table

from benchmarks.mock_server import Handle, serve
from pdr_dspy import PDR, connect, save

PROGRAM = PDR("question -> answer: int", widths=(4, 2, 1), distiller="random_k", k=2, draft_tokens=200, kappa=400)
PATIENCE = 60.0
"""Seconds after which a client hangs."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="128 clients; under a minute")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    figures = measure(40, 128) if options.quick else measure(200, 512)
    one = figures["overhead"]
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(
        f"one request: {one['direct'] * 1000:.1f} ms called directly, {one['endpoint'] * 1000:.1f} ms through the "
        f"endpoint, ratio {one['ratio']:.2f}",
        highlight=False,
    )
    columns = ("what", "clients", "answers", "errors", "closed", "hung", "slowest", "tokens", "calls left")
    table = Table(*columns, title="PDR (4, 2, 1)")
    for row in figures["crowds"]:
        tokens = "" if row["tokens"] is None else f"{row['tokens']:.4f}"
        errors = ", ".join(f"{count} of {status}" for status, count in sorted(row["errors"].items())) or "0"
        cells = (row["clients"], row["answers"], errors, row["closed"], row["hung"], f"{row['slowest']:.1f} s", tokens)
        table.add_row(row["what"], *map(str, cells), str(row["left"]))
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def measure(requests: int, clients: int) -> dict[str, Any]:
    """All figures.

    Args:
        requests: of the overhead.
        clients: of each crowd.
    """
    crowds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = save(PROGRAM, Path(folder) / "pdr.json")
        with serve(latency=0.0) as model, endpoint(path, model, clients) as (url, _):
            overhead = asyncio.run(alone(url, model, requests))
            model.reset(latency=0.2)
            crowds.append(asyncio.run(direct(model, clients)))
            model.reset(latency=0.2)
            crowds.append(asyncio.run(crowd("crowd", url, model, clients, book=True)))
            model.reset(latency=0.2)
            crowds.append(asyncio.run(crowd("model killed", url, model, clients, kill=model)))
            with serve(model.port, latency=0.2) as other:
                crowds.append(asyncio.run(crowd("... and again", url, other, clients, book=True)))
        with serve(latency=0.2) as model, endpoint(path, model, clients) as (url, process):
            crowds.append(asyncio.run(crowd("endpoint killed", url, model, clients, kill=process)))
        with serve(latency=0.2) as model, endpoint(path, model, clients, "--workers", "2") as (url, _):
            workers = processes(url, 2)
            crowds.append(asyncio.run(crowd("2 workers", url, model, clients, book=True)))
            model.reset(latency=0.2)
            crowds.append(asyncio.run(crowd("worker killed", url, model, clients, kill=Process(workers.pop()))))
            processes(url, 2)  # another has its place
            model.reset(latency=0.2)
            crowds.append(asyncio.run(crowd("... and again", url, model, clients, book=True)))
    return {"overhead": overhead, "crowds": crowds}


@dataclass
class Process:
    """One that another process has started."""

    pid: int

    def kill(self) -> None:
        """End it as `kill -9` does."""
        os.kill(self.pid, signal.SIGKILL)


def processes(url: str, count: int) -> set[int]:
    """The processes that answer at an address, once there are so many."""
    found: set[int] = set()
    for _ in range(600):
        for _ in range(10):
            with urllib.request.urlopen(f"{url.removesuffix('v1')}health", timeout=60) as answer:
                found.add(json.load(answer)["process"])
        if len(found) >= count:
            return found
        time.sleep(0.1)
    raise RuntimeError(f"{len(found)} of {count} workers answer")


@contextmanager
def endpoint(path: Path, model: Handle, clients: int, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`pdr serve` of a saved program; its address and its process."""
    command = [sys.executable, "-m", "pdr_dspy", "serve", str(path), "--api-base", model.api_base, "--port", "0"]
    command += ["--running", str(clients), "--deadline", str(PATIENCE / 2), "--quiet", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+/v1", process.stdout.readline())
        if found is None:
            raise RuntimeError("`pdr serve` did not start; run it by hand to see why")
        try:
            yield found[0], process
        finally:
            process.terminate()


def body(number: int) -> dict[str, Any]:
    """The request of one client."""
    question = f"[case {number}] What is 6 * 7?"
    return {"model": "pdr", "messages": [{"role": "user", "content": question}], "seed": number}


async def alone(url: str, model: Handle, count: int) -> dict[str, float]:
    """Median seconds of a request, directly and through the endpoint, one after the other and in turns."""
    lm = connect("mock", model.api_base)
    await lm.check()
    own: list[float] = []
    theirs: list[float] = []
    async with aiohttp.ClientSession() as session:
        with dspy.context(lm=lm):
            for number in range(count + 5):
                started = time.perf_counter()
                await PROGRAM.acall(question=f"[case {number}] What is 6 * 7?", seed=number)
                between = time.perf_counter()
                async with session.post(f"{url}/chat/completions", json=body(number)) as answer:
                    assert answer.status == 200
                    await answer.read()
                if number >= 5:  # the first ones open connections
                    own.append(between - started)
                    theirs.append(time.perf_counter() - between)
    await lm.aclose()
    return {"direct": median(own), "endpoint": median(theirs), "ratio": median(theirs) / median(own)}


async def direct(model: Handle, clients: int) -> dict[str, Any]:
    """The same programs without an endpoint."""
    lm = connect("mock", model.api_base)
    await lm.check()
    started = time.perf_counter()
    with dspy.context(lm=lm):
        runs = [PROGRAM.acall(question=f"[case {n}] What is 6 * 7?", seed=n) for n in range(clients)]
        predictions = await asyncio.gather(*runs)
    seconds = time.perf_counter() - started
    await lm.aclose()
    told = sum(prediction.ledger.total for prediction in predictions)
    return _row("called directly", clients, Counter(answers=clients), seconds, told / _book(model), model)


async def crowd(
    what: str, url: str, model: Handle, clients: int, *, kill: Any = None, book: bool = False
) -> dict[str, Any]:
    """All clients at once.

    Args:
        what: the row's name.
        url: of the endpoint.
        model: of the endpoint.
        clients: how many.
        kill: what is killed once a third of the calls are served.
        book: hold the tokens of the answers against the model server's.
    """
    met: Counter[str] = Counter()
    told = 0

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal told
        try:
            async with asyncio.timeout(PATIENCE), session.post(f"{url}/chat/completions", json=body(number)) as answer:
                said = await answer.json()
                met["answers" if answer.status == 200 else str(answer.status)] += 1
                if answer.status == 200:
                    told += said["usage"]["total_tokens"]
        except TimeoutError:
            met["hung"] += 1
        except aiohttp.ClientError:
            met["closed"] += 1

    async def killer() -> None:
        while (await asyncio.to_thread(model.counters))["served"] < clients * 7 // 3:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await asyncio.to_thread(kill.kill)

    started = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        work = [one(session, number) for number in range(clients)] + ([killer()] if kill is not None else [])
        await asyncio.gather(*work)
    seconds = time.perf_counter() - started
    return _row(what, clients, met, seconds, told / _book(model) if book else None, model)


def _book(model: Handle) -> int:
    counted = model.counters()
    return counted["prompt_tokens"] + counted["completion_tokens"]


def _row(
    what: str, clients: int, met: Counter[str], seconds: float, tokens: float | None, model: Handle
) -> dict[str, Any]:
    left: int | None = None
    with suppress(OSError):  # it was killed
        ends = time.monotonic() + 5
        while (left := model.counters()["in_flight"]) and time.monotonic() < ends:
            time.sleep(0.05)  # a closed connection is seen a moment later
    return {
        "what": what,
        "clients": clients,
        "answers": met["answers"],
        "errors": {name: count for name, count in met.items() if name.isdigit()},
        "closed": met["closed"],
        "hung": met["hung"],
        "slowest": seconds,
        "tokens": tokens,
        "left": "" if left is None else left,
    }


if __name__ == "__main__":
    main()
