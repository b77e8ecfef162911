"""Answers as subsets of the real line: intervals, unions, sets, inequalities in one letter."""

from __future__ import annotations

from typing import Any

import sympy

from pdr_dspy.verifiers.mathematics import regions
from pdr_dspy.verifiers.mathematics.regions import Region
from pdr_dspy.verifiers.mathematics.values import (
    Answer,
    Braces,
    Combined,
    Item,
    Named,
    Relation,
    Scalar,
    Sequence,
    SuchThat,
    Value,
    name_of,
    only,
)


def area_of(answer: Answer) -> tuple[str | None, Region] | None:
    """An answer as a subset of the real line, with the name of its variable; None if it is not one."""
    try:
        return _region(answer)
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return None


def lists_sets(answer: Answer) -> bool:
    r"""Whether an answer is several values, some of them finite sets: `\{1\}, \{2\}` is not `\{1, 2\}`."""
    return len(answer.options) > 1 and any(
        isinstance(item, Braces) or (isinstance(item, Named) and item.name == "empty")
        for option in answer.options
        for item in option
    )


def _region(answer: Answer) -> tuple[str | None, Region] | None:
    name: str | None = None
    found: Region = regions.NOTHING
    if lists_sets(answer):
        return None
    for option in answer.options:
        part: Region = regions.EVERYTHING
        for item in option:
            one = _item_region(item)
            if one is None:
                return None
            if one[0] is not None:
                if name is not None and name != one[0]:
                    return None
                name = one[0]
            part = regions.intersection(part, one[1])
        if part == regions.NOTHING and any(isinstance(item, Relation) and item.signs != ("in",) for item in option):
            return None  # a contradiction is not the same as every other
        found = regions.union(found, part)
    return name, found


def _item_region(item: Item) -> tuple[str | None, Region] | None:
    if isinstance(item, Relation):
        return _relation_region(item)
    area = _value_region(item)
    return None if area is None else (None, area)


def _real(value: Any) -> Any:
    """A real number, or infinity; None for anything else."""
    single = only(value) if isinstance(value, Answer) else value
    if not isinstance(single, Scalar) or isinstance(single.expression, sympy.MatrixBase):
        return None
    number = single.expression
    if single.base is not None or single.percent or single.degrees:
        return None
    return number if number.is_number and (number.is_real or number.is_infinite) else None


_ZERO = sympy.Integer(0)
_NAMED = {
    **{"R": regions.EVERYTHING, "empty": regions.NOTHING, "R*": regions.complement(regions.point(_ZERO))},
    **{"R+": regions.interval(_ZERO, True, sympy.oo, True), "R+0": regions.interval(_ZERO, False, sympy.oo, True)},
    **{"R-": regions.interval(-sympy.oo, True, _ZERO, True), "R-0": regions.interval(-sympy.oo, True, _ZERO, False)},
}


def _value_region(value: Value) -> Region | None:
    if isinstance(value, Sequence):
        ends = [_real(item) for item in value.items]
        kinds = {"(": True, "[": False, "]": True}
        if len(ends) != 2 or any(end is None for end in ends) or value.opening not in kinds:
            return None
        if value.closing not in (")", "]", "["):
            return None
        if regions.compare(ends[0], ends[1]) >= 0:
            return None
        if (ends[0].is_infinite and not kinds[value.opening]) or (ends[1].is_infinite and value.closing == "]"):
            return None  # [0, \infty] is not a set of real numbers
        return regions.interval(ends[0], kinds[value.opening], ends[1], value.closing != "]")
    if isinstance(value, Named):
        return _NAMED.get(value.name)
    if isinstance(value, Braces):
        numbers = [_real(item) for item in value.items]
        if any(number is None or number.is_infinite for number in numbers):
            return None
        return regions.union(*[regions.point(number) for number in numbers])
    if isinstance(value, Combined):
        parts = [_value_region(part) for part in value.parts]
        if any(part is None for part in parts):
            return None
        areas = [part for part in parts if part is not None]
        found = areas[0]
        for area in areas[1:]:
            if value.operation == "cup":
                found = regions.union(found, area)
            else:
                found = regions.intersection(found, area if value.operation == "cap" else regions.complement(area))
        return found
    if isinstance(value, SuchThat):
        return _such_that_region(value)
    return None


def _such_that_region(value: SuchThat) -> Region | None:
    if len(value.member.options) != 1 or len(value.member.options[0]) != 1:
        return None
    member = value.member.options[0][0]
    domain: Region | None = regions.EVERYTHING
    if isinstance(member, Relation):
        if member.signs != ("in",):
            return None
        domain = _value_region(member.sides[1])
        member = member.sides[0]
    name, condition = name_of(member), _region(value.condition)
    if name is None or condition is None or condition[0] != name or domain is None:
        return None
    return regions.intersection(domain, condition[1])


def _relation_region(relation: Relation) -> tuple[str | None, Region] | None:
    """The set on which a relation in one variable holds."""
    if relation.modulus is not None:
        return None
    if relation.signs in (("in",), ("notin",)):
        name, area = name_of(relation.sides[0]), _value_region(relation.sides[1])
        if name is None or area is None:
            return None
        return name, (area if relation.signs == ("in",) else regions.complement(area))
    if not set(relation.signs) <= {"<", "<=", ">", ">=", "=", "!="}:
        return None
    sides = []
    for side in relation.sides:
        if (
            not isinstance(side, Scalar)
            or isinstance(side.expression, sympy.MatrixBase)
            or side.degrees
            or side.percent
        ):
            return None
        sides.append(side.expression)
    called = {call for side in sides for call in side.atoms(sympy.core.function.AppliedUndef)}
    if len(called) > 1:
        return None
    letters = {letter for side in sides for letter in side.free_symbols}
    if called:
        call = called.pop()
        if any(side != call and (side.has(call) or side.free_symbols) for side in sides):
            return None
        letter = sympy.Dummy(real=True)
        sides = [side.subs(call, letter) for side in sides]
        name = sympy.srepr(call)
    elif len(letters) == 1:
        letter = letters.pop()
        name = sympy.srepr(letter)
    else:
        return None
    found: Region = regions.EVERYTHING
    for left, sign, right in zip(sides, relation.signs, sides[1:], strict=False):
        if left.is_infinite or right.is_infinite:
            if (left.is_infinite and right == letter) or (right.is_infinite and left == letter):
                continue
            return None
        area = regions.where(left - right, sign, letter)
        if area is None:
            return None
        found = regions.intersection(found, area)
    return name, found
