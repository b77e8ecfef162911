"""One prompt as requests that differ only in their seed: the shared part is built, serialized and hashed once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import dspy
from dspy.lm15 import Config, LM15Error, Message, Request, TextPart, Usage, request_from_openai_chat

from pdr_dspy.calls.capabilities import Capabilities, configured, is_served
from pdr_dspy.calls.dspy_bridge import CLIENT_KEYS
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.calls.output_format import OUTPUT, OutputFormat
from pdr_dspy.calls.store import Addresses, Rollout
from pdr_dspy.errors import ConfigError
from pdr_dspy.text import clean

T = TypeVar("T", Config, Request, Message, TextPart, Usage)


_NO_PLACE = (Phase.DRAFT, 1, 0)


class Sampling(NamedTuple):
    """The sampling settings of a stage's calls."""

    cap: int
    """Maximum output tokens, thinking included."""
    temperature: float
    top_p: float = 1.0
    thinking: int = 0
    """The part of `cap` reserved for a thought, where the endpoint can end one (`Capabilities.thinking_budget`)."""
    output_format: OutputFormat | None = None
    """The format that the text after a thought must have; None for free text."""
    json_fallback: bool = False
    """Whether fields of a closed form that cannot be read from the text are requested separately, as JSON, where the
    server can constrain a completion to it."""

    def most(self, prompt: int, *, continued: bool, fallback: int = 0) -> int:
        """The maximum tokens that a call with a prompt of this size can cost.

        Args:
            prompt: tokens.
            continued: it may take two requests; the second reads the prompt again and the text that the first wrote.
            fallback: tokens that a request for JSON adds to the text it reads again, its own output included; 0 if
                there will be none.
        """
        again = prompt + self.thinking + CLOSING_TOKENS if continued and self.thinking else 0
        return prompt + self.cap + again + (prompt + self.cap + fallback if fallback else 0)


class Job(NamedTuple):
    """One request, ready to send."""

    request: Request
    key: str
    seed: int
    prompt: str
    """Address of everything but the seed: jobs with equal prompts may be siblings."""
    messages: list[dict[str, Any]]
    cap: int
    """Maximum output tokens of this request."""
    rest: Sampling | None = None
    """The sampling of a second request that continues this turn if it is truncated; None for no continuation."""
    part: int = 0
    """1 for such a continuation."""
    place: tuple[Phase, int, int] = _NO_PLACE
    """Phase, round and index, as on its `Call`."""
    capabilities: Capabilities | None = None
    """Capabilities of the LM when the request was built."""
    output_format: OutputFormat | None = None
    """The format of its completion."""
    fallback: Fallback | None = None
    """For a further request for fields that cannot be read from the turn; None for no such request."""


class Fallback(NamedTuple):
    """The parts of a request for the fields that could not be read from a turn."""

    signature: type[dspy.Signature]
    messages: list[dict[str, Any]]
    """Prompt of the turn's first request."""
    sampling: Sampling
    written: str = ""
    """Text of the turn before the request that continues it."""


