"""Exceptions of a user's part that would end more than the part: they become errors of the part."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime.raised_by import contained, in_words, raised_by
from tests.support.solver import wait


class Stopping(BaseException):
    """An exception of a user that is no `Exception`."""


@pytest.mark.parametrize("block", [contained, raised_by])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(3), "the part raised SystemExit: 3"),
        (SystemExit(), "the part raised SystemExit"),
        (SystemExit("no data"), "the part raised SystemExit: no data"),
        (Stopping("here"), "the part raised Stopping: here"),
        (BaseExceptionGroup("two", [SystemExit(1)]), "the part raised BaseExceptionGroup: two (1 sub-exception)"),
        (StopIteration(), "the part raised StopIteration"),
        (asyncio.CancelledError(), "the part raised CancelledError"),
    ],
    ids=repr,
)
def test_an_exception_that_would_end_more_than_the_part_is_its_error(
    block: type[contained], error: BaseException, said: str
) -> None:
    with pytest.raises(RuntimeError) as caught, block("the part"):
        raise error
    assert in_words(caught.value) == f"RuntimeError: {said}"
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("block", [contained, raised_by])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), ValueError("x"), ConfigError("y")], ids=repr)
def test_other_exceptions_pass(block: type[contained], error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, block("the part"):
        raise error
    assert caught.value is error


def test_the_innermost_part_is_named() -> None:
    def in_parts(error: BaseException) -> str:
        with pytest.raises(Exception) as caught, raised_by("the outer"), raised_by("the inner"):  # noqa: PT011
            raise error
        return in_words(caught.value)

    assert in_parts(ValueError("x")) == "ValueError: x (raised by the inner)"
    assert in_parts(SystemExit(1)).startswith("RuntimeError: the inner raised SystemExit: 1")


async def _cancels_itself(in_thread: bool) -> None:
    def stop() -> None:
        raise asyncio.CancelledError

    with contained("the part"):
        await asyncio.to_thread(stop) if in_thread else stop()


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_cancellation_that_nobody_asked_for_is_the_parts_error(in_thread: bool) -> None:
    with pytest.raises(RuntimeError, match="the part raised CancelledError"):
        wait(_cancels_itself(in_thread))


def test_a_real_cancellation_passes() -> None:
    async def cancelled() -> Any:
        begun = asyncio.Event()

        async def part() -> None:
            with contained("the part"):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(part())
        await begun.wait()
        task.cancel()
        return await asyncio.gather(task, return_exceptions=True)

    (found,) = wait(cancelled())
    assert isinstance(found, asyncio.CancelledError)
