"""The smallest parts of an expression: letters, brackets, matrices, commands."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Integer

from pdr_dspy.verifiers.mathematics import calculus, events
from pdr_dspy.verifiers.mathematics.arithmetic import arrangements, binomial, determinant, over, power, scalar, symbol
from pdr_dspy.verifiers.mathematics.cursor import table
from pdr_dspy.verifiers.mathematics.functions import Functions
from pdr_dspy.verifiers.mathematics.tokens import Invalid, Token, Unreadable, matching, split

_FUNCTION_NAMES = frozenset("fghFGHPQW")
_MATRICES = frozenset(f"env:{name}" for name in ("pmatrix", "bmatrix", "matrix", "Bmatrix", "array", "smallmatrix"))


class Atoms(Functions):
    """Reads values without signs and exponents."""

    def atom(self) -> Any:
        token = self.peek()
        if token is None:
            raise Unreadable("a missing value at the end")
        if token.kind == "sym":
            return self.letter(call=True)
        if token.kind == "fun":
            return self.function()
        if token.kind == "open":
            return self.bracket()
        if token[:2] == ("op", "|") and not self.bars:
            return self.bar()
        if token.kind == "cmd":
            return self.command()
        raise Unreadable(token.text)

    def letter(self, *, call: bool = False) -> Any:
        token = self.take()
        name = token.text
        index = self.subscript()
        primes = ""
        while self.at("op", "'"):
            self.take()
            primes += "'"
        if name == "i" and not index and not primes:
            return sympy.I
        if name == "e" and not index and not primes:
            return sympy.E
        full = name + index + primes
        following = self.peek()
        if call and name in ("C", "P") and full == name and (counted := self.counted(name)) is not None:
            return counted
        if call and name in _FUNCTION_NAMES and following is not None:
            inverse = ""
            if following[:2] == ("op", "^"):
                ahead = self.tokens[self.place + 1 : self.place + 6]
                if [one.text for one in ahead] == ["{", "-", "1", "}", "("]:
                    inverse = "^-1"
                    self.place += 5
                    following = self.peek()
            if following is not None and following[:2] == ("open", "("):
                arguments, _ = split(self.enclosed(), "op", ",", ";")
                return sympy.Function(full + inverse)(*[self.inner(one) for one in arguments])
        return symbol(full)

    def counted(self, name: str) -> Any:
        """`C(10, 3)`, `P(5, 2)` of numbers, and `P(A \\cup B)`, whose brackets are consumed; None for anything else."""
        if not self.at("open", "("):
            return None
        inside = self.tokens[self.place + 1 : self.pairs[self.place]]
        if name == "P" and events.is_event(inside):
            self.enclosed()
            return events.probability(name, inside)
        arguments, _ = split(inside, "op", ",")
        if len(arguments) != 2 or not all(arguments):
            return None
        upper, lower = map(self.inner, arguments)
        if name == "C" or (upper.is_Integer and lower.is_Integer):
            self.enclosed()
            return binomial(upper, lower) if name == "C" else arrangements(upper, lower)
        return None

    def bracket(self) -> Any:
        token = self.peek()
        assert token is not None
        closing = self.tokens[self.pairs[self.place]].text
        name = token.text
        if name.startswith("env:"):
            return self.matrix()
        inside = self.enclosed()
        if name == "|":
            return sympy.Abs(scalar(self.inner(inside)))
        if name in ("floor", "ceil"):
            value = scalar(self.inner(inside))
            return sympy.floor(value) if name == "floor" else sympy.ceiling(value)
        if (name, closing) == ("{", "}") and (chosen := self.chosen(inside)) is not None:
            return chosen
        if (name, closing) not in (("(", ")"), ("[", "]"), ("{", "}")):
            raise Unreadable(f"{name} {closing}")
        value = self.inner(inside)
        if self.at("op", "_"):
            raise Unreadable("a base inside of an expression")
        return value

    def chosen(self, inside: list[Token]) -> Any:
        r"""`{n \choose k}`"""
        parts, found = split(inside, "cmd", "choose")
        return binomial(*(self.inner(part) for part in parts)) if len(found) == 1 else None

    def bar(self) -> Any:
        self.take()
        start = self.place
        for end in range(start + 1, len(self.tokens)):
            if self.tokens[end][:2] != ("op", "|"):
                continue
            inside = self.tokens[start:end]
            try:
                matching(inside)
                value = self.inner(inside, bars=True)
            except Unreadable:
                continue
            self.place = end + 1
            return sympy.Abs(scalar(value))
        raise Unreadable("a bar")

    def matrix(self) -> Any:
        token = self.peek()
        assert token is not None
        name = token.text
        rows = table(self.enclosed())
        values = [[scalar(self.inner(cell)) for cell in row] for row in rows]
        if not values or len({len(row) for row in values}) != 1:
            raise Unreadable("rows of different lengths")
        found = sympy.ImmutableMatrix(values)
        if name in _MATRICES:
            return found
        if name == "env:vmatrix":
            return determinant(found)
        raise Unreadable(name)

    def command(self) -> Any:
        name = self.take().text
        if name == "pi":
            return sympy.pi
        if name == "infty":
            return sympy.oo
        if name == "frac":
            numerator = self.argument()
            return over(numerator, self.argument())
        if name == "binom":
            upper = self.argument()
            return binomial(upper, self.argument())
        if name == "perm":
            upper = self.argument()
            return arrangements(upper, self.argument())
        if name in ("sqrt", "cbrt", "root"):
            return self.root(name)
        if name.startswith("over:"):
            inside = self.argument_tokens()
            text = "".join(token.text for token in inside)
            if not inside or any(token.kind == "num" for token in inside):
                raise Unreadable(name)
            if name == "over:overline" and len(text) == 2 and text.isalpha() and text.isupper():  # a segment
                return symbol(text[0]) * symbol(text[1])
            return symbol(f"{name[5:]}({text})" + self.subscript())
        if name in ("angle", "triangle"):
            text = ""
            while self.at("sym") and len(text) < 4:
                text += self.take().text
            if name == "angle" and len(text) == 3:  # ABC is CBA
                text = min(text, text[::-1])
            return symbol(f"{name} {text}")
        if name in ("sum", "prod"):
            return calculus.series(self, name)
        if name == "int":
            return calculus.integral(self)
        if name == "lim":
            return calculus.limit(self)
        raise Unreadable(name)

    def root(self, name: str) -> Any:
        degree: Any = Integer(3 if name == "cbrt" else 2)
        if name == "sqrt" and self.at("open", "["):
            degree = self.inner(self.enclosed())
            if not (degree.is_Symbol or (degree.is_Integer and 2 <= degree <= 10_000)):
                raise Unreadable("the degree of a root")
        token = self.peek()
        if token is not None and token.kind == "num":
            if name == "sqrt" and len(token.text) > 1 and not token.space and "." not in token.text:
                raise Invalid("an ambiguous argument of a root")  # \sqrt23
            inside = self.number()
        elif token is not None and token[:2] == ("open", "("):
            inside = self.inner(self.enclosed())
        else:
            inside = self.argument()
        return power(scalar(inside), 1 / degree)
