"""Measures a program's quality and cost: `evaluate` runs it over examples and resumes, `records` are the rows and the
report, `runner` runs one example, `executors` determine on which machine, `calibration` finds the threshold of a check,
and `statistics` has the intervals, clustered by question.
"""

from __future__ import annotations

from pdr_dspy.evaluation.calibration import Judged, acalibrate, calibrate, calibration_of, calibration_of_rows
from pdr_dspy.evaluation.evaluator import aevaluate, check_examples, describe, evaluate, ids_of
from pdr_dspy.evaluation.fingerprint import fingerprint
from pdr_dspy.evaluation.records import DraftRow, Report, RoundRow, Row, read_rows
from pdr_dspy.evaluation.runner import Runner, inputs_of
from pdr_dspy.evaluation.statistics import Interval, Paired, paired, score_interval

__all__ = [
    "DraftRow",
    "Interval",
    "Judged",
    "Paired",
    "Report",
    "RoundRow",
    "Row",
    "Runner",
    "acalibrate",
    "aevaluate",
    "calibrate",
    "calibration_of",
    "calibration_of_rows",
    "check_examples",
    "describe",
    "evaluate",
    "fingerprint",
    "ids_of",
    "inputs_of",
    "paired",
    "read_rows",
    "score_interval",
]
