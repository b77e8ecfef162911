"""Checks: frozen values that score an answer without the gold answer, with feedback on its faults.

    CodeCheck         the examples of the task, run in a sandbox
    ConstraintCheck   the rules that a puzzle or a plan has to keep
    SchemaCheck       a pydantic model, or constraints of fields
    RewardCheck       a DSPy reward function, `reward_fn(args, pred) -> float`

Checks by a model, whose tokens are on the ledger and on the critical path:

    JudgeCheck        the probability that a model answers yes
    PairwiseCheck     a model compares pairs of drafts
    RewardModel       a sequence reward model, at vLLM's /classify
    StepReward        a process reward model, at vLLM's /pooling
    ScoreModel        a cross-encoder, at /score or /rerank

`as_check` accepts any of these, a registered name, or a reward function. `CalibratedCheck` is a check with the
threshold and the figures of `evaluation.calibrate`.
"""

from __future__ import annotations

from pdr_dspy.verifiers.checks.base import (
    CHECKS,
    AsyncCheck,
    Check,
    RewardCheck,
    RoundCheck,
    as_check,
    checked,
    checked_together,
    register_check,
)
from pdr_dspy.verifiers.checks.calibrated import CalibratedCheck, Calibration
from pdr_dspy.verifiers.checks.code import CodeCheck, usable_examples
from pdr_dspy.verifiers.checks.constraint import CONSTRAINT_TASKS, ConstraintCheck
from pdr_dspy.verifiers.checks.described import DESCRIBED, load_check
from pdr_dspy.verifiers.checks.judge import JudgeCheck, PairwiseCheck
from pdr_dspy.verifiers.checks.limited import TIME_LIMIT
from pdr_dspy.verifiers.checks.schema import SchemaCheck
from pdr_dspy.verifiers.checks.served import RewardModel, ScoreModel, StepReward, apart

__all__ = [
    "CHECKS",
    "CONSTRAINT_TASKS",
    "DESCRIBED",
    "TIME_LIMIT",
    "AsyncCheck",
    "CalibratedCheck",
    "Calibration",
    "Check",
    "CodeCheck",
    "ConstraintCheck",
    "JudgeCheck",
    "PairwiseCheck",
    "RewardCheck",
    "RewardModel",
    "RoundCheck",
    "SchemaCheck",
    "ScoreModel",
    "StepReward",
    "apart",
    "as_check",
    "checked",
    "checked_together",
    "load_check",
    "register_check",
    "usable_examples",
]
