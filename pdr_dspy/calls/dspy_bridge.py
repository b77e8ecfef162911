"""Everything that this library uses of DSPy beyond the names of `dspy` and `dspy.lm15`, and how it calls a model
through DSPy.

All other imports, subclasses and private attributes of DSPy are in this file (a test checks that): adapting to a new
version of DSPy means changing this file. Changes that 3.4 announces for 3.5: `forward` of an LM is no longer called
(the section on LMs with their own `forward` goes), OpenAI's message dictionaries are no longer accepted (only that
section sends them), and `Adapter.format` returns a prompt object (which `prompts/render.py` passes on for a configured
adapter).
A reply from DSPy's own cache (`dspy.LM(cache=True)`, its default) looks like one that was sent and paid for: it carries
the usage of the original call. DSPy reports usage to `dspy.settings.usage_tracker` for sent calls alone, which tells
the two apart. That cache ignores addresses, keys and headers: a request to an LM that has some carries a digest of
them, so that replies of one server are never taken for another's.

An LM with its own `forward` (a subclass of `dspy.BaseLM`, deprecated in DSPy 3.4) is called through it, in a thread if
it has no `aforward`.

An LM with a method `send_directly(request)` (an endpoint's) is called without DSPy's call machinery, which costs 0.4 ms
and two thread switches a call. History and usage tracking are still DSPy's; callbacks, streaming, DSPy's cache and its
retries use DSPy's full call path.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import anyio.from_thread
import dspy
from dspy.clients._deprecation import adapter_message_call
from dspy.clients.backend_selection import CLIENT_KEYS
from dspy.clients.call_result import CallResult, attributes
from dspy.clients.engines.streaming import EngineChunk
from dspy.clients.errors import error_boundary
from dspy.clients.execution import PreparedCall, finalize
from dspy.clients.legacy_outputs import value
from dspy.clients.lm15_boundary import request_kwargs
from dspy.lm15 import FinishReason, Message, Request, Response, TextPart, ThinkingPart, Usage
from dspy.predict.parameter import Parameter
from dspy.teleprompt import Teleprompter

from pdr_dspy.calls.deployment import address, seal

__all__ = [
    "CLIENT_KEYS",
    "Deployment",
    "Listener",
    "Parameter",
    "Sending",
    "Sent",
    "Teleprompter",
    "Tries",
    "call",
    "call_sync",
    "chunk_of",
    "deployment",
    "heard",
    "holds_to_schema",
    "input_names",
    "inputs_marked",
    "post",
    "same_server",
    "send",
    "sending",
    "shared_seed",
    "stream_from_thread",
    "text_of",
    "tries_of",
]

_OURS: ContextVar[bool] = ContextVar("pdr_dspy_sending", default=False)


class Sent(NamedTuple):
    """The reply of a model."""

    response: Response
    reused: bool
    """Whether the reply came from DSPy's cache and nothing was sent."""


class Tries(NamedTuple):
    """How often a request was sent, as the endpoint reports it."""

    tries: int = 1
    unsettled: int = 0
    """Tries, including a failed last one, that the server may have served and counted although its reply was lost:
    connections lost after sending, timeouts, 5xx other than 503."""


def tries_of(outcome: Response | BaseException) -> Tries:
    """The tries behind a response or an error; one try if neither reports any.

    Each response of siblings that shared a request has the tries of that request.
    """
    if isinstance(outcome, Response):
        notes = _notes(outcome)
        return Tries(int(notes.get("tries", 1)), int(notes.get("unsettled", 0)))
    error: BaseException | None = outcome
    while error is not None:
        tally = getattr(error, "tally", None)  # on the lm15 error that caused DSPy's
        if tally is not None:
            return Tries(tally.tries, tally.unsettled)
        error = error.__cause__
    return Tries()


def shared_seed(response: Response) -> int | None:
    """The seed of the sibling whose request also produced this completion, as at temperature 0; None if it has its
    own."""
    seed = _notes(response).get("shared")
    return seed if isinstance(seed, int) else None


