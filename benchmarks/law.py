"""The model of the simulated reasoner, as values: traits of the LM and its questions, and the effects of a schedule.

`benchmarks.reasoner` runs it one call at a time, `benchmarks.expectation` over many runs at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.roles import Role

RIGHT = 1
"""The right answer of every question; 0 is none, 2 to 4 are the attractors, larger ones are slips."""
SLIP = 5
LEAST = 12
"""Tokens of the shortest solution."""
CRITIQUE_LENGTH = 90.0
"""Tokens of a median critique."""
CUT_LOSS = 5
"""Tokens of the sign that stands where text was left out."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Traits:
    """Traits of the model and its questions: logits, natural logarithms of tokens, and standard deviations."""

    ability: float = 1.0
    """Logit of a right draft on the median question."""
    spread: float = 2.2
    """Logits lost per standard deviation of difficulty."""
    length: float = 5.55
    """Log tokens of the median solution of the median question."""
    stretch: float = 0.35
    """Log tokens gained per standard deviation of difficulty."""
    scatter: float = 0.45
    """Log tokens, between solutions of one question."""
    sight: float = 1.5
    """d' of checking one complete solution: 1.5 separates right from wrong with an ROC area of 0.86."""
    glare: float = 0.9
    """Spread of plausibility between the answers of a question, independent of the truth."""
    crowd: float = 0.06
    """Loss of sight for each further candidate that is read."""
    vote: float = 0.25
    """Log weight of an answer for each candidate that gives it."""
    afresh: float = 0.7
    """Log weight of solving afresh."""
    notes: float = 0.95
    """Share of the writer's evidence that a summary passes on to its reader."""
    brief: float = 0.5
    """Remaining share of sight for an answer without its solution."""
    shorter: float = 0.85
    """A refinement's length, as a share of a first draft's."""

    @classmethod
    def drawn(cls, seed: int) -> Traits:
        """The default traits with small random deviations, so that the best schedule differs between worlds."""
        rng = np.random.default_rng([seed, 77])
        usual = cls()
        ability, sight, glare, crowd, afresh, length = rng.uniform(-1, 1, 6)
        return replace(
            usual,
            ability=usual.ability + 0.4 * ability,
            sight=usual.sight + 0.35 * sight,
            glare=usual.glare + 0.25 * glare,
            crowd=usual.crowd + 0.03 * crowd,
            afresh=usual.afresh + 0.4 * afresh,
            length=usual.length + 0.12 * length,
        )


class Questions(NamedTuple):
    """Latent facts of some questions, one row each."""

    difficulty: Floats
    plausible: Floats
    """Plausibility of the right answer and of the three attractors."""
    attraction: Floats
    """Probability that a wrong draft gives each attractor."""
    greedy: Floats
    """Two uniform numbers that determine the draft at temperature 0."""


class Truth(NamedTuple):
    """Expected values of a schedule."""

    score: float
    sequential: float
    total: float


class Plan(NamedTuple):
    """The effects of a candidate, computed once."""

    schedule: Schedule
    caps: dict[Role, int]
    prompts: dict[Role, int]
    """Tokens of a prompt without candidates or workspace."""
    effects: dict[Role, float]
    stamps: dict[Role, str]
    """The parts of a request beside its seed and its input texts: cap, temperature, instructions."""


def summary_length(candidates: int) -> float:
    """Tokens of a median summary of this many candidates."""
    return 100.0 + 12.0 * candidates


def select_length(candidates: int) -> float:
    """Tokens of a median selection among this many candidates."""
    return 40.0 + 16.0 * candidates
