"""DSPy's canonical requests in OpenAI's chat format, and a server's error as the corresponding lm15 error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

from dspy import lm15

from pdr_dspy.calls.output_format import OUTPUT, FormatKind, OutputFormat
from pdr_dspy.serving.client.models import Server
from pdr_dspy.text import clean

SIBLINGS = "pdr_siblings"
"""Extension key of a request that may share one HTTP request with its siblings; never sent to the server."""

_EXECUTION_KEYS = {"n", "stream", "stream_options", "model", "messages"}
_BEGINNING = 512
"""Characters of the last message: the question, without the workspace that follows it."""
_CONTEXT_WORDS = re.compile(r"context (length|size|window)|maximum context|exceed_context_size|too many tokens", re.I)


@dataclass(frozen=True)
class Wire:
    """One request as it is sent: the JSON body without `n`, and the sibling group it belongs to, if any."""

    body: dict[str, Any]
    group: str | None = None
    size: int = 1

    @property
    def seed(self) -> int | None:
        """The sampling seed of this request; None if the server chooses one."""
        return self.body.get("seed")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken each time, so that the seed has no effect."""
        return self.body.get("temperature") == 0

    @property
    def cap(self) -> int | None:
        """The maximum number of generated tokens."""
        return self.body.get("max_tokens", self.body.get("max_completion_tokens"))

    @property
    def prefix(self) -> int:
        """A number that is equal for requests about the same question."""
        content = self.body["messages"][-1]["content"]
        if not isinstance(content, str):  # the question may be in its images
            texts = "".join(block["text"] for block in content if block["type"] == "text")
            content = texts[:_BEGINNING] + json.dumps([block for block in content if block["type"] != "text"])
            return crc32(content.encode("utf-8", "replace"))
        return crc32(content[:_BEGINNING].encode("utf-8", "replace"))


def wire_request(request: lm15.Request, model: str, *, token_field: str = "max_tokens", kind: str = "other") -> Wire:
    """Return the OpenAI chat body of `request` for the `model` of a `kind` of server ("vllm", "llama.cpp", "other").

    Raises lm15.UnsupportedFeatureError for tools, and for attachments that this format cannot carry, before anything is
    sent.
    """
    if request.tools:
        raise _unsupported("tools", "this endpoint supports no tool calls; use an adapter that writes fields as text")
    config = request.config
    body: dict[str, Any] = {"model": model, "messages": _messages(request)}
    for name in ("max_tokens", "temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty"):
        value = getattr(config, name)
        if value is not None:
            body[token_field if name == "max_tokens" else name] = value
    if config.stop:
        body["stop"] = list(config.stop)
    if config.logprobs is not None:
        body["logprobs"] = True
        # llama.cpp returns nothing for 0 and twenty alternatives when the field is left out.
        body["top_logprobs"] = max(1, config.logprobs)
    if config.response_format is not None:
        body["response_format"] = _response_format(config.response_format)
    if config.reasoning is not None:
        body["reasoning_effort"] = "none" if config.reasoning.is_off else config.reasoning.effort
        if config.reasoning.thinking_budget is not None:
            body["thinking_token_budget"] = config.reasoning.thinking_budget
    extensions = dict(config.extensions or {})
    siblings = extensions.pop(SIBLINGS, None)
    output_format = extensions.pop(OUTPUT, None)
    if isinstance(output_format, dict):
        body.update(_held_to(OutputFormat.of_wire(output_format), kind))
    if refused := _EXECUTION_KEYS & extensions.keys():
        raise _unsupported(
            "config.extensions", f"{sorted(refused)} are set by the endpoint; remove them from the request"
        )
    body.update(extensions)
    if not isinstance(siblings, dict) or body.get("seed") is None:
        return Wire(body)
    return Wire(body, group=str(siblings["group"]), size=int(str(siblings["size"])))


