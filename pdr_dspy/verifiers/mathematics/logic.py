r"""Formulas of propositional logic: `p \land (q \lor \neg r)`.

Two formulas are the same if they have the same form, up to the order of the sides of and, or, exclusive or, and
equivalence, and brackets that change nothing. Forms with equal truth tables are not the same: a contrapositive asked
for is not the statement itself.
"""

from __future__ import annotations

from pdr_dspy.verifiers.mathematics.tokens import Token, Unreadable, matching

_ARROWS = {"implies": "implies", "to": "implies", "iff": "iff"}
_LOOSEST_FIRST = ("iff", "implies", "or", "xor", "and")


def is_formula(tokens: list[Token]) -> bool:
    """Whether tokens are letters joined by connectives, brackets, and nothing else."""
    return any(token.kind == "logic" for token in tokens) and all(
        token.kind in ("logic", "sym")
        or (token.kind in ("open", "close") and token.text in "()[]{}")
        or (token.kind == "rel" and token.text in _ARROWS)
        or (token[:2] in (("op", "_"), ("op", "'")))
        or (token.kind == "num" and place and tokens[place - 1].text in ("_", "{"))
        for place, token in enumerate(tokens)
    )


def plain(tokens: list[Token]) -> list[Token]:
    """Tokens with connectives between anything but letters as the words `and`, `or`, `not`. Raises Unreadable."""
    if any(token[:2] == ("logic", "xor") for token in tokens):
        raise Unreadable("an exclusive or")
    return [
        Token("rel" if token.text == "not" else "join", token.text, token.space) if token.kind == "logic" else token
        for token in tokens
    ]


def in_words(tokens: list[Token]) -> list[Token]:
    """Tokens with the words `and`, `or` and `not` as connectives."""
    words = (("join", "and"), ("join", "or"), ("rel", "not"))
    return [Token("logic", token.text, token.space) if token[:2] in words else token for token in tokens]


def form(tokens: list[Token], depth: int = 0) -> str:
    """The form of a formula, equal for equal formulas. Raises Unreadable."""
    if not tokens or depth > 30:
        raise Unreadable("a formula")
    pairs = matching(tokens)
    for connective in _LOOSEST_FIRST:
        parts: list[list[Token]] = [[]]
        place = 0
        while place < len(tokens):
            token = tokens[place]
            if place in pairs:
                parts[-1] += tokens[place : pairs[place] + 1]
                place = pairs[place]
            elif _connective(token) == connective:
                parts.append([])
            else:
                parts[-1].append(token)
            place += 1
        if len(parts) > 1:
            return _joined(connective, parts, depth)
    if tokens[0][:2] == ("logic", "not"):
        return f"not({form(tokens[1:], depth + 1)})"
    if pairs.get(0) == len(tokens) - 1:
        return form(tokens[1:-1], depth + 1)
    name = "".join(token.text for token in tokens if token.text not in "{}")
    if tokens[0].kind != "sym" or any(token.kind == "sym" for token in tokens[1:] if tokens[1].text != "_"):
        raise Unreadable("a formula")
    return name


def _connective(token: Token) -> str | None:
    return token.text if token.kind == "logic" else _ARROWS.get(token.text) if token.kind == "rel" else None


def _joined(connective: str, parts: list[list[Token]], depth: int) -> str:
    if connective == "implies":  # to the right: p -> (q -> r)
        return f"implies({form(parts[0], depth + 1)}, {_rest(parts[1:], depth)})"
    members: list[str] = []
    for part in parts:
        while part and matching(part).get(0) == len(part) - 1 and part[0].kind == "open":
            part = part[1:-1]
        found = form(part, depth + 1)
        inner = found[len(connective) + 1 : -1] if found.startswith(f"{connective}[") else ""
        members += inner.split("; ") if inner and "[" not in inner else [found]
    return f"{connective}[{'; '.join(sorted(members))}]"


def _rest(parts: list[list[Token]], depth: int) -> str:
    return form(parts[0], depth + 1) if len(parts) == 1 else _joined("implies", parts, depth + 1)
