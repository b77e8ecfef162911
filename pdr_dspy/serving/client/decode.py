"""The reply of an OpenAI-compatible server as DSPy's canonical response.

No server output raises anything but an lm15 error here, and values that it did not report stay None.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from dspy import lm15

from pdr_dspy.calls.request import changed
from pdr_dspy.serving.client.encode import error_for_status
from pdr_dspy.serving.client.failures import Foreign
from pdr_dspy.text import clean

EXTENSION = "pdr"
"""Key of `lm15.Response.provider_data` for this client's notes on the exchange."""
_SHARED = "prompt_is_another's"
"""Marks a further choice of a request for n: its prompt is counted with the first."""
_ENDS = (
    *("stop", "end", "eos", "eos_token", "eos_token_id", "end_turn", "end_of_turn", "end_of_text", "endoftext"),
    *("stop_sequence", "stop_token", "stop_word", "stopped", "complete", "completed", "finished", "done", "normal"),
)
_CUTS = (
    *("length", "max_length", "max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens"),
    *("model_length", "token_limit", "length_limit", "context_length_exceeded", "context_window_exceeded"),
    *("model_context_window_exceeded", "max_context_length", "incomplete"),
)
_FILTERS = (
    *("content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
    *("refusal", "guardrail_intervened", "sensitive", "image_safety"),
)
_FINISHES = {
    **dict.fromkeys(_ENDS, "stop"),
    **dict.fromkeys(_CUTS, "length"),
    **dict.fromkeys(_FILTERS, "content_filter"),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), "tool_call"),
}
"""Servers' names of a completion's end, in lower case. Any other name does not count as an end."""
_ERROR_KINDS = (
    (re.compile(r"rate.?limit|too.?many|quota", re.I), 429),
    (re.compile(r"overload|unavailable|busy|capacity|loading", re.I), 503),
    (re.compile(r"time.?out|timed.?out", re.I), 504),
    (re.compile(r"auth|permission|api.?key", re.I), 401),
    (re.compile(r"invalid|bad.?request|context.?length|unsupported", re.I), 400),
)
"""HTTP statuses of the error names in a reply of status 200."""
_MAPPED = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "index", "message", "logprobs", "finish_reason"}
)


_EVENTS = re.compile(rb"\s*(?:\xef\xbb\xbf)?(?:data|event|id|retry)?:")
"""The beginnings of server-sent events; JSON never begins so."""


def read_body(raw: bytes, where: str) -> dict[str, Any]:
    """Return the chat completion of a response body.

    Raises lm15.TransportError for a truncated body, the server's error if it holds one, and Foreign (final) for
    anything else that is not a JSON object.
    """
    if _EVENTS.match(raw):
        return read_stream(raw, where, asked=False)
    try:
        data = _loads(raw)
    except ValueError as error:
        if raw.lstrip()[:1] in (b"{", b""):
            raise lm15.TransportError(f"{where} ended its reply early, after {len(raw)} bytes") from error
        raise Foreign(f"{where} is not OpenAI-compatible: its reply is not JSON") from error
    return _completion(data, raw, where)


def read_stream(raw: bytes, where: str, *, asked: bool = True) -> dict[str, Any]:
    """Fold the server-sent events of one request into a chat completion.

    Each choice carries the usage chunk that came with its finish chunk or directly after it under "usage": llama.cpp
    sends one per choice. A single usage chunk after several choices counts for all of them. A completion sent whole, by
    a server that ignores `stream`, is accepted too.

    Raises as read_body() does; a stream without its end mark was truncated. If the client did not request a stream
    (`asked`), its server may use no such mark, and it is enough that each choice has ended.
    """
    if raw.lstrip()[:1] == b"{":
        return read_body(raw, where)
    data, complete = _folded(raw, where)
    if not complete and (asked or not data["choices"] or not all(each["finish_reason"] for each in data["choices"])):
        raise lm15.TransportError(f"{where} ended its stream early")
    return data


def finished_choices(raw: bytes, where: str) -> dict[int, dict[str, Any]]:
    """By index, the choices that had ended when a stream broke off; empty if nothing can be parsed."""
    try:
        data, _ = _folded(raw[: raw.rfind(b"\n") + 1], where)
    except lm15.LM15Error:
        return {}
    return {choice["index"]: choice for choice in data["choices"] if choice["finish_reason"]}


