"""What is drawn on a terminal fits it, and says how long it takes."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pdr_dspy.commands.display import Display
from pdr_dspy.search import SearchProgress


class Screen:
    """A terminal of so many columns, and what was drawn on it: frames of plain lines."""

    def __init__(self, width: int) -> None:
        self.file = io.StringIO()
        self.display = Display()
        self.display.err = Console(
            file=self.file, force_terminal=True, width=width, color_system=None, legacy_windows=False
        )
        self.display.live = True

    def lines(self) -> list[str]:
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", self.file.getvalue().replace("\r", "\n"))
        return [line for line in text.split("\n") if line.strip()]


def row(score: float = 0.5) -> Any:
    return SimpleNamespace(score=score, total=130_000, paid=90_000)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_rows_fit_the_terminal(width: int) -> None:
    screen = Screen(width)
    with screen.display.rows("majority of 13, with a name that goes on for a while", 40) as progress:
        for done in range(1, 13):
            progress(row(), done, 40)
    lines = screen.lines()
    assert all(len(line) <= width for line in lines)
    assert any("so far" in line for line in lines), "before the first row"
    bar, note = lines[-2:]
    assert re.search(r"12/40 about \d+ s left", bar)
    assert ("score 0.50  1,080,000 tokens, 480,000 saved" in note) == (width > 40)


def test_a_finished_bar_says_how_long_it_took() -> None:
    screen = Screen(80)
    with screen.display.rows("eval", 2) as progress:
        progress(row(), 1, 2)
        progress(row(), 2, 2)
    assert re.search(r"2/2 \d+ s *$", screen.lines()[-2])


class Trial:
    """As much of a trial as is shown."""

    score, interval, schedule = 0.53, (0.31, 0.74), "PDR 16-8-4-1 topk_per_sample k=4 κ=4096"

    def __str__(self) -> str:
        return "preset PDR 16-8-4-1: 0.530"


@pytest.mark.parametrize("width", [80, 120])
def test_a_search_fits_the_terminal(width: int) -> None:
    trial: Any = Trial()
    screen = Screen(width)
    with screen.display.search() as progress:
        for event in ("racing", "row", "finished", "confirming"):
            progress(
                SearchProgress(
                    event=event,
                    what="PDR 16-8-4-1 topk_per_sample k=4 κ=4096, 3 programs side by side",
                    trial=trial if event == "finished" else None,
                    best=trial,
                    rows=(3, 12),
                    trials=7,
                    trials_left=23,
                    paid=1_234_567,
                    saved=765_432,
                    seconds=61.0,
                    seconds_left=600.0,
                )
            )
    lines = screen.lines()
    assert all(len(line) <= width for line in lines)
    assert "trial 7: preset PDR 16-8-4-1: 0.530" in "\n".join(lines)
    assert "7/30" in lines[-4]
    assert "3/12" in lines[-3]
    assert lines[-2].strip() == "1,234,567 tokens paid, 765,432 saved, about 10 min left"
    assert lines[-1].strip() == "best 0.53 [0.31, 0.74] PDR 16-8-4-1 topk_per_sample k=4 κ=4096"
