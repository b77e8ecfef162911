"""How alike answers are whose texts differ: shared words and pairs of words.

The measure is Dice's coefficient over words and pairs of neighbouring words, the mean of both; linear in the length of
the texts. It needs no model, and no language: signs of Chinese, Japanese and Korean are words of their own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from pdr_dspy.operators.consensus import plain

_SIGNS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+|[^\w\s]")


class Shingles(NamedTuple):
    """A text as counts of what it consists of."""

    words: Counter[str]
    pairs: Counter[tuple[str, str]]


def shingles(outputs: Mapping[str, Any], fields: Sequence[str]) -> Shingles:
    """The words and pairs of words of the output fields, ignoring case; values other than text as JSON."""
    values = (outputs[name] for name in fields)
    text = "\n".join(value if isinstance(value, str) else json.dumps(value, default=plain) for value in values)
    words = _WORD.findall(text.casefold())
    return Shingles(Counter(words), Counter(pairwise(words)))


def likeness(first: Shingles, second: Shingles) -> float:
    """From 0, nothing in common, to 1, the same words in the same neighbourhood; of two empty texts 1.

    >>> a, b = (shingles({"answer": text}, ["answer"]) for text in ("the red fox", "the red dog"))
    >>> round(likeness(a, b), 3)
    0.583
    """
    return (_dice(first.words, second.words) + _dice(first.pairs, second.pairs)) / 2


def _dice(first: Counter[Any], second: Counter[Any]) -> float:
    total = first.total() + second.total()
    if not total:
        return 1.0
    few, many = sorted((first, second), key=len)
    return 2 * sum(min(count, many[part]) for part, count in few.items() if part in many) / total
