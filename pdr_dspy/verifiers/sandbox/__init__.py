"""Where programs that a model wrote are run: apart from this process, from its files, from the network, and bounded.

    await run(Job(programs=("def f(x): return x + 1",), cases=(Case("assert f(1) == 2"),), entry="f"))

Nothing runs where nothing can isolate it (NoSandbox). The tests run apart from the program too, so that what it
overrides, prints or patches changes its own results and never the verdict.
"""

from __future__ import annotations

from pdr_dspy.verifiers.sandbox.runner import Isolation, isolations, run
from pdr_dspy.verifiers.sandbox.values import (
    DEFAULT_LIMITS,
    SIDE_BY_SIDE,
    Case,
    Job,
    Limits,
    Outcome,
    Result,
    Stdin,
    TestsBroken,
)

__all__ = [
    "DEFAULT_LIMITS",
    "SIDE_BY_SIDE",
    "Case",
    "Isolation",
    "Job",
    "Limits",
    "Outcome",
    "Result",
    "Stdin",
    "TestsBroken",
    "isolations",
    "run",
]
