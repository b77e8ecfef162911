"""`pdr export` and `pdr view`: what they print, refuse, and hand to the viewer."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pdr_dspy.cli.app import app
from pdr_dspy.cli.ending import Terminated
from tests.evaluation.test_evaluator import run

pytestmark = pytest.mark.slow  # the viewer's package alone takes seconds to import


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--quiet"])


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    run(run_dir=tmp_path / "demo")
    return tmp_path / "demo"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the viewer was started with; it ends at once."""
    inspect_ai = pytest.importorskip("inspect_ai", reason="the extra `view` is not installed")
    seen: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(inspect_ai, "view", lambda folder, **options: seen.append((folder, options)))
    return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_export_prints_the_logs(evaluated: Path) -> None:
    pytest.importorskip("inspect_ai", reason="the extra `view` is not installed")
    done = call("export", "--to", "inspect", evaluated)
    assert (done.exit_code, done.output) == (0, f"{evaluated / 'inspect' / 'demo.eval'}\n")


@pytest.mark.parametrize(("plain", "trusted"), [(False, None), (True, False)])
def test_view_shows_the_logs_on_the_loopback_interface(
    evaluated: Path, tmp_path: Path, shown: list[tuple[str, dict[str, Any]]], plain: bool, trusted: bool | None
) -> None:
    port = free_port()
    done = call("view", evaluated, "--port", str(port), "--out", tmp_path / "logs", *(["--plain"] if plain else []))
    assert done.exit_code == 0
    assert shown == [(str(tmp_path / "logs"), {"host": "127.0.0.1", "port": port, "trust_content": trusted})]
    assert (tmp_path / "logs" / "demo.eval").exists()


def test_a_signal_that_ends_the_viewer_is_reported_in_a_sentence(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect_ai = pytest.importorskip("inspect_ai", reason="the extra `view` is not installed")

    def ended(*_: Any, **__: Any) -> None:
        raise BaseExceptionGroup("tasks", [BaseExceptionGroup("inner", [Terminated(15)])])

    monkeypatch.setattr(inspect_ai, "view", ended)
    done = call("view", evaluated, "--port", str(free_port()))
    assert done.exit_code == 143
    assert "terminated" in done.output


def test_a_port_that_is_taken_is_named(evaluated: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = call("view", evaluated, "--port", str(port))
    assert done.exit_code == 2
    assert f"--port {port}" in done.output
    assert not (evaluated / "inspect").exists()


def test_a_format_that_is_not_known_is_refused(evaluated: Path) -> None:
    done = call("export", "--to", "parquet", evaluated)
    assert done.exit_code == 2
    assert "`--to parquet`" in done.output
    assert "inspect" in done.output


def test_the_missing_extra_is_named(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    done = call("export", "--to", "inspect", evaluated)
    assert done.exit_code == 2
    assert 'pip install "pdr-dspy[view]"' in done.output


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai", reason="the extra `view` is not installed")
    done = call("export", "--to", "inspect", tmp_path)
    assert done.exit_code == 1
    assert "no evaluation" in done.output
