from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Call, Phase, Usage
from pdr_dspy.calls.predict import Reply
from pdr_dspy.calls.request import Sampling
from pdr_dspy.calls.store import Rollout, Rollouts
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from pdr_dspy.prompts.roles import Role, check_task, derive
from pdr_dspy.serving import connect
from pdr_dspy.testing import Completion, ScriptedLM, ScriptedRequest
from tests.support.mock_server import MockServer
from tests.support.solver import engine, role_of, solver, wait

PREDICTOR = dspy.Predict(derive(check_task("question -> answer"), Role.DRAFT))


def drafts(lm: ScriptedLM | None, width: int = 4, *, question: str = "q", **session: Any) -> list[Reply]:
    async def go() -> list[Reply]:
        with calls.session(**session), dspy.context(lm=lm):
            return await calls.ask(
                PREDICTOR,
                [{"question": question}] * width,
                site=calls.CallSite(Phase.DRAFT, 1, calls.identity({"question": question})),
                sampling=Sampling(50, 0.7, 0.9),
            )

    return wait(go())


def test_siblings_take_consecutive_seeds_and_explicit_sampling() -> None:
    lm = engine()
    replies = drafts(lm)
    seeds = [reply.call.seed or 0 for reply in replies]
    assert seeds == list(range(seeds[0], seeds[0] + 4))
    assert seeds[0] % calls.SEED_SPACING == 0
    for request in lm.served.requests:
        config = request.request.config
        assert (config.max_tokens, config.temperature, config.top_p) == (50, 0.7, 0.9)


def test_seeds_of_any_stage_fit_a_32_bit_server_with_all_their_siblings() -> None:
    for round_number in range(200):
        base = calls.seed_for(7, "q", Phase.REFINE, round_number)
        assert 0 <= base <= 2**31 - calls.SEED_SPACING


def test_a_site_has_the_seed_of_its_question_place_and_run_and_of_nothing_else() -> None:
    site = calls.CallSite(Phase.DRAFT, 1, "q", 7)
    assert site.seed() == calls.CallSite(Phase.DRAFT, 1, "q", 7).seed() == calls.seed_for(7, "q|None", Phase.DRAFT, 1)
    others = [
        calls.CallSite(Phase.REFINE, 1, "q", 7),
        calls.CallSite(Phase.DRAFT, 2, "q", 7),
        calls.CallSite(Phase.DRAFT, 1, "r", 7),
        calls.CallSite(Phase.DRAFT, 1, "q", 8),
    ]
    assert len({site.seed(), site.seed(1), *(other.seed() for other in others)}) == 6
    with calls.session(seed=7):
        assert calls.CallSite(Phase.DRAFT, 1, "q").seed() == site.seed()


def groups_of(lm: ScriptedLM) -> list[tuple[str, int]]:
    found: list[Any] = [(request.request.config.extensions or {}).get("pdr_siblings") for request in lm.served.requests]
    return [(mark["group"], mark["size"]) for mark in found if mark]


def test_siblings_are_grouped_only_where_the_endpoint_can() -> None:
    lm = engine()
    drafts(lm)
    assert groups_of(lm) == []
    lm = engine()
    lm.siblings = True  # type: ignore[attr-defined]
    drafts(lm, 5)
    marks = groups_of(lm)
    assert len(marks) == 5
    assert len(set(marks)) == 1
    assert marks[0][1] == 5


def test_drafts_that_the_store_has_split_a_group() -> None:
    store = Rollouts()
    keys = [reply.call.key for reply in drafts(engine(), 7, store=store)]
    holed = Rollouts()
    kept = store.get(keys[2])
    assert kept is not None
    holed.put(kept)
    lm = engine()
    lm.siblings = True  # type: ignore[attr-defined]
    replies = drafts(lm, 7, store=holed)
    assert [reply.call.reused for reply in replies] == [False, False, True, False, False, False, False]
    sizes = sorted(size for _, size in groups_of(lm))
    assert sizes == [2, 2, 4, 4, 4, 4]
    assert [reply.text for reply in replies] == [reply.text for reply in drafts(engine(), 7)]


