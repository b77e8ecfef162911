"""Sides of equations that only name a quantity: `x`, `f(2)`, `Total cost`, `m+n`."""

from __future__ import annotations

import re

from pdr_dspy.text import number_words as tables

_NAMED = (
    r"(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|phi|omega|sigma|rho|angle|triangle|overline|overrightarrow|ell"
    r"|measuredangle|vec|hat|bar)"
)
_QUANTITY = re.compile(
    rf"(?P<name>\\{_NAMED}(?![A-Za-z])|[^\W\d_]+)(?:_\s?(?:\{{[A-Za-z0-9,+ -]{{1,20}}\}}|[A-Za-z0-9]+))?'*"
    r"(?P<of>\([A-Za-z0-9, .+-]{1,20}\))?|(?P<sign>[+*/^·×|\[\]{}() .:-])|(?P<figure>[0-9]+)"
)
_OPENING = re.compile(r"(?:so|thus|hence|therefore|then|and|finally|answer|final answer|the answer is)\s?[,:]?\s", re.I)
_SEGMENT = re.compile(r"(?:\\[a-z]+ ?|[|\[{ ])*(?:[A-Z]{1,4}|[A-Za-z]_\{[^{}]*\}|[a-z](?=\}))[|\]} ]*(?:\^2)?")
_NOT_A_FUNCTION = frozenset("abcdeiklmnorstuvwxyz")


def is_quantity(side: str, *, zero: bool) -> bool:
    """Whether one side of an equation only names the quantity on the other side.

    A name does (`x`, `f(2)`, `AB`, `Total cost`), and so does an expression in several names (`m+n`, `100m+n`), whose
    value determines none of them; `a + 3z = 0` states no value but an equation. `2x = 4` does not state 4.
    """
    side = side.strip()
    while opening := _OPENING.match(side):
        side = side[opening.end() :]
    if len(side) > 200 or tables.PHRASES.search(side):
        return False
    position, names, nouns, worked = 0, set[str](), set[str](), False
    for token in _QUANTITY.finditer(side):
        if token.start() != position:
            return False
        position = token.end()
        name = token["name"]
        if name is None:
            worked = worked or token["figure"] is not None or token["sign"] in "+*/^·×-"
            continue
        lower = name.lstrip("\\").lower()
        if lower in tables.NOT_PLAIN or lower in tables.AFTER or not lower.isalpha():
            return False
        if lower in tables.FOREIGN_SCALES or (len(lower) > 3 and (tables.is_scale(lower) or lower in tables.DOZENS)):
            return False
        if token["of"] and (name in _NOT_A_FUNCTION or len(name) > 3):
            return False
        if len(name) == 1 or name.startswith("\\"):
            names.add(token.group())
        elif len(name) <= 3 and lower not in tables.SHORT_NOUNS:
            names.update(name)
        else:
            nouns.add(lower)
    if (
        position != len(side)
        or not (names or nouns)
        or (re.search(r"[|\[\]{}]", side) and not _SEGMENT.fullmatch(side))
    ):
        return False
    if nouns:
        return not any(char.isdigit() for char in side)
    plain = not zero or not re.search(r"[0-9*/^·×]", side)
    return not worked or _SEGMENT.fullmatch(side) is not None or (len(names) > 1 and plain)
