"""All that this library takes of DSPy beyond the names of `dspy` and `dspy.lm15`, and how it makes a call through DSPy.

Whatever else of DSPy is imported, subclassed or read from a private attribute is here, and a test holds that: a new
version of DSPy is this file's work. What 3.4 announces for 3.5: `forward` of an LM is no longer asked (the section on
LMs that answer by one goes), OpenAI's message dictionaries are no longer taken (only that section sends them), and
`Adapter.format` returns a prompt of its own (which `prompts/render.py` hands on for a configured adapter).

A reply that DSPy had in its own cache (`dspy.LM(cache=True)`, its default) looks like one that was sent and paid for:
its usage is that of the call that once was. DSPy reports usage to `dspy.settings.usage_tracker` for sent calls alone,
and that tells them apart. That cache knows no addresses, keys and headers: a request to an LM that has some carries a
mark of them, so that the replies of one server are never another's.

An LM that answers by a `forward` of its own (a subclass of `dspy.BaseLM`, deprecated in DSPy 3.4) is asked through it,
in a thread where it has no `aforward`.

An LM with a method `send_directly(request)` (an endpoint's) is asked past DSPy's own road where that would only cost
time: 0.4 ms and two changes of threads a call. History and usage tracking are still DSPy's; whatever else is asked for
(callbacks, streaming, its cache, its retries) takes the long road.
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
    """What came back."""

    response: Response
    reused: bool
    """DSPy's cache had it: nothing was sent."""


class Tries(NamedTuple):
    """How often a request went out, as an endpoint says."""

    tries: int = 1
    unsettled: int = 0
    """Tries, a failed last one included, that the server may have served and counted without its answer coming through:
    connections lost after sending, time-outs, 5xx other than 503."""


def tries_of(outcome: Response | BaseException) -> Tries:
    """What a response, or the error raised in its place, took; one try where nobody says more.

    The responses of siblings that shared a request have that request's tries, each.
    """
    if isinstance(outcome, Response):
        notes = _notes(outcome)
        return Tries(int(notes.get("tries", 1)), int(notes.get("unsettled", 0)))
    error: BaseException | None = outcome
    while error is not None:
        tally = getattr(error, "tally", None)  # on the lm15 error that DSPy's is raised from
        if tally is not None:
            return Tries(tally.tries, tally.unsettled)
        error = error.__cause__
    return Tries()


def shared_seed(response: Response) -> int | None:
    """The seed of the sibling whose request gave this completion too, as at temperature 0; None for one of its own."""
    seed = _notes(response).get("shared")
    return seed if isinstance(seed, int) else None


def _notes(response: Response) -> Mapping[str, Any]:
    """What an endpoint's client says of an exchange, beside the server's answer."""
    notes: Any = (response.provider_data or {}).get("pdr")
    return notes if isinstance(notes, dict) else {}


async def send(lm: dspy.LM, request: Request) -> Sent:
    """Send one request. Raises the errors of `dspy.LMError`'s family.

    Its text goes to a stream (`dspy.streamify`) only inside `heard`; DSPy alone would stream every call there is.
    """
    if _direct(lm):
        with error_boundary(lm.model, unexpected=True):
            response: Response = await lm.send_directly(request)  # type: ignore[attr-defined]
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
    """POST to an endpoint of a server that is no completion, such as /classify; the JSON object that it answers.

    Only an LM with a method `post(path, body)` can, as `serving.connect` makes one. Raises the errors of
    `dspy.LMError`'s family.
    """
    with error_boundary(lm.model, unexpected=True):
        data, notes = await lm.post(path, body)  # type: ignore[attr-defined]
    return data, Tries(int(notes["tries"]), int(notes["unsettled"]))


async def call(lm: dspy.BaseLM, request: Request) -> Response:
    """One call on DSPy's own road, awaited. An LM that answers by a `forward` of its own is asked through it."""
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
    """A number that copies of one LM share and that no other LM of this process has, whatever it is called.

    Two LMs of one name may be two models: their requests are never joined while they are under way.
    """
    engine = getattr(lm, "_engine_spec", None)
    return id(lm._engine_store if isinstance(engine, str) else engine if engine is not None else lm)  # type: ignore[attr-defined]


class Deployment(NamedTuple):
    """What the settings of an LM say of where its requests go."""

    address: str
    """"" for the provider's own."""
    selectors: Mapping[str, Any]
    """Keys, headers, organizations and the like. Secrets: never shown or kept."""
    known: bool
    """Whether model, address and selectors are all that decides who answers. Not so for an engine object and for
    methods of the user's own."""


