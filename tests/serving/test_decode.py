from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
from dspy import lm15
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy.serving.client.decode import choices_of, count, read_body, read_choice, read_stream, split_usage
from pdr_dspy.serving.client.failures import AGAIN, Foreign, Outcome, judge

WHERE = "http://server/v1"


def answer(**changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}
    return {
        "id": "x",
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    } | changes


def read(raw: bytes) -> lm15.Response:
    """As the engine reads a single completion."""
    data = read_body(raw, WHERE)
    return read_choice(data, choices_of(data, WHERE)[0], data.get("usage"))


# ---- counters


@pytest.mark.parametrize("value", [0, 7, 12.0, 2**40])
def test_counts(value: Any):
    assert count(value) == int(value)


@pytest.mark.parametrize(
    "value", [None, True, False, -1, -1.0, 1.5, "12", "", [], {}, math.inf, math.nan, 1e300, 10**30]
)
def test_what_is_no_count_is_unknown(value: Any):
    assert count(value) is None


@pytest.mark.parametrize("usage", [None, {}, [], "many", 7, True, {"prompt_tokens": "3", "completion_tokens": -1}])
def test_usage_that_says_nothing_is_unknown(usage: Any):
    assert read(json.dumps(answer(usage=usage)).encode()).usage == lm15.Usage()


def test_each_counter_stands_for_itself():
    usage = {
        "prompt_tokens": 7.0,
        "completion_tokens": True,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": "none",
    }
    read_back = read(json.dumps(answer(usage=usage)).encode()).usage
    assert read_back == lm15.Usage(input_tokens=7, total_tokens=9, cache_read_tokens=4)


def test_shares_that_do_not_add_up_are_unknown():
    choices = [{"token_ids": [1, 2]}, {"token_ids": [3]}]
    told = split_usage({"usage": {"prompt_tokens": 5, "completion_tokens": 3}}, choices)
    assert [share["completion_tokens"] for share in told] == [2, 1]
    assert [share["prompt_tokens"] for share in told] == [5, 0]
    told = split_usage({"usage": {"prompt_tokens": 5, "completion_tokens": 4}}, choices)
    assert [share["completion_tokens"] for share in told] == [None, None]
    told = split_usage({"usage": None}, choices)
    assert [share["completion_tokens"] for share in told] == [2, 1]
    assert [share["prompt_tokens"] for share in told] == [None, None]


def test_a_choice_whose_tokens_nobody_tells_is_unknown_beside_others():
    told = split_usage({"usage": {"completion_tokens": 9}}, [{"token_ids": None}, {"token_ids": [1]}])
    assert [share["completion_tokens"] for share in told] == [None, 1]


# ---- bodies


@pytest.mark.parametrize("raw", [b"<html>hello</html>", b"[]", b"7", b"null", b'"text"', b"error", b"\xff\xfe\x00"])
def test_what_is_no_completion_is_final(raw: bytes):
    with pytest.raises(Foreign):
        read(raw)


@pytest.mark.parametrize("choices", [None, {}, "no", 7, [None], ["x"], [{"index": 0}], [{"message": "hello"}]])
def test_an_answer_without_a_choice_is_final(choices: Any):
    with pytest.raises(Foreign, match=r"without a completion|no message"):
        read(json.dumps(answer(choices=choices)).encode())


@pytest.mark.parametrize("choices", [[], [{"index": 0, "error": {"message": "overloaded", "code": 503}}]])
def test_no_choice_and_an_error_for_a_choice_are_tried_again(choices: Any):
    with pytest.raises(lm15.ServerError) as caught:
        read(json.dumps(answer(choices=choices)).encode())
    assert judge(caught.value) in AGAIN


def test_a_stream_that_was_not_asked_for_is_read():
    chunk = {"choices": [{"index": 0, "delta": {"content": "42"}, "finish_reason": "stop"}]}
    raw = b": hello\n\ndata: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"
    assert read(raw).text == "42"


def test_usage_of_zeros_is_unknown():
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    usage = read(json.dumps(answer(usage=zeros)).encode()).usage
    assert (usage.input_tokens, usage.output_tokens) == (None, None)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_body_that_was_cut_is_requested_again(share: float):
    raw = json.dumps(answer()).encode()
    with pytest.raises(lm15.TransportError) as caught:
        read(raw[: int(len(raw) * share)])
    assert judge(caught.value) is Outcome.BROKEN