@pytest.mark.parametrize("with_store", [True, False])
@pytest.mark.parametrize("siblings", [True, False])
def test_equal_calls_side_by_side_are_sent_once(with_store: bool, siblings: bool) -> None:
    lm = engine()
    lm.siblings = siblings  # type: ignore[attr-defined]
    program = PDR("question -> answer", widths=(3, 1), distiller="random_k", k=1)

    async def go() -> list[dspy.Prediction]:
        with calls.session(store=Rollouts() if with_store else None), dspy.context(lm=lm):
            return await asyncio.gather(*(program.acall(question="q") for _ in range(3)))

    predictions = wait(go())
    assert lm.served.calls == 4
    assert sum(prediction.ledger.paid for prediction in predictions) == lm.served.input + lm.served.output
    assert predictions[0].rounds == predictions[1].rounds == predictions[2].rounds


def test_without_a_store_no_completion_is_kept() -> None:
    lm = engine()
    with calls.session(store=Rollouts()) as outer, calls.session(store=None) as inner:
        for _ in range(2):
            with dspy.context(lm=lm):
                assert LongCoT("question -> answer")(question="q").ledger.reused == 0
        assert len(outer.store) == len(inner.store) == 0
    assert lm.served.calls == 2
    assert inner.store.pending == {}


def test_programs_in_sessions_of_their_own_share_calls_through_the_store() -> None:
    lm, store = engine(), Rollouts()

    async def one() -> dspy.Prediction:
        with calls.session(store=store, seed=5), dspy.context(lm=lm):
            return await LongCoT("question -> answer").acall(question="q")

    async def go() -> None:
        await asyncio.gather(one(), one(), one())

    wait(go())
    assert lm.served.calls == 1
    assert store.pending == {}


def test_who_waits_for_a_call_that_fails_or_is_cancelled_sends_its_own() -> None:
    seen: list[int] = []

    def once(request: ScriptedRequest) -> Completion:
        seen.append(request.seed)
        if len(seen) == 1:
            raise dspy.lm15.ServerError("first one fails")
        return Completion(solver(request))

    lm, store = engine(once), Rollouts()

    async def one() -> list[Reply]:
        with calls.session(store=store), dspy.context(lm=lm):
            return await calls.ask(
                PREDICTOR,
                [{"question": "q"}],
                site=calls.CallSite(Phase.DRAFT, 1, "q"),
                sampling=Sampling(50, 0.7),
            )

    async def failing() -> tuple[list[Reply], list[Reply]]:
        return await asyncio.gather(one(), one())

    (first,), (second,) = wait(failing())
    assert first.call.failure is not None
    assert second.call.failure is None

    async def cancelled() -> Reply:
        store.pending.clear()
        with calls.session(store=Rollouts()):
            started = asyncio.create_task(one())
            waiting = asyncio.create_task(one())
            await asyncio.sleep(0)
            started.cancel()
            (reply,) = await waiting
            return reply

    assert wait(cancelled()).call.failure is None


class Counted(asyncio.Semaphore):
    """Tells how many hold it, and how many did at most."""

    now = most = 0

    async def acquire(self) -> Any:
        got = await super().acquire()
        self.now += 1
        self.most = max(self.most, self.now)
        return got

    def release(self) -> None:
        self.now -= 1
        super().release()


def test_a_limit_on_requests_is_kept() -> None:
    limit = Counted(2)
    held: list[int] = []

    def reply(request: ScriptedRequest) -> Completion:
        held.append(limit.now)
        return Completion(solver(request), delay=0.1)

    drafts(engine(reply), 9, in_flight=limit)
    assert len(held) == 9
    assert min(held) >= 1
    assert limit.most == 2
    assert limit.now == 0


def test_a_limit_of_another_loop_does_not_break_a_synchronous_program() -> None:
    program = PDR("question -> answer", widths=(3, 1), distiller="random_k", k=1)

    async def notebook() -> list[dspy.Prediction]:
        with calls.session(in_flight=asyncio.Semaphore(1)), dspy.context(lm=engine()):
            return await asyncio.gather(*(asyncio.to_thread(program, question=str(n)) for n in range(4)))

    assert len(wait(notebook())) == 4


def test_a_reused_call_is_marked_and_costs_nothing_now(tmp_path: Path) -> None:
    with Rollouts(tmp_path) as store:
        before = drafts(engine(), store=store)
    with Rollouts(tmp_path) as store:
        lm = engine()
        after = drafts(lm, store=store)
    assert lm.served.calls == 0
    for old, new in zip(before, after, strict=True):
        assert (old.call.reused, new.call.reused) == (False, True)
        assert new.call.seconds == 0.0
        assert new.call.usage == old.call.usage
        assert new.reading == old.reading


