"""Replies out of DSPy's own cache are marked; DSPy's word on truncation is left to calls that are not ours; an endpoint
is asked past DSPy without anything of DSPy's being lost; how often a request went out."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest
from dspy.clients import execution
from dspy.clients.cache import Cache
from dspy.lm15 import Request, Response
from dspy.utils.callback import BaseCallback
from dspy.utils.usage_tracker import track_usage

from pdr_dspy import calls
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.serving.endpoint import EndpointLM, connect
from pdr_dspy.testing import Completion
from pdr_dspy.verifiers import JudgeVerifier
from tests.support.mock_server import MockServer
from tests.support.solver import engine


@pytest.fixture
def memory_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None)
    monkeypatch.setitem(vars(dspy), "cache", cache)


def hosted(server: MockServer, **settings: Any) -> dspy.LM:
    return dspy.LM(
        "openai/mock", api_base=server.api_base, api_key="k", timeout=30, num_retries=0, **{"cache": True, **settings}
    )


@pytest.mark.usefixtures("memory_cache")
@pytest.mark.parametrize("engine_name", ["auto", pytest.param("litellm", marks=pytest.mark.slow)])
def test_a_reply_of_dspys_cache_is_reused_and_not_paid(engine_name: str) -> None:
    program = PDR("question -> answer: int", widths=(3, 1), distiller="random_k", k=2, draft_tokens=64)
    with MockServer(lambda body, seed: "Work.\nAnswer: 5") as server:
        with dspy.context(lm=hosted(server, engine=engine_name)), track_usage() as users:
            first = program(question="q")
            used = users.get_total_tokens()
            again = program(question="q")
            assert users.get_total_tokens() == used, "the user's own tracker is told of what was sent"
        assert len(server.requests) == 4
    assert used["openai/mock"]["completion_tokens"] == sum(call.usage.output or 0 for call in first.ledger.calls)
    assert (first.ledger.reused, first.ledger.paid) == (0, first.ledger.total)
    assert (again.ledger.reused, again.ledger.paid) == (4, 0)
    assert all(call.seconds == 0 for call in again.ledger.calls)
    assert [call.usage for call in again.ledger.calls] == [call.usage for call in first.ledger.calls]
    assert not any(call.estimated for call in again.ledger.calls)


@pytest.mark.usefixtures("memory_cache")
def test_a_reply_of_dspys_cache_enters_the_store() -> None:
    program = LongCoT("question -> answer: int", draft_tokens=64)
    with MockServer(lambda body, seed: "Answer: 5") as server, dspy.context(lm=hosted(server)):
        program(question="q")
        with calls.session(store=Rollouts()) as session:
            assert program(question="q").ledger.reused == 1
            (kept,) = session.store
        assert (kept.seconds, kept.estimated) == (0.0, False)
        assert len(server.requests) == 1


@pytest.mark.usefixtures("memory_cache")
def test_the_judge_marks_a_reply_of_dspys_cache() -> None:
    example = dspy.Example(question="?", answer="Paris").with_inputs("question")
    with MockServer(lambda body, seed: "yes") as server:
        judge = JudgeVerifier(lm=hosted(server))
        asked = [judge(example, dspy.Prediction(answer="Paris")) for _ in range(2)]
        asked += [asyncio.run(judge.averify(example, dspy.Prediction(answer="Paris"))) for _ in range(2)]
    assert [score.calls[0].reused for score in asked] == [False, True, False, True]  # a cache each, says DSPy


def test_truncation_is_logged_for_the_users_calls_alone() -> None:
    lm = engine(lambda _: Completion("Work.\nAnswer: 5\n", finish="length"))
    logging.getLogger("dspy.clients.lm").addHandler(seen := _Seen())
    try:
        with dspy.context(lm=lm):
            prediction = LongCoT("question -> answer: int")(question="q")
            assert prediction.ledger.calls[0].truncated
            assert seen.messages == []
            lm("hello")
        assert ["truncated" in message for message in seen.messages] == [True]
    finally:
        logging.getLogger("dspy.clients.lm").removeHandler(seen)


# --- an endpoint is asked past DSPy's road


def endpoint(server: MockServer, **settings: Any) -> EndpointLM:
    return connect("mock", server.api_base, identity="mock@here", **settings)


class Watching(BaseCallback):
    """Makes DSPy's own road the one that is taken."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.told.append("start")

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self.told.append("end" if exception is None else type(exception).__name__)


