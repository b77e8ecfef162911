from __future__ import annotations

import asyncio
import copy
import gc
import gzip
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import dspy
import pytest
from anyio.from_thread import start_blocking_portal
from dspy import lm15
from dspy.clients.cache import Cache
from dspy.utils.exceptions import (
    ContextWindowExceededError,
    LMAuthError,
    LMError,
    LMInvalidRequestError,
    LMRateLimitError,
    LMServerError,
    LMTimeoutError,
    LMTransportError,
    LMUnsupportedFeatureError,
)

from pdr_dspy.calls.dspy_bridge import Tries, tries_of
from pdr_dspy.errors import ConfigError, EndpointError
from pdr_dspy.serving import EndpointLM, connect, discover
from pdr_dspy.serving.client.batching import Gatherer
from pdr_dspy.serving.client.encode import Wire
from tests.support.mock_server import MockServer


def request(lm: EndpointLM, text: str = "one two three", *, seed: int | None = None, **config: Any) -> lm15.Request:
    return lm15.Request(
        model=lm.model, messages=(lm15.Message.user(text),), config=lm15.Config(seed=seed, max_tokens=50, **config)
    )


def sibling(lm: EndpointLM, seed: int, size: int, group: str = "g", **config: Any) -> lm15.Request:
    return request(lm, seed=seed, extensions={"pdr_siblings": {"group": group, "size": size}}, **config)


def send(lm: EndpointLM, *requests: lm15.Request) -> list[lm15.Response]:
    """Send requests side by side on a loop of their own."""

    async def main() -> list[Any]:
        return await asyncio.gather(*(lm.acall(each) for each in requests))

    return asyncio.run(main())


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that another thread or loop is about to do."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  (it happens elsewhere)
            await asyncio.sleep(0.002)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


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


# ---- errors and retries


@pytest.mark.slow
@pytest.mark.parametrize("fault", [500, 503, "drop", (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}})])
def test_transient_failures_are_retried(fault: Any):
    with MockServer() as server:
        server.faults = [fault, fault]
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm, seed=1))
        assert response.text == "text 1"
        assert len(server.requests) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (500, LMServerError),
        ("drop", LMTransportError),
        ((429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}), LMRateLimitError),
    ],
)
def test_retries_end(fault: Any, error: type[Exception]):
    with MockServer() as server:
        server.faults = [fault] * 10
        lm = connect("mock", server.api_base)
        with pytest.raises(error):
            send(lm, request(lm))
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": {"message": "temperature is odd", "type": "BadRequestError"}}, LMInvalidRequestError),
        ({"object": "error", "message": "temperature is odd"}, LMInvalidRequestError),
        ({"detail": "temperature is odd"}, LMInvalidRequestError),
        ("temperature is odd", LMInvalidRequestError),
        (
            {"error": {"message": "temperature is odd", "type": "exceed_context_size_error"}},
            ContextWindowExceededError,
        ),
        ({"message": "temperature is odd: the maximum context length is 10 tokens"}, ContextWindowExceededError),
    ],
)
def test_a_400_is_final_and_has_the_servers_sentence(body: Any, error: type[Exception]):
    with MockServer() as server:
        server.faults = [(400, {}, body)]
        lm = connect("mock", server.api_base)
        with pytest.raises(error, match="temperature is odd"):
            send(lm, request(lm))
        assert len(server.requests) == 1


def test_a_refused_key_says_where_to_put_one():
    with MockServer() as server:
        server.faults = [(401, {}, {"error": {"message": "no key"}})]
        lm = connect("mock", server.api_base, api_key="wrong-key")
        with pytest.raises(LMAuthError, match="api_key") as caught:
            send(lm, request(lm))
        assert "wrong-key" not in str(caught.value)


@pytest.mark.parametrize("answer", [{}, {"choices": [{"index": 0}]}, {"choices": "no"}])
def test_an_answer_without_a_completion_is_an_error(answer: dict[str, Any]):
    with MockServer() as server:
        server.faults = [answer]
        lm = connect("mock", server.api_base)
        with pytest.raises(LMServerError):
            send(lm, request(lm))


