r"""Checks whether a box is an answer by itself, or part of a larger value or of a negation.

`-\boxed{4}`, `\sqrt{\boxed{4}}`, `half of \boxed{4}`, `not \boxed{4}`, `\boxed{4} million` and `\boxed{4} or 5` do not
mean 4. Only the text directly beside a box counts, within its line.
"""

from __future__ import annotations

import re

from pdr_dspy.text.wrapping import BOX

_OPENS = re.compile(rf"(?:{BOX}\s{{0,9}}(?:\[[^\[\]\n]{{0,60}}\]\s{{0,9}}){{0,2}}\{{?\s{{0,9}})+$")
_BULLET = re.compile(r"\s*(?:[*+>-]|[0-9]{1,2}[.)])\s+(?:\*\*|\$+|\s)*")
_LOOKS = re.compile(  # commands that only change a box's appearance
    r"""(?:\$ | \\[(\[] | \*\* | \\[,;:!\ ] | \\(?:quad|qquad|displaystyle|left|bf|large|Large|huge|Huge)(?![A-Za-z])
    | [\s(\[] | <[a-z]{1,6}> | (?:\\(?:text\w*|math\w*|bm|boldsymbol|underline|ensuremath|emph)\s?
    | \\(?:textcolor|colorbox|color)\s?\{[^{}]{0,40}\} | (?<![A-Za-z_^}\])\s]) | (?<=[=:,]\s)) \{ )+$""",
    re.X,
)
_WORKED_INTO = re.compile(  # signs before a box that make it part of a value or a relation
    r"""(?:(?<=[0-9A-Za-z)\]}])\s?[*+] | (?<=\s)[*+](?=$) | [/^_×·≠≤≥√] | (?<![-=>])[<>] | \{ | [0-9)}]\s?[-−] | !=
    | \\(?:cdot|times|div|neq?|leq?|geq?|lt|gt|pm|mp|not|sqrt|sin|cos|tan|cot|log|ln|cup|cap|setminus|notin|[dt]?frac
    | neg|binom)) $""",
    re.X,
)
_TIMES = re.compile(  # factors directly before a box: `2\\boxed{7}`, `x\\boxed{7}`, `= 2 \\boxed{7}`
    r"(?:[0-9)}\]½⅓¼¾]|(?<![A-Za-z\\])[A-Za-z])$|(?:^|[=+*/(−-])\s?[0-9][0-9.,]{0,20}\s\$?$"
)
_MINUS = re.compile(r"(?:^|[\s=:$(,])[-−–]\$?$")
_DENIED = re.compile(
    r"""(?:\b(?:not|never|neither|nor|or|than|twice|thrice|double|triple|minus|negative|below|above|under|over|except
    | without|unlike|excluding|half|least|most|up\sto|instead\sof|anything\sbut
    | (?:half|third|quarters?|thirds|square|cube|root|multiple|factor|reciprocal|inverse|negative|opposite)\sof)
    | n['’]t) (?:\s(?:get|be|equal|equal\sto|obtain|have|exactly|the|of|maybe|perhaps))? $""",
    re.I | re.X,
)
_CLOSES = re.compile(r"(?:[\s$*]|\\\)|\\\]|\\[,;:! ]|\\text\w*\s?\{)*")
_GLUED = re.compile(  # directly after the brace
    r"""[\^_](?!\s?\{?\s?\\?(?:circ|degree)) | [0-9]|[A-Za-z](?![A-Za-z]) | \{,\} | ,\s?\\! | \.[0-9] | !\s?[!=+*/^]
    | \\(?:sqrt|pi|[dt]?frac|infty)(?![A-Za-z]) | \([a-z0-9]""",
    re.X,
)
_NEXT = re.compile(r"\s{1,3}\$?[0-9]")
_WORKED_ON = re.compile(
    r"""[+*/<>≤≥≠×·±]\s*[\\$0-9A-Za-z(] | [-−]\s?(?:[0-9]|[a-z](?!\w)|\\(?!text)[a-z]) | ‰
    | \\(?:cdot|times|div|neq?|leq?|geq?|lt|gt|pm|mp|cup|cap|setminus|lor|vee|pmod|bmod|choose)(?![A-Za-z])
    | (?:hundred|thousand|million|billion|trillion|lakh|crore|dozen|score|gross|squared|cubed|factorial)s?\b
    | per\s?mille\b | [kKM]\b
    | (?:is|was|would\sbe|seems|looks)\s(?:wrong|incorrect|false|not|impossible|too)\b
    | (?:is|was|ca|wo|does)n?['’]t\b | cannot\b
    | or\s(?:more|less|fewer|so|maybe|perhaps|possibly|[$\\]|-?[0-9]|\(?[A-J]\)?(?!\w)|[a-z]\s=)""",
    re.X,
)


def stands_alone(text: str, start: int, end: int) -> bool:
    """Whether the box (or the row of boxes) with the content text[start:end] is an answer by itself."""
    line = text[max(0, start - 200) : start].rpartition("\n")[2]
    opened = _OPENS.search(line)
    if opened is None:
        return True
    lead, behind = line[: opened.start()], text[end : end + 100]
    for _ in range(opened.group().count("{")):
        behind = behind.lstrip().removeprefix("}")
    behind = behind.partition("\n")[0]
    if "{" not in opened.group() and _NEXT.match(behind):
        return False  # `\\boxed 7 8`
    if _GLUED.match(behind) or _WORKED_ON.match(behind, _closed(behind)):
        return False
    if _BULLET.fullmatch(lead):
        return True
    if _MINUS.search(lead) or _TIMES.search(lead):
        return False
    lead = _LOOKS.sub("", lead)
    return not (_WORKED_INTO.search(lead) or _DENIED.search(lead))


def _closed(behind: str) -> int:
    looks = _CLOSES.match(behind)
    return looks.end() if looks else 0


def unboxed(text: str, start: int, end: int) -> str:
    """The text with the box replaced by its content: `-\\boxed{4}` as `-4`."""
    before, content, behind = text[:start], text[start:end], text[end:]
    opened = _OPENS.search(before[-200:])
    if opened is None:
        return text
    for _ in range(opened.group().count("{")):
        behind = behind.lstrip().removeprefix("}")
    before = before[: len(before) - len(opened.group())]
    factor = _TIMES.search(before) is not None
    return before + (f" ({content})" if factor else content) + behind
