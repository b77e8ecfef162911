"""The values that an answer consists of, and the names among them: the data of `structures` and `comparison`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import sympy

from pdr_dspy.verifiers.mathematics.beside import NOTHING, Beside, harmless
from pdr_dspy.verifiers.mathematics.products import is_word


@dataclass(frozen=True)
class Scalar:
    """An expression with its notation."""

    expression: Any
    decimal: bool = False
    """Whether it contains a decimal."""
    percent: bool = False
    """Whether it is a percentage; the expression is the number before the sign."""
    degrees: bool = False
    unit: str | None = None
    words: Beside = NOTHING
    """The words after the value that are no known unit: `red apples`."""
    digits: str | None = None
    """The digits of a number written in a base other than ten."""
    base: int | None = None


@dataclass(frozen=True)
class Sequence:
    """A tuple, a point, a vector or an interval: its brackets and members."""

    opening: str
    items: tuple[Answer, ...]
    closing: str


@dataclass(frozen=True)
class Braces:
    """A finite set."""

    items: tuple[Answer, ...]


@dataclass(frozen=True)
class Named:
    """R, Z, N, Q, C or the empty set."""

    name: str


@dataclass(frozen=True)
class Combined:
    """A combination of sets: cup, cap or minus."""

    operation: str
    parts: tuple[Value, ...]


@dataclass(frozen=True)
class SuchThat:
    """A set given by the form of its members and their conditions."""

    member: Answer
    condition: Answer


@dataclass(frozen=True)
class Cases:
    """A function by cases: values and their conditions (None: otherwise)."""

    rows: tuple[tuple[Answer, Answer | None], ...]


@dataclass(frozen=True)
class Ratio:
    """3:4, 10:30"""

    items: tuple[Value, ...]
    clock: bool = False
    """Whether it may be a time of day."""


@dataclass(frozen=True)
class Formula:
    """A formula of logic, by its form."""

    form: str


@dataclass(frozen=True)
class Words:
    """Prose."""

    text: str


Value = Scalar | Sequence | Braces | Named | Combined | SuchThat | Cases | Ratio | Formula | Words


@dataclass(frozen=True)
class Relation:
    """Sides and the relations between neighbouring sides."""

    sides: tuple[Value, ...]
    signs: tuple[str, ...]
    modulus: Any = None


Item = Value | Relation


@dataclass(frozen=True)
class Answer:
    """Alternatives, each a list of items that hold together. There is always at least one."""

    options: tuple[tuple[Item, ...], ...]
    listed: bool = field(default=False)
    """Whether the alternatives are a list of values (`1, 2`), in their written order."""


def name_of(value: Value) -> str | None:
    """The key of a bare name: `x`, `x_1`, `f(2)`, `AB`, `|AB|`, `Area`, `(x, y)`; None for anything else."""
    if isinstance(value, Words):
        return None if re.search(r"[0-9]", value.text) or not harmless(value.text) else value.text.casefold()
    if isinstance(value, Sequence):
        names = [name_of(single) if (single := only(item)) is not None else None for item in value.items]
        return None if any(name is None for name in names) or value.opening != "(" else f"({','.join(map(str, names))})"
    if isinstance(value, Ratio):
        names = [name_of(item) for item in value.items]
        return None if any(name is None for name in names) else ":".join(map(str, names))
    if not isinstance(value, Scalar) or isinstance(value.expression, sympy.MatrixBase):
        return None
    if value.percent or value.degrees or value.unit or value.base or value.words:
        return None
    expression = value.expression
    if isinstance(expression, sympy.Abs):
        expression = expression.args[0]
        if not _segment(expression):
            return None
    if expression.is_Symbol or isinstance(expression, sympy.core.function.AppliedUndef) or _segment(expression):
        return sympy.srepr(expression)
    return None


def _segment(expression: Any) -> bool:
    """`AB`, `ABC`: a product of two capital letters, or three or four in a row."""
    if is_word(expression):
        return len(expression.name) < 5
    parts = expression.args if expression.is_Mul else ()
    return 2 <= len(parts) <= 4 and all(part.is_Symbol and part.name[0].isupper() for part in parts)


def is_quantity(value: Value) -> bool:
    """Whether a side only names the quantity on the other side: a name, or an expression in several letters (`m+n`)."""
    if name_of(value) is not None:
        return True
    if not isinstance(value, Scalar) or isinstance(value.expression, sympy.MatrixBase):
        return False
    return len(value.expression.free_symbols) > 1


def only(answer: Answer) -> Value | None:
    """The single value that an answer consists of; None if it is more than that."""
    if len(answer.options) == 1 and len(answer.options[0]) == 1 and not isinstance(answer.options[0][0], Relation):
        return answer.options[0][0]
    return None


def said_beside(part: Any) -> Iterator[tuple[str | None, Beside]]:
    """The units and the words beside the values of an answer."""
    if isinstance(part, Scalar):
        if part.unit or part.words:
            yield part.unit, part.words
    elif isinstance(part, tuple):
        for one in part:
            yield from said_beside(one)
    elif is_dataclass(part):
        for one in fields(part):
            yield from said_beside(getattr(part, one.name))


def value_of(one: Any) -> Value:
    """The only value of an answer, or the value itself; empty words for an answer of several."""
    found = only(one) if isinstance(one, Answer) else one
    return found if found is not None else Words("")


def words_of(value: Value) -> str | None:
    """What a value in words says: prose, a letter, a word of capitals; None for any other value."""
    if isinstance(value, Words):
        return re.sub(r"[\s().]+", " ", value.text).strip().casefold() or None
    if isinstance(value, Scalar) and isinstance(value.expression, sympy.Symbol):
        name = value.expression.name
        return name.casefold() if len(name) == 1 or is_word(value.expression) else None
    return None


def vector_of(value: Value) -> tuple[str, list[Any]] | None:
    """A point or vector: its notation, and its members."""
    if isinstance(value, Sequence) and (value.opening, value.closing) in (("(", ")"), ("<", ">")):
        return ("tuple" if value.opening == "(" else "angle"), list(value.items)
    if isinstance(value, Scalar) and isinstance(value.expression, sympy.MatrixBase) and 1 in value.expression.shape:
        kind = "column" if value.expression.cols == 1 else "row"
        return kind, [Scalar(cell, value.decimal) for cell in value.expression.flat()]
    return None


def by_rows(value: Value) -> Value:
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
