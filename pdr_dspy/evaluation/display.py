"""Progress on stderr: live bars on a terminal, plain lines in a notebook and elsewhere. `evaluate`, `PDROptimizer` and
the command line show the same."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from pdr_dspy import calls
from pdr_dspy.errors import ConfigError

if TYPE_CHECKING:
    from pdr_dspy.calls.ledger import Usage
    from pdr_dspy.evaluation.records import Row

MINUTE = 60.0
"""Seconds after the last line, without a terminal, until another line is due."""
ENOUGH = 8
"""Responses before a command's end is forecast."""
BEAT = 5.0
"""Seconds between checks whether a line is due."""
_ON_SCREEN = threading.Lock()
"""Held by the display whose bars are on the terminal: those of two would overwrite each other."""

OnRow = Callable[["Row", int, int], None]
"""Called with each finished row, the number of finished rows, and the number of all rows."""


class Screen(Console):
    """A console that leaves it to the caller what to do when nobody reads its output any more."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError; rich would end the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class ProgressDisplay:
    """Progress of evaluations on stderr."""

    def __init__(
        self, *, quiet: bool = False, sparse: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            quiet: show no progress.
            sparse: without a terminal, only show a line a minute: nothing for an activity that is shorter.
            clock: gives seconds.
        """
        self.quiet = quiet
        self.sparse = sparse
        # In a notebook plain lines, too: widgets need another package there, and are lost when it is saved.
        self.err = Screen(stderr=True, quiet=quiet, highlight=False, force_jupyter=False)
        self.live = self.err.is_terminal and not self.err.is_dumb_terminal and sys.stderr.isatty() and not quiet
        self._clock = clock
        self._last_line = 0.0
        self._sent = 0
        self._responses = 0
        self._expected: tuple[int, int, float] | None = None
        """Responses that the command expects, those before it expected them, and the time of that."""
        self._refresh: Callable[[], None] = _nothing

    @classmethod
    def of(cls, progress: bool | None, *, clock: Callable[[], float] = time.monotonic) -> Self:
        """The display for `progress=`: None shows bars on a terminal, lines in a notebook, and a line a minute
        elsewhere; True shows bars or lines everywhere, False nothing."""
        return cls(quiet=progress is False, sparse=progress is None and not _in_notebook(), clock=clock)

    def say(self, text: str) -> None:
        """One line for people, on stderr."""
        self.err.print(text, markup=False, soft_wrap=True)

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

    def ahead(self) -> str:
        """The forecast of the command's end, as the end of a line; "" without one."""
        if self._expected is None:
            return ""
        expected, before, began = self._expected
        done = self._responses - before
        if done < ENOUGH or done >= expected:
            return ""
        return f"; about {in_minutes((self._clock() - began) / done * (expected - done))} left in all"

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Inside, the responses of this context's calls are counted as they arrive."""
        before = calls.current().on_response

        def both(usage: Usage) -> None:
            if before is not None:
                before(usage)
            self.counted(usage)

        with calls.session(on_response=both):
            yield

    @contextmanager
    def rows(self, name: str, count: int) -> Iterator[Callable[[Row, int, int], None]]:
        """A callback for `evaluate(progress=...)`: the score so far, tokens paid and saved, the time left.

        Tokens are those of finished rows, or those counted by `counted` meanwhile, if they are more.
        """
        seen = scored = paid = saved = 0.0
        done, before = 0, self._sent
        with self.bar(name, count) as update:

            def note() -> str:
                tokens = f"{max(paid, self._sent - before):,.0f} tokens" + (f", {saved:,.0f} saved" if saved else "")
                tokens += self.ahead()
                return f"score {scored / seen:.2f}  {tokens}" if seen else tokens

            def show() -> None:
                update(done, note)

            def progress(row: Row, now_done: int, total: int) -> None:
                nonlocal seen, scored, paid, saved, done
                seen, scored, done = seen + 1, scored + row.score, now_done
                paid, saved = paid + row.paid, saved + row.total - row.paid
                show()

            with self.refreshed_by(show):
                yield progress

    @contextmanager
    def bar(self, name: str, count: int | None) -> Iterator[Callable[[int, Callable[[], str]], None]]:
        """A callback (done, note) that draws a bar, or prints a line now and then: at each quarter, and at most once a
        minute in between. The note is made only where it is shown."""
        if not self.live:
            shown = [self._clock(), -1.0]

            def line(done: int, note: Callable[[], str]) -> None:
                share = done / count if count else 0.0
                quarter = share - shown[1] >= 0.25 or (done == count and share > shown[1])
                news = quarter and done > 0 and not self.sparse
                if news or self._clock() - shown[0] >= MINUTE:
                    shown[:] = [self._clock(), share if done else -1.0]
                    self.say(f"{name}: {done}{f'/{count}' if count else ''}  {note()}")

            yield line
            return
        with (
            alone_on_screen() as alone,
            Bars(Time(table_column=Column(no_wrap=True)), console=self.err, disable=not alone) as bars,
        ):
            task = bars.add_task(plain(name), total=count)

            def draw(done: int, note: Callable[[], str]) -> None:
                bars.notes = [note()]
                bars.update(task, completed=done)

            yield draw

    @contextmanager
    def refreshed_by(self, show: Callable[[], None]) -> Iterator[None]:
        """Inside, `show` is called for every response, and without a terminal also every few seconds: a line is due
        after a minute even if no response came."""
        before, self._refresh = self._refresh, show
        ended = threading.Event()

        def beat() -> None:
            with suppress(BrokenPipeError):  # the next row raises it where it ends the evaluation
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


