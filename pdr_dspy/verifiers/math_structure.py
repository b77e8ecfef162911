r"""The structure of a mathematical answer: lists, tuples, intervals, relations, sets, cases and matrices around values.

`read` takes a text apart without working anything out, in linear time; what is left are values in LaTeX, which another
process compares. Two answers are equal where their structures are and their values are: an answer is never what stands
behind its last `=`. A structure is JSON data, a dict with a "kind":

    value      {"latex"}
    many       {"items", "joint"}           1, 2   1 or 2   \{1, 2\}   joint: "," "or" "and" "set"
    tuple      {"items", "open", "close"}   (1, 2)   [1, 2)
    relation   {"parts", "signs", "names", "reckons"}   x = 2   6 \cdot 7 = 42   17 \ne 25
    member     {"name", "of"}               n \in \mathbb Z
    interval   {"ends", "open", "variable"} -1 < x \le 3 once more, where its ends are values and its middle a name
    union      {"items"}                    (-\infty, 1) \cup \{2\}
    such that  {"items"}                    \{x \mid x > 2\}
    rows       {"rows", "name"}             matrices and cases, row by row
"""

from __future__ import annotations

import re
from typing import Any

Structure = dict[str, Any]

MAX_DEPTH = 12
"""Structures within structures; deeper ones are not read."""

_SPACE = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|[bB]ig{1,2}[lrm]?)(?![A-Za-z])"
    r"|(?<!\\)\\[;:! ]|\\q?quad(?![A-Za-z])|~"
)
_SPACED_THOUSANDS = re.compile(r"(?<=[0-9])\{?,?\}?\s?\\[!,](?:\\!)?(?=[0-9]{3}(?![0-9]))")
_SIGNS = (  # what stands for each relation, and how it is written here
    (r"\\leq?(?:slant|qq)?(?![A-Za-z])|≤|⩽|<=|=<", r"\le"),
    (r"\\geq?(?:slant|qq)?(?![A-Za-z])|≥|⩾|>=", r"\ge"),
    (r"\\not\s?=|\\neq?(?![A-Za-z])|≠|!=|<>", r"\ne"),
    (r"\\not\s?\\in(?![A-Za-z])|\\notin(?![A-Za-z])|∉", r"\notin"),
    (r"\\in(?![A-Za-z])|∈", r"\in"),
    (r"\\equiv(?![A-Za-z])|≡", r"\equiv"),
    (r"\\(?:approx|simeq|sim)(?![A-Za-z])|≈|~=", r"\approx"),
    (r"\\subseteq(?![A-Za-z])|⊆", r"\subseteq"),
    (r"\\subset(?![A-Za-z])|⊂", r"\subset"),
    (r"\\lt(?![A-Za-z])", "<"),
    (r"\\gt(?![A-Za-z])", ">"),
    (r"\\(?:implies|Rightarrow|Longrightarrow|iff|Leftrightarrow|to|rightarrow)(?![A-Za-z])|⇒|→|⇔", r"\to"),
    (r"[=<>]", None),
)
_SIGN = re.compile("|".join(f"(?P<s{i}>{pattern})" for i, (pattern, _) in enumerate(_SIGNS)))
_TURNED = {"<": ">", r"\le": r"\ge"}
_JOINT = re.compile(
    r"\\text(?:rm|normal)?\s?\{\s*,?\s*(?P<word>or|and)\s*\}|\\(?:mbox|mathrm)\s?\{\s*(?P<mword>or|and)\s*\}"
    r"|(?<![\\A-Za-z])(?P<plain>or|and)(?![A-Za-z])|\\(?P<lor>lor|vee)(?![A-Za-z])|\\(?P<land>land|wedge)(?![A-Za-z])"
    r"|(?P<semi>(?<!\\);)|(?P<comma>,)"
)
_CUP = re.compile(r"\\cup(?![A-Za-z])|∪|(?<![\\A-Za-z])U(?=\s*(?:[(\[]|\\\{))")
_THOUSANDS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:(?:\{,\}|,\s?\\!|\\,|,)[0-9]{3})+)(?![0-9])(?!,[0-9])")
_SUCH_THAT = re.compile(r"\\mid(?![A-Za-z])|\\vert(?![A-Za-z])|(?<!\\)\||(?<![A-Za-z\\]):(?!=)")
_ROWS = re.compile(
    r"\\begin\s?\{(?P<name>[pbvBV]?(?:small)?matrix|array|cases)\}(?:\s?\{[lcr| ]*\})?"
    r"(?P<body>.*)\\end\s?\{(?P=name)\}",
    re.S,
)
_NAME = re.compile(
    r"\s*(?:\\(?:angle|triangle|overline|vec|hat|bar|mathbf|mathrm|text|operatorname)\s?)?\{?\s*"
    r"(?:[A-Za-z]|\\[A-Za-z]+)[A-Za-z']{0,24}\s*\}?(?:_\s?\{?\s*[A-Za-z0-9]{1,6}\s*\}?)?'{0,3}\s*(?:\([^()=<>]{1,24}\))?\s*"
)
_NOT_NAMES = re.compile(r"\\(?:frac|sqrt|pi|infty|sin|cos|tan|log|ln|exp|binom|cdot|times|pm|mp|not|sum|prod|int)")
_ARITHMETIC = re.compile(
    r"(?:[0-9.,+\-*/^(){}!\s]|\\(?:frac|dfrac|tfrac|cdot|times|div|sqrt|left|right|binom|pi)(?![A-Za-z]))+"
)


