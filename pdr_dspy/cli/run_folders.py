"""The run folder of a command, checked before a model is started: it holds one run of one kind."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.run_folder import check_config

Kind = Literal["eval", "compare", "optimize"]
_RUNS: dict[Kind, str] = {"eval": "an evaluation", "compare": "a comparison", "optimize": "a search"}


def check_folder(folder: Path, kind: Kind, *, config: Mapping[str, Any] | None = None) -> None:
    """Check that a run of this kind can begin or resume in `folder`, which need not exist. Writes nothing.

    Args:
        folder: the run folder.
        kind: the command that will write there.
        config: the required description of the folder's evaluation (see `evaluation.describe`), as far as it is known.

    Raises:
        ConfigError: the folder holds a run of another kind.
        StoreError: it holds another evaluation, is not readable, or cannot be written.
    """
    try:
        held = holds(folder)
        if held not in (None, kind):
            raise ConfigError(
                f"the run folder {folder} holds {_RUNS[held]}, and {_RUNS[kind]} would overwrite its report; choose "
                "another folder with `--run-dir`"
            )
        place = folder / "program" if kind == "compare" else folder
        check_config(place, config or {}, named=f"the run folder {folder}")
    except OSError as error:
        raise StoreError(f"the run folder {folder} cannot be used: {error.strerror or error}") from error
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "cannot be written" if there.is_dir() else "is not a folder"
        raise StoreError(f"the run folder {folder} cannot be used: {there} {what}")


def holds(folder: Path) -> Kind | None:
    """The kind of run in a folder, finished or not; None for none. Damaged derived files are ignored."""
    if (folder / "search.json").exists() or (folder / "journal.jsonl").exists():
        return "optimize"
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):  # a damaged report is written again
        facts = json.loads((folder / "report.json").read_bytes())
        if isinstance(facts, dict) and facts.get("command") in ("eval", "compare"):
            return facts["command"]
    if (folder / "config.json").exists():
        return "eval"
    return "compare" if (folder / "program" / "config.json").exists() else None
