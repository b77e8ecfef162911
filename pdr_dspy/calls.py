"""Predictor calls side by side: seeded, bounded in flight, replayed from the store, recorded.

`ask` is the only place where a program talks to a model. It sends `dspy.lm15.Request`s through the predictor's own
`dspy.LM`, so history, callbacks and usage tracking of DSPy work as ever, and every answer carries its finish reason and
usage. Traces are written in the order of the indices, whatever the order in which the answers came.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import dspy
from dspy.lm15 import Request, Response
from dspy.utils.exceptions import LMError

from pdr_dspy import sending, tracing
from pdr_dspy.budget import Call, Phase, Usage
from pdr_dspy.errors import ConfigError
from pdr_dspy.portal import run as run
from pdr_dspy.requests import Job, Prompt, Sampling, clean, continuation, extended
from pdr_dspy.rollouts import Rollout, Rollouts, address
from pdr_dspy.sending import Tries, tries_of
from pdr_dspy.signatures import Reading, read, render, signature_of
from pdr_dspy.thoughts import split_thought
from pdr_dspy.workspace import estimate_tokens

T = TypeVar("T")
SEED_SPACING = 256
"""Siblings take consecutive seeds, so that n of them are one request with n choices; bases are this far apart."""


class _Unkept(Rollouts):
    """The store where none was given: it knows the requests under way, and keeps no completion."""

    def put(self, rollout: Rollout) -> None:
        """Nothing: the same request is sent again next time."""


@dataclass(frozen=True)
class Session:
    """What the calls made inside `session(...)` share."""

    seed: int = 0
    """The run seed: repeats of an evaluation differ in it, trials of a study do not."""
    store: Rollouts = field(default_factory=_Unkept)
    """Keeps completions, and the requests under way, so that two equal ones are sent once."""
    in_flight: asyncio.Semaphore | None = None
    """Bounds requests on the wire; None leaves it to the schedule's widths. It serves the event loop on which the
    session was begun; a synchronous program that runs beside that loop is not held up by it."""
    loop: asyncio.AbstractEventLoop | None = None
    """Where `in_flight` was given; None outside of any loop."""
    oracle: Callable[[Mapping[str, Any]], float] | None = None
    """Scores a draft's outputs; only the oracle distillers of an analysis may look."""
    on_call: Callable[[Call], None] | None = None
    """Told of every call as it ends, in the thread that runs the calls."""


CUT_THOUGHT = "the cap ended it inside its thought"
"""The failure of a call that never came to its solution."""

BEGUN: ContextVar[Callable[[], None] | None] = ContextVar("pdr_dspy_begun", default=None)
"""Told when a request made in this context goes out, after its wait for a place in flight."""
_SESSION: ContextVar[Session] = ContextVar("pdr_dspy_session", default=Session())  # noqa: B039  (frozen)


def current() -> Session:
    """The session that calls made here and now would join."""
    return _SESSION.get()


@contextmanager
def session(**changes: Any) -> Iterator[Session]:
    """Run calls with some fields of the session changed, in this context and the tasks started from it.

    With `store=None` no completion is kept inside.
    """
    if changes.get("store", ...) is None:
        changes["store"] = _Unkept()
    if "in_flight" in changes:
        with suppress(RuntimeError):
            changes["loop"] = None  # no loop runs here: the calls will all run on the portal's
            changes["loop"] = asyncio.get_running_loop()
    changed = replace(_SESSION.get(), **changes)
    token = _SESSION.set(changed)
    try:
        yield changed
    finally:
        _SESSION.reset(token)


class Reply(NamedTuple):
    """One turn and what was read out of it."""

    call: Call
    """The one that decided how the turn ended."""
    text: str
    """After any thought; empty when the call failed."""
    reading: Reading
    other: Call | None = None
    """Where the turn took two requests, the other one."""

    @property
    def calls(self) -> tuple[Call, ...]:
        """What goes on the ledger, in the order in which it was sent."""
        both = (self.call,) if self.other is None else (self.call, self.other)
        return tuple(sorted(both, key=lambda call: call.part))


