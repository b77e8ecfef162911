"""Tokens rearranged before they are read as structures."""

from __future__ import annotations

from pdr_dspy.verifiers.mathematics.tokens import Token, Unreadable, matching, split

_MEMBERSHIP = (("rel", "in"), ("rel", "notin"))


def stripped(tokens: list[Token]) -> list[Token]:
    """The tokens without commas and semicolons at their ends."""
    while tokens and tokens[-1][:2] in (("op", ","), ("op", ";")):
        tokens = tokens[:-1]
    while tokens and tokens[0][:2] in (("op", ","), ("op", ";")):
        tokens = tokens[1:]
    return tokens


def begins_statement(tokens: list[Token], place: int, piece: list[Token]) -> bool:
    """Whether a slash stands between two statements: `x = 1 / x = 4`, since no name divides the side of an equation
    that goes on."""
    if tokens[place + 1 : place + 2] and tokens[place + 1][:2] == ("op", "/"):
        return begins_statement(tokens, place + 1, piece)
    if not any(token[:2] == ("rel", "=") for token in piece):
        return not piece and place > 0 and tokens[place - 1][:2] == ("op", "/")
    end = place + 1
    if end >= len(tokens) or tokens[end].kind != "sym":
        return False
    while end < len(tokens) and (tokens[end].kind in ("sym", "num") or tokens[end].text in ("_", "{", "}", "'")):
        end += 1
    return end < len(tokens) and tokens[end].kind == "rel"


def condition_in_brackets(tokens: list[Token]) -> list[Token]:
    r"""`2n\pi (n \in \mathbb Z)` as `2n\pi, n \in \mathbb Z`."""
    if len(tokens) < 4 or tokens[-1][:2] != ("close", ")"):
        return tokens
    start = next(start for start, end in matching(tokens).items() if end == len(tokens) - 1)
    inside = tokens[start + 1 : -1]
    signs = {sign.text for sign in split(inside, "rel")[1]} - {"mid"}  # `P(A \mid B)` states none
    if start and tokens[start].text == "(" and signs and tokens[start - 1].kind != "rel":
        return [*tokens[:start], Token("op", ","), *inside]
    return tokens


def both_signs(tokens: list[Token]) -> list[list[Token]]:
    """The tokens with + and with - for a double sign. Raises Unreadable for several of them."""
    signs = [token.text for token in tokens if token.kind == "op" and token.text in ("pm", "mp")]
    if not signs or _in_braces_only(tokens):
        return [tokens]
    if signs.count("pm") > 1:
        raise Unreadable("several independent double signs")
    found = []
    for plus, minus in (("+", "-"), ("-", "+")):
        turned = {"pm": plus, "mp": minus}
        found.append(
            [Token("op", turned[t.text], t.space) if t.kind == "op" and t.text in turned else t for t in tokens]
        )
    return found


def _in_braces_only(tokens: list[Token]) -> bool:
    """Whether every double sign (±) is inside of a set, whose members it doubles."""
    inside: set[int] = set()
    for start, end in matching(tokens).items():
        if tokens[start].text == "\\{":
            inside |= set(range(start, end))
    return all(
        place in inside for place, token in enumerate(tokens) if token.kind == "op" and token.text in ("pm", "mp")
    )


def sets_by_letter(tokens: list[Token]) -> list[Token]:
    """`n \\in Z` as `n \\in \\mathbb Z`."""
    return [
        Token("cmd", f"set:{token.text}")
        if token.kind == "sym" and token.text in "RZNQC" and place and tokens[place - 1][:2] in _MEMBERSHIP
        else token
        for place, token in enumerate(tokens)
    ]


def union_letters(tokens: list[Token]) -> list[Token]:
    """`(0, 1) U (2, 3)`, and `R - {2}`."""
    out = list(tokens)
    for place in range(1, len(tokens) - 1):
        before, token, after = tokens[place - 1 : place + 2]
        if token[:2] == ("sym", "U") and before.kind == "close" and after.kind == "open":
            out[place] = Token("cmd", "cup")
        if token[:2] == ("op", "-") and before.kind == "cmd" and before.text.startswith("set:"):
            out[place] = Token("cmd", "minus")
    return out
