"""A model's verdict in one of a few words, with their probabilities; and quoting of texts for its prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from dspy.lm15 import TokenLogprob

from pdr_dspy.text.answers import MAX_ANSWER
from pdr_dspy.text.quoting import sheltered
from pdr_dspy.text.reasoning import solution_span, split_thought
from pdr_dspy.verifiers.fields import short

_AROUND = " \t\r\n*\"'`.,:;()[]▁ĠĊ"
"""Characters that a token may have around a word, including tokenizers' marks of spaces."""


def weights_of(logprobs: Sequence[TokenLogprob], text: str, words: Sequence[str]) -> dict[str, float]:
    """The probability of each of `words`, normalised to a sum of 1.

    It is taken from the log-probabilities at the first token that is one of the words, else at the first token that has
    one among its alternatives; without log-probabilities it is 1 for the first of the words in the text. Case is
    ignored except for single letters, and only whole words match: "As" is not "A".

    Raises ValueError if none of the words is found.
    """
    known = {_folded(word): word for word in words}
    _, solution, unfinished = split_thought(text)
    if unfinished:
        raise ValueError("it reached its cap inside its thought; raise `max_tokens`")
    span = solution_span("".join(token.token for token in logprobs))  # servers leave special tokens out of the text
    begins = 0
    first: dict[str, float] = {}
    for token in logprobs:
        here, begins = begins, begins + len(token.token)
        if span is None or not span[0] <= here < span[1]:
            continue
        found = _weights(token, known)
        if _folded(token.token) in known:
            return _shares(found, words)
        first = first or found
    if first:
        return _shares(first, words)
    word_found = next((found for word in re.findall(r"\w+", solution) if (found := known.get(_folded(word)))), None)
    if word_found is None:
        raise ValueError(f"it answered {short(solution)!r}, which is none of {', '.join(words)}")
    return {word: float(word == word_found) for word in words}


def _folded(token: str) -> str:
    """A token's word in lower case; a single letter keeps its case, since "a" may be an article."""
    word = token.strip(_AROUND)
    return word.lower() if len(word) > 1 else word


def _weights(token: TokenLogprob, known: Mapping[str, str]) -> dict[str, float]:
    """The probability of each of the words at a token, as far as the server reports it."""
    odds = {alternative.token: alternative.logprob for alternative in (*token.top, token)}
    found: dict[str, float] = {}
    for alternative, logprob in odds.items():
        word = known.get(_folded(alternative))
        if word is not None and not math.isnan(logprob):
            found[word] = found.get(word, 0.0) + math.exp(min(logprob, 0.0))
    return found


def _shares(found: Mapping[str, float], words: Sequence[str]) -> dict[str, float]:
    whole = sum(found.values())
    if whole <= 0:
        raise ValueError(f"it gives {', '.join(words)} no probability at all")
    return {word: found.get(word, 0.0) / whole for word in words}


def enclosed(text: str, tag: str, headings: Sequence[str] = ()) -> str:
    """A model's text between tags that it cannot close; only the end of a very long text. See `sheltered`."""
    spelled = re.sub(rf"<\s*/?\s*{re.escape(tag)}\s*>", f"[{tag}]", text.strip()[-MAX_ANSWER:], flags=re.I)
    return f"<{tag}>\n{sheltered(spelled, headings)}\n</{tag}>"