def read(text: str) -> Structure | None:
    """The structure of an answer in LaTeX or as it is typed; None where its brackets do not close, where it is nested
    too deeply, or where part of it is empty."""
    return _read(_SPACE.sub(" ", _SPACED_THOUSANDS.sub(",", text)).strip(), 0)


def _read(text: str, depth: int) -> Structure | None:
    text = text.strip().removesuffix(".").strip()
    if not text or depth > MAX_DEPTH:
        return None
    top = _top_level(text)
    if top is None:
        return None
    whole = _THOUSANDS.fullmatch(text.lstrip("+-"))
    if not whole:
        parts = _split(text, top, _JOINT)
        if parts is not None and len(parts[0]) > 1:
            return _many(*parts, depth)
    cups = _split(text, top, _CUP)
    if cups is not None and len(cups[0]) > 1:
        return _all("union", cups[0], depth)
    related = _split(text, top, _SIGN)
    if related is not None and len(related[0]) > 1:
        both = _both_signs(text)
        return _all("many", both, depth) if both else _relation(*related, depth)
    return _enclosed(text, depth) or _value(text)


def _value(text: str) -> Structure | None:
    """A value; a `\\pm` in it stands for two."""
    text = _THOUSANDS.sub(lambda number: re.sub(r"[^0-9]", "", number[1]), text)
    both = _both_signs(text)
    if both:
        return {"kind": "many", "joint": ",", "items": [{"kind": "value", "latex": one.strip()} for one in both]}
    return {"kind": "value", "latex": text}


def _both_signs(text: str) -> list[str]:
    """What a text with one `\\pm` stands for; empty without."""
    signs = re.findall(r"\\pm(?![A-Za-z])|±|\+/-", text)
    if len(signs) != 1 or re.search(r"\\mp(?![A-Za-z])", text):
        return []
    return [text.replace(signs[0], sign, 1) for sign in (" + ", " - ")]


def _many(items: list[str], joints: list[str], depth: int) -> Structure | None:
    kinds = {"or": "or", "lor": "or", "vee": "or", "and": "and", "land": "and", "wedge": "and"}
    words = {kinds[joint] for joint in joints if joint in kinds}
    if len(words) > 1:
        return None  # `1 or 2 and 3` is not one list
    items = [item for item in items if item.strip()]  # `1, 2, and 3`
    found = _all("many", items, depth)
    if found is not None:
        found["joint"] = words.pop() if words else ","
        if len(found["items"]) == 1:
            return found["items"][0]
    return found


def _all(kind: str, items: list[str], depth: int) -> Structure | None:
    read = [_read(item, depth + 1) for item in items]
    if not read or any(one is None for one in read):
        return None
    flat: list[Structure] = []
    for one in read:
        assert one is not None
        nested = kind == "many" and one["kind"] == "many" and one["joint"] == ","  # of a `\pm`
        flat += one["items"] if nested else [one]
    return {"kind": kind, "items": flat} | ({"joint": ","} if kind == "many" else {})


