from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy.serving.client import balancer
from pdr_dspy.serving.client.balancer import IN_A_ROW, LEAN, LONGEST_REST, REST, Place, Replicas
from pdr_dspy.serving.client.failures import Outcome

ADDRESSES = ["http://a/v1", "http://b/v1", "http://c/v1"]


class Clock:
    """Stands in for the time module."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(balancer, "time", clock)
    return clock


def take(replicas: Replicas, prefix: int = 0, failed: Any = ()) -> Place:
    """A place that is there now."""
    return asyncio.run(asyncio.wait_for(replicas.take(replicas.ticket(), prefix, failed), 10))


def address(place: Place) -> str:
    return place.replica.api_base


def put_to_rest(replicas: Replicas, place: Place) -> None:
    replicas.give(place, Outcome.UNREACHABLE)


def test_requests_spread_evenly():
    replicas = Replicas(ADDRESSES)
    for prefix in range(300):
        take(replicas, prefix)
    assert {replica.in_flight for replica in replicas.all} == {100}


def test_requests_that_begin_alike_stay_together_until_their_replica_is_much_busier():
    replicas = Replicas(ADDRESSES)
    together = [take(replicas, 7) for _ in range(LEAN)]
    assert len({address(place) for place in together}) == 1
    for _ in range(200):
        take(replicas, 7)
    loads = sorted(replica.in_flight for replica in replicas.all)
    assert loads[0] >= 50
    assert loads[-1] <= 1.25 * loads[0] + LEAN + 1


def test_a_replica_that_cannot_be_reached_is_left_out_and_tried_again_with_one_request(clock: Clock):
    replicas = Replicas(ADDRESSES)
    dead = take(replicas)
    put_to_rest(replicas, dead)
    assert address(dead) not in {address(take(replicas, prefix)) for prefix in range(30)}
    clock.now += REST
    later = [take(replicas, prefix) for prefix in range(30)]
    tried = [place for place in later if place.replica is dead.replica]
    assert len(tried) == 1
    replicas.give(tried[0], Outcome.SERVED)
    assert Counter(address(take(replicas, prefix)) for prefix in range(30))[address(dead)] > 1


def test_each_rest_is_twice_as_long_as_the_one_before(clock: Clock):
    replicas = Replicas(ADDRESSES[:2])
    bad = replicas.all[0]
    for turn in range(8):
        place = next(place for place in (take(replicas, prefix) for prefix in range(50)) if place.replica is bad)
        put_to_rest(replicas, place)
        assert bad.rest == min(LONGEST_REST, REST * 2**turn)
        clock.now = bad.until
        for each in replicas.all:
            each.pace.in_flight = 0


@pytest.mark.parametrize("outcome", [Outcome.BROKEN, Outcome.LATE])
def test_a_replica_that_fails_again_and_again_is_left_out(outcome: Outcome):
    replicas = Replicas(ADDRESSES[:2])
    places = [take(replicas, 0) for _ in range(IN_A_ROW)]
    (bad,) = {place.replica for place in places}
    for place in places[:-1]:
        replicas.give(place, outcome)
    assert take(replicas, 0).replica is bad
    replicas.give(places[-1], outcome)
    assert take(replicas, 0).replica is not bad


def test_failures_between_answers_leave_no_replica_out():
    replicas = Replicas(ADDRESSES[:2])
    for _ in range(10):
        for outcome in (Outcome.BROKEN, Outcome.BROKEN, Outcome.SERVED):
            replicas.give(take(replicas, 0), outcome)
    assert not any(replica.rest for replica in replicas.all)


def test_a_single_server_is_never_left_out():
    replicas = Replicas(ADDRESSES[:1])
    for _ in range(20):
        put_to_rest(replicas, take(replicas))
    assert not replicas.others(set())


def test_when_all_rest_all_are_asked():
    replicas = Replicas(ADDRESSES)
    for _ in range(6):
        put_to_rest(replicas, take(replicas))
    assert replicas.others(set())
    assert {address(take(replicas, prefix)) for prefix in range(9)} == set(ADDRESSES)


def test_a_narrow_replica_leaves_the_rest_to_the_others():
    replicas = Replicas(ADDRESSES[:2])
    places = [take(replicas, prefix) for prefix in range(40)]
    narrow = replicas.all[0]
    for place in places:
        if place.replica is narrow and narrow.in_flight > 4:
            replicas.give(place, Outcome.REFUSED)
    assert narrow.pace.limit == 4
    for prefix in range(100):
        take(replicas, prefix)
    assert [replica.in_flight for replica in replicas.all] == [4, 120]


def test_the_bound_is_over_all_replicas_and_the_queue_goes_by_age():
    async def main() -> list[str]:
        replicas = Replicas(ADDRESSES, bound=2)
        order: list[str] = []
        early = replicas.ticket()
        places = [await replicas.take(replicas.ticket(), 0) for _ in range(2)]

        async def wait(name: str, ticket: int) -> None:
            place = await replicas.take(ticket, 0)
            order.append(name)
            replicas.give(place, Outcome.SERVED)

        tasks = [asyncio.ensure_future(wait(name, replicas.ticket())) for name in ("second", "third")]
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(wait("first", early)))
        await asyncio.sleep(0)
        assert order == []
        replicas.give(places[0], Outcome.REFUSED)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(main()) == ["first", "second", "third"]


def test_a_place_that_is_given_to_one_who_has_just_left_is_passed_on():
    async def main() -> None:
        replicas = Replicas(ADDRESSES[:1], bound=1)
        place = await replicas.take(replicas.ticket(), 0)
        gone, stays = (asyncio.ensure_future(replicas.take(replicas.ticket(), 0)) for _ in range(2))
        await asyncio.sleep(0)
        replicas.give(place, Outcome.SERVED)  # to the first, which is cancelled before it can see it
        gone.cancel()
        await asyncio.wait_for(stays, 10)
        assert gone.cancelled()
        assert replicas.all[0].in_flight == 1

    asyncio.run(main())


outcomes = st.sampled_from(list(Outcome))


@pytest.mark.slow
@given(
    st.lists(st.tuples(outcomes, st.integers(0, 3), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(1, 4)),
)
def test_whatever_happens_everyone_gets_a_place_and_gives_it_back(
    plan: list[tuple[Outcome, int, bool]], count: int, bound: int | None
):
    async def main() -> None:
        replicas = Replicas(ADDRESSES[:count], bound)
        most = 0

        async def one(outcome: Outcome, steps: int) -> None:
            nonlocal most
            place = await replicas.take(replicas.ticket(), steps)
            most = max(most, sum(replica.in_flight for replica in replicas.all))
            try:
                for _ in range(steps):
                    await asyncio.sleep(0)
            finally:
                replicas.give(place, outcome)

        tasks = [(asyncio.ensure_future(one(outcome, steps)), leaves) for outcome, steps, leaves in plan]
        await asyncio.sleep(0)
        for task, leaves in tasks:
            if leaves:
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*(task for task, _ in tasks), return_exceptions=True), 60)
        assert all(replica.in_flight == 0 for replica in replicas.all)
        assert bound is None or most <= bound
        place = await asyncio.wait_for(replicas.take(replicas.ticket(), 0), 60)
        replicas.give(place, Outcome.SERVED)

    asyncio.run(main())


def test_the_clock_is_the_monotonic_one():
    before = time.monotonic()
    replicas = Replicas(ADDRESSES[:2])
    put_to_rest(replicas, take(replicas))
    assert max(replica.until for replica in replicas.all) >= before + REST


def test_servers_of_this_machine_take_all_until_they_are_full_or_fail(clock: Clock) -> None:
    replicas = Replicas(ADDRESSES, near={"b", "elsewhere"})
    places = [take(replicas, prefix) for prefix in range(100)]
    assert {address(place) for place in places} == {"http://b/v1"}
    assert address(take(replicas, 0, {places[0].replica})) != "http://b/v1"
    put_to_rest(replicas, places.pop())
    assert {address(take(replicas, prefix)) for prefix in range(100)} == {"http://a/v1", "http://c/v1"}


def test_near_servers_share_as_all_do() -> None:
    replicas = Replicas(ADDRESSES, near={"a", "c"})
    taken = Counter(address(take(replicas, prefix)) for prefix in range(100))
    assert taken == {"http://a/v1": 50, "http://c/v1": 50}
    assert len({address(take(replicas, 7)) for _ in range(LEAN)}) == 1


def test_where_none_is_near_all_are_asked() -> None:
    replicas = Replicas(ADDRESSES, near={"elsewhere"})
    assert len({address(take(replicas, prefix)) for prefix in range(30)}) == 3
