"""Commands about what was run: `report`, `view`, `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdr_dspy.cli.arguments import Quiet, display_of, home
from pdr_dspy.cli.ending import guarded


@guarded
def report(
    run_dir: Annotated[
        Path, typer.Argument(callback=home, help="A folder that `pdr eval`, `compare` or `optimize` wrote.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", callback=home, help="The file; by default report.html in the folder.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run."""
    from pdr_dspy.cli import report

    typer.echo(str(report.write(run_dir, out)))
    if (line := report.check_line(run_dir)) is not None:
        typer.echo(line, err=True)


Logs = Annotated[
    Path | None,
    typer.Option(
        "--out", callback=home, help="Where it goes; the folder `inspect` in the run's, or a file beside the program."
    ),
]
Plain = Annotated[
    bool, typer.Option("--plain", help="Show models' texts as plain text, without markdown, links or images.")
]


@guarded
def view(
    run_dir: Annotated[
        Path, typer.Argument(callback=home, help="A folder that `pdr eval`, `compare` or `optimize` wrote.")
    ],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 7575,
    out: Logs = None,
    plain: Plain = False,
    quiet: Quiet = False,
) -> None:
    """View a run in a browser: a lane for each round, its drafts, checks and workspaces (Inspect's viewer)."""
    from pdr_dspy.cli import view

    view.view(run_dir, port, out, plain=plain, display=display_of(quiet))


@guarded
def export(
    run_dir: Annotated[
        Path, typer.Argument(callback=home, help="A folder that `pdr eval`, `compare` or `optimize` wrote; a program.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="The format: inspect (a run's logs), remom (a program's schedule for vLLM's router)."
        ),
    ],
    out: Logs = None,
    plain: Plain = False,
    quiet: Quiet = False,
) -> None:
    """Write a run as logs of another tool, one for each evaluation in it; or a saved program's schedule."""
    from pdr_dspy.cli import view

    for path in view.export(run_dir, to, out, plain=plain, display=display_of(quiet)):
        typer.echo(str(path))
