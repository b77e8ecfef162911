"""When a decimal counts as an exact value. Plain fractions, no sympy."""

from __future__ import annotations

from fractions import Fraction

RELATIVE = 100_000
"""A decimal counts as a value without a finite decimal if it is right to one part in this many."""
_DIGITS = 6
"""Minimum significant digits of a decimal that counts as a longer finite one."""


def rounded_to(want: Fraction, have: Fraction) -> bool:
    """Whether `have` is the finite decimal `want`, rounded to at least six significant digits."""
    if want.denominator == 1 or have == 0 or abs(want - have) * RELATIVE > abs(want):
        return False
    digits = places(have)
    if digits is None or len(str(abs(have * 10**digits))) < _DIGITS:
        return False
    return abs(want - have) * 2 * 10**digits <= 1


def places(value: Fraction) -> int | None:
    """Digits after the point of a finite decimal; None if it is infinite."""
    rest, found = value.denominator, 0
    while rest % 10 == 0:
        rest, found = rest // 10, found + 1
    while rest % 2 == 0 or rest % 5 == 0:
        rest, found = rest // (2 if rest % 2 == 0 else 5), found + 1
    return found if rest == 1 else None


def is_finite(value: Fraction) -> bool:
    """Whether a fraction has a finite decimal."""
    return places(value) is not None
