"""Sandboxes for programs that a model wrote: separate processes with limits, without this machine's files and network.

    await run(Job(programs=("def f(x): return x + 1",), cases=(Case("assert f(1) == 2"),), entry="f"))

Without an available sandbox no program runs (NoSandbox). The tests run in another process than the program, so that
anything that it overrides, prints or patches changes its own results and never the verdict.
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
