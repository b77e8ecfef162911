"""OpenTelemetry spans: one for each run of a program, for each of its rounds and for each request that is sent.

    from opentelemetry import trace
    trace.set_tracer_provider(provider)     # the application's; any exporter

No other setup is needed: if a tracer provider is set, spans go to it. If none is, nothing of OpenTelemetry is imported
here, and a call costs one look-up in `sys.modules`. Names follow the semantic conventions for generative AI (version
1.41, in development); names that are not in them begin with `pdr.`. A call replayed from the store sent nothing and has
no span; it counts in the figures of its round.

Texts are recorded only if `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` enables them in spans: `span_only`,
`span_and_event`, or `true` as in earlier conventions. A request's span then has the messages sent and the reply, with
its thought separate; a run's span its inputs and its solution; a round's span the workspaces made from it. Messages are
JSON in the conventions' format; content other than text, such as an image, is named but not recorded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from pdr_dspy.calls.ledger import Call, Ledger, Usage
from pdr_dspy.prompts.content import plain_text
from pdr_dspy.text import clean

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, Tracer

    from pdr_dspy.calls.request import Job

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The environment variable of the conventions."""


class Report(Protocol):
    """Takes the outcome of a request."""

    def __call__(
        self, usage: Usage, finish: str, failure: str | None, tries: int, text: str = "", thought: str = ""
    ) -> None:
        """Tokens, the finish reason, the failure, the number of tries, and the reply."""
        ...


def program(
    name: str, schedule: Any, ledger: Callable[[], Ledger], inputs: Mapping[str, Any]
) -> AbstractContextManager[Callable[[str, str], None]]:
    """Around one run of a program; yields a function that takes the run's stop reason and its solution.

    `ledger` returns the calls made by the time the span ends; an error with an attribute `ledger` provides them too.
    `inputs` are the task's. The span has `schedule` as text.
    """
    tracer = _tracer()
    if tracer is None:
        return _SILENT
    attributes = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": name,
        "pdr.schedule": str(schedule),
    }
    if captured():
        texts = {field: clean(plain_text(value)) for field, value in inputs.items()}
        asked = next(iter(texts.values())) if len(texts) == 1 else _json(texts)
        attributes["gen_ai.input.messages"] = _json([_message("user", asked)])
    return _program(tracer, f"invoke_workflow {name}", attributes, ledger)


def round_(
    number: int, drafts: int, ledger: Callable[[], Ledger]
) -> AbstractContextManager[Callable[[Sequence[str]], None]]:
    """Around one round: its drafts, and the calls that distil them; yields a function that takes the workspaces."""
    tracer = _tracer()
    if tracer is None:
        return _SILENT
    return _round(tracer, f"round {number}", {"pdr.round": number, "pdr.drafts": drafts}, ledger)


def call(model: str, job: Job) -> AbstractContextManager[Report]:
    """Around one request, its retries included; yields a function that takes its outcome."""
    tracer = _tracer()
    return _SILENT if tracer is None else _call(tracer, model, job)


_SILENT: AbstractContextManager[Callable[..., None]] = nullcontext(lambda *_: None)


def captured() -> bool:
    """Whether texts are recorded in spans."""
    return os.environ.get(CAPTURE, "").strip().lower() in ("true", "1", "span_only", "span_and_event")


