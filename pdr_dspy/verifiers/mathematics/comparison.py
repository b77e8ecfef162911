"""Equality of two structures."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sympy

from pdr_dspy.verifiers.mathematics import equality, regions, verbatim
from pdr_dspy.verifiers.mathematics.areas import area_of, lists_sets
from pdr_dspy.verifiers.mathematics.arithmetic import TooLarge
from pdr_dspy.verifiers.mathematics.beside import agree
from pdr_dspy.verifiers.mathematics.products import is_word
from pdr_dspy.verifiers.mathematics.regions import Region
from pdr_dspy.verifiers.mathematics.scalar_equality import in_radians, is_matrix, same_scalars
from pdr_dspy.verifiers.mathematics.structures import read
from pdr_dspy.verifiers.mathematics.tokens import Invalid, Unreadable
from pdr_dspy.verifiers.mathematics.values import (
    Answer,
    Braces,
    Cases,
    Combined,
    Formula,
    Item,
    Named,
    Ratio,
    Relation,
    Scalar,
    Sequence,
    SuchThat,
    Value,
    Words,
    is_quantity,
    name_of,
    only,
    said_beside,
)


def grade(gold: str, answer: str | None) -> dict[str, Any]:
    """The verdict as JSON: {"equal": bool}, or {"readable": True} without an answer; without a verdict {"unreadable":
    side, "detail": why} or {"large": side}."""
    found = []
    for side, text in (("gold", gold), ("answer", answer)):
        if text is None:
            return {"readable": True}
        try:
            found.append(read(text, is_gold=side == "gold"))
        except Unreadable as error:
            if side == "gold" and not isinstance(error, Invalid) and verbatim.is_comparable(gold):
                return _as_written(gold, answer)
            return {"unreadable": side, "detail": str(error)[:100]}
        except TooLarge:
            return {"large": side}
        except MemoryError:
            raise
        except Exception as error:  # raised by sympy, such as a domain error
            return {"unreadable": side, "detail": type(error).__name__}
    failure: dict[str, Any] | None = None
    for pair in itertools.product(*found):
        try:
            if same(*pair):
                return {"equal": True}
        except TooLarge:
            failure = failure or {"large": "answer"}
        except Unreadable as error:
            failure = failure or {"unreadable": "answer", "detail": str(error)[:100]}
    return failure or {"equal": False}


def _as_written(gold: str, answer: str | None) -> dict[str, Any]:
    """The verdict on an answer to a gold answer that is no mathematics."""
    if answer is None:
        return {"readable": True, "verbatim": True}
    return {"equal": verbatim.form(gold) == verbatim.form(answer), "verbatim": True}


def same(gold: Answer, answer: Answer) -> bool:
    """Whether an answer is equal to the gold answer."""
    gold, answer = _unfolded(gold), _unfolded(answer)
    want, have = _points(gold, is_gold=True), _points(answer, is_gold=False)
    if want is not None and have is not None and _same_points(want, have):
        return True
    first, second = area_of(gold), area_of(answer)
    if first is not None and second is not None and _annotated_alike(gold, answer):
        if (None in (first[0], second[0]) or first[0] == second[0]) and regions.same(first[1], second[1]):
            return True
        if _ignores_letters(gold) and _ignores_letters(answer) and regions.same(first[1], second[1]):
            return True
    return _same_formula(gold, answer)


def _annotated_alike(gold: Answer, answer: Answer) -> bool:
    """Whether the units and words in two answers agree, or one has none; a region ignores them."""
    one, other = set(said_beside(gold)), set(said_beside(answer))
    return one == other or not ((one and other) or any(words.marks for _, words in one | other))


def _ignores_letters(answer: Answer) -> bool:
    return isinstance(only(answer), SuchThat)


def _unfolded(answer: Answer) -> Answer:
    """A system of equations replaced by its relations (`\\begin{cases} x = 2 \\\\ y = 3 \\end{cases}`)."""
    value = only(answer)
    if isinstance(value, SuchThat) and value.member is value.condition:
        return value.member
    return answer


# ------------------------------------------------------------------------------------------------------------ values


def same_values(gold: Value, answer: Value) -> bool:
    """Whether two values are equal: tuples by position, sets by members."""
    if isinstance(gold, Scalar) and isinstance(answer, Scalar):
        return same_scalars(gold, answer)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _words(gold) is not None and _words(gold) == _words(answer)
    if isinstance(gold, Cases) and isinstance(answer, Cases):
        return _same_cases(gold, answer)
    if isinstance(gold, Ratio):
        return _same_ratio(gold, answer)
    if is_matrix(gold) != is_matrix(answer):
        gold, answer = _by_rows(gold), _by_rows(answer)
        if isinstance(gold, Scalar) and isinstance(answer, Scalar):
            return same_scalars(gold, answer)
    first, second = _vector(gold), _vector(answer)
    if first is not None and second is not None:
        shapes = {kind for kind, _ in (first, second)}
        if len(shapes) > 1 and not ("tuple" in shapes or "angle" in shapes):
            return False
        return len(first[1]) == len(second[1]) and all(map(_same_single, first[1], second[1]))
    if isinstance(gold, Sequence) and isinstance(answer, Sequence):
        brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
        return brackets and len(gold.items) == len(answer.items) and all(map(same, gold.items, answer.items))
    if isinstance(gold, Named) and isinstance(answer, Named):
        return gold.name == answer.name
    if isinstance(gold, Formula) and isinstance(answer, Formula):
        return gold.form == answer.form
    if isinstance(gold, Braces) and isinstance(answer, Braces):
        return _matched(_distinct(gold.items), _distinct(answer.items), _same_member)
    if isinstance(gold, Combined) and isinstance(answer, Combined) and gold.operation == answer.operation:
        if gold.operation == "minus":
            return _in_order(gold.parts, answer.parts)
        return _matched(gold.parts, answer.parts, same_values)
    if isinstance(gold, SuchThat) and isinstance(answer, SuchThat):
        return _same_sets_of(gold, answer)
    return False


def _by_rows(value: Value) -> Value:
    """`[[1, 0], [0, 1]]` as a matrix."""
    if not isinstance(value, Sequence) or (value.opening, value.closing) not in (("[", "]"), ("(", ")")):
        return value
    rows = [only(item) for item in value.items]
    cells: list[list[Any]] = []
    decimal = False
    for row in rows:
        if not isinstance(row, Sequence) or (row.opening, row.closing) != (value.opening, value.closing):
            return value
        members = [only(item) for item in row.items]
        if any(not isinstance(one, Scalar) or one.percent or one.degrees or one.unit or one.base for one in members):
            return value
        scalars = [one for one in members if isinstance(one, Scalar)]
        cells.append([one.expression for one in scalars])
        decimal = decimal or any(one.decimal for one in scalars)
    if len({len(row) for row in cells}) != 1 or any(isinstance(one, sympy.MatrixBase) for row in cells for one in row):
        return value
    return Scalar(sympy.ImmutableMatrix(cells), decimal)


def _in_order(gold: Iterable[Value], answer: Iterable[Value]) -> bool:
    first, second = tuple(gold), tuple(answer)
    return len(first) == len(second) and all(map(same_values, first, second))


def _same_ratio(gold: Ratio, answer: Value) -> bool:
    """Whether an answer is the same ratio: term by term, with all terms scaled by one factor (`6:8` is `3:4`), or, of a
    ratio of two terms, as their fraction (`3/4`).

    A decimal or a whole number is none, since it rarely states a ratio; nor is `3:4` the number 3/4 if the gold answer
    is a number, which may ask for a part of the whole. What may be a time of day (`10:30`) is never scaled.
    """
    fraction = isinstance(answer, Scalar) and not answer.decimal and answer.expression.is_Integer is False
    if fraction and len(gold.items) == 2:
        answer = Ratio((answer, Scalar(sympy.Integer(1))))
    if not isinstance(answer, Ratio) or len(gold.items) != len(answer.items):
        return False
    if _in_order(gold.items, answer.items):
        return True
    if gold.clock:
        return False
    first, second = _exact_terms(gold), _exact_terms(answer)
    if first is None or second is None or not _agree_in_order(gold, answer):
        return False
    place = next((place for place, term in enumerate(first) if not equality.vanishes(term)), None)
    if place is None or equality.vanishes(second[place]):
        return False
    return all(
        equality.same(one * second[place], other * first[place]) for one, other in zip(first, second, strict=True)
    )


def _agree_in_order(gold: Ratio, answer: Ratio) -> bool:
    pairs = zip(gold.items, answer.items, strict=True)
    return all(isinstance(a, Scalar) and isinstance(b, Scalar) and agree(a.words, b.words) for a, b in pairs)


def _exact_terms(ratio: Ratio) -> list[Any] | None:
    """The terms of a ratio that may be scaled: exact numbers without units."""
    plain = [
        item.expression
        for item in ratio.items
        if isinstance(item, Scalar)
        and not (item.decimal or item.percent or item.degrees or item.unit or item.base)
        and not isinstance(item.expression, sympy.MatrixBase)
        and item.expression.is_number
    ]
    return plain if len(plain) == len(ratio.items) else None


def _matched(gold: Iterable[Any], answer: Iterable[Any], alike: Callable[[Any, Any], bool]) -> bool:
    """Whether the members can be paired one to one."""
    left = list(answer)
    want = list(gold)
    if len(left) != len(want):
        return False
    for one in want:
        place = next((place for place, other in enumerate(left) if alike(one, other)), None)
        if place is None:
            return False
        left.pop(place)
    return True


def _same_member(gold: Answer, answer: Answer) -> bool:
    """Whether two members of sets are equal; here 1 is not {1}."""
    kinds = [isinstance(only(one), Braces) for one in (gold, answer)]
    return kinds[0] == kinds[1] and same(gold, answer)


def _distinct(items: Iterable[Answer]) -> list[Answer]:
    found: list[Answer] = []
    for item in items:
        if not any(_same_member(item, other) for other in found):
            found.append(item)
    return found


def _words(value: Value) -> str | None:
    if isinstance(value, Words):
        return re.sub(r"[\s().]+", " ", value.text).strip().casefold() or None
    if isinstance(value, Scalar) and isinstance(value.expression, sympy.Symbol):
        name = value.expression.name
        return name.casefold() if len(name) == 1 or is_word(value.expression) else None
    return None


def _same_single(gold: Any, answer: Any) -> bool:
    return (
        same(gold, answer)
        if isinstance(gold, Answer) and isinstance(answer, Answer)
        else same_values(_value(gold), _value(answer))
    )


def _value(one: Any) -> Value:
    found = only(one) if isinstance(one, Answer) else one
    return found if found is not None else Words("")


def _vector(value: Value) -> tuple[str, list[Any]] | None:
    """A point or vector: its notation, and its members."""
    if isinstance(value, Sequence) and (value.opening, value.closing) in (("(", ")"), ("<", ">")):
        return ("tuple" if value.opening == "(" else "angle"), list(value.items)
    if isinstance(value, Scalar) and isinstance(value.expression, sympy.MatrixBase) and 1 in value.expression.shape:
        kind = "column" if value.expression.cols == 1 else "row"
        return kind, [Scalar(cell, value.decimal) for cell in value.expression.flat()]
    return None


def _same_cases(gold: Cases, answer: Cases) -> bool:
    def complete(cases: Cases) -> list[tuple[Answer, Answer | Region | None]]:
        """The cases with the condition of `otherwise` computed from the other conditions."""
        known = [area_of(condition) for _, condition in cases.rows if condition is not None]
        if any(one is None for one in known):
            return list(cases.rows)
        rest = regions.complement(regions.union(*[one[1] for one in known if one is not None]))
        return [(value, rest if condition is None else condition) for value, condition in cases.rows]

    def alike(one: tuple[Answer, Any], other: tuple[Answer, Any]) -> bool:
        if not same(one[0], other[0]):
            return False
        first, second = one[1], other[1]
        if first is None or second is None:
            return first is second
        if isinstance(first, Answer) and isinstance(second, Answer):
            return same(first, second)
        areas = []
        for place in (first, second):
            if isinstance(place, Answer):
                found = area_of(place)
                if found is None:
                    return False
                place = found[1]
            areas.append(place)
        return regions.same(areas[0], areas[1])

    return _matched(complete(gold), complete(answer), alike)


def _same_sets_of(gold: SuchThat, answer: SuchThat) -> bool:
    first, second = (_family(one.member, one.condition) for one in (gold, answer))
    if first is not None and second is not None and _same_points(first, second):
        return True
    return same(gold.member, answer.member) and same(gold.condition, answer.condition)


def _family(member: Answer, condition: Answer) -> Points | None:
    value = only(member)
    if value is None or len(condition.options) != 1:
        return None
    return Points(None, [(value,)], list(condition.options[0]))


# ------------------------------------------------------------------------------------------------------------ points


@dataclass
class Points:
    """Alternatives that are tuples of values, one value per name, under conditions."""

    names: tuple[str, ...] | None
    points: list[tuple[Value, ...]]
    conditions: list[Item]


def _points(answer: Answer, *, is_gold: bool) -> Points | None:
    """An answer as alternatives of values; None if it has another form."""
    names: tuple[str, ...] | None = None
    points: list[tuple[Value, ...]] = []
    conditions: list[Item] | None = None
    for option in answer.options:
        found = _option_points(option, is_gold=is_gold, spread=not lists_sets(answer))
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
    vector = _vector(point[0])
    if vector is None or len(vector[1]) != count:
        return point
    return tuple(_value(item) for item in vector[1])


def _option_points(
    option: tuple[Item, ...], *, is_gold: bool, spread: bool
) -> tuple[tuple[str, ...] | None, list[tuple[Value, ...]], list[Item]] | None:
    assigned: dict[str, list[Value]] = {}
    bare: list[Value] = []
    conditions: list[Item] = []
    for item in option:
        if not isinstance(item, Relation):
            bare.append(item)
            continue
        found = _assignment(item, is_gold=is_gold, alone=len(option) == 1)
        if found is None:
            conditions.append(item)
        else:
            for name, value in found:
                if name is None:
                    bare.append(value)
                elif name in assigned:
                    return None
                else:
                    assigned[name] = _members(value) if len(found) == 1 else [value]
    if len(bare) + bool(assigned) != 1 or len(bare) > 1:
        return None
    if bare:
        return None, [(value,) for value in (_members(bare[0]) if spread else bare)], conditions
    names = tuple(sorted(assigned))
    return names, list(itertools.product(*(assigned[name] for name in names))), conditions


def _members(value: Value) -> list[Value]:
    """The members of a finite set; the empty set has none, and any other value is its only member."""
    if isinstance(value, Braces):
        return [_value(item) for item in _distinct(value.items)]
    if isinstance(value, Named) and value.name == "empty":
        return []
    if (
        isinstance(value, Combined)
        and value.operation == "cup"
        and all(isinstance(part, Braces) for part in value.parts)
    ):
        items = [item for part in value.parts if isinstance(part, Braces) for item in part.items]
        return [_value(item) for item in _distinct(items)]
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


def _assignment(relation: Relation, *, is_gold: bool, alone: bool) -> list[tuple[str | None, Value]] | None:
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
            not values and not named and alone and not is_gold and is_quantity(side) and _is_number(relation.sides[-1])
        ):
            quantity = True
        else:
            values.append(side)
    if not values or (len(named) > 1 and not alone):
        return None
    if len(values) > 1 and not all(same_values(values[-1], other) for other in values[:-1]):
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
        names = [name_of(_value(item)) for item in sides[0].items]
        return list(zip(names, parts, strict=True))
    return [(named[0], value)]


def _key(value: Value) -> str:
    return sympy.srepr(value.expression) if isinstance(value, Scalar) else ""


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


def _same_points(gold: Points, answer: Points) -> bool:
    if gold.names is not None and answer.names is not None:
        if gold.names != answer.names:
            gold, answer = _roots(gold, answer.names), _roots(answer, gold.names)
        if gold.names != answer.names:
            return False
    elif not (gold.names is answer.names is None):
        lined = _lined_up(gold, answer)
        if lined is None:
            return False
        gold, answer = lined
    if gold.conditions or answer.conditions:
        return _same_families(gold, answer)
    return _matched(gold.points, answer.points, _in_order)


def _roots(points: Points, names: tuple[str, ...] | None) -> Points:
    """`x_1 = 1, x_2 = 2` as two values of `x`, if that is the only name on the other side."""
    if names is None or points.names is None or len(names) != 1 or len(points.names) < 2 or len(points.points) != 1:
        return points
    letters = {re.sub(r"_.*", "", re.sub(r"^Symbol\('", "", name)) for name in points.names}
    if not all("_" in name for name in points.names) or letters != {re.sub(r"^Symbol\('|'.*", "", names[0])}:
        return points
    return Points(names, [(value,) for value in points.points[0]], points.conditions)


def _lined_up(gold: Points, answer: Points) -> tuple[Points, Points] | None:
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


def _same_families(gold: Points, answer: Points) -> bool:
    r"""Whether values with a parameter are equal (`2n\pi, n \in \mathbb Z`), under any name of the parameter."""
    if not gold.conditions or not answer.conditions:
        left = gold.conditions or answer.conditions
        return all(_is_set_membership(one) for one in left) and _matched(gold.points, answer.points, _in_order)
    first, second = _parameters(gold.conditions), _parameters(answer.conditions)
    if first is None or second is None or sorted(first.values()) != sorted(second.values()) or len(first) > 3:
        return len(gold.conditions) == len(answer.conditions) and (
            _matched(gold.points, answer.points, _in_order)
            and _matched(gold.conditions, answer.conditions, _same_items)
        )
    for order in itertools.permutations(second):
        names = dict(zip(order, first, strict=True))
        if any(second[old] != first[new] for old, new in names.items()):
            continue
        between = {old: sympy.Dummy(real=True) for old in names}
        swap = {between[old]: new for old, new in names.items()}
        points = [tuple(_renamed(_renamed(value, between), swap) for value in point) for point in answer.points]
        integers = [letter for letter, kind in first.items() if kind == "Z"]
        if _matched(gold.points, points, partial(_same_family_points, integers=integers)):
            return True
    return False


def _is_set_membership(item: Item) -> bool:
    return isinstance(item, Relation) and item.signs == ("in",) and isinstance(item.sides[1], Named)


def _parameters(conditions: list[Item]) -> dict[Any, str] | None:
    found: dict[Any, str] = {}
    for item in conditions:
        if not (isinstance(item, Relation) and (_is_set_membership(item) or item.signs == ("is",))):
            return None
        letter, kind = item.sides
        if not (isinstance(letter, Scalar) and isinstance(letter.expression, sympy.Symbol)):
            return None
        found[letter.expression] = kind.name if isinstance(kind, Named) else f"is {_words(kind)}"
    return found


def _renamed(value: Value, names: dict[Any, Any]) -> Value:
    if isinstance(value, Scalar):
        return replace(value, expression=value.expression.subs(names))
    if isinstance(value, Sequence):
        items = tuple(Answer(((_renamed(_value(item), names),),)) for item in value.items)
        return Sequence(value.opening, items, value.closing)
    return value


def _same_family_points(gold: tuple[Value, ...], answer: tuple[Value, ...], integers: list[Any]) -> bool:
    if _in_order(gold, answer):
        return True
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


# ---------------------------------------------------------------------------------------------------------- formulas


def _same_formula(gold: Answer, answer: Answer) -> bool:
    """Whether the alternatives of both can be paired, with equal items in each."""

    def alike(one: tuple[Item, ...], other: tuple[Item, ...]) -> bool:
        return _matched(_pairwise(one), _pairwise(other), _same_items)

    return _matched(gold.options, answer.options, alike)


def _pairwise(option: tuple[Item, ...]) -> list[Item]:
    """`a < b < c` as `a < b` and `b < c`; > and >= are reversed."""
    found: list[Item] = []
    turned = {">": "<", ">=": "<="}
    for item in option:
        if not isinstance(item, Relation):
            found.append(item)
            continue
        for left, sign, right in zip(item.sides, item.signs, item.sides[1:], strict=False):
            sides = (right, left) if sign in turned else (left, right)
            found.append(Relation(sides, (turned.get(sign, sign),), item.modulus))
    return found


def _same_items(gold: Item, answer: Item) -> bool:
    if not (isinstance(gold, Relation) and isinstance(answer, Relation)):
        return not isinstance(gold, Relation) and not isinstance(answer, Relation) and same_values(gold, answer)
    if gold.signs != answer.signs:
        return False
    (sign,) = gold.signs
    if gold.modulus is not None or answer.modulus is not None:
        return _same_congruence(gold, answer)
    (left, right), (other_left, other_right) = gold.sides, answer.sides
    if same_values(left, other_left) and same_values(right, other_right):
        return True
    if (
        sign in ("=", "!=", "perp", "parallel", "cong", "sim")
        and same_values(left, other_right)
        and same_values(right, other_left)
    ):
        return True
    if sign in ("=", "!=", "<", "<="):
        sides = []
        for side in (left, right, other_left, other_right):
            if not isinstance(side, Scalar) or isinstance(side.expression, sympy.MatrixBase):
                return False
            if side.degrees or side.percent or side.base or side.unit or side.words or side.expression.is_infinite:
                return False
            sides.append(side.expression)
        return equality.proportional(sides[0] - sides[1], sides[2] - sides[3], positive=sign in ("<", "<="))
    return False


def _same_congruence(gold: Relation, answer: Relation) -> bool:
    if gold.modulus is None or answer.modulus is None or gold.signs[0] not in ("equiv", "="):
        return False
    if not equality.same(gold.modulus, answer.modulus):
        return False
    sides = [side.expression for side in (*gold.sides, *answer.sides) if isinstance(side, Scalar)]
    if len(sides) != 4 or any(isinstance(side, sympy.MatrixBase) for side in sides):
        return False
    first, second = sides[0] - sides[1], sides[2] - sides[3]
    for one in (first - second, first + second):
        ratio = sympy.simplify(one / gold.modulus)
        if ratio.is_Integer:
            return True
    return False
