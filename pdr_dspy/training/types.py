"""The records that rollout and trainer exchange: the rollout turns groups into rows, and samples from the policy.

A group is one prompt of a generation batch; a row is one trained call. A long-trace group of n rows is n episodes of
one call; an operator group is n / c episodes of c trained calls each, and each row has the prompt of its own call.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import dspy

Mode = Literal["trace", "operator"]
MODES: tuple[Mode, ...] = ("trace", "operator")


class Group(NamedTuple):
    """One prompt of a generation batch; never split between processes."""

    mode: Mode
    example: dspy.Example
    """The question, with the gold fields of its verifier."""
    rows: int
    """Trained calls to return."""
    seed: int
    """Differs between the groups of a run; the seeds of the group's episodes derive from it."""


class Row(NamedTuple):
    """One trained call."""

    prompt_ids: list[int]
    completion_ids: list[int]
    """The sampled tokens, with the end-of-turn token if one was sampled; never empty."""
    logprobs: list[float]
    """Log-probability of each completion token when it was sampled."""
    reward: float | None
    """+1 or -1. None if the verifier failed, or the call was not made because its round failed; such a row is counted
    and carries no gradient."""
    correct: bool
    """Whether it belongs to I+, the rows of the SFT term: a draft by its own answer, distill and refine calls by the
    episode's."""
    phase: str
    """The `pdr_dspy.Phase` of the call."""
    truncated: bool
    """Whether it reached its cap."""
    episode: int
    """From 0, within its group."""


class Sampled(NamedTuple):
    """One completion of the policy."""

    ids: list[int]
    """The sampled tokens, with the end-of-turn token if one was sampled."""
    logprobs: list[float]
    """Log-probability of each token."""
    finish: str
    """ "stop" (an end-of-turn token) or "length" (the cap)."""


class Policy(Protocol):
    """The sampling interface of the model that is being trained."""

    @property
    def tokenizer(self) -> Any:
        """A `transformers` tokenizer, or an object with its `encode`, `decode` and `apply_chat_template`."""
        ...

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        """One completion for each prompt (token ids), of at most its cap (tokens)."""
        ...


Rollout = Callable[[Sequence[Group], Policy], list[list[Row]]]
"""Exactly `group.rows` rows for each group."""
