"""Admission of runs: a bound on concurrent runs, a bounded queue, and a fair share for each client.

A free place goes to the waiting client with the fewest active runs; among equals, to the one whose last turn was the
longest ago. A full queue rejects the newest run of the client with the most waiting runs, possibly the requesting one:
a client that floods the server fills its own share of the queue, and others still get in.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pdr_dspy.endpoint.errors import Refused


class Admission:
    """Places for runs. It belongs to one event loop."""

    def __init__(self, running: int, queued: int) -> None:
        """
        Args:
            running: maximum of concurrent runs.
            queued: maximum of waiting runs.
        """
        self.limit = running
        self.queue_limit = queued
        self.running = 0
        self.by_client: dict[str, int] = {}
        """Runs under way."""
        self.waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """By client, the one whose last turn was the longest ago first."""
        self.seconds = 1.0
        """A moving average of the duration of a run, for Retry-After."""
        self.changed: Callable[[Admission], None] = lambda admission: None
        """Called after every change of `running` and `queued`."""

    @property
    def queued(self) -> int:
        """Runs that wait."""
        return sum(map(len, self.waiting.values()))

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """A place for one run of `client`; waits for it. Raises Refused (429) if the queue is full."""
        if self.running >= self.limit or self.waiting:
            await self._wait(client)
        else:
            self._take(client)
        started = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self.seconds += 0.1 * (asyncio.get_running_loop().time() - started - self.seconds)
            self._give_back(client)

    def refusal(self) -> Refused:
        """The error for a run that finds the queue full, with the seconds after which about half of it will be done."""
        wait = max(1, math.ceil(self.seconds * (self.queued / 2 + 1) / self.limit))
        return Refused(
            429,
            f"{self.running} runs are active and {self.queued} wait; try again in {wait} s",
            code="queue_full",
            headers={"Retry-After": str(wait)},
        )

    async def _wait(self, client: str) -> None:
        if self.queued >= self.queue_limit:
            most = max(self.waiting, key=lambda name: len(self.waiting[name]), default=client)
            if len(self.waiting.get(most, ())) <= len(self.waiting.get(client, ())) + 1:
                raise self.refusal()
            newest = self.waiting[most].pop()
            if not newest.done():
                newest.set_exception(self.refusal())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(client, deque()).append(turn)
        self.changed(self)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back(client)  # it had just been given a place
            else:
                self._forget(client, turn)
            raise

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        line = self.waiting.get(client)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self.waiting[client]
            self.changed(self)

    def _take(self, client: str) -> None:
        self.running += 1
        self.by_client[client] = self.by_client.get(client, 0) + 1
        self.changed(self)

    def _give_back(self, client: str) -> None:
        self.running -= 1
        self.by_client[client] -= 1
        if not self.by_client[client]:
            del self.by_client[client]
        while self.waiting and self.running < self.limit:
            next_one = min(self.waiting, key=lambda name: self.by_client.get(name, 0))  # the first among equals
            line = self.waiting[next_one]
            turn = line.popleft()
            if line:
                self.waiting.move_to_end(next_one)
            else:
                del self.waiting[next_one]
            if not turn.done():
                self._take(next_one)
                turn.set_result(None)
        self.changed(self)
