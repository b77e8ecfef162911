r"""Products whose order counts: cross and Cartesian products, products of matrices by name, and words in capitals.

Letters of numbers commute (`xy` is `yx`). `\times` between names of vectors, sets or matrices does not, and is not
`\cdot`; nor do capital letters commute where an inverse, a transpose or bold type tells that they are matrices. Such a
product is an opaque symbol, made of its factors in their order. Three or more capitals in a row (`HTH`, `ABCD`) are a
word or the name of a figure; two are a segment (`AB` is `BA`).
"""

from __future__ import annotations

from typing import Any

import sympy

from pdr_dspy.verifiers.mathematics.tokens import Token

_VECTORS = frozenset("abcdefguvwijk")
"""Letters that name vectors, sets or functions as often as numbers."""
_CROSS, _ORDERED = "\\times of ", "product in order of "


def crossed(value: Any, other: Any) -> Any:
    r"""`value \times other`; None if it is a product of numbers, or of a number and something else."""
    if isinstance(value, sympy.MatrixBase) or isinstance(other, sympy.MatrixBase):
        return None
    first, rest = _scaled(value)
    second, following = _scaled(other)
    if not (_is_named(rest) and _is_named(following)) or rest == following:
        return None
    return first * second * sympy.Symbol(f"{_CROSS}{sympy.srepr(rest)}, {sympy.srepr(following)}", real=True)


def _scaled(value: Any) -> tuple[Any, Any]:
    """The rational factor of a value, and the rest."""
    if not isinstance(value, sympy.Expr):
        return sympy.Integer(1), value
    return value.as_coeff_Mul()


def _is_named(value: Any) -> bool:
    """Whether a value may be a vector, a set or a matrix: names, and sums and products of names."""
    if value == sympy.I:  # the unit vector
        return True
    if isinstance(value, sympy.Symbol):
        name = value.name
        return len(name.partition("_")[0].rstrip("'")) > 1 or name[0] in _VECTORS or name[0].isupper()
    if value.is_Add or value.is_Mul:
        return all(part == -1 or _is_named(_scaled(part)[1]) for part in value.args)
    if isinstance(value, sympy.Pow):  # of a matrix
        base, exponent = value.args
        return isinstance(base, sympy.Symbol) and base.name[0].isupper() and bool(exponent.is_Integer and exponent < 0)
    return False


def ordered(factors: list[tuple[Any, list[Token]]]) -> Any:
    """The product of factors with their tokens as one symbol if their order counts; None if they are numbers."""
    matrices = [(value, tokens) for value, tokens in factors if _is_capital(tokens)]
    if not any(_shows_matrix(tokens) for _, tokens in matrices):
        return None
    inverses = all(_raised(tokens) in ("", "^-1") for _, tokens in matrices)  # A and its inverse commute
    if len({tokens[0].text if inverses else str(tokens) for _, tokens in matrices}) < 2:
        return None
    product: Any = sympy.Integer(1)
    for value, tokens in factors:
        if not _is_capital(tokens):
            product = product * value
    text = ", ".join("".join(token.text for token in tokens if token.text not in "{}") for _, tokens in matrices)
    return product * sympy.Symbol(_ORDERED + text, real=True)


def _is_capital(tokens: list[Token]) -> bool:
    """`A`, `A^{-1}`, `A^T`, `A_1`"""
    first = tokens[0] if tokens else None
    if first is None or first.kind != "sym" or len(first.text) != 1 or not first.text.isupper():
        return False
    return len(tokens) == 1 or tokens[1].text in ("^", "_", "'")


def _shows_matrix(tokens: list[Token]) -> bool:
    return tokens[0].bold or _raised(tokens).endswith(("^-1", "^T", "^top", "^t", "^*", "'"))


def _raised(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens[1:] if token.text not in "{}")


def capitals(tokens: list[Token]) -> list[Token]:
    """Tokens with three or more capital letters in a row as one name."""
    out: list[Token] = []
    place = 0
    while place < len(tokens):
        end = place
        while end < len(tokens) and _is_letter(tokens, end):
            end += 1
        if end - place >= 3:
            out.append(Token("sym", "".join(token.text for token in tokens[place:end]), tokens[place].space))
            place = end
        else:
            out += tokens[place : max(end, place + 1)]
            place = max(end, place + 1)
    return out


def _is_letter(tokens: list[Token], place: int) -> bool:
    """Whether a token is a capital letter without an exponent, an index, a prime or an argument of its own."""
    token = tokens[place]
    if token.kind != "sym" or len(token.text) != 1 or not token.text.isupper() or token.bold:
        return False
    following = tokens[place + 1] if place + 1 < len(tokens) else None
    if following is not None and (following.text in ("^", "_", "'") or following[:2] == ("open", "(")):
        return False
    return not (place and tokens[place - 1].text in ("^", "_"))


def is_word(value: Any) -> bool:
    """Whether an expression is a word of capitals, `HTH`."""
    return isinstance(value, sympy.Symbol) and len(value.name) > 2 and value.name.isalpha() and value.name.isupper()


def spread(value: Any) -> Any:
    """An expression with its words of capitals as products of their letters."""
    found = {one: one for one in value.free_symbols if is_word(one)}
    return value.subs({one: sympy.Mul(*[sympy.Symbol(letter, real=True) for letter in one.name]) for one in found})