def test_an_answer_that_is_not_json_is_an_error():
    with MockServer() as server:
        server.faults = [(200, {}, "<html>hello</html>")]
        lm = connect("mock", server.api_base)
        with pytest.raises(LMServerError, match="not OpenAI-compatible"):
            send(lm, request(lm))


def test_a_silent_server_times_out():
    with MockServer() as server:
        server.gate = threading.Event()
        lm = connect("mock", server.api_base, timeout=0.2)
        with pytest.raises(LMTimeoutError, match=r"timeout=0\.2"):
            send(lm, request(lm))
        assert len(server.requests) == 1


def test_a_dead_server_is_a_transport_error():
    lm = connect("mock", free_address())
    with pytest.raises(LMTransportError, match="no server answers"):
        send(lm, request(lm))


@pytest.mark.slow
def test_a_response_says_how_many_tries_it_took_and_what_nobody_accounts_for():
    with MockServer() as server:
        server.faults = [500, (429, {"Retry-After": "0"}, "busy"), "cut"]
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm, seed=1))
        assert response.text == "text 1"
        assert tries_of(response) == Tries(tries=4, unsettled=2)
        (at_once,) = send(lm, request(lm, seed=2))
        assert tries_of(at_once) == Tries(1, 0)


@pytest.mark.parametrize(("fault", "expected"), [("drop", Tries(4, 4)), ((400, {}, "no"), Tries(1, 0))])
def test_an_error_says_how_many_tries_it_took(fault: Any, expected: Tries):
    with MockServer() as server:
        server.faults = [fault] * 10
        lm = connect("mock", server.api_base)
        with pytest.raises(LMError) as caught:
            send(lm, request(lm))
    assert tries_of(caught.value) == expected


@pytest.mark.slow
def test_a_first_byte_that_never_comes_is_requested_again():
    with MockServer() as server:
        server.faults = ["hang", "hang"]
        lm = connect("mock", server.api_base, first_byte=0.2)
        (response,) = send(lm, request(lm, seed=1))
        assert response.text == "text 1"
        assert tries_of(response) == Tries(3, 2)
        assert server.aborts == 2


def test_a_server_that_sends_elsewhere_is_not_followed():
    with MockServer() as server:
        server.faults = [(307, {"Location": "http://elsewhere/v1"}, "")]
        lm = connect("mock", server.api_base)
        with pytest.raises(LMServerError, match=r"http://elsewhere/v1.*api_base"):
            send(lm, request(lm))
        assert len(server.requests) == 1


def test_a_compressed_answer_is_read():
    body = gzip.compress(json.dumps({"choices": [{"message": {"content": "four"}}]}).encode())
    with MockServer() as server:
        server.faults = [(200, {"Content-Encoding": "gzip"}, body)]
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm))
    assert response.text == "four"


@pytest.mark.parametrize(
    "fault", [b"\x1f\x8bno gzip", b'{"choices": [{"mess', (200, {"Content-Encoding": "gzip"}, b"x")]
)
def test_an_answer_that_arrives_damaged_is_requested_again(fault: Any):
    with MockServer() as server:
        server.faults = [fault] if isinstance(fault, tuple) or fault[:1] == b"{" else [b'{"choices"' + fault]
        lm = connect("mock", server.api_base)
        (response,) = send(lm, request(lm, seed=3))
        assert response.text == "text 3"
        assert tries_of(response) == Tries(2, 1)


def test_a_prompt_that_is_no_unicode_still_goes_out():
    with MockServer() as server:
        lm = connect("mock", server.api_base)
        response = asyncio.run(lm.send_directly(request(lm, "a\ud800b", seed=1)))  # DSPy itself refuses it
        assert response.text == "text 1"
        assert server.requests[0]["messages"][0]["content"] == "a\ud800b"


# ---- a server with a width


