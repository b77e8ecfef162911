"""The value of plain arithmetic in a text, as stands on one side of an equation: `3 * $5 + 2 eggs`. No more than sixty
numbers and signs; linear time."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,3}(?: [0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
"""Matches a number without a sign: `1,234.5`, `1 234`, `.5`."""


_TOKEN = re.compile(rf"\s*(?:({DECIMAL})|([()+*/×^-])|(x)(?=\s?\(?[0-9.$])|([A-Za-z%][A-Za-z.]*))")


def evaluated(side: str, is_unit: Callable[[str], bool]) -> Fraction | None:
    """The value of plain arithmetic (`3 * $5 + 2 eggs`): numbers, + - * / ^ and parentheses; None for anything else.

    Args:
        side: the text, with plain signs.
        is_unit: whether a word behind a number leaves it its value; such words are ignored.
    """
    if len(side) > 300:
        return None
    tokens: list[Fraction | str] = []
    position = 0
    while position < len(side.rstrip()):
        token = _TOKEN.match(side, position)
        if token is None or len(tokens) > 60:
            return None
        position = token.end()
        if token[1]:
            if tokens and isinstance(tokens[-1], Fraction):
                return None
            tokens.append(Fraction(token[1].replace(",", "").replace(" ", "").rstrip(".")))
        elif token[2] or token[3]:
            tokens.append("*" if token[3] or token[2] == "×" else token[2])
        elif not (tokens and isinstance(tokens[-1], Fraction) and len(token[4]) > 1 and is_unit(token[4])):
            return None
    try:
        value, rest = _sum(tokens, 0)
    except (IndexError, ZeroDivisionError):
        return None
    return value if value is not None and rest == len(tokens) else None


def _sum(tokens: list[Fraction | str], place: int) -> tuple[Fraction | None, int]:
    value, place = _product(tokens, place)
    while value is not None and place < len(tokens) and tokens[place] in ("+", "-"):
        sign = tokens[place]
        other, place = _product(tokens, place + 1)
        value = None if other is None else value + other if sign == "+" else value - other
    return value, place


def _product(tokens: list[Fraction | str], place: int) -> tuple[Fraction | None, int]:
    value, place = _power(tokens, place)
    while value is not None and place < len(tokens) and tokens[place] in ("*", "/"):
        sign = tokens[place]
        other, place = _power(tokens, place + 1)
        value = None if other is None else value * other if sign == "*" else value / other
    return value, place


def _power(tokens: list[Fraction | str], place: int) -> tuple[Fraction | None, int]:
    value, place = _factor(tokens, place)
    if value is not None and place < len(tokens) and tokens[place] == "^":
        power, place = _factor(tokens, place + 1)
        small = power is not None and power.denominator == 1 and abs(power) <= 64 and (value or power > 0)
        if not small or tokens[place - 2] == "-" or (place < len(tokens) and tokens[place] == "^"):
            return None, place
        assert power is not None
        value = value ** int(power)
    return value, place


def _factor(tokens: list[Fraction | str], place: int) -> tuple[Fraction | None, int]:
    token = tokens[place]
    if isinstance(token, Fraction):
        return token, place + 1
    if token == "-":
        value, place = _power(tokens, place + 1)
        return (None if value is None else -value), place
    if token == "(":
        value, place = _sum(tokens, place + 1)
        return (value, place + 1) if tokens[place] == ")" else (None, place)
    return None, place
