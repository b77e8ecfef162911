"""Progress display of a command: live bars on a terminal, plain lines everywhere else. Everything goes to stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from pdr_dspy.calls.ledger import Usage
    from pdr_dspy.evaluation.records import Report, Row
    from pdr_dspy.search import SearchProgress, TrialRecord


MINUTE = 60.0
"""Seconds after the last line, without a terminal, until another line is due."""
ENOUGH = 8
"""Responses before a command's end is forecast."""
BEAT = 5.0
"""Seconds between checks whether a line is due."""


class Display:
    """Progress on stderr, results on stdout."""

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            quiet: show no progress.
            clock: gives seconds.
        """
        self.quiet = quiet
        self.err = Console(stderr=True, quiet=quiet, highlight=False)
        # A pipe has no width: tables must not be folded to 80 columns there.
        self.out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
        self.live = self.err.is_terminal and not quiet
        self._doing = ""
        self._status: Status | None = None
        self._clock = clock
        self._last_line = 0.0
        self._sent = 0
        self._responses = 0
        self._expected: tuple[int, int, float] | None = None
        """Responses that the command expects, those before it expected them, and the time of that."""
        self._refresh: Callable[[], None] = _nothing

    def say(self, text: str) -> None:
        """One line for people, on stderr."""
        self.err.print(text, markup=False, soft_wrap=True)

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
            table.add_row(*[_plain(cell) for cell in row])
        self.out.print(table)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Show the status of a short task."""
        self._doing = text
        if self.live:
            with self.err.status(_plain(text)) as self._status:
                yield
            self._status = None
        else:
            self.say(f"{text} ...")
            yield

    def counted(self, usage: Usage) -> None:
        """Count a response, for `calls.session(on_response=...)`: displayed tokens include it at once."""
        self._sent += (usage.input or 0) + (usage.output or 0)
        self._responses += 1
        self._refresh()

    @property
    def sent(self) -> int:
        """Tokens of the responses received so far."""
        return self._sent

    def expect(self, responses: int) -> None:
        """Expect about so many responses from now on, over all steps of a command: with some of them received, every
        step says how long the whole command still takes."""
        self._expected = (responses, self._responses, self._clock())

    def _ahead(self) -> str:
        """The forecast of the command's end, as the end of a line; "" without one."""
        if self._expected is None:
            return ""
        expected, before, began = self._expected
        done = self._responses - before
        if done < ENOUGH or done >= expected:
            return ""
        return f"; about {_minutes((self._clock() - began) / done * (expected - done))} left in all"

    @contextmanager
    def rows(self, name: str, count: int) -> Iterator[Callable[[Row, int, int], None]]:
        """A callback for `evaluate(progress=...)`: the score so far, tokens paid and saved, the time left.

        Tokens are those of finished rows, or those counted by `counted` meanwhile, if they are more.
        """
        seen = scored = paid = saved = 0.0
        done, before = 0, self._sent
        with self.bar(name, count) as update:

            def show() -> None:
                tokens = f"{max(paid, self._sent - before):,.0f} tokens" + (f", {saved:,.0f} saved" if saved else "")
                tokens += self._ahead()
                update(done, f"score {scored / seen:.2f}  {tokens}" if seen else tokens)

            def progress(row: Row, now_done: int, total: int) -> None:
                nonlocal seen, scored, paid, saved, done
                seen, scored, done = seen + 1, scored + row.score, now_done
                paid, saved = paid + row.paid, saved + row.total - row.paid
                show()

            with self._refreshed_by(show):
                yield progress

    @contextmanager
    def bar(self, name: str, count: int | None) -> Iterator[Callable[[int, str], None]]:
        """A callback (done, note) that draws a bar, or prints a line now and then: at each quarter, and at most once a
        minute in between."""
        if not self.live:
            shown = [self._clock(), -1.0]

            def line(done: int, note: str) -> None:
                share = done / count if count else 0.0
                news = done > 0 and (share - shown[1] >= 0.25 or (done == count and share > shown[1]))
                if news or self._clock() - shown[0] >= MINUTE:
                    shown[:] = [self._clock(), share if done else -1.0]
                    self.say(f"{name}: {done}{f'/{count}' if count else ''}  {note}")

            yield line
            return
        with _Bars(_Time(table_column=Column(no_wrap=True)), console=self.err) as bars:
            task = bars.add_task(_plain(name), total=count)

            def draw(done: int, note: str) -> None:
                bars.notes = [note]
                bars.update(task, completed=done)

            yield draw

    @contextmanager
    def search(self) -> Iterator[Callable[[SearchProgress], None]]:
        """A callback for `PDROptimizer(progress=...)`: the current step, the best so far, tokens and time.

        A search counts paid tokens when a block of runs has ended; `counted` adds those received meanwhile.
        """
        known: list[SearchProgress] = []
        paid, sent = -1, self._sent

        def live(now: SearchProgress) -> SearchProgress:
            nonlocal paid, sent
            if now.paid != paid:
                paid, sent = now.paid, self._sent
            more = self._sent - sent
            left = None if now.tokens_left is None else max(now.tokens_left - more, 0)
            return replace(now, paid=now.paid + more, tokens_left=left)

        if not self.live:
            began = self._clock()

            def step(now: SearchProgress) -> None:
                known[:] = [now]
                self._search_line(live(now))

            def minute() -> None:
                if known and self._clock() - max(self._last_line, began) >= MINUTE and known[0].event != "done":
                    self._last_line = self._clock()
                    now = live(known[0])
                    runs = f": {now.rows[0]} of {now.rows[1]}" if now.rows[1] else ""
                    self.say(f"  {_stage(now) if now.event != 'row' else now.what}{runs}; {_spent(now)}{self._ahead()}")

            with self._refreshed_by(minute):
                yield step
            return
        with _Bars(console=self.err) as bars:
            trials = bars.add_task("trials", total=None)
            rows = bars.add_task("runs", total=None)
            stage = ""

            def draw() -> None:
                if not known:
                    return
                now = live(known[0])
                bars.notes = [stage, *([f"best {_scored(now.best)}"] if now.best is not None else [])]
                bars.notes += [_spent(now), _clock(now) + self._ahead()]
                bars.update(trials, total=now.trials + now.trials_left, completed=now.trials)
                bars.update(rows, completed=now.rows[0], total=now.rows[1] or None, visible=now.rows[1] > 0)

            def show(now: SearchProgress) -> None:
                nonlocal stage
                if now.event not in ("row", "finished"):
                    stage = _stage(now)
                known[:] = [now]
                draw()
                if now.event == "finished" and now.trial is not None:
                    bars.console.print(_plain(f"trial {now.trial.number + 1}: {_ended(now.trial)}"))

            with self._refreshed_by(draw):
                yield show

    @contextmanager
    def _refreshed_by(self, show: Callable[[], None]) -> Iterator[None]:
        """Inside, `show` is called for every response, and without a terminal also every few seconds: a line is due
        after a minute even if no response came."""
        before, self._refresh = self._refresh, show
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT):
                show()

        thread = threading.Thread(target=beat, name="pdr-dspy-progress", daemon=True)
        if not self.live and not self.quiet:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread.ident is not None:
                thread.join()
            self._refresh = before

    def _search_line(self, now: SearchProgress) -> None:
        if now.event == "finished" and now.trial is not None:
            count = now.trials + now.trials_left
            self._last_line = self._clock()
            time = f"{_clock(now)}{self._ahead()}"
            self.say(f"trial {now.trial.number + 1} of {count}: {_ended(now.trial)}; {_spent(now)}; {time}")
        elif now.event == "row":
            if self._clock() - self._last_line >= 20:
                self._last_line = self._clock()
                self.say(f"  {now.what}: {now.rows[0]} of {now.rows[1]}; {_spent(now)}{self._ahead()}")
        elif now.event != "confirmed":  # the command reports that, with the figures
            self._last_line = self._clock()
            self.say(_stage(now))

    def download(self, what: str, done: int, total: int) -> None:
        """Progress of `serving.locate`, in bytes, beside the current task."""
        note = f"{self._doing}: {what}, {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        if self._status is not None:
            self._status.update(_plain(note))
        elif self._clock() - self._last_line >= 10:
            self._last_line = self._clock()
            self.say(note)


