"""Commands of servers: `serve`, `serve-model`, `models`, `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdr_dspy.cli.arguments import (
    ApiBase,
    BudgetSeq,
    BudgetTotal,
    Embedded,
    ModelName,
    Quiet,
    TaskFile,
    Trusted,
    display_of,
    home,
    model_of,
)
from pdr_dspy.cli.ending import guarded


@guarded
def serve(
    targets: Annotated[
        list[str], typer.Argument(help="Saved programs (.json), each a model named after its file; or program files.")
    ],
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free port.")] = 8080,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes behind the port, which share out the limits; 1.")
    ] = 1,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", callback=home, help="Bearer keys, one per line; or PDR_SERVE_KEYS in the environment."),
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Serve every client that can reach the --host, without keys.")
    ] = False,
    budget_seq: BudgetSeq = None,
    budget_total: BudgetTotal = None,
    deadline: Annotated[
        float | None, typer.Option("--deadline", min=0.1, help="Seconds from a request to its answer; default 600.")
    ] = None,
    running: Annotated[int | None, typer.Option("--running", min=1, help="Concurrent runs; default 64.")] = None,
    queued: Annotated[int | None, typer.Option("--queued", min=0, help="Waiting runs, then 429; default 256.")] = None,
    in_flight: Annotated[
        int | None, typer.Option("--in-flight", min=1, help="Concurrent requests to the model server.")
    ] = None,
    drain: Annotated[
        float | None, typer.Option("--drain", min=1, help="Seconds for active requests after SIGTERM; default 120.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option("--certificate", callback=home, help="PEM file, for TLS.")] = None,
    private_key: Annotated[Path | None, typer.Option("--private-key", callback=home, help="Its key.")] = None,
    ignore_tools: Annotated[
        bool,
        typer.Option("--ignore-tools", help="Answer requests that offer tools, such as open-webui's, without a call."),
    ] = False,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Log inputs and answers.")] = False,
    quiet: Quiet = False,
) -> None:
    """Serve programs as models of an OpenAI-compatible API, until Ctrl-C or SIGTERM."""
    try:
        from pdr_dspy.cli import serve_programs
    except ImportError as error:
        from pdr_dspy.errors import MissingExtra

        raise MissingExtra(str(error.name).partition(".")[0], "serve", "`pdr serve`") from None

    serve_programs.serve(
        targets,
        model=model_of(api_base, model, embedded),
        task=task,
        trusted=trusted,
        host=host,
        port=port,
        workers=workers,
        keys=keys,
        without_keys=without_keys,
        certificate=certificate,
        private_key=private_key,
        limits={
            "budget_seq": budget_seq, "budget_total": budget_total, "seconds": deadline, "running": running,
            "queued": queued, "in_flight": in_flight, "drain_seconds": drain, "log_texts": log_texts,
            "ignore_tools": ignore_tools,
        },
        display=display_of(quiet),
    )  # fmt: skip


@guarded
def serve_model(
    name: Annotated[
        str, typer.Argument(help="A name from `pdr models`, a GGUF file, or with --vllm a model of the hub.")
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free port.")] = 8000,
    slots: Annotated[int, typer.Option("--slots", min=1, help="Concurrent completions (embedded engine).")] = 16,
    context: Annotated[int, typer.Option("--context", min=64, help="Tokens of prompt and completion together.")] = 2048,
    vllm: Annotated[bool, typer.Option("--vllm", help="Serve with vLLM on the local GPUs.")] = False,
    tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", min=1, help="GPUs per replica (vLLM).")] = 1,
    data_parallel: Annotated[int, typer.Option("--data-parallel", min=1, help="Replicas (vLLM).")] = 1,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter", help="NAME=FOLDER of a LoRA adapter (vLLM), or a GGUF file named after it; repeatable."
        ),
    ] = None,
) -> None:
    """Run a model server for other terminals, until Ctrl-C."""
    from pdr_dspy.cli import serve

    serve.serve(
        name,
        port=port,
        slots=slots,
        context=context,
        vllm={"tensor_parallel": tensor_parallel, "data_parallel": data_parallel} if vllm else None,
        adapters=adapter or (),
        display=display_of(False),
    )


@guarded
def models(api_base: ApiBase = None) -> None:
    """List the models that can be served here, or those of a running server."""
    from pdr_dspy.cli import serve

    serve.models(api_base, display_of(False))


@guarded
def doctor(api_base: ApiBase = None) -> None:
    """Show what is installed, what is reachable, and how to fix the rest."""
    from pdr_dspy.cli import doctor

    raise typer.Exit(doctor.doctor(api_base, display_of(False)))
