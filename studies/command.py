"""The commands of the studies that are run alike: their options, and what these run.

A study's file says what is its own: its questions and its programs.
"""

# Without `from __future__ import annotations`: typer reads the annotations below, which use arguments around them.

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from pdr_dspy.cli.ending import resuming
from pdr_dspy.cli.model_option import DEFAULT
from studies.study import ApiBase, Embedded, LinesOnly, RunDir, Study, go, go_pilots, pilot


def command(study: Callable[[int], Study], *, limit: int, questions: str) -> Callable[..., None]:
    """The command of a study of one kind of questions.

    Args:
        study: the study on so many questions.
        limit: how many there are if the command line does not say.
        questions: what `--limit` counts, for the help.
    """

    @resuming
    def main(
        limit: Annotated[int, typer.Option(help=f"{questions}.")] = limit,
        embedded: Embedded = DEFAULT,
        api_base: ApiBase = None,
        run_dir: RunDir = None,
        lines_only: LinesOnly = False,
    ) -> None:
        """Run what is missing of the study, and write its lines to studies/rows."""
        go(study(limit), embedded, api_base, run_dir, lines_only=lines_only)

    return main


def command_with_kinds(
    study: Callable[..., Study], kinds: Iterable[str], *, option: str, kind: str, limit: int, questions: str
) -> Callable[..., None]:
    """The command of a study of several kinds of questions, one of which a pilot chooses.

    Args:
        study: the study on so many questions of a kind, and of a `seed`: 0 for the study, 1 for the pilot.
        kinds: names of all of them.
        option: what a kind is called, for `--<option>` and the help.
        kind: the one that is run if the command line does not say.
        limit: how many questions if the command line does not say.
        questions: what `--limit` counts, for the help.
    """
    names = list(kinds)
    choice: Any = typer.Option(f"--{option}", help=f"One of {', '.join(names)}.")
    choose: Any = typer.Option("--pilot", help=f"Choose the {option}: ten {questions.lower()} of each.")

    @resuming
    def main(
        limit: Annotated[int, typer.Option(help=f"{questions}.")] = limit,
        kind: Annotated[str, choice] = kind,
        run_pilot: Annotated[bool, choose] = False,
        embedded: Embedded = DEFAULT,
        api_base: ApiBase = None,
        run_dir: RunDir = None,
        lines_only: LinesOnly = False,
    ) -> None:
        """Run what is missing of the study, and write its lines to studies/rows."""
        if run_pilot:
            pilots = {name: pilot(study(10, name, seed=1), name) for name in names}
            go_pilots(pilots, embedded, api_base, run_dir, lines_only=lines_only)
        else:
            go(study(limit, kind), embedded, api_base, run_dir, lines_only=lines_only)

    return main
