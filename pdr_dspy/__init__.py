"""Parallel-Distill-Refine and Sequential Refinement as DSPy modules (arXiv 2510.01123).

>>> import dspy, pdr_dspy
>>> dspy.configure(lm=pdr_dspy.connect("auto", "http://127.0.0.1:8000/v1"))
>>> program = pdr_dspy.PDR("question -> answer", widths=(8, 4, 1), distiller="topk_per_sample")
>>> prediction = program(question="What is 6 * 7?")
>>> prediction.answer, prediction.ledger.sequential, prediction.ledger.total

Names are imported when they are first used, so that `pdr --help` need not wait for DSPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdr_dspy import datasets, serving, verifiers
    from pdr_dspy.artifact import load, save
    from pdr_dspy.calls import Adapter, Budget, Call, Ledger, Phase, Price, Priced, Rollouts, Usage, session
    from pdr_dspy.datasets import dataset
    from pdr_dspy.endpoint import app as app
    from pdr_dspy.errors import PDRError
    from pdr_dspy.evaluation.evaluator import aevaluate, evaluate
    from pdr_dspy.evaluation.records import Report, Row
    from pdr_dspy.operators import (
        PDR,
        SR,
        BestOfN,
        Distilled,
        Distiller,
        DistillerInput,
        Draft,
        LongCoT,
        Operator,
        Schedule,
        SelfConsistency,
        Workspace,
        distiller,
        preset,
    )
    from pdr_dspy.operators.outcome import Stop
    from pdr_dspy.search import PDROptimizer, Space, axis
    from pdr_dspy.serving import connect
    from pdr_dspy.verifiers import Score, Verifier, as_verifier, verifier

__version__ = "0.1.0"

_HOME = {
    "artifact": ("load", "save"),
    "datasets": ("dataset",),
    "calls": ("Adapter", "Budget", "Call", "Ledger", "Phase", "Price", "Priced", "Rollouts", "Usage", "session"),
    "endpoint": ("app",),
    "errors": ("PDRError",),
    "evaluation": ("Report", "Row", "aevaluate", "evaluate"),
    "operators": (
        *("PDR", "SR", "BestOfN", "LongCoT", "SelfConsistency", "Operator", "Schedule", "preset"),
        *("Distilled", "Distiller", "DistillerInput", "Draft", "Stop", "Workspace", "distiller"),
    ),
    "search": ("PDROptimizer", "Space", "axis"),
    "serving": ("connect",),
    "verifiers": ("Score", "Verifier", "as_verifier", "verifier"),
}
_MODULES = ("datasets", "serving", "verifiers")

__all__ = [
    "PDR",
    "SR",
    "Adapter",
    "BestOfN",
    "Budget",
    "Call",
    "Distilled",
    "Distiller",
    "DistillerInput",
    "Draft",
    "Ledger",
    "LongCoT",
    "Operator",
    "PDRError",
    "PDROptimizer",
    "Phase",
    "Price",
    "Priced",
    "Report",
    "Rollouts",
    "Row",
    "Schedule",
    "Score",
    "SelfConsistency",
    "Space",
    "Stop",
    "Usage",
    "Verifier",
    "Workspace",
    "aevaluate",
    "as_verifier",
    "axis",
    "connect",
    "dataset",
    "datasets",
    "distiller",
    "evaluate",
    "load",
    "preset",
    "save",
    "serving",
    "session",
    "verifier",
    "verifiers",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pdr_dspy.{name}")
    for module, names in _HOME.items():
        if name in names:
            value = getattr(import_module(f"pdr_dspy.{module}"), name)
            globals()[name] = value  # found at once the next time
            return value
    raise AttributeError(f"module 'pdr_dspy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "app"])  # which needs an extra: `import *` has to work without it
