"""Concurrent predictor calls: seeded, bounded in flight, replayed from the store, recorded.

`ask` is the only place where a program calls a model. It sends `dspy.lm15.Request`s through the predictor's own
`dspy.LM`, so DSPy's history, callbacks and usage tracking work as usual, and every reply carries its finish reason and
usage. Traces are written in the order of the indices, whatever the order in which the replies came.
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
from pdr_dspy.prompts.content import distinct_text
from pdr_dspy.prompts.parse import Reading, read
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import signature_of

CUT_THOUGHT = "the cap ended it inside its thought"
"""The failure of a call that never reached its solution."""


class Reply(NamedTuple):
    """One turn and the fields parsed from it."""

    call: Call
    """The call that determined how the turn ended."""
    text: str
    """The text after any thought; empty when the call failed."""
    reading: Reading
    others: tuple[Call, ...] = ()
    """The other calls of a turn with several requests."""

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls for the ledger, in the order in which they were sent."""
        return tuple(sorted((self.call, *self.others), key=lambda call: call.part))


def identity(inputs: Mapping[str, Any]) -> str:
    """The identity of a question: the hash of its inputs."""
    return address({"inputs": {key: distinct_text(value) for key, value in inputs.items()}})[:16]


def serving(predictor: dspy.Predict) -> dspy.LM:
    """The LM that a predictor uses: its schedule's choice, its own, or DSPy's. Raises ConfigError if there is none."""
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
    """Make one call for each of `inputs`, concurrently, and return the replies in that order.

    The failure of a call (of the server or network, or an empty completion) is recorded in its `Call`, never raised.

    Args:
        predictor: holds signature, demonstrations and, optionally, its own LM.
        inputs: the input fields of each call.
        site: the purpose, round, question and run of the calls; it determines their seeds.
        sampling: cap in output tokens, temperature, top-p, and the output format, if any.
        streamed: whether a single call is streamed to the listeners of `dspy.streamify`, and whether it writes the
            answer.
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
    """The requests that `ask` makes of its arguments, and the LM they go to. No completion is requested, but the LM's
    server may be queried for its identity, which is part of the requests' keys.

    Raises ConfigError for arguments that cannot be sent, EndpointError if the server now serves another model.
    """
    lm = serving(predictor)
    about = await capabilities(lm)
    base = site.seed(lm.kwargs.get("rollout_id"))
    prompts: dict[Any, Prompt] = {}
    fallbacks: dict[Any, Fallback | None] = {}
    jobs: list[Job] = []
    for index, values in enumerate(inputs):
        same = tuple((name, id(value)) for name, value in values.items())
        if same not in prompts:  # siblings share one prompt, formatted once
            messages = render(signature_of(predictor), predictor.demos, values)
            prompts[same] = Prompt(lm, messages, sampling, capabilities=about)
            fallbacks[same] = fallback_of(signature_of(predictor), about, sampling, prompts[same])
        place = (site.phase, site.round, index)
        jobs.append(prompts[same].job(base + index)._replace(place=place, fallback=fallbacks[same]))
    return lm, jobs


def tell(predictor: dspy.Predict, inputs: Mapping[str, Any], reply: Reply, now: Session) -> None:
    """Report a finished call: to the session's listener, and to DSPy's trace if an answer could be read from the text
    that the model wrote freely. Fallback requests are in no trace: optimizers train on traces."""
    if now.on_call is not None:
        for call in reply.calls:
            if call.sent:
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
    """The record of the call, or of all calls of the turn, with the fields that could be read from the completion."""
    signature = signature_of(predictor)
    call = _call_of(lm, job, result)
    text = "" if result.rollout is None else result.rollout.text
    others: tuple[Call, ...] = ()
    following = result.rest
    if following is not None and following[0].part != JSON_PART:
        rest_job, rest = following
        following = rest.rest
        last = _call_of(lm, rest_job, rest)
        if rest.rollout is None:  # only the first request gave a completion
            if call.failure is not None:
                call = call.model_copy(update={"failure": f"{call.failure}, continuation failed: {last.failure}"})
            others = (last,)
        else:
            begun = "" if rest_job.output_format is not None else text.lstrip()  # a format contains the whole answer
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
                again = again.model_copy(update={"failure": "its JSON has none of the requested fields"})
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
