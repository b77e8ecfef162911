"""The library's own parts keep the laws, and the kits catch parts that do not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from pdr_dspy import Distilled, DistillerInput, Workspace, distiller
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.testing.conformance import check_distiller


@pytest.fixture
def named() -> Iterator[str]:
    """A name for a distiller of a test's own, free again afterwards."""
    yield "of_a_test"
    DISTILLERS.remove("of_a_test")


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTILLERS.names())
def test_the_librarys_distillers_pass_conformance(name: str) -> None:
    check_distiller(name)
    check_distiller(DISTILLERS.find(name))


def test_a_distiller_of_somebodys_own_keeps_them(named: str) -> None:
    @distiller(named, role="distill", calls=lambda next_width: 1 + next_width)
    async def careful(given: DistillerInput) -> Distilled:
        """A note for each draft, and one more that is thrown away."""
        shown = await given.shown(given.shuffled("careful"))
        replies = await given.ask([{"candidates": shown}] * (1 + given.next_width))
        made = [await given.workspace([reply.text], given.drafts, keep="start") for reply in replies[1:]]
        return Distilled(tuple(made))

    check_distiller(careful)
    assert careful.description == "A note for each draft, and one more that is thrown away"


async def _forgets(given: DistillerInput) -> Distilled:
    return Distilled((await given.admit(given.drafts),))


async def _is_too_long(given: DistillerInput) -> Distilled:
    text = "\n".join(draft.solution for draft in given.drafts)
    return Distilled((Workspace(text=text, tokens=1),) * given.next_width)


async def _counts_wrong(given: DistillerInput) -> Distilled:
    made = await given.admit(given.drafts[:1])
    return Distilled((made.model_copy(update={"tokens": made.tokens - 1}),) * given.next_width)


async def _draws_elsewhere(given: DistillerInput) -> Distilled:
    drafts = random.sample(list(given.drafts), k=1)
    return Distilled((await given.admit(drafts),) * given.next_width)


async def _invents_sources(given: DistillerInput) -> Distilled:
    return Distilled((Workspace(text="a", tokens=1, sources=(99,)),) * given.next_width)


async def _asks(given: DistillerInput) -> Distilled:
    (reply,) = await given.ask([{"candidates": "all"}])
    return Distilled((await given.workspace([reply.text], given.drafts, keep="start"),) * given.next_width)


async def _asks_twice(given: DistillerInput) -> Distilled:
    await given.ask([{"candidates": "all"}])
    return await _asks(given)


async def _breaks_down(given: DistillerInput) -> Distilled:
    (reply,) = await given.ask([{"candidates": "all"}])
    if reply.call.failure:
        raise RuntimeError("no notes")
    return Distilled((await given.admit(given.drafts),) * given.next_width)


async def _wants_two(given: DistillerInput) -> Distilled:
    return Distilled((await given.admit([given.drafts[0], given.drafts[1]]),) * given.next_width)


async def _looks(given: DistillerInput) -> Distilled:
    right = [draft for draft in given.drafts if await given.score(draft) > 0.5]
    return Distilled((await given.admit(right),) * given.next_width)


async def _hides_calls(given: DistillerInput) -> Distilled:
    replies = await given.ask([{"candidates": "all"}] * 2)
    return Distilled((await given.admit(given.drafts),) * given.next_width, calls=(replies[0].call,))


async def _returns_text(given: DistillerInput) -> Any:
    return "a workspace"


@pytest.mark.parametrize(
    ("run", "settings", "law"),
    [
        (_forgets, {}, "returned 1 workspaces for 3 drafts"),
        (_is_too_long, {}, "says 1 tokens and has"),
        (_counts_wrong, {}, "tokens and has"),
        (_draws_elsewhere, {}, "the same drafts and seed gave other workspaces"),
        (_invents_sources, {}, "names the draft .99. as a source"),
        (_asks, {}, "makes 1 calls, but declares 0"),
        (_asks_twice, {"role": "distill"}, "in turn, but declares 1 concurrent"),
        (_breaks_down, {"role": "distill"}, "the calls fail.*RuntimeError: no notes"),
        (_wants_two, {"uses_k": True}, r"1 drafts.*IndexError"),
        (_looks, {}, "declare the distiller with `needs_gold=True`"),
        (_hides_calls, {"role": "distill", "calls": lambda next_width: 2}, "made 2 calls and returned 1"),
        (_returns_text, {}, "returned str, not a `Distilled`"),
    ],
)
def test_a_distiller_that_violates_a_rule_names_the_rule(
    named: str, run: Any, settings: dict[str, Any], law: str
) -> None:
    with pytest.raises(AssertionError, match=f"(?s){law}"):
        check_distiller(distiller(named, **settings)(run))


def test_what_is_no_distiller_is_refused() -> None:
    with pytest.raises(AssertionError, match="decorate the function"):
        check_distiller(_asks)  # type: ignore[arg-type]
