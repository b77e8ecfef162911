"""The only retry layer: how long to wait after a failure, which replica to try next, and when to give up.

DSPy's own retries are off (`num_retries=0`), and no other module sends a request again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from dspy import lm15

from pdr_dspy.serving.client.balancer import Replica, Replicas
from pdr_dspy.serving.client.failures import AGAIN, UNSETTLED, Outcome, judge

T = TypeVar("T")
TRIES = 4
"""Maximum tries of one request, the first included; persist() tells which ones do not count."""
SHORTEST, LONGEST = 0.05, 0.2
"""Seconds between two tries."""
LOADING = 0.5
"""Seconds between queries of a server that is loading its model, as long as the timeout allows."""


@dataclass
class Tally:
    """The tries of a request, the last included, and how many of them may have been served although no reply came."""

    tries: int = 0
    unsettled: int = 0


async def persist(
    replicas: Replicas,
    send: Callable[[Replica, float], Awaitable[T]],
    *,
    seconds: float,
    prefix: int = 0,
    again: Collection[Outcome] = AGAIN,
    before: Tally | None = None,
    elsewhere_than: Collection[Replica] = (),
    source: random.Random,
    sleep: Callable[[float], Awaitable[None]],
) -> tuple[T, Tally]:
    """Call `send(replica, seconds left)` until it returns, and return its value with the tries.

    Tries and the pauses between them may take `seconds` in all; waiting for a place in this client's own queue does not
    count. A try does not count towards TRIES if the server refused it while serving other requests of this client (a
    place will become free), or if no connection could be made and another replica can take the request.

    `again` lists the outcomes that are retried. A request that is repeated in another form counts the tries `before` it
    in its tally, and avoids the replica where that one failed if it can.

    Raises the last error, with its Tally as the attribute `tally` and the replicas that failed as `failed`, if it
    cannot be retried, the tries are used up, or the remaining time is shorter than the pause.
    """
    tally = Tally() if before is None else replace(before)
    counted = 0
    left, pause = seconds, SHORTEST
    failed: set[Replica] = set(elsewhere_than)
    ticket, served = replicas.ticket(), replicas.served
    while True:
        place = await replicas.take(ticket, prefix, failed)
        started = time.monotonic()
        tally.tries += 1
        outcome = Outcome.CANCELLED
        try:
            result = await send(place.replica, left)
            outcome = Outcome.SERVED
            return result, tally
        except lm15.LM15Error as error:
            failure = error
            outcome = judge(error)
        finally:
            replicas.give(place, outcome)
        left -= time.monotonic() - started
        tally.unsettled += outcome in UNSETTLED
        failed.add(place.replica)
        elsewhere = outcome in (Outcome.UNREACHABLE, Outcome.LOADING) and replicas.others(failed)
        busy = outcome is Outcome.REFUSED and (replicas.served > served or place.replica.in_flight > 0)
        counted += not (elsewhere or busy or outcome is Outcome.LOADING)
        served = replicas.served
        wait = 0.0
        if not elsewhere:
            pause = pause_after(pause, source)
            wait = (LOADING if outcome is Outcome.LOADING else pause) + (failure.retry_after or 0.0)
        if outcome not in again or counted >= TRIES or wait >= left:
            failure.tally, failure.failed = tally, failed  # type: ignore[attr-defined]
            raise failure
        if wait:
            left -= wait
            await sleep(wait)


def pause_after(before: float, source: random.Random) -> float:
    """The next pause in seconds, by decorrelated jitter: uniform from the shortest to three times the previous one.

    The first call takes SHORTEST as `before`. Pauses grow, and clients that failed together do not retry together (M.
    Brooker, "Exponential Backoff And Jitter", 2015).
    """
    return min(LONGEST, source.uniform(SHORTEST, before * 3))
