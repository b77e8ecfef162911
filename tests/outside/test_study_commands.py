"""The commands of the studies: each runs its own study with the given options, and a pilot runs every kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from studies import arithmetic, command, countdown, distillers, extraction
from studies.study import Study

pytestmark = pytest.mark.slow


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the command would run, with its place and options."""
    calls: list[tuple[Any, ...]] = []

    def go(study: Study, embedded: str, api_base: str | None, folder: Path | None, *, lines_only: bool) -> None:
        calls.append((study, embedded, api_base, folder, lines_only))

    def go_pilots(
        pilots: Mapping[str, Study], embedded: str, api_base: str | None, folder: Path | None, *, lines_only: bool
    ) -> None:
        calls.append((dict(pilots), embedded, api_base, folder, lines_only))

    monkeypatch.setattr(command, "go", go)
    monkeypatch.setattr(command, "go_pilots", go_pilots)
    return calls


def call(study: ModuleType, *options: str) -> None:
    app = typer.Typer()
    app.command()(study.main)
    done = CliRunner().invoke(app, list(options), catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("study", [arithmetic, countdown, distillers, extraction], ids=lambda study: study.__name__)
def test_a_command_runs_its_own_study(study: ModuleType, ran: list[tuple[Any, ...]], tmp_path: Path) -> None:
    options = ("--limit", "3", "--api-base", "http://127.0.0.1:1/v1", "--run-dir", str(tmp_path), "--lines-only")
    call(study, *options, "--embedded", "one")
    ((found, embedded, api_base, folder, lines_only),) = ran
    assert found.name == study.__name__.rpartition(".")[2]
    assert list(found.programs) == list(study.programs())
    assert [dict(example) for example in found.examples] == [dict(example) for example in study.study(3).examples]
    assert (embedded, api_base, folder, lines_only) == ("one", "http://127.0.0.1:1/v1", tmp_path, True)


@pytest.mark.parametrize(
    ("study", "option", "names"), [(countdown, "--level", countdown.LEVELS), (extraction, "--kind", extraction.KINDS)]
)
def test_a_kind_is_chosen_by_its_name_and_a_pilot_runs_all(
    study: ModuleType, option: str, names: Mapping[str, Any], ran: list[tuple[Any, ...]]
) -> None:
    kind = list(names)[-1]
    call(study, "--limit", "2", option, kind)
    call(study, "--pilot")
    (one, *_), (pilots, *_) = ran
    assert [dict(example) for example in one.examples] == [dict(example) for example in study.study(2, kind).examples]
    assert list(pilots) == list(names)
    for name, pilot in pilots.items():
        assert pilot.name == f"pilot-{one.name}-{name}"
        assert "one pass" in pilot.programs
        assert len(pilot.examples) == 10
        assert [dict(each) for each in pilot.examples] == [
            dict(each) for each in study.study(10, name, seed=1).examples
        ]
