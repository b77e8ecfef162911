"""Calls whose result is a value, not a text: the score of a served model, or its probabilities of some words.

They are calls like any other: keyed in the store by model and request, joined to an equal pending request, bounded in
flight, retried by the endpoint, reported to the session's listener, and recorded with their tokens.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import dspy
from dspy.lm15 import TokenLogprob

from pdr_dspy.calls import dspy_bridge, formats, telemetry
from pdr_dspy.calls.capabilities import capabilities, configured, same_answerer
from pdr_dspy.calls.context import Session, current, price_of
from pdr_dspy.calls.dispatch import count_tokens
from pdr_dspy.calls.dspy_bridge import Tries, tries_of
from pdr_dspy.calls.failures import CallError
from pdr_dspy.calls.ledger import Call, FormatFate, Phase, Usage
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.request import Job, Prompt, Sampling, changed
from pdr_dspy.calls.store import Rollout, address
from pdr_dspy.errors import ConfigError
from pdr_dspy.prompts.content import prompt_text
from pdr_dspy.text import clean
from pdr_dspy.text.reasoning import split_thought

ALTERNATIVES = (20, 5)
"""Log-probabilities requested at each position: first as many as vLLM and OpenAI give, then as others do."""

WORD_TOKENS = 16
"""Cap of an answer of one word; a larger cap is for a model that thinks first."""


class Valued(NamedTuple):
    """A value and the call that produced it."""

    value: Any
    """Plain JSON."""
    call: Call


class _Answer(NamedTuple):
    value: Any
    usage: Usage
    finish: str
    estimated: bool
    reused: bool
    tries: Tries
    format: FormatFate = ""


class _Unreadable(Exception):
    """The server replied, at a cost, but not with the expected value."""

    def __init__(self, why: str, answer: _Answer) -> None:
        super().__init__(why)
        self.answer = answer


async def post(
    lm: dspy.BaseLM,
    path: str,
    body: Mapping[str, Any],
    read: Callable[[Mapping[str, Any]], Any],
    *,
    phase: Phase = Phase.CHECK,
) -> Valued:
    """Call an endpoint other than completions, such as vLLM's /classify.

    Args:
        lm: made by `serving.connect`.
        path: relative to the API base's /v1.
        body: the request without the model's name.
        read: parses the reply into the value, plain JSON; raises ValueError, with a sentence, for a malformed reply.
        phase: the purpose of the call.

    Raises:
        ConfigError: the LM does not support such calls.
        CallError: the call failed or its reply is malformed; `error.call` has its cost.
    """
    if not hasattr(lm, "post"):
        raise ConfigError(
            f"`{lm.model}` cannot be called at {path}: give an LM of `serving.connect(model, api_base)`, or of a "
            "server's `connect()`"
        )
    about = await capabilities(lm)
    written = json.dumps([path, body], sort_keys=True, ensure_ascii=True)
    job = Prompt(lm, [{"role": "user", "content": written}], Sampling(1, 0.0), capabilities=about).job(0)  # type: ignore[arg-type]

    async def exchange() -> _Answer:
        data, tries = await dspy_bridge.post(lm, path, body)
        answer = _Answer(None, _pooled_usage(data.get("usage")), "stop", False, False, tries)
        try:
            return answer._replace(value=read(data))
        except ValueError as error:
            raise _Unreadable(f"{path} {error}", answer) from error

    place = {"phase": phase, "prompt": job.prompt[:12]}
    return await _kept(lm, job, address({"posted": job.key}), exchange, place)


async def weigh(
    lm: dspy.BaseLM,
    messages: Sequence[Mapping[str, Any]],
    read: Callable[[Sequence[TokenLogprob], str], Any],
    *,
    cap: int = 1,
    phase: Phase = Phase.CHECK,
    words: Sequence[str] = (),
) -> Valued:
    """Request one word from a model, at temperature 0, and read the probabilities that it gives each candidate.

    Args:
        lm: any model; a model without log-probabilities is asked only for the word.
        messages: OpenAI-shaped.
        read: computes the value, plain JSON, from the log-probabilities (empty if there are none) and the text; raises
            ValueError, with a sentence, if it finds no word that it knows.
        cap: output tokens; a model that thinks first needs thousands.
        phase: the purpose of the call.
        words: the allowed words, where the server can constrain its output to them; empty allows any. A cap above
            `WORD_TOKENS` leaves room for a thought, which a format would cut away if nothing separates it.

    Raises CallError: the call failed, or its reply is malformed; `error.call` has its cost.
    """
    about = await capabilities(lm)
    form = OutputFormat(choices=words) if words else None
    room = cap if cap > WORD_TOKENS else 0  # such a cap leaves room for a thought
    held = about.first_of([] if form is None else [form], thinking=room)
    job = Prompt(lm, messages, Sampling(cap, 0.0, output_format=held), capabilities=about).job(0)  # type: ignore[arg-type]

    async def exchange() -> _Answer:
        came = await _with_logprobs(lm, job)
        response, reused = came.sent
        text = clean("".join(part.text for part in response.message.parts if part.type == "text"))
        reported = response.usage
        usage = Usage(
            input=reported.input_tokens,
            output=reported.output_tokens,
            reasoning=reported.reasoning_tokens,
            cached=reported.cache_read_tokens,
        )
        estimated = usage.tokens is None
        if estimated:
            counted, _ = await count_tokens(lm, [prompt_text(job.messages), text])  # type: ignore[arg-type]
            usage = Usage(input=counted[0], output=counted[1])
        finish = str(response.finish_reason)
        fate = came.fate(job.output_format, split_thought(text)[1], finish)
        answer = _Answer(None, usage, finish, estimated, reused, came.tries, fate)
        try:
            return answer._replace(value=read(response.logprobs or (), text))
        except ValueError as error:
            raise _Unreadable(str(error), answer) from error

    place = {"phase": phase, "prompt": job.prompt[:12], "seed": job.seed, "cap": cap}
    return await _kept(lm, job, address({"weighed": job.key}), exchange, place)


async def _with_logprobs(lm: dspy.BaseLM, job: Job) -> formats.Formatted:
    """Send a request for as many log-probabilities as the server gives, possibly none."""
    request = job.request
    for alternatives in ALTERNATIVES:
        try:
            asking = changed(request, config=changed(request.config, logprobs=alternatives))
            return await formats.send(lm, asking, job.output_format)
        except dspy.ContextWindowExceededError:
            raise
        except dspy.LMUnsupportedFeatureError:
            break
        except dspy.LMInvalidRequestError:
            continue  # the requested number may be the reason
    return await formats.send(lm, request, job.output_format)


async def _kept(
    lm: dspy.BaseLM, job: Job, key: str, exchange: Callable[[], Awaitable[_Answer]], place: Mapping[str, Any]
) -> Valued:
    """The value of a request: from the store, from an equal pending request, or sent and stored."""
    now = current()
    server = same_answerer(lm, job.capabilities or configured(lm))
    while True:
        found = now.store.get(key)
        if found is None:
            under_way = now.store.pending.get((key, server))
            if under_way is None or under_way.get_loop() is not asyncio.get_running_loop():
                break
            found = await asyncio.shield(under_way)
        if found is not None:
            return _reported(now, json.loads(found.text), _call_of(lm, place, found, reused=True))
    own = now.store.pending[key, server] = asyncio.get_running_loop().create_future()
    try:
        if now.in_flight is None or now.loop not in (None, asyncio.get_running_loop()):
            return await _sent(now, lm, job, key, exchange, place, own)
        async with now.in_flight:
            return await _sent(now, lm, job, key, exchange, place, own)
    finally:
        if not own.done():
            own.set_result(None)  # each waiter sends its own request
        if now.store.pending.get((key, server)) is own:
            del now.store.pending[key, server]


async def _sent(
    now: Session,
    lm: dspy.BaseLM,
    job: Job,
    key: str,
    exchange: Callable[[], Awaitable[_Answer]],
    place: Mapping[str, Any],
    own: asyncio.Future[Rollout | None],
) -> Valued:
    started = time.perf_counter()
    with telemetry.call(lm.model, job) as report:
        try:
            answer, failure = await exchange(), None
        except _Unreadable as error:
            answer, failure = error.answer, " ".join(str(error).split())[:300]
        except (dspy.LMError, OSError, TimeoutError) as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            tries = tries_of(error)
            report(Usage(), "error", why, tries.tries)
            seconds = round(time.perf_counter() - started, 4)
            call = Call(
                **place, model=lm.model, finish="error", failure=why, seconds=seconds, key=key, **tries._asdict()
            )
            raise CallError(f"{lm.model} did not answer: {why}", _reported(now, None, call).call) from error
        report(answer.usage, answer.finish, failure, answer.tries.tries)
    rollout = Rollout(
        key=key,
        text=json.dumps(answer.value),
        finish=answer.finish,
        usage=answer.usage,
        estimated=answer.estimated,
        unsettled=answer.tries.unsettled,
        seconds=0.0 if answer.reused else round(time.perf_counter() - started, 4),
        format=answer.format,
    )
    call = _call_of(lm, place, rollout, reused=answer.reused, tries=answer.tries.tries, failure=failure)
    if failure is not None:
        raise CallError(f"{lm.model} did not give a value: {failure}", _reported(now, None, call).call)
    if now.store.slow:
        await asyncio.to_thread(now.store.put, rollout)
    else:
        now.store.put(rollout)
    own.set_result(rollout)
    return _reported(now, answer.value, call)


def _call_of(
    lm: dspy.BaseLM,
    place: Mapping[str, Any],
    rollout: Rollout,
    *,
    reused: bool,
    tries: int = 1,
    failure: str | None = None,
) -> Call:
    return Call(
        **place,
        model=lm.model,
        usage=rollout.usage,
        finish=rollout.finish,
        failure=failure,
        seconds=0.0 if reused else rollout.seconds,
        reused=reused,
        estimated=rollout.estimated,
        tries=tries,
        unsettled=rollout.unsettled,
        format=rollout.format,
        key=rollout.key,
        price=price_of(lm),
    )


def _reported(now: Session, value: Any, call: Call) -> Valued:
    if now.on_call is not None:
        now.on_call(call)
    return Valued(value, call)


def _pooled_usage(usage: Any) -> Usage:
    """Tokens that a pooling model read; it writes none. None where the server does not report them."""
    read, wrote = (
        usage.get(name) if isinstance(usage, Mapping) else None for name in ("prompt_tokens", "completion_tokens")
    )
    if isinstance(read, bool) or not isinstance(read, int) or read < 0:
        return Usage()
    return Usage(input=read, output=wrote if isinstance(wrote, int) and not isinstance(wrote, bool) else 0)
