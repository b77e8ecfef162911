"""Reading text, with no model in sight: what a completion states as its answer, which number or choice that is,
where a thought ends, how a text is quoted inside a prompt, what of it can be stored, and how many tokens it may have.
"""

from __future__ import annotations

from pdr_dspy.text.answers import MAX_ANSWER, MAX_DIGITS, final_answer, tidy, to_choice, to_number
from pdr_dspy.text.quoting import sheltered
from pdr_dspy.text.reasoning import solution_span, split_thought
from pdr_dspy.text.storable import clean
from pdr_dspy.text.token_estimate import estimate_tokens

__all__ = [
    "MAX_ANSWER",
    "MAX_DIGITS",
    "clean",
    "estimate_tokens",
    "final_answer",
    "sheltered",
    "solution_span",
    "split_thought",
    "tidy",
    "to_choice",
    "to_number",
]
