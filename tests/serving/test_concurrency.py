from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from dspy import lm15

from pdr_dspy.serving.client.balancer import Replica, Replicas
from pdr_dspy.serving.client.concurrency import Pace
from pdr_dspy.serving.client.retries import persist


@dataclass
class Course:
    """What became of many requests to a server of a given width, without a network and without time."""

    width: Callable[[int], float]
    """How many requests the server takes at once, by how many it has served."""
    random_refusals: float = 0.0
    busy: int = 0
    peak: int = 0
    sent: int = 0
    served: int = 0
    limits: list[float] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def run(self, requests: int) -> Course:
        asyncio.run(self._run(requests))
        return self

    async def _run(self, requests: int) -> None:
        replicas, jitter, luck = Replicas(["http://server/v1"]), random.Random(1), random.Random(2)

        async def send(replica: Replica, left: float) -> None:
            self.sent += 1
            if self.busy >= self.width(self.served) or luck.random() < self.random_refusals:
                await asyncio.sleep(0)
                raise lm15.RateLimitError("too many", status=429)
            self.busy += 1
            self.peak = max(self.peak, self.busy)
            for _ in range(luck.randint(5, 30)):
                await asyncio.sleep(0)
            self.busy -= 1
            self.served += 1
            self.limits.append(replica.pace.limit)

        async def pause(seconds: float) -> None:
            for _ in range(int(seconds * 100)):
                await asyncio.sleep(0)

        calls = (persist(replicas, send, seconds=600.0, source=jitter, sleep=pause) for _ in range(requests))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        self.errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert replicas.all[0].in_flight == 0


def test_nothing_is_limited_until_a_server_refuses():
    course = Course(lambda served: math.inf).run(500)
    assert course.peak == course.sent == 500
    assert set(course.limits) == {math.inf}


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3, 32, 150])
def test_a_burst_settles_on_the_width_of_the_server_and_every_request_is_served(width: int):
    course = Course(lambda served: width).run(1000)
    assert not course.errors
    assert course.served == 1000
    assert course.peak == width  # the server was never idle while requests waited
    later = course.limits[200:]
    assert width <= min(later)
    assert max(later) <= width + 2 + width / 8
    # Each request of the burst was refused once; looking for more room costs little.
    assert course.sent <= 1000 + 1000 + 250


@pytest.mark.slow
def test_a_server_that_grows_is_found_again():
    course = Course(lambda served: 16 if served < 500 else 64).run(2500)
    assert not course.errors
    assert course.peak == 64
    assert 16 <= course.limits[400] < 20
    assert course.limits[1500] >= 60


@pytest.mark.slow
def test_a_server_that_shrinks_is_followed():
    course = Course(lambda served: 64 if served < 500 else 8).run(1500)
    assert not course.errors
    assert course.limits[450] >= 60
    assert 8 <= course.limits[1200] <= 11


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.slow
def test_refusals_at_random_hardly_narrow_the_width(share: float):
    course = Course(lambda served: math.inf, random_refusals=share).run(1000)
    assert not course.errors
    assert course.peak >= 700
    assert min(course.limits) >= 600


def test_one_refusal_in_a_small_burst_is_no_limit():
    course = Course(lambda served: 7).run(8)
    assert set(course.limits) == {math.inf}
    assert course.sent == 9


def test_time_outs_of_one_burst_halve_the_width_once():
    pace = Pace()
    sent = [pace.begin() for _ in range(64)]
    for each in sent:
        pace.late(each)
    assert 16 <= pace.limit <= 32
    assert pace.in_flight == 0


def test_time_outs_never_narrow_below_what_was_served_side_by_side():
    pace = Pace()
    sent = [pace.begin() for _ in range(64)]
    for each in sent[:40]:
        pace.served(each)
    for each in sent[40:]:
        pace.late(each)
    assert pace.limit >= 40


def test_one_request_may_always_be_sent():
    pace = Pace()
    for _ in range(100):
        pace.refused(pace.begin())
    assert pace.limit == 1
    assert pace.room
    pace.begin()
    assert not pace.room


def test_an_unused_limit_does_not_grow():
    pace = Pace()
    sent = [pace.begin() for _ in range(100)]
    for each in reversed(sent[20:]):
        pace.refused(each)
    assert pace.limit == 20
    for each in sent[:20]:
        pace.end(each)
    for _ in range(1000):
        pace.served(pace.begin())
    assert pace.limit == 20
