"""Commands that list what has a name: `distillers`, `axes`, `verifiers`, `checks`, `datasets`."""

from __future__ import annotations

from typing import Annotated

import typer

from pdr_dspy.cli.arguments import display_of
from pdr_dspy.cli.ending import guarded


@guarded
def distillers() -> None:
    """List the registered distillers, including those of installed packages."""
    from pdr_dspy.cli import list_parts

    list_parts.distillers(display_of(False))


@guarded
def axes() -> None:
    """List the axes for `--axis` of `pdr optimize`, including those of installed packages."""
    from pdr_dspy.cli import list_parts

    list_parts.axes(display_of(False))


@guarded
def verifiers() -> None:
    """List the registered verifiers with their settings, including those of installed packages."""
    from pdr_dspy.cli import list_parts

    list_parts.verifiers(display_of(False))


@guarded
def checks() -> None:
    """List the registered checks, including those of installed packages; a program takes them as `check="name"`."""
    from pdr_dspy.cli import list_parts

    list_parts.checks(display_of(False))


@guarded
def datasets(
    name: Annotated[str | None, typer.Argument(help="Details of one set, or `rg` to list the procedural ones.")] = None,
) -> None:
    """List the registered data sets."""
    from pdr_dspy.cli import list_datasets

    list_datasets.datasets(name, display_of(False))
