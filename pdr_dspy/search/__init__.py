"""The schedule optimizer: what to choose from, how trials are measured and chosen, and the DSPy teleprompter."""

from __future__ import annotations

from pdr_dspy.search.compile import Estimate, PDROptimizer
from pdr_dspy.search.confirmation import Confirmation
from pdr_dspy.search.failures import Failure, failures_of
from pdr_dspy.search.members import Member
from pdr_dspy.search.objective import TrialRecord
from pdr_dspy.search.pareto import Limits, front
from pdr_dspy.search.plan import Finalist
from pdr_dspy.search.prompts import check_demos, demos_of, questions_in
from pdr_dspy.search.proposals import Proposal, Proposals, feedback, propose
from pdr_dspy.search.result import SearchProgress, SearchResult
from pdr_dspy.search.space import Candidate, Space
from pdr_dspy.search.uncertainty import Bands, Outcomes, bands, knee, optimism, probability_nondominated, shrunk

__all__ = [
    "Bands",
    "Candidate",
    "Confirmation",
    "Estimate",
    "Failure",
    "Finalist",
    "Limits",
    "Member",
    "Outcomes",
    "PDROptimizer",
    "Proposal",
    "Proposals",
    "SearchProgress",
    "SearchResult",
    "Space",
    "TrialRecord",
    "bands",
    "check_demos",
    "demos_of",
    "failures_of",
    "feedback",
    "front",
    "knee",
    "optimism",
    "probability_nondominated",
    "propose",
    "questions_in",
    "shrunk",
]
