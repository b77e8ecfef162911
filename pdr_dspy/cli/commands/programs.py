"""Commands about one program: `run`, `new`, `eval`, `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdr_dspy.cli.arguments import (
    ApiBase,
    AsJson,
    BudgetSeq,
    BudgetTotal,
    Columns,
    Data,
    Embedded,
    Grader,
    JudgeBase,
    JudgeModel,
    Limit,
    Metric,
    ModelName,
    Quiet,
    Ray,
    Repeats,
    RunDir,
    Seed,
    Split,
    TargetArg,
    TaskFile,
    Texts,
    Trusted,
    budget_of,
    display_of,
    home,
    model_of,
)
from pdr_dspy.cli.ending import guarded, resuming


@guarded
def run(
    target: TargetArg,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=TEXT for each input, or TEXT if there is only one."),
    ] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option("--jsonl", callback=home, help="A JSON object of inputs per line; - is stdin. Answers likewise."),
    ] = None,
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    seed: Seed = 0,
    budget_seq: BudgetSeq = None,
    budget_total: BudgetTotal = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Answer one question, or a file of them."""
    from pdr_dspy.cli import run

    run.run(
        target,
        inputs or [],
        jsonl,
        model=model_of(api_base, model, embedded),
        task=task,
        seed=seed,
        budget=budget_of(budget_seq, budget_total),
        as_json=as_json,
        display=display_of(quiet),
        trusted=trusted,
    )


@guarded
def new(name: Annotated[str, typer.Argument(help="The name of the program; NAME.py is written here.")]) -> None:
    """Write a program file to start from: build(), data() and verifier()."""
    from pdr_dspy.cli.new import new

    path = new(name)
    typer.echo(str(path))
    typer.echo(f"next: pdr eval {path} --limit 4, then replace its rows, metric and program", err=True)


@resuming
def evaluate(
    target: TargetArg,
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    data: Data = None,
    metric: Metric = None,
    verifier: Grader = None,
    field: Columns = None,
    judge_base: JudgeBase = None,
    judge_model: JudgeModel = None,
    split: Split = None,
    limit: Limit = None,
    repeats: Repeats = 1,
    seed: Seed = 0,
    run_dir: RunDir = None,
    budget_seq: BudgetSeq = None,
    budget_total: BudgetTotal = None,
    texts: Texts = None,
    ray: Ray = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a program on a data set and grade it."""
    from pdr_dspy.cli import evaluate

    evaluate.evaluate(
        evaluate.Job.of(
            target, task=task, data=data, verifier=verifier, split=split, limit=limit, repeats=repeats, seed=seed,
            model=model_of(api_base, model, embedded), budget=budget_of(budget_seq, budget_total), run_dir=run_dir,
            kind="eval", trusted=trusted, judge_base=judge_base, judge_model=judge_model, texts=texts, ray=ray,
            metric=metric, fields=field or (),
        ),
        as_json=as_json,
        display=display_of(quiet),
    )  # fmt: skip


@resuming
def compare(
    target: TargetArg,
    against: Annotated[
        list[str] | None, typer.Option("--with", help="Another program or saved program to include in the table.")
    ] = None,
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    data: Data = None,
    metric: Metric = None,
    verifier: Grader = None,
    field: Columns = None,
    judge_base: JudgeBase = None,
    judge_model: JudgeModel = None,
    split: Split = None,
    limit: Limit = None,
    repeats: Repeats = 1,
    seed: Seed = 0,
    run_dir: RunDir = None,
    texts: Texts = None,
    ray: Ray = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a program with one pass, SR and majority voting at its own B_seq and B_total."""
    from pdr_dspy.cli import compare, evaluate

    compare.compare(
        evaluate.Job.of(
            target, task=task, data=data, verifier=verifier, split=split, limit=limit, repeats=repeats, seed=seed,
            model=model_of(api_base, model, embedded), budget=None, run_dir=run_dir, kind="compare",
            trusted=trusted, judge_base=judge_base, judge_model=judge_model, texts=texts, ray=ray,
            metric=metric, fields=field or (),
        ),
        against or [],
        trusted=trusted,
        as_json=as_json,
        display=display_of(quiet),
    )  # fmt: skip
