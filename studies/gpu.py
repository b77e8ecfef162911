"""Everything that a machine with a GPU and without network can say in half an hour: one command, to the end.

    python -m studies.gpu --weights FOLDER --minutes 25                    # vLLM from its wheel, on this machine
    python -m studies.gpu --api-base http://127.0.0.1:8000/v1              # a server that runs already
    python -m studies.gpu --weights FOLDER --aime aime24.jsonl --thinking 8192 --vllm=--reasoning-parser=qwen3

It runs the programs of the studies, in parts of some questions: every program answers a part before the next part
begins, so that whenever time is over all of them have answered equal questions. A part that would not be done in time,
by the slowest one so far, is not begun. What ran is kept, and the same command goes on from there. It leaves the lines
of each study, as studies/rows has them, and `summary.json`: scores with intervals, tokens, and tokens a second.

With vLLM, time left at the end measures the server against vLLM's own batch (`benchmarks.throughput`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import dspy
import typer

from pdr_dspy import datasets
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli.ending import resuming
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation import Report, evaluate
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.runtime.atomic_write import write_whole
from programs import aime
from studies import arithmetic, countdown, humaneval
from studies.study import Study, folder_name, write_lines

PART = 32
"""Questions of a part: enough that a GPU's batch is full, few enough that one is done in minutes."""


def aime_study(path: Path, thinking: int) -> Study:
    """AIME, of a local file with `problem` and `answer`: the paper's strategies at equal caps.

    Args:
        path: .jsonl, .json, .csv or .parquet.
        thinking: tokens of thought of each call, on top of 2,048 for the solution.
    """
    base = Schedule(
        widths=(1,), kappa=4096, draft_tokens=2048, refine_tokens=2048, thinking_tokens=thinking, temperature=1.0
    )
    made = {
        "PDR 8-1 random": base.replace(widths=(8, 1), distiller="random_k", k=2),
        "one pass": base,
        "vote of 8": base.replace(widths=(8,), final="vote"),
        "PDR 8-4-1 random": base.replace(widths=(8, 4, 1), distiller="random_k", k=2),
        "PDR 8-1 top-k": base.replace(widths=(8, 1), distiller="topk", k=2),
        "SR x3": base.replace(widths=(1, 1, 1), distiller="last"),
    }
    problems = datasets.load(path, fields={"question": "problem", "answer": "answer"})
    return Study(
        "aime", {name: Operator(aime.Aime, schedule) for name, schedule in made.items()}, problems, aime.verifier()
    )


def run_in_parts(
    study: Study,
    folder: Path,
    *,
    until: float,
    part: int = PART,
    in_flight: int = 256,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Report]:
    """Run a study part by part; a part that would not be done by `until`, in the clock's seconds, is not begun.

    Returns the reports over all parts that are whole; empty when the first one was not begun.
    """
    whole: dict[str, list[Report]] = {name: [] for name in study.programs}
    slowest = 0.0
    with Rollouts(folder / "rollouts") as store:
        for number, start in enumerate(range(0, len(study.examples), part)):
            begun = clock()
            if begun >= until or begun + slowest > until:
                break
            examples = study.examples[start : start + part]
            for name, program in study.programs.items():
                report = evaluate(
                    program,
                    examples,
                    study.verifier,
                    repeats=study.repeats,
                    run_dir=folder / f"part{number}" / folder_name(name),
                    store=store,
                    max_in_flight=in_flight,
                    name=name,
                )
                whole[name].append(report)
            slowest = max(slowest, clock() - begun)
    return {
        name: Report(rows=tuple(row for one in reports for row in one.rows), name=name)
        for name, reports in whole.items()
        if reports
    }


def told(reports: Mapping[str, Report], seconds: float) -> dict[str, Any]:
    """What the summary says of a study."""
    paid = sum(row.paid for report in reports.values() for row in report.rows)
    return {
        "questions": len(next(iter(reports.values())).by_question),
        "seconds": round(seconds, 1),
        "paid tokens": paid,
        "paid tokens a second": round(paid / seconds, 1) if seconds > 0 else None,
        "programs": {
            name: {
                "score": report.score,
                "interval": list(report.interval),
                "sequential": report.sequential,
                "total": report.total,
                "failed": report.failed,
            }
            for name, report in reports.items()
        },
    }


