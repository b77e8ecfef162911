"""Truth under faults: an evaluation against a server that fails at given rates, held against the server's own book.

The server draws its faults from prompt, seed and try, so every run here meets the same ones in whatever order its
requests come.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dspy
import pytest
from aiohttp import web

from benchmarks import faults
from benchmarks.mock_server import Handle, serve
from pdr_dspy.calls.ledger import Call, Ledger
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.evaluation.evaluator import aevaluate, evaluate
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR, SR
from pdr_dspy.serving import EndpointLM, connect
from pdr_dspy.verifiers import JudgeVerifier, NumberVerifier
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUESTIONS = 20
SETTINGS: dict[str, Any] = {"latency": 0.002, "reply_tokens": 24, "retry_after": 0.01, "faults": {}, "usage": True}
CAPS: dict[str, Any] = {"draft_tokens": 100, "distill_tokens": 100, "kappa": 200}
PROGRAMS: dict[str, Operator] = {
    "pdr": PDR("question -> answer: int", widths=(4, 2, 1), distiller="summary", **CAPS),
    "sr": SR("question -> answer: int", rounds=3, draft_tokens=100, kappa=200),
}
CALLS = {"pdr": 9, "sr": 3}
"""Of one question."""
ALONE = ("500", "429", "drop", "lost", "cut", "hang", "truncate")
UNSETTLING = ("500", "drop", "lost", "cut", "hang")
"""Faults after which nobody can know whether the request was served."""


def mix(rate: float) -> dict[str, float]:
    return dict.fromkeys(ALONE, rate / len(ALONE))


@pytest.fixture(scope="module")
def running() -> Iterator[Handle]:
    with serve(**SETTINGS) as handle:
        yield handle


@pytest.fixture
def server(running: Handle) -> Handle:
    running.reset(**SETTINGS, seed=0)
    return running


def examples(size: int = QUESTIONS) -> list[dspy.Example]:
    return [
        dspy.Example(id=f"{n}", question=f"[case {n}] What is 6 * 7?", answer="42").with_inputs("question")
        for n in range(size)
    ]


def client(*servers: Handle, **options: Any) -> EndpointLM:
    bases = [server.api_base for server in servers]
    defaults = {"siblings": False, "timeout": 60.0, "first_byte": 2.0, "context_length": 32768}
    return connect("mock", bases if len(bases) > 1 else bases[0], **{**defaults, **options})


def run(program: str, lm: EndpointLM, **options: Any) -> Report:
    verifier = options.pop("verifier", NumberVerifier())
    try:
        with dspy.context(lm=lm):
            return evaluate(PROGRAMS[program], examples(), verifier, max_failures=QUESTIONS + 1, **options)
    finally:
        lm.close()


def calls_of(report: Report) -> list[Call]:
    return [call for row in report.rows for call in row.calls]


def check_rows(report: Report) -> None:
    """Every question is there, with an answer, or with the reason why there is none."""
    assert [row.id for row in report.rows] == sorted(str(n) for n in range(QUESTIONS))
    assert report.stopped is None
    for row in report.rows:
        if row.error is not None:
            assert row.error.startswith("RoundFailed: all ")
            assert row.answer is None
            assert any(call.failure for call in row.calls)
        elif row.answer is None:
            assert row.stop == "no answer"
        for round_ in row.rounds:
            for draft in round_.drafts:
                assert draft.failure is None or len(draft.failure) > 8
        for call in row.calls:
            assert (call.finish == "error") == (call.usage.tokens is None)
            assert call.failure is not None or call.usage.tokens
            assert call.tries >= 1


def check_book(report: Report, server: Handle) -> dict[str, Any]:
    """The ledger is the server's book: tokens for each question, requests, and what nobody could know."""
    book = server.counters()
    met = Counter(book["faults"])
    assert book["in_flight"] == 0
    served: Counter[str] = Counter()
    for call in server.calls():
        if call["outcome"] in ("served", "truncate"):
            served[str(call["case"])] += call["prompt_tokens"] + call["completion_tokens"]
    assert {row.id: row.total for row in report.rows} == {str(n): served[str(n)] for n in range(QUESTIONS)}
    calls = calls_of(report)
    assert sum(call.usage.input or 0 for call in calls) == book["prompt_tokens"]
    assert sum(call.usage.output or 0 for call in calls) == book["completion_tokens"]
    assert sum(call.usage.tokens is not None for call in calls) == book["served"] == book["completions"]
    assert sum(call.tries for call in calls) == book["requests"]
    assert sum(call.truncated for call in calls) == met["truncate"]
    unknown = sum(met[kind] for kind in UNSETTLING if kind != "hang") + book["aborts"]
    assert sum(call.unsettled for call in calls) == unknown
    for row in report.rows:
        assert Ledger(calls=row.calls).exact == all(call.finish != "error" and not call.unsettled for call in row.calls)
    return book


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("program", ["pdr", "sr"])
def test_every_question_ends_and_the_ledger_is_the_servers_book(server: Handle, program: str, rate: float) -> None:
    server.reset(faults=mix(rate))
    report = run(program, client(server))
    check_rows(report)
    book = check_book(report, server)
    if rate == 0.0:
        assert book["requests"] == book["served"] == CALLS[program] * QUESTIONS
        assert all(Ledger(calls=row.calls).exact for row in report.rows)
    else:
        assert sum(book["faults"].values()) > 0
        assert report.failed <= 1
    if rate == 0.05:
        assert report.failed == 0


