"""Endpoints and scripted models keep the laws of a server, and the kit catches servers that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy import lm15

from optimize.wheel_weights import SOURCES
from pdr_dspy.serving import LlamaCppServer, connect
from pdr_dspy.testing import Completion, ScriptedLM, ScriptedRequest, count_words, scripted_lm
from pdr_dspy.testing.conformance import check_server
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.slow


def heeding(body: dict[str, Any], seed: int) -> dict[str, Any]:
    """Some words, cut at max_tokens as a server cuts them."""
    words = f"It is easy to see, by seed {seed} as by any other. Answer: 4".split()
    cut = len(words) > body["max_tokens"]
    content = " ".join(words[: body["max_tokens"]])
    return {"message": {"role": "assistant", "content": content}, "finish_reason": "length" if cut else "stop"}


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp", "other"])
@pytest.mark.parametrize("usage", [True, False])
def test_an_endpoint_passes_conformance(kind: str, usage: bool) -> None:
    with MockServer(heeding, kind=kind, usage=usage) as server:
        if kind != "other":
            server.refuse_long = True
        lm = connect("mock", server.api_base)
        check_server(lm, usage=usage)
        lm.close()


@pytest.mark.model
@pytest.mark.xdist_group("smollm2")
def test_the_embedded_server_passes_conformance() -> None:
    with LlamaCppServer("smollm2-135m", slots=4, context=512, sources=SOURCES) as server:
        check_server(server.lm, cap=24)


def steady(request: ScriptedRequest) -> str:
    return f"By seed {request.seed}.\nAnswer: 4"


def test_a_scripted_model_keeps_them() -> None:
    check_server(scripted_lm(steady))
    check_server(scripted_lm(steady, directly=True))


class Deaf(ScriptedLM):
    """Counts the same for every text."""

    async def count_tokens(self, texts: Any) -> list[int]:
        return [1 for _ in texts]


class Short(ScriptedLM):
    """Counts the first text alone."""

    async def count_tokens(self, texts: Any) -> list[int]:
        return [count_words(texts[0])]


class Telling(ScriptedLM):
    """Would put its key into saved programs."""

    def dump_state(self) -> dict[str, Any]:
        return {"model": self.model, "settings": {"api_key": "s3cret"}}


def of_class(kind: type[ScriptedLM]) -> Callable[[], ScriptedLM]:
    def make() -> ScriptedLM:
        lm = scripted_lm(steady)
        lm.__class__ = kind
        return lm

    return make


def unheeding() -> Any:
    """Sends more than was asked for, past the scripted model's own cut."""
    lm = scripted_lm(steady, directly=True)
    send = lm.send_directly

    async def long(request: lm15.Request) -> lm15.Response:
        response = await send(request)
        usage = lm15.Usage(input_tokens=response.usage.input_tokens, output_tokens=(request.config.max_tokens or 0) + 1)
        return lm15.Response(id=None, model=response.model, message=response.message, finish_reason="stop", usage=usage)

    lm.send_directly = long
    return lm


def refusing(request: ScriptedRequest) -> str:
    raise dspy.lm15.ServerError("out of order")


def with_context(reply: Any) -> Callable[[], ScriptedLM]:
    return lambda: scripted_lm(reply, context_length=300)


def guarded(request: ScriptedRequest) -> str:
    if count_words(request.user) > 300:
        raise dspy.lm15.ContextLengthError("the maximum context length is 300 tokens")
    return steady(request)


def rude(request: ScriptedRequest) -> str:
    if count_words(request.user) > 300:
        raise dspy.lm15.ServerError("no")
    return steady(request)


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (unheeding, "max_tokens is ignored"),
        (lambda: scripted_lm(refusing), "a call failed: .*out of order"),
        (lambda: scripted_lm(lambda request: Completion(steady(request), usage=False)), "came without its usage"),
        (of_class(Deaf), "`count_tokens` counts 1 for"),
        (of_class(Short), "gave 1 figures for 5 texts"),
        (of_class(Telling), "keeps 'api_key'"),
        (with_context(steady), "was answered, so it was cut"),
        (with_context(rude), "must fail with ContextWindowExceededError"),
        (lambda: "gpt", "a server is a `dspy.LM`"),
    ],
)
def test_a_server_that_violates_a_rule_names_the_rule(make: Callable[[], Any], law: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){law}"):
        check_server(make())


def test_one_that_refuses_what_is_too_long_keeps_them() -> None:
    check_server(with_context(guarded)(), cap=32)
