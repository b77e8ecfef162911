"""What answers is named by all that decides it, so that replies of one server never pass for another's."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from pdr_dspy import LongCoT, calls, evaluate
from pdr_dspy.errors import ConfigError, EndpointError, StoreError
from pdr_dspy.runtime import luggage
from pdr_dspy.serving import EndpointLM, connect
from pdr_dspy.serving.client import identity as identities
from pdr_dspy.serving.client import retries
from pdr_dspy.verifiers import ExactVerifier
from tests.support.mock_server import MockServer

QA = "question -> answer"


def says(answer: str, **options: Any) -> MockServer:
    return MockServer(lambda body, seed: f"Answer: {answer}", **options)


@pytest.fixture
def server() -> Iterator[MockServer]:
    with says("1") as running:
        yield running


def identity(lm: EndpointLM) -> str:
    async def ask() -> str:
        try:
            return await lm.identify()
        finally:
            await lm.aclose()

    return asyncio.run(ask())


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


@pytest.mark.parametrize(
    ("owner", "path", "first", "second"),
    [
        ("sglang", "/model_info", {"model_path": "/w/1"}, {"model_path": "/w/2"}),
        ("sglang", "/get_model_info", {"model_path": "/w", "weight_version": "1"},
         {"model_path": "/w", "weight_version": "2"}),
        ("library", "/api/tags", {"models": [{"name": "mock:latest", "digest": "a"}, {"name": "other", "digest": "b"}]},
         {"models": [{"name": "mock:latest", "digest": "b"}, {"name": "other", "digest": "b"}]}),
        ("organization_owner", "/api/v0/models", {"data": [{"id": "mock", "quantization": "Q4_K_M"}]},
         {"data": [{"id": "mock", "quantization": "Q8_0"}]}),
        ("mock", "/info", {"model_id": "mock", "model_sha": "a"}, {"model_id": "mock", "model_sha": "b"}),
    ],
)  # fmt: skip
def test_other_engines_say_elsewhere_which_weights_they_serve(owner: str, path: str, first: Any, second: Any) -> None:
    with says("1", owner=owner) as server:
        names = set()
        for said in (first, second, {**first, "models": None} if "models" in first else first):
            server.told = {path: said}
            names.add(identity(connect("mock", server.api_base)))
        server.told = {path: first}
        again = identity(connect("mock", server.api_base))
    assert len(names) == (3 if "models" in first else 2)
    assert again in names


def test_a_server_that_says_no_more_is_asked_for_no_more() -> None:
    with says("1") as server:
        identity(connect("mock", server.api_base))
        assert server.asked == []


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
    assert first._async is second._async is again._async  # one set of connections in a process
    assert other._async is not first._async
    assert other.settings.api_key is None
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
        ({"nothing": 1}, "there is no such setting; known settings: api_key, headers"),
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


def test_a_server_that_loads_its_model_is_waited_for(server: MockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LOADING", 0.01)
    loading = (503, {}, {"error": {"message": "Loading model", "code": 503}})
    server.faults = [loading] * 6
    with dspy.context(lm=connect("mock", server.api_base, timeout=30)):
        assert LongCoT(QA)(question="q").answer == "1"


def test_a_dead_server_says_so_where_the_model_is_auto() -> None:
    from pdr_dspy.calls import RoundFailed

    refused = pytest.raises(RoundFailed, match=r"no server answers at http://127\.0\.0\.1:9/v1")
    with dspy.context(lm=connect("auto", "http://127.0.0.1:9/v1", timeout=1)), refused:
        LongCoT(QA)(question="q")


def test_equal_drafts_of_temperature_0_are_one_request() -> None:
    from pdr_dspy import SelfConsistency

    with says("1", kind="vllm") as server, dspy.context(lm=connect("mock", server.api_base)):
        prediction = SelfConsistency(QA, n=4, temperature=0.0)(question="q")
        assert len(server.requests) == 1
        assert "n" not in server.requests[0]
        assert len(prediction.rounds[0].drafts) == 4
        assert prediction.ledger.total == prediction.ledger.calls[0].tokens


@pytest.mark.slow
def test_a_request_for_n_that_hangs_costs_one_draft() -> None:
    from pdr_dspy import SelfConsistency

    with says("1", kind="vllm") as server:
        server.faults = ["hang"]
        with dspy.context(lm=connect("mock", server.api_base, timeout=1.0)):
            prediction = SelfConsistency(QA, n=3)(question="q")
        assert [draft.ok for draft in prediction.rounds[0].drafts] == [True, True, True]
        assert [request.get("n", 1) for request in server.requests] == [3, 1, 1, 1]
