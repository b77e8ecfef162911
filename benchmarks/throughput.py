"""A PDR program compared with the server's offline batch: `python -m benchmarks.throughput --model FOLDER`.

The program is PDR (8, 4, 1) with summaries over sums, evaluated with all questions concurrently on vLLM's server on the
loopback address. Its requests are recorded. After the server has stopped, the same vLLM answers all of them as one
batch in its own process (`vllm.LLM.chat`: no HTTP, and no stage waits for another), with the same settings. Both start
with an empty prefix cache. The figure is generated tokens per second of the program over those of the batch. Texts
differ slightly between batches, so each side counts its own generated tokens, from the server's /metrics and from the
batch's outputs.

`--python` names the interpreter that has vLLM, `--cpu` selects its CPU build; `--server URL` uses a running server, and
then only the program is measured. `--quick` has 2 questions instead of 16; most of its time is vLLM's start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from rich.console import Console
from rich.table import Table

from pdr_dspy import PDR, Schedule, evaluate
from pdr_dspy.serving import VLLMServer, connect
from pdr_dspy.verifiers import NumberVerifier

CAP = 128
"""Output tokens of each call."""
CONTEXT = 2048
WIDE = 512
"""Sequences that vLLM runs at once, at most."""


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder of weights or a hub name")
    parser.add_argument("--server", help="the API base of a server that runs, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has vLLM")
    parser.add_argument("--cpu", action="store_true", help="vLLM's CPU build")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="2 questions")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    if not options.model and not options.server:
        parser.error("give --model, or the --server that runs")
    count = 2 if options.quick else options.questions
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _server(options) as (api_base, surroundings):
            program, requests = measure(api_base, count)
        rows = {"program": program}
        if options.model and not options.server:
            job = {"model": options.model, "settings": _settings(cpu=options.cpu), "requests": requests}
            rows["offline batch"] = offline(job, options.python, surroundings, folder)
    table = Table(
        "", "calls", "prompt tokens", "generated", "seconds", "generated per second", title=f"{count} questions"
    )
    for row, figures in rows.items():
        rate = figures["output"] / figures["seconds"]
        shown = (str(figures[key]) for key in ("input", "output"))
        table.add_row(row, str(len(requests)), *shown, f"{figures['seconds']:.1f}", f"{rate:.1f}")
    console = Console()
    console.print(table)
    if len(rows) == 2:
        console.print(f"program over batch: {ratio(rows):.3f} (aim: 0.95)")
    if options.json:
        options.json.write_text(json.dumps({"questions": count, "rows": rows}, indent=1))


def ratio(rows: dict[str, dict[str, Any]]) -> float:
    """Generated tokens per second of the program over those of the batch."""
    program, batch = (rows[name]["output"] / rows[name]["seconds"] for name in ("program", "offline batch"))
    return program / batch


class Recorder(BaseCallback):
    """Records the request of every call to a model."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        request = inputs["prompt"]
        system = [{"role": "system", "content": request.system}] if request.system else []
        turns = [
            {"role": turn.role, "content": "\n".join(part.text for part in turn.parts)} for turn in request.messages
        ]
        config = {name: getattr(request.config, name) for name in ("max_tokens", "temperature", "top_p", "seed")}
        given = {name: value for name, value in config.items() if value is not None}
        self.requests.append({"messages": [*system, *turns], **given})


def measure(api_base: str, count: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures of the evaluated program, and the requests that it made."""
    recorder = Recorder()
    lm = connect("auto", api_base, max_tokens=CAP, temperature=1.0)
    operator = PDR("question -> answer: int", Schedule(widths=(8, 4, 1), draft_tokens=CAP, kappa=512))
    try:
        lm.check_sync()
        with dspy.context(lm=lm):
            evaluate(operator, sums(1, seed=1), NumberVerifier())  # warm-up
        with dspy.context(lm=lm, callbacks=[recorder]):
            before, started = generated(api_base), time.perf_counter()
            report = evaluate(operator, sums(count, seed=2), NumberVerifier(), max_in_flight=WIDE)
            seconds, after = time.perf_counter() - started, generated(api_base)
    finally:
        lm.close()
    calls = [call for row in report.rows for call in row.calls]
    told = {name: sum(getattr(call.usage, name) or 0 for call in calls) for name in ("input", "output")}
    measured = None if before is None or after is None else after - before
    return {
        "seconds": seconds,
        "input": told["input"],
        "output": told["output"] if measured is None else measured,
        "ledger": told["output"],
        "score": report.score,
    }, recorder.requests


def sums(count: int, *, seed: int) -> list[dspy.Example]:
    """Sums of four numbers of two digits."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        numbers = [draw.randint(10, 99) for _ in range(4)]
        text = f"What is {' + '.join(map(str, numbers))}?"
        made.append(dspy.Example(question=text, answer=sum(numbers)).with_inputs("question"))
    return made


def generated(api_base: str) -> int | None:
    """Tokens that the server has generated since its start, from its /metrics; None if it has none."""
    try:
        with urllib.request.urlopen(api_base.removesuffix("/v1") + "/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return None
    found = [float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total{")]
    return int(sum(found)) if found else None


def offline(job: dict[str, Any], python: str, surroundings: dict[str, str], folder: Path) -> dict[str, Any]:
    """Seconds and tokens of a job of `peers/with_vllm.py`: the same requests as one offline batch of vLLM."""
    given, out = folder / "job.json", folder / "out.json"
    given.write_text(json.dumps({**job, "out": str(out)}))
    command = [python, str(Path(__file__).parent / "peers" / "with_vllm.py"), str(given)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vLLM's offline batch failed: {' '.join(done.stderr.strip().splitlines()[-3:])}")
    return json.loads(out.read_text())


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, str]]]:
    """The API base of the server to measure, and the environment that it runs in."""
    if options.server:
        yield options.server.rstrip("/"), {}
        return
    # The model's sampling defaults would apply to the server only.
    extra = ["--max-num-seqs", str(WIDE), "--generation-config", "vllm", *(["--enforce-eager"] if options.cpu else [])]
    server = VLLMServer(
        options.model,
        cpu=options.cpu,
        python=options.python,
        max_model_len=CONTEXT,
        dtype=_dtype(options.cpu),
        extra_args=extra,
    )
    with server:
        yield server.api_base, server.environment()


def _settings(*, cpu: bool) -> dict[str, Any]:
    """Settings of a `vllm.LLM` that match those of the server."""
    settings: dict[str, Any] = {"max_model_len": CONTEXT, "max_num_seqs": WIDE, "dtype": _dtype(cpu)}
    settings |= {"enable_prefix_caching": True, "generation_config": "vllm"}
    if cpu:
        settings |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": 8192}
    return settings


def _dtype(cpu: bool) -> str:
    return "bfloat16" if cpu else "auto"


if __name__ == "__main__":
    main()
