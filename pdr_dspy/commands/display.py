"""What a command shows while it works: live bars on a terminal, plain lines everywhere else. All of it on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table

if TYPE_CHECKING:
    from pdr_dspy.evaluation import Report, Row
    from pdr_dspy.search import SearchProgress, TrialRecord


class Display:
    """Progress on stderr, results on stdout."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.err = Console(stderr=True, quiet=quiet, highlight=False)
        # A pipe has no width: tables must not be folded to 80 columns there.
        self.out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
        self.live = self.err.is_terminal and not quiet
        self._doing = ""
        self._status: Status | None = None
        self._told = 0.0

    def say(self, text: str) -> None:
        """One line for people, on stderr."""
        self.err.print(text, markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, text: int = 1) -> None:
        """A table on stdout; the first `text` columns are text, the others figures."""
        table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number < text else "right", no_wrap=True)
        for row in rows:
            table.add_row(*[_plain(cell) for cell in row])
        self.out.print(table)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Something that takes a moment."""
        self._doing = text
        if self.live:
            with self.err.status(_plain(text)) as self._status:
                yield
            self._status = None
        else:
            self.say(f"{text} ...")
            yield

    @contextmanager
    def rows(self, name: str, count: int) -> Iterator[Callable[[Row, int, int], None]]:
        """A callback for `evaluate(progress=...)`: the score so far, tokens paid and saved, the time left."""
        seen: list[Row] = []
        with self.bar(name, count) as update:

            def progress(row: Row, done: int, total: int) -> None:
                seen.append(row)
                saved = sum(one.total - one.paid for one in seen)
                update(done, f"score {fmean(one.score for one in seen):.2f}  {_tokens(seen, saved)}")

            yield progress

    @contextmanager
    def bar(self, name: str, count: int | None) -> Iterator[Callable[[int, str], None]]:
        """A callback (done, note) that draws a bar, or prints a line now and then."""
        if not self.live:
            last = [time.monotonic(), -1.0]

            def line(done: int, note: str) -> None:
                share = done / count if count else 0.0
                if time.monotonic() - last[0] >= 10 or share - last[1] >= 0.25 or done == count:
                    last[:] = [time.monotonic(), share]
                    self.say(f"{name}: {done}{f'/{count}' if count else ''}  {note}")

            yield line
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self.err) as bars:
            task = bars.add_task(_plain(name), total=count, note="")
            yield lambda done, note: bars.update(task, completed=done, note=_plain(note))

    @contextmanager
    def search(self) -> Iterator[Callable[[SearchProgress], None]]:
        """A callback for `PDROptimizer(progress=...)`: trials, the best so far, tokens paid and saved, time left."""
        if not self.live:
            yield self._search_line
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.err) as bars:
            trials = bars.add_task("search", total=None, note="")
            rows = bars.add_task("", total=None, note="")

            def show(now: SearchProgress) -> None:
                left = "" if now.seconds_left is None else f"  about {_minutes(now.seconds_left)} left"
                best = "" if now.best is None else f"best {_plain(_scored(now.best))}  "
                note = f"{best}{now.paid:,} tokens, {now.saved:,} saved{left}"
                bars.update(trials, total=now.trials + now.trials_left, completed=now.trials, note=note)
                bars.update(rows, description=_plain(now.what), completed=now.rows[0], total=now.rows[1] or None)
                if now.event == "finished" and now.trial is not None:
                    bars.console.print(_plain(f"trial {now.trials}: {now.trial}"))
                elif now.event == "confirming":
                    bars.update(trials, description="confirm")

            yield show

    def _search_line(self, now: SearchProgress) -> None:
        if now.event == "finished" and now.trial is not None:
            left = "" if now.seconds_left is None else f"; about {_minutes(now.seconds_left)} left"
            self.say(
                f"trial {now.trials} of {now.trials + now.trials_left}: {now.trial}; "
                f"{now.paid:,} tokens paid, {now.saved:,} saved{left}"
            )
        elif now.event in ("confirming", "confirmed"):
            self.say(f"{now.event}: {now.what}")
        elif now.event == "row" and time.monotonic() - self._told >= 20:
            self._told = time.monotonic()
            self.say(f"  {now.what}: {now.rows[0]} of {now.rows[1]}")

    def download(self, what: str, done: int, total: int) -> None:
        """Progress of `serving.locate`, in bytes, beside what is under way."""
        note = f"{self._doing}: {what}, {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        if self._status is not None:
            self._status.update(_plain(note))
        elif time.monotonic() - self._told >= 10:
            self._told = time.monotonic()
            self.say(note)


def report_rows(reports: Sequence[Report]) -> list[list[str]]:
    """Name, score with interval, B_seq, B_total, calls and paid tokens of each report."""
    table = []
    for report in reports:
        low, high = report.interval
        cells = [report.name, f"{report.score:.3f}", f"[{low:.3f}, {high:.3f}]", f"{report.sequential:,.0f}"]
        cells += [f"{report.total:,.0f}", f"{report.calls:.1f}", f"{report.paid:,}", f"{report.reused:.0%}"]
        table.append(cells)
    return table


REPORT_COLUMNS = ("program", "score", "95 % interval", "B_seq", "B_total", "calls", "tokens paid", "reused")


def _tokens(rows: Sequence[Row], saved: int) -> str:
    paid = sum(row.paid for row in rows)
    return f"{paid:,} tokens" + (f", {saved:,} saved" if saved else "")


def _scored(trial: TrialRecord) -> str:
    low, high = trial.interval
    return f"{trial.score:.2f} [{low:.2f}, {high:.2f}] {trial.schedule}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _plain(text: str) -> str:
    """Text in which nothing is read as markup."""
    from rich.markup import escape

    return escape(text)
