r"""Answers as points: the values that they assign to names, under conditions (`x = 1, y = 2`; `m + n = 204`)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sympy

from pdr_dspy.verifiers.mathematics.areas import area_of, lists_sets
from pdr_dspy.verifiers.mathematics.tokens import Unreadable
from pdr_dspy.verifiers.mathematics.values import (
    Answer,
    Braces,
    Combined,
    Item,
    Named,
    Ratio,
    Relation,
    Scalar,
    Sequence,
    SuchThat,
    Value,
    is_quantity,
    name_of,
    value_of,
    vector_of,
)


@dataclass(frozen=True)
class Equality:
    """How values, and members of sets, are compared."""

    values: Callable[[Value, Value], bool]
    members: Callable[[Answer, Answer], bool]


@dataclass
class Points:
    """Alternatives that are tuples of values, one value per name, under conditions."""

    names: tuple[str, ...] | None
    points: list[tuple[Value, ...]]
    conditions: list[Item]


def points_of(answer: Answer, alike: Equality, *, is_gold: bool) -> Points | None:
    """An answer as alternatives of values; None if it has another form."""
    names: tuple[str, ...] | None = None
    points: list[tuple[Value, ...]] = []
    conditions: list[Item] | None = None
    for option in answer.options:
        found = _option_points(option, alike, is_gold=is_gold, spread=not lists_sets(answer))
        if found is None:
            return None
        own_names, own_points, own_conditions = found
        if own_names is not None:
            if names is not None and names != own_names:
                return None
            names = own_names
        if conditions is not None and conditions != own_conditions:
            return None
        conditions = own_conditions
        points += own_points
    if names is not None and len(names) > 1:
        points = [point if len(point) > 1 else _as_tuple(point, len(names)) for point in points]
        if any(len(point) != len(names) for point in points):
            return None
    return Points(names, points, conditions or [])


def _as_tuple(point: tuple[Value, ...], count: int) -> tuple[Value, ...]:
    vector = vector_of(point[0])
    if vector is None or len(vector[1]) != count:
        return point
    return tuple(value_of(item) for item in vector[1])


def _option_points(
    option: tuple[Item, ...], alike: Equality, *, is_gold: bool, spread: bool
) -> tuple[tuple[str, ...] | None, list[tuple[Value, ...]], list[Item]] | None:
    assigned: dict[str, list[Value]] = {}
    bare: list[Value] = []
    conditions: list[Item] = []
    for item in option:
        if not isinstance(item, Relation):
            bare.append(item)
            continue
        found = _assignment(item, alike, is_gold=is_gold, alone=len(option) == 1)
        if found is None:
            conditions.append(item)
        else:
            for name, value in found:
                if name is None:
                    bare.append(value)
                elif name in assigned:
                    return None
                else:
                    assigned[name] = _members(value, alike) if len(found) == 1 else [value]
    if len(bare) + bool(assigned) != 1 or len(bare) > 1:
        return None
    if bare:
        return None, [(value,) for value in (_members(bare[0], alike) if spread else bare)], conditions
    names = tuple(sorted(assigned))
    return names, list(itertools.product(*(assigned[name] for name in names))), conditions


def _members(value: Value, alike: Equality) -> list[Value]:
    """The members of a finite set; the empty set has none, and any other value is its only member."""
    if isinstance(value, Braces):
        return [value_of(item) for item in distinct(value.items, alike.members)]
    if isinstance(value, Named) and value.name == "empty":
        return []
    if (
        isinstance(value, Combined)
        and value.operation == "cup"
        and all(isinstance(part, Braces) for part in value.parts)
    ):
        items = [item for part in value.parts if isinstance(part, Braces) for item in part.items]
        return [value_of(item) for item in distinct(items, alike.members)]
    if isinstance(value, SuchThat) and (found := _integers_between(value)) is not None:
        return [Scalar(sympy.Integer(one)) for one in found]
    return [value]


def _integers_between(value: SuchThat) -> list[int] | None:
    r"""The members of `\{x \in \mathbb Z \mid 0 < x < 4\}`."""
    if len(value.member.options) != 1 or len(value.member.options[0]) != 1:
        return None
    member = value.member.options[0][0]
    if not (isinstance(member, Relation) and member.signs == ("in",) and isinstance(member.sides[1], Named)):
        return None
    name, found = name_of(member.sides[0]), area_of(value.condition)
    if name is None or found is None or found[0] != name or member.sides[1].name not in ("Z", "N"):
        return None
    numbers: set[int] = set()
    for part in found[1]:
        if part.low.is_infinite or part.high.is_infinite or part.high - part.low > 200:
            return None
        low, high = sympy.ceiling(part.low), sympy.floor(part.high)
        numbers |= set(range(int(low), int(high) + 1))
        numbers -= {int(low)} if part.low_open and low == part.low else set()
        numbers -= {int(high)} if part.high_open and high == part.high else set()
    if member.sides[1].name == "N" and 0 in numbers:
        return None
    return sorted(numbers)


def _assignment(
    relation: Relation, alike: Equality, *, is_gold: bool, alone: bool
) -> list[tuple[str | None, Value]] | None:
    r"""The names and values that a relation assigns: `x = 2`, `(x, y) = (1, 2)`, `m + n = 204`, `x = 6 \cdot 7 = 42`,
    `x \in \{1, 2\}`; without a name for `6 \cdot 7 = 42`."""
    if relation.modulus is not None:
        return None
    if relation.signs == ("in",):
        name = name_of(relation.sides[0])
        of = relation.sides[1]
        finite = isinstance(of, Braces) or (isinstance(of, Named) and of.name == "empty") or isinstance(of, SuchThat)
        return [(name, of)] if name is not None and finite else None
    if set(relation.signs) != {"="}:
        return None
    named: list[str] = []
    quantity = False
    values: list[Value] = []
    for side in relation.sides:
        name = name_of(side)
        if name is not None:
            named.append(name)
        elif (
            not values
            and not named
            and alone
            and (_asked_for(side) if is_gold else is_quantity(side))
            and _is_number(relation.sides[-1])
        ):
            quantity = True
        else:
            values.append(side)
    if not values or (len(named) > 1 and not alone):
        return None
    if len(values) > 1 and not all(alike.values(values[-1], other) for other in values[:-1]):
        if all(_is_number(value) for value in values):
            raise Unreadable("sides that are not equal")
        return None
    value = values[-1]
    if quantity and not named:
        if isinstance(value, Scalar) and value.expression == 0 and not _sum_of_names(relation.sides[0]):
            return None  # `a + 3z = 0` is an equation
        return [(f"quantity {_key(relation.sides[0])}", value)]
    if not named:
        return [(None, value)] if all(_is_number(one) for one in values) else None
    if isinstance(value, Scalar) and not isinstance(value.expression, sympy.MatrixBase):
        letters = {sympy.srepr(letter) for letter in value.expression.free_symbols}
        if letters & set(named):
            return None
    sides = [side for side in relation.sides if name_of(side) is not None]
    if isinstance(sides[0], Sequence):
        parts = _as_tuple((value,), len(sides[0].items))
        if len(parts) != len(sides[0].items):
            return None
        names = [name_of(value_of(item)) for item in sides[0].items]
        return list(zip(names, parts, strict=True))
    return [(named[0], value)]


def _key(value: Value) -> str:
    return sympy.srepr(value.expression) if isinstance(value, Scalar) else ""


_UNKNOWN = frozenset("xyztuvw")
"""Letters of equations, whose sum is more often an equation than a value."""


def _asked_for(value: Value) -> bool:
    """Whether the left side of a gold answer is a sum that a problem asks for: `m + n`, `100a + 10b + c`."""
    if not isinstance(value, Scalar) or isinstance(value.expression, sympy.MatrixBase) or not value.expression.is_Add:
        return False
    terms = [term.as_coeff_Mul() for term in value.expression.args]
    return not (value.unit or value.words) and all(
        factor.is_Integer and factor > 0 and name.is_Symbol and len(name.name) == 1 and name.name not in _UNKNOWN
        for factor, name in terms
    )


def _sum_of_names(value: Value) -> bool:
    """`m + n`, `p - q`"""
    parts = value.expression.args if isinstance(value, Scalar) and value.expression.is_Add else ()
    return bool(parts) and all(part.is_Symbol or (-part).is_Symbol for part in parts)


def _is_number(value: Value) -> bool:
    """Whether a value contains no letters."""
    if isinstance(value, Scalar):
        return not value.expression.free_symbols and not value.expression.atoms(sympy.core.function.AppliedUndef)
    if isinstance(value, Ratio):
        return all(_is_number(item) for item in value.items)
    return False


def as_roots(points: Points, names: tuple[str, ...] | None) -> Points:
    """`x_1 = 1, x_2 = 2` as two values of `x`, if that is the only name on the other side."""
    if names is None or points.names is None or len(names) != 1 or len(points.names) < 2 or len(points.points) != 1:
        return points
    letters = {re.sub(r"_.*", "", re.sub(r"^Symbol\('", "", name)) for name in points.names}
    if not all("_" in name for name in points.names) or letters != {re.sub(r"^Symbol\('|'.*", "", names[0])}:
        return points
    return Points(names, [(value,) for value in points.points[0]], points.conditions)


def lined_up(gold: Points, answer: Points) -> tuple[Points, Points] | None:
    """Aligns named points with unnamed ones: `x = 1, y = 2` and `(1, 2)`."""
    named, bare = (gold, answer) if gold.names is not None else (answer, gold)
    assert named.names is not None
    count = len(named.names)
    if count == 1:
        return gold, answer
    points = [_as_tuple(point, count) for point in bare.points]
    if len(named.points) == 1:
        one = named.points[0]
        letters = {re.sub(r"_.*", "", re.sub(r"^Symbol\('", "", name)) for name in named.names}
        indexed = len(letters) == 1 and all("_" in name for name in named.names)
        if all(len(point) == 1 for point in points) and len(points) == count:
            if indexed:  # x_1 = 1, x_2 = 2 are two roots
                spread = Points(None, [(value,) for value in one], named.conditions)
                return (spread, answer) if named is gold else (gold, spread)
            points = [tuple(point[0] for point in points)]
    if any(len(point) != count for point in points):
        return None
    turned = Points(named.names, points, bare.conditions)
    return (gold, turned) if named is gold else (turned, answer)


def distinct(items: Iterable[Answer], same_member: Callable[[Answer, Answer], bool]) -> list[Answer]:
    """The items without repetition."""
    found: list[Answer] = []
    for item in items:
        if not any(same_member(item, other) for other in found):
            found.append(item)
    return found
