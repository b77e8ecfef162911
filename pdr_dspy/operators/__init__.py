"""The strategies of the paper and around it, as DSPy modules over any task signature.

`loop` is the algorithm, and the file to read first. Its rounds are made by `drafting` and `distilling`; `run_calls` and
`run_checks` hold the calls and the checks of a run, `progress` and `outcome` what it reports while it runs and at its
end. `schedule` defines widths, rounds and token limits; `workspace` is what passes between rounds, and `distillers`
make it; `consensus` compares answers and `final` selects one; `question` computes prompt sizes; `operator` is the DSPy
module, `strategies` its named constructors, and `nested` finds operators in a user's program.
"""

from __future__ import annotations

from pdr_dspy.operators.distillers import DISTILLERS, Distilled, Distiller, DistillerInput, distiller
from pdr_dspy.operators.final import plurality
from pdr_dspy.operators.loop import Check, improve
from pdr_dspy.operators.nested import operators_in, operators_of, replaced
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Round, Stop
from pdr_dspy.operators.progress import Progress
from pdr_dspy.operators.question import TEMPLATE_TOKENS
from pdr_dspy.operators.schedule import Nominal, Schedule, preset
from pdr_dspy.operators.strategies import PDR, SR, BestOfN, LongCoT, SelfConsistency
from pdr_dspy.operators.workspace import Draft, Workspace

__all__ = [
    "DISTILLERS",
    "PDR",
    "SR",
    "TEMPLATE_TOKENS",
    "BestOfN",
    "Check",
    "Distilled",
    "Distiller",
    "DistillerInput",
    "Draft",
    "LongCoT",
    "Nominal",
    "Operator",
    "Progress",
    "Round",
    "Schedule",
    "SelfConsistency",
    "Stop",
    "Workspace",
    "distiller",
    "improve",
    "operators_in",
    "operators_of",
    "plurality",
    "preset",
    "replaced",
]
