"""Checks: frozen values that score an answer without knowing the gold one, and say what is wrong with it.

    CodeCheck         the examples of the task, run in a sandbox
    ConstraintCheck   the rules that a puzzle or a plan has to keep
    SchemaCheck       a pydantic model, or constraints of fields
    RewardCheck       a DSPy reward function, `reward_fn(args, pred) -> float`

`as_check` takes any of these, a registered name, or a reward function as it is.
"""

from __future__ import annotations

from pdr_dspy.verifiers.checks.base import Check, RewardCheck, as_check, register_check, registered_checks
from pdr_dspy.verifiers.checks.code import CodeCheck, usable_examples
from pdr_dspy.verifiers.checks.constraint import CONSTRAINT_TASKS, ConstraintCheck
from pdr_dspy.verifiers.checks.schema import SchemaCheck

__all__ = [
    "CONSTRAINT_TASKS",
    "Check",
    "CodeCheck",
    "ConstraintCheck",
    "RewardCheck",
    "SchemaCheck",
    "as_check",
    "register_check",
    "registered_checks",
    "usable_examples",
]
