r"""The structure of an answer: alternatives, each with values and relations that hold together.

`x = 1 or x = 2`, `x = 1, 2` and `x \in \{1, 2\}` are two alternatives of one relation; `x = 2, y = 3` is one
alternative of two relations; `1, 2` two alternatives of one value; `2n\pi, n \in \mathbb Z` one of a value and a
condition.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace

import sympy

from pdr_dspy.verifiers.mathematics import logic
from pdr_dspy.verifiers.mathematics.approximations import approximate
from pdr_dspy.verifiers.mathematics.arrangement import (
    begins_statement,
    both_signs,
    condition_in_brackets,
    sets_by_letter,
    stripped,
    union_letters,
)
from pdr_dspy.verifiers.mathematics.beside import NOTHING
from pdr_dspy.verifiers.mathematics.cleaning import clean, other_spellings
from pdr_dspy.verifiers.mathematics.conditions import modulus_of, property_of, remainder
from pdr_dspy.verifiers.mathematics.cursor import table
from pdr_dspy.verifiers.mathematics.lexer import tokenise
from pdr_dspy.verifiers.mathematics.products import capitals
from pdr_dspy.verifiers.mathematics.scalars import read_scalar
from pdr_dspy.verifiers.mathematics.tokens import Token, Unreadable, matching, merged, split
from pdr_dspy.verifiers.mathematics.values import (
    Answer,
    Braces,
    Cases,
    Combined,
    Formula,
    Item,
    Named,
    Ratio,
    Relation,
    Scalar,
    Sequence,
    SuchThat,
    Value,
    Words,
    name_of,
)

MAX_ITEMS = 200
MAX_DEPTH = 12


def read(text: str, *, is_gold: bool = False) -> list[Answer]:
    """The possible readings of a text: one, or for an approximation (`1/3 ≈ 0.333`) the exact and the rounded value,
    and those of ambiguous spellings (`5 m/s`).

    Raises Unreadable, TooLarge.
    """
    readings: list[Answer] = []
    failure: Unreadable | None = None
    for spelling in (text, *other_spellings(text, is_gold=is_gold)):
        try:
            readings += _readings(spelling)
        except Unreadable as error:
            failure = failure or error
    if failure is not None and not readings:
        raise failure
    return readings


def _readings(text: str) -> list[Answer]:
    tokens = tokenise(clean(text))
    if logic.is_formula(tokens):
        return [_single(Formula(logic.form(tokens)))]
    if any(token.kind == "logic" for token in tokens):
        tokens = merged(logic.plain(tokens))
    tokens = capitals(tokens)
    if not tokens:
        raise Unreadable("nothing")
    answer = _answer(tokens, 0)
    exact, rounded = approximate(answer, keep=0), approximate(answer, keep=-1)
    readings = [exact] if exact == rounded else [exact, rounded]
    if len(tokens) > 3 and tokens[0][:2] in (("sym", "C"), ("sym", "P")) and _is_pair(tokens[1:]):  # or a point
        with contextlib.suppress(Unreadable):
            readings.append(_single(read_scalar(tokens)))
    if logic.is_formula(connected := logic.in_words(tokens)):  # `p or q`
        readings.append(_single(Formula(logic.form(connected))))
    return readings


def _is_pair(tokens: list[Token]) -> bool:
    whole = tokens[0][:2] == ("open", "(") and matching(tokens)[0] == len(tokens) - 1
    return whole and len(split(tokens[1:-1], "op", ",")[0]) == 2


def _single(value: Value) -> Answer:
    return Answer(((value,),), listed=True)


# --------------------------------------------------------------------------------------------------- and, or, commas


def _answer(tokens: list[Token], depth: int) -> Answer:
    if depth > MAX_DEPTH:
        raise Unreadable("too deep")
    parts, _ = split(tokens, "join", "or")
    if len(parts) > 1:
        parts = [stripped(part) for part in parts]
        if not all(parts):
            raise Unreadable("an `or` without its sides")
        return _either([_groups(part, depth) for part in parts], tokens)
    return _groups(tokens, depth)


def _either(answers: list[Answer], tokens: list[Token]) -> Answer:
    joined = any(token[:2] == ("join", "and") for token in tokens)
    if joined and any(len(answer.options) > 1 and answer.listed for answer in answers):
        raise Unreadable("`or` beside `and`")
    options = tuple(option for answer in answers for option in answer.options)
    return Answer(options, listed=all(answer.listed for answer in answers))


def _groups(tokens: list[Token], depth: int) -> Answer:
    parts, _ = split(tokens, "op", ";")
    parts = [part for part in parts if stripped(part)]
    if len(parts) > 1:
        answers = [_together(part, depth) for part in parts]
        if all(len(answer.options) == 1 for answer in answers):
            return _arranged(
                [item for answer in answers for item in answer.options[0]], [len(a.options[0]) for a in answers]
            )
        options = tuple(option for answer in answers for option in answer.options)
        return Answer(options, listed=all(answer.listed for answer in answers))
    return _together(parts[0] if parts else tokens, depth)


def _together(tokens: list[Token], depth: int) -> Answer:
    """Items separated by commas, `and` and the words of conditions."""
    tokens = condition_in_brackets(stripped(tokens))
    pieces: list[list[Token]] = [[]]
    pairs = matching(tokens)
    place = 0
    while place < len(tokens):
        if place in pairs:
            pieces[-1] += tokens[place : pairs[place] + 1]
            place = pairs[place] + 1
            continue
        token = tokens[place]
        if token[:2] == ("op", "/") and begins_statement(tokens, place, pieces[-1]):
            pieces.append([])
            place += 1
            continue
        previous = tokens[place - 1][:2] if place else None
        following = tokens[place + 1] if place + 1 < len(tokens) else None
        if token.kind == "join" and token.text in ("and", "if"):
            if following is None or previous is None or (not pieces[-1] and previous != ("op", ",")):
                raise Unreadable(f"`{token.text}` without its sides")
            pieces.append([])
        elif token[:2] in (("op", ","), ("op", "\\\\")):
            if token.text == "," and previous == ("op", ","):
                raise Unreadable("a missing member")
            pieces.append([])
        elif token.kind == "join":
            raise Unreadable(token.text)
        elif token[:2] == ("op", "&"):  # of aligned equations
            if pieces[-1] and (following is None or following.kind != "rel") and tokens[place - 1].kind != "rel":
                raise Unreadable("&")
        else:
            pieces[-1].append(token)
        place += 1
    items: list[Item] = []
    sizes: list[int] = []
    for piece in pieces:
        if piece:
            found = [_item(one, depth) for one in both_signs(piece)]
            items += found
            sizes += [1] * len(found)
        if len(items) > MAX_ITEMS:
            raise Unreadable("too many members")
    if not items:
        raise Unreadable("nothing")
    return _arranged(items, None)


def assigned_name(item: Item) -> str | None:
    """The name on the left of `x = ...`, as a key; None for anything else."""
    if isinstance(item, Relation) and item.signs and set(item.signs) == {"="}:
        return name_of(item.sides[0])
    return None


def _arranged(items: list[Item], groups: list[int] | None) -> Answer:
    """Items as several alternatives, or as one alternative of items that hold together."""
    relations = [isinstance(item, Relation) for item in items]
    names = [assigned_name(item) for item in items]
    if groups is not None and any(size > 1 for size in groups):
        options, place = [], 0
        for size in groups:
            options.append(tuple(items[place : place + size]))
            place += size
        return Answer(tuple(options))
    if not any(relations):
        return Answer(tuple((item,) for item in items), listed=True)
    if relations[0] and names[0] is not None and not any(relations[1:]):  # x = 1, 2
        first = items[0]
        assert isinstance(first, Relation)
        rest = [Relation((first.sides[0], item), ("=",)) for item in items[1:] if not isinstance(item, Relation)]
        return Answer(((first,), *((one,) for one in rest)))
    if all(name is not None for name in names) and len(set(names)) < len(names):
        period = next(place for place in range(1, len(names) + 1) if place == len(names) or names[place] == names[0])
        if len(names) % period or any(
            sorted(map(str, names[at : at + period])) != sorted(map(str, names[:period]))
            for at in range(0, len(names), period)
        ):
            raise Unreadable("names that do not repeat evenly")
        return Answer(tuple(tuple(items[at : at + period]) for at in range(0, len(items), period)))
    values = relations.index(True)
    if any(not one for one in relations[values:]):
        raise Unreadable("a value after a condition")
    conditions = tuple(items[values:])
    if values:
        return Answer(tuple((item, *conditions) for item in items[:values]), listed=True)
    return Answer((conditions,))


# --------------------------------------------------------------------------------------------------- relations, sets


def _item(tokens: list[Token], depth: int) -> Item:
    if (stated := property_of(tokens)) is not None:
        return stated
    whole = tokens
    tokens, modulus = modulus_of(tokens)
    if modulus is not None and not split(tokens, "rel")[1]:
        return remainder(whole)
    sides, signs = split(sets_by_letter(tokens), "rel")
    if signs and not sides[0] and signs[0].text in ("=", "approx", "implies"):  # `= 42`
        sides, signs = sides[1:], signs[1:]
    if any(not side for side in sides):
        raise Unreadable("a relation without a side")
    values = tuple(_side(side, depth) for side in sides)
    if not signs:
        return values[0]
    if modulus is not None:  # `x = 3 (mod 7)`
        return Relation(values, tuple("equiv" if sign.text == "=" else sign.text for sign in signs), modulus)
    return Relation(values, tuple(sign.text for sign in signs), modulus)


_CLOCK = re.compile(r"(?:[01]?[0-9]|2[0-4])(?::[0-5][0-9]){1,2}")


def _side(tokens: list[Token], depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise Unreadable("too deep")
    tokens = union_letters(tokens)
    for operation in ("minus", "cup", "cap"):
        parts, found = split(tokens, "cmd", operation)
        if found:
            if any(not part for part in parts):
                raise Unreadable(operation)
            return Combined(operation, tuple(_side(part, depth + 1) for part in parts))
    ratio, found = split(tokens, "op", ":")
    if found:
        if any(not part for part in ratio):
            raise Unreadable(":")
        shown = [[token for token in part if token.kind != "text"] for part in ratio]
        digits = ":".join(token.text if token.kind == "num" else "?" for part in shown for token in part)
        return Ratio(tuple(_side(part, depth + 1) for part in ratio), _CLOCK.fullmatch(digits) is not None)
    return _enclosed(tokens, depth) or _hour(read_scalar(tokens))


def _hour(value: Value) -> Value:
    """`6 pm` as `6:00 pm`."""
    if isinstance(value, Scalar) and value.words.marks & {"am", "pm"} and value.expression in range(1, 13):
        return Ratio((replace(value, words=NOTHING), Scalar(sympy.Integer(0), words=value.words)), clock=True)
    return value


_SUFFIXES = {
    **dict.fromkeys(("^+", "_+", "_>0", "^>0"), "+"),
    **dict.fromkeys(("^-", "_-", "_<0", "^<0"), "-"),
    **dict.fromkeys(("_>=0", "^>=0", "_0^+", "^+_0"), "+0"),
    **dict.fromkeys(("_<=0", "^<=0"), "-0"),
    **dict.fromkeys(("^*", "_!=0", "^!=0"), "*"),
    **{"_0": "0", "^2": "^2", "^3": "^3", "^n": "^n", "_5": "_5", "_7": "_7"},
}
"""Suffixes of a set's letter: positive, negative, with 0, without 0, pairs."""


