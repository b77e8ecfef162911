"""For tests of programs that use this library: a language model that follows a script."""

from __future__ import annotations

from pdr_dspy.testing.scripted import (
    Completion,
    Reply,
    ScriptedLM,
    ScriptedRequest,
    Served,
    count_words,
    cut_words,
    scripted_lm,
)

__all__ = [
    "Completion",
    "Reply",
    "ScriptedLM",
    "ScriptedRequest",
    "Served",
    "count_words",
    "cut_words",
    "scripted_lm",
]
