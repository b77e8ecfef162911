"""A model's verdict in one of a few words, with how likely it finds each; and what it is shown, quoted as data."""

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
"""What may stand around a word in a token, spaces as tokenizers write them included."""


def weights_of(logprobs: Sequence[TokenLogprob], text: str, words: Sequence[str]) -> dict[str, float]:
    """How likely a model finds each of `words`, of all of them together.

    By the log-probabilities at the first token that is one of the words, else at the first that has one of them among
    its alternatives; without log-probabilities, 1 for the first of the words in its text. Case
    does not matter but for a single letter; a word is known by its whole, so that "A" is not found in "As".

    Raises ValueError, in a sentence, where none of the words is found.
    """
    known = {_folded(word): word for word in words}
    _, solution, unfinished = split_thought(text)
    if unfinished:
        raise ValueError("its cap ended it inside its thought; raise `max_tokens`")
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
    said = next((found for word in re.findall(r"\w+", solution) if (found := known.get(_folded(word)))), None)
    if said is None:
        raise ValueError(f"it said {short(solution)!r}, which is none of {', '.join(words)}")
    return {word: float(word == said) for word in words}


def _folded(token: str) -> str:
    """A token as the word that it is: in any case, but for a letter, which as a small one may be an article."""
    word = token.strip(_AROUND)
    return word.lower() if len(word) > 1 else word


def _weights(token: TokenLogprob, known: Mapping[str, str]) -> dict[str, float]:
    """The probability of each of the words at a token, as far as the server tells it."""
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
    """What a model wrote, between tags that it cannot close, the end of it where it is very long; see `sheltered`."""
    spelled = re.sub(rf"<\s*/?\s*{re.escape(tag)}\s*>", f"[{tag}]", text.strip()[-MAX_ANSWER:], flags=re.I)
    return f"<{tag}>\n{sheltered(spelled, headings)}\n</{tag}>"
