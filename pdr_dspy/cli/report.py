"""`pdr report`, and the page that other commands write when they end."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from pdr_dspy.cli.display import Display
from pdr_dspy.cli.run_folders import holds
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.calibration import calibration_of_rows
from pdr_dspy.evaluation.records import Report
from pdr_dspy.evaluation.texts import TEXTS, read_texts
from pdr_dspy.reporting import evaluation_tables, search_tables
from pdr_dspy.reporting.page import write_report

DEPTH = 3
"""Levels below a folder that are searched for runs."""
MOST_FOLDERS = 2000
"""Maximum folders that are searched, so that `pdr report /` ends."""
NAMED = 8
"""Maximum runs that are named."""


def write(run_dir: Path, path: Path | None) -> Path:
    """Write a page about a run folder, whichever command created it.

    Raises StoreError if it holds no finished run, naming the folders below that hold one, and if the page cannot be
    written.
    """
    found = what(run_dir)
    if found is None:
        raise StoreError(_nothing(run_dir))
    if found.endswith(UNFINISHED):
        raise StoreError(f"{run_dir} holds {found}; run the same command again to resume and write its report")
    target = path or run_dir / "report.html"
    compared = read(run_dir)
    if compared:
        texts = read_texts(run_dir / "program" / TEXTS, compared[0].rows)
        return write_report(compared, target, title=run_dir.absolute().name, texts=texts)
    return write_report(run_dir, target, programs=read(run_dir / "compare"))


def check_line(run_dir: Path) -> str | None:
    """The calibration of a run's check on its drafts, in a line; None if there is none.

    Raises StoreError as `write`.
    """
    found = what(run_dir)
    if found == "a search":
        calibration = search_tables.read_search(run_dir).calibration
    else:
        reports = read(run_dir) or [evaluation_tables.read_report(run_dir)]
        calibration = calibration_of_rows(reports[0].rows)
    return None if calibration is None else f"its check: {calibration}"


def write_page(run_dir: Path, path: Path | None, display: Display) -> Path | None:
    """`write`; None, with a message, if the page cannot be written: the run itself is complete."""
    try:
        return write(run_dir, path)
    except StoreError as error:
        display.say(str(error))
        return None


def read(folder: Path) -> list[Report]:
    """The evaluations of a comparison that `compare` or a study wrote below `folder`; empty if there are none."""
    try:
        facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if facts.get("command") != "compare":
            return []
        return [evaluation_tables.read_report(folder / line["folder"], line["name"]) for line in facts["lines"]]
    except OSError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{folder / 'report.json'} is damaged, or not of this version ({error}); the same command rewrites it"
        ) from error


UNFINISHED = "that is not finished"


def what(folder: Path) -> str | None:
    """The content of a folder, in words; None if there is nothing to report."""
    try:
        kind = holds(folder)
    except (StoreError, OSError):
        return None
    if kind == "optimize":
        return "a search" if (folder / "search.json").exists() else f"a search {UNFINISHED}"
    if kind == "compare":
        return "a comparison" if (folder / "report.json").exists() else f"a comparison {UNFINISHED}"
    return "an evaluation" if kind == "eval" and (folder / "rows.jsonl").exists() else None


def _nothing(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is {'not a folder' if folder.exists() else 'not there'}; give the folder of a run"
    below = list(_below(folder))
    if not below:
        return f"{folder} holds no run, nor does a folder below it; `pdr eval`, `compare` and `optimize` write one"
    named = "".join(f"\n  pdr report {shlex.quote(str(place))}    {found}" for place, found in below[:NAMED])
    more = f"\n  and {len(below) - NAMED} more" if len(below) > NAMED else ""
    return f"{folder} holds no run itself; below it there are{named}{more}"


def _below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Folders with a run, without those inside of one; the first found are the nearest by name."""
    for seen, (place, names, _) in enumerate(os.walk(folder)):
        here = Path(place)
        depth = len(here.relative_to(folder).parts)
        found = what(here) if depth else None
        if found is not None:
            yield here, found
        if seen >= MOST_FOLDERS:
            return
        if found is not None or depth == DEPTH:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))