def deployment(lm: dspy.BaseLM) -> Deployment:
    """Where the requests of an LM go, by its settings, the providers declared to DSPy, and the environment."""
    names = {*CLIENT_KEYS, "default_headers"} - {"timeout"}
    given = {name: value for name, value in lm.kwargs.items() if name in names and value is not None}
    bases = [given.pop("api_base", None), given.pop("base_url", None)]
    prefix = lm.model.partition("/")[0] if "/" in lm.model else "openai"
    bases += [os.environ.get(f"{prefix.upper()}_{name}") for name in ("API_BASE", "BASE_URL")]
    bases += [where for providers, where in _declared(lm) if prefix.replace("_", "-") in providers]
    base = next((each for each in bases if each), None)
    if base and "api_key" not in given and (key := os.environ.get(f"{prefix.upper()}_API_KEY")):
        given["api_key"] = key  # a gateway may choose by it what answers
    engine = getattr(lm, "_engine_spec", None)
    known = isinstance(engine, str) and type(lm).acall is dspy.BaseLM.acall and _own_way(lm) is None
    return Deployment(str(base or ""), given, known and _REPLACED.isdisjoint(vars(lm)))


def _declared(lm: dspy.BaseLM) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names and address of each provider that was declared to DSPy when the LM was made."""
    for declared in getattr(lm, "_providers", None) or ():
        definition = declared.definition
        if definition.access.base_url:
            yield (definition.id, *definition.aliases), definition.access.base_url


_SCHEMAS: WeakKeyDictionary[dspy.BaseLM, tuple[str, bool]] = WeakKeyDictionary()
"""By LM, with the model that it had."""


async def holds_to_schema(lm: dspy.BaseLM) -> bool:
    """Whether DSPy can have completions of an LM held to a JSON schema. It may look that up in a list of models, and
    fetch the list first: done once for each LM, in a thread."""
    kept = _SCHEMAS.get(lm)
    if kept is None or kept[0] != lm.model:
        said = _own_way(lm) is None and await asyncio.to_thread(lambda: bool(lm.supports_response_schema))
        kept = _SCHEMAS[lm] = (lm.model, said)
    return kept[1]


def _extra(lm: dspy.BaseLM) -> dict[str, Any]:
    """What DSPy's cache tells equal requests apart by: the LM's own `rollout_id`, and the deployment."""
    own = lm.kwargs.get("rollout_id")
    where = deployment(lm) if lm.cache else None
    if where is not None and (where.address or where.selectors):
        place = address(where.address)
        return {"rollout_id": f"{'' if own is None else own}@{place}#{seal(place, where.selectors)}"}
    return {} if own is None else {"rollout_id": own}


class Listener(Protocol):
    """Takes the place of DSPy's stream for the calls of one predictor."""

    predictor: dspy.Predict

    async def send(self, chunk: Any) -> None:
        """A chunk of DSPy's, as it came from the model."""
        ...

    async def text(self, text: str) -> None:
        """The text of a call whose model does not stream."""
        ...

    async def end(self) -> None:
        """The call has ended."""
        ...


_LISTENER: ContextVar[Listener | None] = ContextVar("pdr_dspy_listener", default=None)


@contextmanager
def heard(listener: Listener | None) -> Iterator[None]:
    """Calls made here and in tasks started from here send their text to `listener`, or to nobody."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def _streams(lm: dspy.LM) -> bool:
    """Whether DSPy can take a completion of this LM in pieces."""
    engine = getattr(lm, "_async_engine_spec", None) or getattr(lm, "_engine_spec", None)
    return engine is not None and (isinstance(engine, str) or hasattr(engine, "stream")) and not _own_way(lm)


def text_of(chunk: Any) -> str | None:
    """The answer's text in a chunk of DSPy's; None in one that has none, such as a thought."""
    try:
        return chunk.choices[0].delta.content
    except (AttributeError, IndexError, TypeError):
        return None


def chunk_of(text: str, model: str, predictor: dspy.Predict) -> Any:
    """A chunk for DSPy's stream listeners that has this text."""
    choice = attributes({"index": 0, "delta": {"content": text}, "finish_reason": None})
    return EngineChunk(id=None, model=model, predict_id=id(predictor), choices=[choice])


