"""Clients that go away, that come in crowds, that are not known, and that are slow."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from pdr_dspy.endpoint import Keys, Limits
from pdr_dspy.errors import ConfigError
from tests.endpoint.conftest import pdr, until
from tests.support.endpoint_server import EndpointServer
from tests.support.mock_server import MockServer

Start = Callable[..., EndpointServer]
BODY: dict[str, Any] = {"model": "solver", "messages": [{"role": "user", "content": "What is 41 + 1?"}]}


def raw(server: EndpointServer, body: bytes, *headers: str, path: str = "/v1/chat/completions") -> socket.socket:
    """Send a request and leave the connection open."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return connection


def status_of(connection: socket.socket) -> int:
    return int(connection.recv(4096).split()[1])


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_disconnects_cancels_every_call_at_the_model_server(
    start: Start, model: MockServer, stream: bool, n: int
) -> None:
    model.hold_until = 10**6  # nothing is answered
    server = start()
    connection = raw(server, json.dumps({**BODY, "stream": stream, "n": n}).encode())
    until(lambda: model.in_flight == 3 * n)
    connection.close()
    until(lambda: model.in_flight == 0)
    assert (model.aborts, model.served) == (3 * n, 0)
    model.release()
    model.hold_until = 0
    with openai.OpenAI(base_url=server.api_base, api_key="none") as client:
        done = client.chat.completions.create(**BODY)
        assert done.choices[0].message.content == "42"
    assert model.served == 4


def test_a_client_that_disconnects_after_a_round_cancels_the_next(start: Start, model: MockServer) -> None:
    server = start()
    original = model._answer

    async def answer(body: dict[str, Any], request: Any) -> Any:
        if body["max_tokens"] == 33:
            await model._ends.wait()
        return await original(body, request)

    model._answer = answer  # type: ignore[method-assign]
    server = start({"solver": pdr(refine_tokens=33)})
    connection = raw(server, json.dumps({**BODY, "stream": True}).encode())
    until(lambda: model.served == 3 and model.in_flight == 1)
    connection.close()
    until(lambda: model.aborts == 1 and model.in_flight == 0)


def test_a_client_that_disconnects_while_it_waits_leaves_the_queue(start: Start, model: MockServer) -> None:
    model.gate = threading.Event()
    server = start(limits=Limits(running=1))
    first = raw(server, json.dumps(BODY).encode())
    until(lambda: model.in_flight == 3)
    second = raw(server, json.dumps(BODY).encode())
    until(lambda: server.app.admission.queued == 1)
    second.close()
    until(lambda: server.app.admission.queued == 0)
    model.gate.set()
    assert status_of(first) == 200
    first.close()
    assert model.served == 4


def test_a_full_queue_is_a_429_with_retry_after(start: Start, model: MockServer) -> None:
    model.gate = threading.Event()
    server = start(limits=Limits(running=1, queued=1))
    held = [raw(server, json.dumps(BODY).encode())]
    until(lambda: model.in_flight == 3)
    held.append(raw(server, json.dumps(BODY).encode()))
    until(lambda: server.app.admission.queued == 1)
    with openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0) as client:
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as raised:
                client.chat.completions.create(**BODY, stream=stream)
            assert raised.value.code == "queue_full"
            assert int(raised.value.response.headers["retry-after"]) >= 1
    model.gate.set()
    assert [status_of(connection) for connection in held] == [200, 200]
    for connection in held:
        connection.close()


def test_a_place_that_does_not_come_before_the_deadline_is_a_429(start: Start, model: MockServer) -> None:
    model.gate = threading.Event()
    server = start(limits=Limits(running=1))
    held = raw(server, json.dumps(BODY).encode())
    until(lambda: model.in_flight == 3)
    client = openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0)
    with client, pytest.raises(openai.RateLimitError) as raised:
        client.chat.completions.create(**BODY, extra_body={"pdr": {"deadline": 0.1}})
    assert raised.value.code == "queue_timeout"
    model.gate.set()
    assert status_of(held) == 200
    held.close()


KEYS = {"ann": "a" * 32, "bob": "b" * 32}


