"""Whatever a client sends, the answer is a completion or an error in OpenAI's shape, never a fault of the server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import dspy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pdr_dspy
from pdr_dspy import LongCoT
from pdr_dspy.endpoint import Limits
from pdr_dspy.endpoint.requests import IGNORED, REFUSED, ChatRequest, Options, ScheduleChanges
from pdr_dspy.testing import scripted_lm
from tests.endpoint.conftest import pdr

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "input_audio"])},
    optional={"text": st.text(max_size=10), "image_url": JSON},
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES)}, optional={"content": st.text(max_size=30) | st.lists(PART, max_size=3) | JSON}
)
CHANGES = st.dictionaries(
    st.sampled_from([*ScheduleChanges.model_fields, "check", "x"]),
    st.integers(-2, 10**4) | st.floats(-1, 3) | st.lists(st.integers(-1, 5), max_size=4) | JSON,
    max_size=3,
)
OPTIONS = st.dictionaries(
    st.sampled_from([*Options.model_fields, "upstream"]), st.integers(-2, 2000) | CHANGES | JSON, max_size=4
)
CHAT = st.builds(
    dict.__or__,
    st.fixed_dictionaries({"model": st.just("a"), "messages": st.lists(MESSAGE, max_size=3)}),
    st.dictionaries(
        st.sampled_from([*ChatRequest.model_fields, *IGNORED, *REFUSED, "x"]),
        JSON | st.integers(-1, 9) | st.just({"type": "text"}) | OPTIONS,
        max_size=4,
    ),
)
GOOD_CHAT = st.builds(
    dict.__or__,
    st.just({"messages": [{"role": "user", "content": "7"}]}),
    st.fixed_dictionaries(
        {"model": st.sampled_from(["a", "b", "c"])},
        optional={
            "pdr": OPTIONS,
            "n": st.integers(1, 9),
            "stream": st.booleans(),
            "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3),
            "max_completion_tokens": st.integers(1, 40),
        },
    ),
)


class Task(dspy.Signature):
    """Add."""

    number: int = dspy.InputField()
    more: list[str] = dspy.InputField(default=[])
    picture: dspy.Image | None = dspy.InputField(default=None)
    answer: int = dspy.OutputField()


@pytest.fixture(scope="module")
def app() -> Any:
    programs = {
        "a": LongCoT("question -> answer", draft_tokens=32),
        "b": pdr(),
        "c": LongCoT(Task, draft_tokens=32),
    }
    lm = scripted_lm(lambda request: "Yes.\nAnswer: 7" if request.seed % 5 else "What?", directly=True)
    return pdr_dspy.app(programs, lm=lm, limits=Limits(calls=12, seconds=20.0))


def ask(app: Any, path: str, body: bytes, method: str = "POST") -> tuple[int, bytes]:
    """The application called as a server calls it."""

    async def call() -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if given:
                return given.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
            "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("x", 1),
            "headers": [(b"content-type", b"application/json"), (b"host", b"x")],
        }  # fmt: skip
        await app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    return asyncio.run(call())


def check(status: int, body: bytes) -> None:
    assert status in (200, 400, 404, 502), (status, body)
    if body.startswith(b"data:"):
        events = [line[6:] for line in body.decode().split("\n\n") if line]
        assert events[-1] == "[DONE]"
        data = [json.loads(event) for event in events[:-1]]
        assert all("error" in one or one["object"] == "chat.completion.chunk" for one in data)
        return
    said = json.loads(body)
    if status == 200:
        assert said["pdr"]["B_total"] >= said["pdr"]["B_seq"] > 0
    else:
        assert set(said["error"]) == {"message", "type", "param", "code"}
        assert said["error"]["code"] != "internal"


FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.slow
@FUZZ
@given(CHAT)
def test_any_chat(app: Any, body: dict[str, Any]) -> None:
    check(*ask(app, "/v1/chat/completions", json.dumps(body).encode()))


@pytest.mark.slow
@FUZZ
@given(GOOD_CHAT)
def test_chats_that_are_nearly_right(app: Any, body: dict[str, Any]) -> None:
    check(*ask(app, "/v1/chat/completions", json.dumps(body).encode()))


@pytest.mark.slow
@FUZZ
@given(
    st.sampled_from("abc"),
    st.dictionaries(st.sampled_from(["number", "question", "more", "picture", "x"]), JSON),
    OPTIONS,
)
def test_any_inputs(app: Any, name: str, inputs: dict[str, Any], options: dict[str, Any]) -> None:
    check(*ask(app, f"/v1/programs/{name}", json.dumps({"inputs": inputs, "pdr": options}).encode()))


@pytest.mark.slow
@FUZZ
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(app: Any, body: bytes) -> None:
    check(*ask(app, "/v1/chat/completions", body))
    check(*ask(app, "/v1/programs/c", body))


@pytest.mark.parametrize(
    "body", [b"[" * 10**5, b'{"a":' * 10**4, b'{"messages": "\\ud800"}', b"\xff\xfe", b"1e999", b"NaN"]
)
def test_json_that_is_none(app: Any, body: bytes) -> None:
    status, said = ask(app, "/v1/chat/completions", body)
    assert status == 400
    assert json.loads(said)["error"]["code"] in ("invalid_json", "invalid_value")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/nothing", "GET", 404),
        ("/v1/chat/completions", "GET", 405),
        ("/v1/models", "POST", 405),
        ("/v1/programs/../../etc/passwd", "POST", 404),
        ("/v1/programs/none", "POST", 404),
        ("/v1/models/none", "GET", 404),
    ],
)
def test_what_is_not_there_is_reported_in_the_same_shape(app: Any, path: str, method: str, status: int) -> None:
    found, said = ask(app, path, b"{}", method)
    assert found == status
    assert set(json.loads(said)["error"]) == {"message", "type", "param", "code"}
