"""Distillers: they turn the solutions of a round into the workspaces of the next (arXiv 2510.01123, section 3 and
figure 2b), one file each. `base` has their input and output types, and `Distiller`, the record of a distiller's
properties; `registry` finds them by name, including those of users and other packages.
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
