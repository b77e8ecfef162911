"""The letters that a definition of a function binds: `f(t) = 2t - 1` defines the same function as `f(x) = 2x - 1`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sympy

from pdr_dspy.verifiers.mathematics.families import renamed
from pdr_dspy.verifiers.mathematics.values import Answer, Relation, Scalar


def with_letters_of(gold: Answer, answer: Answer) -> Answer:
    """A definition of a function with the letters that the gold answer's definition of it binds; any other answer
    unchanged, as is one that has the gold answer's letters as parameters (`f(t) = xt`)."""
    want, have = _definition(gold), _definition(answer)
    if want is None or have is None or want[1].func != have[1].func or len(want[1].args) != len(have[1].args):
        return answer
    relation, function = have
    if function.args == want[1].args:
        return answer
    if any(not isinstance(side, Scalar) or isinstance(side.expression, sympy.MatrixBase) for side in relation.sides):
        return answer
    letters = {letter for side in relation.sides for letter in side.expression.free_symbols}  # type: ignore[union-attr]
    if (letters - set(function.args)) & set(want[1].args):
        return answer
    between = {letter: sympy.Dummy() for letter in function.args}
    final = {between[own]: other for own, other in zip(function.args, want[1].args, strict=True)}
    sides = tuple(renamed(renamed(side, between), final) for side in relation.sides)
    return Answer(((replace(relation, sides=sides),),), answer.listed)


def _definition(answer: Answer) -> tuple[Relation, Any] | None:
    """The relation that an answer consists of and its left side, if that is a function of different letters."""
    if len(answer.options) != 1 or len(answer.options[0]) != 1:
        return None
    relation = answer.options[0][0]
    if not isinstance(relation, Relation) or set(relation.signs) != {"="} or not isinstance(relation.sides[0], Scalar):
        return None
    function = relation.sides[0].expression
    if not isinstance(function, sympy.core.function.AppliedUndef):
        return None
    letters = function.args
    return (relation, function) if len(set(letters)) == len(letters) and all(one.is_Symbol for one in letters) else None