@pytest.mark.slow
@pytest.mark.parametrize("bound", [None, 6])
def test_a_server_that_refuses_is_given_what_it_takes(bound: int | None):
    with MockServer() as server:
        server.width, server.work = 4, 0.002
        lm = connect("mock", server.api_base, max_in_flight=bound)
        responses = send(lm, *(request(lm, seed=seed) for seed in range(60)))
        assert [response.text for response in responses] == [f"text {seed}" for seed in range(60)]
        assert server.peak == 4
        assert server.served == 60
        assert server.refused < 120
        assert sum(tries_of(response).tries for response in responses) == len(server.requests)
        assert all(tries_of(response).unsettled == 0 for response in responses)


# ---- several replicas


def servers(count: int, **options: Any) -> Any:
    stack = ExitStack()
    return stack, [stack.enter_context(MockServer(**options)) for _ in range(count)]


def test_replicas_share_the_work():
    stack, both = servers(2, kind="vllm")
    with stack:
        lm = connect("mock", [server.api_base for server in both])
        lm.check_sync()
        responses = send(lm, *(request(lm, f"question {seed}", seed=seed) for seed in range(60)))
        assert [response.text for response in responses] == [f"text {seed}" for seed in range(60)]
        assert min(len(server.requests) for server in both) >= 20
        assert asyncio.run(lm.count_tokens(["a b c"])) == [3]
        lm.close()


def test_siblings_that_go_singly_stay_where_their_prompt_is_known():
    stack, both = servers(2)
    with stack:
        lm = connect("mock", [server.api_base for server in both], siblings=False)
        send(lm, *(sibling(lm, seed, 8) for seed in range(8)))
        assert sorted(len(server.requests) for server in both) == [0, 8]


def test_a_router_in_front_can_tell_questions_apart():
    with MockServer(kind="vllm") as server:
        lm = connect("mock", server.api_base, siblings=True)
        question = "What is 2 + 2? " * 40
        send(lm, request(lm, question, seed=1), request(lm, question + "Workspace: 4", seed=2), request(lm, "Who?"))
        send(lm, *(sibling(lm, seed, 2) for seed in range(2)))
        sessions = {
            body["messages"][-1]["content"]: head["X-Session-ID"]
            for body, head in zip(server.requests, server.headers, strict=True)
        }
    same, later, other, _ = sessions.values()
    assert same == later
    assert len(set(sessions.values())) == 3
    assert other != same


def test_a_replica_that_dies_loses_no_call():
    stack, (first, second) = servers(2)
    with stack:
        lm = connect("mock", [first.api_base, free_address(), second.api_base])
        first.faults = ["drop"] * 100
        responses = send(lm, *(request(lm, f"question {seed}", seed=seed) for seed in range(60)))
        assert [response.text for response in responses] == [f"text {seed}" for seed in range(60)]
        assert second.served == 60


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


def test_replicas_of_different_kinds_have_in_common_what_all_can():
    stack, _ = servers(0)
    with stack:
        vllm = stack.enter_context(MockServer(kind="vllm", context=512))
        llama = stack.enter_context(MockServer(kind="llama.cpp", context=256))
        lm = connect("mock", (vllm.api_base, llama.api_base))
        lm.check_sync()
        about = lm.capabilities_sync()
        assert about.context_length == 256
        assert not about.siblings
        lm.close()


def test_what_replicas_say_of_themselves_is_known_while_one_is_down():
    with MockServer(kind="vllm", context=512) as server:
        lm = connect("mock", [free_address(), server.api_base])
        about = lm.capabilities_sync()
        assert about.context_length == 512
        assert about.siblings
        lm.close()


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


# ---- giving up


def test_a_cancelled_call_closes_its_connection():
    async def main(lm: EndpointLM) -> None:
        task = asyncio.ensure_future(lm.acall(request(lm)))
        await until(lambda: server.in_flight == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: server.aborts == 1)

    with MockServer() as server:
        server.faults = ["hang"]
        asyncio.run(main(connect("mock", server.api_base)))
        assert server.in_flight == 0
        assert len(server.requests) == 1


