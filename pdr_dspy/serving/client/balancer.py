"""The servers behind one endpoint, and the queue in front of them: which replica takes the next request.

An endpoint is one server, or several with the same model. A request goes to the replica with the fewest in flight;
requests with equal beginnings go to the same replica while it is hardly busier than the others, because its prefix
cache is warm. A replica that cannot be reached, or fails several times in a row, is left out for a while and then tried
with one request. If some replicas are on the machine of this process, the others are used only while those are full or
left out. For prefix-aware routing over many machines, connect to a router in front of them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pdr_dspy.serving.client.concurrency import Pace, Sent
from pdr_dspy.serving.client.failures import Outcome

IN_A_ROW = 3
"""Consecutive failures after which a replica is left out."""
REST, LONGEST_REST = 1.0, 30.0
"""Seconds that a replica is left out: initially, and at most; doubled after each further failure."""
LEAN = 8
"""How many more requests than the least busy replica one may have, plus a quarter, and still get its prefixes."""


class Replica:
    """One server, as seen by one event loop."""

    def __init__(self, api_base: str, near: Collection[str] = ()) -> None:
        self.api_base = api_base
        self.near = urlsplit(api_base).hostname in near
        """Whether it is on this machine."""
        self.pace = Pace()
        self.failures = 0
        self.rest = 0.0
        """Seconds of the latest pause; 0 once it has answered."""
        self.until = 0.0
        """End of the pause, by the monotonic clock."""

    @property
    def in_flight(self) -> int:
        """Its open requests."""
        return self.pace.in_flight


@dataclass(eq=False)
class Place:
    """The permission for one open request at a replica."""

    replica: Replica
    sent: Sent


class Replicas:
    """The replicas of one endpoint within one event loop; at most `bound` requests are open over all of them."""

    def __init__(self, api_bases: Sequence[str], bound: int | None = None, near: Collection[str] = ()) -> None:
        """
        Args:
            api_bases: addresses of the servers.
            bound: maximum of open requests over all of them; None for no bound.
            near: hosts whose servers take all requests while one of them has a free place and has not failed.
        """
        self.all = [Replica(api_base, near) for api_base in api_bases]
        self.served = 0
        """Requests answered so far."""
        self._bound = bound
        self._in_flight = 0
        self._tickets = itertools.count()
        self._waiting: list[tuple[int, int, _Waiter]] = []

    def ticket(self) -> int:
        """A number that orders the queue: the request with the lowest goes first, also after a refusal."""
        return next(self._tickets)

    async def take(self, ticket: int, prefix: int, failed: Collection[Replica] = ()) -> Place:
        """Wait for a place. `prefix` is equal for requests with equal beginnings; replicas in `failed` are a last
        resort."""
        waiter = _Waiter(prefix, failed)
        if not self._waiting:
            place = self._place(waiter)
            if place is not None:
                return place
        waiter.future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (ticket, next(self._tickets), waiter))
        self._admit()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                place = waiter.future.result()
                place.replica.pace.end(place.sent)
                self._in_flight -= 1
            self._admit()
            raise

    def give(self, place: Place, outcome: Outcome) -> None:
        """Return a place, with the outcome of its request."""
        replica, pace = place.replica, place.replica.pace
        self._in_flight -= 1
        if outcome in (Outcome.SERVED, Outcome.REFUSED):  # it is alive
            replica.failures, replica.rest, replica.until = 0, 0.0, 0.0
        elif outcome in (Outcome.LATE, Outcome.BROKEN):
            self._failed(replica, 1)
        elif outcome in (Outcome.UNREACHABLE, Outcome.LOADING):
            self._failed(replica, IN_A_ROW)
        if outcome is Outcome.SERVED:
            self.served += 1
            pace.served(place.sent)
        elif outcome is Outcome.REFUSED:
            pace.refused(place.sent)
        elif outcome is Outcome.LATE:
            pace.late(place.sent)
        else:
            pace.end(place.sent)
        self._admit()

    def others(self, failed: Collection[Replica]) -> bool:
        """Whether a replica that has not failed yet could take the request now."""
        return any(replica not in failed for replica in self._open()) if len(self.all) > 1 else False

    def _failed(self, replica: Replica, weight: int) -> None:
        replica.failures += weight
        now = time.monotonic()
        if replica.failures >= IN_A_ROW and now >= replica.until:
            replica.failures = 0
            replica.rest = min(LONGEST_REST, 2 * replica.rest or REST)
            replica.until = now + replica.rest

    def _open(self) -> list[Replica]:
        """Replicas that are not left out; one whose pause has just ended takes a single request. All if all are left
        out."""
        now = time.monotonic()
        return [r for r in self.all if now >= r.until and not (r.rest and r.in_flight)] or self.all

    def _place(self, waiter: _Waiter) -> Place | None:
        if self._bound is not None and self._in_flight >= self._bound:
            return None
        replica = self.all[0] if len(self.all) == 1 else self._choose(waiter)
        if replica is None or not replica.pace.room:
            return None
        self._in_flight += 1
        return Place(replica, replica.pace.begin())

    def _choose(self, waiter: _Waiter) -> Replica | None:
        ready = [replica for replica in self._open() if replica.pace.room]
        ready = [replica for replica in ready if replica not in waiter.failed] or ready
        if not ready:
            return None
        ready = [replica for replica in ready if replica.near] or ready
        idlest = min(ready, key=lambda replica: replica.in_flight)
        homes = [replica for replica in self.all if replica.near] or self.all
        home = homes[waiter.prefix % len(homes)]
        return home if home in ready and home.in_flight <= 1.25 * idlest.in_flight + LEAN else idlest

    def _admit(self) -> None:
        """Give the free places to the waiters, in order."""
        while self._waiting:
            waiter = self._waiting[0][2]
            if waiter.future is None or waiter.future.done():
                heapq.heappop(self._waiting)
                continue
            place = self._place(waiter)
            if place is None:
                return
            heapq.heappop(self._waiting)
            waiter.future.set_result(place)


class _Waiter:
    __slots__ = ("failed", "future", "prefix")

    def __init__(self, prefix: int, failed: Collection[Replica]) -> None:
        self.prefix = prefix
        self.failed = failed
        self.future: asyncio.Future[Place] | None = None
