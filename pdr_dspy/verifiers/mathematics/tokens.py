r"""The tokens of mathematics, their brackets, and the pieces between them.

kind    text                                 of
num     digits, perhaps with a point         12  0.5  10,\!080
sym     one letter, or a Greek name          x  \alpha
fun     a function                           \sin  ln  \operatorname{arctan}
cmd     any other command, without its \     frac  sqrt  infty  set:R  begin:cases
rel     = != < <= > >= in notin ...          \le  ≤  <=
op      + - * / ^ _ ! ' % deg pm mp & \\ : | ,  ;
open    ( [ { \{ < floor ceil |              close  ) ] } \} > floor ceil |
text    words in upright type or in prose    \text{ cm}
join    or and if otherwise                  \text{ or }
logic   or and not xor                       \lor  \neg
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pdr_dspy.verifiers.mathematics import vocabulary


class Unreadable(Exception):
    """Text outside of the grammar."""


class Invalid(Unreadable):
    """Mathematics that has no value, or several by its notation: a division by zero, `1/2x`."""


class Token(NamedTuple):
    """One token; `space` tells whether white space preceded it."""

    kind: str
    text: str
    space: bool = False
    bold: bool = False
    """Whether it is a letter in bold type."""


def merged(tokens: list[Token]) -> list[Token]:
    r"""Merges thousands after plain commas outside of lists, negated relations, `^\circ`, and adjacent words."""
    out: list[Token] = []
    lists = place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.kind == "open" and token.text in ("(", "[", "\\{", "<"):
            lists += 1
        elif token.kind == "close" and token.text in (")", "]", "\\}", ">"):
            lists -= 1
        run = _thousands(tokens, place) if lists <= 0 else place
        listed = bool(out) and out[-1][:2] == ("op", ",") and not token.space
        if run > place and not listed:
            digits = "".join(one.text for one in tokens[place : run + 1 : 2])
            out.append(Token("num", digits, token.space))
            place = run + 1
        elif token[:2] == ("rel", "not") and place + 1 < len(tokens) and tokens[place + 1].kind == "rel":
            following = vocabulary.NEGATED.get(tokens[place + 1].text)
            if following is None:
                raise Unreadable("not")
            out.append(Token("rel", following, token.space))
            place += 2
        elif token[:2] == ("op", "^") and (raised := _raised(tokens, place)) is not None:
            found, place = raised
            out += found
        else:
            if token.kind == "text" and out and out[-1].kind == "text":
                token = Token("text", f"{out.pop().text} {token.text}", token.space)
            out.append(token)
            place += 1
    return out


def _thousands(tokens: list[Token], place: int) -> int:
    """The end of a number with thousands commas that starts here; `place` if there is none."""
    token = tokens[place]
    if token.kind != "num" or not re.fullmatch("[1-9][0-9]{0,2}", token.text):
        return place
    end = place
    while (
        end + 2 < len(tokens)
        and tokens[end + 1][:2] == ("op", ",")
        and not (tokens[end + 1].space or tokens[end + 2].space)
    ):
        following = tokens[end + 2]
        if following.kind != "num":
            break
        if not re.fullmatch(r"[0-9]{3}(\.[0-9]+)?", following.text) or "." in tokens[end].text:
            return place  # 1,2,345 is a list
        end += 2
    return end


def _raised(tokens: list[Token], place: int) -> tuple[list[Token], int] | None:
    """Degrees and primes written as exponents, and their end; None for a true exponent."""
    braced = [one[:2] for one in tokens[place + 1 : place + 2]] == [("open", "{")]
    start = end = place + 1 + braced
    while end < len(tokens) and tokens[end][:2] in (("op", "'"), ("cmd", "circ"), ("op", "deg")):
        end += 1
    if end == start or (braced and (end == len(tokens) or tokens[end].text != "}")):
        return None
    found = [Token("op", "'" if token.text == "'" else "deg") for token in tokens[start:end]]
    return found, end + braced


def _closes(tokens: list[Token], place: int, opened: str) -> bool:
    """Whether a `[` after a comma closes an interval: `]0, 1[`, and `[0, 1[` at its end."""
    if opened == "]":
        return True
    following = tokens[place + 1] if place + 1 < len(tokens) else None
    ends = following is None or following.kind in ("join", "close") or following.text in ("cup", "cap", "minus")
    return opened in ("[", "(") and ends and tokens[place - 1][:2] != ("op", ",")


def matching(tokens: list[Token]) -> dict[int, int]:
    """The position of each bracket's partner. Brackets of intervals may differ (`[0, 1)`, `]0, 1[`). Raises
    Unreadable."""
    pairs: dict[int, int] = {}
    stack: list[tuple[int, str, bool]] = []
    for place, token in enumerate(tokens):
        if token[:2] == ("op", ",") or token[:2] == ("op", ";"):
            if stack:
                stack[-1] = (*stack[-1][:2], True)
        elif token.kind == "open":
            if token.text == "[" and stack and stack[-1][2] and _closes(tokens, place, stack[-1][1]):  # ]0, 1[
                pairs[stack.pop()[0]] = place
            else:
                stack.append((place, token.text, False))
        elif token.kind == "close":
            if token.text == "]" and (not stack or stack[-1][1] not in ("(", "[", "]")):
                stack.append((place, "]", False))
                continue
            if not stack:
                raise Unreadable(f"{token.text} without an opening bracket")
            start, opened, _ = stack.pop()
            loose = opened in ("(", "[", "]") and token.text in (")", "]")
            if not (loose or token.text == vocabulary.OPENERS.get(opened, opened)):
                raise Unreadable(f"{opened} ... {token.text}")
            pairs[start] = place
    if stack:
        raise Unreadable(f"{stack[-1][1]} is not closed")
    return pairs


def split(tokens: list[Token], kind: str, *texts: str) -> tuple[list[list[Token]], list[Token]]:
    """The pieces between certain tokens outside of all brackets, and those tokens."""
    pairs = matching(tokens)
    pieces: list[list[Token]] = [[]]
    found: list[Token] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if place in pairs:
            pieces[-1] += tokens[place : pairs[place] + 1]
            place = pairs[place] + 1
            continue
        if token.kind == kind and (not texts or token.text in texts):
            pieces.append([])
            found.append(token)
        else:
            pieces[-1].append(token)
        place += 1
    return pieces, found
