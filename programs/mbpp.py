"""MBPP: short Python functions from a sentence, graded by three assertions, checked by the first of them.

Data: google-research-datasets/mbpp on the Hugging Face hub, its sanitized part (CC-BY-4.0; Austin et al.,
arXiv:2108.07732). As in the paper the task shows an assertion, so that the name of the function is known; the others
stay hidden.

    pdr eval mbpp --limit 50 --api-base http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import dspy

from pdr_dspy import datasets
from pdr_dspy.errors import DataError
from pdr_dspy.operators import PDR, Operator
from pdr_dspy.operators.schedule import until_checked
from pdr_dspy.verifiers import CodeVerifier, Verifier
from pdr_dspy.verifiers.checks import Check, CodeCheck

HUB = "hub:google-research-datasets/mbpp/sanitized"
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
FIELDS = {"question": "prompt", "answer": "code", "id": "task_id"}


class Write(dspy.Signature):
    """Write the Python function."""

    prompt: str = dspy.InputField()
    code: dspy.Code = dspy.OutputField()


def data(split: str = "test", *, limit: int | None = None, seed: int = 0) -> list[dspy.Example]:
    """The set's own splits; `seed` determines the order."""
    if split not in SPLITS:
        return datasets.part(dict.fromkeys(SPLITS, ()), split, limit)
    return [task(row) for row in datasets.load(HUB, split=SPLITS[split], limit=limit, seed=seed, fields=FIELDS)]


def task(row: dspy.Example) -> dspy.Example:
    """A row as a task. Raises DataError for a row without assertions."""
    tests = list(row.get("test_list") or [])
    if not tests:
        raise DataError(f"the row {row.id} has no `test_list`")
    imports = list(row.get("test_imports") or [])
    return dspy.Example(
        id=row.id,
        prompt=f"{row.question}\n\nIt has to pass this test:\n{tests[0]}",
        test=tests,
        test_imports=imports,
        answer=row.answer,
    ).with_inputs("prompt")


def verifier() -> Verifier:
    """All assertions."""
    return CodeVerifier(setup=("test_imports",))


def check() -> Check:
    """The assertion in the prompt."""
    return CodeCheck()


def build() -> Operator:
    """Eight drafts, ended early when the check passes one; else one more that reads the two best and their results."""
    return PDR(Write, until_checked(512, kappa=2048), check=check())