def _notes(response: Response) -> Mapping[str, Any]:
    """Notes of an endpoint's client about an exchange, besides the server's reply."""
    notes: Any = (response.provider_data or {}).get("pdr")
    return notes if isinstance(notes, dict) else {}


async def send(lm: dspy.LM, request: Request) -> Sent:
    """Send one request. Raises `dspy.LMError` and its subclasses.

    Its text is streamed (`dspy.streamify`) only inside `heard`; DSPy by itself would stream every call.
    """
    if _direct(lm):
        try:
            response: Response = await lm.send_directly(request)  # type: ignore[attr-defined]
        except Exception:
            with error_boundary(lm.model, unexpected=True):
                raise
        _record(lm, request, response, _extra(lm))
        return Sent(response, False)
    listener = _LISTENER.get()
    with sending(lm) as sent:
        if dspy.settings.send_stream is None:
            response = await call(lm, request)
        elif listener is not None and _streams(lm):
            with dspy.context(send_stream=listener, caller_predict=listener.predictor):
                response = await call(lm, request)
        else:
            with dspy.context(send_stream=None):
                response = await call(lm, request)
            if listener is not None and not sent.reused:
                await listener.text("".join(part.text for part in response.message.parts if part.type == "text"))
        if listener is not None:
            await listener.end()
    return Sent(response, sent.reused)


async def post(lm: dspy.BaseLM, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], Tries]:
    """POST to an endpoint of a server other than completions, such as /classify; return the JSON object of its reply.

    Requires an LM with a method `post(path, body)`, such as one made by `serving.connect`. Raises `dspy.LMError` and
    its subclasses.
    """
    with error_boundary(lm.model, unexpected=True):
        data, notes = await lm.post(path, body)  # type: ignore[attr-defined]
    return data, Tries(int(notes["tries"]), int(notes["unsettled"]))


async def call(lm: dspy.BaseLM, request: Request) -> Response:
    """One awaited call through DSPy. An LM with its own `forward` is called through it."""
    how = _own_way(lm)
    if how == "sync":
        return await asyncio.to_thread(_ask_legacy, lm, request)
    if how == "async":
        return await _aask_legacy(lm, request)
    return await lm.acall(request, **_extra(lm))  # type: ignore[return-value]


def call_sync(lm: dspy.BaseLM, request: Request) -> Response:
    """`call`, for code without an event loop."""
    if _own_way(lm) == "sync":
        return _ask_legacy(lm, request)
    return lm(request, **_extra(lm))  # type: ignore[return-value]


def same_server(lm: dspy.BaseLM) -> int:
    """A number that all copies of one LM share and no other LM of this process has, even of the same name.

    Two LMs of one name may be two models: their pending requests are never joined.
    """
    engine = getattr(lm, "_engine_spec", None)
    return id(lm._engine_store if isinstance(engine, str) else engine if engine is not None else lm)  # type: ignore[attr-defined]


class Deployment(NamedTuple):
    """The destination of an LM's requests, as its settings give it."""

    address: str
    """An address; "" for the provider's default."""
    selectors: Mapping[str, Any]
    """Keys, headers, organizations and the like. Secrets: never shown or stored."""
    known: bool
    """Whether model, address and selectors alone determine the model that answers. False for an engine object and for
    methods that the user has overridden."""


def deployment(lm: dspy.BaseLM) -> Deployment:
    """The destination of an LM's requests, by its settings, the providers declared to DSPy, and the environment."""
    names = {*CLIENT_KEYS, "default_headers"} - {"timeout"}
    given = {name: value for name, value in lm.kwargs.items() if name in names and value is not None}
    bases = [given.pop("api_base", None), given.pop("base_url", None)]
    prefix = lm.model.partition("/")[0] if "/" in lm.model else "openai"
    bases += [os.environ.get(f"{prefix.upper()}_{name}") for name in ("API_BASE", "BASE_URL")]
    bases += [where for providers, where in _declared(lm) if prefix.replace("_", "-") in providers]
    base = next((each for each in bases if each), None)
    if base and "api_key" not in given and (key := os.environ.get(f"{prefix.upper()}_API_KEY")):
        given["api_key"] = key  # a gateway may select the model by it
    engine = getattr(lm, "_engine_spec", None)
    known = isinstance(engine, str) and type(lm).acall is dspy.BaseLM.acall and _own_way(lm) is None
    return Deployment(str(base or ""), given, known and _REPLACED.isdisjoint(vars(lm)))


