"""Equality of two expressions with their notation: decimals, percentages, degrees, units, bases and words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sympy

from pdr_dspy.text import number_words
from pdr_dspy.verifiers.mathematics import equality
from pdr_dspy.verifiers.mathematics.beside import agree
from pdr_dspy.verifiers.mathematics.products import is_word, spread
from pdr_dspy.verifiers.mathematics.values import Scalar, Value


def same_scalars(gold: Scalar, answer: Scalar) -> bool:
    """Whether two expressions are equal, with the rules of decimals, percentages, degrees, units and bases."""
    if gold.unit and answer.unit and gold.unit != answer.unit:
        factor = number_words.ratio_of(answer.unit, gold.unit)
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
    return any(_same_or_close(one, other, gold.decimal, answer.decimal) for one, other in candidates)


def _same_constant(gold: Any, answer: Any) -> Any:
    """The answer with its constant of integration spelt as in the gold answer: `x^2 + c` as `x^2 + C`."""
    for upper, lower in (("C", "c"), ("c", "C")):
        here, there = ({one.name: one for one in value.free_symbols} for value in (gold, answer))
        if upper in here and lower in there and lower not in here and upper not in there:
            loose = (gold - here[upper]).has(here[upper]) or (answer - there[lower]).has(there[lower])
            if not loose and gold.free_symbols != {here[upper]}:
                return answer.subs(there[lower], here[upper])
    return answer


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
