"""`pdr report`, and the page that other commands write at their end."""

from __future__ import annotations

import json
from pathlib import Path

from pdr_dspy import analysis
from pdr_dspy.commands.display import Display
from pdr_dspy.errors import MissingExtra, StoreError
from pdr_dspy.evaluation import Report
from pdr_dspy.report import write_report


def write(run_dir: Path, path: Path | None) -> Path:
    """One page about a run folder, whichever command wrote it."""
    target = path or run_dir / "report.html"
    compared = read(run_dir)
    if compared:
        return write_report(compared, target, title=run_dir.name)
    return write_report(run_dir, target, programs=read(run_dir / "compare"))


def write_page(run_dir: Path, path: Path | None, display: Display) -> Path | None:
    """`write`; None, and a sentence, where matplotlib is missing."""
    try:
        return write(run_dir, path)
    except MissingExtra as error:
        display.say(str(error))
        return None


def read(folder: Path) -> list[Report]:
    """The evaluations of a comparison that `compare` or a study wrote below `folder`; none where there are none."""
    try:
        facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if facts.get("command") != "compare":
            return []
        return [analysis.read_report(folder / line["folder"], line["name"]) for line in facts["lines"]]
    except OSError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{folder / 'report.json'} is not of this version ({error})") from error
