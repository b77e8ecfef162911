"""Test support for users of the library: a scripted language model, and conformance checks in `conformance`."""

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