def check_progress(progress: object, argument: str) -> None:
    """Raise ConfigError for anything but None, a bool or a function."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise ConfigError(
            f"`{argument}(progress={progress!r})` must be True, False, None (shows it on a terminal and in a notebook) "
            "or a function"
        )


@contextmanager
def rows_shown(progress: OnRow | bool | None, name: str, count: int) -> Iterator[OnRow | None]:
    """What to call with each row of an evaluation for its `progress=`: a function itself, else one that shows it."""
    if progress is False or callable(progress):
        yield progress or None
        return
    display = ProgressDisplay.of(progress)
    with display.rows(name or "evaluation", count) as on_row, display.counting():
        yield on_row


@contextmanager
def alone_on_screen() -> Iterator[bool]:
    """Whether no other display of this process has bars on the terminal; until the end none gets them."""
    alone = _ON_SCREEN.acquire(blocking=False)
    try:
        yield alone
    finally:
        if alone:
            _ON_SCREEN.release()


def _in_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return "ipykernel" in sys.modules and shell is not None and getattr(shell(), "kernel", None) is not None


def _nothing() -> None:
    pass


class Bars(Progress):
    """Live bars, each with a name and a count, and notes below them, one per line: beside the bars they would not fit
    into 80 columns. In a narrow window the bar is shortened."""

    def __init__(self, *further: ProgressColumn, console: Console, disable: bool = False) -> None:
        self.notes: list[str] = []
        room = max(8, console.width - 48)  # leaves space for a count, a time and a bar
        name = Column(no_wrap=True, overflow="ellipsis", max_width=room)
        count = MofNCompleteColumn(table_column=Column(no_wrap=True))
        columns = (SpinnerColumn(), TextColumn("{task.description}", table_column=name), BarColumn(bar_width=24))
        columns = (*columns, count, *further)
        # A row may take minutes: with a shorter window there would be no two rows in it, and no estimate of the time
        # left.
        super().__init__(*columns, console=console, speed_estimate_period=3600, disable=disable)

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars, then the notes."""
        yield from super().get_renderables()
        yield from (Text(f"  {note}", no_wrap=True, overflow="ellipsis") for note in self.notes)


class Time(ProgressColumn):
    """About how long is left; the time so far while that is unknown, and at the end."""

    def render(self, task: Task) -> Text:
        """The current text."""
        taken = in_minutes(task.finished_time if task.finished_time is not None else task.elapsed or 0)
        if task.finished:
            return Text(taken)
        left = task.time_remaining
        return Text(f"{taken} so far" if left is None else f"about {in_minutes(left)} left")


def in_minutes(seconds: float) -> str:
    """A time in seconds, or in minutes from 90 seconds."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def plain(text: str) -> str:
    """Text without markup."""
    return escape(text)
