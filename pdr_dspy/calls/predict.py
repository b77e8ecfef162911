"""Predictor calls side by side: seeded, bounded in flight, replayed from the store, recorded.

`ask` is the only place where a program talks to a model. It sends `dspy.lm15.Request`s through the predictor's own
`dspy.LM`, so history, callbacks and usage tracking of DSPy work as ever, and every answer carries its finish reason and
usage. Traces are written in the order of the indices, whatever the order in which the answers came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import dspy

from pdr_dspy.calls import streaming
from pdr_dspy.calls.capabilities import capabilities
from pdr_dspy.calls.context import Session, current, price_of
from pdr_dspy.calls.dispatch import Result, send
from pdr_dspy.calls.ledger import Call, Phase, Usage
from pdr_dspy.calls.request import Job, Prompt, Sampling
from pdr_dspy.calls.store import address
from pdr_dspy.errors import ConfigError
from pdr_dspy.prompts.content import told
from pdr_dspy.prompts.parse import Reading, read
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import signature_of

SEED_SPACING = 256
"""Siblings take consecutive seeds, so that n of them are one request with n choices; bases are this far apart."""
CUT_THOUGHT = "the cap ended it inside its thought"
"""The failure of a call that never came to its solution."""


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
    return address({"inputs": {key: told(value) for key, value in inputs.items()}})[:16]


def serving(predictor: dspy.Predict) -> dspy.LM:
    """The LM that a predictor would use: its schedule's choice, its own, or DSPy's. Raises ConfigError for none."""
    lm = current().serves.get(id(predictor)) or predictor.lm or dspy.settings.lm
    if not isinstance(lm, dspy.BaseLM):
        raise ConfigError(
            "no language model is set; call `dspy.configure(lm=pdr_dspy.serving.connect(model, api_base))` "
            f"or any `dspy.LM(...)` first (got {lm!r})"
        )
    if lm.model_type == "text":
        raise ConfigError(
            f'`dspy.LM({lm.model!r}, model_type="text")` completes bare text and takes no chat messages; '
            'leave `model_type` at "chat"'
        )
    return lm  # type: ignore[return-value]


async def ask(
    predictor: dspy.Predict,
    inputs: Sequence[Mapping[str, Any]],
    *,
    phase: Phase,
    round_number: int,
    example: str,
    sampling: Sampling,
    run_seed: int | None = None,
    streamed: Literal["", "listeners", "final"] = "",
) -> list[Reply]:
    """Make one call for each of `inputs`, side by side, and return the replies in that order.

    Failures of a call (the server's, the network's, an empty completion) are recorded in its `Call`, never raised.

    Args:
        predictor: holds signature, demonstrations and, optionally, its own LM.
        inputs: the input fields of each call.
        phase: what the calls are for; with `round_number` (from 1) and `example` it decides their seeds.
        example: the question's identity.
        sampling: cap in output tokens, temperature, top-p, and the form of the completion, if it has one.
        run_seed: overrides the session's.
        streamed: whether a single call goes to the listeners of `dspy.streamify`, and whether it writes the answer.
    """
    now = current()
    lm, jobs = await prepare(
        predictor,
        inputs,
        phase=phase,
        round_number=round_number,
        example=example,
        sampling=sampling,
        run_seed=run_seed,
    )
    if streamed and len(jobs) == 1 and dspy.settings.send_stream is not None:
        async with streaming.streamed(predictor, final=streamed == "final"):
            results = await send(lm, jobs, now)
    else:
        results = await send(lm, jobs, now)
    replies = []
    for values, job, result in zip(inputs, jobs, results, strict=True):
        reply = reply_of(predictor, lm, job, result)
        tell(predictor, values, reply, now)
        replies.append(reply)
    return replies


async def prepare(
    predictor: dspy.Predict,
    inputs: Sequence[Mapping[str, Any]],
    *,
    phase: Phase,
    round_number: int,
    example: str,
    sampling: Sampling,
    run_seed: int | None = None,
) -> tuple[dspy.LM, list[Job]]:
    """The requests that `ask` makes of its arguments, and who is asked. No request is sent, but the LM's server may be
    asked who it is: that is a part of their keys.

    Raises ConfigError for what cannot be sent, EndpointError where another model answers than before.
    """
    lm = serving(predictor)
    about = await capabilities(lm)
    rollout_id = lm.kwargs.get("rollout_id")
    run_seed = current().seed if run_seed is None else run_seed
    base = seed_for(run_seed, f"{example}|{rollout_id}", phase, round_number)
    prompts: dict[Any, Prompt] = {}
    jobs: list[Job] = []
    for index, values in enumerate(inputs):
        same = tuple((name, id(value)) for name, value in values.items())
        if same not in prompts:  # siblings share one prompt: it is formatted once
            messages = render(signature_of(predictor), predictor.demos, values)
            prompts[same] = Prompt(lm, messages, sampling, capabilities=about)
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
        price=price_of(lm),
        same_as=None if result.shared is None else index + result.shared - job.seed,
    )
