"""Searches whose models want every parameter in every trial: Optuna's GP, and SMAC3 where it is installed.

A space asks a trial only for parameters that its schedule has. Here each trial has all of them, as one flat table of
categories, and those that do not apply to its schedule have no effect.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from benchmarks.reasoner import World
from benchmarks.searchers import Meter, Progress, Ranking, Searcher, excess, mean_of, tell
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.space.space import Space


class Answered:
    """A trial whose parameters are known."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self.choices: dict[str, Sequence[Any]] = {}
        """Of each parameter that was asked for."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The known value."""
        self.choices[name] = choices
        return self.params[name]


def parameters(space: Space) -> dict[str, Sequence[Any]]:
    """All parameters of a space with their choices, whether or not they apply to every schedule."""
    found: dict[str, Sequence[Any]] = {}
    for candidate in space.candidates():
        params = space.params_of(candidate)
        assert params is not None
        trial = Answered(params)
        space.suggest(trial)
        found |= trial.choices
    return found


def gp(
    world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
) -> Iterator[Progress]:
    """Optuna's GPSampler under constraints, each trial on all questions."""
    every = parameters(space)
    meter, ranking = Meter(world), Ranking(limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.GPSampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        given = {name: trial.suggest_categorical(name, choices) for name, choices in every.items()}
        candidate = space.suggest(Answered(given))
        mean = mean_of(meter.run(candidate, questions))
        tell(study, trial, mean, limits)
        ranking.add(candidate, mean)
        yield ranking.progress(meter)


def smac(
    world: World, space: Space, limits: Limits, questions: Sequence[int], trials: int, seed: int
) -> Iterator[Progress]:
    """SMAC3's HyperparameterOptimizationFacade (random forests), each trial on all questions.

    It has no constraints: an excess over a limit, as a fraction of it, is added to the cost. Needs the package `smac`.
    """
    from ConfigSpace import Categorical, ConfigurationSpace
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue

    every = {name: list(choices) for name, choices in parameters(space).items()}
    meter, ranking = Meter(world), Ranking(limits)
    flat = ConfigurationSpace(seed=seed)
    flat.add([Categorical(name, list(range(len(choices)))) for name, choices in every.items()])
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(flat, deterministic=True, n_trials=trials, seed=seed, output_directory=Path(folder))
        # Without False it sets up the logging of the whole process.
        search = HyperparameterOptimizationFacade(scenario, _asked, overwrite=True, logging_level=False)
        for _ in range(trials):
            asked = search.ask()
            given = {name: every[name][int(place)] for name, place in dict(asked.config).items()}
            candidate = space.suggest(Answered(given))
            mean = mean_of(meter.run(candidate, questions))
            cost = 1 - mean.score + excess(mean.sequential, mean.total, limits)
            search.tell(asked, TrialValue(cost=cost))
            ranking.add(candidate, mean)
            yield ranking.progress(meter)


def _asked(config: Any, seed: int = 0) -> float:
    raise NotImplementedError("trials are asked for and told")


FLAT: dict[str, Searcher] = {"GP, all questions": gp}
if importlib.util.find_spec("smac") is not None:
    FLAT["SMAC3, all questions"] = smac
