"""Commands of training: `train`, `export-sft`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdr_dspy.cli.arguments import (
    ApiBase,
    AsJson,
    Data,
    Embedded,
    Grader,
    JudgeBase,
    JudgeModel,
    ModelName,
    Quiet,
    Split,
    TaskFile,
    Trusted,
    display_of,
    home,
    model_of,
)
from pdr_dspy.cli.ending import guarded, resuming


@resuming
def train(
    config: Annotated[
        Path, typer.Option("--config", help="A JSON file: model, rows, steps, learning_rate, lora, schedule, ...")
    ],
    output: Annotated[Path, typer.Option("--output", help="The run folder; the same command resumes in it.")],
    target: Annotated[
        str | None, typer.Argument(help="The program to train on: a saved one, a file, or a name in programs/.")
    ] = None,
    sft: Annotated[
        Path | None,
        typer.Option("--sft", callback=home, help="Imitate these chat samples of `pdr export-sft` instead."),
    ] = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on a program's calls, or on samples; writes OUTPUT/model, and OUTPUT/adapter with LoRA."""
    from pdr_dspy.cli import train

    train.train(target, config, output, task=task, display=display_of(quiet), trusted=trusted, sft=sft)


@guarded
def export_sft(
    run_dir: Annotated[Path, typer.Argument(help="A folder that `pdr eval` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The chat dataset to write, a .jsonl file.")],
    program: Annotated[
        str | None,
        typer.Option("--program", help="The evaluated program, if the folder's name does not tell."),
    ] = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    data: Data = None,
    verifier: Grader = None,
    judge_base: JudgeBase = None,
    judge_model: JudgeModel = None,
    split: Split = None,
    what: Annotated[
        str,
        typer.Option(
            "--what",
            help="right: traces, drafts, workspaces and refinements; or for a distiller alone: summaries whose "
            "refinement was right, picks or verdicts of who saw the gold answer, which the prompts do not have.",
        ),
    ] = "right",
    teacher: Annotated[
        bool,
        typer.Option("--teacher", help="Picks and verdicts by the model below, which reads the gold answer."),
    ] = False,
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    orders: Annotated[
        int | None, typer.Option("--orders", min=1, help="Picks: prompts for each run, in other orders of candidates.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write calls of an evaluation as a chat dataset: what it got right, or what a distiller should say."""
    from pdr_dspy.cli import train

    train.export(
        run_dir, out, program=program, task=task, data=data, verifier=verifier, split=split, as_json=as_json,
        display=display_of(quiet), trusted=trusted, judge_base=judge_base, judge_model=judge_model, what=what,
        teacher=model_of(api_base, model, embedded) if teacher else None, orders=orders,
    )  # fmt: skip
