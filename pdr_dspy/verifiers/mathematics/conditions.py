r"""Conditions on letters in words (`n\text{ is even}`), congruences and remainders."""

from __future__ import annotations

import re
from typing import Any

import sympy

from pdr_dspy.text import number_words
from pdr_dspy.verifiers.mathematics.beside import after_value
from pdr_dspy.verifiers.mathematics.expressions import read_expression
from pdr_dspy.verifiers.mathematics.scalars import read_scalar
from pdr_dspy.verifiers.mathematics.tokens import Token, Unreadable, matching, split
from pdr_dspy.verifiers.mathematics.values import Named, Relation, Scalar, Value, Words


def property_of(tokens: list[Token]) -> Relation | None:
    r"""`n\text{ is even}`, `k\text{ odd}`: a letter with words that are no unit."""
    if len(tokens) < 2 or tokens[-1].kind != "text" or tokens[0].kind != "sym":
        return None
    letter, phrase = tokens[:-1], tokens[-1].text
    if len(letter) > 1 and letter[1].text != "_":
        return None
    said = re.findall(r"[^\W_]+", phrase.lower())
    bare = [word for word in said if word not in ("is", "are", "being", "be", "a", "an", "the", "any", "some")]
    if bare == said and (number_words.unit_named(phrase) or not after_value(phrase)):
        return None
    nouns = {"integer", "integers", "number", "numbers"}
    if len(bare) > 1 and bare[-1] in nouns and bare[-2] not in ("positive", "negative", "natural", "nonnegative"):
        bare = bare[:-1]
    if not bare:
        raise Unreadable(phrase)
    name = {"integer": "Z", "integers": "Z", "real": "R", "rational": "Q"}.get(" ".join(bare))
    if name is not None:
        return Relation((read_scalar(letter), Named(name)), ("in",))
    return Relation((read_scalar(letter), Words(" ".join(bare))), ("is",))


def modulus_of(tokens: list[Token]) -> tuple[list[Token], Any]:
    r"""The tokens before `\pmod 7`, and the modulus; None without one."""
    pairs = matching(tokens)
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token[:2] == ("open", "(") and tokens[place + 1][:2] == ("cmd", "mod") and pairs[place] == len(tokens) - 1:
            return tokens[:place], read_expression(tokens[place + 2 : -1])[0]
        if token.kind == "cmd" and token.text in ("mod", "pmod", "bmod"):
            rest = tokens[place + 1 :]
            if rest and rest[0][:2] == ("open", "{") and matching(rest)[0] == len(rest) - 1:
                rest = rest[1:-1]
            return tokens[:place], read_expression(rest)[0]
        place = pairs[place] + 1 if place in pairs else place + 1
    return tokens, None


def remainder(tokens: list[Token]) -> Value:
    r"""`n \bmod 3`. Of numbers it is none: `2 \bmod 5` may name a class as well as a number."""
    sides, found = split(tokens, "cmd", "bmod", "mod")
    if len(found) != 1 or not all(sides):
        raise Unreadable("a modulus without a congruence")
    (value, decimal), (modulus, other) = map(read_expression, sides)
    if decimal or other or isinstance(value, sympy.MatrixBase) or isinstance(modulus, sympy.MatrixBase):
        raise Unreadable("a remainder")
    if not (value.free_symbols or modulus.free_symbols):
        raise Unreadable("a modulus without a congruence")
    return Scalar(sympy.Function("remainder")(value, modulus))