@contextmanager
def stream_from_thread() -> Iterator[None]:
    """Around a synchronous program: its chunks go to the event loop that waits for them.

    `dspy.streamify` runs a synchronous program in a thread of its loop. Calls are made on another loop, and a stream
    may only be written on its own. Where no loop stands behind the thread, nothing is streamed.
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
    """A stream that may be written on any event loop."""

    stream: Any
    home: asyncio.AbstractEventLoop

    async def send(self, chunk: Any) -> None:
        if asyncio.get_running_loop() is self.home:
            await self.stream.send(chunk)
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.stream.send(chunk), self.home))


# --- LMs that answer by a `forward` of their own, which DSPy 3.5 no longer has ----------------------------------------


def _own_way(lm: dspy.BaseLM) -> Literal["sync", "async"] | None:
    """How an LM answers that has its own `forward`, `aforward` or `__call__`; None for one that takes a Request."""

    own = _own_methods(type(lm)) | (vars(lm).keys() & _ROADS)
    if "acall" in own:
        return None
    if "aforward" in own:
        return "async"
    return "sync" if own & {"forward", "__call__"} else None


_ROADS = frozenset({"acall", "aforward", "forward", "__call__"})


@functools.lru_cache(maxsize=256)
def _own_methods(lm_class: type[dspy.BaseLM]) -> frozenset[str]:
    """The methods of `_ROADS` that a class does not have from DSPy. Looked up once: every call asks."""
    definers = {name: next(cls for cls in lm_class.__mro__ if name in vars(cls)) for name in _ROADS}
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
    """A copy of an LM, with its history, that keeps what `forward` or `aforward` of the LM itself returned: DSPy gives
    the texts alone, without usage and finish reason."""
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
    """The messages and settings of a request as a `forward` takes them: by their names of OpenAI's chat API, those left
    out that it has no parameter for."""
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
"""Of any other reason nobody knows that the completion came to its end."""


def _count(usage: Any, name: str) -> int | None:
    """Tokens; None where the LM does not say, or says 0, which no call has."""
    count = value(usage, name, None)
    return count if isinstance(count, int) and count > 0 else None


# --- examples -------------------------------------------------------------------------------------------------------


def input_names(example: dspy.Example) -> frozenset[str]:
    """The fields that were said to be an example's inputs, whether it has them or not."""
    return frozenset(getattr(example, "_input_keys", None) or ())


def inputs_marked(example: dspy.Example) -> bool:
    """Whether it was said which fields of an example are inputs."""
    return getattr(example, "_input_keys", None) is not None


# --- past DSPy's own road --------------------------------------------------------------------------------------------


def _direct(lm: dspy.LM) -> bool:
    """Whether DSPy would do nothing with a call that `_record` does not do."""
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
"""Methods that somebody may have set on an LM of theirs."""


def _record(lm: dspy.LM, request: Request, response: Response, extra: dict[str, Any]) -> None:
    """Tell DSPy's history and usage tracker of a call, as DSPy does."""
    if dspy.settings.disable_history and not dspy.settings.usage_tracker:
        return
    result = CallResult.native(response, model_type=lm.model_type, logprobs=request.config.logprobs is not None)
    result.cost_details = {"kind": "unknown", "reason": "custom engine has no pricing provider"}
    finalize(lm, PreparedCall(None, None, extra, {"model": lm.model}, request, False, 1, True), result)


class Sending:
    """One call to `lm`, as far as it has come."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        # An LM with an `acall` or `__call__` of its own may report no usage at all.
        own = type(lm).acall is not dspy.BaseLM.acall or type(lm).__call__ is not dspy.BaseLM.__call__
        self.can_reuse = bool(getattr(lm, "cache", False)) and not own
        self.tracker = dspy.settings.usage_tracker
        self.reported = False

    def add_usage(self, lm: str, usage: dict[str, Any]) -> None:
        """DSPy's report of a call that was sent; passed on to the tracker that was there before."""
        self.reported = True
        if self.tracker:
            self.tracker.add_usage(lm, usage)

    @property
    def reused(self) -> bool:
        """Once the call has ended without an error: whether DSPy's cache had the reply, and nothing was sent."""
        return self.can_reuse and not self.reported


@contextmanager
def sending(lm: dspy.BaseLM) -> Iterator[Sending]:
    """Around one call to `lm`, whose finish reason the caller records: DSPy does not log that it was truncated.

    Calls outside, also those that run at the same time, are logged as ever.
    """
    call = Sending(lm)
    logger = logging.getLogger("dspy.clients.lm")
    logger.addFilter(_told_elsewhere)  # added once, however often; it lets everything else pass
    token = _OURS.set(True)
    try:
        if call.can_reuse:
            with dspy.context(usage_tracker=call):
                yield call
        else:
            yield call
    finally:
        _OURS.reset(token)


def _told_elsewhere(record: logging.LogRecord) -> bool:
    """Whether DSPy's logger may go on with a record: not with the truncation of a call of ours."""
    return not (_OURS.get() and str(record.msg).startswith("LM response was truncated"))
