r"""Lists as models write them: numbered, bulleted, one item per line, in brackets of all kinds, in a sentence.

Every item must be readable, or there is no list: an incomplete list would pass for a whole one. Everything takes
linear time. `line_items` reads lists with an item on each line, `inline_items` those within a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdr_dspy.prompts.inline_items import BRACKETS, inline, numbered_items
from pdr_dspy.prompts.line_items import below_heading, cells_of, is_item, marked_items, without_names

MAX_ITEMS = 10_000
"""Maximum items of a list; a longer one is not read."""

_ENUMERATED = re.compile(r"[0-9]{1,20}、\s?[0-9]")
"""`1、2、3`: separated, not numbered."""


def items_of(text: str, *, numbers: bool, words: bool, nested: bool = False, decimals: bool = False) -> list[list[str]]:
    """The items of a list as texts, in each possible interpretation of the text; the caller takes the first one in
    which every item is readable. Empty if the text is not a list.

    Args:
        text: the statement.
        numbers: items are numbers: `1,234` may be one number, and the words around them are prose.
        words: items are free texts, so that a comma may be part of an item.
        nested: items are lists themselves.
        decimals: items may be decimals: `3,5` may be one number.
    """
    text = text.strip()
    if not text or len(text) > 200_000:
        return []
    how = {"numbers": numbers, "words": words, "nested": nested, "decimals": decimals}
    lines = text.split("\n")
    if len([line for line in lines if line.strip()]) < 2:
        numbered = cells_of(lines) or numbered_items(text)
        marked = None if numbered or _ENUMERATED.match(text) else marked_items(lines)
        ways = [numbered or marked or []] if numbered or marked else inline(text, **how)
    elif cells := cells_of(lines):
        ways = [cells]
    elif any(map(is_item, lines)):
        items = marked_items(lines) or []
        items = items if nested else below_heading(items)
        ways = [without_names(items) if numbers and not nested else items]
    else:
        ways = []
        paragraph = _paragraph(lines)
        if not paragraph:
            return []
        goes_on = paragraph[0].rstrip().endswith((",", "，", "、"))
        if len(paragraph) > 1 and not goes_on:
            items = [line.strip().rstrip(",;，；") for line in paragraph]
            ways.append(without_names(items) if numbers and not nested else items)
        one = " ".join(line.strip() for line in paragraph)
        if len(paragraph) == 1 or goes_on or one[:1] in BRACKETS:
            ways += inline(one, **how)
    return [way for way in ways if 0 < len(way) <= MAX_ITEMS and all(item.strip() for item in way)]


def _paragraph(lines: Sequence[str]) -> list[str]:
    """The lines of the first paragraph, without one that only introduces the others; all lines if each is a few words;
    empty if such lines cannot be distinguished from prose."""
    short = [line for line in lines if line.strip() and len(line.split()) <= 3]
    if len(short) == sum(1 for line in lines if line.strip()):
        return short[1:] if short[0].rstrip(" *_").endswith((":", "：")) else short
    kept: list[str] = []
    for line in lines:
        if line.strip():
            kept.append(line)
        elif kept and not kept[-1].rstrip(" *_").endswith((":", "：")):
            break
    rest = [line for line in lines[lines.index(kept[-1]) + 1 :] if line.strip()]
    if any(len(line.split()) <= 3 and any(map(str.isalnum, line)) for line in rest):
        return []
    return kept[1:] if len(kept) > 1 and kept[0].rstrip(" *_").endswith((":", "：")) else kept
