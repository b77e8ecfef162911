"""Priors for the search of `benchmarks.levers`, and how well they order programs: `python -m benchmarks.priors`.

The worlds here are others than those of the comparisons. The table has the rank correlations between what a prior
expects of the programs of a study on real models (studies/rows) and their scores there: of the prior from simulated
worlds, and of the one from the other studies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import racing
from benchmarks.reasoner import World
from benchmarks.search import LIMITS, SPACE
from benchmarks.searchers import STUDENT
from pdr_dspy.search.prior import Known, Prior, learn, transferable
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.surrogate import pool
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.space import Space
from studies import arithmetic, distillers, humaneval
from studies.study import ROWS

WIDE = Space(
    rounds=(1, 2, 3, 4),
    widths=(1, 2, 4, 8, 16),
    k=(1, 2, 4),
    kappa=(256, 512, 1024, 2048),
    draft_tokens=(128, 256, 512, 1024, 2048),
    temperature=(0.6, 0.8, 1.0, 1.2),
    critique=(False, True),
    final=("refine", "vote"),
)
"""A space that holds those of the comparisons."""
WORLDS = range(100, 120)
"""Seeds of the worlds whose schedules are known."""
SEARCHED = range(120, 123)
"""Seeds of the worlds that were searched."""
SCHEDULES = 240
STUDIES: Mapping[str, ModuleType] = {"arithmetic": arithmetic, "distillers": distillers, "humaneval": humaneval}


@cache
def worlds() -> Prior:
    """From the true scores of some schedules of the wide space, averaged over worlds."""
    schedules = list({one.key: one for one in Proposer(WIDE, seed=7).some(SCHEDULES)}.values())
    scores = np.array([[world.truth(one, 1).score for one in schedules] for world in map(_world, WORLDS)])
    effects = scores - scores.mean(1, keepdims=True)
    errors = effects.std(0, ddof=1) / len(effects) ** 0.5
    found = zip(schedules, effects.mean(0), errors, strict=True)
    return learn([[Known(transferable(one), float(mean), float(sd)) for one, mean, sd in found]])


def _world(seed: int) -> World:
    return World(seed, 1)


@cache
def negated() -> Prior:
    """The opposite of what `worlds` knows."""
    known = worlds()
    points = tuple(point.model_copy(update={"weight": -point.weight}) for point in known.points)
    return known.model_copy(update={"points": points})


@cache
def searches() -> Prior:
    """From three searches of other worlds, of 30 questions and 60 trials each, as a user has them."""
    return learn([_searched(seed) for seed in SEARCHED])


def _searched(seed: int) -> list[Known]:
    space = SPACE.extend(final=("vote",))
    steps = racing.search(World(seed, 30), space, LIMITS, range(30), 60, seed, student=STUDENT, presets=True)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            return [Known(transferable(arm.candidate), *found.estimates[arm.number]) for arm in found.arms]


@cache
def studies() -> Prior:
    """From the studies on real models."""
    return learn([known for known, _ in real().values()])


PRIORS = {"worlds": worlds, "negated": negated, "searches": searches, "studies": studies}
"""By name: a function that makes a prior, once."""


@cache
def real() -> dict[str, tuple[list[Known], list[Candidate]]]:
    """The programs of each study with their estimates, by the study's name."""
    found: dict[str, tuple[list[Known], list[Candidate]]] = {}
    for name, study in STUDIES.items():
        programs = study.programs()
        for path in sorted(ROWS.glob(f"{name}-*.jsonl")):
            scores: dict[str, dict[tuple[int, int], float]] = {}
            questions: dict[str, int] = {}
            for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                place = questions.setdefault(line["question"], len(questions)), line["repeat"]
                scores.setdefault(line["program"], {})[place] = line["score"]
            candidates = [Candidate(programs[one].schedule, {}) for one in scores]
            surface = pool(list(scores.values()), candidates)
            estimates = zip(candidates, surface.mean, surface.sd, strict=True)
            known = [Known(transferable(one), float(mean), float(sd)) for one, mean, sd in estimates]
            found[path.stem] = known, candidates
    return found


def main() -> None:
    """Print the table."""
    table = Table("study", "programs", "prior from worlds", "from the other studies")
    for name, (known, candidates) in real().items():
        others = learn([other for place, (other, _) in real().items() if place != name])
        scores = [one.score for one in known]
        orders = [_correlation(list(prior.means(candidates)), scores) for prior in (worlds(), others)]
        table.add_row(name, str(len(known)), *(f"{order:.2f}" for order in orders))
    Console(width=100).print(table)


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    """With means for ties."""
    rounded = np.round(values, 6)
    return [float((rounded < value).sum() + (rounded == value).sum() / 2) for value in rounded]


if __name__ == "__main__":
    main()
