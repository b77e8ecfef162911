"""Estimate of a text's tokens, for models whose tokens cannot be counted."""

from __future__ import annotations

import re


def estimate_tokens(text: str) -> int:
    """A deliberately high estimate for servers that cannot count: a token for each digit, sign and non-ASCII byte pair,
    one for each four letters of a word. `Call.estimated` marks its use."""
    words = sum((len(word) + 3) // 4 for word in re.findall(r"[A-Za-z]+", text))
    foreign = sum((len(run.encode("utf-8", "replace")) + 1) // 2 for run in re.findall(r"[^\x00-\x7f]+", text))
    signs = len(re.sub(r"[A-Za-z]+|[^\x00-\x7f]+|\s+", "", text))
    return words + foreign + signs + text.count("\n")
