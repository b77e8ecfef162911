"""What is drawn on a terminal fits it, and says how long it takes."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pdr_dspy.cli.display import REPORT_COLUMNS, Display
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


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_keeps_its_figures_whole(width: int) -> None:
    screen = Screen(width)
    screen.display.out = screen.display.err
    figures = ["0.708", "[0.594, 0.822]", "1,181", "12,297", "14.0", "14,256,000", "100%"]
    screen.display.table("confirmed", REPORT_COLUMNS, [["PDR 8-4-1 topk_per_sample k=4 κ=4096", *figures]])
    lines = screen.lines()
    assert all(len(line) <= width for line in lines)
    assert all(figure in " ".join(lines) for figure in (*figures, *REPORT_COLUMNS[1:]))
    assert "…" not in "".join(lines)


class Trial:
    """As much of a trial as is shown."""

    number, pooled, pooled_sd, dropped = 6, 0.53, 0.11, None
    candidate = "PDR 16-8-4-1 topk_per_sample k=4 κ=4096"

    def __str__(self) -> str:
        return "preset PDR 16-8-4-1: 0.530"


def progress(event: str, **changed: Any) -> SearchProgress:
    trial: Any = Trial()
    values: dict[str, Any] = {
        "event": event,
        "what": "cohort 2: racing 6 of 8 programs, runs 9 to 16 of 30",
        "trial": trial if event == "finished" else None,
        "best": trial,
        "rows": (3, 8),
        "trials": 7,
        "trials_left": 23,
        "paid": 1_234_567,
        "saved": 765_432,
        "seconds": 61.0,
        "seconds_left": 600.0,
    }
    return SearchProgress(**{**values, **changed})


@pytest.mark.parametrize("width", [80, 120])
def test_a_search_fits_the_terminal(width: int) -> None:
    screen = Screen(width)
    with screen.display.search() as show:
        for event in ("racing", "row", "finished"):
            show(progress(event, tokens_left=65_433))
    lines = [line.strip() for line in screen.lines()]
    assert all(len(line) <= width for line in lines)
    assert "trial 7: preset PDR 16-8-4-1: 0.530" in lines
    trials, rows, *notes = lines[-6:]
    assert trials.endswith("7/30")
    assert rows.endswith("3/8")
    assert notes == [
        "cohort 2: racing 6 of 8 programs, runs 9 to 16 of 30",
        "best 0.53 [0.31, 0.75] PDR 16-8-4-1 topk_per_sample k=4 κ=4096",
        "1,234,567 tokens paid, 65,433 left, 765,432 saved by reuse",
        "61 s so far, about 10 min left for the trials",
    ]


def test_the_end_of_a_search_leaves_no_bar_of_runs() -> None:
    screen = Screen(80)
    with screen.display.search() as show:
        show(progress("confirming", what="2 programs on 40 untouched questions", trials=30, trials_left=0))
    assert "confirming: 2 programs on 40 untouched questions" in [line.strip() for line in screen.lines()]
    screen = Screen(80)
    with screen.display.search() as show:
        show(progress("confirming", trials=30, trials_left=0))
        show(progress("done", trials=30, trials_left=0, rows=(0, 0)))
    *_, trials, stage, best, spent, clock = (line.strip() for line in screen.lines())
    assert trials.endswith("30/30")
    assert (stage, clock) == ("the search has ended", "61 s so far")
    assert best.startswith("best 0.53")
    assert spent == "1,234,567 tokens paid, 765,432 saved by reuse"


def test_plain_lines_have_words_for_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    display.live = False
    dropped: Any = Trial()
    dropped.dropped = "worse than trial 3 after 8 runs"
    with display.search() as show:
        show(progress("racing"))
        show(progress("row"))  # too soon after it
        show(progress("finished", tokens_left=5))
        show(progress("finished", trial=dropped))
        show(progress("proposing", what="3 instructions each for draft"))
        show(progress("rerunning", what="5 finalists on fresh seeds"))
        show(progress("confirmed"))
        show(progress("done"))
    assert capsys.readouterr().err.splitlines() == [
        "cohort 2: racing 6 of 8 programs, runs 9 to 16 of 30",
        "trial 7 of 30: preset PDR 16-8-4-1: 0.530; 1,234,567 tokens paid, 5 left, 765,432 saved by reuse; "
        "61 s so far, about 10 min left for the trials",
        "trial 7 of 30: preset PDR 16-8-4-1: 0.530; worse than trial 3 after 8 runs; 1,234,567 tokens paid, "
        "765,432 saved by reuse; 61 s so far, about 10 min left for the trials",
        "a model writes 3 instructions each for draft",
        "rerunning: 5 finalists on fresh seeds",
        "the search has ended",
    ]
