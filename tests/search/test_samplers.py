"""What to try next: nothing twice, nothing that costs too much, the same for the same seed, and an end."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search import Space
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.requests import Tried
from pdr_dspy.search.settings import SAMPLERS
from pdr_dspy.search.space.candidate import Candidate

SMALL = Space(
    rounds=(1, 2), widths=(1, 2, 4, 8), kappa=(200,), distiller=("random_k", "summary"), k=(1, 2), draft_tokens=(60,)
)
LARGE = Space(
    rounds=(1, 2, 3, 4), widths=(1, 2, 4, 8), kappa=(256, 512, 1024), distiller=("random_k",), draft_tokens=(256, 512)
)
OUTSIDE = Candidate(Schedule(widths=(32, 1), kappa=900, draft_tokens=77), {})
NAMES: list[Any] = [*SAMPLERS, lambda seed: optuna.samplers.TPESampler(seed=seed)]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A space is large from 100 candidates on."""
    monkeypatch.setattr("pdr_dspy.search.proposing.samplers.ENUMERABLE", 100)
    monkeypatch.setattr("pdr_dspy.search.proposing.samplers.DRAWS", 300)


def known(candidate: Candidate) -> Tried:
    """Wider is better, up to 4, and dearer."""
    width = candidate.schedule.widths[0]
    return Tried(candidate, 0.3 + 0.1 * min(width, 4), 100.0, 100.0 * width, 8)


def proposed(
    proposer: Proposer, tried: list[Tried], count: int = 4, *, cohort: int | None = None, **changes: Any
) -> list[Candidate]:
    place = len(tried) if cohort is None else cohort
    found = proposer.propose(tried, count, cohort=place, **changes)
    assert {one.origin for one in found} <= {"search"}
    return [one.candidate for one in found]


def searched(proposer: Proposer, rounds: int, **changes: Any) -> list[Candidate]:
    tried = [known(OUTSIDE)]
    for _ in range(rounds):
        tried += [known(candidate) for candidate in proposed(proposer, tried, **changes)]
    return [one.candidate for one in tried[1:]]


@pytest.mark.parametrize("sampler", NAMES)
def test_a_small_space_is_proposed_whole_once_and_then_no_more(sampler: Any) -> None:
    proposer = Proposer(SMALL, sampler=sampler)
    found = searched(proposer, 6)
    assert sorted(c.key for c in found) == sorted({c.key for c in SMALL.candidates()})
    assert proposed(proposer, [known(c) for c in found]) == []
    assert len(found) == SMALL.size == 11


@pytest.mark.parametrize("sampler", NAMES)
def test_a_large_space_gives_as_many_as_are_wanted_all_of_it_and_new(sampler: Any) -> None:
    assert LARGE.size > 150
    proposer = Proposer(LARGE, sampler=sampler)
    found = searched(proposer, 3)
    assert len({c.key for c in found}) == len(found) == 12
    assert all(candidate in LARGE for candidate in found)
    assert max(candidate.schedule.rounds for candidate in found) >= 3  # not the small shapes only


@pytest.mark.parametrize("sampler", NAMES)
@pytest.mark.parametrize("space", [SMALL, LARGE], ids=["small", "large"])
def test_what_costs_too_much_is_never_proposed(sampler: Any, space: Space) -> None:
    def too_expensive(candidate: Candidate) -> bool:
        return max(candidate.schedule.widths) > 2

    proposer = Proposer(space, sampler=sampler, limits=Limits(None, 200))
    found = searched(proposer, 2, too_expensive=too_expensive)
    assert found
    assert not any(map(too_expensive, found))
    assert proposed(proposer, [known(OUTSIDE)], too_expensive=lambda _: True) == []


@pytest.mark.slow
@pytest.mark.parametrize("sampler", NAMES)
def test_proposals_are_the_seeds_and_the_cohorts(sampler: Any) -> None:
    tried = [known(OUTSIDE), *map(known, list(SMALL.candidates())[:2])]
    first = proposed(Proposer(LARGE, sampler=sampler, seed=3), tried, 6)
    assert proposed(Proposer(LARGE, sampler=sampler, seed=3), tried, 6) == first
    assert proposed(Proposer(LARGE, sampler=sampler, seed=4), tried, 6) != first
    assert proposed(Proposer(LARGE, sampler=sampler, seed=3), tried, 6, cohort=77) != first
    used = Proposer(LARGE, sampler=sampler, seed=3)
    proposed(used, tried, 2, cohort=5)
    assert proposed(used, tried, 6) == first  # what was asked before leaves no trace


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_first_proposal_needs_nothing_tried(sampler: Any) -> None:
    assert len(proposed(Proposer(SMALL, sampler=sampler), [])) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_for_the_front_has_both_costs_as_objectives(sampler: Any) -> None:
    proposer = Proposer(SMALL, sampler=sampler, costs=("sequential", "total"))
    tried = [known(candidate) for candidate in list(SMALL.candidates())[:3]]
    found = proposed(proposer, tried, 5)
    assert len({candidate.key for candidate in found}) == 5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_candidates_that_are_about_to_run_are_not_proposed_again(sampler: Any) -> None:
    nan = float("nan")
    every = list(SMALL.candidates())
    waiting = [Tried(candidate, nan, nan, nan, 0) for candidate in every[4:]]
    found = Proposer(SMALL, sampler=sampler).propose([*map(known, every[:2]), *waiting], 8, cohort=1)
    assert {one.candidate.key for one in found} == {candidate.key for candidate in every[2:4]}


def test_promising_candidates_come_first() -> None:
    """Wide schedules did well: they are proposed more often than narrow ones."""
    space = Space(
        rounds=(2,), widths=tuple(range(1, 17)), kappa=(200,), distiller=("random_k",), k=(1,), draft_tokens=(60, 120)
    )
    every = [candidate for candidate in space.candidates() if candidate.schedule.widths[0] > 1]
    seen = [candidate for candidate in every if candidate.schedule.widths[0] in (2, 3, 4, 6, 12, 16)]
    tried = [Tried(c, 0.2 + 0.04 * c.schedule.widths[0], 1.0, 1.0, 60) for c in seen]
    wide = 0
    for seed in range(10):
        first = Proposer(space, seed=seed).propose(tried, 2, cohort=1)
        wide += sum(one.candidate.schedule.widths[0] > 8 for one in first)
    assert wide >= 15


def test_a_sample_is_of_the_whole_space_and_the_seeds() -> None:
    every = {candidate.key for candidate in SMALL.candidates()}
    assert {candidate.key for candidate in Proposer(SMALL).some(1000)} == every
    assert len(Proposer(SMALL).some(3)) == 3
    for space in (SMALL, LARGE):
        first, again, other = (Proposer(space, seed=seed).some(8) for seed in (0, 0, 1))
        assert first == again != other
        assert all(candidate in space for candidate in first)
    assert {candidate.schedule.rounds for candidate in Proposer(LARGE).some(100)} == {1, 2, 3, 4}


def test_untried_candidates_are_counted_where_the_space_can_be_listed() -> None:
    every = list(SMALL.candidates())
    proposer = Proposer(SMALL)
    assert proposer.untried([]) == len(every)
    assert proposer.untried([*(one.key for one in every[:3]), every[0].key, OUTSIDE.key]) == len(every) - 3
    assert Proposer(LARGE).untried([]) is None
