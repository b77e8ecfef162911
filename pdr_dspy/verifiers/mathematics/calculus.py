"""Sums, products, definite integrals and limits, by their value."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Integer, Symbol

from pdr_dspy.verifiers.mathematics.arithmetic import TooLarge, symbol
from pdr_dspy.verifiers.mathematics.cursor import Cursor
from pdr_dspy.verifiers.mathematics.tokens import Unreadable, split


def series(reader: Cursor, name: str) -> Any:
    """The sum or product (by `name`) that is next, in closed form. Raises Unreadable, TooLarge."""
    below, above = reader.bounds()
    (left, *right), signs = split(below, "rel", "=")
    if len(signs) != 1 or len(left) != 1 or left[0].kind != "sym" or not above:
        raise Unreadable("the bounds of a sum")
    index = symbol(left[0].text)
    if index in (sympy.I, sympy.E):
        index = Symbol(left[0].text, real=True)
    start, end = reader.inner(right[0]), reader.inner(above)
    body = reader.product()
    subscripted = any("_" in one.name and left[0].text in one.name.split("_", 1)[1] for one in body.free_symbols)
    if subscripted or left[0].text in ("i", "e"):
        return sympy.Function(f"{name} over {left[0].text}")(body, start, end)
    if start.is_Integer and end.is_Integer and not 0 <= end - start <= 2_000:
        raise TooLarge
    series = sympy.Sum if name == "sum" else sympy.Product
    value = series(body, (index, start, end)).doit()
    if value.has(sympy.Sum, sympy.Product):
        raise Unreadable("a sum without a closed form")
    return value


def integral(reader: Cursor) -> Any:
    """The definite integral that is next. Raises Unreadable without a closed form."""
    below, above = reader.bounds()
    rest = reader.tokens[reader.place :]
    ends = [
        place
        for place in range(len(rest) - 1)
        if rest[place][:2] == ("sym", "d") and rest[place + 1].kind == "sym" and not rest[place + 1].space
    ]
    if not ends or not below or not above:
        raise Unreadable("an integral")
    variable = symbol(rest[ends[0] + 1].text)
    body = reader.inner(rest[: ends[0]]) if ends[0] else Integer(1)
    reader.place += ends[0] + 2
    value = sympy.integrate(body, (variable, reader.inner(below), reader.inner(above)))
    if value.has(sympy.Integral):
        raise Unreadable("an integral without a closed form")
    return value


def limit(reader: Cursor) -> Any:
    """The limit that is next. Raises Unreadable."""
    below, above = reader.bounds()
    sides, signs = split(below, "rel", "to")
    if len(signs) != 1 or len(sides[0]) != 1 or above:
        raise Unreadable("a limit")
    value = sympy.limit(
        reader.product(),
        symbol(sides[0][0].text),
        reader.inner(sides[1]),
        "+-" if sides[1][-1].text != "infty" else "-",
    )
    if value.has(sympy.Limit):
        raise Unreadable("a limit")
    return value
