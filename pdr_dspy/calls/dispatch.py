"""Concurrent requests: replayed from the store, joined to an equal pending request, or sent. Where a thought or a
solution was truncated or a field could not be read, another request of the same turn follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

import dspy
from dspy.lm15 import Request, Response

from pdr_dspy.calls import dspy_bridge, formats, telemetry
from pdr_dspy.calls.capabilities import configured, count_exactly, same_answerer
from pdr_dspy.calls.context import Session
from pdr_dspy.calls.dspy_bridge import Tries, tries_of
from pdr_dspy.calls.fallback import asked_again
from pdr_dspy.calls.ledger import JSON_PART, Usage
from pdr_dspy.calls.request import Job, continuation, extended
from pdr_dspy.calls.store import Rollout, Rollouts
from pdr_dspy.prompts.content import prompt_text
from pdr_dspy.text import clean
from pdr_dspy.text.reasoning import split_thought
from pdr_dspy.text.token_estimate import estimate_tokens

T = TypeVar("T")
BEGUN: ContextVar[Callable[[], None] | None] = ContextVar("pdr_dspy_begun", default=None)
"""Called when a request made in this context is sent, after its wait for the bound on requests in flight."""
FOLLOWED: ContextVar[Callable[[Job, Result], None] | None] = ContextVar("pdr_dspy_followed", default=None)
"""Called with a request made in this context that has ended, when another request of its turn follows."""


class Result(NamedTuple):
    """The outcome of a request."""

    rollout: Rollout | None
    """None if there is no completion."""
    reused: bool
    failure: str | None
    seconds: float
    tries: Tries = Tries()
    rest: tuple[Job, Result] | None = None
    """The next request of this turn: it continues the completion, or asks again for fields that could not be read."""
    shared: int | None = None
    """The seed of the sibling whose request also produced this completion; None if it has its own request."""

    @property
    def took(self) -> float:
        """Seconds that the turn took when it was first made."""
        own = self.seconds if self.rollout is None else self.rollout.seconds
        return own if self.rest is None else own + self.rest[1].took

    @property
    def rollouts(self) -> list[Rollout]:
        """The completions of the turn."""
        own = [] if self.rollout is None else [self.rollout]
        return own if self.rest is None else [*own, *self.rest[1].rollouts]

    @property
    def whole(self) -> bool:
        """Whether no request of the turn failed, so that all of it is in the store."""
        return self.rollout is not None and (self.rest is None or self.rest[1].whole)


def replayed(lm: dspy.LM, job: Job, store: Rollouts) -> Result | None:
    """The turn as the store has it; None if a request would have to be sent."""
    rollout = store.get(job.key)
    if rollout is None:
        return None
    result = Result(rollout, True, None, 0.0)
    job_of_rest = following(lm, job, rollout)
    if job_of_rest is None:
        return result
    rest = replayed(lm, job_of_rest, store)
    return None if rest is None else result._replace(rest=(job_of_rest, rest))


def following(lm: dspy.LM, job: Job, rollout: Rollout) -> Job | None:
    """The next request of a turn after this completion; None if the turn is complete."""
    return continuation(lm, job, rollout) or asked_again(lm, job, rollout)


def ended_requests(lm: dspy.LM, job: Job, store: Rollouts, count: int) -> list[tuple[Job, Result]]:
    """The first so many requests of a turn, out of the store; fewer where it has not all of them."""
    found: list[tuple[Job, Result]] = []
    following_it: Job | None = job
    while following_it is not None and len(found) < count and (rollout := store.get(following_it.key)) is not None:
        found.append((following_it, Result(rollout, True, None, 0.0)))
        following_it = following(lm, following_it, rollout)
    return found


async def send(lm: dspy.LM, jobs: Sequence[Job], now: Session) -> list[Result]:
    """Replay the turns that are in the store and send the rest; siblings of one prompt as one group where supported."""
    out = _Sending(lm, now)
    results, turns = out.turns(jobs)
    try:
        came = [await turns[0][1]] if len(turns) == 1 else await together([coming for _, coming in turns])
    finally:
        out.release_waiters()
    for (group, _), outcome in zip(turns, came, strict=True):
        results.update(zip(group, outcome, strict=True))
    return [results[position] for position in range(len(jobs))]


Turn = tuple[list[int], Awaitable[list[Result]]]
"""Positions of some jobs, and their future results."""


class _Sending:
    """Requests that are sent together."""

    def __init__(self, lm: dspy.LM, now: Session) -> None:
        self.lm = lm
        self.now = now
        self.server = 0
        """With the key, identifies requests that may wait for each other's replies."""
        self.own: dict[str, asyncio.Future[Rollout | None]] = {}
        """By key, the futures that equal requests to the same LM wait for meanwhile."""

    def turns(self, jobs: Sequence[Job]) -> tuple[dict[int, Result], list[Turn]]:
        """The results that are available now, by the position of their job, and awaitables of the others."""
        store, loop = self.now.store, asyncio.get_running_loop()
        about = next((job.capabilities for job in jobs if job.capabilities is not None), None) or configured(self.lm)
        self.server = same_answerer(self.lm, about)
        results: dict[int, Result] = {}
        missing: list[int] = []
        others: list[Turn] = []
        for position, job in enumerate(jobs):
            found = store.get(job.key)
            under_way = store.pending.get((job.key, self.server))
            if found is not None:
                results[position] = Result(found, True, None, 0.0)
            elif under_way is not None and under_way.get_loop() is loop:
                others.append(([position], self.join(job, under_way)))
            else:
                missing.append(position)
                self.own[job.key] = store.pending[job.key, self.server] = loop.create_future()
        groups = _groups(jobs, missing, together=about.siblings)
        turns: list[Turn] = [(group, self.group([jobs[p] for p in group])) for group in groups] + others
        if any(job.rest is not None or job.fallback is not None for job in jobs):
            turns += [([position], _there(result)) for position, result in results.items()]
            turns = [(group, self.continued([jobs[p] for p in group], coming)) for group, coming in turns]
        return results, turns

    def release_waiters(self) -> None:
        """Resolve the futures of unfinished requests with None: each waiter sends its own request."""
        pending = self.now.store.pending
        for key, future in self.own.items():
            if not future.done():
                future.set_result(None)
            if pending.get((key, self.server)) is future:
                del pending[key, self.server]

    async def join(self, job: Job, under_way: asyncio.Future[Rollout | None]) -> list[Result]:
        """Wait for an equal pending request; send this one if that one failed or was cancelled."""
        rollout = await asyncio.shield(under_way)
        if rollout is not None:
            return [Result(rollout, True, None, 0.0)]
        return await self.group([job])

    async def continued(self, jobs: Sequence[Job], coming: Awaitable[list[Result]]) -> list[Result]:
        """Continue the turns that need another request, each as soon as its first request is done. Each continuation
        waits for the bound on requests in flight."""

        async def continue_turn(job: Job, result: Result) -> Result:
            rest = None if result.rollout is None else following(self.lm, job, result.rollout)
            if rest is None:
                return result
            if (followed := FOLLOWED.get()) is not None:
                followed(job, result)
            if rest.part == JSON_PART:  # not for the turn's stream listeners
                with dspy_bridge.heard(None):
                    (came,) = await send(self.lm, [rest], self.now)
            else:
                (came,) = await send(self.lm, [rest], self.now)
            return result._replace(rest=(rest, came))

        return await together([continue_turn(job, result) for job, result in zip(jobs, await coming, strict=True)])

    async def group(self, jobs: Sequence[Job]) -> list[Result]:
        """Send siblings as one group, counted once against the bound on requests in flight."""
        now = self.now
        if now.in_flight is None or now.loop not in (None, asyncio.get_running_loop()):
            if len(jobs) == 1:
                return [await self.one(jobs[0], jobs[0].request)]
            return await together(self.siblings(jobs))
        async with now.in_flight:
            if len(jobs) == 1:
                return [await self.one(jobs[0], jobs[0].request)]
            return await together(self.siblings(jobs))

    def siblings(self, jobs: Sequence[Job]) -> list[Awaitable[Result]]:
        """One request for several siblings."""
        group = f"{jobs[0].prompt}-{jobs[0].seed}-{time.monotonic_ns()}"
        mark = {"group": group, "size": len(jobs)}
        return [self.one(job, extended(job.request, pdr_siblings=mark)) for job in jobs]

    async def one(self, job: Job, request: Request) -> Result:
        """Send one request, keep the completion, and resolve the future of waiting equal requests."""
        store = self.now.store
        with telemetry.call(self.lm.model, job) as report:
            result = await _exchange(self.lm, job, request)
            if result.rollout is None:
                report(Usage(), "error", result.failure, result.tries.tries)
            else:
                got = result.rollout
                report(got.usage, got.finish, None, result.tries.tries, got.text, got.thought or "")
        if result.rollout is not None and not result.reused and self.now.on_response is not None:
            self.now.on_response(result.rollout.usage)
        if result.rollout is not None and result.rollout.finish != "error":  # broken off: request it again
            if store.slow:  # other calls proceed meanwhile
                await asyncio.to_thread(store.put, result.rollout)
            else:
                store.put(result.rollout)
        future = self.own.get(job.key)
        if future is not None and not future.done():
            future.set_result(result.rollout)
        return result