@pytest.fixture
def roads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way each call went."""
    taken: list[str] = []

    async def directly(self: EndpointLM, request: Request) -> Response:
        taken.append("direct")
        return await send_directly(self, request)

    async def long(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append("DSPy")
        return await aexecute(self, *args, **kwargs)

    send_directly, aexecute = EndpointLM.send_directly, execution.aexecute
    monkeypatch.setattr(EndpointLM, "send_directly", directly)
    monkeypatch.setattr(execution, "aexecute", long)
    return taken


def entries_of(lm: dspy.LM) -> list[dict[str, Any]]:
    """In one order: drafts side by side come back in any."""
    entries = [{key: value for key, value in entry.items() if key not in ("uuid", "timestamp")} for entry in lm.history]
    return sorted(entries, key=repr)


def test_both_roads_leave_the_same_history_usage_and_answers(roads: list[str]) -> None:
    program = PDR("question -> answer: int", widths=(2, 1), distiller="summary", draft_tokens=64)
    made = []
    with MockServer(lambda body, seed: {"message": {"content": "Answer: 5"}, "finish_reason": "length"}) as server:
        for callbacks in ([], [Watching()]):
            lm = endpoint(server)
            lm.kwargs["rollout_id"] = 7
            with dspy.context(lm=lm, callbacks=callbacks), track_usage() as tracker:
                prediction = program(question="q")
            calls_ = [call.model_copy(update={"seconds": 0}) for call in prediction.ledger.calls]
            history = [len(entries) for entries in (lm.history, program.history)]
            made.append((entries_of(lm), tracker.get_total_tokens(), calls_, prediction.answer, history[0]))
            program.history.clear()
            assert history == [4, 4]
    assert roads == ["direct"] * 4 + ["DSPy"] * 4
    assert made[0] == made[1]


def test_history_that_is_switched_off_stays_off(roads: list[str]) -> None:
    with MockServer() as server:
        lm = endpoint(server)
        with dspy.context(lm=lm, disable_history=True):
            LongCoT("question -> answer")(question="q")
    assert (roads, lm.history) == (["direct"], [])


def test_callbacks_are_told_as_ever(roads: list[str]) -> None:
    watching = Watching()
    with MockServer(lambda body, seed: "Answer: 5") as server, dspy.context(callbacks=[watching]):
        with dspy.context(lm=endpoint(server)):
            LongCoT("question -> answer")(question="q")
        own = endpoint(server)
        own.callbacks.append(watching)
        with dspy.context(lm=own, callbacks=[]):
            LongCoT("question -> answer")(question="q")
    assert roads == ["DSPy", "DSPy"]
    assert watching.told == ["start", "end"] * 2


@pytest.mark.usefixtures("memory_cache")
def test_what_dspy_does_itself_takes_dspys_road(roads: list[str]) -> None:
    class Own(EndpointLM):
        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            roads.append("own")
            return await super().acall(*args, **kwargs)

    with MockServer(lambda body, seed: "Answer: 5") as server:
        cached, retried, own = endpoint(server), endpoint(server), endpoint(server)
        cached.cache, retried.num_retries = True, 1
        own.__class__ = Own
        for lm in (cached, retried, own):
            with dspy.context(lm=lm):
                LongCoT("question -> answer")(question="q")
    assert roads == ["DSPy", "DSPy", "own", "DSPy"]


def test_both_roads_fail_in_the_same_words(roads: list[str]) -> None:
    for fault in ((401, {}, {"error": {"message": "no"}}), (400, {}, "too long: context length"), b"<html>"):
        said = []
        for callbacks in ([], [Watching()]):
            with MockServer() as server, dspy.context(lm=endpoint(server), callbacks=callbacks):
                server.faults = [fault]
                with pytest.raises(RoundFailed) as failed:
                    LongCoT("question -> answer")(question="q")
            said.append(str(failed.value).replace(str(server.port), "PORT"))
        assert said[0] == said[1]
    assert roads == ["direct", "DSPy"] * 3


# --- what a call took


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "tries", "unsettled"), [([], 1, 0), ([429, 503], 3, 0), (["drop"], 2, 1), ([500, 429, "cut"], 4, 2)]
)
def test_a_call_that_may_have_been_served_twice_is_not_exact(faults: list[Any], tries: int, unsettled: int) -> None:
    with MockServer(lambda body, seed: "Answer: 5") as server:
        server.faults = list(faults)
        with dspy.context(lm=endpoint(server)), calls.session(store=Rollouts()) as session:
            ledger = LongCoT("question -> answer")(question="q").ledger
            again = LongCoT("question -> answer")(question="q").ledger
    (call,) = ledger.calls
    assert (call.tries, call.unsettled, ledger.tries) == (tries, unsettled, tries)
    assert ledger.exact is again.exact is (unsettled == 0)
    assert (again.reused, again.tries, len(session.store)) == (1, 0, 1)


def test_a_call_that_failed_says_how_often_it_was_tried() -> None:
    with MockServer() as server, dspy.context(lm=endpoint(server)):
        server.faults = [500] * 9
        with pytest.raises(RoundFailed) as failed:
            LongCoT("question -> answer")(question="q")
    (call,) = failed.value.ledger.calls
    assert call.tries == call.unsettled == len(server.requests) > 1
    assert not failed.value.ledger.exact


class _Seen(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


# --- contexts


def test_tasks_side_by_side_have_each_their_own_context() -> None:
    program = PDR("question -> answer: int", widths=(2, 1), distiller="random_k", k=1)

    async def one(number: int) -> tuple[int, list[str]]:
        with dspy.context(lm=engine(lambda _: f"Answer: {number}"), adapter=dspy.ChatAdapter() if number % 2 else None):
            await asyncio.sleep(0)
            prediction = await program.acall(question="the same")
            return prediction.answer, [call.failure or "" for call in prediction.ledger.calls]

    async def all_of_them() -> list[tuple[int, list[str]]]:
        return await asyncio.gather(*(one(number) for number in range(6)))

    assert [answer for answer, _ in asyncio.run(all_of_them())] == list(range(6))


def test_threads_with_equal_names_and_requests_are_answered_by_their_own_models() -> None:
    program = LongCoT("question -> answer: int")
    ready = threading.Barrier(4)

    def one(number: int) -> int:
        with dspy.context(lm=engine(lambda _: f"Answer: {number}")):
            ready.wait()
            return program(question="the same").answer

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [0, 1, 2, 3]


def test_equal_requests_to_copies_of_one_model_are_sent_once() -> None:
    program = LongCoT("question -> answer: int")
    lm = engine(lambda _: "Answer: 5")

    async def one() -> int:
        with dspy.context(lm=lm.copy()):
            return (await program.acall(question="the same")).answer

    async def both() -> list[int]:
        return list(await asyncio.gather(one(), one()))

    assert asyncio.run(both()) == [5, 5]
    assert lm.served.calls == 1
