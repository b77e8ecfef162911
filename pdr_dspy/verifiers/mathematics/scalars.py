"""Reads one expression with its notation: a base, a percent sign, degrees, a unit and the words after it."""

from __future__ import annotations

import re

import sympy

from pdr_dspy.text import number_words
from pdr_dspy.verifiers.mathematics import units
from pdr_dspy.verifiers.mathematics.arithmetic import DEGREE
from pdr_dspy.verifiers.mathematics.beside import NOTHING, Beside, after_value, harmless
from pdr_dspy.verifiers.mathematics.expressions import read_expression
from pdr_dspy.verifiers.mathematics.tokens import Invalid, Token, Unreadable
from pdr_dspy.verifiers.mathematics.values import Scalar, Value


def read_scalar(tokens: list[Token]) -> Value:
    """The expression that tokens consist of, with its notation. Raises Unreadable, TooLarge."""
    based = _in_base(tokens)
    if based is not None:
        return based
    currency = tokens[0][:2] == ("text", "$")
    tokens, unit, factor, words = _without_unit(tokens[1:] if currency else tokens)
    if currency:
        if unit not in (None, "dollar"):
            raise Unreadable("two units")
        unit = "dollar"
    if not tokens:
        raise Unreadable("a unit of nothing")
    percent = len(tokens) > 1 and tokens[-1][:2] == ("op", "%") and _is_number(tokens[:-1])
    if percent:
        tokens = tokens[:-1]
    expression, decimal = read_expression(tokens)
    if isinstance(expression, sympy.MatrixBase):
        if unit or percent:
            raise Unreadable("a matrix with a unit")
        if expression.has(DEGREE):
            raise Unreadable("degrees in a matrix")
        return Scalar(expression, decimal)
    expression = expression * factor
    degrees = False
    if expression.has(DEGREE):
        expression = sympy.expand(expression / DEGREE)
        degrees = True
        if expression.has(DEGREE, sympy.pi) or unit or percent:
            raise Unreadable("degrees")
    if unit == "degree":
        degrees, unit = True, None
    return Scalar(
        expression, decimal, percent or unit == "percent", degrees, None if unit == "percent" else unit, words
    )


def _is_number(tokens: list[Token]) -> bool:
    """Whether tokens are one number, possibly a fraction, to which a percent sign may apply as a whole."""
    return all(token.kind == "num" or token.text in ("frac", "{", "}", "/", "-") for token in tokens) and not any(
        token.text == "-" for token in tokens[1:]
    )


_BASE_NAMES = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen binary ternary octal"
)
_BASES: dict[str, int] = dict(zip(_BASE_NAMES.split(), (*range(2, 17), 2, 3, 8), strict=True))


def _in_base(tokens: list[Token]) -> Scalar | None:
    """`2516_8`, `(2516)_8`, `1A_{16}`"""
    place = next((place for place, token in enumerate(tokens) if token[:2] == ("op", "_")), None)
    if not place:
        return None
    number, base = list(tokens[:place]), list(tokens[place + 1 :])
    negative = number[0][:2] == ("op", "-")
    number = number[1:] if negative else number
    if len(base) > 1 and base[0].text == "{" and base[-1].text == "}":
        base = base[1:-1]
    if len(number) > 1 and number[0].text == "(" and number[-1].text == ")":
        number = number[1:-1]
    digits = "".join(token.text for token in number)
    if (
        len(base) != 1
        or not number
        or any(token.kind not in ("num", "sym") or len(token.text) > 400 for token in number)
    ):
        return None
    if not re.fullmatch(r"[0-9A-Z]+", digits) or not re.search("[0-9]", digits):
        return None
    name = base[0].text.strip().lower()
    radix = _BASES.get(name) or (int(name) if name.isdigit() and len(name) < 3 else 0)
    if not 2 <= radix <= 36:
        return None
    try:
        value = int(digits, radix)
    except ValueError as error:
        raise Invalid("a digit that the base does not have") from error
    return Scalar(
        sympy.Integer(-value if negative else value), digits=("-" if negative else "") + digits.lstrip("0"), base=radix
    )


_POWERS = re.compile(r"[23]")


def _without_unit(tokens: list[Token]) -> tuple[list[Token], str | None, int, Beside]:
    """The tokens without the unit after them, the unit, the factor of a word such as `million`, and the words if they
    are no known unit."""
    end = len(tokens)
    power = ""
    if end > 2 and tokens[end - 2][:2] == ("op", "^") and tokens[end - 1].kind == "num":
        power, end = tokens[end - 1].text, end - 2
    elif end > 4 and [token.text for token in tokens[end - 4 : end - 2]] == ["^", "{"] and tokens[end - 1].text == "}":
        power, end = tokens[end - 2].text, end - 4
    if end < 2 or tokens[end - 1].kind != "text":
        if any(token.kind == "text" for token in tokens):
            raise Unreadable("words")
        return tokens, None, 1, NOTHING
    if power and not _POWERS.fullmatch(power):
        raise Unreadable("a power of a unit")
    upright, rest = tokens[end - 1], tokens[: end - 1]
    if any(token.kind == "text" for token in rest):
        raise Unreadable("words")
    phrase = upright.text.strip(" .,~")
    scale = number_words.SCALES.get(phrase.lower()) or number_words.SCALES.get(number_words.singular(phrase.lower()))
    if scale is not None and not power:
        return rest, None, scale, NOTHING
    if not power and (compound := units.named(phrase)) is not None and units.is_compound(compound):
        return rest, compound, 1, NOTHING
    found = [word.lower() for word in re.findall(r"[^\W\d_]+", phrase)]
    if not found or re.search(r"[0-9‰(]", phrase) or not harmless(phrase):
        raise Unreadable(phrase)
    unit = number_words.unit_named(phrase + (f"^{power}" if power else "")) or None
    return rest, unit, 1, after_value(phrase)
