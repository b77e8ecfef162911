"""Equality of two structures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import sympy

from pdr_dspy.verifiers.mathematics import equality, regions, units, verbatim
from pdr_dspy.verifiers.mathematics.areas import area_of
from pdr_dspy.verifiers.mathematics.arithmetic import TooLarge
from pdr_dspy.verifiers.mathematics.assignments import Equality, Points, as_roots, distinct, lined_up, points_of
from pdr_dspy.verifiers.mathematics.beside import agree
from pdr_dspy.verifiers.mathematics.bound import with_letters_of
from pdr_dspy.verifiers.mathematics.families import is_set_membership, parameters, renamed, same_family_points
from pdr_dspy.verifiers.mathematics.regions import Region
from pdr_dspy.verifiers.mathematics.scalar_equality import is_matrix, same_scalars
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
    by_rows,
    only,
    said_beside,
    value_of,
    vector_of,
    words_of,
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
    if answer is not None and units.in_one_unit(answer) != answer and all(map(_is_bare, found[0])):
        return {"equal": False}  # `2 m 50 cm` is 250 and 2.5 in different units
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


def _is_bare(gold: Answer) -> bool:
    """Whether no value of a gold answer has a unit."""
    items = [item for option in gold.options for item in option]
    values = [value for item in items for value in (item.sides if isinstance(item, Relation) else (item,))]
    return not any(isinstance(value, Scalar) and value.unit for value in values)


def _as_written(gold: str, answer: str | None) -> dict[str, Any]:
    """The verdict on an answer to a gold answer that is no mathematics."""
    if answer is None:
        return {"readable": True, "verbatim": True}
    return {"equal": verbatim.form(gold) == verbatim.form(answer), "verbatim": True}


def same(gold: Answer, answer: Answer) -> bool:
    """Whether an answer is equal to the gold answer."""
    gold, answer = _unfolded(gold), _unfolded(answer)
    answer = with_letters_of(gold, answer)
    if _of_different_things(gold) and not any(said_beside(answer)):
        return False  # which is which in `3, 4`?
    want, have = points_of(gold, _ALIKE, is_gold=True), points_of(answer, _ALIKE, is_gold=False)
    if want is not None and have is not None and _same_points(want, have):
        return True
    first, second = area_of(gold), area_of(answer)
    if first is not None and second is not None and _annotated_alike(gold, answer):
        if (None in (first[0], second[0]) or first[0] == second[0]) and regions.same(first[1], second[1]):
            return True
        if _ignores_letters(gold) and _ignores_letters(answer) and regions.same(first[1], second[1]):
            return True
    return _same_formula(gold, answer)


def _of_different_things(gold: Answer) -> bool:
    r"""Whether a list says how many there are of each of several things: `3 \text{ red and } 4 \text{ blue}`."""
    values = [option[0] for option in gold.options if len(option) == 1]
    things = {value.words.counted for value in values if isinstance(value, Scalar)}
    return len(things) > 1 and len(things) == len(gold.options) and all(things)


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
        return words_of(gold) is not None and words_of(gold) == words_of(answer)
    if isinstance(gold, Cases) and isinstance(answer, Cases):
        return _same_cases(gold, answer)
    if isinstance(gold, Ratio):
        return _same_ratio(gold, answer)
    if is_matrix(gold) != is_matrix(answer):
        gold, answer = by_rows(gold), by_rows(answer)
        if isinstance(gold, Scalar) and isinstance(answer, Scalar):
            return same_scalars(gold, answer)
    first, second = vector_of(gold), vector_of(answer)
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
        return _matched(distinct(gold.items, _same_member), distinct(answer.items, _same_member), _same_member)
    if isinstance(gold, Combined) and isinstance(answer, Combined) and gold.operation == answer.operation:
        if gold.operation == "minus":
            return _in_order(gold.parts, answer.parts)
        return _matched(gold.parts, answer.parts, same_values)
    if isinstance(gold, SuchThat) and isinstance(answer, SuchThat):
        return _same_sets_of(gold, answer)
    return False


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


def _same_single(gold: Any, answer: Any) -> bool:
    return (
        same(gold, answer)
        if isinstance(gold, Answer) and isinstance(answer, Answer)
        else same_values(value_of(gold), value_of(answer))
    )


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


def _same_points(gold: Points, answer: Points) -> bool:
    if gold.names is not None and answer.names is not None:
        if gold.names != answer.names:
            gold, answer = as_roots(gold, answer.names), as_roots(answer, gold.names)
        if gold.names != answer.names:
            return False
    elif not (gold.names is answer.names is None):
        lined = lined_up(gold, answer)
        if lined is None:
            return False
        gold, answer = lined
    if gold.conditions or answer.conditions:
        return _same_families(gold, answer)
    return _matched(gold.points, answer.points, _in_order)


def _same_families(gold: Points, answer: Points) -> bool:
    r"""Whether values with a parameter are equal (`2n\pi, n \in \mathbb Z`), under any name of the parameter."""
    if not gold.conditions or not answer.conditions:
        left = gold.conditions or answer.conditions
        return all(is_set_membership(one) for one in left) and _matched(gold.points, answer.points, _in_order)
    first, second = parameters(gold.conditions), parameters(answer.conditions)
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
        points = [tuple(renamed(renamed(value, between), swap) for value in point) for point in answer.points]
        integers = [letter for letter, kind in first.items() if kind == "Z"]
        if _matched(gold.points, points, partial(_same_family_point, integers=integers)):
            return True
    return False


def _same_family_point(gold: tuple[Value, ...], answer: tuple[Value, ...], integers: list[Any]) -> bool:
    return _in_order(gold, answer) or same_family_points(gold, answer, integers)


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


_ALIKE = Equality(same_values, _same_member)
