"""The schedule optimizer: its search space, the measurement and selection of trials, and the DSPy teleprompter.

`space/` has the axes and the space, `proposing/` the sources of candidates, `racing/` their comparison, `driver/` the
run of a search and its journal. `optimizer` is the teleprompter, `problem` and `settings` are its input values.
"""

from __future__ import annotations

from pdr_dspy.search.credit import Credit
from pdr_dspy.search.front_members import Member
from pdr_dspy.search.optimizer import Estimate, PDROptimizer
from pdr_dspy.search.prior import Prior
from pdr_dspy.search.proposing.failures import Failure, failures_of
from pdr_dspy.search.proposing.feedback import feedback
from pdr_dspy.search.proposing.instructions import Proposal, Proposals, propose
from pdr_dspy.search.proposing.writer import Earlier, Parent
from pdr_dspy.search.racing.arms import Finalist
from pdr_dspy.search.racing.confirmation import Confirmation
from pdr_dspy.search.racing.pareto import Limits, front
from pdr_dspy.search.racing.resampling import Bands, Outcomes, bands, knee, optimism, probability_nondominated
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.result import SearchProgress, SearchResult
from pdr_dspy.search.settings import Confirm, Final, Instructions, Race, RunOptions, SearchSettings
from pdr_dspy.search.space.axis import Axis
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.prompt_axes import check_demos, demos_of, questions_in
from pdr_dspy.search.space.registry import AXES, axis
from pdr_dspy.search.space.spaces import Space, Spaces

__all__ = [
    "AXES",
    "Axis",
    "Bands",
    "Candidate",
    "Confirm",
    "Confirmation",
    "Credit",
    "Earlier",
    "Estimate",
    "Failure",
    "Final",
    "Finalist",
    "Instructions",
    "Limits",
    "Member",
    "Outcomes",
    "PDROptimizer",
    "Parent",
    "Prior",
    "Proposal",
    "Proposals",
    "Race",
    "RunOptions",
    "SearchProgress",
    "SearchResult",
    "SearchSettings",
    "Space",
    "Spaces",
    "TrialRecord",
    "axis",
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
]
