"""How pictures of docs/results are drawn: as SVG files that are equal for equal data."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def canvas() -> Any:
    """matplotlib's pyplot, set up for such files. It is the group `studies` of pyproject.toml."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "pdr-dspy", "svg.fonttype": "none", "font.size": 11})
    return pyplot


def save(figure: Any, path: Path) -> None:
    """Write a figure, without the time, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    canvas().close(figure)
