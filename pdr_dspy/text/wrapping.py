r"""Wrapping around an answer that is not part of it: boxes, emphasis, math delimiters, displays, code blocks.

Everything here takes linear time.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# ------------------------------------------------------------------------------------------------- boxes

BOX = r"\\(?:boxed|fbox|framebox|Boxed|bbox|tcbox|ovalbox|doublebox)(?![A-Za-z])"
_BOX = re.compile(BOX)
_BOX_TOKEN = re.compile(
    rf"(?P<box>{BOX}\s{{0,9}}(?:\[[^\[\]\n]{{0,60}}\]\s{{0,9}}){{0,2}})(?:(?P<brace>\{{)|(?P<bare>"
    r"\\(?:text(?:bf|rm|it)?|mathrm|mathbf|d?frac|sqrt|math(?:bb|cal|sf))\s{0,3}\{|\$?[-+]?[0-9][0-9.,]{0,40}|[A-Za-z](?![A-Za-z])"
    r"|\([^()\n]{1,60}\)))?"
    r"|\\[\\{}]|[{}]"
)


def boxes(text: str) -> list[tuple[int, int]]:
    r"""Spans of the contents of complete, non-empty boxes, by their start; of nested boxes only the innermost.

    A box without braces holds the number, letter or group that follows: `\boxed 42`, `\boxed\text{B}`.
    """
    if not _BOX.search(text):  # text full of other commands and braces
        return []
    open_: list[int] = []  # start of each open brace's content; -1 if it is not a box
    found: list[tuple[int, int]] = []
    for token in _BOX_TOKEN.finditer(text):
        kind = token.group()
        if token["box"]:
            if token["brace"]:
                open_.append(token.end())
            elif token["bare"] and token["bare"].endswith("{"):
                open_.append(-2 - token.start("bare"))
            elif token["bare"]:
                found.append((token.start("bare"), _bare_end(token)))
        elif kind == "{":
            open_.append(-1)
        elif kind == "}":
            start = open_.pop() if open_ else -1
            end = token.start()
            if start <= -2:  # a command in a box without braces is its content, with its own braces
                start, end = -2 - start, token.end()
            nested = bool(found) and found[-1][0] > start
            if start >= 0 and not nested and text[start:end].strip():
                found.append((start, end))
    return found


def _bare_end(token: re.Match[str]) -> int:
    return token.start("bare") + len(token["bare"].rstrip(".,"))


# ------------------------------------------------------------------------------------------------- around an answer

STRUCK = re.compile(r"~~(?=\S)[^~\n]{1,200}~~")
"""Text that its author struck out."""

_WRAPS = (
    *(("**", "**"), ("__", "__"), ("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("```", "```"), ("==", "==")),
    *(("$", "$"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("„", "“"), ("「", "」")),
    *(("*", "*"), ("_", "_")),
)
_OPENING = frozenset(left[0] for left, _ in _WRAPS)
_NAME = re.compile(r"\w+")
_INSIDE = re.compile(  # commands and elements that only change their content's appearance
    r"(?:\\(?:textcolor|colorbox)\s?\{[^{}]{0,60}\}\s?\{(?P<coloured>.*)\}"
    r"|\\color\s?\{[^{}]{0,60}\}\s?\{(?P<painted>.*)\}"
    r"|\{?\s?\\color\s?\{[^{}]{0,60}\}\s?(?P<after>[^{}]*)\}?"
    rf"|(?:{BOX}|\\(?:underline|(?:mathbf|boldsymbol|bm|pmb)(?!\s?\{{[RZNQC]\}})|emph|bbox))\s?\{{(?P<set>.*)\}}"
    rf"|{BOX}\s{{1,3}}(?P<bare>[^\s{{}}]{{1,60}})"
    r"|\\(?:displaystyle|textstyle|large|Large|LARGE|huge|Huge|bf|bfseries)(?![A-Za-z])\s?(?P<sized>.+)"
    r"|<(?P<tag>b|strong|em|i|u|mark|span|font|code|p|kbd)(?:\s[^<>]{0,80})?>(?P<element>.*)</(?P=tag)>)",
    re.DOTALL,
)


def tidy(answer: str) -> str:
    """Strip the wrapping of an answer: spaces, emphasis, math delimiters, quotes, colours, a full stop. For the readers
    of numbers, choices and mathematics; a name such as `__init__`, `_id` or `C*` stays unchanged."""
    answer = answer.strip()
    for _ in range(8):
        before = answer
        answer = answer.removeprefix(":").strip()
        for left, right in _WRAPS if answer[:1] in _OPENING else ():
            if not (answer.startswith(left) and answer.endswith(right)):
                continue
            inner = answer[len(left) : -len(right)]
            if not inner.strip() or right in inner:
                continue
            if left[0] != "_" or not _NAME.fullmatch(inner):  # `__init__` is a name, not emphasis
                answer = inner.strip()
        if answer[:1] in ("\\", "{", "<") and (set_in := _INSIDE.fullmatch(answer)):
            inner = next(part for name, part in set_in.groupdict().items() if part is not None and name != "tag")
            if inner.strip() and _balanced(inner) and not (set_in["tag"] and f"</{set_in['tag']}>" in inner):
                answer = inner.strip()
        if answer.endswith((".", "。", ";", "．")) and not answer.endswith(("..", "\\;")):
            answer = answer[:-1].rstrip()
        for mark in ("**", "$$", "$"):  # an opening or closing mark whose partner is outside of the line
            if answer.count(mark) == 1 and (answer.startswith(mark) or answer.endswith(mark)):
                answer = answer.removeprefix(mark).removesuffix(mark).strip() if answer != mark else ""
        if answer.endswith("}") and "{" not in answer and not answer.endswith("\\}"):
            answer = answer[:-1].rstrip()
        if answer == before:
            break
    return answer


def _balanced(text: str) -> bool:
    depth = 0
    for place, sign in enumerate(text):
        if sign in "{}" and text[place - 1 : place] != "\\":
            depth += 1 if sign == "{" else -1
            if depth < 0:
                return False
    return depth == 0


# ------------------------------------------------------------------------------------------------- blocks


class Block(NamedTuple):
    """The text of one statement: a line, a display or a code block."""

    text: str
    end: int
    """End position in its text."""
    closed: bool
    """Whether it has an explicit end."""


_BLANK = re.compile(r"[ \t>]*(?:\*\*|__|-{3,}|={3,}|\*{3,})?[ \t]*\n")
_DISPLAY = re.compile(
    r"[ \t>]*(?P<open>\\\[|\\\((?=[ \t]*\n)|\$\$|\$(?=[ \t]*\n)|\\begin\s?\{(?P<name>[a-zA-Z]{1,20}\*?)\}|"
    r"(?P<fence>`{3,}|~{3,})[^\n`]{0,60}(?=\n)|```)"
)
_CLOSING = {"\\[": "\\]", "\\(": "\\)", "$$": "$$", "$": "$", "```": "```"}


def block(text: str, start: int, limit: int) -> Block | None:
    """The block from `start` on, after blank lines and lines that hold only a mark; None if there is none."""
    position = start
    for _ in range(6):
        blank = _BLANK.match(text, position, limit)
        if blank is None:
            break
        position = blank.end()
    if position >= limit:
        return None
    if opened := _DISPLAY.match(text, position, limit):
        begun = opened["fence"] or opened["open"]
        closing = f"\\end{{{opened['name']}}}" if opened["name"] else _CLOSING.get(begun, begun)
        if opened["fence"]:
            closing = f"\n{opened['fence']}"
        end = text.find(closing, opened.end(), limit)
        if end >= 0 and opened["fence"]:
            return Block(text[opened.end() : end].strip("\n"), end + len(closing), True)
        if end >= 0:
            line = text.find("\n", end, limit)
            line = limit if line < 0 else line
            tail = text[end + len(closing) : line]
            if not tail.strip(" \t.,;*_"):  # otherwise the display is part of a sentence
                first = opened.start("open")
                return Block(text[first : end + len(closing)], line, True)
        elif not text[opened.end() : limit].partition("\n")[0].strip():
            position = min(text.find("\n", opened.end(), limit) + 1 or limit, limit)  # never closed: what it opens
    end = text.find("\n", position, limit)
    end = limit if end < 0 else end
    return Block(text[position:end], end, False) if text[position:end].strip() else None
