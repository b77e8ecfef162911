"""The command line: `pdr run | eval | compare | optimize | report | view | serve | train | ...`.

Results go to stdout, progress to stderr; `ending` has the exit codes.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pdr_dspy.cli.commands import lists, optimize, programs, results, serving, training
from pdr_dspy.cli.ending import quietly
from pdr_dspy.cli.help_texts import about

app = typer.Typer(
    name="pdr",
    help="Parallel-Distill-Refine and Sequential Refinement programs: run, evaluate, tune and serve them.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = {
    "run": programs.run,
    "new": programs.new,
    "eval": programs.evaluate,
    "compare": programs.compare,
    "optimize": optimize.optimize,
    "report": results.report,
    "view": results.view,
    "export": results.export,
    "train": training.train,
    "export-sft": training.export_sft,
    "serve": serving.serve,
    "serve-model": serving.serve_model,
    "models": serving.models,
    "doctor": serving.doctor,
    "distillers": lists.distillers,
    "axes": lists.axes,
    "verifiers": lists.verifiers,
    "checks": lists.checks,
    "datasets": lists.datasets,
}
"""In the order of `pdr --help`."""


def _version(asked: bool) -> None:
    if asked:
        from pdr_dspy import __version__

        typer.echo(f"pdr-dspy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Parallel-Distill-Refine and Sequential Refinement programs: run, evaluate, tune and serve them."""


for _name, _command in COMMANDS.items():
    app.command(_name, **about(_name))(_command)


def main() -> None:
    """The `pdr` command."""
    quietly(app)
