"""A number with a remark: `42 (exact)`, `42. This is the sum of 20 and 22.`, `42 — twenty more than 22`.

A remark that takes the number back, offers another one, makes it inexact, or changes its unit or scale leaves no
number. Everything here takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from pdr_dspy.text.arithmetic import evaluated
from pdr_dspy.text.numbers import signs
from pdr_dspy.text.signal_words import COMPARED, DOUBTS, INEXACT, TURNS

MAX_REMARK = 400
"""Maximum characters of a number with its remark."""

_FORMS = (
    re.compile(r"(?P<value>[^()\n]{1,60}?)[*_$]{0,3}\s\(\s?(?P<remark>[^()\n]{1,200})\)[*_]{0,2}[.。]?[*_]{0,2}"),
    re.compile(r"(?P<value>[^\n]{1,60}?)\s(?:[–—-]|--|—{2})\s(?P<remark>[^\n]{1,300})"),
    re.compile(r"(?P<value>[^\n]{1,60}?)[.;][*_]{0,2}\s+(?P<sentence>[A-Z][^\n]{1,300})"),
)
_SAME = re.compile(r"(?:(?:that is|i\.\s?e\.|namely|which is|or rather|equal to|also|viz\.)[,:]?\s|=\s?)+", re.I)
_TAKES_BACK = re.compile(
    rf"""\b(?:not(?!\s[0-9]+$)|never|neither|nor|no(?!\s(?:leap|air|friction|repetition|restriction|replacement|losses
      |others?|more\sthan))|{DOUBTS}|{TURNS}|false|mistaken?|errors?|shall|alternatively|alternative|either|except|could
    |might|may
    |possibly|probably|presumably|likely|guess(?:ed)?|unsure|uncertain|doubt\w*|estimat\w*|assumption|however|though
    |although|otherwise|versus|vs|change[ds]?|revis\w*|updat\w*|redo|recheck|previous\w*|earlier|initial\w*
    |(?:answer|result|value|total)\s(?:is|was|should|must|would)|also\spossible|both\s(?:are|is|work|fit)
    |attempt|draft|first\stry|tentative\w*|unverified|provisional
    |too\s(?:large|small|big|high|low|many|few|much)|placeholder|unknown|example)\b
    | \b(?:answer|result|value|total)\s?[:=] | n['’]t\b | [?;] | \.\.\.|…""",
    re.I | re.X,
)
_INEXACT = re.compile(
    rf"""^\W*(?:{INEXACT}|(?:{COMPARED})\b|min(?:imum)?\b|max(?:imum)?\b|exclusive|inclusive
    |upper|circa|ca\.|before|after|preliminary|plus|minus|times|and|to|through|per|each|every|a\s(?:\w+\s)?
    (?:guess|bound|estimate|approximation|minimum|maximum|bit|little|lot|few|pair|day|week|month|year|hour|minute|head
      |piece|person)\b
    |off|out|of|years?|hours?|minutes?|seconds?|days?)\b
    | ^\W*in\s(?!total\b|all\b|fact\b|other\swords|the\send|lowest|simplest|full|short) | [~≈±]""",
    re.I | re.X,
)
_SCALE = re.compile(
    r"\b(?:hundreds?|thousands?|millions?|billions?|trillions?|lakhs?|crores?|dozens?|scores?|gross|percent\w*|per"
    r"|bases?|mod|modulo|binary|octal|hex\w*|radians?|degrees?|cents?|pence|units?|scaled?|squared?|cubed|cubic|factorial"
    r"|pairs?|halves|tenths?|hundredths?|thousandths?|negative|minus|half|quarter|multipl\w+ by|divided by"
    r"|log\w*|th|exponent|power)\b|[%‰°]|\bx\s?[0-9]|[×*]\s?10|10\s?\^|^[kKMB]$",
    re.I,
)
_ONE_WORD = re.compile(
    r"(?:exact(?:ly|\svalue)?|integer|whole|verified|checked|confirmed|final|simplified|given|prime|composite|even|odd"
    r"|positive|unique|total|calculated|computed|shown|proved|proven|above|q\.?e\.?d\.?|answer|rounded)",
    re.I,
)
_SIGNS = {
    "times": "*",
    "plus": "+",
    "minus": "-",
    "multiplied by": "*",
    "divided by": "/",
    "over": "/",
    "squared": "^2",
    "cubed": "^3",
}
_OPERATION = re.compile(rf"\s({'|'.join(_SIGNS)})(?=\s|$)", re.I)
_SENTENCE_SAYS = re.compile(
    r"(?:this|that|it)(?:['’]s|\s(?:is|was|equals|follows|comes|matches|agrees|results))\b", re.I
)
_STEP = re.compile(r"\b(?:step|first|next|second|then|start|begin|part|case)\b", re.I)
_HEAD = re.compile(
    r"[-+−]?[$€£]?[0-9½⅓¼¾.,/\s]*[0-9½⅓¼¾]%?|\\\(.{1,40}\\\)|\$[^$]{1,40}\$|[*_]{1,2}[^*_]{1,40}[*_]{1,2}"
)


