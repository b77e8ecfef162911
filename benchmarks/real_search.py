"""The cost of a search on a real model: `python -m benchmarks.real_search [--quick] [--json FILE] [--folder DIR]`.

A search of 60 trials runs on the embedded model and on sums of three numbers, with everything that saves tokens. Then
every trial that the race dropped is completed, on the same questions with the same seeds and over the same store, so
that the same 60 programs are priced four times: with and without reuse, with and without racing. Reuse is the hits of
the rollout store; "without" counts each run at the price of a separate program. The baseline is a search that measures
every trial in full and stores no calls. Tokens are input and output, as the server counted them; finalists on fresh
seeds and the confirmation are in both columns and in a separate row.

`--quick` runs 6 trials on 3 questions, a few minutes on 2 cores; the full run takes over an hour there, and resumes in
`--folder` after an interruption. Wall times are not reported: the comparison is of tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import dspy
from rich.console import Console
from rich.table import Table

from optimize.wheel_weights import SOURCES
from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search import PDROptimizer, SearchResult, Space
from pdr_dspy.search.result import program_of
from programs import arithmetic

SPACE = Space(
    rounds=(1, 2, 3),
    widths=(1, 2, 4),
    distiller=("random_k", "topk", "summary"),
    k=(1, 2, 3),
    tally=(True, False),
    critique=(True, False),
    kappa=(240, 400),
    draft_tokens=(96, 128),
    refine_tokens=(128,),
    distill_tokens=(96,),
    temperature=(0.8,),
)
MAX_TOTAL = 800
"""Mean tokens of all calls of a run."""
STUDENT = Schedule(
    widths=(4, 1), distiller="random_k", k=2, kappa=240, draft_tokens=96, refine_tokens=128, temperature=0.8
)


class Price(NamedTuple):
    """Tokens of one way to search."""

    race: int
    finish: int
    """Finalists on fresh seeds, and the confirmation."""


def main() -> None:
    """Search, run the rest of every trial, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 trials on 3 questions")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="folder of the run, which a second run resumes")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="a name of the catalogue, or a GGUF file")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.trials, options.questions = 6, 3
    with tempfile.TemporaryDirectory() as scratch:
        figures = run(options.folder or Path(scratch), options.trials, options.questions, options.model)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def run(folder: Path, trials: int, questions: int, model: str) -> dict[str, object]:
    """Search in `folder`, price it, print the table, and return the figures."""
    display = Display()
    trainset, valset = arithmetic.data("train", limit=questions), arithmetic.data("dev", limit=questions)
    verifier = arithmetic.verifier()
    with Model(embedded=model, sources=SOURCES).serving(SPACE.widest(), display):
        student = arithmetic.build().with_schedule(STUDENT)
        with display.search() as progress:
            optimizer = PDROptimizer(
                verifier,
                space=SPACE,
                max_total=MAX_TOTAL,
                trials=trials,
                finalist_repeats=1,
                confirm_repeats=1,
                run_dir=folder,
                progress=progress,
            )
            optimizer.compile(student, trainset=trainset, valset=valset)
        result = optimizer.result
        assert result is not None
        with Rollouts(folder / "rollouts") as store:
            whole = [
                priced(program_of(result.student, trial), trainset, store, folder / "whole" / f"{trial.number:04d}")
                for trial in result.trials
            ]
    prices = priced_ways(result, whole)
    show(prices, result)
    return {
        "trials": len(result.trials),
        "dropped": sum(trial.state == "dropped" for trial in result.trials),
        "questions": questions,
        "prices": {name: price._asdict() for name, price in prices.items()},
        "verdict": result.confirmation.verdict,
    }


def priced(program: dspy.Module, questions: Sequence[dspy.Example], store: Rollouts, folder: Path) -> tuple[int, int]:
    """Run a trial in full; returns (tokens paid now, tokens of a separate program)."""
    report = evaluate(program, questions, arithmetic.verifier(), store=store, run_dir=folder)
    alone = sum(Ledger(calls=row.calls).as_one_run(prompt_once=True) for row in report.rows)
    return sum(row.paid for row in report.rows), alone


def priced_ways(result: SearchResult, whole: Sequence[tuple[int, int]]) -> dict[str, Price]:
    """The four ways to search the same trials. `whole`: for each, the tokens paid and those of a separate program."""
    raced = sum(trial.paid for trial in result.trials)
    finish = result.paid - raced
    alone = sum(
        row.total
        for trial in result.trials
        for row in result.rows[trial.number]
        if row.seed == 0  # the race; finalists run on other seeds
    )
    fresh = sum(row.total for number in result.rows for row in result.rows[number] if row.seed != 0)
    reports = [result.confirmation.student, *([result.confirmation.winner] if result.best.number else [])]
    confirmed = sum(row.total for report in reports for row in report.rows)
    return {
        "reuse and racing": Price(raced, finish),
        "reuse only": Price(raced + sum(paid for paid, _ in whole), finish),
        "racing only": Price(alone, fresh + confirmed),
        "neither": Price(sum(cost for _, cost in whole), fresh + confirmed),
    }


def show(prices: dict[str, Price], result: SearchResult) -> None:
    """The table."""
    base = sum(prices["neither"])
    dropped = sum(trial.state == "dropped" for trial in result.trials)
    table = Table(title=f"{len(result.trials)} trials, {dropped} dropped by the race")
    for column in ("search", "race", "finalists, confirmation", "tokens in all", "of neither"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for name, price in prices.items():
        table.add_row(name, f"{price.race:,}", f"{price.finish:,}", f"{sum(price):,}", f"{sum(price) / base:.2f}")
    Console().print(table)
    Console().print(result.confirmation.verdict)


if __name__ == "__main__":
    main()
