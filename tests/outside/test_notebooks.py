"""The notebooks run, on their saved rows, from the first cell to the last."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pdr_dspy.reporting import search_tables
from pdr_dspy.search.front_members import members

pytestmark = pytest.mark.slow


def compared() -> list[str]:
    """What the programs of the saved comparison are called."""
    names = [line["name"] for line in json.loads(Path("notebooks/rows/report.json").read_text())["lines"]]
    assert len(names) > 3
    return [name[:42] for name in names]


def searched() -> list[str]:
    """What the programs of the saved search's front are called."""
    facts = search_tables.read_search("notebooks/search")
    names = search_tables.labels(facts.trials)
    return [names[member.trial.number][:52] for member in members(facts.trials, facts.runs, facts.limits)]


def trained() -> list[str]:
    """The arms of the saved training runs."""
    arms = {row["arm"] for row in json.loads(Path("notebooks/rows/training.json").read_text())["rows"]}
    assert arms > {"base", "trace only", "1:1"}
    return sorted(arms)


EXPECTED = {"where_it_loses": compared, "what_a_search_paid": searched, "training": trained}
"""By notebook: what its second cell that prints must name."""
NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning:zmq")
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "saved without outputs: they would go stale"
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    client.execute()
    printed = [output["text"] for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output]
    assert all(text in printed[1] for text in EXPECTED.get(path.stem, list)())
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any("image/svg+xml" in output["data"] for output in shown)


def test_the_saved_rows_are_small() -> None:
    assert sum(path.stat().st_size for path in Path("notebooks").rglob("*") if path.is_file()) < 1_500_000
