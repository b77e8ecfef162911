"""Exact equality of two expressions.

Rational numbers are compared exactly, rational functions by their values modulo large primes drawn at the start of the
process, all others by their values to many more digits than their numbers have, so that `(2^1000+1) sin x` is not
`2^1000 sin x`. Letters take values of both signs at which all roots and logarithms are real.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import sympy
from mpmath import mp
from mpmath.libmp import NoConvergence
from sympy.core.function import AppliedUndef

from pdr_dspy.verifiers.mathematics.arithmetic import LOG_BASE, TooLarge
from pdr_dspy.verifiers.mathematics.decimals import RELATIVE, is_finite, rounded_to

_MOST_DIGITS = 40_000
_POINTS = 8
_MANY_POINTS = 24
_TURNS = 48
_PRIMES = tuple(sympy.nextprime(secrets.randbits(200) | 1 << 200) for _ in range(2))


_PIECEWISE = (sympy.Abs, sympy.sign, sympy.Max, sympy.Min, sympy.floor, sympy.ceiling)


class _Undefined(Exception):
    """No value at this point."""


def same(first: Any, second: Any) -> bool:
    """Whether two expressions have equal values for all values of their letters. Raises TooLarge."""
    if first == second:
        return True
    if isinstance(first, sympy.MatrixBase) or isinstance(second, sympy.MatrixBase):
        both = isinstance(first, sympy.MatrixBase) and isinstance(second, sympy.MatrixBase)
        return (
            both
            and first.shape == second.shape
            and all(same(*pair) for pair in zip(first.flat(), second.flat(), strict=True))
        )
    if first.is_Rational and second.is_Rational:
        return False
    if any(one.is_infinite for one in (first, second)):
        return False
    if LOG_BASE in first.free_symbols | second.free_symbols:
        bases = (sympy.Integer(10), sympy.E)
        return any(_same(first.subs(LOG_BASE, base), second.subs(LOG_BASE, base)) for base in bases)
    return _same(first, second)


def _same(first: Any, second: Any) -> bool:
    if first == second:
        return True
    if _is_rational_function(first) and _is_rational_function(second):
        return _same_modulo_primes(first, second)
    return _same_to_many_digits(first, second)


def vanishes(expression: Any) -> bool:
    """Whether an expression is 0 for all values of its letters."""
    return same(expression, sympy.Integer(0))


def close(exact: Any, decimal: Any) -> bool:
    """Whether a decimal counts as an exact value: the rule of decimals.

    A value without a finite decimal (1/3, pi) needs a decimal that is right to one part in `RELATIVE`. A finite decimal
    equals only itself, or itself rounded to six or more significant digits; a whole number equals only itself.
    """
    if exact == decimal:
        return True
    if not (exact.is_number and exact.is_real and decimal.is_Rational) or exact.is_Integer or exact == 0:
        return False
    if not (exact.is_Rational and is_finite_decimal(exact)):
        with mp.workdps(40):
            want = _Values({}, 40).at(exact)
            off = abs(want - mp.mpf(int(decimal.p)) / int(decimal.q))
            return bool(off * RELATIVE <= abs(want) * (1 + mp.mpf(10) ** -25))
    want, have = Fraction(int(exact.p), int(exact.q)), Fraction(int(decimal.p), int(decimal.q))
    return rounded_to(want, have)


def is_finite_decimal(value: Any) -> bool:
    """Whether a rational number has a finite decimal."""
    return is_finite(Fraction(1, int(value.q)))


def proportional(first: Any, second: Any, *, positive: bool) -> bool:
    """Whether two expressions differ by a non-zero constant factor, which must be above 0 if `positive`."""
    letters = sorted(first.free_symbols | second.free_symbols, key=str)
    if not letters or first.free_symbols != second.free_symbols:
        return False
    if first.atoms(sympy.core.function.AppliedUndef) or second.atoms(sympy.core.function.AppliedUndef):
        return same(first, second) or (not positive and same(first, -second))
    if not positive:
        first, second = (sympy.fraction(sympy.together(one))[0] for one in (first, second))
    for start in (3, 5, 11):
        point = {letter: sympy.Rational(start + 2 * place, 7 + place) for place, letter in enumerate(letters)}
        up, down = first.subs(point), second.subs(point)
        if not (up.is_number and down.is_number) or up.has(sympy.nan, sympy.zoo) or down.has(sympy.nan, sympy.zoo):
            continue
        if same(up, sympy.Integer(0)) or same(down, sympy.Integer(0)):
            continue
        factor = up / down
        if not factor.is_real or (positive and not factor.evalf(30) > 0):
            return False
        return same(first, factor * second)
    return False


# ------------------------------------------------------------------------------------------------ modulo large primes


def _is_rational_function(value: Any) -> bool:
    if value.is_Symbol or value.is_Rational:
        return True
    if value.is_Add or value.is_Mul:
        return all(_is_rational_function(part) for part in value.args)
    return bool(value.is_Pow and value.exp.is_Integer and _is_rational_function(value.base))


def _same_modulo_primes(first: Any, second: Any) -> bool:
    letters = sorted(first.free_symbols | second.free_symbols, key=str)
    seen = 0
    for prime in _PRIMES * 4:
        point = {letter: secrets.randbelow(prime - 2) + 2 for letter in letters}
        try:
            if (_modulo(first, point, prime) - _modulo(second, point, prime)) % prime:
                return False
        except ZeroDivisionError:
            continue
        seen += 1
        if seen == 3:
            return True
    return False


def _modulo(value: Any, point: dict[Any, int], prime: int) -> int:
    if value.is_Symbol:
        return point[value]
    if value.is_Rational:
        return int(value.p) * _inverse(int(value.q), prime) % prime
    if value.is_Pow:
        base, exponent = _modulo(value.base, point, prime), int(value.exp)
        return pow(base, exponent, prime) if exponent >= 0 else pow(_inverse(base, prime), -exponent, prime)
    parts = [_modulo(part, point, prime) for part in value.args]
    if value.is_Add:
        return sum(parts) % prime
    product = 1
    for part in parts:
        product = product * part % prime
    return product


def _inverse(value: int, prime: int) -> int:
    if value % prime == 0:
        raise ZeroDivisionError
    return pow(value, -1, prime)


# ------------------------------------------------------------------------------------------------------ to many digits


def _digits_of(value: Any) -> int:
    """How many digits the numbers of an expression have, including its powers of numbers."""
    digits = 0
    part: Any
    for part in sympy.preorder_traversal(value):
        if part.is_Rational:
            digits += (int(part.p).bit_length() + int(part.q).bit_length()) // 3
        elif part.is_Pow and part.exp.is_Integer:
            digits += min(int(abs(part.exp)), _MOST_DIGITS)
    return digits


def _same_to_many_digits(first: Any, second: Any) -> bool:
    digits = 100 + 2 * (_digits_of(first) + _digits_of(second))
    if digits > _MOST_DIGITS:
        raise TooLarge
    letters = sorted(first.free_symbols | second.free_symbols, key=str)
    complex_letters = any(value.has(sympy.I) for value in (first, second))
    with mp.workdps(digits + 30):
        if not letters:
            values = _Values({}, digits)
            try:
                return _near(values, values.at(first), values.at(second), digits)
            except _Undefined:
                return False
        seen = dubious = 0
        signs = set()
        enough = _MANY_POINTS if first.has(*_PIECEWISE) or second.has(*_PIECEWISE) else _POINTS
        for point in _points(letters):
            values = _Values(point, digits)
            try:
                near = _near(values, values.at(first), values.at(second), digits)
            except _Undefined:
                continue
            if values.real or complex_letters:
                if not near:
                    return False
                seen += 1
                signs.add(tuple(value > 0 for value in point.values()))
            else:
                dubious += near if near else -100
            if seen >= enough and len(signs) > 1:
                return True
        return seen > 2 or (seen == 0 and dubious > 2)


def _near(values: _Values, first: Any, second: Any, digits: int) -> bool:
    scale = max(values.scale, abs(first), abs(second))
    if not mp.isfinite(first) or not mp.isfinite(second):
        raise _Undefined
    small = mp.mpf(10) ** (-(digits // 2))
    largest = max(abs(first), abs(second))
    difference = abs(first - second)
    return bool(
        difference == 0 or difference <= small * largest or (difference <= small * scale and largest <= small * scale)
    )


def _points(letters: list[Any]) -> Iterator[dict[Any, Any]]:
    """Values for the letters: all negative, all positive, of mixed signs, above 1."""
    draw = random.Random(20_251_003)
    for turn in range(_TURNS):
        point = {}
        for place, letter in enumerate(letters):
            value = mp.mpf(draw.randint(1, 9_999)) / draw.choice((997, 1009, 2003, 10_007, 50_021))
            signs = (True, False, place % 2 == 0, False, place % 2 == 1, False, draw.random() < 0.5, False)
            value += turn % 4 == 3
            negative = signs[turn] if turn < len(signs) else draw.random() < 0.5
            point[letter] = -value if negative and not letter.is_positive else value
        yield point


class _Values:
    """Values of expressions at one point; records whether all were real, and the largest intermediate sum."""

    def __init__(self, point: dict[Any, Any], digits: int) -> None:
        self.point, self.digits = point, digits
        self.real = True
        self.scale: Any = mp.mpf(0)
        self.known: dict[Any, Any] = {}

    def at(self, value: Any) -> Any:
        found = self.known.get(value)
        if found is None:
            try:
                found = self._at(value)
            except (ZeroDivisionError, ValueError, OverflowError, NoConvergence) as error:
                raise _Undefined from error
            self.known[value] = found
        return found

    def _at(self, value: Any) -> Any:
        if value.is_Symbol:
            return self.point[value]
        if value.is_Rational:
            return mp.mpf(int(value.p)) / int(value.q)
        if value is sympy.pi:
            return +mp.pi
        if value is sympy.E:
            return +mp.e
        if value is sympy.I:
            return mp.mpc(0, 1)
        if value.is_Add:
            parts = [self.at(part) for part in value.args]
            self.scale = max([self.scale, *map(abs, parts)])
            return mp.fsum(parts)
        if value.is_Mul:
            return mp.fprod(self.at(part) for part in value.args)
        if value.is_Pow:
            return self._power(self.at(value.base), value.exp)
        if isinstance(value, AppliedUndef):
            return self._called(value)
        return self._function(value, [self.at(part) for part in value.args])

    def _power(self, base: Any, exponent: Any) -> Any:
        if exponent.is_Integer:
            if base == 0 and exponent < 0:
                raise _Undefined
            return base ** int(exponent)
        if mp.im(base) == 0 and mp.re(base) < 0:
            if exponent.is_Rational and exponent.q % 2:  # the real root
                return (-1) ** int(exponent.p) * (-mp.re(base)) ** (mp.mpf(int(exponent.p)) / int(exponent.q))
            self.real = False
        if base == 0:
            raise _Undefined
        return base ** self.at(exponent)

    def _called(self, value: Any) -> Any:
        """An undefined function: an arbitrary number for each of its arguments."""
        rounded = [mp.nstr(self.at(part), min(60, self.digits // 2)) for part in value.args]
        draw = random.Random(f"{value.func.__name__}({rounded})")
        return mp.mpf(draw.randint(10**60, 10**61)) / 10**60

    def _function(self, value: Any, parts: list[Any]) -> Any:
        name = type(value).__name__
        if name == "log" and len(parts) == 1:
            if parts[0] == 0:
                raise _Undefined
            if mp.im(parts[0]) == 0 and mp.re(parts[0]) < 0:
                self.real = False
            return mp.log(parts[0])
        if name in ("asin", "acos") and mp.im(parts[0]) == 0 and abs(parts[0]) > 1:
            self.real = False
        if name in ("floor", "ceiling"):
            near = mp.nint(parts[0])
            if abs(parts[0] - near) < mp.mpf(10) ** (-(self.digits // 2)):
                return near
            return mp.floor(parts[0]) if name == "floor" else mp.ceil(parts[0])
        if name in ("Max", "Min"):
            return max(parts) if name == "Max" else min(parts)
        known = {
            **{"Abs": abs, "exp": mp.exp, "factorial": mp.factorial, "factorial2": mp.fac2, "binomial": mp.binomial},
            **{"re": mp.re, "im": mp.im, "arg": mp.arg, "sign": mp.sign, "conjugate": mp.conj, "gamma": mp.gamma},
        }
        function = known.get(name) or getattr(mp, name, None)
        if function is None:
            raise TooLarge
        return function(*parts)
