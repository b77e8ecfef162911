"""Connections: shared by copies, separate for each event loop, one for each open request, and closed in the end."""

from __future__ import annotations

import asyncio
import copy
import gc
import signal
import threading
import time
from collections.abc import Iterator

import dspy
import pytest
from anyio.from_thread import start_blocking_portal

from pdr_dspy.serving import EndpointLM, connect
from tests.support.mock_server import MockServer
from tests.support.sending import request, send, until


def test_a_cancelled_call_closes_its_connection():
    async def main(lm: EndpointLM) -> None:
        task = asyncio.ensure_future(lm.acall(request(lm)))
        await until(lambda: server.in_flight == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: server.aborts == 1)

    with MockServer() as server:
        server.faults = ["hang"]
        asyncio.run(main(connect("mock", server.api_base)))
        assert server.in_flight == 0
        assert len(server.requests) == 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard also where the tests were started in the background, with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_synchronous_call_and_closes_its_connection():
    with MockServer() as server:
        server.faults = ["hang"]
        lm = connect("mock", server.api_base)

        def interrupt() -> None:
            asyncio.run(until(lambda: server.in_flight == 1))
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            lm("hello")
        thread.join()
        asyncio.run(until(lambda: server.aborts == 1))
        lm.close()


def test_predict_works_from_sync_async_and_many_loops():
    reply = "[[ ## answer ## ]]\nblue\n\n[[ ## completed ## ]]"
    with MockServer(lambda body, seed: reply) as server, dspy.context(lm=connect("mock", server.api_base)):
        program = dspy.Predict("question -> answer")
        assert program(question="sky?").answer == "blue"
        for _ in range(3):
            assert asyncio.run(program.acall(question="sky?")).answer == "blue"

        async def sync_inside_a_loop() -> str:
            return program(question="sky?").answer

        assert asyncio.run(sync_inside_a_loop()) == "blue"
        assert len(server.requests) == 5


def test_more_than_a_hundred_requests_are_in_flight_at_once():
    with MockServer() as server:
        server.hold_until = 150
        lm = connect("mock", server.api_base, timeout=60)
        send(lm, *(request(lm, seed=seed) for seed in range(150)))
        assert server.peak == 150


def test_max_in_flight_bounds_the_open_requests():
    with MockServer() as server:
        lm = connect("mock", server.api_base, max_in_flight=3)
        send(lm, *(request(lm, seed=seed) for seed in range(20)))
        assert len(server.requests) == 20
        assert server.peak <= 3


def test_copies_share_connections_and_keep_their_own_sampling():
    with MockServer() as server:
        lm = connect("mock", server.api_base, temperature=0.5)
        warm = lm.copy(temperature=1.5)
        deep = copy.deepcopy(lm)
        for each in (lm, warm, deep):
            each("x")
        assert [body["temperature"] for body in server.requests] == [0.5, 1.5, 0.5]
        assert warm.engine is lm.engine is deep.engine
        assert deep.capabilities_sync() == lm.capabilities_sync()
        lm.close()


@pytest.mark.slow
def test_connections_of_a_forgotten_lm_close_though_its_loop_runs_on():
    with MockServer() as server, start_blocking_portal() as portal:
        lm = connect("mock", server.api_base)
        portal.call(lm.send_directly, request(lm))
        assert server.connections == 1
        del lm
        ended = time.monotonic() + 3  # an idle connection is given up after 4 in any case
        while server.connections and time.monotonic() < ended:
            gc.collect()
            time.sleep(0.005)
        assert server.connections == 0
