"""Numbers in English words: `forty-two`, `two and a half`, `three quarters`, `a dozen`, `three point one four`.

An ordinal (`third`), a word that may be no number (`a couple`, `a score`) and words whose grouping is open (`a million
and a half`) name nothing.
"""

from __future__ import annotations

import re
from fractions import Fraction

from pdr_dspy.text.number_words import SCALES, unit_named


def _numbered(text: str, start: int, step: int) -> dict[str, int]:
    return {word: start + step * place for place, word in enumerate(text.split())}


_SMALL = _numbered(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen",
    0,
    1,
)
_TENS = _numbered("twenty thirty forty fifty sixty seventy eighty ninety", 20, 10)
NUMERALS = frozenset(_SMALL) | frozenset(_TENS)
_PARTS = {
    **{"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9},
    **{"tenth": 10, "eleventh": 11, "twelfth": 12, "hundredth": 100, "thousandth": 1000},
}
_SEVERAL = {"halves" if part == "half" else f"{part}s": size for part, size in _PARTS.items()}
_BEHIND = {name: SCALES[name] for name in ("dozen", "hundred", "thousand", "million", "billion", "trillion")}
"""Scales that a fraction may have: `half a million`, `two and a half thousand`, `a dozen`."""
_SIGN = ("minus", "negative")
_VOCABULARY = frozenset((*NUMERALS, *_PARTS, *_SEVERAL, *_BEHIND, *_SIGN, "a", "an", "and", "point"))
_MOST_WORDS = 40


def spelled(text: str) -> int | None:
    """The whole number that English words spell out (`minus forty-two`); None for any other text."""
    parts = text.lower().replace("-", " ").replace(",", " ").split()
    negative = bool(parts) and parts[0] in ("minus", "negative")
    parts = parts[1:] if negative else parts
    if not parts or len(parts) > _MOST_WORDS:
        return None
    total, group, last = 0, 0, ""
    ceiling = 10**30
    for place, word in enumerate(parts):
        if word == "and" and last in ("hundred", "thousand", "million") and place + 1 < len(parts):
            continue
        if word in ("a", "an") and place == 0 and len(parts) > 1 and parts[1] in SCALES:
            group, last = 1, "one"
            continue
        if word in _SMALL:
            if last in _SMALL or last in ("one",) or (last in _TENS and not 0 < _SMALL[word] < 10):
                return None
            group += _SMALL[word]
        elif word in _TENS:
            if last in _SMALL or last in _TENS:
                return None
            group += _TENS[word]
        elif word == "hundred" and 0 < group < 100 and last in (*_SMALL, *_TENS):
            group *= 100
        elif word in ("thousand", "million", "billion", "trillion") and 0 < group < 1000 and SCALES[word] < ceiling:
            total, group, ceiling = total + group * SCALES[word], 0, SCALES[word]
        else:
            return None
        last = word
    return -(total + group) if negative else total + group


def spelled_number(text: str) -> Fraction | None:
    """The number that English words spell out, with fractions and dozens; None for any other text."""
    return _number(text.lower().replace("-", " ").split())


_SPELLED = re.compile(r"(?i:[a-z]+)(?:[ -](?i:[a-z]+))*")
_COUNTED = re.compile(
    r"(?!times|pairs|couples|scores|sets\b)(?:[a-z]{2,20} )?(?:[a-z]{2,20}[^s\W]s|people|men|women|children)", re.I
)


def in_digits(text: str) -> str | None:
    """A text that consists of a number in words, alone or before a unit or a plural noun, with the number in digits:
    `two and a half hours` as `5/2 hours`. None for any other text: `one of them`, `three or four`, `the three`."""
    text = text.strip().rstrip(".")
    first = re.match(r"[A-Za-z]{1,9}(?![^\W_])", text)
    if first is None or first.group().lower() not in _VOCABULARY or len(text) > 400 or not _SPELLED.fullmatch(text):
        return None
    spans = list(re.finditer(r"[A-Za-z]+", text))
    known = next((place for place, word in enumerate(spans) if word.group().lower() not in _VOCABULARY), len(spans))
    value = _number([word.group().lower() for word in spans[:known]])
    if value is None:
        return None
    rest = text[spans[known].start() :] if known < len(spans) else ""
    if rest and unit_named(rest) is None:
        counted = _COUNTED.fullmatch(rest) and value.denominator == 1 and abs(value) != 1
        if not counted:
            return None
    return f"{value} {rest}".strip()


def _number(parts: list[str]) -> Fraction | None:
    if len(parts) > _MOST_WORDS:
        return None
    if parts and parts[0] in _SIGN:
        value = _unsigned(parts[1:])
        return None if value is None else -value
    return _unsigned(parts)


def _unsigned(parts: list[str]) -> Fraction | None:
    if not parts or parts[0] in _SIGN:
        return None
    if (whole := spelled(" ".join(parts))) is not None:
        return Fraction(whole)
    if len(parts) > 1 and parts[-1] in _BEHIND:  # `half a million`, `two and a half thousand`, `two dozen`
        factor = Fraction(1) if parts[:-1] == ["a"] else _below(parts[:-2] if parts[-2:-1] == ["a"] else parts[:-1])
        return None if factor is None else factor * _BEHIND[parts[-1]]
    return _below(parts)


def _below(parts: list[str]) -> Fraction | None:
    """A number without a scale behind it: whole, with a fraction, with decimals, or a fraction."""
    if "point" in parts:
        place = parts.index("point")
        whole = spelled(" ".join(parts[:place])) if place else 0
        digits = [_SMALL.get(word, 10) for word in parts[place + 1 :]]
        if whole is None or not digits or max(digits) > 9:
            return None
        return whole + Fraction(int("".join(map(str, digits))), 10 ** len(digits))
    if (part := _part(parts)) is not None:
        return part
    if "and" in parts and parts[-1] in (*_PARTS, *_SEVERAL):
        place = len(parts) - 1 - parts[::-1].index("and")
        whole, part = spelled(" ".join(parts[:place])), _part(parts[place + 1 :])
        scaled = place and parts[place - 1] in _BEHIND  # `a million and a half`: of one, or of a million
        return None if whole is None or part is None or scaled or part >= 1 else whole + part
    whole = spelled(" ".join(parts))
    return None if whole is None else Fraction(whole)


def _part(parts: list[str]) -> Fraction | None:
    """`half`, `a third`, `one quarter`, `two thirds`; `third` and `twenty thirds` are none."""
    if parts == ["half"]:
        return Fraction(1, 2)
    if len(parts) != 2:
        return None
    if parts[0] in ("a", "an", "one"):
        return Fraction(1, _PARTS[parts[1]]) if parts[1] in _PARTS else None
    many = _SMALL.get(parts[0], 0)
    return Fraction(many, _SEVERAL[parts[1]]) if many > 1 and parts[1] in _SEVERAL else None