class Prompt:
    """The part that the calls of one stage with the same messages share."""

    def __init__(
        self,
        lm: dspy.LM,
        messages: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        more: Mapping[str, Any] | None = None,
        capabilities: Capabilities | None = None,
    ) -> None:
        """Build the request of `messages` (OpenAI-shaped) to `lm`, without its seed; `more` are fields that only some
        servers support. Without `capabilities` they are derived from the LM's settings.

        Raises ConfigError if a setting of the LM or a message cannot be sent, or if the LM cannot enforce the output
        format.
        """
        self.capabilities = about = configured(lm) if capabilities is None else capabilities
        self.messages = [_cleaned(message) for message in messages]
        self.sampling, self.rest, extensions = _divided(about, sampling)
        extensions |= more or {}
        settings = _settings(lm, self.sampling)
        addressed = {"model": about.identity, "messages": self.messages, **settings, **extensions}
        where = lm.kwargs.get("api_base") or lm.kwargs.get("base_url")
        if where:  # two servers may serve different weights under one name
            addressed["api_base"] = where
        if self.sampling.output_format is not None:
            addressed["output_format"] = self.sampling.output_format.key
            fields, more_extensions = _formatted(lm, about, self.sampling.output_format)
            settings |= fields
            extensions |= more_extensions
        self.addresses = Addresses(addressed)
        try:
            self.request = _request(lm.model, self.messages, settings)
        except (LM15Error, TypeError, ValueError) as error:
            raise ConfigError(
                f"`dspy.LM({lm.model!r}, ...)` has settings or messages that cannot be sent "
                f"({', '.join(sorted(settings))}): {error}"
            ) from error
        if extensions:
            self.request = extended(self.request, **extensions)

    def job(
        self, seed: int, place: tuple[Phase, int, int] = _NO_PLACE, fallback: Fallback | None = None, part: int = 0
    ) -> Job:
        """The request with this seed; `place`, `fallback` and `part` as on the job."""
        request = changed(self.request, config=changed(self.request.config, seed=seed))
        key, prompt = self.addresses.of(seed), self.addresses.unseeded
        return Job(
            request,
            key,
            seed,
            prompt,
            self.messages,
            self.sampling.cap,
            self.rest,
            part,
            place,
            self.capabilities,
            self.sampling.output_format,
            fallback,
        )


def continuation(lm: dspy.LM, job: Job, rollout: Rollout) -> Job | None:
    """The request that continues a turn truncated by its cap; None if it was not truncated, or nothing of the cap is
    left.

    A truncated thought is closed, as if the model had ended it, and the solution gets its whole cap. A truncated
    solution continues where it stopped, with the rest of its cap: where the server does not count thinking separately,
    the tokens written so far are estimated by their share of the characters.
    """
    if job.rest is None or rollout.finish != "length":
        return None
    thought, text = rollout.thought.strip(), rollout.text.strip()
    written = rollout.usage.output if rollout.usage.output is not None else job.cap
    if not text:
        used = 0
    elif rollout.usage.reasoning is not None:
        used = written - rollout.usage.reasoning
    else:
        used = math.ceil(written * len(text) / (len(text) + len(thought)))
    if not (thought or text) or used >= job.rest.cap:
        return None
    begun = f"{closed_thought(thought)}{text}" if thought else text
    messages = [*job.messages, {"role": "assistant", "content": begun}]
    prompt = Prompt(lm, messages, job.rest._replace(cap=job.rest.cap - used), CONTINUED, job.capabilities)
    fallback = None if job.fallback is None else job.fallback._replace(written=rollout.text.lstrip())
    return prompt.job(job.seed, job.place, fallback, part=1)


def closed_thought(thought: str = "") -> str:
    """The beginning of a model's turn whose thought has ended."""
    return f"<think>\n{thought}\n</think>\n\n"


CONTINUED = {"add_generation_prompt": False, "continue_final_message": True}
"""vLLM's fields; llama.cpp continues a last message of the assistant without any."""
CLOSING_TOKENS = 16
"""Tokens reserved for the tags around a thought."""


def _divided(about: Capabilities, sampling: Sampling) -> tuple[Sampling, Sampling | None, dict[str, Any]]:
    """The sampling of the first request, that of a possible continuation, and additional fields of the request."""
    how = about.thinking_budget if sampling.thinking else None
    if how == "server":
        return sampling, None, {"thinking_token_budget": sampling.thinking}
    if how == "continue":  # a format rules out a thought within the text: it applies after one
        rest = sampling._replace(cap=sampling.cap - sampling.thinking, thinking=0)
        return sampling._replace(cap=sampling.thinking, output_format=None), rest, {}
    return sampling, None, {}


