"""How many requests one server is sent at once: all of them until it refuses some, then as many as it was seen to take.

A request's level is the number of requests in flight when it was sent, itself included. When a request is refused, what
is still in flight is what the server took, and that becomes the limit: a burst of thousands against a server that takes
W settles on W in a single go, where halving would take several. Two things keep faults that strike at random from
narrowing it: a refusal at a level at which requests have just been served only weakens the memory of that, and a first
limit takes more than a few refusals in a row. Answers raise the limit by one for each limit-ful of them, by twice as
much after each further limit-ful without a setback, so a server that has grown is found again; a limit that is met at
the same place again and again is tried less often, down to one request too many for eight limit-fuls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_FORGET = 0.75
_DOUBTS, _SHARE = 3, 0.05
"""Refusals in a row, and the share of the requests in flight, that make the first limit."""
_SLOWEST = 1 / 8


@dataclass(frozen=True, eq=False, slots=True)
class Sent:
    """One request in flight, as the pace sees it."""

    level: int
    setbacks: int


class Pace:
    """The limit of one server, for one event loop. begin() and one of the others enclose each request."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.limit = math.inf
        """At most this many requests at once; a part of one counts as none."""
        self._proven = 0.0
        self._doubts = 0
        self._setbacks = 0
        self._narrowest = math.inf
        self._start = 1.0
        self._step = 1.0
        """What a limit-ful of answers adds to the limit: at first after a setback, and now."""
        self._since = 0

    @property
    def room(self) -> bool:
        """Whether one more request may be sent now; always when none is in flight."""
        return self.in_flight + 1 <= self.limit or not self.in_flight

    def begin(self) -> Sent:
        """A request is sent."""
        self.in_flight += 1
        return Sent(self.in_flight, self._setbacks)

    def end(self, sent: Sent) -> None:
        """A request has ended, and says nothing about the server's width."""
        self.in_flight -= 1

    def served(self, sent: Sent) -> None:
        """A request has ended with an answer."""
        in_use = self.in_flight * 2 >= self.limit
        self.in_flight -= 1
        self._doubts = 0
        self._proven = max(self._proven, sent.level)
        if self.limit == math.inf or not in_use:  # a limit that is not used need not grow
            return
        self.limit += self._step / self.limit
        self._since += 1
        if self._since >= self.limit:
            self._since = 0
            self._step = min(2 * self._step, self.limit)

    def refused(self, sent: Sent) -> None:
        """The server would not take a request: what is in flight besides is what it takes."""
        self.in_flight -= 1
        self._narrow(sent, self.in_flight)

    def late(self, sent: Sent) -> None:
        """A request was not answered in time. Those that were sent side by side halve the width once, not each."""
        self.in_flight -= 1
        if sent.setbacks == self._setbacks:
            self._narrow(sent, (self.in_flight + 1) / 2)

    def _narrow(self, sent: Sent, width: float) -> None:
        if sent.level <= self._proven:
            self._proven *= _FORGET
            return
        self._doubts += 1
        if self.limit == math.inf and self._doubts < max(_DOUBTS, _SHARE * (self.in_flight + self._doubts)):
            return
        limit = max(1.0, math.floor(self._proven), width)
        if limit < self.limit:
            again = limit == self._narrowest
            self._start = max(_SLOWEST, self._start / 2) if again else 1.0
            self.limit = self._narrowest = limit
            self._setbacks += 1
            self._step, self._since = self._start, 0
