from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import dspy
import pytest

from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.runtime import event_loop
from pdr_dspy.testing import ScriptedRequest
from tests.support.solver import engine, wait


def test_a_program_can_be_called_inside_a_running_loop() -> None:
    async def notebook() -> dspy.Prediction:
        with dspy.context(lm=engine()):
            return LongCoT("question -> answer")(question="q")

    assert wait(notebook()).answer is not None


def test_a_program_called_synchronously_on_the_loop_of_calls_raises() -> None:
    class Bad(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = LongCoT("question -> answer")

        async def aforward(self, question: str) -> dspy.Prediction:
            return self.inner(question=question)

    with dspy.context(lm=engine()), pytest.raises(RuntimeError, match=r"await program\.acall"):
        event_loop.run(lambda: Bad().acall(question="q"))


def test_errors_come_through_as_they_are() -> None:
    def down(request: ScriptedRequest) -> str:
        raise dspy.lm15.ServerError("down")

    with (
        dspy.context(lm=engine(down)),
        pytest.raises(RoundFailed, match=r"all 2 drafts of round 1 failed.*down") as failed,
    ):
        PDR("question -> answer", widths=(2, 1))(question="q")
    assert len(failed.value.ledger) == 2


def test_an_interrupt_cancels_what_runs(monkeypatch: Any) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    result = Future.result

    def interrupted(self: Future, timeout: float | None = None) -> Any:
        monkeypatch.setattr(Future, "result", result)  # only the first wait, which is the caller's
        assert started.wait(30)
        raise KeyboardInterrupt

    event_loop.run(lambda: asyncio.sleep(0))  # the loop is up
    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        event_loop.run(endless)
    assert cancelled.wait(30)


async def _raises(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def _in_a_task(error: BaseException) -> None:
    await asyncio.create_task(_raises(error))


async def _in_a_group(error: BaseException) -> None:
    await asyncio.gather(asyncio.Event().wait(), _raises(error))


async def _in_a_thread(error: BaseException) -> None:
    def stop() -> None:
        raise error

    await asyncio.to_thread(stop)


@pytest.mark.parametrize("function", [_raises, _in_a_task, _in_a_group, _in_a_thread])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_an_exit_on_the_loop_is_raised_by_its_caller_and_ends_nothing_else(
    function: Callable[[BaseException], Awaitable[None]], error: BaseException
) -> None:
    begun, done = threading.Event(), threading.Event()
    finished: list[str] = []

    async def other() -> str:
        begun.set()
        await asyncio.to_thread(done.wait, 30)
        return "finished"

    beside = threading.Thread(target=lambda: finished.append(event_loop.run(other)))
    beside.start()
    assert begun.wait(30)
    with pytest.raises(type(error)) as caught:
        event_loop.run(lambda: function(error))
    assert caught.value is error
    done.set()
    beside.join(30)
    assert finished == ["finished"]


def test_a_loop_that_was_stopped_is_replaced() -> None:
    async def which() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def stops() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.Event().wait()

    stopped = event_loop.run(which)
    with pytest.raises(CancelledError):
        event_loop.run(stops)
    fresh = event_loop.run(which)
    assert fresh is not stopped
    assert event_loop.run(which) is fresh
    with dspy.context(lm=engine()):
        assert LongCoT("question -> answer")(question="q").answer is not None