def with_adapter(wire: Wire, adapter: str | None, server: Server | None, *, model: str, where: str) -> Wire:
    """The request for a `model` with the adapter, or without any, in the words of this kind of server.

    Args:
        wire: a request for the model.
        adapter: the adapter's name; None for the model alone.
        server: the server's description of itself; None if it gave none.
        model: the model's name.
        where: the server's address, for messages.

    Raises lm15.UnsupportedModelError if the server says that it has no such adapter.
    """
    kind = "other" if server is None else server.kind
    if server is not None and kind in ("llama.cpp", "vllm") and adapter is not None and not server.has(adapter):
        names = ", ".join(map(repr, server.adapter_names)) or "none"
        remedy = "`--lora-scaled FILE:0`" if kind == "llama.cpp" else "`--lora-modules NAME=PATH`"
        raise lm15.UnsupportedModelError(f"{where} has no adapter {adapter!r}; it has {names}; start it with {remedy}")
    if server is not None and kind == "llama.cpp" and server.adapters:
        return replace(wire, body={**wire.body, "lora": server.scales(adapter)})
    if adapter is None:
        return wire
    # vLLM serves an adapter under its own name; SGLang as one of its model.
    return replace(wire, body={**wire.body, "model": adapter if kind == "vllm" else f"{model}:{adapter}"})


def formats_of(kind: str, *, constrained: bool | None) -> frozenset[FormatKind]:
    """The kinds of output format that a kind of server is asked to enforce; see `EndpointSettings.constrained`."""
    if constrained is False:
        return frozenset()
    formats: dict[str, tuple[FormatKind, ...]] = {
        "vllm": ("schema", "choices", "regex"),
        "llama.cpp": ("schema", "choices"),
    }
    return frozenset(formats.get(kind, ("schema",) if constrained else ()))


def _held_to(output_format: OutputFormat, kind: str) -> dict[str, Any]:
    """The fields that constrain a completion to a format, as this server names them. (vLLM dropped `guided_*` in
    0.12.)"""
    if output_format.kind not in formats_of(kind, constrained=True):
        raise _unsupported(OUTPUT, f"a server of the kind {kind!r} cannot constrain a completion to {output_format!r}")
    if kind == "vllm":
        words = {"schema": "json", "choices": "choice", "regex": "regex"}
        value = {"schema": output_format.schema, "choices": list(output_format.choices), "regex": output_format.regex}
        return {"structured_outputs": {words[output_format.kind]: value[output_format.kind]}}
    if kind == "llama.cpp" and output_format.kind == "choices":
        return {"grammar": "root ::= " + " | ".join(map(_quoted, output_format.choices))}
    if kind == "llama.cpp":
        return {"json_schema": output_format.schema}
    return {"response_format": output_format.response_format}


def _quoted(text: str) -> str:
    """A text as a literal of llama.cpp's grammars."""
    signs = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(signs.get(sign, sign) for sign in text) + '"'


_QUOTA = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|(?:out of|not enough|no) credits?\b|billing_hard_limit"
    r"|credit balance is too low|billing[_ ](?:not[_ ]active|limit[_ ]reached)",
    re.IGNORECASE,
)


def error_for_status(status: int, text: str, *, retry_after: float | None = None, where: str = "") -> lm15.LM15Error:
    """Return the lm15 error for an HTTP status, with the server's own sentence as its message."""
    sentence = _sentence(text) or f"HTTP {status}"
    message = f"{where} answered {status}: {sentence}" if where else sentence
    kwargs: dict[str, Any] = {"status": status, "retry_after": retry_after}
    if status == 402 or (status in (403, 429) and _QUOTA.search(text)):  # waiting does not help
        return lm15.BillingError(message, **kwargs)
    if status in (401, 403):
        return lm15.AuthError(message, credential_hint="pass `api_key=` to connect()", **kwargs)
    if status in (408, 504):
        return lm15.TimeoutError(message, **kwargs)
    if status == 429:
        return lm15.RateLimitError(message, **kwargs)
    if status == 404 and "model" in sentence.lower():
        return lm15.UnsupportedModelError(message, **kwargs)
    if status in (404, 405) and where and not re.search(r"/v\d+(/|$)", where):
        message += f". Did you mean {where}/v1 as `api_base`?"
    if status == 400 and "max_completion_tokens" in sentence:
        message += '. Pass `connect(token_field="max_completion_tokens")`'
    if 400 <= status < 500:
        kind = lm15.ContextLengthError if _CONTEXT_WORDS.search(text) else lm15.InvalidRequestError
        return kind(message, **kwargs)
    return lm15.ServerError(message, **kwargs)


