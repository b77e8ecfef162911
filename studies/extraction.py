"""Reading a text, without any check: `python -m studies.extraction`; see plans/extraction.md.

`--pilot` runs ten other texts of each kind in one pass and eight drafts, to choose the kind by; some minutes.
"""

from __future__ import annotations

from typing import Any

import dspy
import typer

from pdr_dspy import datasets
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.verifiers import ExactVerifier
from studies.command import command_with_kinds
from studies.study import Study

BASE = Schedule(widths=(1,), kappa=384, draft_tokens=128, refine_tokens=128, temperature=0.8)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "family": ("rg:family_relationships", {}),
    "haystack": ("rg:needle_haystack", {"min_num_statements": 20, "max_num_statements": 40}),
    "short": ("rg:needle_haystack", {"min_num_statements": 3, "max_num_statements": 6}),
}
"""reasoning-gym's task, and its options: who is whom to whom in a family, and which of some people does something."""
KIND = "short"
LIMIT = 60


class Reading(dspy.Signature):
    """Answer the question from the text."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="one word")


def programs() -> dict[str, Operator]:
    """The strategies of the plan, by name; the drafts of the first are everybody's."""
    schedules = {
        "vote of 8": BASE.replace(widths=(8,), final="vote"),
        "one pass": BASE,
        "medoid of 8": BASE.replace(widths=(8,), final="medoid"),
        "PDR 8-1 random": BASE.replace(widths=(8, 1), distiller="random_k", k=2),
        "PDR 8-1 random, counts": BASE.replace(widths=(8, 1), distiller="random_k", k=2, tally=True),
        "PDR 8-1 summary": BASE.replace(widths=(8, 1), distiller="summary", distill_tokens=192),
        "SR x3": BASE.replace(widths=(1, 1, 1), distiller="last"),
    }
    return {name: Operator(Reading, schedule) for name, schedule in schedules.items()}


def study(limit: int = LIMIT, kind: str = KIND, seed: int = 0) -> Study:
    """The study on so many texts of a kind. Raises ConfigError for a kind that there is not."""
    if kind not in KINDS:
        raise ConfigError(f"`kind={kind!r}` is none of {', '.join(KINDS)}")
    task, options = KINDS[kind]
    texts = datasets.load(task, size=limit, seed=seed, options=options)
    return Study("extraction", programs(), texts, ExactVerifier(ignore_case=True))


main = command_with_kinds(study, KINDS, option="kind", kind=KIND, limit=LIMIT, questions="Texts")

if __name__ == "__main__":
    typer.run(main)
