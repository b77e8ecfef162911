r"""Values with a label before them: an option with its value (`\textbf{(D)}\ 12`), a named point (`vertex (2, 3)`).

It runs where the verifier runs, since it takes linear time and evaluates nothing.
"""

from __future__ import annotations

import re

from pdr_dspy.text.answers import tidy

_UPRIGHT = r"\\(?:textbf|textrm|text|mathbf|mathrm|mbox|bf|rm)\s?"
_SPACE = r"(?:\s|~|\\[ ,;:!]|\\q?quad(?![A-Za-z])|\\hspace\{[^{}]{0,9}\})*"
_OPTION = re.compile(
    rf"(?:{_UPRIGHT}\{{\s?\(?(?P<one>[A-J])\)?[.:]?\s?\}}|\((?P<two>[A-J])\)(?=[\s~\\]|$)|(?P<three>[A-J])[).:](?=\s|$)"
    rf"|{_UPRIGHT}(?P<four>\([A-J]\))){_SPACE}(?P<value>.*)",
    re.S,
)
_LETTER = re.compile(rf"(?:{_UPRIGHT}\{{\s?)?\(?(?P<letter>[A-J])\)?\.?(?:\s?\}})?")


def option_with_value(gold: str) -> tuple[str, str] | None:
    r"""The letter and the value of a gold answer that states both (`\textbf{(D)}\ 12`); None for any other."""
    text = gold.strip().strip("$").strip()
    found = _OPTION.fullmatch(text)
    if found is None or found["three"]:
        return None
    if found["two"] and not re.match(r"\([A-J]\)[\s~]*\\?[\s~]*[-$0-9\\]", text):
        return None
    value = found["value"].strip(" .$")
    upright_only = re.match(rf"{_UPRIGHT}\{{\s?[A-J]\s?\}}", text)  # a matrix `\mathbf{A}` times 2
    return (_letter(found), value) if value and not upright_only else None


def answer_to_option(answer: str) -> tuple[str, str | None] | None:
    """The letter of the option that an answer names, and the value behind it; None if it names no option."""
    text = tidy(answer)
    if alone := _LETTER.fullmatch(text):
        return alone["letter"], None
    found = _OPTION.fullmatch(text)
    return None if found is None else (_letter(found), found["value"].strip(" .$") or None)


def _letter(found: re.Match[str]) -> str:
    return (found["one"] or found["two"] or found["three"] or found["four"]).strip("()")


_POINT = (
    r"(?:vertex|cent(?:er|re)|focus|mid-?point|point|intersection(?: point)?|point of intersection|coordinates?"
    r"|centroid|ordered (?:pair|triple)|solution|circumcent(?:er|re)|incent(?:er|re)|orthocent(?:er|re)"
    r"|turning point|origin|(?:open |closed |half-open )?interval|domain|range|vector)"
)
_POINT_NAMED = re.compile(
    rf"(?:{_UPRIGHT}\{{)?\s*(?:(?:the|its|a|an|at)\s(?:the\s)?)?{_POINT}(?:\s(?:is|are|at))?(?:\s(?:the\s)?point)?\s?:?"
    rf"\s*\}}?\s*:?{_SPACE}\$?(?P<value>(?:\\left\s?)?[(\[].*)",
    re.I | re.S,
)


def without_name(answer: str) -> str:
    r"""A point or an interval without its name: `\text{vertex } (2, -3)` as `(2, -3)`; any other answer unchanged."""
    found = _POINT_NAMED.fullmatch(answer.strip()) if len(answer) < 400 else None
    return found["value"].rstrip("$. ") if found else answer
