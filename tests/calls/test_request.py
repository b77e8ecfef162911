"""Requests of one prompt; turns that take two of them, because a thought or the solution after it was cut."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import dspy
import pytest
from dspy.lm15 import request_from_openai_chat
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy import calls
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import Call, Ledger, Phase, Usage
from pdr_dspy.calls.request import Prompt, Sampling, extended
from pdr_dspy.calls.store import Addresses, Rollouts, address
from pdr_dspy.errors import BudgetTooSmall, ConfigError
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.serving.endpoint import EndpointLM, connect
from tests.support.mock_server import MockServer
from tests.support.solver import engine

TEXTS = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(["api_base", "messages", "model", "seec", "seee", "stop", "ü", ""]), VALUES))
def test_addresses_are_those_of_the_whole_request(request: dict[str, Any]) -> None:
    addresses = Addresses(request)
    assert addresses.unseeded == address(request)
    for seed in (0, 7, 2**31 - 1):
        assert addresses.of(seed) == address({**request, "seed": seed})


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2 + 2"},
]


@pytest.mark.parametrize(
    "messages",
    [
        TALK,
        TALK[1:],
        [*TALK, {"role": "system", "content": "Again."}, {"role": "user", "content": "3 + 3"}],
        [{"role": "user", "content": [{"type": "text", "text": "parts"}]}],
        [{"role": "user", "content": ""}],
    ],
)
@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 5, "stop": ["END"], "presence_penalty": 0.5, "logit_bias": {"5": 1}}]
)
def test_a_request_is_what_lm15_reads_out_of_openais_form(messages: Any, settings: dict[str, Any]) -> None:
    lm = engine()
    lm.kwargs |= settings
    body = {"model": lm.model, "messages": messages, "max_tokens": 9, "temperature": 0.5, "top_p": 1.0, **settings}
    prompt = Prompt(lm, messages, Sampling(9, 0.5))
    for seed in (3, 4):
        assert prompt.job(seed).request == request_from_openai_chat({**body, "seed": seed})
    more = extended(prompt.job(3).request, mark=1).config.extensions or {}
    assert more["mark"] == 1
    assert "mark" not in (prompt.job(3).request.config.extensions or {})


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "alone"}], [{"role": "owl", "content": "hu"}]])
def test_messages_that_cannot_be_sent_are_refused(messages: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be sent"):
        Prompt(engine(), messages, Sampling(9, 0.5))


# --- turns that take two requests

THINKING: dict[str, Any] = {"draft_tokens": 20, "thinking_tokens": 30}


def thinker(thought: str = "one two three", *, solution: str = "Done.\nAnswer: 5", apart: bool = False) -> Any:
    """Thinks without end; goes on from a thought that is closed, or from a part of its solution."""

    def reply(body: dict[str, Any], seed: int) -> Any:
        begun = body["messages"][-1]
        if begun["role"] == "assistant":
            rest = solution.removeprefix(begun["content"].rpartition("</think>\n\n")[2])
            return {"message": {"reasoning": rest} if apart else {"content": rest}}
        message = {"reasoning": thought} if apart else {"content": f"<think>{thought}"}
        return {"message": message, "finish_reason": "length"}

    return reply


def at(server: MockServer, **settings: Any) -> EndpointLM:
    return connect("mock", server.api_base, identity="mock@here", **settings)


def repeating(body: dict[str, Any], seed: int) -> Any:
    """As llama.cpp does: what it goes on from stands before what it adds."""
    choice = thinker()(body, seed)
    begun = body["messages"][-1]
    if begun["role"] == "assistant":
        choice["message"]["content"] = begun["content"] + choice["message"]["content"]
    return choice


def parts(ledger: Ledger) -> list[tuple[int, int | None, str, str | None]]:
    return [(call.part, call.cap, call.finish, call.failure) for call in ledger.calls]


@pytest.mark.parametrize("reply", [thinker(), thinker(apart=True), repeating])
@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_a_thought_that_is_cut_is_closed_and_the_solution_has_its_whole_cap(kind: str, reply: Any) -> None:
    with MockServer(reply, kind=kind) as server, dspy.context(lm=at(server)):
        prediction = LongCoT("question -> answer: int", **THINKING)(question="q")
    first, second = server.requests
    assert prediction.answer == 5
    assert prediction.solution == "Done.\nAnswer: 5"
    assert parts(prediction.ledger) == [(0, 30, "continued", None), (1, 20, "stop", None)]
    assert (first["max_tokens"], second["max_tokens"]) == (30, 20)
    assert second["messages"] == [
        *first["messages"],
        {"role": "assistant", "content": "<think>\none two three\n</think>\n\n"},
    ]
    assert (second["add_generation_prompt"], second["continue_final_message"]) == (False, True)
    assert "continue_final_message" not in first
    same = ("model", "seed", "temperature", "top_p")
    assert [first[name] for name in same] == [second[name] for name in same]


def test_both_requests_are_on_the_path_and_in_the_store() -> None:
    program = PDR("question -> answer: int", widths=(3, 1), distiller="random_k", k=1, **THINKING)
    with MockServer(thinker(), kind="vllm") as server, dspy.context(lm=at(server)):
        with calls.session(store=Rollouts()) as session:
            before = program(question="q")
            sent = len(server.requests)
            after = program(question="q")
        assert len(server.requests) == sent == 6  # three drafts in one request, and the rest of each
        assert len(session.store) == len(before.ledger) == 8
        assert session.store.pending == {}
    assert "one two" not in str(before.rounds[0].workspaces)
    assert after.rounds == before.rounds
    assert after.ledger.reused == 8
    assert (after.ledger.sequential, after.ledger.total) == (before.ledger.sequential, before.ledger.total)
    last = before.ledger.calls[-2:]
    assert before.ledger.sequential - Ledger(calls=before.ledger.calls[:-2]).sequential == sum(c.tokens for c in last)
    assert before.ledger.truncated == before.ledger.failed == 0


def test_a_turn_that_is_half_in_the_store_is_ended() -> None:
    program = LongCoT("question -> answer: int", **THINKING)
    with MockServer(thinker(), kind="vllm") as server, dspy.context(lm=at(server)):
        with calls.session(store=Rollouts()) as session:
            first = program(question="q").ledger.calls[0]
            kept = session.store.get(first.key)
        assert kept is not None
        with calls.session(store=Rollouts()) as session:
            session.store.put(kept)
            prediction = program(question="q")
        assert len(server.requests) == 3
    assert prediction.answer == 5
    assert [call.reused for call in prediction.ledger.calls] == [True, False]


def test_a_solution_that_the_room_for_thinking_has_cut_continues_with_what_is_left() -> None:
    def reply(body: dict[str, Any], seed: int) -> Any:
        if body["messages"][-1]["role"] == "assistant":
            return " b.\nAnswer: 5"
        return {"message": {"content": "<think>" + "w " * 10 + "</think>" + "a " * 10}, "finish_reason": "length"}

    with MockServer(reply, kind="vllm") as server, dspy.context(lm=at(server)):
        prediction = LongCoT("question -> answer: int", **THINKING)(question="q")
    begun = server.requests[1]["messages"][-1]["content"]
    assert begun == f"<think>\n{('w ' * 10).strip()}\n</think>\n\n{('a ' * 10).strip()}"
    assert prediction.solution == f"{('a ' * 10).strip()} b.\nAnswer: 5"
    assert 8 <= server.requests[1]["max_tokens"] <= 12


@pytest.mark.parametrize(
    ("content", "finish"),
    [
        ("<think>hm</think>Answer: 5", "stop"),
        ("<think>hm</think>" + "a " * 200, "length"),  # more than its cap
        ("", "length"),
    ],
)
def test_what_is_done_or_has_nothing_left_does_not_go_on(content: str, finish: str) -> None:
    choice = {"message": {"content": content}, "finish_reason": finish}
    with MockServer(lambda body, seed: choice, kind="vllm") as server, dspy.context(lm=at(server)):
        with suppress(RoundFailed):
            LongCoT("question -> answer: int", **THINKING)(question="q")
        assert len(server.requests) == 1


def test_a_server_that_does_not_go_on_leaves_the_draft_as_it_was() -> None:
    refusal = (400, {}, {"error": {"message": "the last message must be the user's"}})
    with MockServer(thinker(), kind="vllm") as server, dspy.context(lm=at(server)):
        server.faults = [{"choices": [{"message": {"content": "<think>hm"}, "finish_reason": "length"}]}, refusal]
        with pytest.raises(RoundFailed, match=r"inside its thought, continuation failed.*must be the user's") as failed:
            LongCoT("question -> answer", **THINKING)(question="q")
        assert parts(failed.value.ledger)[1][0] == 1
        partly = {"message": {"content": "<think>hm</think>So far"}, "finish_reason": "length"}
        server.faults = [{"choices": [partly], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}, refusal]
        with calls.session(store=Rollouts()) as session:
            prediction = LongCoT("question -> answer", **THINKING)(question="another")
    assert prediction.solution == "So far"
    assert prediction.rounds[0].drafts[0].truncated
    assert len(session.store) == 1, "the rest is asked for again next time"


def test_where_the_server_ends_the_thought_it_is_told_its_room() -> None:
    with (
        MockServer(lambda body, seed: "Answer: 5", kind="vllm") as server,
        dspy.context(lm=at(server, thinking_budget="server")),
    ):
        ledger = LongCoT("question -> answer", **THINKING)(question="q").ledger
        LongCoT("question -> answer", draft_tokens=20)(question="q")
    thinking, plain = server.requests
    assert (thinking["thinking_token_budget"], thinking["max_tokens"]) == (30, 50)
    assert "thinking_token_budget" not in plain
    assert parts(ledger) == [(0, 50, "stop", None)]


@pytest.mark.parametrize(("kind", "stated"), [("other", None), ("vllm", "cap")])
def test_elsewhere_the_cap_alone_ends_a_thought(kind: str, stated: Any) -> None:
    with MockServer(thinker(), kind=kind) as server, dspy.context(lm=at(server, thinking_budget=stated)):
        with pytest.raises(RoundFailed, match="inside its thought"):
            LongCoT("question -> answer", **THINKING)(question="q")
        (request,) = server.requests
    assert request["max_tokens"] == 50


def test_who_ends_a_thought_is_kept_with_the_endpoint_and_checked() -> None:
    lm = connect("mock", "http://127.0.0.1:9/v1", thinking_budget="server")
    again = EndpointLM.load_state(lm.dump_state())
    assert again.settings.thinking_budget == lm.settings.thinking_budget == "server"
    assert again.capabilities_sync().thinking_budget == "server"
    with pytest.raises(ConfigError, match="thinking_budget"):
        connect("mock", "http://127.0.0.1:9/v1", thinking_budget="never")  # type: ignore[arg-type]


def test_a_budget_holds_for_turns_of_two_requests() -> None:
    program = PDR("question -> answer: int", widths=(2, 1), distiller="random_k", k=1, **THINKING)
    with MockServer(thinker("w " * 30), kind="vllm") as server, dspy.context(lm=at(server)):
        spent = program(question="q").ledger
        for total in range(100, 2000, 50):
            try:
                ledger = program(question="q", budget=Budget(total=total)).ledger
            except BudgetTooSmall:
                assert total < 2 * spent.total
            else:
                assert ledger.total <= total


@pytest.mark.parametrize("rule", [{"quorum": 0.6}, {"agree": 0.9}])
def test_rounds_that_end_early_replay_turns_of_two_requests(rule: dict[str, Any]) -> None:
    program = PDR("question -> answer: int", widths=(5, 1), distiller="random_k", k=1, **rule, **THINKING)
    with MockServer(thinker(), kind="vllm") as server, dspy.context(lm=at(server)):
        with calls.session(store=Rollouts()):
            before = program(question="q")
            sent = len(server.requests)
            after = program(question="q")
        assert len(server.requests) == sent
    assert before.answer == after.answer == 5
    assert after.rounds == before.rounds
    assert after.ledger.sequential == before.ledger.sequential
    taken = [call for call in before.ledger.calls if call.fate == "taken"]
    assert {call.part for call in taken} == {0, 1}


def test_a_turn_of_two_calls_is_one_step_of_the_path() -> None:
    def call(index: int, part: int, tokens: int) -> Call:
        return Call(phase=Phase.DRAFT, index=index, part=part, usage=Usage(input=10, output=tokens), seconds=tokens)

    ledger = Ledger(calls=(call(0, 0, 30), call(1, 0, 40), call(0, 1, 25)))
    assert ledger.sequential == 10 + 30 + 10 + 25
    assert ledger.sequential_output == ledger.seconds == 55
    assert ledger.total == 125
