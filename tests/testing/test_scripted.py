from __future__ import annotations

import asyncio
import pickle

import dspy
import pytest
from dspy.lm15 import Config, Message, Request
from dspy.utils.exceptions import LMError

from pdr_dspy.testing import Completion, ScriptedRequest, count_words, cut_words, scripted_lm
from tests.support.solver import engine, role_of


def ask(lm: dspy.LM, text: str = "one two", **config: object):
    return lm(Request(model=lm.model, messages=(Message.user(text),), config=Config(**config)))  # type: ignore[arg-type]


def test_it_reports_what_it_served() -> None:
    lm = scripted_lm(lambda request: f"seed {request.seed}")
    response = ask(lm, "one two three", seed=7, max_tokens=10)
    assert response.message.parts[0].text == "seed 7"
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 2)
    assert (lm.served.calls, lm.served.input, lm.served.output) == (1, 3, 2)
    assert lm.served.requests[0].cap == 10


def test_the_cap_cuts_text_and_says_so() -> None:
    response = ask(scripted_lm(lambda _: "a b c d"), max_tokens=2)
    assert response.finish_reason == "length"
    assert response.usage.output_tokens == 2
    assert response.message.parts[0].text == "a b"


def test_the_cap_ends_a_thought_before_any_text() -> None:
    response = ask(scripted_lm(lambda _: Completion("Answer: 4", thought="t " * 50)), max_tokens=20)
    assert response.finish_reason == "length"
    assert response.usage.output_tokens == 20
    text = response.message.parts[0].text
    assert "Answer" not in text
    assert "</think>" not in text


def test_copies_share_the_book() -> None:
    lm = engine()
    ask(lm.copy(rollout_id=3))
    assert lm.served.calls == 1


def test_an_error_of_the_script_is_an_error_of_the_server() -> None:
    def reply(request: object) -> str:
        raise dspy.lm15.RateLimitError("slow down")

    with pytest.raises(LMError):
        ask(scripted_lm(reply))


def test_words_are_counted_and_cut_alike() -> None:
    for text in ("", "one", "a, b; c!", "x = 3.5 + é\n\nline"):
        size = count_words(text)
        for cap in range(size + 2):
            assert count_words(cut_words(text, cap)) == min(cap, size)


def test_roles_can_be_told_from_prompts() -> None:
    from pdr_dspy.operators.strategies import PDR, SR

    lm = engine()
    with dspy.context(lm=lm):
        PDR("question -> answer", widths=(3, 2, 1), distiller="topk")(question="q")
        PDR("question -> answer", widths=(2, 1), distiller="summary")(question="q")
        SR("question -> answer", rounds=2, critique=True)(question="q")
    assert {role_of(request) for request in lm.served.requests} == {"draft", "refine", "select", "distill", "critique"}


def test_it_streams_word_by_word() -> None:
    from dspy.lm15 import StreamDeltaEvent

    lm = scripted_lm(lambda _: "Some words of  it.\n")
    request = Request(model=lm.model, messages=(Message.user("?"),), config=Config(max_tokens=50))
    texts = [event.delta.text for event in lm.engine.stream(request) if isinstance(event, StreamDeltaEvent)]  # type: ignore[union-attr]
    assert texts == ["Some", " words", " of", "  it.", "\n"]
    assert lm.served.calls == 1


def test_dspys_streamify_works_with_it() -> None:
    reply = "[[ ## answer ## ]]\nforty two, I say\n\n[[ ## completed ## ]]"

    async def collect() -> list[object]:
        listener = dspy.streaming.StreamListener("answer")
        stream = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
        return [value async for value in stream(question="?")]  # type: ignore[attr-defined]

    with dspy.context(lm=scripted_lm(lambda _: reply)):
        values = asyncio.run(collect())
    assert "".join(value.chunk for value in values[:-1]) == "forty two, I say"  # type: ignore[attr-defined]
    assert len(values) > 3


def test_a_copy_shares_the_book_and_a_pickle_begins_a_new_one() -> None:
    lm = scripted_lm(reply_for_pickles, model="a/b", context_length=99)
    assert lm.copy().served is lm.served
    again = pickle.loads(pickle.dumps(lm))
    assert (again.model, again.context_length, again.kwargs) == ("a/b", 99, lm.kwargs)
    again("hello")
    assert (again.served.calls, lm.served.calls) == (1, 0)


def reply_for_pickles(_: ScriptedRequest) -> str:
    return "hello"
