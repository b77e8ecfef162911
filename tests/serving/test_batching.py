"""Which requests share one: consecutive seeds of one group, and nobody waits for members that left or never came."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pdr_dspy.serving import EndpointLM, connect
from pdr_dspy.serving.client import batching
from pdr_dspy.serving.client.batching import Gatherer
from pdr_dspy.serving.client.encode import Wire
from tests.support.mock_server import MockServer
from tests.support.sending import send, sibling, until


def test_only_runs_of_consecutive_seeds_share_a_request():
    with MockServer(kind="vllm") as server:
        lm = connect("mock", server.api_base, siblings=True)
        seeds = (7, 3, 20, 8, 4)
        responses = send(lm, *(sibling(lm, seed, 5) for seed in seeds))
        assert [response.text for response in responses] == [f"text {seed}" for seed in seeds]
        assert sorted((body["seed"], body.get("n", 1)) for body in server.requests) == [(3, 2), (7, 2), (20, 1)]


def test_requests_that_differ_in_more_than_the_seed_never_share():
    with MockServer(kind="vllm") as server:
        lm = connect("mock", server.api_base, siblings=True)
        send(lm, sibling(lm, 1, 2, temperature=0.1), sibling(lm, 2, 2, temperature=0.9))
        assert sorted(body["temperature"] for body in server.requests) == [0.1, 0.9]


def test_a_group_wider_than_the_server_is_sent_in_parts():
    with MockServer(kind="llama.cpp") as server:
        lm = connect("mock", server.api_base, siblings=True, max_siblings=2)
        responses = send(lm, *(sibling(lm, seed, 5) for seed in range(5)))
        assert [response.text for response in responses] == [f"text {seed}" for seed in range(5)]
        assert sorted(body.get("n", 1) for body in server.requests) == [1, 2, 2]


def test_members_that_never_come_are_not_waited_for_forever():
    with MockServer(kind="llama.cpp") as server:
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 8) for seed in (0, 1)))
        assert [response.text for response in responses] == ["text 0", "text 1"]
        assert [body["n"] for body in server.requests] == [2]


def test_a_cancelled_member_does_not_hold_the_others():
    sent: list[list[int | None]] = []

    async def post(wires: list[Wire]) -> list[str]:
        sent.append([wire.seed for wire in wires])
        return [f"text {wire.seed}" for wire in wires]

    async def main() -> list[Any]:
        gatherer = Gatherer(post)
        tasks = [asyncio.ensure_future(gatherer.submit(Wire({"seed": seed}, "g", 4))) for seed in (0, 1, 3)]
        await asyncio.sleep(0)  # all three wait now
        tasks[2].cancel()
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(gatherer.submit(Wire({"seed": 2}, "g", 4))))
        return await asyncio.gather(*tasks, return_exceptions=True)

    one, two, cancelled, three = asyncio.run(main())
    assert [one, two, three] == ["text 0", "text 1", "text 2"]
    assert isinstance(cancelled, asyncio.CancelledError)
    assert sent == [[0, 1, 2]]


def test_a_group_that_everyone_left_is_given_up():
    gone = asyncio.Event()

    async def post(wires: list[Wire]) -> list[str]:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        return []

    async def main() -> None:
        gatherer = Gatherer(post)
        tasks = [asyncio.ensure_future(gatherer.submit(Wire({"seed": seed}, "g", 2))) for seed in (0, 1)]
        for _ in range(3):
            await asyncio.sleep(0)  # sent, and waiting for the answer
        for task in tasks:
            task.cancel()
        await asyncio.wait_for(gone.wait(), 30)

    asyncio.run(main())


def test_groups_of_one_name_in_two_loops_stay_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "PATIENCE", 600.0)
    sent: list[list[int | None]] = []

    async def post(wires: list[Wire]) -> list[int | None]:
        sent.append([wire.seed for wire in wires])
        return sent[-1]

    gatherer = Gatherer(post)

    async def submit(*seeds: int) -> list[asyncio.Task[Any]]:
        tasks = [asyncio.ensure_future(gatherer.submit(Wire({"seed": seed}, "g", 2))) for seed in seeds]
        await asyncio.sleep(0)  # all wait now
        return tasks

    async def finish(*tasks: asyncio.Task[Any]) -> list[Any]:
        return await asyncio.gather(*tasks)

    with asyncio.Runner() as one, asyncio.Runner() as two:
        (early,) = one.run(submit(0))
        assert two.run(finish(*two.run(submit(1, 2)))) == [1, 2]
        assert one.run(finish(early, *one.run(submit(1)))) == [0, 1]
    assert sent == [[1, 2], [0, 1]]


@pytest.mark.parametrize("leaving", [2, 3])
def test_a_group_is_given_up_when_all_of_it_are(leaving: int):
    async def main(lm: EndpointLM) -> list[Any]:
        tasks = [asyncio.ensure_future(lm.acall(sibling(lm, seed, 3))) for seed in range(3)]
        await until(lambda: server.in_flight == 1)
        for task in tasks[:leaving]:
            task.cancel()
        if leaving < 3:
            server.release()
        else:
            await until(lambda: server.aborts == 1)
        return await asyncio.gather(*tasks, return_exceptions=True)

    with MockServer(kind="vllm") as server:
        server.hold_until = 99
        results = asyncio.run(main(connect("mock", server.api_base, siblings=True)))
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, True, leaving == 3]
        assert server.aborts == (leaving == 3)
        assert len(server.requests) == 1
