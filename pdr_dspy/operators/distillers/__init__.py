"""How the solutions of a round become the workspaces of the next (arXiv 2510.01123, section 3 and figure 2b): one file
a distiller. `base` has what they are given and return, and `Distiller`, the record that says all that the rest of the
library knows of one; `registry` finds them by name, those of users and of other packages too.
"""

from __future__ import annotations

from pdr_dspy.operators.distillers.base import Distilled, Distiller, DistillerInput
from pdr_dspy.operators.distillers.registry import DISTILLERS, distiller

__all__ = [
    "DISTILLERS",
    "Distilled",
    "Distiller",
    "DistillerInput",
    "distiller",
]
