"""Every generation batch: exact shares, whole groups, orders that epochs and processes agree on."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy.errors import ConfigError
from pdr_dspy.training.sampler import ModeSampler, dealt
from pdr_dspy.training.trl_config import operators_of, share_of

MODES = ["trace"] * 20 + ["operator"] * 20

pytestmark = pytest.mark.slow  # TRL alone takes seconds to import


def batches(sampler: ModeSampler, size: int) -> list[list[int]]:
    order = list(sampler)
    assert len(order) == len(sampler)
    assert len(order) % size == 0
    return [order[i : i + size] for i in range(0, len(order), size)]


@pytest.mark.parametrize(("name", "share"), [("1:1", 0.5), ("1:3", 0.75), ("3:1", 0.25), (0.0, 0.0), (1.0, 1.0)])
def test_every_batch_has_the_share_by_name_and_whole_groups(name: str | float, share: float) -> None:
    assert share_of(name) == share
    for batch in batches(ModeSampler(MODES, groups=8, rows=3, share=share), 24):
        groups = [batch[i : i + 3] for i in range(0, 24, 3)]
        assert all(len(set(group)) == 1 for group in groups)
        assert len({group[0] for group in groups}) == 8
        assert sum(MODES[group[0]] == "operator" for group in groups) == 8 * share


def test_each_process_gets_its_part_of_both_modes() -> None:
    for batch in batches(ModeSampler(MODES, groups=8, rows=2, share=0.5), 16):
        for start in range(0, 16, 4):  # the slice of each of four processes
            assert Counter(MODES[i] for i in batch[start : start + 4]) == {"trace": 2, "operator": 2}


@given(st.integers(1, 40), st.data())
def test_what_is_dealt_is_spread_evenly(places: int, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, places))
    spread = dealt(places, chosen)
    assert sum(spread) == chosen
    for size in range(1, places + 1):
        counts = {sum(spread[i : i + size]) for i in range(places - size + 1)}
        assert max(counts) - min(counts) <= 1


def test_a_batch_comes_as_often_as_it_is_read() -> None:
    once = batches(ModeSampler(MODES, groups=4, rows=2, share=0.5, seed=3), 8)
    thrice = batches(ModeSampler(MODES, groups=4, rows=2, share=0.5, seed=3, repeats=3), 8)
    assert thrice == list(itertools.chain.from_iterable([batch] * 3 for batch in once))


def test_an_epoch_uses_rows_once_and_epochs_differ() -> None:
    sampler = ModeSampler(MODES, groups=4, rows=1, share=0.5, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(40))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert sorted(sampler) == list(range(40))
    assert list(ModeSampler(MODES, groups=4, rows=1, share=0.5, seed=2)) != first


def test_an_epoch_ends_with_the_mode_that_runs_out() -> None:
    sampler = ModeSampler(MODES, groups=4, rows=1, share=0.75)
    order = list(sampler)
    assert Counter(MODES[i] for i in order) == {"operator": 18, "trace": 6}
    seen: set[int] = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seen |= set(sampler)
    assert seen == set(range(40))


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    assert list(ModeSampler(MODES, groups=2, rows=1, share=0.5, shuffle=False))[:4] == [0, 20, 1, 21]


def test_what_cannot_be_exact_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"operator_share=0\.25.*6 groups.*1\.5"):
        ModeSampler(MODES, groups=6, rows=2, share=0.25)
    with pytest.raises(ConfigError, match="needs 3 different operator prompts, the data set has 2"):
        ModeSampler(["trace"] * 9 + ["operator"] * 2, groups=6, rows=2, share=0.5)
    assert operators_of(6, 1 / 3) == 2


@pytest.mark.parametrize("name", ["half", "1:", "0:0", "-1:2", 1.5, -0.1, "nan"])
def test_a_share_that_is_none_is_refused(name: str | float) -> None:
    with pytest.raises(ConfigError, match="operator_share="):
        share_of(name)
