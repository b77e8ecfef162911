"""The position in a list of tokens, and what is read there by its form alone."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from sympy import Rational

from pdr_dspy.verifiers.mathematics.arithmetic import TooLarge
from pdr_dspy.verifiers.mathematics.tokens import Token, Unreadable, matching, split

MAX_DEPTH = 40


class Cursor:
    """Reads tokens one by one; subclasses read values. `bars` tells whether a bar ends the value."""

    def __init__(self, tokens: list[Token], depth: int = 0, bars: bool = False) -> None:
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        self.tokens, self.depth, self.bars = tokens, depth, bars
        self.pairs = matching(tokens)
        self.place = 0
        self.decimal = False

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
        reader = type(self)(tokens, self.depth + 1, bars)
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

    # --- the grammar of subclasses

    def sum(self) -> Any:
        """The sum that is next."""
        raise NotImplementedError

    def product(self) -> Any:
        """The product that is next."""
        raise NotImplementedError

    def mixed(self) -> Any:
        """The mixed number that is next, if one is."""
        raise NotImplementedError

    def factor(self) -> Any:
        """The factor that is next."""
        raise NotImplementedError

    def exponent(self, *, euler: bool = False) -> Any:
        """The exponent after a `^`."""
        raise NotImplementedError

    def atom(self) -> Any:
        """The value without sign or exponent that is next."""
        raise NotImplementedError

    # --- by form

    def starts_factor(self, token: Token) -> bool:
        if token.kind in ("num", "sym", "fun"):
            return True
        if token.kind == "open":
            return True
        if token.kind == "op":
            return token.text == "|" and not self.bars
        return token.kind == "cmd" and token.text not in ("cup", "cap", "minus", "mod", "pmod", "bmod", "choose")

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


def table(tokens: list[Token]) -> list[list[list[Token]]]:
    """The cells of a matrix or of cases, row by row, without empty rows at the end."""
    rows, _ = split(tokens, "op", "\\\\")
    return [split(row, "op", "&")[0] for row in rows if row]