def remarked(text: str, number: Callable[[str], Fraction | None]) -> Fraction | None:
    """The number before a remark that leaves it as it is; None for any other text.

    Args:
        text: the answer on one line.
        number: gives the number that is the whole of a text, if any.
    """
    text = text.strip()
    if len(text) > MAX_REMARK:
        return None
    for form in _FORMS:
        if (found := form.fullmatch(text)) is None:
            continue
        head = found["value"].strip()
        if (value := number(head)) is None:
            continue
        parts = found.groupdict()
        if (remark := parts.get("remark")) is not None:
            bracketed = form is _FORMS[0]
            return value if _leaves(remark.strip(), value, number, bracketed=bracketed) else None
        return value if _explains(parts["sentence"], head, value, number) else None
    return None


def _leaves(remark: str, value: Fraction, number: Callable[[str], Fraction | None], *, bracketed: bool) -> bool:
    """Whether a remark beside a number leaves it as it is. A number behind a dash may be subtracted."""
    same = _SAME.match(remark)
    rest = remark[same.end() :] if same else remark
    other = number(rest) if same or (bracketed and not rest.isdigit()) else None
    if other is None and rest[:1].isdigit() and (same or bracketed):
        sides = _OPERATION.sub(lambda word: _SIGNS[word[1].lower()], rest)
        other = evaluated(signs(sides), lambda word: False)
    if other is not None:
        return other == value
    if not rest[:1].isalpha() or _TAKES_BACK.search(remark) or _INEXACT.search(remark) or _SCALE.search(remark):
        return False
    words = rest.split()
    if _ends_otherwise(rest, value, number):
        return False
    return bool(_ONE_WORD.fullmatch(rest)) or (len(words) > 1 and (len(words[0]) > 1 or words[0] in "aA"))


def _explains(sentence: str, head: str, value: Fraction, number: Callable[[str], Fraction | None]) -> bool:
    """Whether a sentence behind a number explains it; `1. We add them` is the first item of a list."""
    if _TAKES_BACK.search(sentence) or _ends_otherwise(sentence, value, number):
        return False
    if len(head.strip("*_$ ")) < 2 and (_STEP.search(sentence) or not _SENTENCE_SAYS.match(sentence)):
        return False
    return len(sentence.split()) > 2


_LAST_NUMBER = re.compile(r"(?P<before>\S+)\s+(?P<number>[-+$]?[0-9][0-9.,/]*)[.!]?$")
_PARTLY = re.compile(
    r"(?:of|from|and|than|by|with|over|plus|minus|times|steps?|eqs?\.?|equations?|page|lines?|sections?|examples?|figures?|tables?"
    r"|theorem|lemma|\(|[-+*/×·^=<>≤≥÷−])$",
    re.I,
)


def _ends_otherwise(remark: str, value: Fraction, number: Callable[[str], Fraction | None]) -> bool:
    """Whether a remark ends with another number that may be stated instead: `this gives 43`."""
    last = _LAST_NUMBER.search(remark)
    return last is not None and not _PARTLY.search(last["before"]) and number(last["number"]) != value
