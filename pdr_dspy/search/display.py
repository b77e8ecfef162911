"""Progress of a search on stderr, in the form of `pdr_dspy.evaluation.display`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pdr_dspy.evaluation.display import MINUTE, Bars, ProgressDisplay, alone_on_screen, in_minutes, plain
from pdr_dspy.search.progress import Progress
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.result import SearchProgress


class SearchDisplay(ProgressDisplay):
    """Progress of evaluations and searches on stderr."""

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
                    self.say(f"  {_stage(now) if now.event != 'row' else now.what}{runs}; {_spent(now)}{self.ahead()}")

            with self.refreshed_by(minute):
                yield step
            return
        with alone_on_screen() as alone, Bars(console=self.err, disable=not alone) as bars:
            trials = bars.add_task("trials", total=None)
            rows = bars.add_task("runs", total=None)
            stage = ""

            def draw() -> None:
                if not known:
                    return
                now = live(known[0])
                bars.notes = [stage, *([f"best {_scored(now.best)}"] if now.best is not None else [])]
                bars.notes += [_spent(now), _clock(now) + self.ahead()]
                bars.update(trials, total=now.trials + now.trials_left, completed=now.trials)
                bars.update(rows, completed=now.rows[0], total=now.rows[1] or None, visible=now.rows[1] > 0)

            def show(now: SearchProgress) -> None:
                nonlocal stage
                if now.event not in ("row", "finished"):
                    stage = _stage(now)
                known[:] = [now]
                draw()
                if now.event == "finished" and now.trial is not None and alone:
                    bars.console.print(plain(f"trial {now.trial.number + 1}: {_ended(now.trial)}"))

            with self.refreshed_by(draw):
                yield show

    def _search_line(self, now: SearchProgress) -> None:
        if self.sparse:
            return  # there is a line a minute
        if now.event == "finished" and now.trial is not None:
            count = now.trials + now.trials_left
            self._last_line = self._clock()
            time = f"{_clock(now)}{self.ahead()}"
            number = now.trial.number + 1
            place = f"trial {number} of {count}" if number <= count else f"trial {number}"
            named = f"at no tokens, trial {number}" if now.trial.free else place
            self.say(f"{named}: {_ended(now.trial)}; {_spent(now)}; {time}")
        elif now.event == "row":
            if self._clock() - self._last_line >= 20:
                self._last_line = self._clock()
                self.say(f"  {now.what}: {now.rows[0]} of {now.rows[1]}; {_spent(now)}{self.ahead()}")
        elif now.event != "confirmed":  # the command reports that, with the figures
            self._last_line = self._clock()
            self.say(_stage(now))


@contextmanager
def search_shown(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """What to call at each step of a search for its `progress=`: a function itself, else one that shows it."""
    if progress is False or callable(progress):
        yield progress or None
        return
    display = SearchDisplay.of(progress)
    with display.search() as on_step, display.counting():
        yield on_step


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
        left = f", about {in_minutes(now.seconds_left)} left for the trials"
    return f"{in_minutes(now.seconds)} so far{left}"
