"""`pdr new`: a program file to start from, which runs as it is."""

from __future__ import annotations

from pathlib import Path

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.runtime import store_whole

TEMPLATE = '''"""{name}: a program for `pdr eval {name}.py` and `pdr optimize {name}.py`."""

import dspy

from pdr_dspy import PDR

ROWS = [(f"What is {{a}} + {{b}}?", a + b) for a in range(11, 17) for b in (5, 8, 13, 27)]  # yours


def data(split="test", *, limit=None, seed=0):
    """`train` to search on, `dev` to confirm, `test` to evaluate: parts without common questions."""
    rows = ROWS[("train", "dev", "test").index(split) :: 3][:limit]
    return [dspy.Example(question=question, answer=answer).with_inputs("question") for question, answer in rows]


def verifier():
    """A verifier of the library, or a function: True, False or a fraction."""
    return lambda example, prediction: prediction.answer == example.answer


def build():
    """Four drafts, then one that reads two of them."""
    return PDR("question -> answer: int", widths=(4, 1), distiller="random_k", kappa=512, draft_tokens=128)
'''


def new(name: str, folder: Path = Path()) -> Path:
    """Write `name`.py and return its path.

    Raises ConfigError for a name that is no module's, StoreError for a file that exists.
    """
    stem = name.removesuffix(".py")
    if not stem.isidentifier():
        raise ConfigError(f"`pdr new {name}`: the name must be letters, digits and _, such as triage")
    path = folder / f"{stem}.py"
    if path.exists():
        raise StoreError(f"{path} exists; `pdr new` overwrites nothing: choose another name")
    store_whole(path, TEMPLATE.format(name=stem))
    return path
