from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from dspy import lm15

from pdr_dspy.serving.client.balancer import Replica, Replicas
from pdr_dspy.serving.client.failures import Foreign, Late, Outcome, Unreachable, judge, retry_after
from pdr_dspy.serving.client.retries import LONGEST, SHORTEST, TRIES, Tally, pause_after, persist

BROKEN = lm15.ServerError("broken", status=500)
REFUSED = lm15.RateLimitError("too many", status=429)
LOST = lm15.TransportError("lost")
DEAD = Unreachable("nobody there")


class Script:
    """A request whose tries go as told: errors are raised, other values returned."""

    def __init__(self, *steps: Any, replicas: Sequence[str] = ("http://one/v1",), seconds: float = 60.0) -> None:
        self.steps = list(steps)
        self.replicas = Replicas(replicas)
        self.seconds = seconds
        self.pauses: list[float] = []
        self.asked: list[str] = []
        self.left: list[float] = []

    def run(self) -> tuple[Any, Tally]:
        return asyncio.run(self.go())

    async def go(self) -> tuple[Any, Tally]:
        return await persist(self.replicas, self.send, seconds=self.seconds, source=random.Random(3), sleep=self.sleep)

    async def send(self, replica: Replica, left: float) -> Any:
        self.asked.append(replica.api_base)
        self.left.append(left)
        step = self.steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


# ---- what a failure means


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (REFUSED, Outcome.REFUSED),
        (lm15.ServerError("busy", status=503), Outcome.REFUSED),
        (lm15.ServerError("overloaded", status=529), Outcome.REFUSED),
        (BROKEN, Outcome.BROKEN),
        (lm15.ServerError("bad gateway", status=502), Outcome.BROKEN),
        (LOST, Outcome.BROKEN),
        (lm15.TimeoutError("gateway", status=504), Outcome.LATE),
        (lm15.TimeoutError("request", status=408), Outcome.LATE),
        (Late("silent"), Outcome.LATE),
        (DEAD, Outcome.UNREACHABLE),
        (Foreign("html"), Outcome.FOREIGN),
        (lm15.ServerError("no such thing", status=501), Outcome.SERVED),
        (lm15.InvalidRequestError("bad", status=400), Outcome.SERVED),
        (lm15.ContextLengthError("long", status=400), Outcome.SERVED),
        (lm15.AuthError("key", status=401), Outcome.SERVED),
        (lm15.BillingError("money", status=402), Outcome.SERVED),
    ],
)
def test_what_a_failure_says(error: lm15.LM15Error, outcome: Outcome):
    assert judge(error) is outcome


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 0.0), ("2.5", 2.5), ("-3", 0.0), (None, None), ("soon", None), ("nan", None), ("inf", None), ("", None)],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None):
    assert retry_after(header) == seconds


def test_retry_after_as_a_date():
    later = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=3600), usegmt=True))
    assert later is not None
    assert 3000 < later <= 3600
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Wed, 21 Oct 99999 07:28:00 GMT") is None


# ---- pauses


def test_pauses_are_decorrelated_jitter_between_50_and_200_ms():
    source = random.Random(7)
    firsts, seconds, all_of_them = [], [], []
    for _ in range(2000):
        pause = SHORTEST
        for place in range(6):
            before, pause = pause, pause_after(pause, source)
            assert SHORTEST <= pause <= min(LONGEST, 3 * before)
            all_of_them.append(pause)
            if place < 2:
                (firsts if place == 0 else seconds).append(pause)
    assert sum(firsts) / len(firsts) == pytest.approx(0.1, abs=0.003)  # uniform from 50 to 150 ms
    assert sum(seconds) > sum(firsts)
    assert max(all_of_them) == LONGEST
    assert len(set(firsts)) == len(firsts)


def test_the_servers_wish_is_added_to_the_pause():
    script = Script(lm15.RateLimitError("later", status=429, retry_after=7), "done")
    assert script.run() == ("done", Tally(tries=2))
    assert 7 + SHORTEST <= script.pauses[0] <= 7 + LONGEST


# ---- when to give up


