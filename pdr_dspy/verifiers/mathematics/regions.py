"""Subsets of the real line as sorted intervals with exact ends."""

from __future__ import annotations

from functools import cmp_to_key
from typing import Any, NamedTuple

import sympy
from mpmath import mp

from pdr_dspy.verifiers.mathematics import equality


class Interval(NamedTuple):
    """From `low` to `high`; an open end is not included."""

    low: Any
    low_open: bool
    high: Any
    high_open: bool


Region = tuple[Interval, ...]
EVERYTHING: Region = (Interval(-sympy.oo, True, sympy.oo, True),)
NOTHING: Region = ()


def compare(first: Any, second: Any) -> int:
    """-1, 0 or 1 if the first number is below, equal to or above the second."""
    if first == second or (first.is_finite and second.is_finite and equality.same(first, second)):
        return 0
    if sympy.oo in (second, -first) or -sympy.oo in (first, -second):
        return -1
    if sympy.oo in (first, -second) or -sympy.oo in (second, -first):
        return 1
    with mp.workdps(60):
        difference = (first - second).evalf(50)
    return 1 if difference > 0 else -1


def interval(low: Any, low_open: bool, high: Any, high_open: bool) -> Region:
    """The interval as a region, possibly empty."""
    low_open, high_open = low_open or low.is_infinite, high_open or high.is_infinite
    order = compare(low, high)
    if order > 0 or (order == 0 and (low_open or high_open)):
        return NOTHING
    return (Interval(low, low_open, high, high_open),)


def point(value: Any) -> Region:
    """One number."""
    return (Interval(value, False, value, False),)


def union(*regions: Region) -> Region:
    """The numbers in any of the regions."""
    parts = sorted(
        (one for region in regions for one in region),
        key=cmp_to_key(lambda a, b: compare(a.low, b.low) or a.low_open - b.low_open),
    )
    found: list[Interval] = []
    for one in parts:
        if found:
            last = found[-1]
            order = compare(one.low, last.high)
            if order < 0 or (order == 0 and not (one.low_open and last.high_open)):
                beyond = compare(one.high, last.high)
                if beyond > 0:
                    found[-1] = last._replace(high=one.high, high_open=one.high_open)
                elif beyond == 0:
                    found[-1] = last._replace(high_open=last.high_open and one.high_open)
                continue
        found.append(one)
    return tuple(found)


def intersection(first: Region, second: Region) -> Region:
    """The numbers in both regions."""
    found: Region = ()
    for one in first:
        for other in second:
            order = compare(one.low, other.low)
            low, low_open = (other.low, other.low_open) if order < 0 else (one.low, one.low_open)
            if order == 0:
                low_open = one.low_open or other.low_open
            order = compare(one.high, other.high)
            high, high_open = (one.high, one.high_open) if order < 0 else (other.high, other.high_open)
            if order == 0:
                high_open = one.high_open or other.high_open
            found += interval(low, low_open, high, high_open)
    return union(found)


def complement(region: Region) -> Region:
    """The real numbers outside of the region."""
    found: Region = ()
    low, low_open = -sympy.oo, True
    for one in union(region):
        found += interval(low, low_open, one.low, not one.low_open)
        low, low_open = one.high, not one.high_open
    return found + interval(low, low_open, sympy.oo, True)


def same(first: Region, second: Region) -> bool:
    """Whether two regions are equal sets."""
    first, second = union(first), union(second)
    return len(first) == len(second) and all(
        (one.low_open, one.high_open) == (other.low_open, other.high_open)
        and compare(one.low, other.low) == 0
        and compare(one.high, other.high) == 0
        for one, other in zip(first, second, strict=True)
    )


def from_sympy(found: Any) -> Region | None:
    """A sympy set as a region; None if it is not one."""
    if found is sympy.S.Reals:
        return EVERYTHING
    if found is sympy.S.EmptySet:
        return NOTHING
    if isinstance(found, sympy.Interval):
        return interval(found.start, bool(found.left_open), found.end, bool(found.right_open))
    if isinstance(found, sympy.FiniteSet):
        return union(*[point(value) for value in found])
    if isinstance(found, sympy.Union):
        parts = [from_sympy(part) for part in found.args]
        return None if any(part is None for part in parts) else union(*[part for part in parts if part is not None])
    return None


def where(expression: Any, sign: str, letter: Any) -> Region | None:
    """The real values of `letter` for which `expression` is `sign` 0; None if they cannot be determined."""
    if not expression.has(letter):
        return None
    slope = sympy.diff(expression, letter) if expression.is_polynomial(letter) else None
    if slope is not None and slope.is_number and slope != 0:
        root = -expression.subs(letter, 0) / slope
        if not (root.is_real and slope.is_real):
            return None
        if sign in ("=", "!="):
            return point(root) if sign == "=" else complement(point(root))
        below = (sign in ("<", "<=")) == bool(slope > 0)
        is_open = sign in ("<", ">")
        return interval(-sympy.oo, True, root, is_open) if below else interval(root, is_open, sympy.oo, True)
    relations = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "!=": sympy.Ne, "=": sympy.Eq}
    if sign not in relations:
        return None
    try:
        if sign in ("=", "!="):
            roots = from_sympy(sympy.solveset(expression, letter, sympy.S.Reals))
            return roots if sign == "=" or roots is None else complement(roots)
        found = sympy.solve_univariate_inequality(relations[sign](expression, 0), letter, relational=False)
    except Exception:
        return None
    return from_sympy(found)
