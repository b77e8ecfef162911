"""What answers is named by all that decides it, so that replies of one server never pass for another's."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from anyio.from_thread import start_blocking_portal

from pdr_dspy import LongCoT, calls, evaluate
from pdr_dspy.errors import ConfigError, EndpointError, StoreError
from pdr_dspy.runtime import luggage
from pdr_dspy.serving import EndpointLM, connect
from pdr_dspy.serving.client import identity as identities
from pdr_dspy.verifiers import ExactVerifier
from tests.support.mock_server import MockServer
from tests.support.sending import free_address, identity, request, send, servers

QA = "question -> answer"


def says(answer: str, **options: Any) -> MockServer:
    return MockServer(lambda body, seed: f"Answer: {answer}", **options)


@pytest.fixture
def server() -> Iterator[MockServer]:
    with says("1") as running:
        yield running


def answer(lm: EndpointLM, folder: Path) -> str:
    with dspy.context(lm=lm), calls.Rollouts(folder) as store, calls.session(store=store):
        try:
            return LongCoT(QA)(question="q").answer
        finally:
            lm.close()


def test_another_model_on_the_same_port_is_another(tmp_path: Path) -> None:
    with says("1", models=("first",)) as server:
        port, base = server.port, server.api_base
        assert answer(connect("auto", base), tmp_path) == "1"
        assert answer(connect("auto", base), tmp_path) == "1"
        assert len(server.requests) == 1  # the store had the second
    with says("2", models=("second",), port=port):
        assert answer(connect("auto", base), tmp_path) == "2"


def test_the_same_name_over_other_weights_is_another(tmp_path: Path) -> None:
    with says("1", kind="vllm") as server:
        server.root = "/weights/step-100"
        port, base = server.port, server.api_base
        first = identity(connect("mock", base))
        assert answer(connect("mock", base), tmp_path) == "1"
    with says("2", kind="vllm", port=port) as server:
        server.root = "/weights/step-200"
        assert identity(connect("mock", base)) != first
        assert answer(connect("mock", base), tmp_path) == "2"


def test_a_restart_with_other_weights_in_a_short_silence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    silence = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + silence)
    monkeypatch.setattr(identities, "time", clock)
    with says("1", kind="vllm") as server:
        server.root = "/weights/step-100"
        lm = connect("mock", server.api_base)
        first = identity(lm)
    with says("2", kind="vllm", port=server.port) as server:
        server.root = "/weights/step-200"
        assert identity(lm) == first  # nothing was sent since
        silence = 6.0
        with pytest.raises(EndpointError, match="step-200"):
            identity(lm)


def test_an_evaluation_notices_that_its_server_was_exchanged(tmp_path: Path) -> None:
    examples = [dspy.Example(question="q", answer="1").with_inputs("question")]
    with says("1", models=("first",)) as server:
        port, base = server.port, server.api_base
        with dspy.context(lm=connect("auto", base)):
            assert evaluate(LongCoT(QA), examples, ExactVerifier(), run_dir=tmp_path).score == 1.0
    refused = pytest.raises(StoreError, match="holds another evaluation")
    with says("2", models=("second",), port=port), dspy.context(lm=connect("auto", base)), refused:
        evaluate(LongCoT(QA), examples, ExactVerifier(), run_dir=tmp_path)


def test_address_headers_and_key_each_make_another_and_none_can_be_read(server: MockServer) -> None:
    root = server.api_base.removesuffix("/v1")
    ways: list[dict[str, Any]] = [
        {"api_base": server.api_base},
        {"api_base": f"{root}/team-a/v1"},
        {"api_base": f"{root}/team-b/v1"},
        {"api_base": server.api_base, "api_key": "sk-secret-1"},
        {"api_base": server.api_base, "api_key": "sk-secret-2"},
        {"api_base": server.api_base, "headers": {"X-Deployment": "blue"}},
        {"api_base": server.api_base, "headers": {"X-Deployment": "green"}},
    ]
    names = [identity(connect("mock", **way)) for way in ways]
    assert len(set(names)) == len(names)
    assert not any("secret" in name or "blue" in name for name in names)
    assert identity(connect("mock", **ways[3])) == names[3]
    https = connect("mock", server.api_base.replace("http:", "https:"))
    assert https.identity not in names


def test_headers_are_sent_and_never_saved(server: MockServer) -> None:
    lm = connect("mock", server.api_base, headers={"X-Deployment": "blue"}, api_key="sk-1")
    with dspy.context(lm=lm):
        LongCoT(QA)(question="q")
    assert server.headers[0]["X-Deployment"] == "blue"
    assert "blue" not in str(lm.dump_state())
    assert "sk-1" not in str(lm.dump_state()) + repr(lm.settings)


def test_an_lm_is_pickled_without_its_key(server: MockServer) -> None:
    lm = connect("mock", server.api_base, api_key="sk-1", temperature=0.3)
    data = pickle.dumps(lm)
    assert b"sk-1" not in data
    again = pickle.loads(data)
    assert again.kwargs["temperature"] == 0.3
    assert again.api_base == lm.api_base


def test_to_another_process_of_the_run_the_key_goes_beside_the_pickle(server: MockServer) -> None:
    lm = connect("mock", server.api_base, api_key="sk-1", headers={"X-Deployment": "blue"}, temperature=0.3)
    with luggage.packed() as packed:
        data = pickle.dumps([lm, lm.copy(), connect("mock", server.api_base)])
    assert b"sk-1" not in data
    assert b"blue" not in data
    assert "sk-1" not in repr(packed)
    known: dict[str, Any] = {}
    with luggage.unpacked(packed.secrets, frozenset({"127.0.0.1"}), known):
        first, second, other = pickle.loads(data)
        (again,) = pickle.loads(data)[:1]
    assert first.settings == lm.settings
    assert (first.identity, first.model, first.kwargs) == (lm.identity, lm.model, lm.kwargs)
    assert other.settings.api_key is None
    with start_blocking_portal() as portal:
        for each, connections in ((first, 1), (second, 1), (again, 1), (other, 2)):  # one set of each in a process
            portal.call(each.send_directly, request(each))
            assert server.connections == connections
        portal.call(first.aclose)
        portal.call(other.aclose)
    with dspy.context(lm=first):
        LongCoT(QA)(question="q")
    assert server.headers[-1]["Authorization"] == "Bearer sk-1"
    assert server.headers[-1]["X-Deployment"] == "blue"
    bare = pickle.loads(data)[0]  # without its luggage
    assert bare.settings.api_key is None


def test_a_pasted_address_is_understood(server: MockServer) -> None:
    assert connect("mock", f"{server.api_base}/chat/completions").api_base == server.api_base


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": "sk-1\n"}, "line break"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "cannot be an HTTP header"),
        ({"ca_file": "/no/such.pem"}, "names no file"),
        ({"proxy": "somewhere"}, "must be a URL"),
        ({"nothing": 1}, "there is no `nothing`; the names are model, api_base, .*api_key, headers"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        connect("mock", "http://127.0.0.1:9/v1", **settings)
    assert "sk-1" not in str(caught.value)


def test_the_cap_goes_where_hosted_reasoning_models_take_it(server: MockServer) -> None:
    with dspy.context(lm=connect("mock", server.api_base, token_field="max_completion_tokens")):
        LongCoT(QA, draft_tokens=77)(question="q")
    assert server.requests[0]["max_completion_tokens"] == 77
    assert "max_tokens" not in server.requests[0]


def test_a_dead_server_says_so_where_the_model_is_auto() -> None:
    from pdr_dspy.calls import RoundFailed

    refused = pytest.raises(RoundFailed, match=r"no server answers at http://127\.0\.0\.1:9/v1")
    with dspy.context(lm=connect("auto", "http://127.0.0.1:9/v1", timeout=1)), refused:
        LongCoT(QA)(question="q")


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


@pytest.mark.parametrize(("kind", "expected"), [("llama.cpp", 2048), ("vllm", 2048), ("other", None)])
def test_context_length_comes_from_the_server(kind: str, expected: int | None):
    with MockServer(kind=kind, context=2048) as server:
        lm = connect("mock", server.api_base)
        assert lm.capabilities_sync().context_length == expected
        lm.close()
        assert connect("mock", server.api_base, context_length=77).capabilities_sync().context_length == 77


@pytest.mark.slow
def test_auto_works_without_a_check():
    with MockServer(models=("only",)) as server:
        lm = connect("auto", server.api_base)
        send(lm, request(lm))
        assert server.requests[0]["model"] == "only"
