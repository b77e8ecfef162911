"""Tests that may stop a race at any question, against those at a few: `python -m benchmarks.anytime [--quick]`.

A candidate meets the best program on the same questions, one after the other, until a test says that it is worse. The
library tests exactly at a few looks that share an error of 5 % (`elimination.looks`, `statistics.spend`); a bet on the
differences may be looked at after every question (testing by betting, arXiv 2010.09686: the wealth of a mixture of
fixed stakes passes 1 / 0.05 with probability of at most 0.05 if the candidate is not worse, Ville's inequality). Scores
are 0 or 1; the two programs differ on a third of the questions, or on as many as the difference needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from pdr_dspy.evaluation.statistics import wilson, worse
from pdr_dspy.search.racing import elimination
from pdr_dspy.search.settings import Race

ALPHA = 0.05
DIFFERENCES = (0.0, -0.05, -0.1, -0.2, -0.3, -0.5)
"""Expected score of the candidate minus that of the best."""
DIFFER = 0.35
"""Share of questions on which two programs differ."""
STAKES = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
"""Fractions of the wealth that are bet on the candidate being worse, in equal parts."""


class Raced(NamedTuple):
    """What a test did to candidates of one difference."""

    dropped: int
    questions: float
    """Mean number of questions that a candidate was run on."""


def at_looks(differences: Sequence[float], looks: Sequence[int]) -> int | None:
    """After how many questions the library's test drops a candidate; None if never."""
    levels = elimination.levels(ALPHA, [look / len(differences) for look in looks])
    return next(
        (look for look, level in zip(looks, levels, strict=True) if worse(differences[:look]) <= level),
        None,
    )


def by_betting(differences: Sequence[float]) -> int | None:
    """After how many questions a bet has won enough to drop a candidate; None if never."""
    wealth = np.ones(len(STAKES))
    for number, difference in enumerate(differences, start=1):
        wealth *= 1 - np.asarray(STAKES) * difference
        if wealth.mean() >= 1 / ALPHA:
            return number
    return None


def draw(chance: np.random.Generator, questions: int, difference: float) -> list[float]:
    """Differences of scores on so many questions."""
    differ = max(DIFFER, min(1.0, abs(difference) * 1.2))
    shares = [(differ - difference) / 2, 1 - differ, (differ + difference) / 2]
    return [float(value) for value in chance.choice([-1.0, 0.0, 1.0], size=questions, p=shares)]


def race(questions: int, difference: float, candidates: int) -> dict[str, Raced]:
    """Both tests on the same candidates, by name."""
    chance = np.random.default_rng([questions, round(-100 * difference)])
    first = Race().first
    looks = {f"looks x{eta:g}": elimination.looks(questions, first, eta) for eta in (Race().eta, 1.25)}
    ends: dict[str, list[int | None]] = {name: [] for name in (*looks, "betting")}
    for _ in range(candidates):
        differences = draw(chance, questions, difference)
        for name, places in looks.items():
            ends[name].append(at_looks(differences, places))
        ends["betting"].append(by_betting(differences))
    return {
        name: Raced(sum(end is not None for end in found), fmean(end or questions for end in found))
        for name, found in ends.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50 candidates of each difference")
    candidates = 50 if parser.parse_args().quick else 2000
    table = Table("questions", "difference", "test", "dropped", "95 % interval", "mean questions", "of all")
    for questions in (30, 120):
        for difference in DIFFERENCES:
            for name, raced in race(questions, difference, candidates).items():
                low, high = wilson(raced.dropped, candidates)
                share = raced.dropped / candidates
                table.add_row(
                    str(questions), f"{difference:+.2f}", name, f"{share:.3f}", f"[{low:.3f}, {high:.3f}]",
                    f"{raced.questions:.1f}", f"{raced.questions / questions:.0%}",
                )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
