"""Where rows are run: `Local`, in this process, or `RayExecutor`, on the machines of a Ray cluster. Whoever asks for
rows holds the plan and is the only one who writes them down, so results do not depend on where they were run.
"""

from __future__ import annotations

from pdr_dspy.evaluation.executors.base import Executor, Local, Rows
from pdr_dspy.evaluation.executors.on_ray import RayExecutor

__all__ = ["Executor", "Local", "RayExecutor", "Rows"]
