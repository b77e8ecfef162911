r"""Parses tokens into one exact sympy expression.

Numbers are fractions, decimals too. Ambiguous notation is rejected: `1/2x`, `2^3^2`, `e^2x`, `2 3`. Nothing is
evaluated beyond what sympy does automatically, and no number grows beyond `MAX_BITS`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import sympy
from sympy import Rational

from pdr_dspy.verifiers.mathematics import products
from pdr_dspy.verifiers.mathematics.arithmetic import DEGREE, added, checked, factorial, over, power, times
from pdr_dspy.verifiers.mathematics.atoms import Atoms
from pdr_dspy.verifiers.mathematics.tokens import Invalid, Token, Unreadable


def read_expression(tokens: list[Token]) -> tuple[Any, bool]:
    """The expression and whether it contains a decimal. Raises Unreadable, TooLarge."""
    reader = _Reader(tokens)
    value = reader.sum()
    if reader.place != len(tokens):
        raise Unreadable(tokens[reader.place].text)
    if isinstance(value, sympy.MatrixBase):
        return sympy.ImmutableMatrix(value), reader.decimal
    return checked(value), reader.decimal


class _Reader(Atoms):
    """Reads sums of products of factors."""

    def sum(self) -> Any:
        sign = 1
        while self.at("op", "+", "-"):
            sign = -sign if self.take().text == "-" else sign
        value = self.product()
        value = -value if sign < 0 else value
        while self.at("op", "+", "-"):
            sign = 1
            while self.at("op", "+", "-"):
                sign = -sign if self.take().text == "-" else sign
            other = self.product()
            value = added(value, other, sign)
        return value

    def product(self) -> Any:
        start = self.place
        value = self.mixed()
        value = self.factor() if value is None else value
        factors: list[tuple[Any, list[Token]]] = [(value, self.tokens[start : self.place])]
        """The factors so far; none after a division or a cross product."""
        while True:
            token = self.peek()
            begun = self.place
            if token is None:
                return self.arranged(value, factors)
            if token[:2] == ("op", "*"):
                self.take()
                other = self.signed()
                factors.append((other, self.tokens[begun + 1 : self.place]))
                value = times(value, other)
            elif token[:2] == ("op", "times"):
                self.take()
                value, factors = self.arranged(value, factors), []
                other = self.signed()
                if products.crossed(value, other) is None and other.is_Rational:
                    other = self.with_letters(other)  # `u \times 2v`
                cross = products.crossed(value, other)
                value = times(value, other) if cross is None else cross
            elif token[:2] == ("op", "/"):
                self.take()
                factors = []
                plain = self.all_numbers(start, self.place - 1)
                divisor = self.signed()
                number = isinstance(divisor, sympy.Expr) and divisor.is_Rational and divisor.is_number
                value = over(value, divisor)
                following = self.peek()
                if following is not None and self.starts_factor(following):
                    constant = following[:2] in (("cmd", "pi"), ("cmd", "sqrt"), ("cmd", "root"), ("cmd", "infty"))
                    if not (number and plain and (constant or following.space)):
                        raise Invalid("an ambiguous denominator after a slash")
            elif token[:2] == ("cmd", "mod"):
                raise Unreadable("mod")
            elif self.starts_factor(token):
                if token.kind == "num" and self.tokens[self.place - 1][:2] != ("op", "!"):
                    raise Unreadable("a number after a factor")
                other = self.factor()
                factors.append((other, self.tokens[begun : self.place]))
                value = times(value, other)
            else:
                return self.arranged(value, factors)

    @staticmethod
    def arranged(value: Any, factors: list[tuple[Any, list[Token]]]) -> Any:
        """A product, or its factors in their order if they do not commute."""
        found = products.ordered(factors) if len(factors) > 1 else None
        return value if found is None else found

    def with_letters(self, value: Any) -> Any:
        """A number with the letters that follow it directly."""
        while (token := self.peek()) is not None and token.kind in ("sym", "cmd") and self.starts_factor(token):
            value = times(value, self.factor())
        return value

    def all_numbers(self, start: int, end: int) -> bool:
        return all(token.kind == "num" or token.text in ("-", "+") for token in self.tokens[start:end])

    def signed(self) -> Any:
        """A factor that may have its own sign, after `*` and `/`."""
        sign = 1
        while self.at("op", "+", "-"):
            sign = -sign if self.take().text == "-" else sign
        value = self.mixed()
        value = self.factor() if value is None else value
        return -value if sign < 0 else value

    def mixed(self) -> Any:
        r"""A mixed number, `2\frac12` or `2 1/2`, if one is next."""
        tokens = self.tokens[self.place : self.place + 9]
        if not tokens or tokens[0].kind != "num" or not tokens[0].text.isdigit():
            return None
        whole = int(tokens[0].text)
        if len(tokens) > 1 and tokens[1][:2] == ("cmd", "frac"):
            ahead = _Reader(self.tokens, self.depth, self.bars)
            ahead.place = self.place + 2
            try:
                over, under = ahead.argument_tokens(), ahead.argument_tokens()
            except Unreadable:
                return None
            if [token.kind for token in (*over, *under)] != ["num", "num"]:
                return None
            part = Fraction(over[0].text) / Fraction(under[0].text) if Fraction(under[0].text) else Fraction(2)
            if not 0 < part < 1 or not (over[0].text + under[0].text).isdigit():
                raise Unreadable("a whole number before a fraction above 1")
            self.place = ahead.place
        elif (
            len(tokens) > 3
            and [token.kind for token in tokens[1:4]] == ["num", "op", "num"]
            and tokens[1].space
            and tokens[2].text == "/"
            and (tokens[1].text + tokens[3].text).isdigit()
        ):
            part = Fraction(int(tokens[1].text), int(tokens[3].text)) if int(tokens[3].text) else Fraction(2)
            if not 0 < part < 1:
                raise Unreadable("a whole number before a fraction above 1")
            self.place += 4
        else:
            return None
        value = whole + part
        return self.postfixed(Rational(value.numerator, value.denominator), number=True)

    def factor(self) -> Any:
        if self.at("num"):
            return self.postfixed(self.number(), number=True)
        name = self.peek()
        value = self.atom()
        euler = name is not None and name[:2] == ("sym", "e")
        return self.postfixed(value, euler=euler)

    def postfixed(self, value: Any, *, number: bool = False, euler: bool = False) -> Any:
        raised = False
        while True:
            if self.at("op", "^"):
                if raised:
                    raise Invalid("a power of a power")
                self.take()
                value = power(value, self.exponent(euler=euler))
                raised = True
            elif self.at("op", "!"):
                self.take()
                double = self.at("op", "!")
                if double:
                    self.take()
                value = factorial(value, double=double)
            elif self.at("op", "%"):
                self.take()
                value = value / 100
            elif self.at("op", "deg"):
                self.take()
                value = value * DEGREE
            else:
                return value

    def exponent(self, *, euler: bool = False) -> Any:
        if self.at("open", "{", "("):
            return self.inner(self.enclosed())
        sign = 1
        while self.at("op", "-", "+"):
            sign = -sign if self.take().text == "-" else sign
        token = self.peek()
        if token is None:
            raise Unreadable("no exponent")
        if token.kind == "num":
            value = self.number()
            following = self.peek()
            if euler and following is not None and not following.space and self.starts_factor(following):
                raise Invalid("an ambiguous exponent")  # e^2x
        elif token.kind == "sym":
            value = self.letter()
        elif token[:2] in (("cmd", "frac"), ("cmd", "pi"), ("cmd", "sqrt"), ("cmd", "infty")):
            value = self.atom()
        else:
            raise Unreadable("the exponent")
        return -value if sign < 0 else value
