"""Requests in flight at one server: unlimited until it refuses some, then as many as it was seen to take.

A request's level is the number of requests in flight when it was sent, itself included. When a request is refused, the
others still in flight are what the server can take, and their number becomes the limit: a burst of thousands against a
server that takes W settles on W at once, where halving would take several steps. Two rules keep random faults from
lowering it: a refusal at a level that has just been served only weakens the memory of that level, and the first limit
needs more than a few consecutive refusals. Answers raise the limit by one per limit-ful of them, and by twice as much
after each further limit-ful without a setback, so that a server with more capacity is noticed; a limit confirmed again
and again at the same level is tested less often, down to one extra request per eight limit-fuls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_FORGET = 0.75
_DOUBTS, _SHARE = 3, 0.05
"""Consecutive refusals, and their share of the requests in flight, that set the first limit."""
_SLOWEST = 1 / 8


@dataclass(frozen=True, eq=False, slots=True)
class Sent:
    """One request in flight, for the pace."""

    level: int
    setbacks: int


class Pace:
    """The limit of one server, for one event loop. begin() and one of the other methods enclose each request."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.limit = math.inf
        """At most this many requests at once; a fraction counts as none."""
        self._proven = 0.0
        self._doubts = 0
        self._setbacks = 0
        self._narrowest = math.inf
        self._start = 1.0
        self._step = 1.0
        """The increase of the limit per limit-ful of answers: initially after a setback, and now."""
        self._since = 0

    @property
    def room(self) -> bool:
        """Whether one more request may be sent now; always true when none is in flight."""
        return self.in_flight + 1 <= self.limit or not self.in_flight

    def begin(self) -> Sent:
        """Called when a request is sent."""
        self.in_flight += 1
        return Sent(self.in_flight, self._setbacks)

    def end(self, sent: Sent) -> None:
        """Called when a request has ended without information on the server's capacity."""
        self.in_flight -= 1

    def served(self, sent: Sent) -> None:
        """Called when a request was answered."""
        in_use = self.in_flight * 2 >= self.limit
        self.in_flight -= 1
        self._doubts = 0
        self._proven = max(self._proven, sent.level)
        if self.limit == math.inf or not in_use:  # an unused limit does not grow
            return
        self.limit += self._step / self.limit
        self._since += 1
        if self._since >= self.limit:
            self._since = 0
            self._step = min(2 * self._step, self.limit)

    def refused(self, sent: Sent) -> None:
        """Called when the server refused a request: the others in flight are what it takes."""
        self.in_flight -= 1
        self._narrow(sent, self.in_flight)

    def late(self, sent: Sent) -> None:
        """Called when a request timed out. Concurrent timeouts halve the limit once, not each."""
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
