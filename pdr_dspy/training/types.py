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
TrainCalls = Literal["all", "refine", "drafts", "distill", "select"]
"""The calls of an operator episode that are trained. "all": each with the reward of the final answer; "refine": the
last call only; "drafts": the solutions before the last round, each with the reward of its own answer; "distill" and
"select": the calls that write or pick the workspaces, with the reward of the final answer, or with `process_rewards` of
the workspace. For these two the drafts and refinements are samples of the untouched base model, if the trained weights
are an adapter."""
DISTILLER_CALLS: tuple[TrainCalls, ...] = ("distill", "select")


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
    episode's; where only a distiller's calls are trained, those with the reward +1."""
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
    """The sampling interface of the model that is being trained.

    A policy that trains an adapter also has `generate_base`, with the arguments of `generate`: the completions of the
    model without its adapter, for calls that are not trained (see `TrainCalls`). Without it they are the policy's own.
    """

    @property
    def tokenizer(self) -> Any:
        """A `transformers` tokenizer, or an object with its `encode`, `decode` and `apply_chat_template`."""
        ...

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        """One completion for each prompt (token ids), of at most its cap (tokens)."""
        ...


Rollout = Callable[[Sequence[Group], Policy], list[list[Row]]]
"""Exactly `group.rows` rows for each group."""