async def _there(result: Result) -> list[Result]:
    return [result]


def _groups(jobs: Sequence[Job], positions: Sequence[int], *, together: bool) -> list[list[int]]:
    """Runs of consecutive seeds with one prompt; each run becomes one request of n choices."""
    groups: list[list[int]] = []
    for position in positions:
        last = groups[-1] if groups else None
        if (
            together
            and last is not None
            and jobs[last[-1]].prompt == jobs[position].prompt
            and jobs[last[-1]].seed + 1 == jobs[position].seed
        ):
            last.append(position)
        else:
            groups.append([position])
    return groups


async def together(parts: Iterable[Awaitable[T]]) -> list[T]:
    """Await all parts concurrently; the first error or a cancellation cancels the others."""
    parts = list(parts)
    if len(parts) == 1:  # needs no task
        return [await parts[0]]
    tasks = [asyncio.ensure_future(one) for one in parts]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:  # such as a full disk
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def count_tokens(lm: dspy.LM, texts: Sequence[str]) -> tuple[list[int], bool]:
    """Tokens of each text as the serving model counts them, and whether the count is exact (False: estimated)."""
    counts = await count_exactly(lm, texts)
    if counts is not None:
        return counts, True
    return [estimate_tokens(text) for text in texts], False


async def _exchange(lm: dspy.LM, job: Job, request: Request) -> Result:
    started = time.perf_counter()
    if (told := BEGUN.get()) is not None:
        told()
    try:
        came = await formats.send(lm, request, job.output_format)
    except (dspy.LMError, OSError, TimeoutError) as error:
        return Result(None, False, _why(error), time.perf_counter() - started, tries_of(error))
    response, reused = came.sent
    seconds = time.perf_counter() - started
    inline = "".join(part.text for part in response.message.parts if part.type == "text")
    apart = "".join(part.text for part in response.message.parts if part.type == "thinking")
    if job.messages[-1]["role"] == "assistant":
        # The thought is already closed; a server that looks for its end may take the whole text for a thought.
        begun = job.messages[-1]["content"]
        text = clean(inline or apart)
        text = text.removeprefix(begun if text.startswith(begun) else begun.rstrip())  # llama.cpp repeats it
        thought, unfinished, apart = "", False, ""
    else:
        thought, text, unfinished = split_thought(clean(inline))
        if job.part == JSON_PART and not text.strip() and not unfinished:
            text = clean(apart)  # a server that parses thoughts may take the JSON for a thought
    usage, estimated = await _usage(lm, job, response, inline + apart)
    tries, finish = came.tries, "length" if unfinished else response.finish_reason
    return Result(
        Rollout(
            key=job.key,
            text=text,
            thought=clean(apart) or thought,
            finish=finish,
            usage=usage,
            estimated=estimated,
            unsettled=tries.unsettled,
            seconds=0.0 if reused else round(seconds, 4),
            format=came.fate(job.output_format, text, finish),
        ),
        reused,
        None,
        seconds,
        tries,
        shared=dspy_bridge.shared_seed(response),
    )


async def _usage(lm: dspy.LM, job: Job, response: Response, generated: str) -> tuple[Usage, bool]:
    reported = response.usage
    usage = Usage(
        input=reported.input_tokens,
        output=reported.output_tokens,
        reasoning=reported.reasoning_tokens,
        cached=reported.cache_read_tokens,
    )
    if usage.tokens is not None:
        return usage, False
    prompt = prompt_text(job.messages)
    (inputs, outputs), _ = await count_tokens(lm, [prompt, generated])
    return (
        usage.model_copy(
            update={
                "input": inputs if usage.input is None else usage.input,
                "output": outputs if usage.output is None else usage.output,
            }
        ),
        True,
    )


def _why(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
