"""GSM8K: grade-school word problems with whole-number answers.

Data: openai/gsm8k on the Hugging Face hub (MIT; Cobbe et al., arXiv:2110.14168). `test` is its test split; `dev` and
`train` are parts of its training split.

    pdr eval gsm8k --limit 100 --api-base http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import dspy

from pdr_dspy import datasets
from pdr_dspy.operators import PDR, Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.verifiers import NumberVerifier, Verifier

DEV = 500
"""Number of questions of the training split that are reserved for confirmation."""


class WordProblem(dspy.Signature):
    """Solve the word problem. Name each quantity before you compute it, and check that you answer what is asked."""

    question: str = dspy.InputField()
    answer: int = dspy.OutputField(desc="without a unit")


def data(split: str = "test", *, limit: int | None = None, seed: int = 0) -> list[dspy.Example]:
    """`train`, `dev` or `test`; `seed` determines the order."""
    if split == "test":
        return datasets.load("gsm8k", split="test", limit=limit, seed=seed)
    training = datasets.load("gsm8k", split="train")
    dev, train = datasets.split(training, DEV, len(training) - DEV, seed=seed)
    return datasets.part({"train": train, "dev": dev, "test": ()}, split, limit)


def verifier() -> Verifier:
    """Numbers, compared as numbers."""
    return NumberVerifier()


def build() -> Operator:
    """Eight drafts; each later draft reads two random ones."""
    return PDR(WordProblem, Schedule(widths=(8, 4, 1), distiller="random_k", k=2, kappa=1024, draft_tokens=512))
