"""Sentences that choose an option without a label: `Option D is correct.`, `I'd go with D.`, `My choice is D.`"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdr_dspy.text.choices import to_choice
from pdr_dspy.text.signal_words import TURNS

MAX_LINE = 300
MAX_TEXT = 20_000
_LINES = 60
_OPENING = (
    r"(?P<opening>(?:(?:so|thus|hence|therefore|finally|consequently|accordingly|overall|clearly|then|and"
    r"|in conclusion|as a result|based on this|for (?:this|these) reasons?),?\s)*)"
)
_NAME = r"[*_\"'“(\[]{0,4}(?P<letter>[A-Za-z0-9]{1,2}|[^\W\d_][\w' -]{1,40}?)[)\]*_\"'”]{0,4}"
_TEXT = r"(?:[.:)][*_]{0,2}\s[^.;:?!,\n]{1,80}?|\s\([^()\n]{1,80}\)|[*_]{1,2}\s[^.;:?!,\n]{1,80}?)?[)*_]{0,3}"
_RIGHT = (
    r"(?:the\s)?(?:(?:only|single|best|correct|right|most\s(?:appropriate|accurate|likely|suitable))\s){0,2}"
    r"(?:correct|right|best|answer|option|choice|one|solution|most\s(?:appropriate|accurate|likely|suitable))"
    r"(?:\s(?:answer|option|choice|one|statement|solution))?"
)
_KIND = r"(?:the\s)?(?:(?:correct|right|best|final)\s)?(?:option|choice|answer|letter|statement|alternative)"
_SENTENCES = tuple(
    re.compile(rf"[*_>#\s]{{0,6}}{_OPENING}{form}[*_]{{0,3}}[.!]?[*_]{{0,3}}", re.I)
    for form in (
        rf"[*_]{{0,2}}(?:{_KIND}\s)?{_NAME}{_TEXT}\s(?:is|must be|has to be)\s"
        rf"(?:(?:therefore|thus|hence|clearly|indeed|definitely)\s)?{_RIGHT}",
        r"(?:i|we)(?:['’](?:d|ll|m|ve)|\s(?:would|will|must|am|therefore|shall|have))?\s(?:therefore\s)?(?:choose|chose"
        r"|chosen|pick|picked|select|selected|opt for|vote for|go(?:ing)? with|went with|settle on|answer|say)\s"
        rf"(?:{_KIND}\s)?{_NAME}{_TEXT}",
        r"my\s(?:(?:final|best)\s)?(?:choice|pick|selection|vote|guess)\s(?:is|would be|:)\s"
        rf"(?:{_KIND}\s)?{_NAME}{_TEXT}",
    )
)
_TURNED = re.compile(rf"\b(?:{TURNS}|no,)", re.I)
_BREAK = re.compile(r"(?<![^\W\d_][.])(?<=[.!?])[*_]{0,2}\s+(?=[A-Z(*])|(?<=\w\w[.!?])[*_]{0,2}\s+(?=[A-Z(*])")


def chosen(text: str, options: Sequence[str]) -> str | None:
    """The option that a sentence of the last line chooses; None if another one is chosen too, unless that is taken back
    or the last one concludes."""
    *before, line = text.strip()[-MAX_TEXT:].split("\n")
    held, concludes = _in_line(line.strip(), options)
    if held is None or concludes:
        return held
    others = {_in_line(each.strip(), options)[0] for each in before[-_LINES:] if len(each) <= MAX_LINE}
    return held if others <= {held, None} else None


def _in_line(line: str, options: Sequence[str]) -> tuple[str | None, bool]:
    """The option that a line chooses, and whether the line concludes."""
    held: str | None = None
    turned = concludes = False
    if not line or len(line) > MAX_LINE or "?" in line:
        return None, False
    for sentence in _BREAK.split(line):
        opening = _TURNED.match(sentence)
        turned = turned or opening is not None
        plain = sentence[opening.end() :].lstrip(",:;.!… ") if opening else sentence.strip()
        found = next((found for form in _SENTENCES if (found := form.fullmatch(plain))), None)
        if found is None:
            held = None if opening else held
            continue
        option = _named(found, options)
        if option is None or (held is not None and option != held and not turned):
            return None, False
        concludes = turned or found["opening"] != "" or found.re is not _SENTENCES[0]
        held, turned = option, False
    return (None if turned else held), concludes


def _named(found: re.Match[str], options: Sequence[str]) -> str | None:
    """The option that a choosing sentence names, by its letter in the options' case or by its text."""
    said = found["letter"]
    if said in options:
        return said
    if len(said) > 2 and said.casefold() in {option.casefold() for option in options}:
        return to_choice(said, options)
    by_letter = [option for option in options if re.match(rf"{re.escape(said)}[.):]\s", option)]
    return by_letter[0] if len(by_letter) == 1 else None
