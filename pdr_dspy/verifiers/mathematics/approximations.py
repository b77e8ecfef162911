"""Approximations: the exact and the rounded side of `1/3 ≈ 0.333`."""

from __future__ import annotations

from dataclasses import replace

from pdr_dspy.verifiers.mathematics.tokens import Unreadable
from pdr_dspy.verifiers.mathematics.values import Answer, Item, Relation, Scalar


def approximate(answer: Answer, *, keep: int) -> Answer:
    """The answer with only the side before (keep=0) or after (keep=-1) the sign of an approximation."""

    def cut(item: Item) -> Item:
        if not isinstance(item, Relation) or "approx" not in item.signs:
            return item
        place = item.signs.index("approx")
        if set(item.signs[:place]) - {"="} or set(item.signs[place:]) - {"approx", "="}:
            raise Unreadable("an approximation")
        numbers = [side for side in item.sides if isinstance(side, Scalar) and side.expression.is_number]
        last = item.sides[-1]
        if not (isinstance(last, Scalar) and last in numbers):
            raise Unreadable("an approximation of something other than a number")
        for number in numbers:
            want, have = complex(number.expression.evalf()), complex(last.expression.evalf())
            if abs(want - have) * 50 > abs(want):
                raise Unreadable("an incorrect approximation")
        names = [side for side in item.sides[: place + 1] if side not in numbers]
        exact = [side for side in item.sides[: place + 1] if side in numbers]
        sides = (*names, exact[-1] if exact and keep == 0 else last)
        return sides[0] if len(sides) == 1 else Relation(sides, ("=",) * (len(sides) - 1))

    return replace(answer, options=tuple(tuple(cut(item) for item in option) for option in answer.options))