def _relation(parts: list[str], signs: list[str], depth: int) -> Structure | None:
    parts = [part.strip() for part in parts]
    if signs[0] in ("=", r"\approx", r"\to") and not parts[0]:  # `= 42`
        parts, signs = parts[1:], signs[1:]
        if not signs:
            return _read(parts[0], 1)
    if not all(parts):
        return None
    if all(sign in (">", r"\ge") for sign in signs):  # 3 > x > 1 is 1 < x < 3
        turned = {new: old for old, new in _TURNED.items()}
        parts, signs = parts[::-1], [turned[sign] for sign in signs[::-1]]
    values = [_without_thousands(part) for part in parts]
    if all(sign in ("<", r"\le") for sign in signs):
        interval = _interval(values, signs)
        if interval is not None:
            return interval
    if signs == [r"\in"] and is_name(parts[0]):
        of = _read(parts[1], depth + 1)
        return None if of is None else {"kind": "member", "name": named(parts[0]), "of": of}
    names = [named(part) if is_name(part) else None for part in values]
    return {
        "kind": "relation",
        "parts": values,
        "signs": signs,
        "names": names,
        "reckons": [is_arithmetic(part) for part in values],
    }


def _interval(parts: list[str], signs: list[str]) -> Structure | None:
    """`a < x \\le b`, `x < b` and `a < x` as an interval of their variable."""
    strict = [sign == "<" for sign in signs]
    if len(parts) == 3 and is_name(parts[1]) and not is_name(parts[0]) and not is_name(parts[2]):
        return {"kind": "interval", "ends": [parts[0], parts[2]], "open": strict, "variable": named(parts[1])}
    if len(parts) == 2 and is_name(parts[0]) and not is_name(parts[1]):
        return {
            "kind": "interval",
            "ends": [r"-\infty", parts[1]],
            "open": [True, *strict],
            "variable": named(parts[0]),
        }
    if len(parts) == 2 and is_name(parts[1]) and not is_name(parts[0]):
        return {"kind": "interval", "ends": [parts[0], r"\infty"], "open": [*strict, True], "variable": named(parts[1])}
    return None


def _enclosed(text: str, depth: int) -> Structure | None:
    """A tuple, an interval, a set, a matrix or cases, where a text is one from its first sign to its last."""
    rows = _ROWS.fullmatch(text)
    if rows is not None and rows["body"].count(r"\begin") == 0:
        return _table(rows["name"], rows["body"], depth)
    angled = re.fullmatch(r"\\langle(.*)\\rangle", text, re.S)
    if angled is not None:
        text = f"({angled[1]})"
    braced = re.fullmatch(r"(?:\\\{|\\lbrace(?![A-Za-z]))(.*)(?:\\\}|\\rbrace)", text, re.S)
    if braced is not None and (inside := _top_level(braced[1])) is not None:
        condition = _split(braced[1], inside, _SUCH_THAT)
        if condition is not None and len(condition[0]) == 2:
            return _all("such that", condition[0], depth)
        if not braced[1].strip():
            return {"kind": "value", "latex": r"\emptyset"}
        found = _read(braced[1], depth + 1)
        if found is None or found["kind"] == "relation":
            return None
        items = found["items"] if found["kind"] == "many" else [found]
        return {"kind": "many", "joint": "set", "items": items}
    if text[0] in "([" and text[-1] in ")]" and (inside := _top_level(text[1:-1])) is not None:
        parts = _split(text[1:-1], inside, re.compile(r"(?P<comma>,)|(?P<semi>;)"))
        if parts is not None and len(parts[0]) > 1:
            found = _all("tuple", parts[0], depth)
            return None if found is None else found | {"open": text[0], "close": text[-1]}
        if text[0] == "(" and text[-1] == ")":
            inner = _read(text[1:-1], depth + 1)
            return inner if inner is not None and inner["kind"] != "value" else None
    return None


def _table(name: str, body: str, depth: int) -> Structure | None:
    rows = [row for row in re.split(r"\\\\(?:\s?\[[^\]]*\])?", body) if row.strip()]
    cells = [[_read(cell, depth + 1) for cell in row.split("&") if cell.strip()] for row in rows]
    if not cells or any(cell is None for row in cells for cell in row):
        return None
    if name != "cases":
        name = name if name in ("vmatrix", "Vmatrix") else "matrix"
    return {"kind": "rows", "name": name, "rows": cells}


