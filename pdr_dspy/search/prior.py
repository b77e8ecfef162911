"""What earlier searches learnt about schedules, for a new search: expected differences in score.

Only differences between schedules transfer, over the axes of the library: neither scores of tasks, nor prompts, nor
names of models and checks. The programs of all earlier searches have a joint Gaussian process,

    score = level of its search + shared(schedule) + own(search, schedule) + error,

whose shared part is the prior: searches that disagree leave little of it (multi-task Gaussian processes, Bonilla et
al. 2007). A new search uses it in two ways. A few of its first trials are schedules with high expectations (warm start,
as in Feurer et al. 2015). The pooled estimates (`racing.surrogate`) have it as their mean, with a weight that the
scores of the new search choose, 0 among the candidates; so what does not hold for the new task is ignored, as by the
ranking weights of RGPE (Feurer et al. 2018).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.search.racing.surrogate import Array, gaps, one_thread
from pdr_dspy.search.space.axes import CHECK, MODEL_AXES
from pdr_dspy.search.space.candidate import Candidate, read_candidate, under
from pdr_dspy.search.space.canonical import positions_of
from pdr_dspy.settings import Settings

FIRST = 4
"""Maximum trials of the first cohort that are chosen by the prior: what a wrong one costs."""
SPREADS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Candidates for the standard deviation of differences between schedules, as fractions."""
LENGTHS = (1.5, 3.0, 5.0)
"""Candidates for the distance, in steps of an axis, over which schedules are alike."""
SHARES = (0.1, 0.5, 0.9, 0.99)
"""Candidates for the fraction of the variance that searches share."""
NEW_SPREAD, NEW_LENGTH, NEW_SHARE = 0.05, 1.5, 0.9
"""What is assumed of a new search's deviations from the prior when its first trials are chosen."""
SHORTLIST = 300
"""Candidates with the highest expectations among which they are chosen."""

Positions = Mapping[str, float | str]


class Known(NamedTuple):
    """A program of an earlier search."""

    positions: Positions
    score: float
    """Its pooled estimate, a fraction."""
    sd: float
    """Its standard deviation."""


class Point(Settings):
    """A measured schedule."""

    at: dict[str, float | str]
    """Its positions on the axes that transfer."""
    weight: float
    """Of its neighbourhood, in score."""


