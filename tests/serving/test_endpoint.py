from __future__ import annotations

import asyncio
import json
from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.clients.cache import Cache
from dspy.utils.exceptions import (
    LMUnsupportedFeatureError,
)

from pdr_dspy.errors import ConfigError, EndpointError
from pdr_dspy.serving import EndpointLM, connect, discover
from tests.support.mock_server import MockServer
from tests.support.sending import free_address, request, send, servers

# ---- one request


def test_sampling_is_explicit_on_the_wire():
    with MockServer() as server:
        lm = connect("mock", server.api_base, temperature=0.7, max_tokens=33, seed=5, top_p=0.9)
        assert lm("hello") == ["text 5"]
        lm.close()
        assert server.requests == [
            {
                "model": "mock",
                "messages": [{"role": "user", "content": "hello"}],
                "temperature": 0.7,
                "max_tokens": 33,
                "seed": 5,
                "top_p": 0.9,
            }
        ]
        assert "Authorization" not in server.headers[0]


def test_every_config_field_reaches_the_wire():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    with MockServer() as server:
        lm = connect("mock", server.api_base, api_key="secret")
        config = {
            "temperature": 0.5,
            "top_p": 0.8,
            "top_k": 20,
            "stop": ("END",),
            "logprobs": 3,
            "reasoning": lm15.Reasoning(effort="low"),
            "response_format": {"type": "json_schema", "schema": schema, "name": "out"},
            "extensions": {"chat_template_kwargs": {"enable_thinking": False}},
        }
        send(lm, request(lm, seed=9, **config))
        (body,) = server.requests
        assert body["top_k"] == 20
        assert body["stop"] == ["END"]
        assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
        assert body["reasoning_effort"] == "low"
        assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert body["seed"] == 9
        assert server.headers[0]["Authorization"] == "Bearer secret"


def test_usage_is_the_servers():
    with MockServer(lambda body, seed: "four words are here") as server:
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm))
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (3, 4, 2)
    assert response.text == "four words are here"
    assert response.finish_reason == "stop"


def test_missing_usage_stays_unknown():
    with MockServer(usage=False) as server:
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm))
    assert response.usage == lm15.Usage()


def test_truncation_is_reported():
    cut = {"message": {"role": "assistant", "content": "half an ans"}, "finish_reason": "length"}
    with MockServer(lambda body, seed: cut) as server:
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm))
    assert response.finish_reason == "length"


def test_an_aborted_generation_is_not_a_finished_one():
    dead = {"message": {"role": "assistant", "content": "half"}, "finish_reason": "abort"}
    with MockServer(lambda body, seed: dead) as server:
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm))
    assert response.finish_reason == "error"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_comes_apart_from_the_text(field: str):
    message = {"role": "assistant", "content": "42", field: "because"}
    with MockServer(lambda body, seed: {"message": message}) as server:
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm))
    assert [part.text for part in response.message.parts_of(lm15.ThinkingPart)] == ["because"]
    assert response.text == "42"


def test_inline_thinking_is_left_alone():
    with MockServer(lambda body, seed: "<think>hm</think>42") as server:
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm))
    assert response.text == "<think>hm</think>42"


def test_logprobs():
    content = [{"token": "yes", "logprob": -0.1, "top_logprobs": [{"token": "no", "logprob": -2.0}]}]
    choice = {"message": {"role": "assistant", "content": "yes"}, "logprobs": {"content": content}}
    with MockServer(lambda body, seed: choice) as server:
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm, logprobs=1))
    assert response.logprobs is not None
    assert response.logprobs[0].token == "yes"
    assert response.logprobs[0].top[0].token == "no"


def test_text_that_no_file_can_hold_is_repaired():
    with MockServer(lambda body, seed: "a\x00b\ud800c") as server:
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm))
    assert response.text == "a�b�c"