def test_a_first_answer_is_one_try_and_no_pause():
    script = Script("done")
    assert script.run() == ("done", Tally(tries=1, unsettled=0))
    assert script.pauses == []


@pytest.mark.parametrize(
    ("failures", "unsettled"),
    [([REFUSED], 0), ([DEAD], 0), ([LOST], 1), ([BROKEN], 1), ([BROKEN, REFUSED, LOST], 2), ([Late("silent")], 1)],
)
def test_the_tally_tells_what_may_have_been_served(failures: list[Any], unsettled: int):
    result, tally = Script(*failures, "done").run()
    assert result == "done"
    assert tally == Tally(tries=len(failures) + 1, unsettled=unsettled)


@pytest.mark.parametrize("failure", [REFUSED, BROKEN, LOST, DEAD, lm15.TimeoutError("gateway", status=504)])
def test_tries_end(failure: lm15.LM15Error):
    script = Script(*[failure] * 10)
    with pytest.raises(type(failure)) as caught:
        script.run()
    assert len(script.asked) == TRIES
    assert caught.value.tally.tries == TRIES  # type: ignore[attr-defined]
    assert len(script.pauses) == TRIES - 1


@pytest.mark.parametrize(
    "failure",
    [lm15.InvalidRequestError("no", status=400), lm15.ServerError("never", status=501), Foreign("html")],
)
def test_what_cannot_be_mended_is_raised_at_once(failure: lm15.LM15Error):
    script = Script(failure)
    with pytest.raises(type(failure)) as caught:
        script.run()
    assert script.pauses == []
    assert caught.value.tally == Tally(1, int(isinstance(failure, Foreign)))  # type: ignore[attr-defined]


def test_a_server_that_asks_for_more_time_than_there_is_ends_the_request_at_once():
    script = Script(lm15.RateLimitError("tomorrow", status=429, retry_after=86400))
    with pytest.raises(lm15.RateLimitError, match="tomorrow"):
        script.run()
    assert script.pauses == []


def test_pauses_come_out_of_the_requests_time():
    script = Script(BROKEN, BROKEN, "done", seconds=10.0)
    script.run()
    assert script.left[0] == 10.0
    assert script.left[2] <= 10.0 - sum(script.pauses)


def test_a_request_refused_beside_others_of_ours_waits_for_a_place_however_often():
    async def main() -> tuple[Any, Tally]:
        replicas = Replicas(["http://one/v1"])
        await replicas.take(replicas.ticket(), 0)  # one that is being served
        script = Script(*[REFUSED] * 2, "done")
        script.replicas = replicas
        script.steps[:0] = [BROKEN] * 3
        return await script.go()

    assert asyncio.run(main())[1] == Tally(tries=6, unsettled=3)


def test_a_replica_that_cannot_be_reached_costs_no_try_and_no_pause():
    addresses = [f"http://{name}/v1" for name in "abcdef"]
    script = Script(*[DEAD] * 5, "done", replicas=addresses)
    assert script.run() == ("done", Tally(tries=6))
    assert sorted(script.asked) == addresses
    assert script.pauses == []


def test_when_no_replica_can_be_reached_the_request_fails():
    script = Script(*[DEAD] * 20, replicas=["http://a/v1", "http://b/v1"])
    with pytest.raises(Unreachable):
        script.run()
    assert len(script.asked) <= TRIES + 1


def test_a_try_after_a_failure_goes_elsewhere():
    script = Script(BROKEN, LOST, "done", replicas=["http://a/v1", "http://b/v1", "http://c/v1"])
    script.run()
    assert len(set(script.asked)) == 3


def test_a_cancelled_request_gives_its_place_back():
    replicas = Replicas(["http://one/v1"], bound=1)

    async def never(replica: Replica, left: float) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        call = persist(replicas, never, seconds=9.0, source=random.Random(), sleep=asyncio.sleep)
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        assert replicas.all[0].in_flight == 1
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert replicas.all[0].in_flight == 0
        await asyncio.wait_for(replicas.take(replicas.ticket(), 0), 10)

    asyncio.run(main())
