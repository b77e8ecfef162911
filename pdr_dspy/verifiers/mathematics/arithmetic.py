"""Exact arithmetic within bounds: no number grows beyond `MAX_BITS`, and what has no value is refused."""

from __future__ import annotations

import math
from typing import Any

import sympy
from sympy import Integer, Symbol

from pdr_dspy.verifiers.mathematics.tokens import Invalid, Unreadable

MAX_BITS = 400_000
"""Maximum bits of one number."""
MAX_FACTORIAL = 5_000
DEGREE = Symbol("degree sign", positive=True)
LOG_BASE = Symbol("base of log", positive=True)
r"""The base of a `\log` without one: ambiguous, 10 or e."""


class TooLarge(Exception):
    """A number that is too large to compute."""


def symbol(name: str) -> Any:
    """A variable; assumed to be real, like letters in answers."""
    return Symbol(name, real=True)


def checked(value: Any) -> Any:
    """The value; raises Unreadable for a division by zero."""
    if not isinstance(value, sympy.Expr) or value.has(sympy.nan, sympy.zoo):
        raise Invalid("no value")
    return value


def size(value: Any) -> int:
    """Bits of a rational number."""
    return int(value.p).bit_length() + int(value.q).bit_length()


def power(base: Any, exponent: Any) -> Any:
    """base^exponent, with real roots of odd degree. Raises TooLarge, Unreadable."""
    if isinstance(exponent, sympy.MatrixBase):
        raise Unreadable("a matrix as an exponent")
    if isinstance(base, sympy.MatrixBase):
        if not (base.is_square and exponent.is_Integer and abs(exponent) <= 64):
            raise Unreadable("a power of a matrix")
        return base**exponent
    if base.is_Rational and exponent.is_Rational:
        if base == 0 and exponent <= 0:
            raise Invalid("a power of 0")
        if exponent.is_Integer:
            if base not in (0, 1, -1) and abs(exponent) * max(size(base) - 1, 1) > MAX_BITS:
                raise TooLarge
        elif size(base) > 20_000 or size(exponent) > 64:
            raise TooLarge
        elif base < 0 and exponent.q % 2:  # the real root
            return (-1) ** exponent.p * power(-base, exponent)
    if exponent.is_Rational and size(exponent) > MAX_BITS:
        raise TooLarge
    if exponent.has(DEGREE):
        raise Unreadable("degrees in an exponent")
    return base**exponent


def added(value: Any, other: Any, sign: int) -> Any:
    """A sum or difference. Raises Unreadable for a matrix and anything of another shape."""
    matrices = [isinstance(one, sympy.MatrixBase) for one in (value, other)]
    if any(matrices) and not (all(matrices) and value.shape == other.shape):
        raise Unreadable("a sum with a matrix")
    return value + other if sign > 0 else value - other


def times(value: Any, other: Any) -> Any:
    """A product. Raises Unreadable, TooLarge."""
    if isinstance(value, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase):
        if value.cols != other.rows:
            raise Unreadable("a product of matrices")
        return value * other
    numbers = all(not isinstance(one, sympy.MatrixBase) and one.is_Rational for one in (value, other))
    if numbers and size(value) + size(other) > MAX_BITS:
        raise TooLarge
    return value * other


def over(value: Any, other: Any) -> Any:
    """A quotient. Raises Invalid for a division by zero."""
    if isinstance(other, sympy.MatrixBase) or other == 0:
        raise Invalid("no division")
    return value / other


def factorial(value: Any, *, double: bool) -> Any:
    """value! or value!!. Raises Unreadable, TooLarge."""
    if isinstance(value, sympy.MatrixBase):
        raise Unreadable("a factorial of a matrix")
    if value.is_number and not (value.is_Integer and value >= 0):
        raise Unreadable("a factorial")
    if value.is_Integer and value > MAX_FACTORIAL:
        raise TooLarge
    return sympy.factorial2(value) if double else sympy.factorial(value)


def binomial(upper: Any, lower: Any) -> Any:
    """The binomial coefficient. Raises TooLarge."""
    if upper.is_Integer and lower.is_Integer:
        small = min(abs(lower), abs(upper - lower))
        if small * max(int(abs(upper)).bit_length(), 1) > MAX_BITS:
            raise TooLarge
    return sympy.binomial(upper, lower)


def arrangements(upper: Any, lower: Any) -> Any:
    """The number of ordered choices without repetition."""
    if not (upper.is_Integer and lower.is_Integer):
        return sympy.factorial(upper) / sympy.factorial(upper - lower)
    if not 0 <= lower <= upper:
        raise Unreadable("arrangements")
    if lower * max(int(upper).bit_length(), 1) > MAX_BITS:
        raise TooLarge
    return Integer(math.perm(int(upper), int(lower)))


def scalar(value: Any) -> Any:
    """The value; raises Unreadable for a matrix and for degrees."""
    if isinstance(value, sympy.MatrixBase) or value.has(DEGREE):
        raise Unreadable("no number")
    return value


def without_matrix(value: Any) -> Any:
    """The value; raises Unreadable for a matrix."""
    if isinstance(value, sympy.MatrixBase):
        raise Unreadable("a function of a matrix")
    return value


def determinant(value: Any) -> Any:
    """The determinant of a matrix of moderate size. Raises Unreadable."""
    numbers = all(cell.is_Rational for cell in value)
    if not value.is_square or value.rows > (20 if numbers else 5):
        raise Unreadable("a determinant")
    return value.det(method="bareiss" if numbers else "berkowitz")