def test_attachments_go_out_as_the_chat_api_has_them():
    parts = [
        lm15.TextPart("What is it?"),
        lm15.ImagePart(url="https://example.org/x.png", detail="low"),
        lm15.ImagePart(data="AAAA", media_type="image/png"),
        lm15.AudioPart(data="BBBB", media_type="audio/mpeg"),
        lm15.DocumentPart(data="CCCC"),
        lm15.VideoPart(url="https://example.org/x.mp4"),
    ]
    with MockServer() as server:
        lm = connect("mock", server.api_base)
        send(lm, lm15.Request(model=lm.model, messages=(lm15.Message.user(parts),)))
        (body,) = server.requests
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/x.png", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "mp3"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,CCCC"}},
                {"type": "video_url", "video_url": {"url": "https://example.org/x.mp4"}},
            ],
        }
    ]


def test_what_the_wire_has_no_form_for_and_tools_are_refused_before_sending():
    with MockServer() as server:
        lm = connect("mock", server.api_base)
        image = lm15.Message.user([lm15.ImagePart(file_id="file-1")])
        with pytest.raises(LMUnsupportedFeatureError, match="images, recordings and files only"):
            send(lm, lm15.Request(model=lm.model, messages=(image,)))
        tool = lm15.FunctionTool(name="f")
        with pytest.raises(LMUnsupportedFeatureError, match="no tool calls"):
            send(lm, lm15.Request(model=lm.model, messages=(lm15.Message.user("x"),), tools=(tool,)))
        assert server.requests == []


# ---- several replicas


def test_every_replica_has_to_pass_the_check():
    stack, (first, second) = servers(2, models=("one",))
    with stack:
        address = free_address()
        with pytest.raises(EndpointError, match=address):
            asyncio.run(connect("one", [first.api_base, address]).check())
        second.models = ("two",)
        with pytest.raises(EndpointError, match="'one'` is not served by all of"):
            asyncio.run(connect("one", [first.api_base, second.api_base]).check())
        second.models = ("two", "one")
        assert discover([first.api_base, second.api_base]) == ["one"]
        lm = connect("auto", [first.api_base, second.api_base])
        asyncio.run(lm.check())
        assert lm.served_model == "one"


def test_replicas_are_named_by_the_first_and_saved_with_the_program():
    addresses = ["http://one:8000/v1", "http://two:8000/v1/"]
    lm = connect("mock", addresses)
    assert lm.model == connect("mock", addresses[0]).model
    assert lm.api_base == addresses[0]
    assert lm.api_bases == ("http://one:8000/v1", "http://two:8000/v1")
    loaded = dspy.BaseLM.load_state(json.loads(json.dumps(lm.dump_state())), allow_custom_lm_class=True)
    assert isinstance(loaded, EndpointLM)
    assert loaded.api_bases == lm.api_bases
    assert loaded.dump_state() == lm.dump_state()


# ---- the LM as DSPy sees it


def test_state_round_trip_without_the_key():
    lm = connect("mock", "http://127.0.0.1:9/v1", temperature=0.3, seed=4, api_key="very-secret", max_siblings=3)
    state = json.loads(json.dumps(lm.dump_state()))
    assert "very-secret" not in json.dumps(state)
    loaded = dspy.BaseLM.load_state(state, allow_custom_lm_class=True)
    assert isinstance(loaded, EndpointLM)
    assert loaded.dump_state() == state
    assert (loaded.model, loaded.kwargs) == (lm.model, lm.kwargs)
    with pytest.raises(ValueError, match="allow_unsafe_lm_state"):
        dspy.BaseLM.load_state(state)


def test_one_model_name_on_two_servers_never_shares_a_cache_entry(monkeypatch: pytest.MonkeyPatch):
    memory = Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir="")
    monkeypatch.setattr(dspy, "cache", memory)
    with MockServer(lambda body, seed: "first") as one, MockServer(lambda body, seed: "second") as two:
        for server, expected in ((one, "first"), (two, "second")):
            lm = connect("mock", server.api_base).copy(cache=True)
            assert lm("which server is this?") == [expected]
            lm.close()


