"""AIME: 30 integer-answer problems a year, the paper's own test (arXiv 2510.01123, sections 4 and 5).

Data: AIME 2024 for tuning and AIME 2025 for reporting, from the Hugging Face hub. The problems are the Mathematical
Association of America's; most copies state no licence. With 30 problems and one run each, a 95 % interval is about 17
points either way: use repeats.

    pdr eval aime --repeats 8 --api-base http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import dspy

from pdr_dspy import datasets
from pdr_dspy.operators import PDR, Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.verifiers import NumberVerifier, Verifier

TRAIN = 20
"""Number of problems of 2024 for tuning; the other 10 are for confirmation."""


class Aime(dspy.Signature):
    """Solve the competition problem. The answer is a whole number from 0 to 999."""

    question: str = dspy.InputField()
    answer: int = dspy.OutputField()


def data(split: str = "test", *, limit: int | None = None, seed: int = 0) -> list[dspy.Example]:
    """`train` and `dev` are from 2024, `test` is 2025."""
    if split == "test":
        return datasets.load("aime25", limit=limit)
    problems = datasets.load("aime24")
    train, dev = datasets.split(problems, TRAIN, len(problems) - TRAIN, seed=seed)
    return datasets.part({"train": train, "dev": dev, "test": ()}, split, limit)


def verifier() -> Verifier:
    """Whole numbers in any usual notation: `033` is 33, the last box counts."""
    return NumberVerifier()


def build() -> Operator:
    """The paper's widths for a thinking model: 16 drafts, then 8 and 4 refinements, then the answer."""
    return PDR(
        Aime,
        Schedule(
            widths=(16, 8, 4, 1),
            distiller="topk_per_sample",
            k=2,
            kappa=8192,
            draft_tokens=4096,
            distill_tokens=1024,
            thinking_tokens=12288,
        ),
    )
