"""What the tests of the core share: a scripted model that plays every role, and a way to tell the roles apart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from postgres_server import PostgresServer, programs

from pdr_dspy.testing import Reply, ScriptedLM, ScriptedRequest, count_words, scripted_lm

T = TypeVar("T")
settings.register_profile("tests", deadline=None, derandomize=True)  # the same examples in every run
settings.load_profile("tests")


def role_of(request: ScriptedRequest) -> str:
    """Which role asks, judged by the prompt alone."""
    if "Candidates:" in request.user:
        return "select" if "Selected: <" in request.user else "distill"
    if "Workspace:" in request.user:
        return "refine" if "Answer: <" in request.user else "critique"
    return "draft"


def solver(request: ScriptedRequest) -> str:
    """Answers 0, 1 or 2 by the seed, with a solution whose length depends on the seed too."""
    role = role_of(request)
    if role == "select":
        return "The second is right.\nSelected: [2, 1]"
    if role in ("distill", "critique"):
        return f"Notes of seed {request.seed}. The attempts disagree. Check the sum."
    steps = "\n".join(f"Step {n}: seed {request.seed}." for n in range(1 + request.seed % 4))
    return f"{steps}\nAnswer: {request.seed % 3}"


def engine(reply: Reply = solver, **options: Any) -> ScriptedLM:
    return scripted_lm(reply, **options)


async def count(texts: Any) -> list[int]:
    return [count_words(text) for text in texts]


def wait(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


@pytest.fixture
def lm() -> ScriptedLM:
    return engine()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server. Mark its tests `xdist_group("postgres")`, so that they share one."""
    with _postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A real server to stop and start."""
    with _postgres() as server:
        yield server


def _postgres() -> PostgresServer:
    if programs() is None:
        missing = "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return PostgresServer()
