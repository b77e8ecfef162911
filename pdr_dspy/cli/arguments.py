"""Options that several commands share, and what they make of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pdr_dspy.calls.budget import Budget
    from pdr_dspy.cli.display import Display
    from pdr_dspy.cli.model_option import Model


def home(path: Path | None) -> Path | None:
    """A path with `~` expanded, which a shell leaves unexpanded in `--run-dir=~/runs`."""
    return None if path is None else path.expanduser()


TargetArg = Annotated[
    str,
    typer.Argument(
        help='A saved program (.json), a program file (.py), a signature ("a -> b", or mine.py:Triage), or '
        "the name of a program, such as gsm8k."
    ),
]
ApiBase = Annotated[
    list[str] | None,
    typer.Option(
        "--api-base",
        help="A running OpenAI-compatible server, such as http://127.0.0.1:8000/v1; several times for its replicas.",
    ),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="The model served there; left out when it has only one.")
]
Embedded = Annotated[
    str | None,
    typer.Option("--embedded", help="The local model to start when there is no --api-base; see `pdr models`."),
]
TaskFile = Annotated[
    str | None, typer.Option("--task", help="The program file with the data, verifier and types of a saved program.")
]
Trusted = Annotated[
    bool,
    typer.Option(
        "--trusted",
        help="Import modules that the saved program names and that are not registered here: this runs their code.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Another data set: a name from `pdr datasets`, hub:owner/name, or a local file."),
]
Grader = Annotated[
    str | None,
    typer.Option(
        "--verifier", help="With --data: NAME[:KEY=VALUE,...], a name from `pdr verifiers`; by default the set's own."
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="FILE.py:NAME, your own function of the example and the prediction, which returns a bool or a fraction.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--field", help="With --data: NAME=COLUMN, the column of a field of the program, such as question=message."
    ),
]
JudgeBase = Annotated[
    str | None, typer.Option("--judge-base", help="The server of the model that --verifier calls, such as a judge.")
]
JudgeModel = Annotated[
    str | None, typer.Option("--judge-model", help="The model served there; left out when it has only one.")
]
Split = Annotated[
    str | None, typer.Option("--split", help="Part of the data: train, dev or test (the program's default).")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of examples.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all sampling; equal seeds make equal requests.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Runs of each example.")]
RunDir = Annotated[
    Path | None,
    typer.Option("--run-dir", callback=home, help="Keeps finished results for resuming; default: under runs/."),
]
Texts = Annotated[
    int | None,
    typer.Option(
        "--texts", min=0, help="Maximum MB of kept questions, drafts and workspaces; default 64, 0 keeps none."
    ),
]
BudgetSeq = Annotated[
    int | None,
    typer.Option(
        "--budget-seq", min=1, help="Limit on B_seq of one run: the tokens one after the other, which you wait for."
    ),
]
BudgetTotal = Annotated[
    int | None,
    typer.Option("--budget-total", min=1, help="Limit on B_total of one run: the tokens of all calls, which you pay."),
]
Ray = Annotated[
    str | None,
    typer.Option("--ray", help="Run on a Ray cluster: auto (the one that runs here), local (start one), or HOST:PORT."),
]
Study = Annotated[str, typer.Option("--study", help="The name of the trials' study in --storage.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def model_of(api_base: list[str] | None, name: str | None, embedded: str | None) -> Model:
    """The model that the options name."""
    from pdr_dspy.cli.model_option import Model

    return Model(api_base, name, embedded)


def budget_of(sequential: int | None, total: int | None) -> Budget | None:
    """The limits that the options name, in tokens; None where there is none."""
    from pdr_dspy.calls.budget import Budget

    return None if sequential is None and total is None else Budget(sequential=sequential, total=total)


def display_of(quiet: bool) -> Display:
    """Where progress is shown."""
    from pdr_dspy.cli.display import Display

    return Display(quiet=quiet)
