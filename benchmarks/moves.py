"""Proposals that change one operator of the best program so far, for `benchmarks.operators`.

The next parts of an operator are those with the highest expected improvement over the best program so far (Mockus
1975), under the posterior of `racing.surrogate`, in which what was measured of a part in one program says something of
the same part in every other. A move of a later operator repeats the calls of the earlier ones.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pdr_dspy.errors import ConfigError
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing import surrogate
from pdr_dspy.search.racing.plan import Plan
from pdr_dspy.search.racing.requests import Proposed, Tried
from pdr_dspy.search.racing.surrogate import Array
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.search.space.space import Space

FIRST = 2
"""The first cohort with moves: before, hardly anything is known."""
DRAWN = 150
"""Parts of each operator that are drawn from its whole space, and as many again near the present one."""
RATE = 0.3
"""Probability that a parameter is drawn anew for a part near the present one."""


class Moves(Proposer):
    """Proposes moves of one operator beside the sampler's candidates, from the estimates of `plan`."""

    plan: Plan

    share = 0.5
    """Fraction of a cohort that are moves."""

    def propose(
        self,
        tried: Sequence[Tried],
        count: int,
        *,
        cohort: int,
        too_expensive: Callable[[Candidate], bool] = lambda _: False,
    ) -> list[Proposed]:
        """As in `Proposer`."""
        most = math.ceil(count * self.share) if cohort >= FIRST else 0
        found = self.moves(tried, most, cohort, too_expensive)
        waiting = [Tried(one.candidate, math.nan, math.nan, math.nan, 0) for one in found]
        left = count - len(found)
        if left:
            found += super().propose((*tried, *waiting), left, cohort=cohort, too_expensive=too_expensive)
        return found

    def moves(
        self, tried: Sequence[Tried], most: int, cohort: int, too_expensive: Callable[[Candidate], bool]
    ) -> list[Proposed]:
        """Changes of one operator of the best program within the limits that ran all questions; none without one."""
        arms, limits = self.plan.arms, self.limits
        complete = max((len(arm.race) for arm in arms), default=0)
        whole = [arm for arm in self.plan.standing.best(arms) if len(arm.race) == complete and limits.allow(arm)]
        if not whole or not most:
            return []
        best = whole[0].candidate
        fits = _New({known.candidate.key for known in tried}, too_expensive)
        new = list(filter(fits, self._around(best, [arm.candidate for arm in arms], cohort)))
        with surrogate.one_thread():
            places = _chosen(self.plan, new, most)
        return [Proposed("move", new[place]) for place in places]

    def _around(self, best: Candidate, measured: Sequence[Candidate], cohort: int) -> Iterator[Candidate]:
        """The program with another part at one operator: parts that were measured there in some program, some near its
        own, and some of the whole space."""
        for place, space in self.space.spaces.items():
            own = best.parts[place]
            draw = random.Random(f"{self.seed}|{place}|{cohort}")
            parts = [one.parts[place] for one in measured]
            near = ({} if (params := space.params_of(own)) is None else params, RATE)
            parts += _drawn(space, draw, *near)
            parts += _drawn(space, draw, {}, 1.0)
            for part in {one.key: one for one in parts}.values():
                if part.key != own.key:
                    yield joint({**best.parts, place: part})


class _New:
    """Whether a candidate is neither known nor too expensive, nor was asked about before."""

    def __init__(self, seen: set[str], too_expensive: Callable[[Candidate], bool]) -> None:
        self.seen = seen
        self.too_expensive = too_expensive

    def __call__(self, candidate: Candidate) -> bool:
        new = candidate.key not in self.seen
        self.seen.add(candidate.key)
        return new and not self.too_expensive(candidate)


def _drawn(space: Space, draw: random.Random, params: dict[str, Any], rate: float) -> Iterator[Candidate]:
    for _ in range(DRAWN):
        try:
            yield space.suggest(_Mutated(draw, params, rate))
        except ConfigError:  # a registered axis refuses the choices before it
            continue


class _Mutated:
    """A trial that chooses at random with some probability, and otherwise as `params` say."""

    def __init__(self, draw: random.Random, params: dict[str, Any], rate: float) -> None:
        self.draw = draw
        self.params = params
        self.rate = rate

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        keeps = self.params.get(name) in choices and name in self.params and self.draw.random() >= self.rate
        return self.params[name] if keeps else self.draw.choice(choices)


def _chosen(plan: Plan, new: Sequence[Candidate], most: int) -> list[int]:
    """The places of the new candidates with the highest expected improvement, one after the other: each as if the
    others before it were measured as expected."""
    surface, count = plan.standing.surface(), len(plan.arms)
    values, noise = surface.adjusted, surface.noise**2
    apart = surrogate.together([*(arm.candidate for arm in plan.arms), *new])
    weights = [
        surrogate.posterior(values, noise, prior.covariance).likelihood + prior.preference
        for prior in surrogate.priors([one[:count, :count] for one in apart])
    ]
    prior = next(itertools.islice(surrogate.priors(apart), int(np.argmax(weights)), None))
    known = surrogate.posterior(values, noise, prior.covariance)
    mean, covariance, best = known.mean[count:], known.covariance[count:, count:], float(known.mean[:count].max())
    error = float(np.median(noise))
    left, found = list(range(len(new))), []
    for _ in range(min(most, len(new))):
        sd = np.sqrt(np.maximum(np.diag(covariance)[left], 1e-12))
        found.append(left.pop(int(np.argmax(_improvement(mean[left], sd, best)))))
        covariance = _after(covariance, found[-1], error)
    return found


def _after(covariance: Array, place: int, error: float) -> Array:
    """The covariance after a measurement of one program with this variance."""
    column = covariance[:, place]
    return covariance - np.outer(column, column) / (column[place] + error)


def _improvement(mean: Array, sd: Array, best: float) -> Array:
    """The expected improvement of normal variables over a value."""
    z = (mean - best) / sd
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    below = 0.5 * np.array([math.erfc(-value / math.sqrt(2)) for value in z])
    return sd * (density + z * below)
