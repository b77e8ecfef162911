"""MATH-500: competition mathematics with answers in LaTeX.

Data: HuggingFaceH4/MATH-500 on the Hugging Face hub (MIT; Hendrycks et al., arXiv:2103.03874; the selection is Lightman
et al., arXiv:2305.20050). It has one split of 500, with a fixed division here: a program tuned on `train` and
confirmed on `dev` must be reported on `test` only, and such figures are not those of the full set.

    pdr eval math500 --limit 50 --api-base http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import dspy

from pdr_dspy import datasets
from pdr_dspy.operators import PDR, Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.verifiers import MathVerifier, Verifier

SIZES = {"train": 120, "dev": 80, "test": 300}


class Competition(dspy.Signature):
    """Solve the problem. Give the answer exactly, in LaTeX, as simple as it gets."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="the exact answer alone, without words")


def data(split: str = "test", *, limit: int | None = None, seed: int = 0) -> list[dspy.Example]:
    """`train`, `dev` or `test`. The division is fixed; `seed` does not change it."""
    del seed
    parts = datasets.split(datasets.load("math500"), *SIZES.values(), seed=0)
    return datasets.part(dict(zip(SIZES, parts, strict=True)), split, limit)


def verifier() -> Verifier:
    """Equality of mathematical expressions."""
    return MathVerifier()


def build() -> Operator:
    """Two wide rounds before the answer; the model picks which two solutions each later draft reads."""
    return PDR(Competition, Schedule(widths=(8, 4, 1), distiller="topk_per_sample", k=2, kappa=4096, draft_tokens=2048))
