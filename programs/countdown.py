"""Countdown: reach a number with all of the given numbers, each used once. Answers can be checked without gold.

Data: reasoning-gym's `countdown`, four numbers, generated from a seed (Apache-2.0; no download).

    pdr eval countdown --limit 20
    pdr optimize countdown --trials 12
"""

from __future__ import annotations

import dspy

from pdr_dspy import datasets
from pdr_dspy.operators import PDR, Operator
from pdr_dspy.operators.schedule import until_checked
from pdr_dspy.verifiers import ProceduralVerifier, Verifier
from pdr_dspy.verifiers.checks import Check, ConstraintCheck

OPTIONS = {"min_numbers": 4, "max_numbers": 4, "min_target": 10, "max_target": 100, "max_value": 50}
SIZES = {"train": 60, "dev": 40, "test": 100}


class Countdown(dspy.Signature):
    """Find an arithmetic expression that uses each of the numbers exactly once and has the wanted value."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="the expression alone, without an equals sign")


def data(split: str = "test", *, limit: int | None = None, seed: int = 0) -> list[dspy.Example]:
    """Puzzles of each split; the splits share none."""
    puzzles = datasets.load("rg:countdown", size=sum(SIZES.values()), seed=seed, options=OPTIONS)
    return datasets.part(
        dict(zip(SIZES, datasets.split(puzzles, *SIZES.values(), seed=seed), strict=True)), split, limit
    )


def verifier() -> Verifier:
    """reasoning-gym's scorer."""
    return ProceduralVerifier()


def check() -> Check:
    """The rules of the puzzle."""
    return ConstraintCheck("countdown")


def build() -> Operator:
    """Eight drafts, ended early when the check passes one; else one more that reads the two best and their results."""
    return PDR(Countdown, until_checked(256, kappa=512), check=check())
