"""The command `optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdr_dspy.cli.arguments import (
    ApiBase,
    Columns,
    Data,
    Embedded,
    Grader,
    Metric,
    ModelName,
    Quiet,
    Ray,
    Repeats,
    RunDir,
    Seed,
    Study,
    TargetArg,
    TaskFile,
    Texts,
    Trusted,
    display_of,
    model_of,
)
from pdr_dspy.cli.ending import resuming


@resuming
def optimize(
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
    dev: Annotated[
        str | None,
        typer.Option("--dev", help="With --data: other data for the confirmation; by default two fifths of its rows."),
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Schedules to try.")] = 30,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of training examples.")] = None,
    confirm: Annotated[int | None, typer.Option("--confirm", min=1, help="Maximum number of dev examples.")] = None,
    repeats: Repeats = 1,
    seed: Seed = 0,
    run_dir: RunDir = None,
    budget_seq: Annotated[
        int | None, typer.Option("--budget-seq", min=1, help="Limit on the mean sequential tokens (B_seq).")
    ] = None,
    budget_total: Annotated[
        int | None, typer.Option("--budget-total", min=1, help="Limit on the mean tokens of all calls (B_total).")
    ] = None,
    budget_cost: Annotated[
        float | None,
        typer.Option(
            "--budget-cost", help="Limit on the mean cost, in the unit of the prices of the program's models."
        ),
    ] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Search the whole front of score and tokens.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Start no trials after this many paid tokens.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.1, help="End the search after this time.")] = None,
    stop: Annotated[
        str,
        typer.Option("--stop", help="When the search ends: after `trials`, or also when going on is not `worth` it."),
    ] = "trials",
    price: Annotated[
        float,
        typer.Option("--price", help="With --stop worth: the gain in score that the whole budget must bring."),
    ] = 0.01,
    margin: Annotated[
        float, typer.Option("--margin", help="A difference in score that does not count: the cheaper program wins.")
    ] = 0.0,
    finalists: Annotated[
        int, typer.Option("--finalists", min=1, help="Programs, besides the student, that run again on fresh seeds.")
    ] = 4,
    accept: Annotated[
        str,
        typer.Option("--accept", help="When to keep the winner: `confident` that it is better, or merely `better`."),
    ] = "confident",
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, help="Instructions that the model writes for each role in a round.")
    ] = 0,
    prompt_rounds: Annotated[
        int, typer.Option("--prompt-rounds", min=1, help="Rounds of writing, one before each of the first cohorts.")
    ] = 1,
    prompt_model: Annotated[
        str | None, typer.Option("--prompt-model", help="The model that writes them, if not the program's own.")
    ] = None,
    prompt_api_base: Annotated[
        str | None, typer.Option("--prompt-api-base", help="The running server of --prompt-model.")
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            "--axis",
            help="NAME=V1,V2: the candidates of one axis, such as widths=1,4,8; repeatable. Of several operators "
            "each has its own with its path in front, as solve.widths=1,4.",
        ),
    ] = None,
    prior: Annotated[
        list[Path] | None,
        typer.Option("--prior", help="The run folder of an earlier search to learn from; repeatable."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Keeps calls and trials for several searches or machines: a folder, or postgresql://user@host/database.",
        ),
    ] = None,
    study: Study = "pdr",
    texts: Texts = None,
    ray: Ray = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the estimated tokens; no call is made.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Tune a program's schedule on its training data; writes best.json and report.html."""
    from pdr_dspy.cli import optimize
    from pdr_dspy.cli.data_option import DataOptions

    optimize.optimize(
        target,
        task=task,
        options=DataOptions(data, metric, verifier, field or (), dev=dev),
        model=model_of(api_base, model, embedded),
        limit=limit,
        confirm=confirm,
        run_dir=run_dir,
        pareto=pareto,
        display=display_of(quiet),
        trials=trials,
        repeats=repeats,
        seed=seed,
        max_sequential=budget_seq,
        max_total=budget_total,
        **({} if budget_cost is None else {"max_cost": budget_cost}),
        max_tokens=max_tokens,
        time_limit=None if minutes is None else minutes * 60,
        axes=axis or (),
        dry_run=dry_run,
        finalists=finalists,
        stop=stop,
        price=price,
        margin=margin,
        accept=accept,
        prompts=prompts,
        **({"prior": [str(place) for place in prior]} if prior else {}),
        **({} if prompt_rounds == 1 else {"prompt_rounds": prompt_rounds}),
        writer=optimize.writer_of(prompts, prompt_api_base, prompt_model),
        storage=storage,
        study=study,
        trusted=trusted,
        ray=ray,
        **({} if texts is None else {"max_text_bytes": texts * 2**20}),
    )