def _messages(request: lm15.Request) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if request.system is not None:
        system = request.system if isinstance(request.system, str) else _text(request.system)
        messages.append({"role": "system", "content": system})
    for message in request.messages:
        role = "system" if message.role == "developer" else message.role
        if role == "tool":
            raise _unsupported("messages", "this endpoint supports no tool results")
        messages.append({"role": role, "content": _content(message.parts)})
    return messages


def _content(parts: Any) -> str | list[dict[str, Any]]:
    """Parts as one text, or as blocks if one of them is an image, a recording or a file."""
    if all(isinstance(part, lm15.TextPart | lm15.ThinkingPart) for part in parts):
        return _text(parts)
    return [_block(part) for part in parts if not isinstance(part, lm15.ThinkingPart)]


def _block(part: Any) -> dict[str, Any]:
    if isinstance(part, lm15.TextPart):
        return {"type": "text", "text": part.text}
    data = part.data if hasattr(part, "data") and part.data is not None else None
    uri = None if data is None else f"data:{part.media_type};base64,{data}"
    if isinstance(part, lm15.ImagePart) and (part.url or uri):
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": part.url or uri, **detail}}
    if isinstance(part, lm15.VideoPart) and (part.url or uri):  # vLLM's format
        return {"type": "video_url", "video_url": {"url": part.url or uri}}
    if isinstance(part, lm15.AudioPart) and data is not None:
        kind = part.media_type.rpartition("/")[2]
        return {"type": "input_audio", "input_audio": {"data": data, "format": _SOUNDS.get(kind, kind)}}
    if isinstance(part, lm15.DocumentPart) and (uri or part.file_id):
        return {"type": "file", "file": {"file_data": uri} if uri else {"file_id": part.file_id}}
    raise _unsupported(f"{part.type} parts", "this endpoint supports text, images, recordings and files only")


_SOUNDS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav"}


def _text(parts: Any) -> str:
    texts = []
    for part in parts:
        if isinstance(part, lm15.TextPart):
            texts.append(part.text)
        elif not isinstance(part, lm15.ThinkingPart):  # earlier thoughts are not sent back
            raise _unsupported(f"{part.type} parts", "this endpoint supports text only")
    return "\n".join(texts)


def _response_format(value: Mapping[str, Any]) -> dict[str, Any]:
    if value["type"] == "json_object":
        return {"type": "json_object"}
    schema = {"name": value.get("name", "output"), "schema": value["schema"]}
    if "strict" in value:
        schema["strict"] = value["strict"]
    return {"type": "json_schema", "json_schema": schema}


def _sentence(text: str) -> str:
    """The message of an error body: OpenAI's envelope, FastAPI's `detail`, or the beginning of any other body."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return " ".join(clean(text).split())[:300]
    for _ in range(3):
        if not isinstance(data, dict):
            break
        inner = next((data[key] for key in ("error", "message", "detail") if data.get(key)), None)
        if inner is None:
            break
        data = inner
    return " ".join(clean(data if isinstance(data, str) else json.dumps(data)).split())[:1000]


def _unsupported(feature: str, why: str) -> lm15.LM15Error:
    return lm15.UnsupportedFeatureError(f"`{feature}`: {why}", feature=feature)
