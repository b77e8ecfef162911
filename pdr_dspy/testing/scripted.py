"""A test double for models: a function from request to text, behind a real `dspy.LM`.

    def reply(request: ScriptedRequest) -> str | Completion: ...
    with dspy.context(lm=scripted_lm(reply)): ...

It reports usage (words and signs, counted by `count_words`), honours max_tokens, and fails when `reply` raises one of
`dspy.lm15`'s errors. Use it to test programs without a server.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import dspy
from dspy.lm15 import (
    FinishReason,
    Message,
    Request,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamErrorEvent,
    StreamStartEvent,
    TextDelta,
    response_to_events,
)
from dspy.lm15 import Usage as ServedUsage

from pdr_dspy import calls

StreamEvent: TypeAlias = StreamStartEvent | StreamDeltaEvent | StreamEndEvent | StreamErrorEvent


@dataclass(frozen=True)
class ScriptedRequest:
    """A request to a scripted model."""

    system: str
    """The instructions."""
    user: str
    """The last user message: the task's inputs, then the workspace of earlier rounds."""
    seed: int
    cap: int | None
    temperature: float | None
    request: Request

    @property
    def output_format(self) -> calls.OutputFormat | None:
        """The required form of the completion."""
        wire: Any = (self.request.config.extensions or {}).get(calls.OUTPUT)
        return None if wire is None else calls.OutputFormat.of_wire(wire)


@dataclass(frozen=True)
class Completion:
    """A scripted answer with its finish reason, usage, thought and delay."""

    text: str
    finish: str = "stop"
    usage: bool = True
    """False: the server reports no tokens."""
    thought: str = ""
    delay: float = 0.0
    """Determines the order in which siblings end, in arbitrary units; `math.inf` never ends until cancelled."""


Reply = Callable[[ScriptedRequest], "str | Completion"]


@dataclass
class Served:
    """The server's record of its calls, to compare a ledger with."""

    calls: int = 0
    input: int = 0
    output: int = 0
    cancelled: int = 0
    """Requests that were cancelled while they ran; not included in the other figures."""
    requests: list[ScriptedRequest] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class ScriptedLM(dspy.LM, calls.ServedModel):
    """A `dspy.LM` whose engine is a function. Make it with `scripted_lm`."""

    served: Served
    reply: Reply
    """The script."""
    context_length: int | None = None
    thinking_budget: calls.ThinkingBudget = "cap"
    siblings: bool = False
    """Whether drafts of one prompt are marked as siblings; the script answers each separately."""
    output_formats: frozenset[calls.FormatKind] = frozenset()
    """The kinds of `OutputFormat` that it claims to support; the script has to comply."""
    send_directly: Callable[[Request], Awaitable[Response]]
    """Exists only with `scripted_lm(directly=True)`."""

    async def capabilities(self) -> calls.Capabilities:
        """The abilities that the script claims. `known` is False because another script may have the same name."""
        return calls.Capabilities(
            identity=self.model,
            known=False,
            context_length=self.context_length,
            thinking_budget=self.thinking_budget,
            siblings=self.siblings,
            counts_tokens=True,
            output_formats=self.output_formats,
        )

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, as this model counts them."""
        return [count_words(text) for text in texts]

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptedLM:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the script only; the record of served calls begins empty."""
        script = {
            "model": self.model,
            "context_length": self.context_length,
            "output_formats": sorted(self.output_formats),
            "directly": hasattr(self, "send_directly"),
            "kwargs": self.kwargs,
        }
        return _from_script, (self.reply, script)


def scripted_lm(
    reply: Reply,
    *,
    model: str = "scripted/model",
    context_length: int | None = None,
    output_formats: Iterable[calls.FormatKind] = (),
    directly: bool = False,
) -> ScriptedLM:
    """A language model that answers with `reply(request)`, cut at the request's max_tokens.

    `lm.served` records the served calls, input and output tokens, and requests.

    Args:
        reply: the script, from a request to its answer.
        model: the model's name.
        context_length: tokens of prompt and completion together; None if unlimited.
        output_formats: the formats that it claims to support ("schema", "choices", "regex"); the script finds the
            required format in `request.output_format`, and may ignore it.
        directly: receive requests as an endpoint does, without DSPy's layers and their threads, so that siblings end in
            the order of their delays.
    """
    engine = _Engine(reply)
    asynchronous = _AsyncEngine(engine)
    lm = ScriptedLM(model, engine=engine, async_engine=asynchronous, cache=False, num_retries=0)
    lm.served, lm.reply = engine.served, reply
    lm.context_length, lm.output_formats = context_length, frozenset(output_formats)
    if directly:
        lm.send_directly = asynchronous.complete
    return lm