@pytest.mark.parametrize("leaving", [2, 3])
def test_a_group_is_given_up_when_all_of_it_are(leaving: int):
    async def main(lm: EndpointLM) -> list[Any]:
        tasks = [asyncio.ensure_future(lm.acall(sibling(lm, seed, 3))) for seed in range(3)]
        await until(lambda: server.in_flight == 1)
        for task in tasks[:leaving]:
            task.cancel()
        if leaving < 3:
            server.release()
        else:
            await until(lambda: server.aborts == 1)
        return await asyncio.gather(*tasks, return_exceptions=True)

    with MockServer(kind="vllm") as server:
        server.hold_until = 99
        results = asyncio.run(main(connect("mock", server.api_base, siblings=True)))
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, True, leaving == 3]
        assert server.aborts == (leaving == 3)
        assert len(server.requests) == 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard also where the tests were started in the background, with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_synchronous_call_and_closes_its_connection():
    with MockServer() as server:
        server.faults = ["hang"]
        lm = connect("mock", server.api_base)

        def interrupt() -> None:
            asyncio.run(until(lambda: server.in_flight == 1))
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            lm("hello")
        thread.join()
        asyncio.run(until(lambda: server.aborts == 1))
        lm.close()


# ---- siblings


@pytest.mark.parametrize("kind", ["llama.cpp", "vllm"])
def test_siblings_share_one_request_and_get_the_choice_of_their_seed(kind: str):
    with MockServer(lambda body, seed: "word " * (seed - 9), kind=kind) as server:
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 4) for seed in (12, 10, 13, 11)))
        (body,) = server.requests
        assert (body["n"], body["seed"]) == (4, 10)
        assert "pdr_siblings" not in body
    assert [(response.text or "").count("word") for response in responses] == [3, 1, 4, 2]
    assert [response.usage.output_tokens for response in responses] == [3, 1, 4, 2]
    # vLLM counts the prompt for each choice in its own counters; llama.cpp reads and counts it once.
    assert [response.usage.input_tokens for response in responses] == ([3] * 4 if kind == "vllm" else [0, 3, 0, 0])
    assert [response.usage.cache_read_tokens for response in responses] == [None, 2, None, None]


def test_output_tokens_stay_unknown_where_the_server_counts_all_choices_together():
    with MockServer() as server:
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 2) for seed in (1, 2)))
        assert len(server.requests) == 1
    assert [response.usage.output_tokens for response in responses] == [None, None]
    assert [response.usage.input_tokens for response in responses] == [3, 0]


def test_siblings_go_singly_when_the_capability_is_off():
    with MockServer() as server:
        lm = connect("mock", server.api_base, siblings=False)
        responses = send(lm, *(sibling(lm, seed, 3) for seed in (1, 2, 3)))
        assert [response.text for response in responses] == ["text 1", "text 2", "text 3"]
        assert all("n" not in body and "pdr_siblings" not in body for body in server.requests)
        assert len(server.requests) == 3


def test_only_runs_of_consecutive_seeds_share_a_request():
    with MockServer(kind="vllm") as server:
        lm = connect("mock", server.api_base, siblings=True)
        seeds = (7, 3, 20, 8, 4)
        responses = send(lm, *(sibling(lm, seed, 5) for seed in seeds))
        assert [response.text for response in responses] == [f"text {seed}" for seed in seeds]
        assert sorted((body["seed"], body.get("n", 1)) for body in server.requests) == [(3, 2), (7, 2), (20, 1)]


def test_requests_that_differ_in_more_than_the_seed_never_share():
    with MockServer(kind="vllm") as server:
        lm = connect("mock", server.api_base, siblings=True)
        send(lm, sibling(lm, 1, 2, temperature=0.1), sibling(lm, 2, 2, temperature=0.9))
        assert sorted(body["temperature"] for body in server.requests) == [0.1, 0.9]


