"""Predictor calls side by side: seeded, bounded in flight, replayed from the store, recorded.

`ask` is the only place where a program talks to a model. It sends `dspy.lm15.Request`s through the predictor's own
`dspy.LM`, so history, callbacks and usage tracking of DSPy work as ever, and every answer carries its finish reason and
usage. Traces are written in the order of the indices, whatever the order in which the answers came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import dspy

from pdr_dspy.calls import streaming
from pdr_dspy.calls.capabilities import capabilities
from pdr_dspy.calls.context import Session, current, price_of
from pdr_dspy.calls.dispatch import Result, send
from pdr_dspy.calls.fallback import answered, fallback_of
from pdr_dspy.calls.ledger import JSON_PART, Call, Usage
from pdr_dspy.calls.request import Fallback, Job, Prompt, Sampling
from pdr_dspy.calls.site import CallSite
from pdr_dspy.calls.store import address
from pdr_dspy.errors import ConfigError
from pdr_dspy.prompts.content import told
from pdr_dspy.prompts.parse import Reading, read
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import signature_of

CUT_THOUGHT = "the cap ended it inside its thought"
"""The failure of a call that never came to its solution."""


class Reply(NamedTuple):
    """One turn and what was read out of it."""

    call: Call
    """The one that decided how the turn ended."""
    text: str
    """After any thought; empty when the call failed."""
    reading: Reading
    others: tuple[Call, ...] = ()
    """Where the turn took several requests, the other ones."""

    @property
    def calls(self) -> tuple[Call, ...]:
        """What goes on the ledger, in the order in which it was sent."""
        return tuple(sorted((self.call, *self.others), key=lambda call: call.part))


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
    site: CallSite,
    sampling: Sampling,
    streamed: Literal["", "listeners", "final"] = "",
) -> list[Reply]:
    """Make one call for each of `inputs`, side by side, and return the replies in that order.

    Failures of a call (the server's, the network's, an empty completion) are recorded in its `Call`, never raised.

    Args:
        predictor: holds signature, demonstrations and, optionally, its own LM.
        inputs: the input fields of each call.
        site: what the calls are for, in which round of which question and run; it decides their seeds.
        sampling: cap in output tokens, temperature, top-p, and the form of the completion, if it has one.
        streamed: whether a single call goes to the listeners of `dspy.streamify`, and whether it writes the answer.
    """
    now = current()
    lm, jobs = await prepare(predictor, inputs, site=site, sampling=sampling)
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
    predictor: dspy.Predict, inputs: Sequence[Mapping[str, Any]], *, site: CallSite, sampling: Sampling
) -> tuple[dspy.LM, list[Job]]:
    """The requests that `ask` makes of its arguments, and who is asked. No request is sent, but the LM's server may be
    asked who it is: that is a part of their keys.

    Raises ConfigError for what cannot be sent, EndpointError where another model answers than before.
    """
    lm = serving(predictor)
    about = await capabilities(lm)
    base = site.seed(lm.kwargs.get("rollout_id"))
    prompts: dict[Any, Prompt] = {}
    fallbacks: dict[Any, Fallback | None] = {}
    jobs: list[Job] = []
    for index, values in enumerate(inputs):
        same = tuple((name, id(value)) for name, value in values.items())
        if same not in prompts:  # siblings share one prompt: it is formatted once
            messages = render(signature_of(predictor), predictor.demos, values)
            prompts[same] = Prompt(lm, messages, sampling, capabilities=about)
            fallbacks[same] = fallback_of(signature_of(predictor), about, sampling, prompts[same])
        place = (site.phase, site.round, index)
        jobs.append(prompts[same].job(base + index)._replace(place=place, fallback=fallbacks[same]))
    return lm, jobs


def tell(predictor: dspy.Predict, inputs: Mapping[str, Any], reply: Reply, now: Session) -> None:
    """Pass a finished call on: to the session's listener, and to DSPy's trace when an answer could be read out of what
    the model wrote freely. What it was asked for again is in no trace: optimizers train on those."""
    if now.on_call is not None:
        for call in reply.calls:
            now.on_call(call)
    trace = dspy.settings.trace
    if any(call.part == JSON_PART for call in reply.calls):
        return
    if trace is None or not reply.reading.outputs or reply.reading.missing or dspy.settings.max_trace_size <= 0:
        return
    if len(trace) >= dspy.settings.max_trace_size:
        trace.pop(0)  # as dspy.Predict does: DSPy's default trace lives as long as the process
    trace.append((predictor, dict(inputs), dspy.Prediction(**reply.reading.outputs)))


def reply_of(predictor: dspy.Predict, lm: dspy.LM, job: Job, result: Result) -> Reply:
    """The call as it goes on the ledger, or all calls of the turn, with what could be read out of the completion."""
    signature = signature_of(predictor)
    call = _call_of(lm, job, result)
    text = "" if result.rollout is None else result.rollout.text
    others: tuple[Call, ...] = ()
    following = result.rest
    if following is not None and following[0].part != JSON_PART:
        rest_job, rest = following
        following = rest.rest
        last = _call_of(lm, rest_job, rest)
        if rest.rollout is None:  # what the first request gave is all there is
            if call.failure is not None:
                call = call.model_copy(update={"failure": f"{call.failure}, and going on failed: {last.failure}"})
            others = (last,)
        else:
            begun = "" if rest_job.output_format is not None else text.lstrip()  # a form has all of an answer in it
            text = begun + rest.rollout.text
            others = (call.model_copy(update={"finish": "continued", "failure": None}),)
            call = last.model_copy(update={"failure": None if text.strip() else "the completion is empty"})
    if call.failure is not None:
        return Reply(call, "", Reading({}, tuple(signature.output_fields)), others)
    reading = read(signature, text, truncated=call.truncated)
    if call.format == "held":
        reading = replace(reading, how=dict.fromkeys(reading.how, "constrained"))
    if following is not None:
        again = _call_of(lm, *following)
        if again.failure is None:
            rollout = following[1].rollout
            assert rollout is not None
            before = len(reading.missing)
            reading = answered(signature, reading, rollout.text, again.format)
            if len(reading.missing) == before:
                again = again.model_copy(update={"failure": "its JSON has none of the fields that it was asked for"})
        others = (*others, again)
    return Reply(call, text.strip(), reading, others)


def ended_calls(lm: dspy.LM, ended: Sequence[tuple[Job, Result]], last: Job) -> list[Call]:
    """The calls of a turn that was left while its request `last` was under way: those that had ended before it."""
    following = [*(job for job, _ in ended), last][1:]
    found = []
    for (job, result), after in zip(ended, following, strict=True):
        went_on = {} if after.part == JSON_PART else {"finish": "continued", "failure": None}
        found.append(_call_of(lm, job, result).model_copy(update=went_on))
    return found


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
        format="" if rollout is None else rollout.format,
        key=job.key,
        prompt=job.prompt[:12],
        price=price_of(lm),
        same_as=None if result.shared is None else index + result.shared - job.seed,
    )
