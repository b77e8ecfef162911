r"""Families of values with a parameter: `2n\pi, n \in \mathbb Z`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sympy

from pdr_dspy.verifiers.mathematics import equality
from pdr_dspy.verifiers.mathematics.scalar_equality import in_radians
from pdr_dspy.verifiers.mathematics.values import (
    Answer,
    Item,
    Named,
    Relation,
    Scalar,
    Sequence,
    Value,
    value_of,
    words_of,
)


def is_set_membership(item: Item) -> bool:
    """Whether an item says that something belongs to R, Z, N, Q or C."""
    return isinstance(item, Relation) and item.signs == ("in",) and isinstance(item.sides[1], Named)


def parameters(conditions: list[Item]) -> dict[Any, str] | None:
    """The letters that conditions declare, with their kinds; None if a condition says anything else."""
    found: dict[Any, str] = {}
    for item in conditions:
        if not (isinstance(item, Relation) and (is_set_membership(item) or item.signs == ("is",))):
            return None
        letter, kind = item.sides
        if not (isinstance(letter, Scalar) and isinstance(letter.expression, sympy.Symbol)):
            return None
        found[letter.expression] = kind.name if isinstance(kind, Named) else f"is {words_of(kind)}"
    return found


def renamed(value: Value, names: dict[Any, Any]) -> Value:
    """A value with other letters."""
    if isinstance(value, Scalar):
        return replace(value, expression=value.expression.subs(names))
    if isinstance(value, Sequence):
        items = tuple(Answer(((renamed(value_of(item), names),),)) for item in value.items)
        return Sequence(value.opening, items, value.closing)
    return value


def same_family_points(gold: tuple[Value, ...], answer: tuple[Value, ...], integers: list[Any]) -> bool:
    """Whether two values with a whole number as parameter have the same step, and starts that differ by whole steps."""
    if len(gold) != 1 or len(answer) != 1 or len(integers) != 1:
        return False
    first, second = gold[0], answer[0]
    if not (isinstance(first, Scalar) and isinstance(second, Scalar)):
        return False
    if first.degrees != second.degrees:
        first, second = in_radians(first), in_radians(second)
    letter = integers[0]
    if not (first.expression.is_polynomial(letter) and second.expression.is_polynomial(letter)):
        return False
    one, other = (sympy.Poly(value.expression, letter) for value in (first, second))
    if one.degree() != 1 or other.degree() != 1:
        return False
    step, start = one.all_coeffs()
    other_step, other_start = other.all_coeffs()
    if not (equality.same(step, other_step) or equality.same(step, -other_step)):
        return False
    return bool(sympy.nsimplify(sympy.simplify((start - other_start) / step)).is_Integer)