def _formatted(lm: dspy.LM, about: Capabilities, output_format: OutputFormat) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and extensions with which a request carries its format: a `ServedModel` translates it for its
    server, DSPy's own LMs take a JSON schema."""
    if not about.constrains(output_format):
        can = ", ".join(sorted(about.output_formats)) or "no form"
        raise ConfigError(
            f"`{output_format!r}`: {lm.model} cannot constrain a completion to it (it supports {can}); check "
            "`(await capabilities(lm)).constrains(output_format)` first"
        )
    if is_served(lm):
        return {}, {OUTPUT: output_format.wire}
    return {"response_format": output_format.response_format}, {}


def extended(request: Request, **extensions: Any) -> Request:
    """The request with additional extension fields."""
    config = request.config
    return changed(request, config=changed(config, extensions={**(config.extensions or {}), **extensions}))


def changed(value: T, **changes: Any) -> T:
    """A copy of an lm15 value with some fields replaced and not validated: `dataclasses.replace` would validate all
    fields again, which took longer than the rest of a call. Only for fields that are valid by construction."""
    copied = object.__new__(type(value))
    for name, put in _SLOTS[type(value)]:
        put(copied, changes[name] if name in changes else getattr(value, name))
    return copied


_SLOTS = {
    kind: tuple((field.name, getattr(kind, field.name).__set__) for field in fields(kind))
    for kind in (Config, Request, Message, TextPart, Usage)
}
_NOT_ON_THE_WIRE = frozenset({"rollout_id", "n", "num_generations", "seed", "cache"})
"""Settings of an LM that belong to DSPy or are replaced here, and connection settings; none are part of a request."""


def _settings(lm: dspy.LM, sampling: Sampling) -> dict[str, Any]:
    settings = {
        name: value
        for name, value in lm.kwargs.items()
        if value is not None and name not in _NOT_ON_THE_WIRE and name not in CLIENT_KEYS
    }
    if "max_completion_tokens" in lm.kwargs:  # hosted reasoning models take neither a temperature nor max_tokens
        settings["max_completion_tokens"] = sampling.cap
        settings.pop("temperature", None)
    else:
        settings |= {"max_tokens": sampling.cap, "temperature": sampling.temperature, "top_p": sampling.top_p}
    return settings


def _cleaned(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):  # as in the keys of older stores
        return {**message, "content": clean(content, surrogate="?")}
    return {**message, "content": [_cleaned_block(block) for block in content]}


def _cleaned_block(block: Mapping[str, Any]) -> dict[str, Any]:
    if block.get("type") == "text":
        return {**block, "text": clean(block["text"], surrogate="?")}
    if isinstance(block.get("file"), Mapping):  # a canonical request has no field for a file's name
        return {**block, "file": {key: value for key, value in block["file"].items() if key != "filename"}}
    return dict(block)


def _request(model: str, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Request:
    """The request with seed 0. Plain messages bypass lm15's parsing of OpenAI's many message formats."""
    system: str | None = None
    turns: list[Message] = []
    for place, message in enumerate(messages):
        role, content = message["role"], message["content"]
        plain = len(message) == 2 and isinstance(content, str) and content != ""
        if plain and role == "system" and place == 0:
            system = content
        elif plain and role in ("user", "assistant"):
            turns.append(changed(_MESSAGE, role=role, parts=(changed(_TEXT, text=content),)))
        else:
            turns.clear()
            break
    if not turns:
        return request_from_openai_chat({"model": model, "messages": list(messages), **settings, "seed": 0})
    return Request(model=model, messages=tuple(turns), system=system, config=_config(model, settings))


_TEXT = TextPart("")
_MESSAGE = Message(role="user", parts=(_TEXT,))


def _config(model: str, settings: Mapping[str, Any]) -> Config:
    try:
        return _written_config(json.dumps([model, settings]))
    except TypeError:  # a setting that is not JSON
        return _read_config(model, settings)


@lru_cache(maxsize=64)  # a program has a few, each used once per stage
def _written_config(written: str) -> Config:
    return _read_config(*json.loads(written))


def _read_config(model: str, settings: Mapping[str, Any]) -> Config:
    words = [{"role": "user", "content": "?"}]
    return request_from_openai_chat({"model": model, "messages": words, **settings, "seed": 0}).config
