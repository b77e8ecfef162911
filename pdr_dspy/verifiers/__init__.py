"""Verifiers: frozen values that score a prediction against an example, usable as DSPy metrics.

    ExactVerifier        the same text
    NumberVerifier       the same number, as a person reads it
    ChoiceVerifier       the same one of several options
    MathVerifier         the same mathematical value
    ProceduralVerifier   reasoning-gym's own scorer
    JudgeVerifier        a model says yes or no; its tokens are on the score
    AnswerVerifier       a model trained to hold an answer against the gold one (CompassVerifier's A, B, C)
    CodeVerifier         hidden tests of a program, run in a sandbox

    as_verifier          a plain function, or a DSPy metric, as one

All but the last name the example's gold field (`gold="answer"`) and the prediction's field (`field="answer"`).
`registry` finds them by name, those of users and of other packages too; `Fields` is the base of one that compares an
answer with a gold one. What needs no gold answer is in `checks`.
"""

from __future__ import annotations

from pdr_dspy.verifiers.answer import AnswerVerifier
from pdr_dspy.verifiers.base import RIGHT, Metric, Score, Verifier
from pdr_dspy.verifiers.choice import ChoiceVerifier
from pdr_dspy.verifiers.code import CodeVerifier
from pdr_dspy.verifiers.exact import ExactVerifier
from pdr_dspy.verifiers.fields import Fields, answer_text, gold_text
from pdr_dspy.verifiers.function import AsyncFunctionVerifier, FunctionVerifier, as_verifier, try_on_gold
from pdr_dspy.verifiers.judge import JudgeVerifier
from pdr_dspy.verifiers.math import MathVerifier
from pdr_dspy.verifiers.number import NumberVerifier
from pdr_dspy.verifiers.procedural import ProceduralVerifier
from pdr_dspy.verifiers.registry import VERIFIERS, load_verifier, verifier

__all__ = [
    "RIGHT",
    "VERIFIERS",
    "AnswerVerifier",
    "AsyncFunctionVerifier",
    "ChoiceVerifier",
    "CodeVerifier",
    "ExactVerifier",
    "Fields",
    "FunctionVerifier",
    "JudgeVerifier",
    "MathVerifier",
    "Metric",
    "NumberVerifier",
    "ProceduralVerifier",
    "Score",
    "Verifier",
    "answer_text",
    "as_verifier",
    "gold_text",
    "load_verifier",
    "try_on_gold",
    "verifier",
]
