"""Equality of two expressions with their notation: decimals, percentages, degrees, units, bases and words."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import sympy

from pdr_dspy.verifiers.mathematics import equality, units
from pdr_dspy.verifiers.mathematics.arithmetic import TooLarge
from pdr_dspy.verifiers.mathematics.beside import agree
from pdr_dspy.verifiers.mathematics.products import is_word, spread
from pdr_dspy.verifiers.mathematics.values import Scalar, Value


def same_scalars(gold: Scalar, answer: Scalar) -> bool:
    """Whether two expressions are equal, with the rules of decimals, percentages, degrees, units and bases."""
    if gold.unit and answer.unit and gold.unit != answer.unit:
        factor = units.ratio(answer.unit, gold.unit)
        if factor is None or is_matrix(gold) or is_matrix(answer):
            return False
        exact = sympy.Rational(factor.numerator, factor.denominator)
        answer = replace(answer, expression=answer.expression * exact, unit=gold.unit)
    if not agree(gold.words, answer.words):
        return False  # `3 red` is not `3 blue`
    if (gold.percent and answer.degrees) or (gold.degrees and answer.percent):
        return False
    if (gold.degrees and answer.unit not in (None, "radian")) or (answer.degrees and gold.unit not in (None, "radian")):
        return False
    if gold.base is not None:  # `101` does not say its base
        return (gold.digits, gold.base) == (answer.digits, answer.base)
    first, second = gold.expression, answer.expression
    if is_matrix(gold) or is_matrix(answer):
        if not (is_matrix(gold) and is_matrix(answer)):
            return False
        return first.shape == second.shape and all(
            _same_or_close(*pair, gold.decimal, answer.decimal)
            for pair in zip(first.flat(), second.flat(), strict=True)
        )
    candidates = [(first, _same_constant(first, second))]
    if gold.percent != answer.percent:
        candidates.append((first / 100, second) if gold.percent else (first, second / 100))
    if gold.degrees != answer.degrees:
        in_degrees = first if gold.degrees else second
        if not in_degrees.free_symbols:
            turn = sympy.pi / 180
            candidates.append((first * turn, second) if gold.degrees else (first, second * turn))
            if "radian" in (gold.unit, answer.unit):
                candidates = candidates[1:]
    if any(_same_or_close(one, other, gold.decimal, answer.decimal) for one, other in candidates):
        return True
    return not (gold.decimal or answer.decimal) and _antiderivatives(*candidates[0])


_CONSTANT = re.compile(r"[CcKk](?:_[0-9])?|constant")
_VARIABLE = re.compile(r"[a-z]|theta|phi|alpha|omega|varphi")


def _same_constant(gold: Any, answer: Any) -> Any:
    """The answer with its constant of integration spelt as in the gold answer: `x^2 + c` and `x^2 + K` as `x^2 + C`.

    A constant of integration is C, c, K or k, added once to a function of other letters: for C of anything with a
    variable, for the others, which name coefficients as often, of a single variable.
    """
    want, have = _added_constant(gold), _added_constant(answer)
    if want is None or have is None or want == have or want in answer.free_symbols or have in gold.free_symbols:
        return answer
    variables = gold.free_symbols - {want}
    named = [one for one in variables if _VARIABLE.fullmatch(one.name)]
    if not named or (want.name != "C" and len(variables) > 1 and have.name.lower() != want.name.lower()):
        return answer
    return answer.subs(have, want)


def _added_constant(value: Any) -> Any:
    """The letter that may be the constant of integration in a sum, if there is exactly one."""
    if isinstance(value, sympy.MatrixBase) or not value.is_Add:
        return None
    found = [one for one in value.args if one.is_Symbol and _CONSTANT.fullmatch(one.name)]
    if len(found) > 1:  # `c` beside `C`, or beside a letter `k` of the problem
        found = [one for one in found if one.name == "C"]
    return found[0] if len(found) == 1 and not (value - found[0]).has(found[0]) else None


def _antiderivatives(gold: Any, answer: Any) -> bool:
    """Whether two antiderivatives with their constant C differ by a constant: `(x+1)^2/2 + C`, `x^2/2 + x + C`."""
    constant = _added_constant(gold)
    if constant is None or constant.name != "C" or _added_constant(answer) != constant:
        return False
    letters = (gold.free_symbols | answer.free_symbols) - {constant}
    if len(letters) != 1 or gold.free_symbols != answer.free_symbols:
        return False
    (letter,) = letters
    if letter.name not in _OF_INTEGRALS:
        return False
    try:
        return equality.vanishes(sympy.diff(gold - answer, letter))
    except TooLarge:
        return False


_OF_INTEGRALS = ("x", "t", "u", "y", "z", "theta")


def _same_or_close(gold: Any, answer: Any, gold_decimal: bool, answer_decimal: bool) -> bool:
    if equality.same(gold, answer):
        return True
    words = [any(map(is_word, one.free_symbols)) for one in (gold, answer)]
    if words[0] != words[1]:  # `PRT` is `P*R*T`
        return equality.same(spread(gold), spread(answer))
    if gold_decimal == answer_decimal or any(one.is_infinite for one in (gold, answer)):
        return False
    exact, decimal = (gold, answer) if answer_decimal else (answer, gold)
    if exact.is_number and decimal.is_number:
        parts = (exact.as_real_imag(), decimal.as_real_imag()) if decimal.has(sympy.I) else ((exact,), (decimal,))
        return all(equality.same(*pair) or equality.close(*pair) for pair in zip(*parts, strict=True))
    letters = sorted(exact.free_symbols | decimal.free_symbols, key=str)
    if not (exact.is_polynomial(*letters) and decimal.is_polynomial(*letters)):
        return False
    first, second = (dict(sympy.Poly(one, *letters).terms()) for one in (exact, decimal))
    return first.keys() == second.keys() and all(
        equality.same(first[term], second[term]) or equality.close(first[term], second[term]) for term in first
    )


def is_matrix(value: Value) -> bool:
    """Whether a value is a matrix."""
    return isinstance(value, Scalar) and isinstance(value.expression, sympy.MatrixBase)


def in_radians(value: Scalar) -> Scalar:
    """A value in degrees as the same angle in radians; any other value unchanged."""
    return replace(value, expression=value.expression * sympy.pi / 180, degrees=False) if value.degrees else value