def test_a_group_wider_than_the_server_is_sent_in_parts():
    with MockServer(kind="llama.cpp") as server:
        lm = connect("mock", server.api_base, siblings=True, max_siblings=2)
        responses = send(lm, *(sibling(lm, seed, 5) for seed in range(5)))
        assert [response.text for response in responses] == [f"text {seed}" for seed in range(5)]
        assert sorted(body.get("n", 1) for body in server.requests) == [1, 2, 2]


def test_a_server_that_ignores_n_still_answers_everyone():
    with MockServer(max_n=1) as server:
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 3) for seed in range(3)))
        assert [response.text for response in responses] == ["text 0", "text 1", "text 2"]
        assert not lm.capabilities_sync().siblings


def test_a_cancelled_member_does_not_hold_the_others():
    sent: list[list[int | None]] = []

    async def post(wires: list[Wire]) -> list[str]:
        sent.append([wire.seed for wire in wires])
        return [f"text {wire.seed}" for wire in wires]

    async def main() -> list[Any]:
        gatherer = Gatherer(post)
        tasks = [asyncio.ensure_future(gatherer.submit(Wire({"seed": seed}, "g", 4))) for seed in (0, 1, 3)]
        await asyncio.sleep(0)  # all three wait now
        tasks[2].cancel()
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(gatherer.submit(Wire({"seed": 2}, "g", 4))))
        return await asyncio.gather(*tasks, return_exceptions=True)

    one, two, cancelled, three = asyncio.run(main())
    assert [one, two, three] == ["text 0", "text 1", "text 2"]
    assert isinstance(cancelled, asyncio.CancelledError)
    assert sent == [[0, 1, 2]]


def test_a_group_that_everyone_left_is_given_up():
    gone = asyncio.Event()

    async def post(wires: list[Wire]) -> list[str]:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        return []

    async def main() -> None:
        gatherer = Gatherer(post)
        tasks = [asyncio.ensure_future(gatherer.submit(Wire({"seed": seed}, "g", 2))) for seed in (0, 1)]
        for _ in range(3):
            await asyncio.sleep(0)  # sent, and waiting for the answer
        for task in tasks:
            task.cancel()
        await asyncio.wait_for(gone.wait(), 30)

    asyncio.run(main())


def test_members_that_never_come_are_not_waited_for_forever():
    with MockServer(kind="llama.cpp") as server:
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 8) for seed in (0, 1)))
        assert [response.text for response in responses] == ["text 0", "text 1"]
        assert [body["n"] for body in server.requests] == [2]


def test_a_failed_group_fails_every_member():
    with MockServer(kind="vllm") as server:
        server.faults = [(400, {}, {"error": {"message": "no such thing"}})]
        lm = connect("mock", server.api_base, siblings=True)

        async def main() -> list[Any]:
            calls = (lm.acall(sibling(lm, seed, 3)) for seed in range(3))
            return await asyncio.gather(*calls, return_exceptions=True)

        errors = asyncio.run(main())
    assert [type(error) for error in errors] == [LMInvalidRequestError] * 3


def test_a_lost_stream_is_sent_again():
    with MockServer(kind="llama.cpp") as server:
        server.faults = [(200, {}, 'data: {"choices": []}\n\n')]
        lm = connect("mock", server.api_base, siblings=True)
        responses = send(lm, *(sibling(lm, seed, 2) for seed in range(2)))
        assert [response.text for response in responses] == ["text 0", "text 1"]
        assert len(server.requests) == 2


# ---- the LM as DSPy sees it


def test_predict_works_from_sync_async_and_many_loops():
    reply = "[[ ## answer ## ]]\nblue\n\n[[ ## completed ## ]]"
    with MockServer(lambda body, seed: reply) as server, dspy.context(lm=connect("mock", server.api_base)):
        program = dspy.Predict("question -> answer")
        assert program(question="sky?").answer == "blue"
        for _ in range(3):
            assert asyncio.run(program.acall(question="sky?")).answer == "blue"

        async def sync_inside_a_loop() -> str:
            return program(question="sky?").answer

        assert asyncio.run(sync_inside_a_loop()) == "blue"
        assert len(server.requests) == 5