def _enclosed(tokens: list[Token], depth: int) -> Value | None:
    first, last = tokens[0], tokens[-1]
    if len(tokens) == 1 and first.kind == "cmd" and first.text.startswith("set:"):
        return Named(first.text[4:])
    if first.kind == "cmd" and first.text.startswith("set:"):
        suffix = "".join(token.text for token in tokens[1:] if token.text not in "{}")
        if first.text == "set:empty" or suffix not in _SUFFIXES:
            raise Unreadable("a set with a sign")
        return Named(first.text[4:] + _SUFFIXES[suffix])
    if first.kind == "text" and len(tokens) == 1 and first.text != "$":
        return Words(first.text)
    pairs = matching(tokens)
    if first.kind == "sym" and first.text in _POINT_NAMES and pairs.get(1) == len(tokens) - 1:
        return _enclosed(tokens[1:], depth) if split(tokens[2:-1], "op", ",", ";")[1] else None  # A(1, 2)
    if pairs.get(0) != len(tokens) - 1:
        return None
    inside = tokens[1:-1]
    if first.text == "env:cases":
        return _cases(inside, depth)
    if first.text.startswith("env:"):
        return None
    if first.text in ("\\{", "{") and _is_set(first, inside):
        return _braces(inside, depth)
    if first.text in ("{", "|", "floor", "ceil"):
        braced = first.text == "{" and inside and not split(inside, "cmd", "choose")[1]
        return _side(inside, depth + 1) if braced else None
    items, separators = split(inside, "op", ",", ";")
    if separators:
        if any(not item for item in items):
            raise Unreadable("a missing member")
        members = tuple(_answer(item, depth + 1) for item in items)
        if any(len(member.options) != 1 or len(member.options[0]) != 1 for member in members):
            raise Unreadable("a member that is a list")
        return Sequence(first.text, members, last.text)
    if first.text == "<":
        raise Unreadable("<")
    if first.text == "(" and last.text == ")" and inside:
        if inside[0].kind == "open" or (inside[0].kind == "cmd" and inside[0].text.startswith("set:")):
            nested = matching(inside).get(0)
            if nested == len(inside) - 1 or split(inside, "cmd", "cup", "cap", "minus")[1]:
                return _side(inside, depth + 1)
        if all(token.kind == "text" for token in inside):
            return Words(inside[0].text)
    return None