def _tracer() -> Tracer | None:
    """The tracer of the provider that the application has set; None if it has set none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    return provider.get_tracer("pdr_dspy")


@contextmanager
def _program(
    tracer: Tracer, name: str, attributes: dict[str, Any], ledger: Callable[[], Ledger]
) -> Iterator[Callable[[str, str], None]]:
    with _with_figures(tracer, name, attributes, ledger) as span:

        def ended(stop: str, solution: str) -> None:
            span.set_attribute("pdr.stop", stop)
            if captured():
                message = _message("assistant", solution)
                span.set_attribute("gen_ai.output.messages", _json([{**message, "finish_reason": "stop"}]))

        yield ended


@contextmanager
def _round(
    tracer: Tracer, name: str, attributes: dict[str, Any], ledger: Callable[[], Ledger]
) -> Iterator[Callable[[Sequence[str]], None]]:
    with _with_figures(tracer, name, attributes, ledger) as span:

        def made(workspaces: Sequence[str]) -> None:
            if captured():
                span.set_attribute("pdr.workspaces", list(workspaces))

        yield made


@contextmanager
def _with_figures(
    tracer: Tracer, name: str, attributes: dict[str, Any], ledger: Callable[[], Ledger]
) -> Iterator[Span]:
    before = len(ledger().calls)
    with tracer.start_as_current_span(name, attributes=attributes) as span:
        try:
            yield span
        finally:
            span.set_attributes(figures(ledger().calls[before:]))


def figures(calls: Iterable[Call]) -> dict[str, int | bool]:
    """The figures of some calls of a ledger as attributes of a span."""
    ledger = Ledger(calls=tuple(calls))
    return {
        "gen_ai.usage.input_tokens": sum(call.usage.input or 0 for call in ledger.calls),
        "gen_ai.usage.output_tokens": ledger.output,
        "pdr.tokens.sequential": ledger.sequential,
        "pdr.tokens.total": ledger.total,
        "pdr.tokens.paid": ledger.paid,
        "pdr.calls": len(ledger),
        "pdr.calls.reused": ledger.reused,
        "pdr.calls.failed": ledger.failed,
        "pdr.calls.truncated": ledger.truncated,
        "pdr.calls.cancelled": ledger.cancelled,
        "pdr.exact": ledger.exact,
    }


@contextmanager
def _call(tracer: Tracer, model: str, job: Job) -> Iterator[Report]:
    trace = sys.modules["opentelemetry.trace"]
    kind: SpanKind = trace.SpanKind.CLIENT
    config = job.request.config
    phase, round_number, index = job.place
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": model.partition("/")[0],
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": job.cap,
        "gen_ai.request.temperature": config.temperature,
        "gen_ai.request.top_p": config.top_p,
        "gen_ai.request.seed": job.seed,
        "pdr.phase": str(phase),
        "pdr.round": round_number,
        "pdr.index": index,
        "pdr.part": job.part,
        "pdr.key": job.key,
        **(_sent(job.messages) if captured() else {}),
    }
    with tracer.start_as_current_span(f"chat {model}", kind=kind, attributes=_known(attributes)) as span:

        def report(
            usage: Usage, finish: str, failure: str | None, tries: int, text: str = "", thought: str = ""
        ) -> None:
            span.set_attributes(
                _known(
                    {
                        "gen_ai.usage.input_tokens": usage.input,
                        "gen_ai.usage.output_tokens": usage.output,
                        "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
                        "gen_ai.usage.cache_read.input_tokens": usage.cached,
                        "gen_ai.response.finish_reasons": [finish],
                        "pdr.tries": tries,
                        "error.type": None if failure is None else failure.partition(":")[0],
                    }
                )
            )
            if failure is not None:
                span.set_status(trace.StatusCode.ERROR, failure)
            elif captured():
                span.set_attribute("gen_ai.output.messages", _json([_reply(text, thought, finish)]))

        yield report


def _sent(messages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The messages of a request, system messages separate."""
    system = [part for one in messages if one["role"] == "system" for part in _parts(one["content"])]
    rest = [{"role": one["role"], "parts": _parts(one["content"])} for one in messages if one["role"] != "system"]
    return {**({"gen_ai.system_instructions": _json(system)} if system else {}), "gen_ai.input.messages": _json(rest)}


def _reply(text: str, thought: str, finish: str) -> dict[str, Any]:
    parts = [{"type": "reasoning", "content": thought}] if thought else []
    return {"role": "assistant", "parts": [*parts, {"type": "text", "content": text}], "finish_reason": finish}


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": _parts(text)}


def _parts(content: Any) -> list[dict[str, Any]]:
    """A message's content: its texts, and the kinds of its other blocks."""
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    return [
        {"type": "text", "content": block["text"]} if block.get("type") == "text" else {"type": str(block.get("type"))}
        for block in content or ()
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
