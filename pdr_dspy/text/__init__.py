"""Parsing and quoting of text, without any model: the answers stated in a completion and their wording, the number or
choice that an answer names, the end of a thought, the programs in a completion, quoting of a text inside a prompt,
removal of characters that cannot be stored, and an estimate of tokens.
"""

from __future__ import annotations

from pdr_dspy.text.answers import MAX_ANSWER, MAX_DIGITS, final_answer, to_number
from pdr_dspy.text.choices import to_choice
from pdr_dspy.text.code import programs
from pdr_dspy.text.quoting import sheltered
from pdr_dspy.text.reasoning import solution_span, split_thought
from pdr_dspy.text.statements import How, Sought, Statement, statements
from pdr_dspy.text.storable import clean
from pdr_dspy.text.task_examples import CodeExample, code_examples
from pdr_dspy.text.template import before_token, without_template
from pdr_dspy.text.token_estimate import estimate_tokens
from pdr_dspy.text.wrapping import block, boxes, tidy

__all__ = [
    "MAX_ANSWER",
    "MAX_DIGITS",
    "CodeExample",
    "How",
    "Sought",
    "Statement",
    "before_token",
    "block",
    "boxes",
    "clean",
    "code_examples",
    "estimate_tokens",
    "final_answer",
    "programs",
    "sheltered",
    "solution_span",
    "split_thought",
    "statements",
    "tidy",
    "to_choice",
    "to_number",
    "without_template",
]