def _folded(raw: bytes, where: str) -> tuple[dict[str, Any], bool]:
    """A stream as one completion, and whether it has its end mark."""
    choices: dict[int, dict[str, Any]] = {}
    head: dict[str, Any] = {}
    usages: list[Any] = []
    latest: int | None = None
    last: int | None = None
    """The choice before a usage chunk that counts for all choices if none continues after it."""
    complete = False
    for line in raw.removeprefix(b"\xef\xbb\xbf").splitlines():
        field, _, value = line.partition(b":")
        value = value.strip()
        if field == b"error" and value:
            raise error_for_status(500, value.decode("utf-8", "replace"), where=where)
        if field != b"data" or not value:
            continue
        if value == b"[DONE]":
            complete = True
            break
        try:
            chunk = _completion(_loads(value), value, where)
        except ValueError as error:
            raise lm15.TransportError(f"{where} sent a broken stream") from error
        head = head or {"id": chunk.get("id"), "model": chunk.get("model")}
        for part in _dicts(chunk.get("choices")):
            if part.get("error"):
                raise _error_of(part["error"], json.dumps(part["error"], default=str), where)
            index = part.get("index")
            latest, last = index if type(index) is int else 0, None
            _add_delta(choices.setdefault(latest, _empty_choice(latest)), part)
        if chunk.get("usage"):
            usages.append(chunk["usage"])
            if latest is not None and choices[latest]["finish_reason"]:
                choices[latest]["usage"], last = chunk["usage"], latest
    if last is not None and not all("usage" in choice for choice in choices.values()):
        del choices[last]["usage"]
    found = [choices[index] for index in sorted(choices)]
    alone = len(found) == 1 or not any("usage" in choice for choice in found)
    return {**head, "choices": found, **({"usage": usages[-1]} if usages and alone else {})}, complete


