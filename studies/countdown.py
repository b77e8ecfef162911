"""Countdown, whose rules are the check: `python -m studies.countdown`; see plans/countdown.md.

`--pilot` runs ten questions of each level in one pass and eight drafts, to choose the level by; about ten minutes.
"""

from __future__ import annotations

import typer

from pdr_dspy import datasets
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from programs import countdown
from studies.command import command_with_kinds
from studies.study import Study, eight_drafts

BASE = Schedule(widths=(1,), kappa=512, draft_tokens=128, refine_tokens=128, temperature=0.8)
LEVELS = {
    "two": {"min_numbers": 2, "max_numbers": 2, "min_target": 2, "max_target": 60, "max_value": 30},
    "three": {"min_numbers": 3, "max_numbers": 3, "min_target": 2, "max_target": 60, "max_value": 20},
    "four": countdown.OPTIONS,
}
"""Numbers to use; a level is taken where one pass is right 15 to 60 % of the time."""
LEVEL = "two"
LIMIT = 40


def programs() -> dict[str, Operator]:
    """The strategies of the plan, by name."""
    checks = {"check": countdown.check()}
    return {
        name: Operator(countdown.Countdown, schedule, checks)
        for name, schedule in eight_drafts(BASE, keep=True).items()
    }


def study(limit: int = LIMIT, level: str = LEVEL, seed: int = 0) -> Study:
    """The study on so many puzzles of a level. Raises ConfigError for a level that there is not."""
    if level not in LEVELS:
        raise ConfigError(f"`level={level!r}` is none of {', '.join(LEVELS)}")
    puzzles = datasets.load("rg:countdown", size=limit, seed=seed, options=LEVELS[level])
    return Study("countdown", programs(), puzzles, countdown.verifier())


main = command_with_kinds(study, LEVELS, option="level", kind=LEVEL, limit=LIMIT, questions="Puzzles")

if __name__ == "__main__":
    typer.run(main)
