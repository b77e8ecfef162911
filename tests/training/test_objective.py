"""The objective's weights against its formulas written as loops, and what leaves the sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import dspy
import pytest
import torch

from pdr_dspy.training.objective import Weights, nll, row_flags, row_weights
from pdr_dspy.training.types import Group, Mode, Row
from tests.support.training_policy import uneven
from tests.support.training_reference import exact, furthest, logps, reference

pytestmark = pytest.mark.slow  # torch and TRL take seconds to import
torch.set_num_threads(1)
ROWS = 4


def batch(*numbers: int) -> list[tuple[str, list[Row]]]:
    """A trace and an operator group of each question, in turn."""
    groups: list[tuple[str, list[Row]]] = []
    for number in numbers:
        modes: tuple[Mode, Mode] = ("trace", "operator")
        for mode in modes:
            group = Group(mode, dspy.Example(number=number), ROWS, 0)
            groups.append((mode, [uneven(group, place) for place in range(ROWS)]))
    return groups


def rewarded(groups: list[tuple[str, list[Row]]], *rewards: list[float | None]) -> list[tuple[str, list[Row]]]:
    """The same groups with these rewards; rows with +1 are correct."""
    return [
        (mode, [row._replace(reward=value, correct=value == 1) for row, value in zip(rows, values, strict=True)])
        for (mode, rows), values in zip(groups, rewards, strict=True)
    ]


def weights_of(
    groups: list[tuple[str, list[Row]]],
    norm: Literal["prompt", "batch"] = "prompt",
    zero_variance: Literal["filter", "keep"] = "filter",
    share: float = 0.5,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda local: local,
) -> Weights:
    rows = [row for _, each in groups for row in each]
    return row_weights(
        row_flags(torch.tensor([math.nan if row.reward is None else row.reward for row in rows]), ROWS, zero_variance),
        torch.tensor([len(row.completion_ids) for row in rows]),
        torch.tensor([row.correct for row in rows]),
        torch.tensor([mode == "operator" for mode, each in groups for _ in each]),
        share=share,
        norm=norm,
        total=total,
    )


def advantages(groups: list[tuple[str, list[Row]]]) -> torch.Tensor:
    """TRL's, in float64."""
    values: list[float] = []
    for _, rows in groups:
        rewards = torch.tensor([math.nan if row.reward is None else row.reward for row in rows], dtype=torch.float64)
        known = rewards[~rewards.isnan()]
        values += ((rewards - known.mean()) / (known.std() + 1e-4)).nan_to_num().tolist()
    return torch.tensor(values, dtype=torch.float64)


def moved(model: Any) -> dict[str, torch.Tensor]:
    """Other parameters, so that ratios differ from 1."""
    generator = torch.Generator().manual_seed(3)
    state = {name: each.detach().clone() for name, each in model.named_parameters()}
    return {name: each + 0.15 * torch.randn(each.shape, generator=generator) for name, each in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["prompt", "batch"])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("zero_variance", ["filter", "keep"])
def test_weights_give_the_formulas_gradients_where_ratios_are_clipped(
    norm: Literal["prompt", "batch"], alpha: float, zero_variance: Literal["filter", "keep"]
) -> None:
    groups = rewarded(batch(0, 1), [1, 1, 1, 1], [1, -1, None, -1], [-1, 1, 1, -1], [-1, -1, 1, 1])
    model, then = exact(), moved(exact())
    old = exact(then)
    weights = weights_of(groups, norm, zero_variance)
    loss = torch.zeros((), dtype=torch.float64)
    ratios: list[float] = []
    rows = [row for _, each in groups for row in each]
    for row, advantage, policy, sft in zip(rows, advantages(groups), *weights, strict=True):
        new = logps(model, row)
        ratio = (new - logps(old, row)).exp().detach()
        ratios += ratio.tolist()
        loss = loss - policy * (ratio.clamp(max=1.3) * advantage * new).sum()
        loss = loss + alpha * nll(new[None], torch.ones_like(new)[None], sft[None])
    loss.backward()
    wanted = reference(groups, norm=norm, alpha=alpha, bound=1.3, zero_variance=zero_variance, then=then)
    assert 0.1 < sum(wanted.clipped.values()) / 2 < 0.9
    assert min(ratios) < 0.7
    assert loss.item() == pytest.approx(wanted.loss, rel=1e-12)
    got = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert furthest(got, wanted.gradients) < 1e-12


