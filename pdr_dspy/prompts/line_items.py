"""The items of a list that has one on each line: bulleted, numbered, or the cells of a table of one column."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdr_dspy.text.labels import ANSWER_KEYS, key

MAX_LINE = 20_000
"""Maximum characters of a line that are read."""

_ROW = re.compile(r"\s{0,8}\|[^\n]{1,2000}\|\s*")
_RULE = re.compile(r"[-:| \t]*-[-:| \t]*")


def cells_of(lines: Sequence[str]) -> list[str] | None:
    """The cells of a table of one column, below its heading if it is ruled, or of a single row; else None."""
    rows = [line for line in lines if line.strip()]
    if not rows or rows[0].lstrip()[:1] != "|" or not all(_ROW.fullmatch(row) for row in rows):
        return None
    cells = [[cell.strip() for cell in row.strip()[1:-1].split("|")] for row in rows if not _RULE.fullmatch(row)]
    if len(cells) == 1:
        return cells[0]
    if len(rows) > 2 and len(cells) == len(rows) - 1 and _RULE.fullmatch(rows[1]):
        cells = cells[1:]
    elif len(cells) != len(rows):
        return None
    return [row[0] for row in cells] if all(len(row) == 1 for row in cells) else None


_BULLET = re.compile(
    r"(?P<indent>[ \t]*)(?:>[ \t]?)?(?:(?P<sign>-{1,2}>|=>|[-*+•–—·∙‧・‣⁃▪▫◦●○■□◆◇►▶▸▹➢➤➜→⇒✓✔✅☑★☆♦❖⦿◉»]\ufe0f?)"
    r"|(?P<open>[(（\[]?)(?P<number>[0-9０-９]{1,4})(?P<close>[.)、:：）．\]]|[ ]?[-–](?=[ ][^\W\d]))"
    r"|(?P<letter>[(（]?[a-zA-Z][.)）])|[(（]?(?P<roman>[ivxIVX]{1,6})[.)）]"
    r"|(?P<han>[一二三四五六七八九十]{1,3})[、.．]|(?P<circled>[①-⑳❶-❿㊀-㊉]))"
    r"(?P<space>[ \t]+|(?<=[、①-⑳❶-❿㊀-㊉）•●・．])[ \t]*)(?:\[[ xX✓]\][ \t]+)?(?P<item>\S.*)"
)


def is_item(line: str) -> bool:
    """Whether a line is an item of a bulleted or numbered list."""
    return _BULLET.fullmatch(line[:MAX_LINE]) is not None


def marked_items(lines: Sequence[str]) -> list[str] | None:
    """The items of a bulleted or numbered list; lines that continue below an item are part of it."""
    items: list[str] = []
    first: re.Match[str] | None = None
    blank = False
    for place, line in enumerate(lines):
        if not line.strip():
            blank = True
            continue
        bullet = _BULLET.fullmatch(line[:MAX_LINE])
        if first is None:
            if bullet is None:
                if items or not _heads(line, place):
                    return None
                continue
            first = bullet
            items.append(bullet["item"])
        elif bullet and len(bullet["indent"].expandtabs()) <= len(first["indent"].expandtabs()):
            if _sort(bullet) != _sort(first) or not _follows(bullet, first, len(items)):
                return None
            items.append(bullet["item"])
        elif len(line) - len(line.lstrip()) > len(first["indent"].expandtabs()):
            items[-1] += "\n" + line.strip()
        elif (blank or line.rstrip().endswith((".", "!", "?", "。"))) and not any(map(is_item, lines[place:])):
            break  # the list has ended
        else:
            return None
        blank = False
    if first is None or (
        len(items) == 1 and (first["letter"] or first["roman"] or (first["number"] and first["number"] != "1"))
    ):
        return None
    return [item.strip("«»") if item[:1] == "«" and item[-1:] == "»" else item.strip() for item in items]


_TITLE = re.compile(r"[ \t]*(?:#{1,6}[ \t]+[^#\n]{1,80}#*|\*\*[^*\n]{1,80}\*\*|__[^_\n]{1,80}__)[ \t]*")
_WORDS_ONLY = re.compile(r"[ \t]*[^\W\d_]+(?: [^\W\d_]+){0,2}[ \t]*")


def _heads(line: str, place: int) -> bool:
    """Whether a line above a list introduces it: `The primes are:`, `### Primes`, `**Primes**`, `Primes`. One that
    refuses or doubts its items does not: `Not these:`."""
    if line.rstrip(" *_").endswith((":", "：")):
        return not _REFUSES.search(line)
    title = _TITLE.fullmatch(line) or (place <= 1 and _WORDS_ONLY.fullmatch(line))
    return title is not None and title is not False and not (_REFUSES.search(line) or DOUBTED.search(line))


DOUBTED = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|presumably|might|could be|may be|not sure|unsure|guess(?:es)?|either"
    r"|vielleicht|peut-être|quizás?|forse|talvez)\b|可能|也许|たぶん",
    re.IGNORECASE,
)
"""Words that doubt what they stand beside."""
_REFUSES = re.compile(
    r"\b(?:not|wrong|incorrect|invalid|false|rejected|excluded|discarded|impossible|extraneous|candidates?|guess(?:es)?"
    r"|none|never|no|unsure|unknown|sorry|alternatives?|options?|choices?|either|one of|falsch|nicht|incorrectas?)\b"
    r"|n['’]t\b",
    re.IGNORECASE,
)


def below_heading(items: list[str]) -> list[str]:
    """The items below the only item of a list, if that is their heading: `- Primes:`, then `  - 2`, `  - 3`."""
    if len(items) == 1 and "\n" in items[0]:
        head, *lines = items[0].split("\n")
        if head.rstrip(" *_").endswith((":", "：")) and not _REFUSES.search(head) and all(map(is_item, lines)):
            return marked_items(lines) or items
    return items


_NAMED_ITEM = re.compile(r"[*_]{0,2}[^\W\d_][^:：\d\n]{0,40}?[*_]{0,2}[:：][*_]{0,2}[ \t]+(?=\S)")


_REMARK = re.compile(
    r"[*_]{0,2}(?:confidence|certainty|rating|score|probability|reason|note|check|step|count|total|sum|average|mean"
    r"|length|size|overall|steps|number)\b",
    re.IGNORECASE,
)
"""A name of no item, but of what is said about the items: `Total: 10`, `Confidence: 90`."""


def without_names(items: list[str]) -> list[str]:
    """Items that are numbers without their names, if each has its own: `Ann: 3`, `Bob: 7`."""
    names = [_NAMED_ITEM.match(item) for item in items]
    if len(items) < 2 or None in names or any(_REFUSES.search(item) or _REMARK.match(item) for item in items):
        return items
    named = {name.group().strip(" *_:：\t").casefold() for name in names if name is not None}
    if len(named) < len(items) or any(key(name) in ANSWER_KEYS for name in named):
        return items  # `Wrong: 3`, `Answer: 7`
    return [item[name.end() :] for item, name in zip(items, names, strict=True) if name is not None]


def _sort(bullet: re.Match[str]) -> str:
    kinds = {"number": "number", "letter": "letter", "roman": "letter", "han": "han", "circled": "circled"}
    return bullet["sign"] or next(sort for kind, sort in kinds.items() if bullet[kind])


def _follows(bullet: re.Match[str], first: re.Match[str], place: int) -> bool:
    """Whether a numbered item has the expected number: `3. 7` and `5. 9` are not items."""
    if bullet["number"]:
        return int(bullet["number"]) in (int(first["number"]) + place, int(first["number"]))
    if bullet["letter"] and first["letter"] and first["letter"].strip("(（.)）") not in "iI":
        return ord(bullet["letter"].strip("(（.)）")) == ord(first["letter"].strip("(（.)）")) + place
    return True
