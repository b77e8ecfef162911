"""Values that are no structures: numbers, and one of several options."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Literal, cast, get_args, get_origin

from pdr_dspy.prompts.shapes import members
from pdr_dspy.text.answers import final_answer, to_number
from pdr_dspy.text.choice_forms import set_right
from pdr_dspy.text.choices import to_choice
from pdr_dspy.text.polarity import polar
from pdr_dspy.text.remarks import MAX_REMARK, remarked
from pdr_dspy.text.signal_words import DOUBTS
from pdr_dspy.text.template import before_token
from pdr_dspy.text.wrapping import block

_YES = ("yes", "true")
_BOOL = (*_YES, "no", "false")


def is_text(kind: Any) -> bool:
    """Whether a field is free text: its value is the whole text written for it."""
    return kind is str or (is_simple(kind) and str in members(kind))


def is_simple(kind: Any) -> bool:
    """Whether a value is not a structure: a text, a number, one of several options, or a union of these."""
    union = members(kind)
    if len(union) > 1:
        return all(map(is_simple, union))
    return kind in (str, int, float, bool) or options_of(kind) is not None


def options_of(kind: Any) -> dict[str, Any] | None:
    """The allowed values of a field, by their spelling; None if they are not enumerated."""
    if kind is bool:
        return {word: word in _YES for word in _BOOL}
    if get_origin(kind) is Literal:
        return {str(option): option for option in get_args(kind)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {str(member.value): member for member in kind}
    return None


def contests(text: str, kind: Any) -> bool:
    """Whether an unreadable statement still proposes values, as `17 or 204` does: then no earlier statement counts."""
    options = options_of(kind)
    if options is not None:
        lowered = text.casefold()
        return len(text) <= 2000 and any(
            re.search(rf"(?<!\w){re.escape(option.casefold())}(?!\w)", lowered) for option in options if option
        )
    return kind is not str and any(sign.isdigit() for sign in text[:2000])


_MARKS = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
"""Invisible characters: soft hyphens, zero widths, directions of writing."""


def has_marks(text: str) -> bool:
    """Whether a text has invisible characters."""
    return not text.isascii() and _MARKS.search(text) is not None


def without_marks(text: str) -> str:
    """The text without invisible characters."""
    return text if text.isascii() else _MARKS.sub("", text)


def simple_value(text: str, kind: Any) -> Any:
    """A number or an option: the first one in the lines of a text, or in the statements inside it."""
    for candidate in _candidates(text):
        value = one_value(candidate, kind)
        if value is not None:
            return value
        if contests(candidate, kind) and "\n" not in text:
            break
    found = final_answer(text) if len(text) > 3 and _STATES.search(text) else None
    return None if found is None else one_value(found, kind)


_RETRACTED = re.compile(r"~~[^~\n]{1,400}~~|<(del|s|strike)>[^<>\n]{1,400}</\1>|\\(?:cancel|sout|st)\{[^{}\n]{1,400}\}")
"""Text that a model has struck through."""


_MARKED = re.compile(r"[ \t]*(?:[✓✔✅☑🎉]\ufe0f?|[│┃║|])[ \t]*$")
"""A check mark after a value, or the frame around it."""
_ITEM = re.compile(r"\n[ \t]*(?:[*•·▪●]|>)[ \t]+")


_STATES = re.compile(r"[:：=\\<|\n]|(?<=\s)(?:is|ist|est|es|é|è|=)\s|[^\x00-\u024f]", re.IGNORECASE)
"""A text without any of these contains no other candidate."""


def _candidates(text: str) -> list[str]:
    if text.startswith("\n"):
        text = _ITEM.sub("", text, count=1)
        if re.match(r"\n[ \t]*-[ \t]+[0-9]", text):
            return []  # minus 42 or an item?
    text = copied(_MARKED.sub("", _RETRACTED.sub("", text)))
    if "\n" not in text:
        return [before_token(text)]
    held = block(text, 0, len(text))
    return [] if held is None else [before_token(copied(held.text))]


def copied(text: str) -> str:
    """The content of brackets copied from the form, or of an element around the value."""
    text = text.strip()
    wrapped = re.fullmatch(r"[*_`$]*<(?:(\w+)(?:\s[^<>]*)?>(.*)</\1\s?>|([^<>/][^<>]*)>)[*_`$.]*", text, re.DOTALL)
    if wrapped:
        return (wrapped[2] or wrapped[3] or "").strip()
    if text.endswith((">", ">.", "*")) and (stray := _STRAY.search(text)) and "<" not in text[: stray.start()]:
        return text[: stray.start()].strip()
    return text


_STRAY = re.compile(r"</[a-zA-Z_]{1,20}>[ \t*_.]*$")
"""A closing tag that was never opened."""
_REASON = re.compile(
    r"(?:[,;]|\s[-–—|])?\s{0,3}(?:\(\s?)?(?:because|since|as (?:we|it|the|shown|required)|which|confidence|check(?:ed)?"
    r"|verified|explanation|reason|i\.e\.)\b|<br\s?/?>\s*$",
    re.IGNORECASE,
)
"""A comment after a number: `42, because 6*7 = 42`, `42 | Confidence: 90%`."""
_DOUBT = re.compile(rf"\b(?:not|{DOUBTS})\b|n['’]t\b", re.I)


def one_value(text: str, kind: Any) -> Any:
    """The number or the option that is the whole of a text, with its wrapping or a remark; None for any other text."""
    if kind in (int, float):
        number = to_number(text)
        if number is None and (reason := _REASON.search(text)) and not _DOUBT.search(text, reason.start()):
            number = to_number(text[: reason.start()])
        if number is None and len(text) <= MAX_REMARK:
            number = set_right(text, to_number) or remarked(text, to_number)
        if number is None:
            return None
        if kind is int:
            return int(number) if number.denominator == 1 else None
        try:
            return float(number)
        except OverflowError:  # beyond 1.8e308
            return None
    options = cast("dict[str, Any]", options_of(kind))
    choice = to_choice(text, list(options)) or polar(text, list(options))
    if choice is None and isinstance(kind, type) and issubclass(kind, Enum):  # DSPy accepts a member's name too
        names = dict(kind.__members__)
        choice = to_choice(text, list(names))
        return None if choice is None else names[choice]
    return None if choice is None else options[choice]