def run_all(
    studies: Sequence[Study],
    out: Path,
    model: str,
    *,
    minutes: float,
    part: int = PART,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Every study in turn, each with an equal share of what time is left, and the summary of all that ran.

    The LM is DSPy's default. The summary is written after every study, so that what ends the process costs one.
    """
    if minutes <= 0:
        raise ConfigError(f"`--minutes {minutes}` must be above 0")
    end = clock() + 60 * minutes
    summary: dict[str, Any] = {"model": model, "studies": {}, "not begun": []}
    for place, study in enumerate(studies):
        begun = clock()
        until = begun + (end - begun) / (len(studies) - place)
        reports = run_in_parts(study, out / study.name, until=until, part=part, clock=clock)
        if reports:
            summary["studies"][study.name] = told(reports, clock() - begun)
            write_lines(study.name, model, reports, rows=out / "rows")
        else:
            summary["not begun"].append(study.name)
        write_whole(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary


@contextmanager
def serving(
    weights: Path | None, api_base: str | None, context: int, arguments: Sequence[str]
) -> Iterator[tuple[dspy.LM, str]]:
    """The LM and its name: of a server that runs already, or of vLLM on the weights of a folder.

    Raises ConfigError where neither is given; MissingExtra without vLLM; ServerStartError when it does not start.
    """
    from pdr_dspy.serving import VLLMServer, connect

    if api_base is not None:
        lm = connect("auto", api_base)
        try:
            lm.check_sync()
            yield lm, lm.model.rpartition("/")[2]
        finally:
            lm.close()
    elif weights is not None:
        if not weights.is_dir():
            raise ConfigError(f"`--weights {weights}` is no folder; give one of safetensors")
        with VLLMServer(str(weights), max_model_len=context, extra_args=arguments) as server:
            yield server.lm, weights.name
    else:
        raise ConfigError("give `--weights`, a folder for vLLM, or the `--api-base` of a server that runs")


@resuming
def main(
    weights: Annotated[Path | None, typer.Option(help="Folder of safetensors, for vLLM.")] = None,
    api_base: Annotated[str | None, typer.Option(help="Address of a server that runs already.")] = None,
    minutes: Annotated[float, typer.Option(help="Time for the studies, after the server has started.")] = 25.0,
    questions: Annotated[int, typer.Option(help="Of each study, at most.")] = 128,
    aime_file: Annotated[Path | None, typer.Option("--aime", help="A local file of AIME: problem, answer.")] = None,
    thinking: Annotated[int, typer.Option(help="Tokens of thought of each call, for a model that thinks.")] = 0,
    context: Annotated[int, typer.Option(help="Tokens of a prompt and its completion, for vLLM.")] = 16_384,
    vllm: Annotated[list[str] | None, typer.Option(help="A further argument of `vllm serve`; can be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Where rows, lines and the summary go.")] = Path("runs/gpu"),
) -> None:
    """Run the studies for so many minutes, and print the summary."""
    begun = time.monotonic()
    studies = [] if aime_file is None else [aime_study(aime_file, thinking)]
    studies += [humaneval.study(questions), countdown.study(questions), arithmetic.study(min(questions, 100))]
    with serving(weights, api_base, context, vllm or ()) as (lm, name), dspy.context(lm=lm):
        summary = run_all(studies, out, name, minutes=minutes)
    print(json.dumps(summary, indent=1))
    left = 60 * minutes - (time.monotonic() - begun)
    if weights is not None and left > 120:
        command = [sys.executable, "-m", "benchmarks.throughput", "--model", str(weights), "--questions", "64"]
        try:
            subprocess.run([*command, "--json", str(out / "throughput.json")], check=False, timeout=left)
        except subprocess.TimeoutExpired:
            print("throughput: no time was left to finish it")


if __name__ == "__main__":
    typer.run(main)