def is_name(text: str) -> bool:
    """Whether a text is what an answer may be called: `x`, `f(2)`, `AB`, `x_1`, `\\angle ABC`, `Total cost`."""
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf)\s?\{([^{}]*)\}", r"\1", text.strip())
    if not text or len(text) > 60 or _NOT_NAMES.search(text) or re.search(r"\b(?:not|or|and|no)\b", text, re.I):
        return False
    if re.fullmatch(r"[A-Za-z]+(?:[ '-][A-Za-z]+)*", text):
        return text not in ("e", "i")
    if _NAME.fullmatch(text) is not None:
        return True
    if re.fullmatch(r"\|?[A-Z]{1,3}\|?|\[[A-Z]{3,6}\]", text) is not None:
        return True
    parts = re.split(r"[-+]", text)  # `m+n`, which a question may ask for
    return len(parts) > 1 and all(_NAME.fullmatch(part) is not None for part in parts)


def is_arithmetic(text: str) -> bool:
    """Whether a text only reckons with numbers: the steps of `6 \\cdot 7 = 42`."""
    return _ARITHMETIC.fullmatch(text) is not None and re.search(r"[0-9]", text) is not None


def named(text: str) -> str:
    """A name as it is compared."""
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf|operatorname)\s?\{([^{}]*)\}", r"\1", text)
    return re.sub(r"[\s{}\\$]|left|right", "", text)


def _without_thousands(text: str) -> str:
    return _THOUSANDS.sub(lambda number: re.sub(r"[^0-9]", "", number[1]), text)


def _top_level(text: str) -> list[bool] | None:
    """For each character whether it stands outside of all brackets; None where brackets do not close.

    Half-open intervals close a `(` with a `]`, so round and square brackets count as one kind.
    """
    outside: list[bool] = []
    depth = braces = tables = 0
    position = 0
    while position < len(text):
        here = depth == 0 and braces == 0 and tables == 0
        step = 1
        if text[position] == "\\":
            command = re.match(r"\\(?:[A-Za-z]+|.)", text[position:], re.S)
            step = len(command.group()) if command else 1
            word = text[position : position + step]
            if word in (r"\{", r"\lbrace", r"\langle"):
                depth, here = depth + 1, False
            elif word in (r"\}", r"\rbrace", r"\rangle"):
                depth, here = depth - 1, False
            elif word == r"\begin":
                tables, here = tables + 1, False
            elif word == r"\end":
                tables, here = tables - 1, False
        elif text[position] in "([":
            depth, here = depth + 1, False
        elif text[position] in ")]":
            depth, here = depth - 1, False
        elif text[position] == "{":
            braces, here = braces + 1, False
        elif text[position] == "}":
            braces, here = braces - 1, False
        if depth < 0 or braces < 0 or tables < 0:
            return None
        outside += [here] * step
        position += step
    return outside if depth == braces == tables == 0 else None


def _split(text: str, outside: list[bool], pattern: re.Pattern[str]) -> tuple[list[str], list[str]] | None:
    """The parts of a text between the matches of a pattern outside of brackets, and what each match is."""
    parts: list[str] = []
    found: list[str] = []
    start = 0
    for match in pattern.finditer(text):
        if not outside[match.start()] or match.start() < start:
            continue
        if pattern is _JOINT and match.group() == "," and _in_number(text, match.start()):
            continue
        parts.append(text[start : match.start()])
        start = match.end()
        found.append(_sign(match) if pattern is _SIGN else _word(match))
    parts.append(text[start:])
    return parts, found


def _in_number(text: str, place: int) -> bool:
    """Whether a comma groups the digits of a number: `10,080` and `10,\\!080`, never `10, 080`."""
    after = re.match(r",(?:\s?\\!)?[0-9]{3}(?![0-9])", text[place : place + 8])
    before = re.search(r"(?<![0-9.])[0-9]{1,3}(?:,(?:\s?\\!)?[0-9]{3})*$", text[max(0, place - 60) : place])
    return after is not None and before is not None


def _sign(match: re.Match[str]) -> str:
    for index, (_, sign) in enumerate(_SIGNS):
        if match.group(f"s{index}") is not None:
            return sign or match.group()
    raise AssertionError(match)


def _word(match: re.Match[str]) -> str:
    return next((value for value in match.groupdict().values() if value), match.group())
