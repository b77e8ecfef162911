"""A scripted model that plays every role, and a way to tell the roles apart."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from pdr_dspy.testing import Completion, Reply, ScriptedLM, ScriptedRequest, count_words, scripted_lm

T = TypeVar("T")


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


def answers(by_role: dict[str, Any]) -> ScriptedLM:
    """A model whose text for each role is given; a function is called with the seed."""

    def reply(request: ScriptedRequest) -> str | Completion:
        text: Any = by_role[role_of(request)]
        return cast("str", text(request.seed)) if callable(text) else text

    return engine(reply)


async def count(texts: Any) -> list[int]:
    return [count_words(text) for text in texts]


def wait(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)
