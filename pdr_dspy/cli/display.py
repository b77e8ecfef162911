"""What a command shows: results on stdout, progress on stderr, as live bars on a terminal and plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.status import Status
from rich.table import Table

from pdr_dspy.evaluation.display import Screen, plain
from pdr_dspy.search.display import SearchDisplay

if TYPE_CHECKING:
    from pdr_dspy.evaluation.records import Report


class Display(SearchDisplay):
    """Progress on stderr, results on stdout."""

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            quiet: show no progress.
            clock: gives seconds.
        """
        super().__init__(quiet=quiet, clock=clock)
        # A pipe has no width: tables must not be folded to 80 columns there.
        self.out = Screen(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
        self._doing = ""
        self._status: Status | None = None

    def show(self, text: str) -> None:
        """A textual result, on stdout."""
        self.out.print(text, markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, text: int = 1) -> None:
        """A table on stdout; the first `text` columns are text, the others figures."""
        table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for number, column in enumerate(columns):
            if number < text:  # names are shortened in a narrow window, figures never
                table.add_column(column, no_wrap=not self.out.is_terminal, overflow="fold")
            else:
                least = max(len(cell) for cell in (column, *(row[number] for row in rows)))
                table.add_column(column, justify="right", no_wrap=True, min_width=least)
        for row in rows:
            table.add_row(*[plain(cell) for cell in row])
        self.out.print(table)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Show the status of a short task."""
        self._doing = text
        if self.live:
            with self.err.status(plain(text)) as self._status:
                yield
            self._status = None
        else:
            self.say(f"{text} ...")
            yield

    def download(self, what: str, done: int, total: int) -> None:
        """Progress of `serving.locate`, in bytes, beside the current task."""
        note = f"{self._doing}: {what}, {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        if self._status is not None:
            self._status.update(plain(note))
        elif self._clock() - self._last_line >= 10:
            self._last_line = self._clock()
            self.say(note)


def report_columns(reports: Sequence[Report]) -> tuple[str, ...]:
    """The heads of `report_rows`."""
    priced = any(report.cost is not None for report in reports)
    return (*REPORT_COLUMNS[:5], *(("cost",) if priced else ()), *REPORT_COLUMNS[5:])


def report_rows(reports: Sequence[Report]) -> list[list[str]]:
    """Name, score with interval, B_seq, B_total, calls and paid tokens of each report; what it cost, where the prices
    of some are known."""
    table = []
    priced = len(report_columns(reports)) > len(REPORT_COLUMNS)
    for report in reports:
        low, high = report.interval
        cells = [report.name, f"{report.score:.3f}", f"[{low:.3f}, {high:.3f}]", f"{report.sequential:,.0f}"]
        cost = "" if report.cost is None else f"{report.cost:.4g}"
        cells += [f"{report.total:,.0f}", *([cost] if priced else []), f"{report.calls:.1f}", f"{report.paid:,}"]
        cells.append(f"{report.reused:.0%}")
        table.append(cells)
    return table


REPORT_COLUMNS = ("program", "score", "95 % interval", "B_seq", "B_total", "calls", "tokens paid", "reused")