def _nothing() -> None:
    pass


class _Bars(Progress):
    """Live bars, each with a name and a count, and notes below them, one per line: beside the bars they would not fit
    into 80 columns. In a narrow window the bar is shortened."""

    def __init__(self, *further: ProgressColumn, console: Console) -> None:
        self.notes: list[str] = []
        room = max(8, console.width - 48)  # leaves space for a count, a time and a bar
        name = Column(no_wrap=True, overflow="ellipsis", max_width=room)
        count = MofNCompleteColumn(table_column=Column(no_wrap=True))
        columns = (SpinnerColumn(), TextColumn("{task.description}", table_column=name), BarColumn(bar_width=24))
        columns = (*columns, count, *further)
        # A row may take minutes: with a shorter window there would be no two rows in it, and no estimate of the time
        # left.
        super().__init__(*columns, console=console, speed_estimate_period=3600)

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars, then the notes."""
        yield from super().get_renderables()
        yield from (Text(f"  {note}", no_wrap=True, overflow="ellipsis") for note in self.notes)


class _Time(ProgressColumn):
    """About how long is left; the time so far while that is unknown, and at the end."""

    def render(self, task: Task) -> Text:
        """The current text."""
        taken = _minutes(task.finished_time if task.finished_time is not None else task.elapsed or 0)
        if task.finished:
            return Text(taken)
        left = task.time_remaining
        return Text(f"{taken} so far" if left is None else f"about {_minutes(left)} left")


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


def _scored(trial: TrialRecord) -> str:
    """The estimate from all available data, with two standard deviations on both sides."""
    low, high = max(0.0, trial.pooled - 2 * trial.pooled_sd), min(1.0, trial.pooled + 2 * trial.pooled_sd)
    return f"{trial.pooled:.2f} [{low:.2f}, {high:.2f}] {trial.candidate}"


def _ended(trial: TrialRecord) -> str:
    return f"{trial}; {trial.dropped}" if trial.dropped else str(trial)


def _stage(now: SearchProgress) -> str:
    return {"racing": now.what, "proposing": f"a model writes {now.what}", "done": "the search has ended"}.get(
        now.event, f"{now.event}: {now.what}"
    )


def _spent(now: SearchProgress) -> str:
    left = "" if now.tokens_left is None else f", {now.tokens_left:,} left"
    return f"{now.paid:,} tokens paid{left}, {now.saved:,} saved by reuse"


def _clock(now: SearchProgress) -> str:
    left = ""
    if now.trials_left and now.seconds_left is not None:
        left = f", about {_minutes(now.seconds_left)} left for the trials"
    return f"{_minutes(now.seconds)} so far{left}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _plain(text: str) -> str:
    """Text without markup."""
    from rich.markup import escape

    return escape(text)
