"""The schedule optimizer: what to choose from, how trials are measured and chosen, and the DSPy teleprompter."""

from __future__ import annotations

from pdr_dspy.search.compile import Estimate, PDROptimizer
from pdr_dspy.search.confirmation import Confirmation
from pdr_dspy.search.objective import TrialRecord
from pdr_dspy.search.pareto import Limits, front
from pdr_dspy.search.plan import Finalist
from pdr_dspy.search.result import SearchProgress, SearchResult
from pdr_dspy.search.space import Candidate, Space

__all__ = [
    "Candidate",
    "Confirmation",
    "Estimate",
    "Finalist",
    "Limits",
    "PDROptimizer",
    "SearchProgress",
    "SearchResult",
    "Space",
    "TrialRecord",
    "front",
]