_POINT_NAMES = frozenset("ABCDEIJKLMNOPRSTUVXYZ")


def _is_set(first: Token, inside: list[Token]) -> bool:
    return first.text == "\\{" or bool(split(inside, "op", ",")[1])


def _braces(inside: list[Token], depth: int) -> Value:
    if not inside:
        return Named("empty")
    pairs = matching(inside)
    place = 0
    while place < len(inside):
        token = inside[place]
        bar = token[:2] == ("op", "|") and sum(one[:2] == ("op", "|") for one in inside) % 2 == 1
        if place and (bar or token[:2] in (("op", ":"), ("rel", "mid"))):
            member, condition = inside[:place], inside[place + 1 :]
            return SuchThat(_answer(member, depth + 1), _answer(condition, depth + 1))
        place = pairs[place] + 1 if place in pairs else place + 1
    answer = _answer(inside, depth + 1)
    if any(len(option) != 1 or isinstance(option[0], Relation) for option in answer.options):
        raise Unreadable("a member of a set")
    return Braces(tuple(Answer((option,)) for option in answer.options))


def _cases(inside: list[Token], depth: int) -> Value:
    rows = table(inside)
    if all(len(row) == 1 for row in rows):  # a system of equations
        joined: list[Token] = []
        for row in rows:
            joined += [*row[0], Token("op", ",")]
        answer = _answer(stripped(joined), depth + 1)
        return SuchThat(answer, answer)
    found: list[tuple[Answer, Answer | None]] = []
    for row in rows:
        if len(row) != 2:
            raise Unreadable("a row of cases")
        condition = [token for token in stripped(row[1]) if token[:2] != ("join", "if")]
        value = _answer(stripped(row[0]), depth + 1)
        otherwise = any(token[:2] == ("join", "otherwise") for token in condition)
        if otherwise and len(condition) > 1:
            raise Unreadable("otherwise")
        found.append((value, None if otherwise else _condition(condition, depth)))
    if not found:
        raise Unreadable("cases")
    return Cases(tuple(found))


def _condition(tokens: list[Token], depth: int) -> Answer:
    """A condition of a case; one in prose is compared by its words."""
    try:
        return _answer([token for token in tokens if token[:2] != ("text", ".")], depth + 1)
    except Unreadable:
        if not any(token.kind == "text" and re.search(r"[A-Za-z]{2}", token.text) for token in tokens):
            raise
    pieces: list[str] = []
    for token in tokens:
        prose = token.kind == "text"
        pieces += re.findall(r"[^\W_]+|[^\w\s.,;]", token.text.casefold()) if prose else [token.text]
    return _single(Formula(" ".join(pieces)))
