"""J = J_CISPO + alpha J_SFT (arXiv 2510.01123, section 4) as weights of rows, and the SFT term.

With advantages A_i, ratios r_it, s the share of operator prompts and means over the prompts g of each mode:

    J_CISPO = (1 - s) mean over trace g of C_g + s mean over operator g of C_g
    C_g     = 1/T_g sum over rows i of g, tokens t of sg(min(r_it, epsilon_high)) A_i log pi(o_it),  T_g = tokens of g
    J_SFT   = the same means of S_g = 1/T+_g sum over i in I+_g, t of log pi(o_it),  T+_g = tokens of I+_g

so that J = (1 - s) J_trace + s J_operator independently of the lengths. Both terms are maximised: the loss is
-J_CISPO + alpha times the negative log-likelihood of the correct rows. (Adding J_SFT with the sign of a loss would
unlearn the correct rows.) The SFT term is not folded into the advantage: off-policy, the clipped ratio would weigh it.

TRL 1.16 computes sum over the batch of min(r, epsilon_high) A_i log pi, over N tokens; the weights turn that into C_g
without another loss. With "batch" TRL's own normalisation stays, and the SFT term is a mean over all correct tokens.

Groups whose scored rewards are all equal are filtered as in ScaleRL (arXiv 2510.13786), on the same data and by the
same group: they leave the batch, and the remaining groups share their mode's part. Their correct rows leave the SFT
term as well: a prompt that is always solved does not show which rows are better, and imitating it would only remove its
entropy. A mode without remaining groups contributes 0; its part does not go to the other mode. Rows without a reward
(their verifier failed) belong to no sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pdr_dspy.training.trl_config import TokenNorm, ZeroVariance

Total = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes."""


class Weights(NamedTuple):
    """The weight of each row of one process in the batch over all processes; each tensor has shape (rows,)."""

    policy: Tensor
    """Weight of A_i sum_t sg(min(r_it, bound)) log pi(o_it), in J_CISPO."""
    sft: Tensor
    """Weight of sum_t log pi(o_it), in J_SFT; 0 outside I+."""


class RowFlags(NamedTuple):
    """The rows and groups of one process that carry a gradient."""

    scored: Tensor
    """(rows,): whether the row has a reward."""
    varied: Tensor
    """(groups,): whether the scored rows of the group differ in reward."""
    kept: Tensor
    """(groups,): whether the group is in the average."""


def row_flags(rewards: Tensor, rows: int, zero_variance: ZeroVariance) -> RowFlags:
    """Determine which rows and groups carry a gradient.

    Args:
        rewards: one for each row, group after group; NaN for a row without a reward.
        rows: rows of a group.
        zero_variance: "filter" leaves groups of equal rewards out, "keep" keeps all with a scored row.
    """
    grouped = rewards.double().view(-1, rows)
    scored = ~torch.isnan(grouped)
    highest = grouped.masked_fill(~scored, -torch.inf).amax(1)
    lowest = grouped.masked_fill(~scored, torch.inf).amin(1)
    varied = highest > lowest
    kept = varied if zero_variance == "filter" else scored.any(1)
    return RowFlags(scored.view(-1), varied, kept)


def row_weights(
    flags: RowFlags,
    lengths: Tensor,
    correct: Tensor,
    operator: Tensor,
    *,
    share: float,
    norm: TokenNorm,
    total: Total = lambda local: local,
) -> Weights:
    """The weight of each row in J_CISPO and J_SFT. No group is split between processes.

    Args:
        flags: the `row_flags` of the rows, group after group.
        lengths: trained tokens of each row.
        correct: whether each row belongs to I+.
        operator: whether each row is of an operator group.
        share: the share of the operator mode, from 0 to 1; the trace mode has the rest.
        norm: "prompt" for the means above; "batch" for sums over the tokens of the whole batch.
        total: sums a tensor over all processes; every process must call this function with its own rows.
    """
    groups = len(flags.kept)
    rows = len(lengths) // groups
    tokens = lengths.to(torch.float64).view(groups, rows)
    used = flags.scored.view(groups, rows) & flags.kept[:, None]
    right = used & correct.view(groups, rows)
    of_mode = operator.view(groups, rows)[:, 0]
    if norm == "batch":
        counts = total(torch.stack([tokens.sum(), (tokens * right).sum()]))
        policy, sft = (mask.to(tokens.dtype) / counts[i].clamp(min=1) for i, mask in enumerate((used, right)))
    else:
        counts = total(torch.stack([(flags.kept & ~of_mode).sum(), (flags.kept & of_mode).sum()]).double())
        part = torch.where(of_mode, share / counts[1].clamp(min=1), (1 - share) / counts[0].clamp(min=1))
        policy, sft = (
            mask * part[:, None] / (tokens * mask).sum(1, keepdim=True).clamp(min=1) for mask in (used, right)
        )
    return Weights(policy.reshape(-1), sft.reshape(-1))


def nll(logps: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """The weighted negative log-likelihood sum_i w_i sum_t -log pi(o_it), in nats: -J_SFT with `Weights.sft`.

    Args:
        logps: log-probabilities of the completion tokens, (rows, tokens), differentiable.
        mask: 1 for tokens of the completion, 0 for padding.
        weights: one for each row.
    """
    return -(weights.to(logps.dtype)[:, None] * logps * mask).sum()
