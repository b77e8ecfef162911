"""`pdr --help` fits 80 columns, and the command lines in it can be run."""

from __future__ import annotations

import shlex

import pytest
import typer
from typer.testing import CliRunner

from pdr_dspy.cli import app as cli
from pdr_dspy.cli.help_texts import EXAMPLES, SUMMARIES

GROUP = typer.main.get_command(cli.app)
COMMANDS: dict[str, typer.main.TyperCommand] = GROUP.commands  # type: ignore[attr-defined]
LINES = [line for lines in EXAMPLES.values() for whole in lines for line in whole.split(" && ")]


def test_no_summary_is_cut_at_80_columns() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout
    listed = shown[shown.index("Commands:") :].splitlines()[1:]
    assert len([line for line in listed if line.strip()]) == len(COMMANDS)
    assert not [line for line in listed if "..." in line or len(line) > 80]


def test_texts_are_of_commands() -> None:
    assert set(SUMMARIES) | set(EXAMPLES) <= set(COMMANDS)


@pytest.mark.parametrize("line", LINES)
def test_an_example_is_a_command_line(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    assert program == "pdr"
    with COMMANDS[name].make_context(name, arguments) as context:  # raises for what does not exist
        assert context.params


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_shows_the_examples_unbroken(name: str) -> None:
    shown = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout
    assert [line for line in EXAMPLES[name] if line not in shown] == []
