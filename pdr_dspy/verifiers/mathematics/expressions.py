r"""Parses tokens into one exact sympy expression.

Numbers are fractions, decimals too. Ambiguous notation is rejected: `1/2x`, `2^3^2`, `e^2x`, `2 3`. Nothing is
evaluated beyond what sympy does automatically, and no number grows beyond `MAX_BITS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy
from sympy import Integer, Rational, Symbol

from pdr_dspy.verifiers.mathematics import events, products
from pdr_dspy.verifiers.mathematics.tokens import Invalid, Token, Unreadable, matching, split

MAX_BITS = 400_000
"""Maximum bits of one number."""
MAX_FACTORIAL = 5_000
MAX_DEPTH = 40
DEGREE = Symbol("degree sign", positive=True)
LOG_BASE = Symbol("base of log", positive=True)
r"""The base of a `\log` without one: ambiguous, 10 or e."""
_FUNCTION_NAMES = frozenset("fghFGHPQW")
_TRIGONOMETRIC = {
    **{"sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc},
}
_INVERSE = {
    **{
        "sin": sympy.asin,
        "cos": sympy.acos,
        "tan": sympy.atan,
        "cot": sympy.acot,
        "sec": sympy.asec,
        "csc": sympy.acsc,
    },
    **{"sinh": sympy.asinh, "cosh": sympy.acosh, "tanh": sympy.atanh},
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **_TRIGONOMETRIC,
    **{f"arc{name}": function for name, function in _INVERSE.items()},
    **{"asin": sympy.asin, "acos": sympy.acos, "atan": sympy.atan, "arsinh": sympy.asinh, "arcosh": sympy.acosh},
    **{"artanh": sympy.atanh, "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "coth": sympy.coth},
    **{"sech": sympy.sech, "csch": sympy.csch, "ln": sympy.log, "exp": sympy.exp, "abs": sympy.Abs, "Re": sympy.re},
    **{
        "Im": sympy.im,
        "arg": sympy.arg,
        "floor": sympy.floor,
        "ceil": sympy.ceiling,
        "sgn": sympy.sign,
        "cis": lambda angle: sympy.cos(angle) + sympy.I * sympy.sin(angle),
    },
}
_MANY = {"max": sympy.Max, "min": sympy.Min, "gcd": sympy.gcd, "lcm": sympy.lcm}
_MATRICES = frozenset(f"env:{name}" for name in ("pmatrix", "bmatrix", "matrix", "Bmatrix", "array", "smallmatrix"))


class TooLarge(Exception):
    """A number that is too large to compute."""


def read_expression(tokens: list[Token]) -> tuple[Any, bool]:
    """The expression and whether it contains a decimal. Raises Unreadable, TooLarge."""
    reader = _Reader(tokens)
    value = reader.sum()
    if reader.place != len(tokens):
        raise Unreadable(tokens[reader.place].text)
    if isinstance(value, sympy.MatrixBase):
        return sympy.ImmutableMatrix(value), reader.decimal
    return checked(value), reader.decimal


def checked(value: Any) -> Any:
    """The value; raises Unreadable for a division by zero."""
    if not isinstance(value, sympy.Expr) or value.has(sympy.nan, sympy.zoo):
        raise Invalid("no value")
    return value


def size(value: Any) -> int:
    """Bits of a rational number."""
    return int(value.p).bit_length() + int(value.q).bit_length()


def power(base: Any, exponent: Any) -> Any:
    """base^exponent, with real roots of odd degree. Raises TooLarge, Unreadable."""
    if isinstance(exponent, sympy.MatrixBase):
        raise Unreadable("a matrix as an exponent")
    if isinstance(base, sympy.MatrixBase):
        if not (base.is_square and exponent.is_Integer and abs(exponent) <= 64):
            raise Unreadable("a power of a matrix")
        return base**exponent
    if base.is_Rational and exponent.is_Rational:
        if base == 0 and exponent <= 0:
            raise Invalid("a power of 0")
        if exponent.is_Integer:
            if base not in (0, 1, -1) and abs(exponent) * max(size(base) - 1, 1) > MAX_BITS:
                raise TooLarge
        elif size(base) > 20_000 or size(exponent) > 64:
            raise TooLarge
        elif base < 0 and exponent.q % 2:  # the real root
            return (-1) ** exponent.p * power(-base, exponent)
    if exponent.is_Rational and size(exponent) > MAX_BITS:
        raise TooLarge
    if exponent.has(DEGREE):
        raise Unreadable("degrees in an exponent")
    return base**exponent


class _Reader:
    def __init__(self, tokens: list[Token], depth: int = 0, bars: bool = False) -> None:
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        self.tokens, self.depth, self.bars = tokens, depth, bars
        self.pairs = matching(tokens)
        self.place = 0
        self.decimal = False

    # --- tokens

    def peek(self, ahead: int = 0) -> Token | None:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def at(self, kind: str, *texts: str) -> bool:
        token = self.peek()
        return token is not None and token.kind == kind and (not texts or token.text in texts)

    def take(self) -> Token:
        token = self.peek()
        if token is None:
            raise Unreadable("an unexpected end")
        self.place += 1
        return token

    def inner(self, tokens: list[Token], *, bars: bool = False) -> Any:
        """The value of a separate list of tokens."""
        reader = _Reader(tokens, self.depth + 1, bars)
        value = reader.sum()
        if reader.place != len(tokens):
            raise Unreadable(tokens[reader.place].text)
        self.decimal = self.decimal or reader.decimal
        return value

    def enclosed(self) -> list[Token]:
        """The tokens inside of the next bracket, which is consumed."""
        start, end = self.place, self.pairs[self.place]
        self.place = end + 1
        return self.tokens[start + 1 : end]

    # --- grammar

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
            value = self.added(value, other, sign)
        return value

    @staticmethod
    def added(value: Any, other: Any, sign: int) -> Any:
        matrices = [isinstance(one, sympy.MatrixBase) for one in (value, other)]
        if any(matrices) and not (all(matrices) and value.shape == other.shape):
            raise Unreadable("a sum with a matrix")
        return value + other if sign > 0 else value - other

    def times(self, value: Any, other: Any) -> Any:
        if isinstance(value, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase):
            if value.cols != other.rows:
                raise Unreadable("a product of matrices")
            return value * other
        numbers = all(not isinstance(one, sympy.MatrixBase) and one.is_Rational for one in (value, other))
        if numbers and size(value) + size(other) > MAX_BITS:
            raise TooLarge
        return value * other

    def over(self, value: Any, other: Any) -> Any:
        if isinstance(other, sympy.MatrixBase) or other == 0:
            raise Invalid("no division")
        return value / other

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
                value = self.times(value, other)
            elif token[:2] == ("op", "times"):
                self.take()
                value, factors = self.arranged(value, factors), []
                other = self.signed()
                if products.crossed(value, other) is None and other.is_Rational:
                    other = self.with_letters(other)  # `u \times 2v`
                cross = products.crossed(value, other)
                value = self.times(value, other) if cross is None else cross
            elif token[:2] == ("op", "/"):
                self.take()
                factors = []
                plain = self.all_numbers(start, self.place - 1)
                divisor = self.signed()
                number = isinstance(divisor, sympy.Expr) and divisor.is_Rational and divisor.is_number
                value = self.over(value, divisor)
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
                value = self.times(value, other)
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
            value = self.times(value, self.factor())
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

    def starts_factor(self, token: Token) -> bool:
        if token.kind in ("num", "sym", "fun"):
            return True
        if token.kind == "open":
            return True
        if token.kind == "op":
            return token.text == "|" and not self.bars
        return token.kind == "cmd" and token.text not in ("cup", "cap", "minus", "mod", "pmod", "bmod", "choose")

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

    def number(self) -> Any:
        text = self.take().text
        if len(text) > 4_000:
            raise TooLarge
        if not text.isdigit():
            self.decimal = True
            exponent = text.lower().partition("e")[2]
            if exponent and abs(int(exponent)) > 1_000:
                raise TooLarge
        value = Fraction(text if not text.startswith(".") else f"0{text}")
        if self.at("op", "_"):
            raise Unreadable("a base inside of an expression")
        return Rational(value.numerator, value.denominator)

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
                value = self.factorial(value, double=double)
            elif self.at("op", "%"):
                self.take()
                value = value / 100
            elif self.at("op", "deg"):
                self.take()
                value = value * DEGREE
            else:
                return value

    @staticmethod
    def factorial(value: Any, *, double: bool) -> Any:
        if isinstance(value, sympy.MatrixBase):
            raise Unreadable("a factorial of a matrix")
        if value.is_number and not (value.is_Integer and value >= 0):
            raise Unreadable("a factorial")
        if value.is_Integer and value > MAX_FACTORIAL:
            raise TooLarge
        return sympy.factorial2(value) if double else sympy.factorial(value)

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

    def argument_tokens(self) -> list[Token]:
        """The tokens of a command's argument: a group, a digit, a letter, or a command with its own argument."""
        token = self.peek()
        if token is None:
            raise Unreadable("a command without its argument")
        if token[:2] == ("open", "{"):
            return self.enclosed()
        if token.kind == "num" and token.text.isdigit():
            rest = token.text[1:]
            if rest:
                self.tokens = [*self.tokens]
                self.tokens[self.place] = Token("num", rest)
                return [Token("num", token.text[0])]
            self.place += 1
            return [token]
        start = self.place
        if token.kind == "sym":
            self.place += 1
            return [token]
        if token.kind == "cmd":
            self.atom()
            return self.tokens[start : self.place]
        raise Unreadable("an argument")

    def argument(self) -> Any:
        return self.inner(self.argument_tokens())

    # --- atoms

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
            return self.binomial(upper, lower) if name == "C" else self.arrangements(upper, lower)
        return None

    def subscript(self) -> str:
        if not self.at("op", "_"):
            return ""
        self.take()
        if self.at("open", "{"):
            return "_" + "".join(token.text for token in self.enclosed() if token.text not in "{}")
        token = self.take()
        if token.kind not in ("num", "sym", "text", "cmd"):
            raise Unreadable("a subscript")
        return f"_{token.text}"

    def bracket(self) -> Any:
        token = self.peek()
        assert token is not None
        closing = self.tokens[self.pairs[self.place]].text
        name = token.text
        if name.startswith("env:"):
            return self.matrix()
        inside = self.enclosed()
        if name == "|":
            return sympy.Abs(self.scalar(self.inner(inside)))
        if name in ("floor", "ceil"):
            value = self.scalar(self.inner(inside))
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
        return self.binomial(*(self.inner(part) for part in parts)) if len(found) == 1 else None

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
            return sympy.Abs(self.scalar(value))
        raise Unreadable("a bar")

    @staticmethod
    def scalar(value: Any) -> Any:
        if isinstance(value, sympy.MatrixBase) or value.has(DEGREE):
            raise Unreadable("no number")
        return value

    @staticmethod
    def binomial(upper: Any, lower: Any) -> Any:
        if upper.is_Integer and lower.is_Integer:
            small = min(abs(lower), abs(upper - lower))
            if small * max(int(abs(upper)).bit_length(), 1) > MAX_BITS:
                raise TooLarge
        return sympy.binomial(upper, lower)

    @staticmethod
    def arrangements(upper: Any, lower: Any) -> Any:
        """The number of ordered choices without repetition."""
        if not (upper.is_Integer and lower.is_Integer):
            return sympy.factorial(upper) / sympy.factorial(upper - lower)
        if not 0 <= lower <= upper:
            raise Unreadable("arrangements")
        if lower * max(int(upper).bit_length(), 1) > MAX_BITS:
            raise TooLarge
        return Integer(math.perm(int(upper), int(lower)))

    def function(self) -> Any:
        name = self.take().text
        base = None
        raised = None
        if self.at("op", "_"):
            if name == "log":
                self.take()
                base = self.base_of_log()
            elif name in _MANY:
                raise Unreadable(name)
        if self.at("op", "^"):
            self.take()
            raised = self.exponent()
            if self.at("op", "_"):
                raise Unreadable("a base after a power")
        if name in _MANY or name == "det":
            return self.many(name)
        argument = self.function_argument(name)
        if argument.has(DEGREE):
            argument = argument.subs(DEGREE, sympy.pi / 180)
        if raised == -1 and name in _INVERSE:
            return _INVERSE[name](argument)
        if raised == -1:
            raise Unreadable("an inverse")
        value = self.applied(name, argument, base)
        return value if raised is None else power(value, raised)

    def base_of_log(self) -> Any:
        token = self.peek()
        following = self.peek(1)
        if token is not None and token.kind == "num" and len(token.text) > 1 and "." not in token.text:
            if following is not None and (self.starts_factor(following)):
                self.place += 1
                return Integer(token.text)
            return self.inner(self.argument_tokens())  # \log_23
        return self.argument()

    @staticmethod
    def applied(name: str, argument: Any, base: Any) -> Any:
        if name in ("log", "lg"):
            base = Integer(10) if name == "lg" else LOG_BASE if base is None else base
            if base == 1 or base == 0:
                raise Invalid("an invalid base of a logarithm")
            return sympy.log(argument) / sympy.log(base)
        if name == "exp":
            return power(sympy.E, argument)
        return _FUNCTIONS[name](argument)

    def function_argument(self, name: str) -> Any:
        if self.at("open", "(", "{", "["):
            return self.scalar_or_degrees(self.inner(self.enclosed()))
        sign = 1
        while self.at("op", "-", "+"):
            sign = -sign if self.take().text == "-" else sign
        value = None
        while (token := self.peek()) is not None and self.starts_factor(token):
            if token.kind == "fun" or (value is not None and token.kind in ("open", "num")):
                break
            mixed = self.mixed() if value is None else None
            factor = self.factor() if mixed is None else mixed
            value = factor if value is None else self.times(value, factor)
        if value is None:
            raise Unreadable(f"{name} of nothing")
        return self.scalar_or_degrees(-value if sign < 0 else value)

    @staticmethod
    def scalar_or_degrees(value: Any) -> Any:
        if isinstance(value, sympy.MatrixBase):
            raise Unreadable("a function of a matrix")
        return value

    def many(self, name: str) -> Any:
        if name == "det":
            value = self.function_argument_matrix()
            return self.determinant(value)
        if not self.at("open", "(", "{", "\\{"):
            raise Unreadable(name)
        arguments, _ = split(self.enclosed(), "op", ",")
        values = [self.scalar(self.inner(one)) for one in arguments]
        if name in ("gcd", "lcm"):
            if not all(value.is_Integer for value in values):
                raise Unreadable(name)
            return getattr(sympy, f"i{name}")(*[int(value) for value in values]) + Integer(0)
        return _MANY[name](*values)

    def function_argument_matrix(self) -> Any:
        value = self.inner(self.enclosed()) if self.at("open", "(") else self.atom()
        if not isinstance(value, sympy.MatrixBase):
            raise Unreadable("a determinant")
        return value

    @staticmethod
    def determinant(value: Any) -> Any:
        numbers = all(cell.is_Rational for cell in value)
        if not value.is_square or value.rows > (20 if numbers else 5):
            raise Unreadable("a determinant")
        return value.det(method="bareiss" if numbers else "berkowitz")

    def matrix(self) -> Any:
        token = self.peek()
        assert token is not None
        name = token.text
        rows = table(self.enclosed())
        values = [[self.scalar(self.inner(cell)) for cell in row] for row in rows]
        if not values or len({len(row) for row in values}) != 1:
            raise Unreadable("rows of different lengths")
        found = sympy.ImmutableMatrix(values)
        if name in _MATRICES:
            return found
        if name == "env:vmatrix":
            return self.determinant(found)
        raise Unreadable(name)

    def command(self) -> Any:
        name = self.take().text
        if name == "pi":
            return sympy.pi
        if name == "infty":
            return sympy.oo
        if name == "frac":
            over = self.argument()
            return self.over(over, self.argument())
        if name == "binom":
            upper = self.argument()
            return self.binomial(upper, self.argument())
        if name == "perm":
            upper = self.argument()
            return self.arrangements(upper, self.argument())
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
            return self.series(name)
        if name == "int":
            return self.integral()
        if name == "lim":
            return self.limit()
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
        return power(self.scalar(inside), 1 / degree)

    def bounds(self) -> tuple[list[Token], list[Token]]:
        below: list[Token] = []
        above: list[Token] = []
        for _ in range(2):
            if self.at("op", "_"):
                self.take()
                below = self.argument_tokens()
            elif self.at("op", "^"):
                self.take()
                above = self.argument_tokens()
        return below, above

    def series(self, name: str) -> Any:
        below, above = self.bounds()
        (left, *right), signs = split(below, "rel", "=")
        if len(signs) != 1 or len(left) != 1 or left[0].kind != "sym" or not above:
            raise Unreadable("the bounds of a sum")
        index = symbol(left[0].text)
        if index in (sympy.I, sympy.E):
            index = Symbol(left[0].text, real=True)
        start, end = self.inner(right[0]), self.inner(above)
        body = self.product()
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

    def integral(self) -> Any:
        below, above = self.bounds()
        rest = self.tokens[self.place :]
        ends = [
            place
            for place in range(len(rest) - 1)
            if rest[place][:2] == ("sym", "d") and rest[place + 1].kind == "sym" and not rest[place + 1].space
        ]
        if not ends or not below or not above:
            raise Unreadable("an integral")
        variable = symbol(rest[ends[0] + 1].text)
        body = self.inner(rest[: ends[0]]) if ends[0] else Integer(1)
        self.place += ends[0] + 2
        value = sympy.integrate(body, (variable, self.inner(below), self.inner(above)))
        if value.has(sympy.Integral):
            raise Unreadable("an integral without a closed form")
        return value

    def limit(self) -> Any:
        below, above = self.bounds()
        sides, signs = split(below, "rel", "to")
        if len(signs) != 1 or len(sides[0]) != 1 or above:
            raise Unreadable("a limit")
        value = sympy.limit(
            self.product(),
            symbol(sides[0][0].text),
            self.inner(sides[1]),
            "+-" if sides[1][-1].text != "infty" else "-",
        )
        if value.has(sympy.Limit):
            raise Unreadable("a limit")
        return value


def symbol(name: str) -> Any:
    """A variable; assumed to be real, like letters in answers."""
    return Symbol(name, real=True)


def table(tokens: list[Token]) -> list[list[list[Token]]]:
    """The cells of a matrix or of cases, row by row, without empty rows at the end."""
    rows, _ = split(tokens, "op", "\\\\")
    return [split(row, "op", "&")[0] for row in rows if row]