@pytest.mark.parametrize("kind", ALONE)
def test_each_fault_alone_at_one_in_five(server: Handle, kind: str) -> None:
    server.reset(faults={kind: 0.2}, seed=1)
    report = run("pdr", client(server, first_byte=2.0 if kind == "hang" else 30.0))
    check_rows(report)
    book = check_book(report, server)
    assert book["faults"][kind] > 0
    assert report.failed == 0
    calls = calls_of(report)
    if kind == "truncate":
        assert book["requests"] == len(calls)  # a cut answer is an answer: it is not asked for again
        cut = [draft for row in report.rows for round_ in row.rounds for draft in round_.drafts if draft.truncated]
        assert cut
        assert all(draft.failure is None and draft.answer is None for draft in cut)
    else:
        assert book["requests"] > len(calls) - sum(call.failure is not None for call in calls)


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_siblings_in_one_request_are_as_true(server: Handle, rate: float) -> None:
    server.reset(faults=mix(rate), seed=2)
    report = run("pdr", client(server, siblings=True))
    check_rows(report)
    book = server.counters()
    calls = calls_of(report)
    assert sum(call.tokens for call in calls) == book["prompt_tokens"] + book["completion_tokens"]
    assert sum(call.usage.output is not None for call in calls) == book["completions"]
    # Each draft counts the tries at its request: those for several, and after one that hung those for it alone.
    assert sum(call.tries for call in calls) == sum(sent["choices"] for sent in server.calls())
    assert len(server.calls()) == book["requests"]
    assert book["requests"] < CALLS["pdr"] * QUESTIONS


def test_a_server_that_says_nothing_of_tokens_is_estimated_and_marked(server: Handle) -> None:
    server.reset(usage=False)
    report = run("pdr", client(server))
    book = server.counters()
    calls = calls_of(report)
    assert all(call.estimated for call in calls)
    assert not any(Ledger(calls=row.calls).exact for row in report.rows)
    assert len(calls) == book["served"]


def test_calls_that_run_out_of_time_fail_with_their_reason_and_are_requested_again(
    server: Handle, tmp_path: Path
) -> None:
    server.reset(faults={"hang": 0.1}, seed=5)
    report = run("sr", client(server, first_byte=None, timeout=2.0), run_dir=tmp_path)
    check_rows(report)
    book = check_book(report, server)
    assert report.failed + report.failed_rounds == book["aborts"] > 0
    for row in report.rows:
        if row.failure is not None:
            assert "did not answer within `timeout=2` s" in row.failure
            assert "did not answer within `timeout=2` s" in str(row.calls[-1].failure)
    server.reset(faults={})
    assert run("sr", client(server), run_dir=tmp_path).failed == 0
    assert server.counters()["served"] == CALLS["sr"] * QUESTIONS - book["served"]


def test_a_judges_calls_are_in_the_book_too(server: Handle) -> None:
    server.reset(faults={"500": 0.6}, seed=0)
    lm = client(server)
    report = run("sr", lm, verifier=JudgeVerifier(lm=lm, max_tokens=100))
    check_book(report, server)
    judged = [call for call in calls_of(report) if call.phase == "judge"]
    failed = [row for row in report.rows if (row.error or "").startswith("CallError: The judge")]
    assert len(judged) + sum((row.error or "").startswith("RoundFailed") for row in report.rows) == QUESTIONS
    assert len(failed) == sum(call.finish == "error" for call in judged) > 0
    assert any(call.tries > 1 for call in judged)


def test_the_table_of_faults_holds_the_book_against_the_ledger(server: Handle) -> None:
    row = faults.evaluated(server, "all, 20 %", 4)
    assert row["answered"] + row["failed"] == 4
    assert row["tries"] == row["requests"] > row["calls"] == 9 * 4
    assert row["reported"] == row["served"] > 0
    assert row["marked"] == row["unsettled"] > 0


class Shy(MockServer):
    """Refuses the first try of some requests, and does not say when to come back."""

    refused = 0

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["seed"] % 3 == 0 and body["seed"] not in [each["seed"] for each in self.requests]:
            self.requests.append(body)
            self.refused += 1
            return web.json_response({"error": {"message": "too many requests"}}, status=429)
        return await super()._chat(request)


def test_a_refusal_without_a_time_is_tried_again_and_costs_nothing() -> None:
    with Shy(reply=lambda body, seed: f"Answer: {42 if seed % 4 else 41}") as server:
        report = run("sr", connect("mock", server.api_base, siblings=False, timeout=60))
        check_rows(report)
        assert server.refused > 0
        assert sum(call.tries for call in calls_of(report)) == len(server.requests) == 3 * QUESTIONS + server.refused
        assert all(Ledger(calls=row.calls).exact for row in report.rows)


