"""Functions that may be registered as a distiller: the async ones."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import PDR
from pdr_dspy.operators.distillers import DISTILLERS, Distilled, DistillerInput, distiller
from tests.support.checks import QA, SMALL, ask, says

NAME = "own-for-a-test"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    DISTILLERS.remove(NAME)


async def first(given: DistillerInput) -> Distilled:
    return Distilled((await given.admit(given.drafts[:1]),) * given.next_width)


def plain(given: DistillerInput) -> Any:
    return Distilled(())


async def generator(given: DistillerInput) -> AsyncIterator[Any]:
    yield Distilled(())


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(given: DistillerInput) -> Any:
        return function(given)

    return inner


class AsyncCallable:
    async def __call__(self, given: DistillerInput) -> Distilled:
        return await first(given)

    async def method(self, given: DistillerInput) -> Distilled:
        return await first(given)


class PlainCallable:
    def __call__(self, given: DistillerInput) -> Any:
        return plain(given)

    def method(self, given: DistillerInput) -> Any:
        return plain(given)


async def with_option(option: int, given: DistillerInput) -> Distilled:
    return await first(given)


@pytest.mark.parametrize(
    "run",
    [plain, lambda given: plain(given), functools.partial(plain), logged(plain), PlainCallable(),
     PlainCallable().method, generator, PlainCallable],
    ids=["function", "lambda", "partial", "decorated", "object", "method", "generator", "class"],
)  # fmt: skip
def test_what_is_not_async_is_refused_at_registration(run: Any) -> None:
    with pytest.raises(ConfigError, match=rf"`Distiller\(name='{NAME}', run=.*\)`.*must be an async.*`async def "):
        distiller(NAME)(run)
    assert NAME not in DISTILLERS


def test_the_remedy_names_the_function() -> None:
    with pytest.raises(ConfigError, match=r"`async def plain\(given\)`"):
        distiller(NAME)(plain)


@pytest.mark.parametrize(
    "run",
    [first, functools.partial(with_option, 1), logged(first), AsyncCallable(), AsyncCallable().method],
    ids=["function", "partial", "decorated", "object", "method"],
)
def test_every_form_of_an_async_function_works(run: Any) -> None:
    distiller(NAME)(run)
    program = PDR(QA, widths=(2, 1), distiller=NAME, **SMALL)
    assert ask(program, says("a", "b")).answer == "z"


def test_what_turns_out_not_to_be_async_is_named_at_the_call() -> None:
    @functools.wraps(first)
    def lost(given: DistillerInput) -> Any:
        return Distilled(())

    distiller(NAME)(lost)
    with pytest.raises(ConfigError, match=r"must be an async function; define it with `async def first\(given\)`"):
        ask(PDR(QA, widths=(2, 1), distiller=NAME, **SMALL), says("a", "b"))
