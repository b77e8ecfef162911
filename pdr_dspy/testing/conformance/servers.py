"""The contract of a served model."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Sequence
from typing import Any

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.calls.request import Sampling
from pdr_dspy.operators import PDR
from pdr_dspy.runtime import event_loop

_SIDE_BY_SIDE = 4
_TEXTS = ("", "one", "one two three four five six seven eight", "été 日本語 👍", "a\n\n\tb")
_SECRETS = ("api_key", "apikey", "authorization", "token")


def check_server(lm: dspy.LM, *, question: str = "What is 2 + 2?", cap: int = 64, usage: bool = True) -> None:
    """Raise AssertionError if a language model violates the contract on which ledgers and budgets rely.

    It makes about twenty short calls to a running model; a mock of your server is enough.

    Args:
        lm: any `dspy.LM`: the result of `connect`, DSPy's own, or one of your server class.
        question: an input that it can answer.
        cap: output tokens that are enough for a few words.
        usage: whether the server reports tokens; if False, they are estimated.

    The contract: a call returns text and the server's token counts, none negative; there are at most as many output
    tokens as the cap, and a truncated completion reports it; concurrent calls return separately, with different seeds;
    a program's ledger is exact; `count_tokens`, if it exists, returns a reproducible whole number for each text, not
    smaller for a longer one; a prompt longer than the stated context is refused, not cut; copies answer as well; DSPy's
    saved state contains no secrets.
    """
    name = type(lm).__name__
    assert isinstance(lm, dspy.BaseLM), f"a server is a `dspy.LM`, got {lm!r}"
    with dspy.context(lm=lm), calls.session(store=None):
        event_loop.run(lambda: _check(lm, name, question, cap, usage))
        _check_program(lm, name, question, cap, usage)
    _check_state(lm, name)


async def _check(lm: dspy.LM, name: str, question: str, cap: int, usage: bool) -> None:
    (plain,) = await _ask(lm, [question], cap)
    _check_call(plain, name, cap, usage)
    (short,) = await _ask(lm, [question], 2)
    _check_call(short, name, 2, usage)
    several = await _ask(lm, [question] * _SIDE_BY_SIDE, cap)
    for call in several:
        _check_call(call, name, cap, usage)
    seeds = {call.seed for call in several}
    assert len(seeds) == _SIDE_BY_SIDE, (
        f"{name}: {_SIDE_BY_SIDE} concurrent calls had the seeds {sorted(map(str, seeds))}"
    )
    others = await asyncio.gather(*(_ask(lm, [f"{question} ({number})"], cap) for number in range(_SIDE_BY_SIDE)))
    for (call,) in others:
        _check_call(call, name, cap, usage)
    for made, how in ((lm.copy(), "`copy()`"), (copy.deepcopy(lm), "`deepcopy`")):
        (call,) = await _ask(made, [question], cap)
        assert call.failure is None, f"{name}: a copy made with {how} does not answer: {call.failure}"
    await _check_counts(lm, name)
    await _check_context(lm, name, question)


async def _ask(lm: dspy.LM, questions: Sequence[str], cap: int) -> list[Call]:
    predictor = dspy.Predict("question -> answer")
    predictor.lm = lm
    replies = await calls.ask(
        predictor,
        [{"question": question} for question in questions],
        site=calls.CallSite(Phase.DRAFT, 1, questions[0], 7),
        sampling=Sampling(cap, 0.7, 0.95),
    )
    return [reply.call for reply in replies]


def _check_call(call: Call, name: str, cap: int, usage: bool) -> None:
    empty = call.failure is not None and cap < 8 and call.usage.output is not None  # one word may exceed the cap
    assert call.failure is None or empty, f"{name}: a call failed: {call.failure}"
    read, wrote = call.usage.input, call.usage.output
    if usage:
        assert not call.estimated, f"{name}: a completion came without its usage; pass `usage=False` if that is normal"
        assert read is not None, f"{name}: the input tokens of a call are missing"
        assert wrote is not None, f"{name}: the output tokens of a call are missing"
    assert (read or 0) >= 0 and (wrote or 0) >= 0, f"{name}: a usage of {read} input and {wrote} output tokens"  # noqa: PT018
    if usage and call.index == 0:  # servers may count the prompt of siblings with the first of them
        assert read, f"{name}: the first call of a prompt reports {read} input tokens"
    if wrote is None or call.estimated:
        return
    assert wrote <= cap, f"{name}: {wrote} output tokens under a cap of {cap}: max_tokens is ignored"
    if wrote == cap and call.finish == "stop":
        return  # the completion may end exactly at the cap
    ended = call.finish in ("length", "stop", "content_filter")
    assert ended, f"{name}: the finish reason {call.finish!r} is none of length, stop and content_filter"


def _check_program(lm: dspy.LM, name: str, question: str, cap: int, usage: bool) -> None:
    program = PDR("question -> answer", widths=(3, 1), distiller="random_k", k=1, kappa=64, draft_tokens=cap)
    try:
        prediction = program(question=question, seed=3)
    except Exception as error:
        raise AssertionError(f"{name}: a program raised {type(error).__name__}: {error}") from error
    ledger = prediction.ledger
    assert len(ledger) == program.schedule.calls, (
        f"{name}: a program of {program.schedule.calls} calls has {len(ledger)}"
    )
    assert ledger.exact == usage, f"{name}: the ledger of a program is {'' if ledger.exact else 'not '}exact"
    most = program.schedule.output_bound().total
    assert ledger.output <= most, f"{name}: {ledger.output} output tokens of a program, its bound is {most}"
    assert 0 < ledger.sequential <= ledger.total, f"{name}: B_seq {ledger.sequential}, B_total {ledger.total}"


async def _check_counts(lm: dspy.LM, name: str) -> None:
    about = await calls.capabilities(lm)
    counts = await calls.count_exactly(lm, list(_TEXTS))
    assert (counts is not None) == about.counts_tokens, (
        f"{name}: `counts_tokens={about.counts_tokens}` of its capabilities, and `count_tokens` gave {counts!r}"
    )
    if counts is None:
        return
    assert len(counts) == len(_TEXTS), f"{name}: `count_tokens` gave {len(counts)} figures for {len(_TEXTS)} texts"
    wrong = [value for value in counts if not isinstance(value, int) or isinstance(value, bool) or value < 0]
    assert not wrong, f"{name}: `count_tokens` gave {wrong[0]!r}, not a number of tokens"
    assert counts[1] <= counts[2], f"{name}: `count_tokens` counts {counts[1]} for a word, {counts[2]} for eight"
    assert counts[2] > 1, f"{name}: `count_tokens` counts {counts[2]} for {_TEXTS[2]!r}"
    again = await calls.count_exactly(lm, list(_TEXTS))
    assert again == counts, f"{name}: `count_tokens` counted {counts}, then {again}"


async def _check_context(lm: dspy.LM, name: str, question: str) -> None:
    context = (await calls.capabilities(lm)).context_length
    if context is None:
        return
    assert isinstance(context, int) and context > 0, f"{name}: `context_length` is {context!r}"  # noqa: PT018
    (call,) = await _ask(lm, [f"{question} {'word ' * (context + 64)}"], 8)
    assert call.failure is not None, (
        f"{name}: a prompt of more than `context_length={context}` tokens was answered, so it was cut"
    )
    assert call.failure.startswith(dspy.ContextWindowExceededError.__name__), (
        f"{name}: a prompt that is too long must fail with ContextWindowExceededError, got: {call.failure}"
    )


def _check_state(lm: dspy.LM, name: str) -> None:
    try:
        state = lm.dump_state()
    except TypeError:  # an engine that cannot be saved; DSPy reports it on saving
        return
    try:
        json.dumps(state)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name}: `dump_state()` is not JSON: {error}") from error
    kept = [secret for secret in _SECRETS if secret in _names(state)]
    assert not kept, f"{name}: `dump_state()` keeps {kept[0]!r}, which saved programs would contain"


def _names(state: Any) -> list[str]:
    """The keys of a state, also of nested ones."""
    if isinstance(state, dict):
        inner = [name for value in state.values() for name in _names(value)]
        return [str(key).lower() for key, value in state.items() if value] + inner
    return [name for value in state for name in _names(value)] if isinstance(state, list) else []