def test_a_failed_call_is_recorded_and_not_stored() -> None:
    def reply(request: ScriptedRequest) -> str:
        if request.seed % 2:
            raise dspy.lm15.RateLimitError("slow   down\nplease")
        return solver(request)

    store, told = Rollouts(), []
    replies = drafts(engine(reply), 4, store=store, on_call=told.append)
    assert [reply.call.failure is None for reply in replies] == [True, False, True, False]
    assert "slow down please" in (replies[1].call.failure or "")
    assert replies[1].call.usage == Usage()
    assert replies[1].call.finish == "error"
    assert len(store) == 2
    assert told == [reply.call for reply in replies]
    assert isinstance(told[0], Call)


def test_usage_that_the_server_does_not_report_is_estimated_and_marked() -> None:
    (reply,) = drafts(engine(lambda r: Completion(solver(r), usage=False)), 1)
    assert reply.call.estimated
    assert (reply.call.usage.input or 0) > 0
    assert (reply.call.usage.output or 0) > 0


@pytest.mark.parametrize(
    "text",
    ["\x00 a \x00", "lone \ud800 surrogate", "x" * 1_000_000, "👍" * 1000, "\u2028\u2029\r", "<think>" * 9 + "a"],
)
def test_odd_texts_are_kept_and_stored_and_replayed(text: str, tmp_path: Path) -> None:
    lm = engine(lambda _: f"{text}\nAnswer: 4" if "<think>" not in text else text)
    with Rollouts(tmp_path) as store:
        (before,) = drafts(lm, 1, store=store)
    with Rollouts(tmp_path) as store:
        (after,) = drafts(lm, 1, store=store)
    assert after.text == before.text
    before.text.encode("utf-8")
    assert "\x00" not in before.text


def test_inputs_of_any_text_can_be_sent() -> None:
    lm = engine()
    (reply,) = drafts(lm, 1, question="odd \ud800 and \x00")
    assert reply.call.failure is None
    lm.served.requests[0].user.encode("utf-8")


@pytest.mark.parametrize(
    ("completion", "failure"),
    [
        (Completion(""), "empty"),
        (Completion("   \n"), "empty"),
        (Completion("", finish="length"), "inside its thought"),
        (Completion("<think>on and on"), "inside its thought"),
        (Completion("Answer: 4", thought="word " * 60), "inside its thought"),
    ],
)
def test_a_completion_without_text_is_a_failed_call_with_its_tokens(completion: Completion, failure: str) -> None:
    (reply,) = drafts(engine(lambda _: completion), 1)
    assert failure in (reply.call.failure or "")
    assert reply.text == ""
    assert reply.reading.outputs == {}
    assert reply.call.usage.tokens is not None


def test_a_thought_apart_or_inline_is_kept_off_the_text() -> None:
    store = Rollouts()
    (reply,) = drafts(engine(lambda _: Completion("Answer: 4", thought="Answer: 5")), 1, store=store)
    assert reply.text == "Answer: 4"
    assert next(iter(store)).thought == "Answer: 5"


def test_no_model_is_reported_in_a_sentence() -> None:
    with dspy.context(lm=None), pytest.raises(ConfigError, match="no language model is set"):
        LongCoT("question -> answer")(question="q")


def test_an_error_of_the_disk_ends_the_program_and_keeps_the_completion() -> None:
    class Full(Rollouts):
        def put(self, rollout: Rollout) -> None:
            super().put(rollout)
            raise StoreError("the rollout store cannot be written: No space left on device")

    store = Full()
    with dspy.context(lm=engine()), calls.session(store=store), pytest.raises(StoreError, match="No space left"):
        LongCoT("question -> answer")(question="q")
    assert len(store) == 1
    assert store.pending == {}


def test_traces_are_in_the_order_of_the_drafts_and_hold_whole_readings_only() -> None:
    def reply(request: ScriptedRequest) -> Completion:
        if role_of(request) == "draft" and request.seed % 4 == 2:
            return Completion("no answer here")
        return Completion(f"Answer: {request.seed}", delay=1 - request.seed % 256 / 10)

    trace: list[Any] = []
    with dspy.context(lm=engine(reply), trace=trace):
        prediction = PDR("question -> answer", widths=(4, 1), distiller="random_k", k=1)(question="q")
    drafts_ = [
        outputs["answer"] for predictor, _, outputs in trace if "workspace" not in predictor.signature.input_fields
    ]
    assert drafts_ == [d.outputs["answer"] for d in prediction.rounds[0].drafts if d.outputs.get("answer")]
    assert len(trace) == 4


