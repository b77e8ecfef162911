"""The paper's operators: `schedule` says how many drafts, rounds and tokens, `loop` drafts, distills and refines by it,
`distillers` make the workspaces of the next round, `consensus` compares answers, and `modules` has the DSPy modules
(LongCoT, SR, PDR) over any task signature; `nested` finds them inside a user's program.
"""

from __future__ import annotations

from pdr_dspy.operators.distillers import DISTILLERS, Distilled, Distiller, DistillerInput, distiller
from pdr_dspy.operators.loop import TEMPLATE_TOKENS, Round, Stop, check, improve, plurality
from pdr_dspy.operators.modules import PDR, SR, LongCoT, Operator
from pdr_dspy.operators.nested import operators_in, operators_of, replaced
from pdr_dspy.operators.schedule import Nominal, Schedule, preset
from pdr_dspy.operators.workspace import Draft, Workspace

__all__ = [
    "DISTILLERS",
    "PDR",
    "SR",
    "TEMPLATE_TOKENS",
    "Distilled",
    "Distiller",
    "DistillerInput",
    "Draft",
    "LongCoT",
    "Nominal",
    "Operator",
    "Round",
    "Schedule",
    "Stop",
    "Workspace",
    "check",
    "distiller",
    "improve",
    "operators_in",
    "operators_of",
    "plurality",
    "preset",
    "replaced",
]