def test_capabilities_are_what_was_stated_and_cost_no_price_lookup(monkeypatch: pytest.MonkeyPatch):
    from dspy.clients import capabilities, costs

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the price list was searched")

    monkeypatch.setattr(capabilities, "model_info", forbidden)
    monkeypatch.setattr(costs, "model_info", forbidden)
    with MockServer() as server:
        lm = connect("mock", server.api_base, supports_reasoning=True)
        assert lm("x")
        lm.close()
        assert lm.supports_response_schema
        assert lm.supports_reasoning
        assert not lm.supports_function_calling
        assert {"response_format", "reasoning_effort", "seed", "stop"} <= lm.supported_params
        assert lm.history[-1]["cost"] is None


# ---- what the server says about itself


@pytest.mark.parametrize("kind", ["llama.cpp", "vllm"])
def test_tokens_are_counted_by_the_server_once_for_each_text(kind: str):
    with MockServer(kind=kind) as server:
        lm = connect("mock", server.api_base)
        assert asyncio.run(lm.count_tokens(["a b", "c", "a b"])) == [2, 1, 2]
        assert asyncio.run(lm.count_tokens(["c", "d e f"])) == [1, 3]
        assert sorted(server.tokenized) == ["a b", "c", "d e f"]


def test_tokens_are_unknown_where_nobody_counts():
    with MockServer() as server:
        assert asyncio.run(connect("mock", server.api_base).count_tokens(["a b"])) is None


def test_a_local_tokenizer_counts_where_the_server_does_not(tmp_path: Any):
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    with MockServer() as server:
        lm = connect("mock", server.api_base, tokenizer=str(tmp_path / "tokenizer.json"))
        assert asyncio.run(lm.count_tokens(["a b c", "a"])) == [3, 1]


def test_check_passes_and_auto_takes_the_only_model():
    with MockServer(models=("only",)) as server:
        lm = connect("auto", server.api_base)
        lm.check_sync()
        assert lm.served_model == "only"
        lm("x")
        lm.close()
        assert server.requests[0]["model"] == "only"
        assert discover(server.api_base) == ["only"]


def test_auto_needs_exactly_one_model():
    with MockServer(models=("one", "two")) as server:
        lm = connect("auto", server.api_base)
        with pytest.raises(EndpointError, match="'one', 'two'"):
            lm.check_sync()
        lm.close()


def test_check_lists_what_is_served_instead():
    with MockServer(models=("one", "two")) as server:
        lm = connect("three", server.api_base)
        with pytest.raises(EndpointError, match=r"'three'.*'one', 'two'"):
            asyncio.run(lm.check())


def test_check_of_a_dead_server():
    address = free_address()
    with pytest.raises(EndpointError, match=address):
        asyncio.run(connect("mock", address).check())
    with pytest.raises(EndpointError, match="Is the server running"):
        discover(address)


def test_check_of_something_that_is_no_api():
    with MockServer() as server:
        wrong = server.api_base.removesuffix("/v1")
        with pytest.raises(EndpointError, match="ends in /v1"):
            asyncio.run(connect("mock", wrong).check())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"api_base": "127.0.0.1:8000"}, "api_base"),
        ({"api_base": "file:///etc/passwd"}, "api_base"),
        ({"model": ""}, "model"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": 3.0}, r"temperature=3\.0"),
        ({"timeout": -1.0}, "timeout"),
        ({"max_in_flight": 0}, "max_in_flight=0"),
        ({"first_byte": 0.0}, "first_byte"),
        ({"api_base": []}, "at least one server"),
        ({"api_base": ["http://one/v1", "two"]}, "'two'"),
        ({"api_base": ["http://one/v1", "http://one/v1/"]}, "twice"),
        ({"tokenizer": "missing/tokenizer.json"}, "tokenizer"),
    ],
)
def test_bad_arguments_are_refused_early(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        connect(**{"model": "mock", "api_base": "http://127.0.0.1:9/v1", **arguments})
