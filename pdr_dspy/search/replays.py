"""Candidates that repeat calls of a measured candidate and make no other: they are measured at zero tokens.

The drafts of a round do not depend on what follows it, and the calls of a run are known by their content and seed. So
after a run of eight drafts and a refinement the store can answer for the vote of the eight, for the best of them by the
check, for the same run with `keep`, and for one that asks for two drafts first. That needs a program
in which no other call reads the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.racing.requests import Tried
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.space import Space


class Order:
    """Whether other calls follow those of a program's operator, from its runs so far."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._followed: set[str] = set()

    def add(self, row: Row) -> None:
        """Take a run into account; one that failed does not show what would have followed."""
        if row.failure is not None:
            return
        runs = [_run_of(call) for call in row.calls]
        for place, run in enumerate(runs):
            if run is not None:
                self._seen.add(_path(run))
                if any(other != run for other in runs[place:]):
                    self._followed.add(_path(run))

    @property
    def alone(self) -> bool:
        """Whether no call was ever followed by one that may read the answer: of another operator, of another run of the
        same one, or of a judge."""
        return bool(self._seen) and not self._followed


def _run_of(call: Call) -> str | None:
    """The operator of a call, with the number of its run; None if the call is no operator's."""
    return None if call.phase is Phase.JUDGE or call.round == 0 else call.operator


def _path(run: str) -> str:
    return run.partition(":")[0]


def replays(space: Space, tried: Sequence[Tried], most: int, fits: Callable[[Candidate], bool]) -> list[Candidate]:
    """Untried candidates of a space that repeat calls of those that were measured on all questions.

    Args:
        space: of the search.
        tried: the measured candidates, with their pooled scores.
        most: how many candidates at most; those that repeat the best come first.
        fits: whether a candidate may be within the limits.
    """
    complete = max((known.pairs for known in tried), default=0)
    seen = {known.candidate.key for known in tried}
    found: list[Candidate] = []
    for known in sorted(tried, key=lambda known: -known.score):
        if known.pairs < complete or known.candidate.parts:
            continue
        for schedule in contained(known.candidate.schedule, space):
            if len(found) == most:
                return found
            candidate = known.candidate._replace(schedule=schedule)
            if candidate.key not in seen and candidate in space and fits(candidate):
                seen.add(candidate.key)
                found.append(candidate)
    return found


def contained(schedule: Schedule, space: Space) -> Iterator[Schedule]:
    """The schedules whose calls are a part of those of a schedule, with values of a space; some are not in it.

    None for a schedule that ends rounds early: its cancelled drafts are in no store.
    """
    if schedule.stop_at is not None or schedule.agree is not None or schedule.quorum < 1.0:
        return
    for rounds in range(schedule.rounds, 0, -1):
        shorter = {"widths": schedule.widths[:rounds], "critique": schedule.critique and rounds > 1}
        if schedule.widths[rounds - 1] == 1:
            yield from _ended(schedule.replace(**shorter, final="refine"), space)
            continue
        for final in space.final:
            checked = final in ("weighted", "best")
            if final != "refine" and (schedule.check is not None or not checked):
                yield from _ended(schedule.replace(**shorter, final=final), space)


def _ended(schedule: Schedule, space: Space) -> Iterator[Schedule]:
    """A schedule, and with a check the same that keeps, stops, or makes some drafts first."""
    yield schedule
    if schedule.check is None:
        return
    for keep in space.keep if schedule.rounds > 1 else ():
        if keep != schedule.keep:
            yield schedule.replace(keep=keep)
    for stop in space.stop_at:
        for first in space.first_wave:
            wide = max(schedule.widths)
            if stop is not None and (wide == 1 or (first is not None and first < wide)):
                few = None if wide == 1 else first
                yield schedule.replace(stop_at=stop, first_wave=few, next_wave=schedule.next_wave if few else None)