class Prior(Settings):
    """Expected differences in score between schedules, learnt from earlier searches.

    >>> PDROptimizer(verifier, prior="runs/yesterday")
    >>> PDROptimizer(verifier, prior=["runs/small-model", "runs/other-questions"])

    Raises ConfigError for invalid data.
    """

    version: Literal[1] = 1
    searches: int
    """Number of searches that it was learnt from."""
    length: float
    """Distance over which schedules are alike, in steps."""
    points: tuple[Point, ...]

    def means(self, candidates: Sequence[Candidate]) -> Array:
        """The expected scores of some programs as fractions, up to a constant. Axes that no earlier search had are
        flat."""
        names = {name for point in self.points for name in point.at}
        rows = [{name: at for name, at in transferable(one).items() if name in names} for one in candidates]
        near = np.exp(-0.5 * (gaps(rows, [point.at for point in self.points]) / self.length) ** 2)
        return near @ np.array([point.weight for point in self.points])

    def first(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """The first of some candidates to try: with high expectations, and unlike each other, since a new search
        deviates from the prior by regions. Each pick has the highest upper confidence bound after those before it.
        Empty if it expects the same of all."""
        means = self.means(candidates)
        if len(means) == 0 or np.ptp(means) == 0:
            return []
        order = [int(place) for place in np.argsort(-means, kind="stable")[:SHORTLIST]]
        found = [candidates[place] for place in order]
        alike = np.exp(-0.5 * (gaps(*[[transferable(one) for one in found]] * 2) / NEW_LENGTH) ** 2)
        left = NEW_SPREAD**2 * ((1 - NEW_SHARE) * np.eye(len(found)) + NEW_SHARE * alike)
        picked: list[int] = []
        for _ in range(min(count, len(found))):
            bound = means[order] + np.sqrt(np.maximum(np.diag(left), 0.0))
            bound[picked] = -math.inf
            picked.append(best := int(np.argmax(bound)))
            left = left - np.outer(left[:, best], left[best]) / (left[best, best] + NEW_SPREAD**2 / 25)
        return [found[place] for place in picked]


def transferable(candidate: Candidate) -> dict[str, float | str]:
    """The positions of a candidate on the axes that mean the same in another search. A check is one whatever its
    name."""
    found: dict[str, float | str] = {}
    for place, own in candidate.by_operator.items():
        for name, at in positions_of(own.schedule):
            if name not in MODEL_AXES:
                found[under(place, name)] = CHECK.name if name == CHECK.name and at else at
    return found


def learn(searches: Sequence[Sequence[Known]]) -> Prior:
    """The prior from the programs of some searches. Raises ConfigError if none has two programs."""
    searches = [known for known in searches if len(known) > 1]
    if not searches:
        raise ConfigError("a prior needs a search with at least two measured programs")
    points = [one for known in searches for one in known]
    of = np.repeat(np.arange(len(searches)), [len(known) for known in searches])
    with one_thread():
        found = max(_fits(points, of), key=lambda fit: fit.likelihood)
    rounded = zip(points, found.weights, strict=True)
    return Prior(
        searches=len(searches),
        length=found.length,
        points=tuple(Point(at=dict(one.positions), weight=round(float(weight), 6)) for one, weight in rounded),
    )


class _Fit(NamedTuple):
    likelihood: float
    length: float
    weights: Array


def _fits(points: Sequence[Known], of: NDArray[Any]) -> Iterator[_Fit]:
    """The shared part under each choice of its parameters, given the number of each point's search, whose level is
    fitted."""
    scores, noise = np.array([one.score for one in points]), np.array([max(one.sd, 0.005) ** 2 for one in points])
    distances, same = gaps(*[[one.positions for one in points]] * 2), np.equal.outer(of, of)
    levels = np.equal.outer(of, np.unique(of)).astype(float)
    shares = SHARES if levels.shape[1] > 1 else (1.0,)  # one search cannot tell; the new one weighs it
    for spread, length, share in itertools.product(SPREADS, LENGTHS, shares):
        alike = spread**2 * np.exp(-0.5 * (distances / length) ** 2)
        factor = np.linalg.cholesky(alike * np.where(same, 1.0, share) + np.diag(noise))
        inverse = np.linalg.inv(factor)
        inverse = inverse.T @ inverse
        precision = levels.T @ inverse @ levels
        rest = scores - levels @ np.linalg.solve(precision, levels.T @ inverse @ scores)
        fit = inverse @ rest
        likelihood = -0.5 * float(rest @ fit) - float(np.log(np.diag(factor)).sum())
        likelihood -= 0.5 * float(np.linalg.slogdet(precision)[1])
        yield _Fit(likelihood, length, share * spread**2 * fit)


def read_prior(places: Any) -> Prior:
    """The prior from the run folders of finished searches: one, or several.

    Raises ConfigError for anything else, and StoreError for a folder without a finished search.
    """
    if isinstance(places, (str, Path)):
        places = (places,)
    if not isinstance(places, Sequence) or not places or not all(isinstance(one, (str, Path)) for one in places):
        raise ConfigError(f"`prior={places!r}` must be the run folder of a finished search, or a list of several")
    try:
        return learn([_programs(local_path(place)) for place in places])
    except ConfigError as error:
        raise ConfigError(f"`prior={[str(place) for place in places]}`: {error}") from error


def _programs(folder: Path) -> list[Known]:
    """The programs of a finished search."""
    path = folder / "search.json"
    try:
        trials = json.loads(path.read_text(encoding="utf-8"))["trials"]
        known = [
            Known(transferable(_candidate(trial)), float(trial["pooled"]), float(trial["pooled_sd"]))
            for trial in trials
            if trial["pooled"] is not None
        ]
        if not all(math.isfinite(one.score) and math.isfinite(one.sd) for one in known):
            raise ValueError("`pooled` or `pooled_sd` of a trial is not finite")
        return known
    except OSError as error:
        raise StoreError(
            f"`prior={str(folder)!r}`: {path} cannot be read: {error.strerror}; it must be the run folder of a "
            "finished search"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise StoreError(f"`prior={str(folder)!r}`: {path} is not of a search of this version ({error})") from error


def _candidate(trial: Mapping[str, Any]) -> Candidate:
    """The candidate of a stored trial."""
    return read_candidate({"operators": trial["parts"]} if trial.get("parts") else trial)
