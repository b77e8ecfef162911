"""The value of further measurements: by how much they are expected to improve the choice of a program.

The programs' scores have a joint posterior (`racing.surrogate`). Further measurements would change its means, and the
best of them after the measurements is on average higher than the best now: the knowledge gradient (Frazier, Powell and
Dayanik 2009), here of several measurements at once. It is averaged over the priors of the surrogate by their posterior
weights, since a few programs determine the prior's width badly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from pdr_dspy.search.racing.surrogate import (
    SPREADS,
    Additive,
    Array,
    Posterior,
    additive,
    one_thread,
    priors,
    together,
    weighed,
)
from pdr_dspy.search.space.candidate import Candidate

SMALLER = (0.003, *SPREADS)
"""Prior standard deviations: the smallest is for programs of which none is better."""
DRAWS = 2_000
"""Draws of the measurements' results, half of them the negatives of the others."""
NEGLIGIBLE = 1e-4
"""Priors with a smaller weight, as a fraction of the largest, are left out."""

Scores = Sequence[Mapping[tuple[int, int], float]]
"""Of each program, by (question, repeat)."""


class Belief(NamedTuple):
    """The joint posterior of the scores of measured programs and of new ones, which follow them."""

    own: Additive
    """Of the measured programs."""
    weights: tuple[float, ...]
    """Of the priors; their sum is 1."""
    posteriors: tuple[Posterior, ...]


def believe(
    scores: Scores,
    candidates: Sequence[Candidate],
    new: Sequence[Candidate] = (),
    apart: Callable[[Sequence[Candidate]], Sequence[Array]] = together,
    expected: Array | None = None,
) -> Belief:
    """The joint posterior of some programs.

    Args:
        scores: of the measured programs; each needs at least one.
        candidates: the measured programs, in the same order.
        new: programs that were not measured.
        apart: the distances between programs, `surrogate.together` or `surrogate.by_operator`.
        expected: the expected scores of all of them in this order, as in `surrogate.pool`.
    """
    with one_thread():
        own = additive(scores)
        found: list[tuple[float, Posterior]] = []
        for prior in priors(apart([*candidates, *new]), SMALLER):
            for _, known in weighed(own, prior, expected):
                found.append((known.likelihood + prior.preference, known))
    most = max(value for value, _ in found)
    kept = [(math.exp(value - most), known) for value, known in found if value > most + math.log(NEGLIGIBLE)]
    total = sum(weight for weight, _ in kept)
    return Belief(own, tuple(weight / total for weight, _ in kept), tuple(known for _, known in kept))


def gain(belief: Belief, measured: Mapping[int, float], before: Sequence[int], after: Sequence[int]) -> float:
    """The expected gain in the score of the choice, a fraction, at least 0.

    Args:
        belief: the current one.
        measured: the variance of each further measurement's error, by the program's place in the belief.
        before: the programs that could be chosen now.
        after: those that could be chosen after the measurements.
    """
    if not measured or not before:
        return 0.0
    places, errors = list(measured), np.array(list(measured.values()))
    draws = _draws(len(places))
    total = 0.0
    with one_thread():
        for weight, known in zip(belief.weights, belief.posteriors, strict=True):
            factor = np.linalg.cholesky(known.covariance[np.ix_(places, places)] + np.diag(errors))
            steps = np.linalg.solve(factor, known.covariance[np.ix_(places, list(after))])
            best = (known.mean[list(after)] + draws @ steps).max(axis=1).mean()
            total += weight * (float(best) - float(known.mean[list(before)].max()))
    return max(0.0, total)


@cache
def _draws(count: int) -> Array:
    half = np.random.default_rng(0).standard_normal((DRAWS // 2, count))
    return np.concatenate([half, -half])


def of_cohort(
    scores: Scores,
    candidates: Sequence[Candidate],
    new: Sequence[Candidate],
    allowed: Sequence[int],
    expected: Array | None = None,
) -> float:
    """The expected gain of measuring new programs on all questions.

    Args:
        scores, candidates: of the measured programs.
        new: the programs to be measured; their errors are those of the measured programs with the most runs.
        allowed: the measured programs that could be chosen.
        expected: of the measured and the new programs, as in `surrogate.pool`.
    """
    belief = believe(scores, candidates, new, expected=expected)
    most = max(map(len, scores))
    errors = [error**2 for error, own in zip(belief.own.noise, scores, strict=True) if len(own) == most]
    places = range(len(candidates), len(candidates) + len(new))
    before = allowed or range(len(candidates))
    return gain(belief, dict.fromkeys(places, float(np.median(errors))), before, [*allowed, *places])


def of_repeats(
    scores: Scores,
    candidates: Sequence[Candidate],
    again: Sequence[int],
    allowed: Sequence[int],
    most: int,
    expected: Array | None = None,
) -> Iterator[float | None]:
    """The expected gain of running some programs once more on each of their questions, twice more, and so on up to
    `most` times; None if the variance between runs is unknown.

    Args:
        scores, candidates: of all measured programs.
        again: the places of those that run again.
        allowed: of those, the places of the ones that could be chosen.
        most: maximum further runs.
        expected: of the measured programs, as in `surrogate.pool`.
    """
    belief = believe(scores, candidates, expected=expected)
    for times in range(1, most + 1):
        less = belief.own.less(times)
        errors: dict[int, float] = {}
        for place in again:
            before, by = float(belief.own.noise[place]) ** 2, float(less[place])
            if by > 0:  # the error of an independent measurement that reduces the square of the error by so much
                errors[place] = before * max(before - by, 1e-12) / by
        yield gain(belief, errors, allowed, allowed) if len(errors) == len(again) else None