def seed_for(run_seed: int, example: str, phase: Phase, round_number: int) -> int:
    """The seed of the first sibling of a stage: it depends on the question and the place, never on the trial."""
    digest = hashlib.sha256(f"{run_seed}|{example}|{phase}|{round_number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 // SEED_SPACING) * SEED_SPACING


def identity(inputs: Mapping[str, Any]) -> str:
    """A name for a question: the hash of its inputs."""
    return address({"inputs": {key: str(value) for key, value in inputs.items()}})[:16]


def serving(predictor: dspy.Predict) -> dspy.LM:
    """The LM that a predictor would use. Raises ConfigError when there is none."""
    lm = predictor.lm or dspy.settings.lm
    if not isinstance(lm, dspy.BaseLM):
        raise ConfigError(
            "no language model is set; call `dspy.configure(lm=pdr_dspy.serving.connect(model, api_base))` "
            f"or any `dspy.LM(...)` first (got {lm!r})"
        )
    if getattr(lm, "model_type", "chat") == "text":
        raise ConfigError(
            f'`dspy.LM({lm.model!r}, model_type="text")` completes bare text and takes no chat messages; '
            'leave `model_type` at "chat"'
        )
    return lm  # type: ignore[return-value]


async def count_tokens(lm: dspy.LM, texts: Sequence[str]) -> tuple[list[int], bool]:
    """Tokens of each text as the serving model counts them, and whether that is exact (False: estimated)."""
    counter = getattr(lm, "count_tokens", None)
    if counter is not None:
        counts = await counter(texts)
        if counts is not None:
            return counts, True
    return [estimate_tokens(text) for text in texts], False


async def ask(
    predictor: dspy.Predict,
    inputs: Sequence[Mapping[str, Any]],
    *,
    phase: Phase,
    round_number: int,
    example: str,
    sampling: Sampling,
    run_seed: int | None = None,
) -> list[Reply]:
    """Make one call for each of `inputs`, side by side, and return the replies in that order.

    Failures of a call (the server's, the network's, an empty completion) are recorded in its `Call`, never raised.

    Args:
        predictor: holds signature, demonstrations and, optionally, its own LM.
        inputs: the input fields of each call.
        phase: what the calls are for; with `round_number` (from 1) and `example` it decides their seeds.
        example: the question's identity.
        sampling: cap in output tokens, temperature, top-p.
        run_seed: overrides the session's.
    """
    now = _SESSION.get()
    lm, jobs = prepare(
        predictor,
        inputs,
        phase=phase,
        round_number=round_number,
        example=example,
        sampling=sampling,
        run_seed=run_seed,
    )
    results = await send(lm, jobs, now)
    replies = []
    for values, job, result in zip(inputs, jobs, results, strict=True):
        reply = reply_of(predictor, lm, job, result)
        tell(predictor, values, reply, now)
        replies.append(reply)
    return replies


def prepare(
    predictor: dspy.Predict,
    inputs: Sequence[Mapping[str, Any]],
    *,
    phase: Phase,
    round_number: int,
    example: str,
    sampling: Sampling,
    run_seed: int | None = None,
) -> tuple[dspy.LM, list[Job]]:
    """The requests that `ask` makes of its arguments, and who is asked. Nothing is sent."""
    lm = serving(predictor)
    rollout_id = lm.kwargs.get("rollout_id")
    run_seed = _SESSION.get().seed if run_seed is None else run_seed
    base = seed_for(run_seed, f"{example}|{rollout_id}", phase, round_number)
    prompts: dict[Any, Prompt] = {}
    jobs: list[Job] = []
    for index, values in enumerate(inputs):
        same = tuple((name, id(value)) for name, value in values.items())
        if same not in prompts:  # siblings share one prompt: it is formatted once
            messages = render(signature_of(predictor), predictor.demos, values)
            prompts[same] = Prompt(lm, messages, sampling)
        jobs.append(prompts[same].job(base + index)._replace(place=(phase, round_number, index)))
    return lm, jobs


def tell(predictor: dspy.Predict, inputs: Mapping[str, Any], reply: Reply, now: Session) -> None:
    """Pass a finished call on: to the session's listener, and to DSPy's trace when an answer could be read."""
    if now.on_call is not None:
        for call in reply.calls:
            now.on_call(call)
    trace = dspy.settings.trace
    if trace is None or not reply.reading.outputs or reply.reading.missing or dspy.settings.max_trace_size <= 0:
        return
    if len(trace) >= dspy.settings.max_trace_size:
        trace.pop(0)  # as dspy.Predict does: DSPy's default trace lives as long as the process
    trace.append((predictor, dict(inputs), dspy.Prediction(**reply.reading.outputs)))


class Result(NamedTuple):
    """What became of a request."""

    rollout: Rollout | None
    """None when there was no completion."""
    reused: bool
    failure: str | None
    seconds: float
    tries: Tries = Tries()
    rest: tuple[Job, Result] | None = None
    """The request that went on with the turn of this one."""

    @property
    def took(self) -> float:
        """Seconds that the turn took when it was made."""
        own = self.seconds if self.rollout is None else self.rollout.seconds
        return own if self.rest is None else own + self.rest[1].took

    @property
    def rollouts(self) -> list[Rollout]:
        """The completions of the turn."""
        own = [] if self.rollout is None else [self.rollout]
        return own if self.rest is None else [*own, *self.rest[1].rollouts]

    @property
    def whole(self) -> bool:
        """Whether nothing of the turn failed, so that all of it is in the store."""
        return self.rollout is not None and (self.rest is None or self.rest[1].whole)


def replayed(lm: dspy.LM, job: Job, store: Rollouts) -> Result | None:
    """What the store has of a turn; None when a request would have to be sent."""
    rollout = store.get(job.key)
    if rollout is None:
        return None
    result = Result(rollout, True, None, 0.0)
    job_of_rest = continuation(lm, job, rollout)
    if job_of_rest is None:
        return result
    rest = replayed(lm, job_of_rest, store)
    return None if rest is None else result._replace(rest=(job_of_rest, rest))


async def send(lm: dspy.LM, jobs: Sequence[Job], now: Session) -> list[Result]:
    """Replay what the store has, send the rest: siblings of one prompt as one group where the endpoint can."""
    out = _Sending(lm, now)
    results, turns = out.turns(jobs)
    try:
        came = await together([coming for _, coming in turns])
    finally:
        out.let_go()
    for (group, _), outcome in zip(turns, came, strict=True):
        results.update(zip(group, outcome, strict=True))
    return [results[position] for position in range(len(jobs))]


Turn = tuple[list[int], Awaitable[list[Result]]]
"""Positions of some jobs, and what will become of them."""


class _Sending:
    """Requests that go out together."""

    def __init__(self, lm: dspy.LM, now: Session) -> None:
        self.lm = lm
        self.now = now
        self.own: dict[str, asyncio.Future[Rollout | None]] = {}
        """By key, what others wait for who ask for the same meanwhile."""

    def turns(self, jobs: Sequence[Job]) -> tuple[dict[int, Result], list[Turn]]:
        """The results that are there, by the position of their job, and how the others will come."""
        store, loop = self.now.store, asyncio.get_running_loop()
        results: dict[int, Result] = {}
        missing: list[int] = []
        others: list[Turn] = []
        for position, job in enumerate(jobs):
            found = store.get(job.key)
            under_way = store.pending.get(job.key)
            if found is not None:
                results[position] = Result(found, True, None, 0.0)
            elif under_way is not None and under_way.get_loop() is loop:
                others.append(([position], self.join(job, under_way)))
            else:
                missing.append(position)
                self.own[job.key] = store.pending[job.key] = loop.create_future()
        groups = _groups(jobs, missing, together=bool(getattr(self.lm, "siblings", False)))
        turns: list[Turn] = [(group, self.group([jobs[p] for p in group])) for group in groups] + others
        if any(job.rest is not None for job in jobs):
            turns += [([position], _there(result)) for position, result in results.items()]
            turns = [(group, self.continued([jobs[p] for p in group], coming)) for group, coming in turns]
        return results, turns

    def let_go(self) -> None:
        """Whoever still waits for one of these requests has to send it himself."""
        pending = self.now.store.pending
        for key, future in self.own.items():
            if not future.done():
                future.set_result(None)
            if pending.get(key) is future:
                del pending[key]

    async def join(self, job: Job, under_way: asyncio.Future[Rollout | None]) -> list[Result]:
        """Wait for an equal request that is under way; send our own when that one failed or was cancelled."""
        rollout = await asyncio.shield(under_way)
        if rollout is not None:
            return [Result(rollout, True, None, 0.0)]
        return await self.group([job])

    async def continued(self, jobs: Sequence[Job], coming: Awaitable[list[Result]]) -> list[Result]:
        """Go on with those turns that were cut, each as soon as its first request is done, with a place in flight of
        its own."""

        async def go_on(job: Job, result: Result) -> Result:
            rest = None if result.rollout is None else continuation(self.lm, job, result.rollout)
            if rest is None:
                return result
            (came,) = await send(self.lm, [rest], self.now)
            return result._replace(rest=(rest, came))

        return await together([go_on(job, result) for job, result in zip(jobs, await coming, strict=True)])

    async def group(self, jobs: Sequence[Job]) -> list[Result]:
        """Send siblings, with one place in flight for all of them."""
        now = self.now
        if now.in_flight is None or now.loop not in (None, asyncio.get_running_loop()):
            return await together(self.siblings(jobs))
        async with now.in_flight:
            return await together(self.siblings(jobs))

    def siblings(self, jobs: Sequence[Job]) -> list[Awaitable[Result]]:
        """One request for all of them, if there are several."""
        if len(jobs) == 1:
            return [self.one(jobs[0], jobs[0].request)]
        group = f"{jobs[0].prompt}-{jobs[0].seed}-{time.monotonic_ns()}"
        mark = {"group": group, "size": len(jobs)}
        return [self.one(job, extended(job.request, pdr_siblings=mark)) for job in jobs]

    async def one(self, job: Job, request: Request) -> Result:
        """Send one request, keep what came back, and tell those who wait for an equal one."""
        store = self.now.store
        with tracing.call(self.lm.model, job) as told:
            result = await _exchange(self.lm, job, request)
            if result.rollout is None:
                told(Usage(), "error", result.failure, result.tries.tries)
            else:
                told(result.rollout.usage, result.rollout.finish, None, result.tries.tries)
        if result.rollout is not None and result.rollout.finish != "error":  # what the server broke off is asked again
            if store.slow:  # others' calls go on meanwhile
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
    """Runs of consecutive seeds over one prompt; each becomes one request of n choices."""
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
    """All of them side by side, until the first error or a cancellation, which ends the others."""
    parts = list(parts)
    if len(parts) == 1:  # it needs no task of its own
        return [await parts[0]]
    tasks = [asyncio.ensure_future(one) for one in parts]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:  # such as that the disk is full
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _exchange(lm: dspy.LM, job: Job, request: Request) -> Result:
    started = time.perf_counter()
    begun = BEGUN.get()
    if begun is not None and not job.part:
        begun()
    try:
        response, reused = await sending.send(lm, request)
    except (LMError, OSError, TimeoutError) as error:
        return Result(None, False, _why(error), time.perf_counter() - started, tries_of(error))
    seconds = time.perf_counter() - started
    inline = "".join(part.text for part in response.message.parts if part.type == "text")
    apart = "".join(part.text for part in response.message.parts if part.type == "thinking")
    if job.part:  # its thought is over; a server that looks for the end of one may take all of it for a thought
        begun = job.messages[-1]["content"]
        text = clean(inline or apart)
        text = text.removeprefix(begun if text.startswith(begun) else begun.rstrip())  # llama.cpp repeats it
        thought, unfinished, apart = "", False, ""
    else:
        thought, text, unfinished = split_thought(clean(inline))
    usage, estimated = await _usage(lm, job, response, inline + apart)
    tries = Tries() if reused else tries_of(response)
    return Result(
        Rollout(
            key=job.key,
            text=text,
            thought=clean(apart) or thought,
            finish="length" if unfinished else response.finish_reason,
            usage=usage,
            estimated=estimated,
            unsettled=tries.unsettled,
            seconds=0.0 if reused else round(seconds, 4),
        ),
        reused,
        None,
        seconds,
        tries,
    )


async def _usage(lm: dspy.LM, job: Job, response: Response, generated: str) -> tuple[Usage, bool]:
    said = response.usage
    usage = Usage(
        input=said.input_tokens,
        output=said.output_tokens,
        reasoning=said.reasoning_tokens,
        cached=said.cache_read_tokens,
    )
    if usage.tokens is not None:
        return usage, False
    prompt = "\n".join(str(message["content"]) for message in job.messages)
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


def reply_of(predictor: dspy.Predict, lm: dspy.LM, job: Job, result: Result) -> Reply:
    """The call as it goes on the ledger, or both calls of the turn, with what could be read out of the completion."""
    signature = signature_of(predictor)
    call = _call_of(lm, job, result)
    text = "" if result.rollout is None else result.rollout.text
    other = None
    if result.rest is not None:
        rest_job, rest = result.rest
        last = _call_of(lm, rest_job, rest)
        if rest.rollout is None:  # what the first request gave is all there is
            if call.failure is not None:
                call = call.model_copy(update={"failure": f"{call.failure}, and going on failed: {last.failure}"})
            other = last
        else:
            text = text.lstrip() + rest.rollout.text
            other = call.model_copy(update={"finish": "continued", "failure": None})
            call = last.model_copy(update={"failure": None if text.strip() else "the completion is empty"})
    if call.failure is not None:
        return Reply(call, "", Reading({}, tuple(signature.output_fields)), other)
    return Reply(call, text.strip(), read(signature, text, truncated=call.truncated), other)


def _call_of(lm: dspy.LM, job: Job, result: Result) -> Call:
    phase, round_number, index = job.place
    rollout = result.rollout
    failure = result.failure
    if rollout is not None and not rollout.text.strip():
        cut = rollout.finish == "length"
        failure = CUT_THOUGHT if cut else "the completion is empty"
    return Call(
        phase=phase,
        round=round_number,
        index=index,
        part=job.part,
        model=lm.model,
        seed=job.seed,
        cap=job.cap,
        usage=Usage() if rollout is None else rollout.usage,
        finish="error" if rollout is None else rollout.finish,
        failure=failure,
        seconds=0.0 if result.reused else round(result.seconds, 4),
        reused=result.reused,
        estimated=rollout is not None and rollout.estimated,
        tries=result.tries.tries,
        unsettled=result.tries.unsettled if rollout is None else rollout.unsettled,
        key=job.key,
        prompt=job.prompt[:12],
    )