@pytest.mark.parametrize(
    ("error", "status"),
    [("gone wrong", 500), ({"message": "busy", "code": 429}, 429), ({"message": "bad", "code": "x"}, 500), ([1], 500)],
)
def test_an_error_with_status_200_is_an_error(error: Any, status: int):
    with pytest.raises(lm15.ProviderError) as caught:
        read(json.dumps({"error": error}).encode())
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ({"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}, lm15.InvalidRequestError,
         "too long"),
        ({"object": "error", "message": "no worker", "code": 50001}, lm15.ServerError, "no worker"),
        ({"detail": "seed is not known"}, lm15.InvalidRequestError, "seed is not known"),
        ({"error": {"code": 429, "message": "Over your quota", "type": "insufficient_quota"}}, lm15.BillingError,
         "quota"),
    ],
)  # fmt: skip
def test_errors_that_other_engines_put_into_an_answer(body: Any, kind: type[Exception], words: str):
    with pytest.raises(kind, match=words):
        read(json.dumps(body).encode())


def test_text_that_no_file_can_hold_is_repaired_wherever_it_stands():
    message = {"content": "a\x00b\ud800c", "reasoning": "d\udfffe", "refusal": "\x00"}
    choice = {"message": message, "odd\ud800": "\x00", "logprobs": {"content": [{"token": "\ud800", "logprob": -1}]}}
    response = read(json.dumps(answer(id="\ud800", model="\x00", choices=[choice])).encode())
    json.dumps(asdict(response), ensure_ascii=False, allow_nan=False).encode()
    assert [part.text for part in response.message.parts_of(lm15.TextPart)] == ["a\ufffdb\ufffdc"]
    assert [part.text for part in response.message.parts_of(lm15.ThinkingPart)] == ["d\ufffde"]


def test_bytes_that_are_no_text_are_repaired():
    assert read(json.dumps(answer()).encode().replace(b"four", b"f\xffour")).text == "f\ufffdour"


def test_a_megabyte_of_one_token():
    text = "the" * 350_000
    response = read(json.dumps(answer(choices=[{"message": {"content": text}}])).encode())
    assert response.text == text


def test_numbers_that_json_does_not_have():
    raw = b'{"model": "m", "x": NaN, "y": [1e999, -Infinity], "choices": [{"message": {"content": "four"}}]}'
    response = read(raw)
    assert response.text == "four"
    assert response.provider_data == {"x": None, "y": [None, None]} or response.provider_data == {"y": [None, None]}


def test_nesting_without_end():
    deep = b"[" * 100_000
    with pytest.raises(lm15.TransportError):
        read(b'{"choices": ' + deep)
    nested = b'{"x":' * 900 + b"1" + b"}" * 900
    raw = b'{"y": ' + nested + b', "choices": [{"message": {"content": "four"}}]}'
    assert read(raw).text == "four"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ([{"type": "text", "text": "fo"}, {"type": "image"}, "x", {"type": "text", "text": "ur"}], "four"),
        (7, ""),
        ({"text": "four"}, ""),
    ],
)
def test_content_of_any_form(content: Any, text: str):
    assert read(json.dumps(answer(choices=[{"message": {"content": content}}])).encode()).text == text


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("abort", "error"), (None, "stop"), (7, "error"), ("repetition", "error")]
    + [(name, "length") for name in ("max_tokens", "model_length", "MAX_TOKENS")]
    + [("eos", "stop"), ("STOP", "stop"), ("end_turn", "stop"), ("SAFETY", "content_filter")],
)
def test_finish_reasons(reason: Any, finish: str):
    choice = {"message": {"content": "four"}, "finish_reason": reason}
    assert read(json.dumps(answer(choices=[choice])).encode()).finish_reason == finish


def test_what_has_no_place_in_a_response_is_kept_beside_it():
    data = answer(system_fingerprint="abc", prompt_logprobs=None)
    data["choices"][0] |= {"stop_reason": 7, "token_ids": None}
    response = read_choice(data, data["choices"][0], None, {"tries": 2, "unsettled": 1})
    assert response.provider_data == {
        "system_fingerprint": "abc",
        "stop_reason": 7,
        "pdr": {"tries": 2, "unsettled": 1},
    }
    plain = answer()
    assert read_choice(plain, plain["choices"][0], None).provider_data is None


