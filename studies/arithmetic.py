"""Sums, with the model itself as the check: `python -m studies.arithmetic`; see plans/arithmetic.md.

The check is P(yes) of the same model when it is asked whether an answer is right: what self-verification is worth.
"""

from __future__ import annotations

import typer

from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.verifiers.checks import JudgeCheck
from programs import arithmetic
from studies.command import command
from studies.study import Study, eight_drafts

BASE = Schedule(widths=(1,), kappa=384, draft_tokens=128, refine_tokens=128, temperature=0.8)
LIMIT = 40
CRITERIA = "The arithmetic is correct and the number is the answer to the question."


def programs() -> dict[str, Operator]:
    """The strategies of the plan, by name."""
    checks = {"check": JudgeCheck(criteria=CRITERIA)}
    return {
        name: Operator(arithmetic.Arithmetic, schedule, checks)
        for name, schedule in eight_drafts(BASE, keep=True).items()
    }


def study(limit: int = LIMIT, seed: int = 0) -> Study:
    """The study on so many sums."""
    return Study("arithmetic", programs(), arithmetic.data("test", limit=limit, seed=seed), arithmetic.verifier())


main = command(study, limit=LIMIT, questions="Sums, at most 100")

if __name__ == "__main__":
    typer.run(main)
