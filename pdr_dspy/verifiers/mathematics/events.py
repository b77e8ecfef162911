r"""Probabilities of events by their names: `P(A \cup B)`, `P(A \mid B)`, `P(A^c \cap B)`.

Every probability is written in those of intersections, so that `P(A \cup B)` equals `P(A) + P(B) - P(A \cap B)`.
"""

from __future__ import annotations

from typing import Any

import sympy

from pdr_dspy.verifiers.mathematics.tokens import Token, Unreadable, matching, split

_MOST = 5


def is_event(tokens: list[Token]) -> bool:
    """Whether tokens are names of events, joined by set operations."""
    return bool(tokens) and all(
        (token.kind == "sym" and token.text.isupper() and len(token.text) == 1)
        or (token.kind == "sym" and token.text == "c" and place and tokens[place - 1].text in ("^", "{"))
        or token[:2] in (("op", "|"), ("op", "'"), ("op", "^"), ("op", "_"), ("op", ","), ("rel", "mid"))
        or (token.kind == "cmd" and token.text in ("cup", "cap", "minus", "over:overline", "over:bar"))
        or (token.kind in ("open", "close") and token.text in "(){}")
        or (token.kind == "num" and place and tokens[place - 1].text in ("_", "{"))
        for place, token in enumerate(tokens)
    )


def probability(name: str, tokens: list[Token]) -> Any:
    """The probability of an event in those of intersections. Raises Unreadable."""
    bars = [place for place, token in enumerate(tokens) if token[:2] in (("op", "|"), ("rel", "mid"))]
    if len(bars) > 1:
        raise Unreadable("several conditions")
    if not bars:
        return _expected(name, _indicator(tokens, 0))
    event, given = _indicator(tokens[: bars[0]], 0), _indicator(tokens[bars[0] + 1 :], 0)
    return _expected(name, event * given) / _expected(name, given)


def _indicator(tokens: list[Token], depth: int) -> Any:
    """The indicator of an event as a polynomial in those of its letters."""
    if not tokens or depth > 10:
        raise Unreadable("an event")
    for joined in ("cup", "minus"):
        parts, found = split(tokens, "cmd", joined)
        if found:
            first, *others = (_indicator(part, depth + 1) for part in parts)
            for other in others:
                first = first + other - first * other if joined == "cup" else first - first * other
            return first
    commas, found = split(tokens, "op", ",")
    if found:
        return sympy.Mul(*[_indicator(part, depth + 1) for part in commas])
    parts, found = split(tokens, "cmd", "cap")
    factors = [_complemented(part, depth) for part in parts]
    return sympy.Mul(*factors)


def _complemented(tokens: list[Token], depth: int) -> Any:
    """One letter or bracket, or neighbours (`AB`), with marks of the complement."""
    product: Any = sympy.Integer(1)
    pairs = matching(tokens)
    place = 0
    if not tokens:
        raise Unreadable("an event")
    while place < len(tokens):
        token = tokens[place]
        over = token.kind == "cmd"
        place += over
        if place >= len(tokens):
            raise Unreadable("an event")
        if place in pairs:
            value = _indicator(tokens[place + 1 : pairs[place]], depth + 1)
            place = pairs[place] + 1
        elif tokens[place].kind == "sym":
            letter = tokens[place].text
            place += 1
            if place < len(tokens) and tokens[place].text == "_":
                end = pairs[place + 1] + 1 if place + 1 in pairs else place + 2
                letter += "_" + "".join(one.text for one in tokens[place + 1 : end] if one.text not in "{}")
                place = end
            value = sympy.Symbol(letter)
        else:
            raise Unreadable(tokens[place].text)
        while place < len(tokens) and tokens[place].text in ("'", "^"):
            if tokens[place].text == "^":
                end = pairs[place + 1] + 1 if place + 1 in pairs else place + 2
                if [one.text for one in tokens[place + 1 : end] if one.text not in "{}"] != ["c"]:
                    raise Unreadable("an event")
                place = end
            else:
                place += 1
            value = 1 - value
        product = product * (1 - value if over else value)
    return product


def _expected(name: str, indicator: Any) -> Any:
    letters = sorted(indicator.free_symbols, key=str)
    if len(letters) > _MOST:
        raise Unreadable("an event of many others")
    if not letters:
        return indicator
    total: Any = sympy.Integer(0)
    for powers, coefficient in sympy.Poly(sympy.expand(indicator), *letters).terms():
        events = [str(letter) for letter, power in zip(letters, powers, strict=True) if power]
        total += coefficient * (sympy.Symbol(f"{name}({' and '.join(events)})", positive=True) if events else 1)
    return total
