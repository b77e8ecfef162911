"""Whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pdr_dspy.endpoint.admission import Admission
from pdr_dspy.endpoint.errors import Refused
from pdr_dspy.endpoint.limits import Limits
from pdr_dspy.errors import ConfigError


async def turns(admission: Admission, asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """Who was served in which order, one after the other, and who was turned away, when they ask in this order."""
    served: list[str] = []
    refused: list[str] = []

    async def one(client: str) -> None:
        try:
            async with admission.place(client):
                served.append(client)
                await asyncio.sleep(0)
        except Refused:
            refused.append(client)

    async with asyncio.TaskGroup() as group:
        for client in asked:
            group.create_task(one(client))
            await asyncio.sleep(0)
    assert (admission.running, admission.queued, admission.by_client) == (0, 0, {})
    return served, refused


@pytest.mark.parametrize(
    ("running", "queued", "asked", "served", "refused"),
    [
        (1, 9, "aaaabc", "aabcaa", ""),  # the first has its place already
        (1, 9, "aaabbb", "aababb", ""),
        (1, 2, "aaa", "aaa", ""),
        (1, 0, "aab", "a", "ab"),
        (1, 2, "aaaa", "aaa", "a"),
        (1, 2, "aaab", "aab", "a"),  # the newest of who has most gives way
        (1, 2, "aabb", "aab", "b"),  # with as many as the other nobody gives way
    ],
)
def test_a_free_place_goes_to_the_client_with_fewest(
    running: int, queued: int, asked: str, served: str, refused: str
) -> None:
    held = asyncio.run(_held(Admission(running, queued), asked))
    assert ("".join(sorted(held[0])), "".join(sorted(held[1]))) == ("".join(sorted(served)), "".join(sorted(refused)))


async def _held(admission: Admission, asked: str) -> tuple[list[str], list[str]]:
    """As `turns`, but nobody gives his place back before all have asked."""
    all_asked = asyncio.Event()
    served: list[str] = []
    refused: list[str] = []
    told: list[tuple[int, int]] = []

    async def one(client: str) -> None:
        try:
            async with admission.place(client):
                served.append(client)
                await all_asked.wait()
        except Refused as refusal:
            refused.append(client)
            told.append((refusal.status, int(refusal.headers["Retry-After"])))

    async with asyncio.TaskGroup() as group:
        for client in asked:
            group.create_task(one(client))
            for _ in range(5):
                await asyncio.sleep(0)
        all_asked.set()
    assert all(status == 429 and seconds >= 1 for status, seconds in told)
    assert (admission.running, admission.queued, admission.by_client) == (0, 0, {})
    return served, refused


def test_clients_take_turns() -> None:
    async def order() -> list[str]:
        admission, gate = Admission(1, 99), asyncio.Event()
        served: list[str] = []

        async def one(client: str) -> None:
            async with admission.place(client):
                await gate.wait()
                served.append(client)

        async with asyncio.TaskGroup() as group:
            for client in "aaaabbc":
                group.create_task(one(client))
                await asyncio.sleep(0)
            gate.set()
        return served

    assert "".join(asyncio.run(order())) == "aabcaba"


def test_of_two_places_nobody_gets_both_while_another_waits() -> None:
    async def most() -> int:
        admission = Admission(2, 99)
        together = 0

        async def one(client: str) -> None:
            nonlocal together
            async with admission.place(client):
                if admission.waiting.get("b"):
                    together = max(together, admission.by_client.get("a", 0))
                for _ in range(3):
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for client in "ab" * 2 + "aaaaaabbbbbb":
                group.create_task(one(client))
                await asyncio.sleep(0)
        return together

    assert asyncio.run(most()) == 1


def test_who_is_cancelled_at_the_moment_of_his_turn_gives_it_back() -> None:
    async def check() -> None:
        admission, gate = Admission(1, 9), asyncio.Event()

        async def one() -> None:
            async with admission.place("a"):
                await gate.wait()

        first, second = asyncio.create_task(one()), asyncio.create_task(one())
        for _ in range(3):
            await asyncio.sleep(0)
        gate.set()
        while admission.queued:  # noqa: ASYNC110  (it has no event)
            await asyncio.sleep(0)
        second.cancel()  # its turn was given, and it has not run since
        await asyncio.gather(first, second, return_exceptions=True)
        assert (admission.running, admission.by_client) == (0, {})
        async with asyncio.timeout(5), admission.place("b"):
            assert admission.running == 1

    asyncio.run(check())


def test_a_free_server_serves_at_once() -> None:
    served, refused = asyncio.run(turns(Admission(1, 0), "a"))
    assert (served, refused) == (["a"], [])


def test_every_change_is_reported() -> None:
    async def seen() -> list[tuple[int, int]]:
        admission, gate = Admission(1, 9), asyncio.Event()
        told: list[tuple[int, int]] = []
        admission.changed = lambda changed: told.append((changed.running, changed.queued))

        async def one(client: str) -> None:
            async with admission.place(client):
                await gate.wait()

        first, second, gone = (asyncio.create_task(one(client)) for client in "abc")
        for _ in range(3):
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert told[-1] == (1, 1)
        gate.set()
        await asyncio.gather(first, second)
        return told

    told = asyncio.run(seen())
    assert told[:4] == [(1, 0), (1, 1), (1, 2), (1, 1)]
    assert told[-1] == (0, 0)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_share_out_the_limits(workers: int) -> None:
    whole = Limits(running=16, queued=5, in_flight=9, connections=100, budget_total=50)
    parts = [whole.share(number, workers) for number in range(workers)]
    for name in ("running", "queued", "in_flight", "connections"):
        values = [getattr(part, name) for part in parts]
        assert sum(values) == getattr(whole, name)
        assert max(values) - min(values) <= 1
    assert {part.budget_total for part in parts} == {50}
    assert Limits().share(0, workers).in_flight is None


def test_each_worker_has_a_place() -> None:
    with pytest.raises(ConfigError, match="`running=2` is less than one for each of 3 workers"):
        Limits(running=2).share(0, 3)
    assert [Limits(queued=0).share(number, 2).queued for number in range(2)] == [0, 0]
