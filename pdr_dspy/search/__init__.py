"""The schedule optimizer: what to choose from, how trials are measured and chosen, and the DSPy teleprompter."""

from __future__ import annotations

from pdr_dspy.search.front_members import Member
from pdr_dspy.search.optimizer import Estimate, PDROptimizer
from pdr_dspy.search.proposing.failures import Failure, failures_of
from pdr_dspy.search.proposing.instructions import Proposal, Proposals, feedback, propose
from pdr_dspy.search.racing.confirmation import Confirmation
from pdr_dspy.search.racing.pareto import Limits, front
from pdr_dspy.search.racing.plan import Finalist
from pdr_dspy.search.racing.resampling import Bands, Outcomes, bands, knee, optimism, probability_nondominated, shrunk
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.result import SearchProgress, SearchResult
from pdr_dspy.search.space.prompt_axes import check_demos, demos_of, questions_in
from pdr_dspy.search.space.space import Candidate, Space

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