def _declared(lm: dspy.BaseLM) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names and address of each provider that had been declared to DSPy when the LM was made."""
    for declared in getattr(lm, "_providers", None) or ():
        definition = declared.definition
        if definition.access.base_url:
            yield (definition.id, *definition.aliases), definition.access.base_url


_SCHEMAS: WeakKeyDictionary[dspy.BaseLM, tuple[str, bool]] = WeakKeyDictionary()
"""By LM, together with the model it had."""


async def holds_to_schema(lm: dspy.BaseLM) -> bool:
    """Whether DSPy can make an LM's completions follow a JSON schema. DSPy may look that up in a list of models that
    it has to fetch first: done once for each LM, in a thread."""
    kept = _SCHEMAS.get(lm)
    if kept is None or kept[0] != lm.model:
        supported = _own_way(lm) is None and await asyncio.to_thread(lambda: bool(lm.supports_response_schema))
        kept = _SCHEMAS[lm] = (lm.model, supported)
    return kept[1]


def _extra(lm: dspy.BaseLM) -> dict[str, Any]:
    """Distinguishes equal requests in DSPy's cache: the LM's own `rollout_id`, and the deployment."""
    own = lm.kwargs.get("rollout_id")
    where = deployment(lm) if lm.cache else None
    if where is not None and (where.address or where.selectors):
        place = address(where.address)
        return {"rollout_id": f"{'' if own is None else own}@{place}#{seal(place, where.selectors)}"}
    return {} if own is None else {"rollout_id": own}


class Listener(Protocol):
    """Replaces DSPy's stream for the calls of one predictor."""

    predictor: dspy.Predict

    async def send(self, chunk: Any) -> None:
        """Take one of DSPy's chunks, as it came from the model."""
        ...

    async def text(self, text: str) -> None:
        """Take the text of a call whose model does not stream."""
        ...

    async def end(self) -> None:
        """Called when the call has ended."""
        ...


_LISTENER: ContextVar[Listener | None] = ContextVar("pdr_dspy_listener", default=None)


@contextmanager
def heard(listener: Listener | None) -> Iterator[None]:
    """Send the text of calls made here, and in tasks started from here, to `listener`; None discards it."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def _streams(lm: dspy.LM) -> bool:
    """Whether DSPy can stream the completions of this LM."""
    engine = getattr(lm, "_async_engine_spec", None) or getattr(lm, "_engine_spec", None)
    return engine is not None and (isinstance(engine, str) or hasattr(engine, "stream")) and not _own_way(lm)


def text_of(chunk: Any) -> str | None:
    """The answer's text in one of DSPy's chunks; None for a chunk without any, such as a thought."""
    try:
        return chunk.choices[0].delta.content
    except (AttributeError, IndexError, TypeError):
        return None


def chunk_of(text: str, model: str, predictor: dspy.Predict) -> Any:
    """A chunk with this text for DSPy's stream listeners."""
    choice = attributes({"index": 0, "delta": {"content": text}, "finish_reason": None})
    return EngineChunk(id=None, model=model, predict_id=id(predictor), choices=[choice])


@contextmanager
def stream_from_thread() -> Iterator[None]:
    """Around a synchronous program: forward its chunks to the event loop that waits for them.

    `dspy.streamify` runs a synchronous program in a thread of its loop. Calls run on another loop, and a stream may
    only be written on the loop it belongs to. Without a loop behind the thread, nothing is streamed.
    """
    stream = dspy.settings.send_stream
    if stream is None:
        yield
        return
    try:
        home = anyio.from_thread.run(_running_loop)
    except RuntimeError:
        home = None
    with dspy.context(send_stream=None if home is None else _Relay(stream, home)):
        yield


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


class _Relay(NamedTuple):
    """A stream that may be written from any event loop."""

    stream: Any
    home: asyncio.AbstractEventLoop

    async def send(self, chunk: Any) -> None:
        if asyncio.get_running_loop() is self.home:
            await self.stream.send(chunk)
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.stream.send(chunk), self.home))


