"""Where rows are run: `Local`, in this process, or `RayExecutor`, on the machines of a Ray cluster. Only the calling
process plans and writes rows, so results do not depend on where they were run.
"""

from __future__ import annotations

from pdr_dspy.evaluation.executors.base import Executor, Local, Rows, RowSettings
from pdr_dspy.evaluation.executors.on_ray import RayExecutor

__all__ = ["Executor", "Local", "RayExecutor", "RowSettings", "Rows"]
