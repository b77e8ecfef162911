"""Proposals of candidates by one of Optuna's samplers.

The sampler sees pooled estimates, which luck in a short race hardly affects, and the cost of each candidate as a
constraint. A proposal depends only on the seed, the cohort and the candidates tried so far.
"""

from __future__ import annotations

import itertools
import random
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.search.prior import FIRST, Prior
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.requests import Propose, Proposed, Tried
from pdr_dspy.search.settings import SamplerName
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.choosing import Suggests
from pdr_dspy.search.space.spaces import AnySpace

if TYPE_CHECKING:
    import optuna

ENUMERABLE = 5_000
"""Spaces up to this size are searched exhaustively."""
DRAWS = 2_000
"""Maximum candidates drawn from a larger space to find a new one."""
PATIENCE = 3
"""Consecutive suggestions that were tried before or cost too much, before a new candidate is drawn at random."""

_FILTERS = threading.Lock()
"""Serializes changes of the `warnings` filters, which belong to the process: concurrent searches would undo them."""


class Proposer:
    """Untried candidates of a space, the promising ones first."""

    def __init__(
        self,
        space: AnySpace,
        *,
        limits: Limits = Limits(),  # noqa: B008  (a frozen value)
        costs: Sequence[str] = (),
        seed: int = 0,
        sampler: SamplerName | Callable[[int], optuna.samplers.BaseSampler] = "tpe",
    ) -> None:
        """
        Args:
            space: the search space.
            limits: on mean tokens; a constraint for the sampler.
            costs: "sequential" and "total", if they are objectives besides the score.
            seed: of the search.
            sampler: one of Optuna's, by name or as a function from a seed to the sampler.
        """
        self.space = space
        self.limits = limits
        self.costs = tuple(costs)
        self.seed = seed
        self.sampler = sampler
        self.pool = list(itertools.islice(space.candidates(), ENUMERABLE + 1))
        self.enumerable = len(self.pool) <= ENUMERABLE

    def some(self, count: int) -> list[Candidate]:
        """Candidates of the whole space, drawn by the seed; all of a space with no more than `count`."""
        draw = random.Random(self.seed)
        if self.enumerable:
            return draw.sample(self.pool, min(count, len(self.pool)))
        drawn = (self._suggested(_Drawn(draw)) for _ in range(2 * count))  # the pool only has the small shapes
        return list(itertools.islice((one for one in drawn if one is not None), count))

    def untried(self, keys: Iterable[str]) -> int | None:
        """The number of candidates with none of these keys; None for a space that is too large to list."""
        return len({one.key for one in self.pool}.difference(keys)) if self.enumerable else None

    def expected(
        self, prior: Prior | None, request: Propose, fits: Callable[[Candidate], bool] = lambda _: True
    ) -> list[Proposed]:
        """The candidates of the first cohort that a prior chooses, at most half of it; none without a prior.

        Args:
            prior: what earlier searches learnt.
            request: the number of candidates, and those already tried.
            fits: whether a candidate may be within the limits.
        """
        if prior is None or request.cohort != 1:
            return []
        seen = {known.candidate.key for known in request.tried}
        there = self.pool if self.enumerable else self.some(DRAWS)
        there = [candidate for candidate in there if candidate.key not in seen and fits(candidate)]
        return [Proposed("prior", one) for one in prior.first(there, min(FIRST, request.wanted // 2))]

    def propose(
        self,
        tried: Sequence[Tried],
        count: int,
        *,
        cohort: int,
        too_expensive: Callable[[Candidate], bool] = lambda _: False,
    ) -> list[Proposed]:
        """Up to `count` new candidates; fewer if the space has no more affordable ones.

        Args:
            tried: the measured candidates; the sampler does not see those outside the space.
            count: the number of proposals.
            cohort: a number that differs each time.
            too_expensive: whether a candidate would certainly exceed the limits; such candidates are not proposed.
        """
        seen = {known.candidate.key for known in tried}
        study = self._study(tried, cohort)
        found: list[Proposed] = []
        draw = random.Random(f"{self.seed}|draw|{cohort}")
        idle = 0
        while len(found) < count:
            candidate = None
            if idle < PATIENCE:
                candidate = self._suggested(study.ask())
                if candidate is None or candidate.key in seen or too_expensive(candidate):
                    idle += 1
                    continue
            else:
                candidate = self._new(draw, seen, too_expensive)
                if candidate is None:
                    break
            idle = 0
            seen.add(candidate.key)
            found.append(Proposed("search", candidate))
        return found

    def _suggested(self, trial: Suggests) -> Candidate | None:
        """The candidate of a trial; None if a registered axis refuses the choices before it."""
        try:
            return self.space.suggest(trial)
        except ConfigError:
            return None

    def _new(self, draw: random.Random, seen: set[str], too_expensive: Callable[[Candidate], bool]) -> Candidate | None:
        """An untried candidate that may be within the limits, drawn by the seed; None if there is none."""

        def fits(candidate: Candidate | None) -> bool:
            return candidate is not None and candidate.key not in seen and not too_expensive(candidate)

        if not self.enumerable:  # the pool has the small shapes only
            return next(filter(fits, (self._suggested(_Drawn(draw)) for _ in range(DRAWS))), None)
        new = list(filter(fits, self.pool))
        return draw.choice(new) if new else None

    def _study(self, tried: Sequence[Tried], cohort: int) -> optuna.Study:
        import optuna

        seed = random.Random(f"{self.seed}|sampler|{cohort}").randrange(2**31)
        directions = ["maximize", *(["minimize"] * len(self.costs))]
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna logs every study created in memory
        try:
            study = optuna.create_study(directions=directions)  # type: ignore[arg-type]
        finally:
            optuna.logging.set_verbosity(before)
        study.sampler = optuna.samplers.RandomSampler(seed=0)  # never used: known trials are only replayed
        for known in tried:
            params = self.space.params_of(known.candidate)
            if params is None:
                continue
            study.enqueue_trial(params)
            trial = study.ask()
            self.space.suggest(trial)
            if known.score != known.score:
                continue  # not run yet: the sampler sees it as running
            for name, excess in self.limits.excess(known.sequential, known.total, known.cost).items():
                trial.set_constraint(name, excess)
            study.tell(trial, [known.score, *(getattr(known, cost) for cost in self.costs)])
        study.sampler = self._sampler(seed)
        return study

    def _sampler(self, seed: int) -> Any:
        import optuna

        if callable(self.sampler):
            return self.sampler(seed)
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        single = not self.costs
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group: for conditional axes
            return optuna.samplers.TPESampler(seed=seed, multivariate=single, group=single, constant_liar=True)


class _Drawn:
    """A trial that chooses at random."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        del name
        return self.draw.choice(choices)
