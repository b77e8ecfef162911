"""A run folder holds one run of one kind, and that is checked before a model is started."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pdr_dspy.cli.run_folders import Kind, check_folder, holds
from pdr_dspy.errors import ConfigError, StoreError

KINDS: dict[str, Kind] = {
    "search.json": "optimize",
    "journal.jsonl": "optimize",
    "config.json": "eval",
    "program/config.json": "compare",
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
@pytest.mark.parametrize("other", ["eval", "compare", "optimize"])
def test_another_kind_of_run_is_refused(name: str, kind: Kind, other: Kind, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    assert holds(tmp_path) == kind
    if other == kind:
        check_folder(tmp_path, other)
    else:
        with pytest.raises(ConfigError, match=r"holds an? (evaluation|comparison|search).*`--run-dir`"):
            check_folder(tmp_path, other)


def test_a_report_says_what_it_is_of(tmp_path: Path) -> None:
    for kind in ("eval", "compare"):
        (tmp_path / "report.json").write_text(json.dumps({"command": kind}))
        assert holds(tmp_path) == kind
    for damaged in (b"{", b"", b"\0" * 9, b"\xff", b"[1]"):  # it is derived, and is written again
        (tmp_path / "report.json").write_bytes(damaged)
        assert holds(tmp_path) is None
        check_folder(tmp_path, "eval")


@pytest.mark.parametrize("place", ["", "program"])
def test_another_evaluation_is_refused(place: str, tmp_path: Path) -> None:
    kind: Kind = "compare" if place else "eval"
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "config.json").write_text(json.dumps({"seed": 1, "budget": None, "models": ["a"]}))
    check_folder(tmp_path, kind, config={"seed": 1, "budget": None})
    with pytest.raises(StoreError, match="`seed` was 1 and is now 2"):
        check_folder(tmp_path, kind, config={"seed": 2, "budget": None})
    (tmp_path / place / "config.json").write_text("[]")
    with pytest.raises(StoreError, match="not the record"):
        check_folder(tmp_path, kind)


def test_a_new_folder_is_not_made(tmp_path: Path) -> None:
    check_folder(tmp_path / "runs" / "new", "eval", config={"seed": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is not a folder"):
        check_folder(tmp_path / "file" / "run", "eval")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="cannot be written"):
        check_folder(tmp_path / "run", "eval")
