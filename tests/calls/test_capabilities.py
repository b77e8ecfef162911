"""One record says what answers behind an LM and what it can do."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import dspy
import pytest

from pdr_dspy import LongCoT, calls
from pdr_dspy.calls import Capabilities, ServedModel
from pdr_dspy.errors import ConfigError
from pdr_dspy.serving import connect
from tests.support.mock_server import MockServer
from tests.support.solver import engine


def asked(lm: dspy.BaseLM) -> Capabilities:
    async def ask() -> Capabilities:
        try:
            return await calls.capabilities(lm)
        finally:
            if (close := getattr(lm, "aclose", None)) is not None:
                await close()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (
            "vllm",
            {
                "context_length": 512,
                "thinking_budget": "continue",
                "siblings": True,
                "prompt_once": False,
                "counts_tokens": True,
                "output_formats": {"schema", "choices", "regex"},
            },
        ),
        (
            "llama.cpp",
            {
                "context_length": 512,
                "thinking_budget": "continue",
                "siblings": True,
                "prompt_once": True,
                "counts_tokens": True,
                "output_formats": {"schema", "choices"},
            },
        ),
        (
            "other",
            {
                "context_length": None,
                "thinking_budget": "cap",
                "siblings": False,
                "prompt_once": False,
                "counts_tokens": False,
            },
        ),
    ],
)
def test_each_kind_of_server_says_what_it_can(kind: str, record: dict[str, Any]) -> None:
    with MockServer(kind=kind, context=512) as server:
        about = asked(connect("mock", server.api_base))
        assert server.requests == []
        assert (about.known, about.identity) == (True, f"endpoint/mock@{server.api_base}")
    assert {name: getattr(about, name) for name in record} == record
    with pytest.raises(dataclasses.FrozenInstanceError):
        about.context_length = 1  # type: ignore[misc]


@pytest.mark.parametrize("stated", [True, False])
def test_whether_another_server_takes_a_schema_is_what_the_user_says(stated: bool) -> None:
    with MockServer() as server:
        about = asked(connect("mock", server.api_base, constrained=stated))
    assert about.output_formats == ({"schema"} if stated else frozenset())


def test_making_an_lm_and_reading_its_properties_asks_nobody() -> None:
    with MockServer(kind="vllm", models=("only",)) as server:
        lm = connect("auto", server.api_base)
        for name in dir(type(lm)):
            if isinstance(getattr(type(lm), name), property):
                getattr(lm, name)
        assert lm.served_model == "auto"  # whoever had asked would know that it is "only"
        assert server.connections == 0
        assert asked(lm).context_length == 4096
        assert lm.served_model == "only"


def test_a_copy_has_the_record_of_its_lm() -> None:
    with MockServer(kind="vllm") as server:
        lm = connect("mock", server.api_base)
        assert asked(lm.copy(temperature=0.1)) == asked(lm)


class Own(dspy.LM, ServedModel):
    """A user's server class."""

    async def capabilities(self) -> Capabilities:
        return Capabilities("own:1", context_length=77, counts_tokens=True)

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        return [len(text) for text in texts]


def test_a_class_of_the_users_own_is_asked_and_counts() -> None:
    lm = Own("own/model", cache=False)
    assert asked(lm).context_length == 77
    assert asyncio.run(calls.count_tokens(lm, ["abc", ""])) == ([3, 0], True)
    with dspy.context(lm=lm), pytest.raises(ConfigError, match="context is 77"):
        LongCoT("question -> answer", draft_tokens=100)(question="q")


def test_the_methods_with_a_default_may_be_left_out() -> None:
    class Least(dspy.LM, ServedModel):
        async def capabilities(self) -> Capabilities:
            return Capabilities("least:1")

    lm = Least("own/model", cache=False)
    assert asked(lm) == Capabilities("least:1")
    (count,), exact = asyncio.run(calls.count_tokens(lm, ["a text of some words"]))
    assert count > 0
    assert not exact


def test_half_a_protocol_is_refused_with_what_is_missing() -> None:
    class Half(dspy.LM):
        async def capabilities(self) -> Capabilities:
            return Capabilities("half:1")

    with pytest.raises(ConfigError, match=r"`Half` has `capabilities` and lacks `count_tokens` and `check`"):
        asked(Half("own/model", cache=False))


def test_a_plain_lm_is_known_by_its_settings_and_wrapped_ones_by_what_they_wrap() -> None:
    plain = dspy.LM("openai/some-model", api_base="http://10.0.0.1:8000/v1", api_key="sk-secret", cache=False)
    about = asked(plain)
    assert about.known
    assert about.identity.startswith("openai/some-model at http://10.0.0.1:8000/v1 #")
    assert "secret" not in about.identity
    assert (about.context_length, about.siblings, about.thinking_budget) == (None, False, "cap")
    other = dspy.LM("openai/some-model", api_base="http://10.0.0.1:8000/v1", api_key="sk-other", cache=False)
    assert asked(other).identity != about.identity

    class Wrapped(dspy.LM, ServedModel):
        """Delegates to another LM, as a cache or a guard around one would."""

        inner: dspy.BaseLM

        async def capabilities(self) -> Capabilities:
            return await calls.capabilities(self.inner)

    lm = Wrapped("wrapped", cache=False)
    lm.inner = engine(context_length=99, output_formats=("schema",))
    assert asked(lm) == asked(lm.inner)
    assert asked(lm).context_length == 99


def test_an_engine_of_ones_own_is_not_known_by_its_name() -> None:
    first, second = engine(model="same"), engine(model="same")
    about = asked(first)
    assert not about.known
    assert about.identity == asked(second).identity  # so requests under way are joined per object
