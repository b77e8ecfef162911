r"""Answers compared as written, for a gold answer that is no mathematics of the grammar (`\text{up }5`).

Two texts are the same if their tokens are: spacing, fonts and spelling of LaTeX and the case of words do not count.
"""

from __future__ import annotations

import re

from pdr_dspy.verifiers.mathematics.cleaning import clean
from pdr_dspy.verifiers.mathematics.lexer import tokenise
from pdr_dspy.verifiers.mathematics.tokens import Unreadable

MAX_LENGTH = 120
"""Characters of a gold answer that may be compared as written; a longer one is never repeated letter by letter."""
_PIECE = re.compile(r"\\[A-Za-z]+|\\.|[^\W\d_]+|[0-9]+(?:\.[0-9]+)?|\S", re.S)
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|left|right|quad|displaystyle)(?![A-Za-z])"
)
_CLOSING = {")": "([", "]": "([", "}": "{"}


def form(text: str) -> tuple[str, ...]:
    """The pieces of a text by which it is compared."""
    try:
        tokens = tokenise(clean(text))
    except Unreadable:
        return tuple(map(_folded, _PIECE.findall(re.sub(r"\\[,;:! ]|[{}$~]", " ", _WRAPPER.sub(" ", text)))))
    pieces: list[str] = []
    for token in tokens:
        if token.kind == "text":
            pieces += map(_folded, _PIECE.findall(token.text))
        elif token.text not in ("{", "}"):
            pieces.append(token.text)
    while len(pieces) > 1 and pieces[0] in ("a", "an", "the"):
        pieces = pieces[1:]
    return tuple(piece for piece in pieces if piece != ".")


def _folded(word: str) -> str:
    return word.casefold() if len(word) > 1 and not word.startswith("\\") and not word.isupper() else word


def is_comparable(text: str) -> bool:
    """Whether a gold answer is short and complete: all of its brackets are closed, and it says something."""
    if len(text) > MAX_LENGTH or not re.search(r"[^\W_]", text) or text.endswith("\\"):
        return False
    stack: list[str] = []
    for sign in re.sub(r"\\left\s?\.|\\right\s?\.", "", text):
        if sign in "([{":
            stack.append(sign)
        elif sign in _CLOSING and (not stack or stack.pop() not in _CLOSING[sign]):
            return False
    return not stack