def test_more_than_a_hundred_requests_are_in_flight_at_once():
    with MockServer() as server:
        server.hold_until = 150
        lm = connect("mock", server.api_base, timeout=60)
        send(lm, *(request(lm, seed=seed) for seed in range(150)))
        assert server.peak == 150


def test_max_in_flight_bounds_the_open_requests():
    with MockServer() as server:
        lm = connect("mock", server.api_base, max_in_flight=3)
        send(lm, *(request(lm, seed=seed) for seed in range(20)))
        assert len(server.requests) == 20
        assert server.peak <= 3


def test_copies_share_connections_and_keep_their_own_sampling():
    with MockServer() as server:
        lm = connect("mock", server.api_base, temperature=0.5)
        warm = lm.copy(temperature=1.5)
        deep = copy.deepcopy(lm)
        for each in (lm, warm, deep):
            each("x")
        assert [body["temperature"] for body in server.requests] == [0.5, 1.5, 0.5]
        assert warm.engine is lm.engine is deep.engine
        assert deep.capabilities_sync() == lm.capabilities_sync()
        lm.close()


@pytest.mark.slow
def test_connections_of_a_forgotten_lm_close_though_its_loop_runs_on():
    with MockServer() as server, start_blocking_portal() as portal:
        lm = connect("mock", server.api_base)
        portal.call(lm.send_directly, request(lm))
        assert server.connections == 1
        del lm
        ended = time.monotonic() + 3  # an idle connection is given up after 4 in any case
        while server.connections and time.monotonic() < ended:
            gc.collect()
            time.sleep(0.005)
        assert server.connections == 0


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


@pytest.mark.parametrize(("kind", "asked"), [("llama.cpp", True), ("vllm", True), ("other", False)])
def test_siblings_are_decided_by_the_kind_of_server(kind: str, asked: bool):
    with MockServer(kind=kind) as server:
        lm = connect("mock", server.api_base)
        assert lm.capabilities_sync().siblings is asked  # what is asked about it asks the server
        lm.check_sync()
        lm.close()
        assert lm.capabilities_sync().siblings is asked
        assert lm.capabilities_sync().prompt_once is (kind == "llama.cpp")


@pytest.mark.parametrize("kind", ["llama.cpp", "vllm", "other"])
def test_whether_n_drafts_count_their_prompt_once_is_asked_where_siblings_were_stated(kind: str):
    with MockServer(kind=kind) as server:
        lm = connect("mock", server.api_base, siblings=True)
        assert lm.capabilities_sync().prompt_once is (kind != "vllm")
        lm.close()
        assert not connect("mock", server.api_base, siblings=False).capabilities_sync().prompt_once


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


@pytest.mark.parametrize(("kind", "expected"), [("llama.cpp", 2048), ("vllm", 2048), ("other", None)])
def test_context_length_comes_from_the_server(kind: str, expected: int | None):
    with MockServer(kind=kind, context=2048) as server:
        lm = connect("mock", server.api_base)
        assert lm.capabilities_sync().context_length == expected
        lm.close()
        assert connect("mock", server.api_base, context_length=77).capabilities_sync().context_length == 77


def test_check_passes_and_auto_takes_the_only_model():
    with MockServer(models=("only",)) as server:
        lm = connect("auto", server.api_base)
        lm.check_sync()
        assert lm.served_model == "only"
        lm("x")
        lm.close()
        assert server.requests[0]["model"] == "only"
        assert discover(server.api_base) == ["only"]


@pytest.mark.slow
def test_auto_works_without_a_check():
    with MockServer(models=("only",)) as server:
        lm = connect("auto", server.api_base)
        send(lm, request(lm))
        assert server.requests[0]["model"] == "only"


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