def test_a_trace_does_not_grow_without_end() -> None:
    trace: list[Any] = []
    with dspy.context(lm=engine(), trace=trace, max_trace_size=3):
        for question in "abcdef":
            LongCoT("question -> answer")(question=question)
    assert [inputs["question"] for _, inputs, _ in trace] == ["d", "e", "f"]


def text_of(body: dict[str, Any], seed: int) -> str:
    asked = str(body["messages"])
    return "Selected: 1, 2" if "Candidate" in asked and "pick" in asked else "Work.\nAnswer: 5"


HOSTED = (
    LongCoT("question -> answer: int", draft_tokens=64),
    SR("question -> answer: int", rounds=2, critique=True, draft_tokens=64),
    *(
        PDR("question -> answer: int", widths=(3, 2, 1), distiller=distiller, draft_tokens=64)
        for distiller in ("random_k", "summary", "topk", "topk_per_sample")
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("program", HOSTED, ids=lambda program: str(program.schedule))
def test_any_lm_of_dspys_serves_every_operator(program: Any) -> None:
    with MockServer(text_of) as server:
        lm = dspy.LM("openai/mock", api_base=server.api_base, api_key="k", timeout=30, cache=False, num_retries=0)
        with dspy.context(lm=lm):
            prediction = program(question="q")
    assert prediction.answer == 5
    assert len(server.requests) == len(prediction.ledger) == program.schedule.calls
    assert all(not call.estimated and call.failure is None for call in prediction.ledger.calls)
    for body in server.requests:
        assert {"api_base", "api_key", "timeout"}.isdisjoint(body)
        assert body["temperature"] == 1.0
        assert isinstance(body["seed"], int)


def test_a_reasoning_model_is_sent_the_cap_that_is_on_the_ledger() -> None:
    with MockServer(text_of, models=("gpt-5-mini",), usage=False) as server:
        lm = dspy.LM("openai/gpt-5-mini", api_base=server.api_base, api_key="k", cache=False, num_retries=0)
        with dspy.context(lm=lm):
            prediction = LongCoT("question -> answer", draft_tokens=64, thinking_tokens=200)(question="q")
    (body,) = server.requests
    assert body["max_completion_tokens"] == prediction.ledger.calls[0].cap == 264
    assert "temperature" not in body
    assert prediction.ledger.calls[0].estimated


def test_servers_with_one_model_name_share_no_rollouts() -> None:
    store = Rollouts()
    for port in (1, 2):
        with MockServer(lambda body, seed, port=port: f"Answer: {port}") as server:
            lm = dspy.LM("openai/mock", api_base=server.api_base, api_key="k", cache=False, num_retries=0)
            with dspy.context(lm=lm), calls.session(store=store):
                assert LongCoT("question -> answer")(question="q").answer == str(port)


@pytest.mark.parametrize(("settings", "says"), [({"colour": 1}, "colour"), ({"model_type": "text"}, "model_type")])
def test_a_setting_of_the_lm_that_cannot_be_sent_is_named(settings: dict[str, Any], says: str) -> None:
    lm = dspy.LM("openai/mock", api_base="http://127.0.0.1:9/v1", api_key="k", **settings)
    with dspy.context(lm=lm), pytest.raises(ConfigError, match=says):
        LongCoT("question -> answer")(question="q")


def test_a_store_that_waits_for_another_machine_does_not_hold_up_calls() -> None:
    class Remote(Rollouts):
        slow = True  # type: ignore[assignment]

        def put(self, rollout: Rollout) -> None:
            writers.append(threading.current_thread())
            super().put(rollout)

    class Near(Remote):
        slow = False  # type: ignore[assignment]

    for kind, held_up in ((Remote, False), (Near, True)):
        writers: list[threading.Thread] = []
        callers: list[threading.Thread] = []

        def reply(_: ScriptedRequest, callers: list[threading.Thread] = callers) -> str:
            callers.append(threading.current_thread())
            return "Answer: 1"

        drafts(engine(reply), store=kind())
        assert len(writers) == len(callers) == 4
        assert any(writer in callers for writer in writers) is held_up


def test_a_server_is_asked_for_tokens_only_where_that_decides_something() -> None:
    program = PDR("question -> answer: int", widths=(2, 1), distiller="topk", k=1, draft_tokens=64, kappa=200)
    with MockServer(text_of, kind="vllm", context=20_000) as server, dspy.context(lm=connect("mock", server.api_base)):
        program(question="q")
        assert len(server.tokenized) == 1, "the workspace alone"
        with pytest.raises(ConfigError, match="the model's context is 20000"):
            program(question="q " * 20_000)
        assert len(server.tokenized) > 1
