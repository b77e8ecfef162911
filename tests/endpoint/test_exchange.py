"""The model server behind an endpoint is exchanged: one request hears it, and the next one has the new model."""

from __future__ import annotations

from typing import Any

import openai

import pdr_dspy
from pdr_dspy import connect
from pdr_dspy.endpoint import Limits
from tests.endpoint.conftest import one_more, pdr
from tests.support.endpoint_server import EndpointServer
from tests.support.mock_server import MockServer

QUESTION: Any = [{"role": "user", "content": "What is 40 + 1?"}]


def ask(server: EndpointServer) -> str:
    with openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0) as client:
        try:
            done = client.chat.completions.create(model="solver", messages=QUESTION)
        except openai.InternalServerError as error:
            return f"{error.status_code} {error.code}"
        return str(done.choices[0].message.content)


def test_the_endpoint_continues_with_the_new_model() -> None:
    with MockServer(one_more, kind="vllm") as model:
        lm = connect("mock", model.api_base)
        app = pdr_dspy.app({"solver": pdr()}, lm=lm, limits=Limits())
        with EndpointServer(app, Limits()) as server:
            assert "41" in ask(server)
            model.answers_as = "other"
            heard = [ask(server) for _ in range(4)]
        lm.close()
    assert heard[0] == "502 model_server_failed"
    assert set(heard[1:-1]) <= {"502 model_server_failed", heard[-1]}
    assert "41" in heard[-1]
