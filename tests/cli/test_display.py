"""What is drawn on a terminal fits it, and says how long it takes."""

from __future__ import annotations

import io
import re
import threading
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.calls import Rollouts, Usage
from pdr_dspy.cli.display import REPORT_COLUMNS, Display
from pdr_dspy.evaluation import evaluate
from pdr_dspy.operators import PDR
from pdr_dspy.search import SearchProgress
from tests.evaluation.test_evaluator import QA, SMALL, Exact, examples
from tests.support.solver import engine


class Screen:
    """A terminal of so many columns, and what was drawn on it: frames of plain lines."""

    def __init__(self, width: int) -> None:
        self.file = io.StringIO()
        self.display = Display()
        self.display.err = type(self.display.err)(
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

    number, pooled, pooled_sd, dropped, free = 6, 0.53, 0.11, None, False
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


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plain() -> tuple[Display, Time]:
    clock = Time()
    display = Display(clock=clock)
    display.live = False
    return display, clock


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_the_end_of_a_command_is_forecast_over_all_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """100 calls, two a second: 12 in the search, then some in a comparison."""
    display, clock = plain()
    display.expect(100)
    with display.search() as show:
        show(progress("racing"))
        for _ in range(4):
            display.counted(Usage(input=10))
        clock.now += 2
        show(progress("finished"))
        for _ in range(8):
            display.counted(Usage(input=10))
        clock.now += 4
        show(progress("finished"))
    few, some = errors(capsys)[-2:]
    assert "left in all" not in few, "too few calls to tell"
    assert some.endswith("about 10 min left for the trials; about 44 s left in all")
    with display.rows("SR", 2) as update:
        for _ in range(48):
            display.counted(Usage(input=10))
        clock.now += 24
        update(row(), 1, 2)
        for _ in range(40):
            display.counted(Usage(input=10))
        update(row(), 2, 2)
    half, over = errors(capsys)
    assert half.endswith("; about 20 s left in all")
    assert "left in all" not in over, "there were more calls than expected"
    assert display.sent == 1000


def test_a_command_that_expects_nothing_forecasts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display, clock = plain()
    with display.rows("SR", 2) as update:
        for _ in range(48):
            display.counted(Usage(input=10))
        clock.now += 24
        update(row(), 1, 2)
    assert "left in all" not in capsys.readouterr().err


def test_tokens_count_up_while_calls_return_and_no_row_is_done() -> None:
    screen = Screen(80)
    with screen.display.rows("eval", 4):
        screen.display.counted(Usage(input=1000, output=500))
        screen.display.counted(Usage(input=1000))
    assert "0/4" in screen.lines()[-2]
    assert screen.lines()[-1].strip() == "2,500 tokens"
    screen = Screen(80)
    with screen.display.rows("eval", 4) as update:
        screen.display.counted(Usage(input=2000, output=500))
        update(row(), 1, 4)
        screen.display.counted(Usage(input=100_000, output=0))
    text = "\n".join(screen.lines())
    assert screen.lines()[-1].strip() == "score 0.50  102,500 tokens, 40,000 saved"
    assert "1/4" in text


def test_without_a_terminal_there_is_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    display, clock = plain()
    with display.rows("eval", 100) as update:
        display.counted(Usage(input=10, output=5))
        assert errors(capsys) == []
        clock.now += 61
        display.counted(Usage(input=10, output=5))
        assert errors(capsys) == ["eval: 0/100  30 tokens"]
        clock.now += 30
        display.counted(Usage(input=1, output=1))
        assert errors(capsys) == []
        update(row(), 1, 100)
        assert errors(capsys) == ["eval: 1/100  score 0.50  90,000 tokens, 40,000 saved"]  # the first row is news
        clock.now += 59
        update(row(), 2, 100)
        assert errors(capsys) == []
        clock.now += 2
        update(row(), 3, 100)
        assert len(errors(capsys)) == 1
        for done in range(4, 101):
            update(row(), done, 100)
        lines = errors(capsys)
        assert [line.split()[1] for line in lines] == ["28/100", "53/100", "78/100", "100/100"]
        display.counted(Usage(input=1, output=1))
        assert errors(capsys) == []


def test_a_line_is_due_even_when_nothing_returns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = threading.Event()
    monkeypatch.setattr("pdr_dspy.evaluation.display.BEAT", 0.001)
    display, clock = plain()
    say = display.say

    def heard(text: str) -> None:
        say(text)
        said.set()

    display.say = heard  # type: ignore[method-assign]
    with display.rows("eval", 3):
        clock.now += 61
        assert said.wait(20)
    assert errors(capsys) == ["eval: 0/3  0 tokens"]
    assert not [one for one in threading.enumerate() if one.name == "pdr-dspy-progress"]


def test_a_search_counts_on_between_its_own_counts(capsys: pytest.CaptureFixture[str]) -> None:
    display, clock = plain()
    with display.search() as show:
        show(progress("racing", paid=1000, tokens_left=500))
        display.counted(Usage(input=200, output=50))
        clock.now += 61
        display.counted(Usage(input=0, output=50))
        show(progress("row", paid=1000, tokens_left=500))
        show(progress("racing", paid=1400, tokens_left=100, what="the next block"))  # the search has counted them
        clock.now += 61
        display.counted(Usage(input=1, output=0))
    assert errors(capsys) == [
        "cohort 2: racing 6 of 8 programs, runs 9 to 16 of 30",
        "  cohort 2: racing 6 of 8 programs, runs 9 to 16 of 30: 3 of 8; 1,300 tokens paid, 200 left, 765,432 saved "
        "by reuse",
        "the next block",
        "  the next block: 3 of 8; 1,401 tokens paid, 99 left, 765,432 saved by reuse",
    ]


def test_a_search_counts_up_on_a_terminal() -> None:
    screen = Screen(80)
    with screen.display.search() as show:
        screen.display.counted(Usage(input=5, output=5))  # before the first step
        show(progress("racing", paid=1000))
        screen.display.counted(Usage(input=5, output=5))
    assert "1,010 tokens paid, 765,432 saved by reuse" in [line.strip() for line in screen.lines()]


def test_the_session_tells_of_each_response_and_not_of_what_is_replayed() -> None:
    lm, store, told = engine(), Rollouts(), list[Usage]()
    with dspy.context(lm=lm), calls.session(store=store, on_response=told.append):
        first = evaluate(PDR(QA, **SMALL), examples(3), Exact(), store=store)
        spent = len(told)
        evaluate(PDR(QA, **SMALL), examples(3), Exact(), store=store)
    assert len(told) == spent == sum(len(row.calls) for row in first.rows)
    assert sum(usage.tokens or 0 for usage in told) == first.paid
