"""What to try next: candidates asked of an Optuna sampler, or drawn from what the search knows of scores.

"tpe", the default, "nsga2", "random" and a sampler of the user's are Optuna's. They see pooled estimates, which a short
race cannot raise by luck, and the cost of each candidate as a constraint. "pooled" draws whole surfaces of scores from
the posterior of `pooling.py` and takes the best new candidate of each (Thompson 1933). On simulated worlds it was
behind TPE over the same estimates with 30 questions, and ahead of it with 120 (`benchmarks.search`). Either way a
proposal depends on the seed, the cohort and the candidates tried so far, and on nothing else.
"""

from __future__ import annotations

import itertools
import random
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.plan import Proposed, Tried
from pdr_dspy.search.racing.surrogate import Surface
from pdr_dspy.search.space.space import Candidate, Space

if TYPE_CHECKING:
    import optuna

ENUMERABLE = 5_000
"""Spaces up to this size are searched to their end."""
DRAWS = 2_000
"""Candidates drawn from a larger one in search of a new one."""
PATIENCE = 3
"""Suggestions in a row that were tried before or cost too much, before a new candidate is drawn at random."""

ENOUGH = 12
"""Programs that a posterior must know before candidates are drawn from it: with fewer, whatever is far looks good."""
CONSIDERED = 600
"""Candidates of a larger space that one drawn surface covers."""

SamplerName = Literal["tpe", "pooled", "nsga2", "random"]
SAMPLERS: tuple[SamplerName, ...] = ("tpe", "pooled", "nsga2", "random")
_FILTERS = threading.Lock()
"""The filters of `warnings` are the process's: a search and its helper in two threads would undo each other's."""
Cost = Callable[[Candidate], float | None]
"""The predicted B_total of a candidate, in tokens; None while nothing is known."""


