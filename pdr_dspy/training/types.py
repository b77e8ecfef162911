"""What passes between the rollout and the trainer: groups go in, rows come out, the policy samples between.

A group is one prompt of a generation batch; a row is one trained call. A long-trace group of n rows is n episodes of
one call; an operator group is n / c episodes of c trained calls each, and every row of an episode stands for itself:
its prompt is what that call read. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import dspy

Mode = Literal["trace", "operator"]
MODES: tuple[Mode, ...] = ("trace", "operator")


class Group(NamedTuple):
    """One prompt of a generation batch, whole on one process."""

    mode: Mode
    example: dspy.Example
    """The question, with what its verifier compares against."""
    rows: int
    """Trained calls to return."""
    seed: int
    """Differs between the groups of a run; episodes of one group take seeds made from it."""


class Row(NamedTuple):
    """One trained call."""

    prompt_ids: list[int]
    completion_ids: list[int]
    """As sampled, with the end-of-turn token where one was sampled; never empty."""
    logprobs: list[float]
    """Of each completion token when it was sampled."""
    reward: float | None
    """+1 or -1. None: nobody could tell (the verifier failed) or the call was not made (its round failed before it);
    the row is counted and gives no gradient."""
    correct: bool
    """Whether it belongs to I+, the rows of the SFT term: a draft by its own answer, distill and refine by the
    episode's."""
    phase: str
    """What the call was for: a `pdr_dspy.budget.Phase`."""
    truncated: bool
    """Whether its cap ended it."""
    episode: int
    """From 0, within its group."""


class Sampled(NamedTuple):
    """One completion of the policy."""

    ids: list[int]
    """With the end-of-turn token, where one was sampled."""
    logprobs: list[float]
    """One for each id."""
    finish: str
    """ "stop" (an end-of-turn token) or "length" (the cap)."""


class Policy(Protocol):
    """The model that is being trained, able to sample."""

    @property
    def tokenizer(self) -> Any:
        """A `transformers` tokenizer, or anything with its `encode`, `decode` and `apply_chat_template`."""
        ...

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        """One completion for each prompt (token ids), of at most its cap (tokens)."""
        ...


Rollout = Callable[[Sequence[Group], Policy], list[list[Row]]]
"""Exactly `group.rows` rows for each group."""
