"""Functions by their names, and their arguments: `\\sin^2 x`, `\\log_2 8`, `\\max(1, 2)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Integer

from pdr_dspy.verifiers.mathematics.arithmetic import (
    DEGREE,
    LOG_BASE,
    determinant,
    power,
    scalar,
    times,
    without_matrix,
)
from pdr_dspy.verifiers.mathematics.cursor import Cursor
from pdr_dspy.verifiers.mathematics.tokens import Invalid, Unreadable, split

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


class Functions(Cursor):
    """Reads applied functions."""

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
            return without_matrix(self.inner(self.enclosed()))
        sign = 1
        while self.at("op", "-", "+"):
            sign = -sign if self.take().text == "-" else sign
        value = None
        while (token := self.peek()) is not None and self.starts_factor(token):
            if token.kind == "fun" or (value is not None and token.kind in ("open", "num")):
                break
            mixed = self.mixed() if value is None else None
            factor = self.factor() if mixed is None else mixed
            value = factor if value is None else times(value, factor)
        if value is None:
            raise Unreadable(f"{name} of nothing")
        return without_matrix(-value if sign < 0 else value)

    def many(self, name: str) -> Any:
        if name == "det":
            value = self.function_argument_matrix()
            return determinant(value)
        if not self.at("open", "(", "{", "\\{"):
            raise Unreadable(name)
        arguments, _ = split(self.enclosed(), "op", ",")
        values = [scalar(self.inner(one)) for one in arguments]
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
