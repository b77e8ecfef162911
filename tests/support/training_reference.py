"""The objective as its formulas say it: loops over groups, rows and tokens, in float64, without padding or batches."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pdr_dspy.training.types import Row
from tests.support.training_policy import tiny

Rows = Sequence[tuple[str, Sequence[Row]]]
"""The mode and the rows of each group of a generation batch."""


class Reference(NamedTuple):
    """What one optimizer step should do."""

    loss: float
    gradients: dict[str, Tensor]
    clipped: dict[str, float]
    """Share of tokens with a gradient whose ratio is above the bound, by mode."""


def exact(parameters: Mapping[str, Tensor] | None = None) -> Any:
    """The tiny model in float64, with other parameters where they are given."""
    model: Any = tiny(dtype=torch.float64)
    if parameters is not None:
        model.load_state_dict({name: each.double() for name, each in parameters.items()}, strict=False)
    return model


def logps(model: Any, row: Row) -> Tensor:
    """Of each completion token, from a forward pass of this row alone."""
    ids = torch.tensor([row.prompt_ids + row.completion_ids])
    table = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
    first = len(row.prompt_ids) - 1
    return torch.stack([table[first + t, token] for t, token in enumerate(row.completion_ids)])


def reference(
    groups: Rows,
    *,
    norm: str,
    alpha: float,
    bound: float = 5.0,
    share: float = 0.5,
    zero_variance: str = "filter",
    now: Mapping[str, Tensor] | None = None,
    then: Mapping[str, Tensor] | None = None,
) -> Reference:
    """Loss and gradients of one generation batch.

    Args:
        now: the parameters of the step; the tiny model's where None.
        then: the parameters that sampled; those of the step where None.
    """
    model, old_model = exact(now), None if then is None else exact(then)
    above = {"trace": 0, "operator": 0}
    moved = {"trace": 0, "operator": 0}
    cispo: dict[str, list[Tensor]] = {"trace": [], "operator": []}
    sft: dict[str, list[Tensor]] = {"trace": [], "operator": []}
    sums = [torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)]
    tokens_of_all = tokens_of_right = 0
    for mode, rows in groups:
        tokens_of_all += sum(len(row.completion_ids) for row in rows)
        scored = [row for row in rows if row.reward is not None]
        rewards = [float(row.reward or 0.0) for row in scored]
        if not scored or (zero_variance == "filter" and len(set(rewards)) == 1):
            continue
        mean = sum(rewards) / len(rewards)
        deviation = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
        policy_sum, right_sum = sums[0] * 0, sums[1] * 0
        tokens = right_tokens = 0
        for row, reward in zip(scored, rewards, strict=True):
            advantage = (reward - mean) / (deviation + 1e-4)
            new = logps(model, row)
            old = new.detach() if old_model is None else logps(old_model, row).detach()
            for t in range(len(row.completion_ids)):
                ratio = float(torch.exp(new[t].detach() - old[t]))
                policy_sum = policy_sum + min(ratio, bound) * advantage * new[t]
                if advantage:
                    moved[mode] += 1
                    above[mode] += ratio > bound
                if row.correct:
                    right_sum = right_sum + new[t]
            tokens += len(row.completion_ids)
            right_tokens += len(row.completion_ids) * row.correct
        cispo[mode].append(policy_sum / tokens)
        sft[mode].append(right_sum / max(right_tokens, 1))
        sums = [sums[0] + policy_sum, sums[1] + right_sum]
        tokens_of_right += right_tokens
    if norm == "prompt":
        part = {"trace": 1 - share, "operator": share}
        j = sum(part[mode] * torch.stack(cispo[mode]).mean() for mode in part if cispo[mode])
        j = j + alpha * sum(part[mode] * torch.stack(sft[mode]).mean() for mode in part if sft[mode])
    else:
        j = sums[0] / tokens_of_all + alpha * sums[1] / max(tokens_of_right, 1)
    loss = -torch.as_tensor(j)
    loss.backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return Reference(loss.item(), gradients, {mode: above[mode] / max(moved[mode], 1) for mode in above})


def furthest(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest difference between two sets of gradients, as a fraction of the largest gradient wanted."""
    assert got.keys() == wanted.keys()
    scale = max(float(each.abs().max()) for each in wanted.values())
    return max(float((got[name].double() - wanted[name].double()).abs().max()) for name in wanted) / scale