# ---- streams


def stream(*chunks: Any, end: bool = True) -> bytes:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return ("".join(lines) + ("data: [DONE]\n\n" if end else "")).encode()


def piece(text: Any, index: Any = 0, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


def test_a_stream_is_put_together():
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    raw = stream(piece("fo"), piece("o", 1), piece("ur", 0, "stop"), usage, piece("ne", 1, "length"))
    first, second = read_stream(b": comment\n\n" + raw, WHERE)["choices"]
    assert (first["message"]["content"], first["finish_reason"], first["usage"]) == ("four", "stop", usage["usage"])
    assert (second["message"]["content"], second["finish_reason"], second.get("usage")) == ("one", "length", None)


def test_a_stream_that_ends_early_is_requested_again():
    with pytest.raises(lm15.TransportError, match="ended its stream early"):
        read_stream(stream(piece("four", 0, "stop"), end=False), WHERE)
    with pytest.raises(lm15.TransportError):
        read_stream(stream(piece("four"))[:30], WHERE)


def test_a_server_that_does_not_stream_is_understood():
    assert read_stream(json.dumps(answer()).encode(), WHERE) == answer()


@pytest.mark.parametrize(
    "raw", [b'error: {"message": "out of memory"}\n\n', stream({"error": {"message": "out of memory", "code": 503}})]
)
def test_an_error_in_a_stream(raw: bytes):
    with pytest.raises(lm15.ServerError, match="out of memory"):
        read_stream(raw, WHERE)


# ---- anything at all

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["\ud800", "\x00", "stop", "length"]),
)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3))
)
logprobs = st.fixed_dictionaries(
    {
        "content": st.one_of(
            values,
            st.lists(
                st.fixed_dictionaries({"token": scalars, "logprob": scalars, "bytes": values, "top_logprobs": values})
            ),
        )
    }
)
messages = st.fixed_dictionaries(
    {}, optional={"content": values, "reasoning": values, "reasoning_content": values, "refusal": values, "x": values}
)
choices = st.fixed_dictionaries(
    {},
    optional={
        "index": values,
        "message": st.one_of(messages, values),
        "delta": st.one_of(messages, values),
        "finish_reason": values,
        "logprobs": st.one_of(values, logprobs),
        "usage": values,
        "token_ids": values,
        "x": values,
    },
)
usages = st.one_of(
    values,
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": scalars,
            "completion_tokens": scalars,
            "total_tokens": scalars,
            "prompt_tokens_details": values,
            "completion_tokens_details": st.one_of(values, st.fixed_dictionaries({"reasoning_tokens": scalars})),
        },
    ),
)
bodies = st.fixed_dictionaries(
    {}, optional={"id": values, "model": values, "choices": st.one_of(values, st.lists(choices)), "usage": usages}
)


@pytest.mark.slow
@given(bodies)
def test_whatever_a_server_says_is_a_response_or_an_error_of_lm15(data: dict[str, Any]):
    try:
        body = read_body(json.dumps(data).encode(), WHERE)
        found = choices_of(body, WHERE)
    except lm15.LM15Error:
        return
    for choice, usage in zip(found, split_usage(body, found), strict=True):
        for said in (usage, body.get("usage")):
            response = read_choice(body, choice, said, {"tries": 2, "unsettled": 0})
            json.dumps(asdict(response), ensure_ascii=False, allow_nan=False).encode()
            for tokens in (response.usage.input_tokens, response.usage.output_tokens, response.usage.reasoning_tokens):
                assert tokens is None or tokens >= 0


@pytest.mark.slow
@given(st.lists(st.one_of(bodies, values), max_size=4), st.booleans())
def test_whatever_a_server_streams_is_a_completion_or_an_error_of_lm15(chunks: list[Any], end: bool):
    try:
        found = choices_of(read_stream(stream(*chunks, end=end), WHERE), WHERE)
    except lm15.LM15Error:
        return
    for choice in found:
        read_choice({}, choice, choice.get("usage"))


@given(st.binary(max_size=60))
def test_whatever_bytes_come_are_a_completion_or_an_error_of_lm15(raw: bytes):
    for reader in (read_body, read_stream):
        with pytest.raises(lm15.LM15Error):
            choices_of(reader(raw, WHERE), WHERE)
