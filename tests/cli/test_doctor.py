"""`pdr doctor` says what is there, what is not, and what to do."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pdr_dspy.cli import app as cli
from pdr_dspy.cli import doctor
from tests.support.mock_server import MockServer


def found(name: str, **settings: Any) -> doctor.Finding:
    (one,) = [finding for finding in doctor.examine(**settings) if finding.what.startswith(name)]
    return one


def test_a_whole_installation_is_reported_to_be_whole() -> None:
    with MockServer() as server:
        done = CliRunner().invoke(cli.app, ["doctor", "--api-base", server.api_base])
    assert done.exit_code == 0, done.stdout
    assert re.search(rf"^ok +library .*dspy {re.escape(metadata.version('dspy'))}", done.stdout, re.MULTILINE)
    assert re.search(rf"^ok +server {re.escape(server.api_base)} ", done.stdout, re.MULTILINE)
    assert "!!" not in done.stdout


def test_every_extra_has_a_line() -> None:
    lines = {finding.what for finding in doctor.examine() if finding.what.startswith("extra ")}
    declared = set(metadata.metadata("pdr-dspy").get_all("Provides-Extra") or ())
    assert {line.split()[1].rstrip(":") for line in lines} == declared


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    versions = {"pydantic-monty": None, "optuna": "1.0"}

    def version(name: str) -> str:
        if name in versions:
            if versions[name] is None:
                raise metadata.PackageNotFoundError(name)
            return str(versions[name])
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    extra = found("extra code")
    assert (extra.state, extra.found, extra.remedy) == ("off", "no pydantic-monty", 'pip install "pdr-dspy[code]"')
    library = found("library")
    assert (library.state, library.found) == ("wrong", "optuna 1.0")
    done = CliRunner().invoke(cli.app, ["doctor"])
    assert done.exit_code == 1
    assert "1 to fix: library" in done.stderr


def test_a_dead_server_and_a_closed_cache_are_to_be_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MockServer() as server:
        gone = server.api_base
    dead = found("server", api_base=[gone])
    assert dead.state == "wrong"
    assert gone in dead.found
    monkeypatch.setenv("PDR_DSPY_CACHE", str(tmp_path / "weights"))
    assert found("weights").found.startswith("none yet")
    monkeypatch.setattr("os.access", lambda *_: False)
    closed = found("weights")
    assert closed.state == "wrong"
    assert "PDR_DSPY_CACHE" in closed.remedy
