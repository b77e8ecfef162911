"""A short second request for fields that could not be read from a turn: the same messages, the model's reply, and a
question for the missing fields, whose answer the server constrains to the schema of their JSON.

The turn before it stays free text: a format never constrains a solution's reasoning. The messages begin with those of
the first request, so a server with a prefix cache reads the turn once.
"""

from __future__ import annotations

import dspy

from pdr_dspy.calls.capabilities import Capabilities
from pdr_dspy.calls.ledger import JSON_PART, FormatFate
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.request import CONTINUED, Fallback, Job, Prompt, Sampling, closed_thought
from pdr_dspy.calls.store import Rollout
from pdr_dspy.prompts.parse import Reading, read
from pdr_dspy.prompts.structured import Structured, closed_fields, completed, structured, to_ask_for

JSON_TOKENS = 512
"""Maximum output tokens of such a request; fewer if the JSON of the fields has a shorter maximum."""
_THOUGHT = 64
"""Additional tokens for a thought where the server ends one itself; elsewhere the turn begins with a closed thought."""
_TEMPLATE = 48
"""Tokens that a chat template may add for two more messages."""
_BROKEN_OFF = ("length", "content_filter", "error")
"""Finish reasons of a turn without an end of its own: no fallback request follows."""


def fallback_of(
    signature: type[dspy.Signature], about: Capabilities, sampling: Sampling, prompt: Prompt
) -> Fallback | None:
    """The parts of a fallback request; None if there is nothing to ask for, or the server cannot enforce the format."""
    return Fallback(signature, prompt.messages, sampling) if _may_ask(signature, about, sampling) else None


def most_tokens(signature: type[dspy.Signature], about: Capabilities, sampling: Sampling) -> int:
    """The maximum tokens of such a request besides the turn that it reads again; 0 if there will be none."""
    if not _may_ask(signature, about, sampling):
        return 0
    wanted = structured(signature, closed_fields(signature))
    return len(wanted.question.encode()) + _TEMPLATE + _sampling(about, sampling, wanted).cap


def asked_again(lm: dspy.LM, job: Job, rollout: Rollout) -> Job | None:
    """The request for fields that could not be read from a turn that ended with this completion; None if all were
    read, or a missing field has no closed form."""
    fallback, about = job.fallback, job.capabilities
    text = "" if fallback is None else fallback.written + rollout.text
    if fallback is None or about is None or rollout.finish in _BROKEN_OFF or not text.strip():
        return None
    names = to_ask_for(fallback.signature, read(fallback.signature, text))
    if not names:
        return None
    wanted = structured(fallback.signature, names)
    messages = [
        *fallback.messages,
        {"role": "assistant", "content": text.strip()},
        {"role": "user", "content": wanted.question},
    ]
    more = None
    if fallback.sampling.thinking and about.thinking_budget == "continue":  # the turn has its thought already
        messages.append({"role": "assistant", "content": closed_thought()})
        more = CONTINUED
    prompt = Prompt(lm, messages, _sampling(about, fallback.sampling, wanted), more, about)
    return prompt.job(job.seed, job.place, part=JSON_PART)


def answered(signature: type[dspy.Signature], reading: Reading, text: str, fate: FormatFate) -> Reading:
    """A reading completed by the reply to such a request; a reply that was not constrained is parsed as usual."""
    names = to_ask_for(signature, reading)
    found = structured(signature, names).read(text)
    if fate == "held" or found:
        how = "constrained" if fate == "held" else "json"
        return completed(signature, reading, found, dict.fromkeys(found, how))
    free = read(signature, text)
    return completed(signature, reading, {name: free.outputs[name] for name in names if name in free.outputs}, free.how)


def _may_ask(signature: type[dspy.Signature], about: Capabilities, sampling: Sampling) -> bool:
    return sampling.json_fallback and "schema" in about.output_formats and bool(closed_fields(signature))


def _sampling(about: Capabilities, sampling: Sampling, wanted: Structured) -> Sampling:
    thought = min(sampling.thinking, _THOUGHT) if about.thinking_budget == "server" else 0
    cap = min(wanted.longest or JSON_TOKENS, JSON_TOKENS)
    form = OutputFormat(schema=wanted.schema, name="fields")
    return Sampling(cap + thought, 0.0, 1.0, thought, form)  # it reads the sampled turn and samples nothing new