def _from_script(reply: Reply, script: dict[str, Any]) -> ScriptedLM:
    kwargs = script.pop("kwargs")
    lm = scripted_lm(reply, **script)
    lm.kwargs = kwargs
    return lm


def count_words(text: str) -> int:
    """Tokens of a scripted model: words, numbers and signs."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def cut_words(text: str, cap: int) -> str:
    """The first `cap` tokens of a text, as `count_words` counts them."""
    ends = [match.end() for match in re.finditer(r"\w+|[^\w\s]", text)]
    if len(ends) <= cap:
        return text
    return text[: ends[cap - 1]] if cap > 0 else ""


class _Engine:
    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.served = Served()

    def complete(self, request: Request) -> Response:
        scripted = _scripted_request(request)
        answer = self.reply(scripted)
        completion = answer if isinstance(answer, Completion) else Completion(answer)
        return self._response(request, scripted, completion)

    def _response(self, request: Request, scripted: ScriptedRequest, completion: Completion) -> Response:
        text, finish, thought = completion.text, completion.finish, completion.thought
        thinking = count_words(thought)
        unfinished = scripted.cap is not None and thinking > scripted.cap
        if scripted.cap is not None and thinking + count_words(text) > scripted.cap:
            thought, text, finish = cut_words(thought, scripted.cap), cut_words(text, scripted.cap - thinking), "length"
        inputs = count_words(scripted.system) + count_words(scripted.user)
        outputs = count_words(thought) + count_words(text)
        with self.served.lock:
            self.served.calls += 1
            self.served.input += inputs
            self.served.output += outputs
            self.served.requests.append(scripted)
        if thought:
            text = f"<think>{thought}" if unfinished else f"<think>{thought}</think>{text}"
        usage = ServedUsage(input_tokens=inputs, output_tokens=outputs) if completion.usage else ServedUsage()
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text or " "),
            finish_reason=cast("FinishReason", finish),
            usage=usage,
        )

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        """Yield the answer word by word."""
        yield from _events(self.complete(request))

    def close(self) -> None:
        """Does nothing: there is no connection to close."""


class _AsyncEngine:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine

    async def complete(self, request: Request) -> Response:
        import asyncio

        scripted = _scripted_request(request)
        answer = self.engine.reply(scripted)
        completion = answer if isinstance(answer, Completion) else Completion(answer)
        try:
            if completion.delay == math.inf:
                await asyncio.Event().wait()
            for _ in range(int(completion.delay * 50)):
                await asyncio.sleep(0)  # ends later without waiting for a clock
        except asyncio.CancelledError:
            with self.engine.served.lock:
                self.engine.served.cancelled += 1
            raise
        return self.engine._response(request, scripted, completion)

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """Yield the answer word by word."""
        for event in _events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """Does nothing: there is no connection to close."""


def _events(response: Response) -> Iterator[StreamEvent]:
    """The stream events of a response, with its text in words."""
    for event in response_to_events(response):
        if event.type == "delta" and event.delta.type == "text":
            for word in re.findall(r"\s*\S+|\s+$", event.delta.text):
                yield StreamDeltaEvent(delta=TextDelta(text=word, part_index=event.delta.part_index))
        else:
            yield event  # type: ignore


def _scripted_request(request: Request) -> ScriptedRequest:
    def text_of(message: Any) -> str:
        return "".join(part.text for part in message.parts if part.type == "text")

    users = [text_of(message) for message in request.messages if message.role == "user"]
    system = (
        request.system
        if isinstance(request.system, str)
        else "".join(part.text for part in (request.system or ()) if part.type == "text")
    )
    return ScriptedRequest(
        system=system,
        user=users[-1] if users else "",
        seed=request.config.seed or 0,
        cap=request.config.max_tokens,
        temperature=request.config.temperature,
        request=request,
    )