# --- LMs with their own `forward`, which DSPy 3.5 no longer supports --------------------------------------------------


def _own_way(lm: dspy.BaseLM) -> Literal["sync", "async"] | None:
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


def _ask_legacy(lm: dspy.BaseLM, request: Request) -> Response:
    probe, raw = _probe(lm, "forward")
    messages, settings = _legacy_call(lm, request, lm.forward if type(lm).__call__ is dspy.BaseLM.__call__ else lm)
    with adapter_message_call(probe, messages), error_boundary(lm.model, unexpected=True):
        outputs = probe(messages=messages, **settings)
        return _legacy_response(request, raw, outputs)


async def _aask_legacy(lm: dspy.BaseLM, request: Request) -> Response:
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


# --- examples -------------------------------------------------------------------------------------------------------


def input_names(example: dspy.Example) -> frozenset[str]:
    """The names declared as an example's inputs, whether or not it has such fields."""
    return frozenset(getattr(example, "_input_keys", None) or ())


def inputs_marked(example: dspy.Example) -> bool:
    """Whether the inputs of an example were declared."""
    return getattr(example, "_input_keys", None) is not None


# --- calls without DSPy's call machinery ------------------------------------------------------------------------------


def _direct(lm: dspy.LM) -> bool:
    """Whether `_record` does everything that DSPy would do for this call."""
    return (
        hasattr(lm, "send_directly")
        and not lm.cache
        and not lm.num_retries
        and not lm.callbacks
        and not dspy.settings.callbacks
        and dspy.settings.send_stream is None
        and type(lm).acall is dspy.BaseLM.acall
        and type(lm).aforward is dspy.LM.aforward
        and _REPLACED.isdisjoint(vars(lm))
    )


_REPLACED = frozenset({"acall", "forward", "aforward"})
"""Methods that a user may have overridden on an LM."""


def _record(lm: dspy.LM, request: Request, response: Response, extra: dict[str, Any]) -> None:
    """Add a call to DSPy's history and usage tracker, as DSPy does."""
    if dspy.settings.disable_history and not dspy.settings.usage_tracker:
        return
    result = CallResult.native(response, model_type=lm.model_type, logprobs=request.config.logprobs is not None)
    result.cost_details = {"kind": "unknown", "reason": "custom engine has no pricing provider"}
    finalize(lm, PreparedCall(None, None, extra, {"model": lm.model}, request, False, 1, True), result)


class Sending:
    """The state of one call to `lm`."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        # An LM that overrides `acall` or `__call__` may report no usage at all.
        own = type(lm).acall is not dspy.BaseLM.acall or type(lm).__call__ is not dspy.BaseLM.__call__
        self.can_reuse = bool(getattr(lm, "cache", False)) and not own
        self.tracker = dspy.settings.usage_tracker
        self.reported = False

    def add_usage(self, lm: str, usage: dict[str, Any]) -> None:
        """Take DSPy's usage report of a sent call; it is passed on to the tracker that was set before."""
        self.reported = True
        if self.tracker:
            self.tracker.add_usage(lm, usage)

    @property
    def reused(self) -> bool:
        """After a call without error: whether the reply came from DSPy's cache and nothing was sent."""
        return self.can_reuse and not self.reported


@contextmanager
def sending(lm: dspy.BaseLM) -> Iterator[Sending]:
    """Around one call to `lm` whose finish reason the caller records: DSPy does not log that it was truncated.

    Other calls, including concurrent ones, are logged as usual.
    """
    call = Sending(lm)
    logger = logging.getLogger("dspy.clients.lm")
    logger.addFilter(_not_ours)  # adding it again has no effect
    token = _OURS.set(True)
    try:
        if call.can_reuse:
            with dspy.context(usage_tracker=call):
                yield call
        else:
            yield call
    finally:
        _OURS.reset(token)


def _not_ours(record: logging.LogRecord) -> bool:
    """Whether DSPy's logger may handle a record: False for the truncation of a call of this library."""
    return not (_OURS.get() and str(record.msg).startswith("LM response was truncated"))
