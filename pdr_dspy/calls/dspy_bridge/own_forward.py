"""Calls of an LM with its own `forward` (a subclass of `dspy.BaseLM`, deprecated in DSPy 3.4).

They take OpenAI's message dictionaries, and DSPy returns only their texts. DSPy 3.5 no longer calls `forward`: this
file goes then.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import dspy
from dspy.clients._deprecation import adapter_message_call
from dspy.clients.errors import error_boundary
from dspy.clients.legacy_outputs import value
from dspy.clients.lm15_boundary import request_kwargs
from dspy.lm15 import FinishReason, Message, Request, Response, TextPart, ThinkingPart, Usage


def own_way(lm: dspy.BaseLM) -> Literal["sync", "async"] | None:
    """How an LM with its own `forward`, `aforward` or `__call__` is called; None for one that takes a Request."""

    own = _own_methods(type(lm)) | (vars(lm).keys() & _CALL_METHODS)
    if "acall" in own:
        return None
    if "aforward" in own:
        return "async"
    return "sync" if own & {"forward", "__call__"} else None


_CALL_METHODS = frozenset({"acall", "aforward", "forward", "__call__"})


@functools.lru_cache(maxsize=256)
def _own_methods(lm_class: type[dspy.BaseLM]) -> frozenset[str]:
    """The methods of `_CALL_METHODS` that a class does not inherit from DSPy. Cached, since every call needs it."""
    definers = {name: next(cls for cls in lm_class.__mro__ if name in vars(cls)) for name in _CALL_METHODS}
    return frozenset(name for name, cls in definers.items() if cls.__module__.partition(".")[0] != "dspy")


def call_forward(lm: dspy.BaseLM, request: Request) -> Response:
    """One call of an LM's own `forward` or `__call__`."""
    probe, raw = _probe(lm, "forward")
    messages, settings = _legacy_call(lm, request, lm.forward if type(lm).__call__ is dspy.BaseLM.__call__ else lm)
    with adapter_message_call(probe, messages), error_boundary(lm.model, unexpected=True):
        outputs = probe(messages=messages, **settings)
        return _legacy_response(request, raw, outputs)


async def acall_forward(lm: dspy.BaseLM, request: Request) -> Response:
    """One call of an LM's own `aforward`."""
    probe, raw = _probe(lm, "aforward")
    messages, settings = _legacy_call(lm, request, lm.aforward)
    with adapter_message_call(probe, messages), error_boundary(lm.model, unexpected=True):
        outputs = await probe.acall(messages=messages, **settings)
        return _legacy_response(request, raw, outputs)


def _probe(lm: dspy.BaseLM, name: str) -> tuple[dspy.BaseLM, list[Any]]:
    """A copy of an LM, sharing its history, that records the return values of the LM's own `forward` or `aforward`:
    DSPy returns only the texts, without usage and finish reason."""
    kept: list[Any] = []
    method = getattr(lm, name)

    def forward(*args: Any, **kwargs: Any) -> Any:
        kept.append(method(*args, **kwargs))
        return kept[-1]

    async def aforward(*args: Any, **kwargs: Any) -> Any:
        kept.append(await method(*args, **kwargs))
        return kept[-1]

    probe = copy.copy(lm)
    vars(probe)[name] = forward if name == "forward" else aforward
    return probe, kept


def _legacy_call(lm: dspy.BaseLM, request: Request, method: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages and settings of a request as a `forward` takes them: under the names of OpenAI's chat API, without
    those it has no parameter for."""
    settings = request_kwargs(request, "chat")
    messages = settings.pop("messages")
    if "max_completion_tokens" not in lm.kwargs and "max_completion_tokens" in settings:
        settings["max_tokens"] = settings.pop("max_completion_tokens")
    parameters = inspect.signature(method).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        names = {parameter.name for parameter in parameters}
        settings = {name: value for name, value in settings.items() if name in names}
    return messages, settings


def _legacy_response(request: Request, kept: Sequence[Any], outputs: Any) -> Response:
    """The first completion of an OpenAI-shaped response: a mapping, or an object with such attributes."""
    raw = kept[-1] if kept else None
    if isinstance(raw, Response):
        return raw
    output = outputs[0]
    output = output if isinstance(output, dict) else {"text": output}
    choice = next(iter(value(raw, "choices", None) or ()), None)
    finish = value(choice, "finish_reason", None)
    usage = value(raw, "usage", None) or {}
    parts: list[Any] = [TextPart(output.get("text") or "")]
    if output.get("reasoning_content"):
        parts.insert(0, ThinkingPart(output["reasoning_content"]))
    return Response(
        id=None,
        model=request.model,
        message=Message(role="assistant", parts=tuple(parts)),
        finish_reason=_FINISHES.get(str(finish).lower(), "error") if finish else "stop",
        usage=Usage(input_tokens=_count(usage, "prompt_tokens"), output_tokens=_count(usage, "completion_tokens")),
    )


_FINISHES: dict[str, FinishReason] = {
    **{"stop": "stop", "eos": "stop", "end_turn": "stop", "stop_sequence": "stop"},
    **{"length": "length", "max_tokens": "length", "model_length": "length", "content_filter": "content_filter"},
}
"""Finish reasons of a complete completion; with any other it counts as incomplete."""


def _count(usage: Any, name: str) -> int | None:
    """Tokens; None where the LM reports none, or 0, which is impossible for a call."""
    count = value(usage, name, None)
    return count if isinstance(count, int) and count > 0 else None