def test_one_client_that_floods_the_queue_does_not_keep_another_out(start: Start, model: MockServer) -> None:
    model.gate = threading.Event()
    server = start(limits=Limits(running=1, queued=4), keys=Keys(KEYS.values()))

    def send(who: str) -> socket.socket:
        return raw(server, json.dumps(BODY).encode(), f"Authorization: Bearer {KEYS[who]}")

    flood = [send("ann")]
    until(lambda: server.app.admission.running == 1)
    for waiting in range(1, 5):
        flood.append(send("ann"))
        until(lambda waiting=waiting: server.app.admission.queued == waiting)
    other = send("bob")
    assert status_of(flood[-1]) == 429  # the newest of who has most
    assert server.app.admission.queued == 4
    model.gate.set()
    assert status_of(other) == 200
    assert [status_of(connection) for connection in flood[:-1]] == [200] * 4
    for connection in (*flood, other):
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (None, 401),
        ("Bearer " + "c" * 32, 401),
        ("Basic " + "a" * 32, 401),
        ("Bearer", 401),
        ("Bearer " + "a" * 32, 200),
    ],
)
def test_keys_are_asked_for_everywhere_but_for_health(start: Start, sent: str | None, status: int) -> None:
    server = start(keys=Keys(KEYS.values()))
    headers = {} if sent is None else {"Authorization": sent}

    async def ask() -> list[int]:
        async with aiohttp.ClientSession(headers=headers) as session:
            found = []
            for path in ("/v1/models", "/metrics", "/openapi.json"):
                async with session.get(server.url + path) as answer:
                    found.append(answer.status)
            async with session.post(f"{server.api_base}/chat/completions", json=BODY) as answer:
                found.append(answer.status)
            async with session.get(f"{server.url}/health") as answer:
                assert answer.status == 200
            return found

    assert asyncio.run(ask()) == [status] * 4


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{'a' * 32}  # ann\n\n{'b' * 32}\n")
    assert len(Keys.read(file)) == 2
    assert "aaaa" not in repr(Keys.read(file)) + str(vars(Keys.read(file)))
    monkeypatch.setenv("PDR_SERVE_KEYS", f"{'a' * 32}, {'b' * 32}")
    assert len(Keys.read()) == 2
    monkeypatch.delenv("PDR_SERVE_KEYS")
    assert len(Keys.read()) == 0
    for text, why in (("short\n", "at least 16"), ("# none\n", "has no key"), ("ä" * 20, "unusual")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=why):
            Keys.read(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.read(tmp_path / "none")


def test_bodies_have_a_size_a_type_and_a_time(start: Start, model: MockServer) -> None:
    server = start(limits=Limits(body_bytes=200, body_seconds=0.2))

    async def ask() -> list[int]:
        found = []
        async with aiohttp.ClientSession() as session:
            url = f"{server.api_base}/chat/completions"

            async def pieces() -> Any:  # no length is said
                for _ in range(9):
                    yield b" " * 100

            for body, kind in (
                (b" " * 201, "application/json"),
                (pieces(), "application/json"),
                (json.dumps(BODY).encode(), "text/plain"),
                (json.dumps(BODY).encode(), "application/json; charset=utf-8"),
            ):
                async with session.post(url, data=body, headers={"Content-Type": kind}) as answer:
                    found.append(answer.status)
        return found

    assert asyncio.run(ask()) == [413, 413, 415, 200]
    slow = raw(server, b"")
    slow.close()
    slow = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    slow.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    assert status_of(slow) == 408
    slow.close()


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_headers_that_do_not_come_end_the_connection(start: Start, begun: bytes) -> None:
    server = start(limits=Limits(header_seconds=0.1))
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(begun)
        assert connection.recv(100) == b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while not said.endswith(b"}"):
            said += connection.recv(4096)
        connection.sendall(b"GET /hea")
        assert connection.recv(100) == b""


def test_headers_have_a_size(start: Start) -> None:
    server = start(limits=Limits(header_bytes=2000))
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 5000)
        assert status_of(connection) == 400


def test_a_host_that_is_not_ours_is_not_answered(start: Start) -> None:
    server = start(limits=Limits(hosts=("localhost", "127.0.0.1", "[::1]")))

    def ask(host: str) -> int:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return status_of(connection)

    assert [ask(host) for host in ("127.0.0.1:80", "localhost", "[::1]:80", "evil.example", "")] == [200] * 3 + [
        403
    ] * 2


def test_told_to_end_it_finishes_what_is_under_way(start: Start, model: MockServer) -> None:
    model.gate = threading.Event()
    server = start()
    under_way = [raw(server, json.dumps({**BODY, "stream": stream}).encode()) for stream in (False, True)]
    until(lambda: model.in_flight == 6)
    server.stop()

    def closed() -> bool:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        except OSError:
            return True
        return False

    until(closed)
    model.gate.set()
    texts = []
    for connection in under_way:
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        texts.append(b"".join(parts))
        connection.close()
    assert b'"finish_reason":"stop"' in texts[0]
    assert texts[1].rstrip(b"\r\n0").endswith(b"data: [DONE]")
    server.join()
    assert model.served == 8


@pytest.mark.slow
def test_what_takes_longer_than_the_drain_is_cancelled_at_the_model_server(start: Start, model: MockServer) -> None:
    model.hold_until = 10**6
    server = start(limits=Limits(drain_seconds=1))
    connection = raw(server, json.dumps(BODY).encode())
    until(lambda: model.in_flight == 3)
    server.stop()
    server.join()
    until(lambda: model.in_flight == 0)
    assert model.aborts == 3
    connection.close()
    model.release()


@pytest.mark.parametrize("wanted", [False, True])
def test_no_text_is_logged_unless_it_is_wanted(
    start: Start, model: MockServer, caplog: pytest.LogCaptureFixture, wanted: bool
) -> None:
    server = start(limits=Limits(log_texts=wanted))
    caplog.set_level("DEBUG", "pdr_dspy.endpoint")
    model.faults += [(400, {}, {"error": {"message": "I do not like What is 41"}})] * 3
    with openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**BODY)
        client.chat.completions.create(**BODY)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**BODY, extra_body={"pdr": {"schedule": {"distiller": "What is 41"}}})
    lines = [record.getMessage() for record in caplog.records]
    assert any("status=200" in line and "B_total=" in line and "stop=done" in line for line in lines)
    assert any("status=502" in line and "model_server_failed" in line for line in lines)
    assert any("What is 41" in line for line in lines) is wanted
