"""Verifiers: frozen values that score a prediction against an example, usable as DSPy metrics.

    ExactVerifier        the same text
    NumberVerifier       the same number, in any usual notation
    ChoiceVerifier       the same option of several
    MathVerifier         the same mathematical value
    ProceduralVerifier   reasoning-gym's own scorer
    JudgeVerifier        a model answers yes or no; its tokens are on the score
    AnswerVerifier       a model trained to compare an answer with the gold one (CompassVerifier's A, B, C)
    CodeVerifier         hidden tests of a program, run in a sandbox

    as_verifier          turns a function or a DSPy metric into a verifier

All but the last have settings for the example's gold field (`gold="answer"`) and the prediction's field
(`field="answer"`). `registry` finds verifiers by name, also those of users and of other packages; `Fields` is the base
class of verifiers that compare an answer with a gold one. `checks` has scores without a gold answer.
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
