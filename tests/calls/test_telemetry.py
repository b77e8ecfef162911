"""Spans of programs, rounds and requests, and that there are none where nobody wants them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import dspy
import pytest
from dspy.lm15 import RateLimitError
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pdr_dspy import calls
from pdr_dspy.calls import telemetry
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.testing import ScriptedRequest
from tests.support.solver import engine, role_of, solver

PROGRAM = PDR("question -> answer", widths=(3, 1), distiller="summary", draft_tokens=60)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What an application's exporter is given. OpenTelemetry's provider can be set only once in a process."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def by_name(spans: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parents(children: Sequence[ReadableSpan]) -> set[int]:
    return {child.parent.span_id for child in children if child.parent is not None}


def own(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def test_a_run_has_a_span_each_round_and_each_request_with_the_ledgers_figures(spans: InMemorySpanExporter) -> None:
    with dspy.context(lm=engine()):
        ledger = PROGRAM(question="q").ledger
    named = by_name(spans)
    (run,), first, second = named["invoke_workflow PDR"], named["round 1"][0], named["round 2"][0]
    chats = named["chat scripted/model"]
    assert run.parent is None
    assert parents([first, second]) == {own(run)}
    assert [len([each for each in chats if parents([each]) == {own(round_)}]) for round_ in (first, second)] == [4, 1]
    figures = told(run)
    assert figures["pdr.tokens.sequential"] == ledger.sequential
    assert figures["pdr.tokens.total"] == ledger.total
    assert (figures["pdr.calls"], figures["pdr.stop"], figures["pdr.exact"]) == (5, "done", True)
    assert sum(told(each)["pdr.tokens.sequential"] for each in (first, second)) == ledger.sequential
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.get_finished_spans())
    sent = {(told(each)["pdr.phase"], told(each)["pdr.round"], told(each)["pdr.index"]): each for each in chats}
    for call in ledger.calls:
        chat = sent[call.phase.value, call.round, call.index]
        assert chat.kind is SpanKind.CLIENT
        expected = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "scripted",
            "gen_ai.request.model": "scripted/model",
            "gen_ai.request.max_tokens": call.cap,
            "gen_ai.request.temperature": 1.0,
            "gen_ai.request.seed": call.seed,
            "gen_ai.usage.input_tokens": call.usage.input,
            "gen_ai.usage.output_tokens": call.usage.output,
            "gen_ai.response.finish_reasons": (call.finish,),
            "pdr.key": call.key,
            "pdr.tries": 1,
        }
        assert told(chat).items() >= expected.items()


@pytest.mark.parametrize("wanted", ["true", "TRUE", "1", "span_only", "SPAN_AND_EVENT"])
def test_texts_are_in_spans_where_they_are_asked_for(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv(telemetry.CAPTURE, wanted)
    with dspy.context(lm=engine()):
        prediction = PROGRAM(question="what is it?")
    named = by_name(spans)
    (run,) = named["invoke_workflow PDR"]
    assert messages(run, "input") == [{"role": "user", "parts": [{"type": "text", "content": "what is it?"}]}]
    said = [{"type": "text", "content": prediction.solution}]
    assert messages(run, "output") == [{"role": "assistant", "parts": said, "finish_reason": "stop"}]
    first, second = prediction.rounds
    assert told(named["round 1"][0])["pdr.workspaces"] == tuple(workspace.text for workspace in first.workspaces)
    assert "pdr.workspaces" not in told(named["round 2"][0])
    chats = {
        (told(one)["pdr.phase"], told(one)["pdr.round"], told(one)["pdr.index"]): one
        for one in named["chat scripted/model"]
    }
    for draft in (*first.drafts, *second.drafts):
        chat = chats["draft" if draft.round == 1 else "refine", draft.round, draft.index]
        (out,) = messages(chat, "output")
        assert out["parts"] == [{"type": "text", "content": draft.solution}]
        system = json.loads(told(chat)["gen_ai.system_instructions"])
        assert all(part["type"] == "text" for part in system)
        sent = messages(chat, "input")
        assert sent[-1]["role"] == "user"
        assert "what is it?" in sent[-1]["parts"][0]["content"]
    assert first.workspaces[0].text in messages(chats["refine", 2, 0], "input")[-1]["parts"][0]["content"]


def messages(span: ReadableSpan, which: str) -> Any:
    return json.loads(told(span)[f"gen_ai.{which}.messages"])


@pytest.mark.parametrize("unwanted", [None, "", "false", "0", "no_content", "event_only", "something"])
def test_texts_are_in_no_span_otherwise(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, unwanted: str | None
) -> None:
    monkeypatch.delenv(telemetry.CAPTURE, raising=False)
    if unwanted is not None:
        monkeypatch.setenv(telemetry.CAPTURE, unwanted)
    with dspy.context(lm=engine(lambda request: f"a secret {solver(request)}")):
        PROGRAM(question="a secret question")
    for span in spans.get_finished_spans():
        assert "secret" not in str(told(span))
        assert not [name for name in told(span) if "messages" in name or name == "pdr.workspaces"]


def test_a_thought_is_apart_and_an_image_is_named(spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(telemetry.CAPTURE, "true")
    image = dspy.Image("data:image/png;base64," + "A" * 3000)
    with dspy.context(lm=engine(lambda _: "<think>hm \ud800</think>Answer: 4")):
        LongCoT("picture: dspy.Image, question -> answer")(picture=image, question="how many \ud800?")
    named = by_name(spans)
    (chat,) = named["chat scripted/model"]
    parts = messages(chat, "output")[0]["parts"]
    assert [part["type"] for part in parts] == ["reasoning", "text"]
    assert parts[0]["content"].startswith("hm")
    assert "AAAA" not in str([told(span) for span in spans.get_finished_spans()])
    assert "[image_url]" in told(named["invoke_workflow LongCoT"][0])["gen_ai.input.messages"]
    for span in spans.get_finished_spans():
        str(told(span)).encode()  # what an exporter can write


def test_a_failure_is_the_status_of_its_request_and_of_a_run_that_ends_with_it(spans: InMemorySpanExporter) -> None:
    def one_fails(request: ScriptedRequest) -> str:
        if role_of(request) == "draft" and request.seed % 2:
            raise RateLimitError("slow down")
        return solver(request)

    def down(request: ScriptedRequest) -> str:
        raise RateLimitError("slow down")

    with dspy.context(lm=engine(one_fails)):
        PROGRAM(question="q")
    named = by_name(spans)
    failed = [each for each in named["chat scripted/model"] if each.status.status_code is StatusCode.ERROR]
    assert {told(each)["error.type"] for each in failed} == {"LMRateLimitError"}
    assert "slow down" in (failed[0].status.description or "")
    assert named["invoke_workflow PDR"][0].status.status_code is StatusCode.UNSET
    assert told(named["invoke_workflow PDR"][0])["pdr.calls.failed"] == len(failed) == 1
    spans.clear()
    with dspy.context(lm=engine(down)), pytest.raises(RoundFailed):
        PROGRAM(question="q")
    named = by_name(spans)
    for name in ("invoke_workflow PDR", "round 1"):
        assert named[name][0].status.status_code is StatusCode.ERROR
        assert told(named[name][0])["pdr.calls.failed"] == 3


def test_replayed_calls_have_no_span_and_are_counted(spans: InMemorySpanExporter) -> None:
    with dspy.context(lm=engine()), calls.session(store=Rollouts()):
        PROGRAM(question="q")
        spans.clear()
        PROGRAM(question="q")
    named = by_name(spans)
    assert set(named) == {"invoke_workflow PDR", "round 1", "round 2"}
    figures = told(named["invoke_workflow PDR"][0])
    assert (figures["pdr.calls"], figures["pdr.calls.reused"], figures["pdr.tokens.paid"]) == (5, 5, 0)


def test_programs_side_by_side_keep_their_spans_apart(spans: InMemorySpanExporter) -> None:
    async def both() -> None:
        await asyncio.gather(*(PROGRAM.acall(question=question) for question in "ab"))

    with dspy.context(lm=engine()):
        asyncio.run(both())
    named = by_name(spans)
    for run in named["invoke_workflow PDR"]:
        rounds = [each for name in ("round 1", "round 2") for each in named[name] if parents([each]) == {own(run)}]
        assert len(rounds) == 2
        ids = {own(each) for each in rounds}
        assert len([chat for chat in named["chat scripted/model"] if parents([chat]) <= ids]) == 5


def test_a_span_of_the_application_is_the_parent(spans: InMemorySpanExporter) -> None:
    tracer = trace.get_tracer_provider().get_tracer("application")
    with dspy.context(lm=engine()), tracer.start_as_current_span("request") as outer:
        LongCoT("question -> answer")(question="q")
    assert parents(by_name(spans)["invoke_workflow LongCoT"]) == {outer.get_span_context().span_id}


@pytest.mark.parametrize("provider", [trace.ProxyTracerProvider(), trace.NoOpTracerProvider()])
def test_without_a_provider_nothing_is_made(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    assert telemetry.round_(1, 2, lambda: pytest.fail("asked")) is telemetry.round_(2, 3, lambda: pytest.fail("asked"))
    with dspy.context(lm=engine()):
        assert PROGRAM(question="q").answer is not None


@pytest.mark.slow
def test_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys, dspy\n"
        "from pdr_dspy import LongCoT\n"
        "from pdr_dspy.testing import scripted_lm\n"
        "before = {name for name in sys.modules if name.startswith('opentelemetry')}\n"
        "with dspy.context(lm=scripted_lm(lambda request: 'Answer: 4')):\n"
        "    assert LongCoT('question -> answer')(question='q').answer == '4'\n"
        "assert {name for name in sys.modules if name.startswith('opentelemetry')} == before == set(), before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
