"""Gathering of sibling requests: requests that differ only in their seed share one HTTP request.

One request for n completions reads the prompt once and decodes the n samples in one batch; on llama.cpp that is about
a third of the work of n requests. Both llama.cpp and vLLM give child i of a request with seed s the sampling seed
s + i, so the i-th choice is the draft of a single request with seed s + i. On llama.cpp the two agree token for token
until rounding, which depends on the rest of the batch, decides between two nearly equal tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pdr_dspy.serving.client.encode import Wire

PATIENCE = 0.25
"""Seconds after the latest arrival until a group is sent without its missing members."""


@dataclass
class _Group:
    size: int
    members: list[tuple[Wire, asyncio.Future]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Gatherer:
    """Holds requests until their group is complete, then sends each run of seeds at once. Safe to use from several
    event loops: a group is one of its loop.

    `send(wires)` takes wires whose seeds are consecutive and ascending, at most `limit` of them, and returns one
    result for each, in order.
    """

    def __init__(self, send: Callable[[list[Wire]], Awaitable[Sequence[Any]]], limit: int | None = None) -> None:
        self._send = send
        self._limit = limit
        self._groups: dict[tuple[asyncio.AbstractEventLoop, str], _Group] = {}
        self._tasks: set[asyncio.Task] = set()

    async def submit(self, wire: Wire) -> Any:
        """Return the result of `wire`; waits for its siblings, but not for cancelled or missing ones."""
        assert wire.group is not None
        loop = asyncio.get_running_loop()
        name = (loop, wire.group)
        group = self._groups.setdefault(name, _Group(wire.size))
        future: asyncio.Future = loop.create_future()
        entry = (wire, future)
        group.members.append(entry)
        if group.timer is not None:
            group.timer.cancel()
        if len(group.members) >= group.size:
            self._launch(name)
        else:
            group.timer = loop.call_later(PATIENCE, self._launch, name)
        try:
            return await future
        except asyncio.CancelledError:
            if self._groups.get(name) is group and entry in group.members:
                group.members.remove(entry)
                group.size -= 1
                if len(group.members) >= group.size:
                    self._launch(name)
            raise

    def _launch(self, name: tuple[asyncio.AbstractEventLoop, str]) -> None:
        group = self._groups.pop(name, None)
        if group is None:
            return
        if group.timer is not None:
            group.timer.cancel()
        members = [(wire, future) for wire, future in group.members if not future.done()]
        for run in _runs(members, self._limit):
            task = asyncio.ensure_future(self._run(run))
            self._tasks.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(self._tasks.discard)
            for _, future in run:
                future.add_done_callback(lambda _, task=task, run=run: _abandon(task, run))

    async def _run(self, run: list[tuple[Wire, asyncio.Future]]) -> None:
        try:
            results = await self._send([wire for wire, _ in run])
        except asyncio.CancelledError:
            for _, future in run:
                future.cancel()
            raise
        except Exception as error:  # raised by every waiter
            for _, future in run:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(run, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)


def _runs(members: list[tuple[Wire, asyncio.Future]], limit: int | None) -> list[list[tuple[Wire, asyncio.Future]]]:
    """Split members into runs of consecutive seeds; bodies that differ in more than the seed never share a run. At
    temperature 0 the seed does not matter."""
    runs: list[list[tuple[Wire, asyncio.Future]]] = []
    for entry in sorted(members, key=lambda item: item[0].seed or 0):
        wire = entry[0]
        last = runs[-1] if runs else None
        if (
            last is not None
            and (wire.greedy or (wire.seed == (last[-1][0].seed or 0) + 1 and (limit is None or len(last) < limit)))
            and {**wire.body, "seed": 0} == {**last[-1][0].body, "seed": 0}
        ):
            last.append(entry)
        else:
            runs.append([entry])
    return runs


def _abandon(task: asyncio.Task, run: list[tuple[Wire, asyncio.Future]]) -> None:
    if all(future.cancelled() for _, future in run):
        task.cancel()