# ---- stopping and going on


class Enough(Exception):
    pass


def stop_after(rows: int) -> Any:
    def progress(row: Row, done: int, count: int) -> None:
        if done >= rows:
            raise Enough

    return progress


def test_a_run_that_was_stopped_pays_only_for_what_is_missing(server: Handle, tmp_path: Path) -> None:
    server.reset(faults=mix(0.1), seed=3)
    with pytest.raises(Enough):
        run("pdr", client(server), run_dir=tmp_path, max_in_flight=4, progress=stop_after(5))
    with Rollouts(tmp_path / "rollouts") as store:
        kept = len(store)
        assert store.torn == 0
    rows = len((tmp_path / "rows.jsonl").read_text().splitlines())
    assert rows >= 5
    server.reset(faults={})
    report = run("pdr", client(server), run_dir=tmp_path, max_in_flight=4)
    check_rows(report)
    sent = [call for call in calls_of(report) if not call.reused]
    assert server.counters()["served"] == server.counters()["requests"]
    with Rollouts(tmp_path / "rollouts") as store:
        assert len(store) - kept == server.counters()["served"]
    assert len(sent) >= server.counters()["served"]  # those of the rows that were finished before are among them
    assert server.counters()["served"] < CALLS["pdr"] * QUESTIONS - 5 * 8


def test_cancelling_closes_every_request_and_leaves_the_store_whole(server: Handle, tmp_path: Path) -> None:
    server.reset(latency=0.005, faults={"hang": 0.3}, seed=4)
    lm = client(server, first_byte=None)
    store = Rollouts(tmp_path / "store")

    async def main() -> dict[str, Any]:
        with dspy.context(lm=lm):
            task = asyncio.ensure_future(aevaluate(PROGRAMS["pdr"], examples(), NumberVerifier(), store=store))
            book, unchanged = server.counters(), 0
            while unchanged < 5:  # until all that is left waits for an answer that never comes
                await asyncio.sleep(0.01)
                before, book = book, server.counters()
                idle = len(store) == book["served"] and book["in_flight"] == book["faults"].get("hang", 0) >= 20
                unchanged = unchanged + 1 if idle and book["requests"] == before["requests"] else 0
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not store.pending
            return book

    with store:
        book = asyncio.run(main())
    lm.close()
    while (after := server.counters())["in_flight"]:
        pass
    assert after["aborts"] == book["in_flight"]
    assert after["requests"] == book["requests"]  # nothing was sent again
    with Rollouts(tmp_path / "store") as again:
        assert again.torn == 0
        assert len(again) == after["served"]
        server.reset(faults={})
        report = run("pdr", client(server), store=again)
        check_rows(report)
        assert server.counters()["served"] == CALLS["pdr"] * QUESTIONS - after["served"]


def test_a_full_disk_ends_it_in_a_sentence_and_the_rest_is_paid_afterwards(server: Handle, tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
import dspy
from tests.evaluation.test_faults import PROGRAMS, client, examples
from benchmarks.mock_server import Handle
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.verifiers import NumberVerifier
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
with dspy.context(lm=client(Handle({server.port}))):
    try:
        evaluate(PROGRAMS["pdr"], examples(), NumberVerifier(), run_dir={str(tmp_path / "run")!r}, max_in_flight=4)
    except StoreError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    (sentence,) = done.stdout.splitlines()
    assert "cannot be written: File too large" in sentence
    before = server.counters()
    with Rollouts(tmp_path / "run" / "rollouts") as store:
        kept = len(store)
    assert 0 < kept < CALLS["pdr"] * QUESTIONS
    assert before["served"] - kept <= 4 * 4  # what was in flight, and the one that met the end of the disk
    server.reset()
    report = run("pdr", client(server), run_dir=tmp_path / "run")
    check_rows(report)
    assert report.failed == 0
    assert server.counters()["served"] == CALLS["pdr"] * QUESTIONS - kept


def test_a_replica_that_dies_is_left_and_nothing_is_lost(server: Handle) -> None:
    with ExitStack() as life:
        mortal = life.enter_context(serve(**SETTINGS))
        seen: dict[str, Any] = {}

        def progress(row: Row, done: int, count: int) -> None:
            if done == 5:
                seen.update(mortal.counters())
                life.close()

        report = run("pdr", client(server, mortal), progress=progress, max_in_flight=8)
    check_rows(report)
    assert report.failed == 0
    assert seen["served"] > 0
    book = server.counters()
    calls = calls_of(report)
    assert all(call.failure is None for call in calls)
    assert len(calls) == CALLS["pdr"] * QUESTIONS
    assert len(calls) - book["served"] >= seen["served"]  # the rest was served by the one that is gone
    unsettled = sum(call.unsettled for call in calls)
    assert unsettled <= 8 * 4  # only what was open there when it went
    if unsettled:
        assert not all(Ledger(calls=row.calls).exact for row in report.rows)