def test_the_modes_have_their_parts_whatever_their_lengths_and_filtered_groups() -> None:
    groups = rewarded(batch(0, 1), [1, 1, 1, 1], [1, -1, 1, -1], [-1, 1, 1, -1], [-1, -1, 1, 1])
    lengths = torch.tensor([len(row.completion_ids) for _, rows in groups for row in rows])
    for share in (0.25, 0.5, 0.75):
        policy, sft = ((each * lengths).view(4, ROWS).sum(1) for each in weights_of(groups, share=share))
        assert policy.tolist() == pytest.approx([0, share / 2, 1 - share, share / 2])
        assert sft.tolist() == pytest.approx([0, share / 2, 1 - share, share / 2])


def test_a_mode_without_groups_left_gives_its_part_to_nobody() -> None:
    groups = rewarded(batch(0), [1, 1, 1, 1], [1, -1, 1, -1])
    lengths = torch.tensor([len(row.completion_ids) for _, rows in groups for row in rows])
    policy, sft = ((each * lengths).view(2, ROWS).sum(1) for each in weights_of(groups))
    assert policy.tolist() == pytest.approx([0, 0.5])
    assert sft.tolist() == pytest.approx([0, 0.5])


@pytest.mark.parametrize("norm", ["prompt", "batch"])
def test_groups_of_equal_rewards_leave_both_terms_unless_they_are_kept(norm: Literal["prompt", "batch"]) -> None:
    groups = rewarded(batch(0), [1, 1, 1, 1], [-1, -1, -1, -1])
    for weights in weights_of(groups, norm):
        assert not weights.any()
    policy, sft = weights_of(groups, norm, "keep")
    assert (policy > 0).all()
    assert (sft > 0).tolist() == [True] * ROWS + [False] * ROWS


@pytest.mark.parametrize("norm", ["prompt", "batch"])
@pytest.mark.parametrize("zero_variance", ["filter", "keep"])
def test_rows_without_a_reward_are_in_no_sum(
    norm: Literal["prompt", "batch"], zero_variance: Literal["filter", "keep"]
) -> None:
    groups = rewarded(batch(0), [None, None, None, None], [None, -1, 1, -1])
    rows = [row._replace(correct=True) for row in groups[1][1]]
    policy, sft = weights_of([groups[0], ("operator", rows)], norm, zero_variance)
    assert (policy > 0).tolist() == [False] * 5 + [True] * 3
    assert (sft > 0).tolist() == [False] * 5 + [True] * 3


@pytest.mark.parametrize(
    ("rewards", "varied"),
    [([1, 1, -1, 1], True), ([1, 1, 1, 1], False), ([None, None, None, 1], False), ([None, 1, None, -1], True)],
)
def test_a_group_varies_by_its_scored_rows_alone(rewards: list[float | None], varied: bool) -> None:
    values = torch.tensor([math.nan if value is None else value for value in rewards])
    flags = row_flags(values, ROWS, "filter")
    assert flags.varied.tolist() == flags.kept.tolist() == [varied]
    assert flags.scored.tolist() == [value is not None for value in rewards]
    assert row_flags(values, ROWS, "keep").kept.tolist() == [True]


def test_parts_of_a_batch_on_two_processes_have_the_weights_of_the_whole() -> None:
    groups = batch(0, 1, 2, 3)
    halves = groups[:2], groups[2:]
    norms: tuple[Literal["prompt"], Literal["batch"]] = ("prompt", "batch")
    for norm in norms:
        whole = weights_of(groups, norm)
        sums: list[torch.Tensor] = []

        def collect(local: torch.Tensor, sums: list[torch.Tensor] = sums) -> torch.Tensor:
            sums.append(local)
            return local

        for half in halves:  # first what each process would contribute ...
            weights_of(half, norm, total=collect)
        together = torch.stack(sums).sum(0)
        parts = [weights_of(half, norm, total=lambda _, known=together: known) for half in halves]  # ... then the sum
        for term in (0, 1):
            assert torch.cat([part[term] for part in parts]).tolist() == pytest.approx(whole[term].tolist(), rel=1e-12)