def choices_of(data: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The choices of a completion in the order of their index; `failure_of` gives the error in place of a choice.

    Raises lm15.ServerError, which is retried, for an empty list, and Foreign for a malformed choice.
    """
    choices = data.get("choices")
    if choices == []:
        raise lm15.ServerError(f"{where} answered without a completion (`choices` is empty)", status=502)
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Foreign(f"{where} answered without a completion (`choices` is {str(choices)[:200]!r})")
    for choice in choices:
        if choice.get("message") is None and _finish(choice.get("finish_reason")) == "content_filter":
            choice["message"] = {"role": "assistant", "content": ""}  # its content is lost
    failures = [failure_of(choice, where) for choice in choices]
    if all(failures):
        raise next(failure for failure in failures if failure is not None)
    if not all(
        failure or isinstance(choice.get("message"), dict) for choice, failure in zip(choices, failures, strict=True)
    ):
        raise Foreign(f"{where} answered with a choice that has no message")
    return sorted(choices, key=_index) if len(choices) > 1 else choices


def failure_of(choice: Mapping[str, Any], where: str) -> lm15.LM15Error | None:
    """The error that a server sent in place of one choice; None for a completion."""
    error = choice.get("error")
    return _error_of(error, json.dumps(error, default=str), where) if error else None


def by_place(choices: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any] | None]:
    """The choices of a request for `count` completions, each at its index; None where one is missing. Choices without
    usable indices are taken in their order."""
    given = [choice.get("index") for choice in choices]
    indices = [index for index in given if type(index) is int and 0 <= index < count]
    if len(set(indices)) < len(choices):
        indices = list(range(len(choices)))
    placed: list[dict[str, Any] | None] = [None] * count
    for index, choice in zip(indices, choices, strict=True):
        if index < count:
            placed[index] = choice
    return placed


def read_choice(
    data: Mapping[str, Any],
    choice: Mapping[str, Any],
    usage: Any,
    notes: Mapping[str, Any] | None = None,
    *,
    cap: int | None = None,
) -> lm15.Response:
    """Return the response for one choice of a completion.

    `usage` is the server's usage record of this choice; counters that are missing or malformed are None in the
    response. NUL and lone surrogates in the text become U+FFFD: no file, database or later request could carry them. A
    completion without a finish reason that has all the tokens of its `cap` was truncated by it. `notes` go into
    `provider_data` under EXTENSION, beside the fields that a canonical response lacks.
    """
    message = choice["message"]
    parts: list[Any] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str) and thought:
        parts.append(lm15.ThinkingPart(text=clean(thought)))
    text = _text(message.get("content"))
    if text:
        parts.append(changed(_TEXT, text=clean(text)))
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        parts.append(lm15.RefusalPart(text=clean(refusal)))
    if not parts:
        parts.append(lm15.TextPart(text=""))
    name, model = data.get("id"), data.get("model")
    counted = _usage(usage, wrote=bool(text or thought))
    finish = _finish(choice.get("finish_reason"))
    if not choice.get("finish_reason") and cap is not None and (counted.output_tokens or 0) >= cap:
        finish = "length"
    return lm15.Response(
        id=clean(name) if isinstance(name, str) and name else None,
        model=clean(model) if isinstance(model, str) and model else "unknown",
        message=changed(_MESSAGE, parts=tuple(parts)),
        finish_reason=finish,
        usage=counted,
        logprobs=_logprobs(choice.get("logprobs")),
        provider_data=_rest(data, choice, notes),
    )


_TEXT = lm15.TextPart(text="")
_MESSAGE = lm15.Message(role="assistant", parts=(_TEXT,))
_UNKNOWN = lm15.Usage()


def _finish(value: Any) -> Any:
    """The server's finish reason in canonical words. None means that the completion ended by itself; with an unknown
    reason it counts as unfinished."""
    if value is None or value == "":
        return "stop"
    if not isinstance(value, str):
        return "error"
    if value in _FINISHES:
        return _FINISHES[value]
    words = re.sub(r"[\s\-.]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", value.strip())).casefold()
    return _FINISHES.get(re.sub(r"^finish_?reason_", "", words), "error")


def split_usage(
    data: Mapping[str, Any], choices: Sequence[Mapping[str, Any]], *, prompt_each: bool = False
) -> list[dict[str, Any]]:
    """Give each choice its own output tokens, and the prompt, which the server read once, to the first choice.

    With `prompt_each` every choice carries the prompt, for a server that counts it so; cached tokens are reported with
    the first alone. Choices whose output tokens the server does not report separately keep them unknown; all choices do
    if the separate figures do not add up to the total.
    """
    own = [_dict(choice.get("usage")) for choice in choices]
    total = _dict(data.get("usage")) or own[0]
    if not count(total.get("prompt_tokens")):
        total = {**total, "prompt_tokens": None}  # a prompt of 0 tokens is impossible: it was not counted
    if not count(total.get("completion_tokens")):
        total = {**total, "completion_tokens": None}
    counts = [count(each.get("completion_tokens")) for each in own]
    if not any(own):
        counts = [len(ids) if isinstance(ids := choice.get("token_ids"), list) else None for choice in choices]
        counted = count(total.get("completion_tokens"))
        if counted is not None and None not in counts and counted != sum(each or 0 for each in counts):
            counts = [None] * len(counts)
    prompt = count(total.get("prompt_tokens"))
    shares: list[dict[str, Any]] = [
        {
            "prompt_tokens": prompt if prompt is None or prompt_each else 0,
            _SHARED: True,
            "completion_tokens": tokens,
            "completion_tokens_details": each.get("completion_tokens_details"),
        }
        for tokens, each in zip(counts, own, strict=True)
    ]
    shares[0] |= {_SHARED: False, "prompt_tokens": prompt, "prompt_tokens_details": total.get("prompt_tokens_details")}
    return shares


def count(value: Any) -> int | None:
    """A number of tokens; None for anything else: JSON's true, text, fractions, numbers below 0 or implausibly
    large."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**53 else None


def _completion(data: Any, raw: bytes, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise Foreign(f"{where} is not OpenAI-compatible: its reply is not an object")
    error = data.get("error")
    if not error and not data.get("choices"):
        if data.get("object") == "error":  # older vLLM
            error = data
        elif data.get("detail"):  # FastAPI's field for a rejected request
            raise error_for_status(400, raw.decode("utf-8", "replace"), where=where)
    if error:  # with status 200, as some proxies send it
        raise _error_of(error, raw.decode("utf-8", "replace"), where)
    return data


def _error_of(error: Any, text: str, where: str) -> lm15.LM15Error:
    """The error in a reply of status 200."""
    fields = error if isinstance(error, dict) else {}
    for name in ("code", "status", "status_code", "http_status"):
        code = fields.get(name)
        code = int(code) if isinstance(code, str) and code.isdecimal() and len(code) == 3 else code
        if type(code) is int and 400 <= code < 600:
            return error_for_status(code, text, where=where)
    words = " ".join(value for name in ("type", "code", "status") if isinstance(value := fields.get(name), str))
    status = next((status for pattern, status in _ERROR_KINDS if pattern.search(words)), 500)
    return error_for_status(status, text, where=where)


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:  # orjson rejects lone surrogates, broken UTF-8 and NaN; servers send them
        text = raw.decode("utf-8", "replace").lstrip("\ufeff")
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _usage(value: Any, *, wrote: bool) -> lm15.Usage:
    """A server's token counts. 0 for a prompt, or for a text that was `wrote`, means that it did not count."""
    value = _dict(value)
    if not value:
        return _UNKNOWN
    read, written = count(value.get("prompt_tokens")), count(value.get("completion_tokens"))
    total = count(value.get("total_tokens")) or None
    if read == 0 and not value.get(_SHARED):
        read = total = None
    if written == 0 and wrote:
        written = total = None
    if total is None and read is not None and written is not None:
        total = read + written
    prompt, completion = _dict(value.get("prompt_tokens_details")), _dict(value.get("completion_tokens_details"))
    return changed(
        _UNKNOWN,
        input_tokens=read,
        output_tokens=written,
        total_tokens=total,
        reasoning_tokens=count(completion.get("reasoning_tokens")),
        cache_read_tokens=count(prompt.get("cached_tokens")),
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    pieces = (part.get("text") for part in _dicts(content) if part.get("type") == "text")
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _logprobs(value: Any) -> tuple[lm15.TokenLogprob, ...] | None:
    tokens = []
    for entry in _dicts(_dict(value).get("content")):
        tops = [lm15.TopLogprob(**each) for top in _dicts(entry.get("top_logprobs")) if (each := _token(top))]
        if each := _token(entry):
            tokens.append(lm15.TokenLogprob(**each, top=tuple(tops)))
    return tuple(tokens) or None


def _token(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    token, logprob, raw = entry.get("token"), entry.get("logprob"), entry.get("bytes")
    if not isinstance(token, str) or not isinstance(logprob, int | float) or not math.isfinite(logprob):
        return None
    if not isinstance(raw, list) or not all(type(each) is int and each >= 0 for each in raw):
        raw = None
    return {"token": clean(token), "logprob": float(logprob), "bytes": None if raw is None else tuple(raw)}


def _rest(data: Mapping[str, Any], choice: Mapping[str, Any], notes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The fields beyond the canonical ones, and the notes; None if there are neither."""
    rest = {name: value for name, value in data.items() if value is not None and name not in _MAPPED}
    rest |= {name: value for name, value in choice.items() if value is not None and name not in _MAPPED}
    try:
        rest = _plain(rest) if rest else rest
    except RecursionError:
        rest = {}
    return rest | {EXTENSION: dict(notes)} if notes else rest or None


def _plain(value: Any) -> Any:
    """JSON that passes lm15's checks: no infinities, no text that cannot be encoded."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _empty_choice(index: int) -> dict[str, Any]:
    return {"index": index, "finish_reason": None, "message": {"role": "assistant", "content": ""}, "logprobs": None}


def _add_delta(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    delta = _dict(part.get("delta")) or _dict(part.get("message"))  # some send the whole message in one event
    for name in ("content", "reasoning_content", "reasoning"):
        if isinstance(delta.get(name), str) and delta[name]:
            choice["message"][name] = (choice["message"].get(name) or "") + delta[name]
    if part.get("finish_reason"):
        choice["finish_reason"] = part["finish_reason"]
    tokens = _dicts(_dict(part.get("logprobs")).get("content"))
    if tokens:
        choice["logprobs"] = choice["logprobs"] or {"content": []}
        choice["logprobs"]["content"] += tokens


def _index(choice: Mapping[str, Any]) -> int:
    index = choice.get("index")
    return index if type(index) is int else 0


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
