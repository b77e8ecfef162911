"""The short second request for what could not be read out of a turn: the same messages, what the model wrote, and a
question for the missing fields, whose answer the server holds to the schema of their JSON.

The turn before it is free text as ever: a form never touches what a solution reasons. The messages begin as those of
the first request, so that a server with a prefix cache reads the turn once.
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
"""Most output tokens of such a request; fewer where the fields have a longest JSON."""
_THOUGHT = 64
"""On top, room for a thought where the server ends one itself; elsewhere the turn begins with one that is closed."""
_TEMPLATE = 48
"""Room for a chat template's own tokens around two more messages."""
_BROKEN_OFF = ("length", "content_filter", "error")
"""A turn that ended like this did not come to its end: it is not asked what it would have said."""


def fallback_of(
    signature: type[dspy.Signature], about: Capabilities, sampling: Sampling, prompt: Prompt
) -> Fallback | None:
    """What it takes to ask again; None where nothing can be asked for, or the server cannot be held to it."""
    return Fallback(signature, prompt.messages, sampling) if _may_ask(signature, about, sampling) else None


def most_tokens(signature: type[dspy.Signature], about: Capabilities, sampling: Sampling) -> int:
    """The most tokens that such a request takes beside the turn that it reads again; 0 where there will be none."""
    if not _may_ask(signature, about, sampling):
        return 0
    wanted = structured(signature, closed_fields(signature))
    return len(wanted.question.encode()) + _TEMPLATE + _sampling(about, sampling, wanted).cap


def asked_again(lm: dspy.LM, job: Job, rollout: Rollout) -> Job | None:
    """The request for what could not be read out of a turn that ended with this completion; None where all was read,
    or something is missing that has no closed form."""
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
    if fallback.sampling.thinking and about.thinking_budget == "continue":  # it has thought before
        messages.append({"role": "assistant", "content": closed_thought()})
        more = CONTINUED
    prompt = Prompt(lm, messages, _sampling(about, fallback.sampling, wanted), more, about)
    return prompt.job(job.seed)._replace(part=JSON_PART, place=job.place)


def answered(signature: type[dspy.Signature], reading: Reading, text: str, fate: FormatFate) -> Reading:
    """A reading with what a reply to such a request says; one that was not held to its form is read like any other."""
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
    return Sampling(cap + thought, 0.0, 1.0, thought, form)  # it is a reading of what was sampled, not another draw
