"""The scores of programs: one pass borrows the drafts that others made of its request."""

from __future__ import annotations

import pytest

from pdr_dspy.evaluation.drafts import Drafts
from pdr_dspy.search.racing.requests import Cell, Pair
from pdr_dspy.search.racing.standing import scores_of


def one_pass(score: float, prompt: str = "p") -> Cell:
    return Cell(score, 1, 1, one_pass=prompt)


def several(score: float, *drafts: float, prompt: str = "p") -> Cell:
    return Cell(score, 1, len(drafts), drafts=Drafts(prompt, drafts) if drafts else None)


@pytest.mark.parametrize(
    ("beside", "scores"),
    [
        pytest.param([], [1.0, 0.0], id="alone"),
        pytest.param([several(1.0, 1, 0, 0, 0), several(0.0, 0, 0)], [0.25, 0.0], id="drafts of the same prompt"),
        pytest.param([several(1.0, 1, 0, prompt="q"), several(0.0, 0, 1)], [1.0, 0.5], id="drafts of another prompt"),
        pytest.param([several(1.0), several(1.0, 0, 1)], [1.0, 0.5], id="drafts that are not known"),
    ],
)
def test_one_pass_is_scored_over_the_drafts_of_the_others_on_the_same_pair(
    beside: list[Cell], scores: list[float]
) -> None:
    pairs = [Pair(0), Pair(1)]
    single = dict(zip(pairs, [one_pass(1.0), one_pass(0.0)], strict=True))
    others = dict(zip(pairs, beside, strict=False))
    found, kept = scores_of([single, others])
    assert [found[pair] for pair in pairs] == scores
    assert kept == {pair: cell.score for pair, cell in others.items()}  # no other program's score changes


def test_the_most_drafts_count_and_those_of_another_pair_do_not() -> None:
    single = {Pair(0): one_pass(1.0), Pair(1): one_pass(1.0)}
    few, many = {Pair(0): several(1.0, 1, 0)}, {Pair(0): several(1.0, 1, 0, 0, 0)}
    for others in ((few, many), (many, few)):
        assert scores_of([single, *others])[0] == {Pair(0): 0.25, Pair(1): 1.0}