class Proposer:
    """Candidates of a space that were not tried yet, the promising ones first."""

    def __init__(
        self,
        space: Space,
        *,
        limits: Limits = Limits(),  # noqa: B008  (a frozen value)
        costs: Sequence[str] = (),
        seed: int = 0,
        sampler: SamplerName | Callable[[int], optuna.samplers.BaseSampler] = "tpe",
    ) -> None:
        """
        Args:
            space: what to choose from.
            limits: on mean tokens; what is over them is a constraint to the sampler.
            costs: "sequential" and "total", if they are objectives beside the score.
            seed: of the search.
            sampler: "pooled", the name of one of Optuna's, or a function from a seed to an Optuna sampler.
        """
        self.space = space
        self.limits = limits
        self.costs = tuple(costs)
        self.seed = seed
        self.sampler = sampler
        self.pool = list(itertools.islice(space.candidates(), ENUMERABLE + 1))
        self.enumerable = len(self.pool) <= ENUMERABLE

    def some(self, count: int) -> list[Candidate]:
        """Candidates of the whole space, drawn by the seed; all of a space that has no more than `count`."""
        draw = random.Random(self.seed)
        if self.enumerable:
            return draw.sample(self.pool, min(count, len(self.pool)))
        return [self.space.suggest(_Drawn(draw)) for _ in range(count)]  # the pool would be the small shapes only

    def untried(self, keys: Iterable[str]) -> int | None:
        """How many candidates have none of these keys; None for a space that is too large to list."""
        return len({one.key for one in self.pool}.difference(keys)) if self.enumerable else None

    def propose(
        self,
        tried: Sequence[Tried],
        count: int,
        *,
        cohort: int,
        surface: Surface | None = None,
        dear: Callable[[Candidate], bool] = lambda _: False,
        cost: Cost = lambda _: None,
    ) -> list[Proposed]:
        """Up to `count` new candidates; fewer when the space has no more that are worth trying.

        Args:
            tried: what was measured; candidates outside the space are left out of the sampler's view.
            count: how many to propose.
            cohort: a number that differs each time.
            surface: what is known of scores; "pooled" needs it.
            dear: whether a candidate would surely be over the limits; such ones are not proposed.
            cost: what a candidate would cost; a search for the front looks at every price.
        """
        seen = {known.candidate.key for known in tried}
        if self.sampler == "pooled" and surface is not None and len(tried) >= ENOUGH:
            return self._promising(surface, seen, count, cohort, dear, cost)
        study = self._study(tried, cohort)
        found: list[Proposed] = []
        draw = random.Random(f"{self.seed}|draw|{cohort}")
        idle = 0
        while len(found) < count:
            candidate = None
            if idle < PATIENCE:
                candidate = self.space.suggest(study.ask())
                if candidate.key in seen or dear(candidate):
                    idle += 1
                    continue
                idle = 0
            else:
                candidate = self._new(draw, seen, dear)
                if candidate is None:
                    break
                idle = 0
            seen.add(candidate.key)
            found.append(Proposed("search", candidate))
        return found

    def _promising(
        self, surface: Surface, seen: set[str], count: int, cohort: int, dear: Callable[[Candidate], bool], cost: Cost
    ) -> list[Proposed]:
        """The best new candidate of each of `count` surfaces drawn from the posterior."""
        draw = random.Random(f"{self.seed}|pooled|{cohort}")
        if self.enumerable:
            pool = [c for c in draw.sample(self.pool, len(self.pool)) if c.key not in seen]
        else:  # the pool would be the small shapes only
            drawn = {c.key: c for c in (self.space.suggest(_Drawn(draw)) for _ in range(DRAWS))}
            pool = [c for key, c in drawn.items() if key not in seen]
        pool = list(itertools.islice((c for c in pool if not dear(c)), CONSIDERED))
        if not pool:
            return []
        rng = np.random.default_rng(draw.randrange(2**63))
        scores = surface.draw(pool, rng, count)
        prices = np.array([cost(c) or 0.0 for c in pool]) if self.costs else np.zeros(len(pool))
        found: list[int] = []
        for values in scores:
            cap = np.quantile(prices, draw.random()) if self.costs else np.inf
            open_ = np.where((prices <= cap) & ~np.isin(np.arange(len(pool)), found), values, -np.inf)
            best = int(open_.argmax())
            if np.isfinite(open_[best]):
                found.append(best)
        rest = (place for place in range(len(pool)) if place not in found)
        found += list(itertools.islice(rest, count - len(found)))
        return [Proposed("search", pool[place]) for place in found]

    def _new(self, draw: random.Random, seen: set[str], dear: Callable[[Candidate], bool]) -> Candidate | None:
        """A candidate that was not tried and is not too dear, drawn by the seed; None when none is left or found."""
        if not self.enumerable:  # the pool would be the small shapes only
            drawn = (self.space.suggest(_Drawn(draw)) for _ in range(DRAWS))
            return next((c for c in drawn if c.key not in seen and not dear(c)), None)
        new = [c for c in self.pool if c.key not in seen and not dear(c)]
        return draw.choice(new) if new else None

    def _study(self, tried: Sequence[Tried], cohort: int) -> optuna.Study:
        import optuna

        seed = random.Random(f"{self.seed}|sampler|{cohort}").randrange(2**31)
        directions = ["maximize", *(["minimize"] * len(self.costs))]
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study that is made in memory
        try:
            study = optuna.create_study(directions=directions)  # type: ignore[arg-type]
        finally:
            optuna.logging.set_verbosity(before)
        study.sampler = optuna.samplers.RandomSampler(seed=0)  # what is known is only replayed
        for known in tried:
            params = self.space.params_of(known.candidate)
            if params is None:
                continue
            study.enqueue_trial(params)
            trial = study.ask()
            self.space.suggest(trial)
            if known.score != known.score:
                continue  # it is about to run: to the sampler it is under way
            for name, excess in self.limits.excess(known.sequential, known.total).items():
                trial.set_constraint(name, excess)
            study.tell(trial, [known.score, *(getattr(known, cost) for cost in self.costs)])
        study.sampler = self._sampler(seed)
        return study

    def _sampler(self, seed: int) -> Any:
        import optuna

        if callable(self.sampler):
            return self.sampler(seed)
        if self.sampler in ("pooled", "random"):
            return optuna.samplers.RandomSampler(seed=seed)
        if self.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        single = not self.costs
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group: for conditional axes
            return optuna.samplers.TPESampler(seed=seed, multivariate=single, group=single, constant_liar=True)


class _Drawn:
    """A trial that answers at random."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        del name
        return self.draw.choice(choices)
