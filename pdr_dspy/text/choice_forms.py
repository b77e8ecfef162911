"""Short forms in which an option is set against others or described: `Not A, B`, `A. Wait, no: C`, `B, a mammal`.

A form counts only if each of its parts names exactly one option, so that no mere mention is taken for a choice. Each
returns the option, or None if the text has not its form; everything here takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from pdr_dspy.text.signal_words import TURNS

One = Callable[[str], str | None]
"""Gives the only option that is the whole of a text, if any."""
Value = TypeVar("Value")
Mentioned = Callable[[str], Collection[str]]
"""Gives the options that a text mentions."""

MAX_FORM = 200
"""Maximum characters of such a form."""

_INSTEAD = re.compile(
    r"(?:(?:it|that|this)(?:['’]s|\sis)\s)?(?:definitely\s|certainly\s|clearly\s)?not\s(.{1,80}?)"
    r"(?:,\s*(?:but\s)?(?:rather\s|instead\s)?|;\s*|\.\s+|\s+but\s(?:rather\s)?|\s[–—-]+\s|:\s)(.{1,80})",
    re.I | re.S,
)
_NEITHER = re.compile(
    r"neither\s(.{1,60}?)\snor\s(.{1,60}?)(?:,\s*(?:but\s)?|;\s*|\.\s+|\sbut\s)(.{1,80})", re.I | re.S
)
_TURN = (
    rf"(?:{TURNS}|whoops|strike that|nope|on reflection"
    r"|i mean(?:t)?|i meant to (?:say|write)|make that|my (?:mistake|bad)|or rather|let me correct (?:that|myself)"
    r"|no(?=\s?[,:;.!…—–-]|\swait|\sactually|\ssorry))"
)
_CORRECTED = re.compile(
    rf"(.{{1,80}}?)[\s.?!…,;:–—-]{{1,6}}(?:(?:oh|ah|but|ok|okay|well|um|uh)[\s,]+)*{_TURN}(?![^\W_])"
    rf"(?:[\s.?!…,;:–—-]+(?:(?:{_TURN}|oh|but|that(?:['’]s| is) (?:wrong|not right|incorrect)|i was wrong)(?![^\W_])))*"
    r"[\s.?!…,;:–—-]+(?:(?:(?:it|that)(?:['’]s|\s(?:is|should be|must be))|(?:the|my) (?:(?:correct|right"
    r"|final) )?(?:answer|choice"
    r"|option) (?:is|should be)|i (?:choose|pick|mean|go with|say)|make (?:it|that)|should be|rather)[\s:]+)?(.{1,80})",
    re.I | re.S,
)
_DESCRIBED = re.compile(
    r"(.{1,80}?),\s+((?:an?|the|one of|its|our|his|her|their|which is|that is|i\.e\.,?|namely)\s(?=\w).{2,160})",
    re.I | re.S,
)
_NO_DESCRIPTION = re.compile(
    r"\b(?:wrong|incorrect|false|distractor|trap|tempting|mistake|mistaken|runner|least|unlikely|worst|errors?|opposite"
    r"|reject\w*|guess|unsure|maybe|perhaps|possibly|possible|or|if|but|unless|candidate|plausible|close|closest"
    r"|second[- ]best"
    r"|alternative to|previous|initial|popular|also|too|both|eliminated?|excluded|ruled|impossible|invalid|may|might"
    r"|could)\b"
    r"|\?",
    re.I,
)
_WITH_TEXT = re.compile(r"\(?([A-Z])\)?,\s+(?:[\"“*]{1,2})?(?=[A-Z0-9$\"“])(.{2,80})")
_NO_TEXT = re.compile(
    r"\b(?:not|no|none|never|neither|except|however|then|because|i|we|it|this|that|they|he|she)\b|[;?!]|n['’]t", re.I
)
_REASONED = re.compile(r"(?P<head>.{1,80}?)(?P<sign>\.\s+|;\s+|\s—\s|\s?\()(?P<rest>.{2,180}?)\)?\.?", re.S)
_OTHERS_WRONG = re.compile(
    r"(?:(?:and|but|while|whereas|though|because|since|as|so)\s)?(?:both\s)?(?P<names>.{1,60}?)\s(?:is|are|was|were|isn['’]t|aren['’]t"
    r"|does|do|doesn['’]t|don['’]t|comes?|came|would|seems?|looks?)"
    r"(?:(?<=n['’]t)|\s(?:(?:both|all|only|clearly|just|also|a|an|the)\s){0,2}(?:not\b|too\s\w+$|wrong|incorrect|false|close"
    r"|tempting|second\b|second[- ]best|runner|next|distractors?|trap|plausible|worse|less|impossible|invalid|excluded"
    r"|eliminated|ruled\sout|unlikely)).{0,60}",
    re.I | re.S,
)
_TAKES_BACK = re.compile(
    rf"\b(?:{TURNS}|or|maybe|perhaps|possibly|unsure|not sure|guess|if|unless|however"
    r"|instead|answer is|not (?:wrong|incorrect|false|excluded|impossible|bad)|also"
    r"|(?:is|are) (?:correct|right|best|true)|too)\b(?!\s(?:large|small|big|high|low|many|few|much|long|short|early"
    r"|late|strong|weak|broad|narrow|general|specific)\b)"
    r"|\?",
    re.I,
)
_ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "sixth": 5, "last": -1, "final": -1}
_THING = r"(?:option|choice|answer|one|alternative|letter|statement|possibility)"
_ORDINAL = re.compile(rf"\bthe\s({'|'.join(_ORDINALS)})\s{_THING}\b", re.I)
_NTH = re.compile(
    rf"(?:(?:it|that)(?:['’]s|\sis)\s|(?:the\s)?answer\sis\s)?(?:the\s)?({'|'.join(_ORDINALS)})\s{_THING}"
    r"(?:\s*[,:(–—-]\s*|\s+)(?:(?:which is|i\.e\.,?|namely,?|that is,?)\s)?(.{1,80}?)\)?\.?",
    re.I | re.S,
)
_CLAUSES = re.compile(r"[,;.]\s*(?:(?:and|but|while|whereas|though)\s)?|\s(?:but|while|whereas)\s", re.I)
_RIGHT = (
    r"(?:correct|right|true|best|it|(?:the|my)(?:\s(?:correct|right|best|final|true|only))*"
    r"\s(?:answer|option|choice|one|solution))"
)
_SAID_OF = re.compile(
    rf"(?P<name>.{{1,80}}?)(?:\s(?:is|was)(?P<negated>\snot|n['’]t)?|(?P<short>n['’]t))(?:\s(?:(?P<right>{_RIGHT})"
    rf"|(?P<wrong>wrong|incorrect|false|not|untrue)))?",
    re.I | re.S,
)
_OVER = re.compile(
    r"(.{1,80}?)\s(?:beats|beat|outperforms|outranks|outweighs|outdoes|defeats|surpasses|trumps|tops|wins (?:over"
    r"|against)|edges out"
    r"|is (?:clearly |much |far )?(?:better|more (?:likely|plausible|accurate|suitable)|stronger) than"
    r"|is (?:preferable|superior) to"
    r"|is preferred (?:to|over))\s(.{1,100})",
    re.I | re.S,
)
_UNDER = re.compile(
    r"(.{1,80}?)\s(?:loses to|lost to|is (?:beaten|outperformed|surpassed|outranked|trumped|defeated) by"
    r"|is (?:clearly |much |far )?(?:worse|less (?:likely|plausible|accurate|suitable)|weaker) than"
    r"|is inferior to)\s(.{1,80})",
    re.I | re.S,
)
_ALL_OTHERS = re.compile(
    r"(?:all|everything|every(?:one)?|any|each)?\s?(?:of )?(?:the )?(?:(?:others?|rest|alternatives|other (?:options"
    r"|choices"
    r"|answers)|everything else|all)|(?:everything|all))\.?",
    re.I,
)


def resolved(text: str, options: Sequence[str], one: One, mentioned: Mentioned) -> str | None:
    """The option that such a form names, or None.

    Args:
        text: the answer on one line, without wrapping.
        options: the options, in their order.
        one: gives the option that a part of the text is.
        mentioned: gives the options that a part mentions.
    """
    if not 3 <= len(text) <= MAX_FORM:
        return None
    return (
        _instead(text, one)
        or _corrected(text, one)
        or _nth(text, options, one)
        or _described(text, options, one, mentioned)
        or _judged(text, one)
        or _preferred(text, one)
        or _with_text(text, options, one, mentioned)
        or _reasoned(text, one, mentioned)
    )


def _instead(text: str, one: One) -> str | None:
    """`Not A, B`; `neither A nor B, C`."""
    if found := _NEITHER.fullmatch(text):
        named = [one(part) for part in found.groups()]
        return named[2] if None not in named and len(set(named)) == 3 else None
    if (found := _INSTEAD.fullmatch(text)) is None:
        return None
    denied, held = one(found[1]), one(found[2])
    return held if denied is not None and denied != held else None


def _corrected(text: str, one: One) -> str | None:
    """`A. Wait, no: C`."""
    found = _CORRECTED.fullmatch(text)
    return one(found[2]) if found is not None and one(found[1]) is not None else None


def set_right(text: str, one: Callable[[str], Value | None]) -> Value | None:
    """The value that is set against another one: `not 41 but 42`, `41, no wait, 42`."""
    denied = _INSTEAD.fullmatch(text)
    if denied is not None and (false := one(denied[1])) is not None and (held := one(denied[2])) is not None:
        return held if held != false else None
    found = _CORRECTED.fullmatch(text)
    return one(found[2]) if found is not None and one(found[1]) is not None else None


def _nth(text: str, options: Sequence[str], one: One) -> str | None:
    """`the second option, B`, if B is the second."""
    found = _NTH.fullmatch(text)
    held = one(found[2]) if found else None
    return held if found and held is not None and _is_nth(held, found[1], options) else None


def misnumbered(text: str, options: Sequence[str], one: One) -> bool:
    """Whether a text gives an option another place than its own: `the first option, B`."""
    found = _NTH.fullmatch(text) if len(text) <= MAX_FORM else None
    held = one(found[2]) if found else None
    return found is not None and held is not None and not _is_nth(held, found[1], options)


def _is_nth(option: str, ordinal: str, options: Sequence[str]) -> bool:
    place = _ORDINALS[ordinal.lower()]
    return place < len(options) and options[place] == option


def _described(text: str, options: Sequence[str], one: One, mentioned: Mentioned) -> str | None:
    """`B, a mammal`."""
    found = _DESCRIBED.fullmatch(text)
    held = one(found[1]) if found else None
    if found is None or held is None or _NO_DESCRIPTION.search(found[2]) or set(mentioned(found[2])) - {held}:
        return None
    ordinal = _ORDINAL.search(found[2])
    return None if ordinal and not _is_nth(held, ordinal[1], options) else held


def _with_text(text: str, options: Sequence[str], one: One, mentioned: Mentioned) -> str | None:
    """`B, Paris`, if the options are only letters."""
    found = _WITH_TEXT.fullmatch(text)
    held = one(found[1]) if found else None
    if found is None or held is None or any(len(option) > 1 for option in options):
        return None
    said = found[2]
    if len(said.split()) > 6 or _NO_TEXT.search(said) or _NO_DESCRIPTION.search(said) or set(mentioned(said)) - {held}:
        return None
    return held


def _reasoned(text: str, one: One, mentioned: Mentioned) -> str | None:
    """`C. Rome is in Italy, A is not`: a reason that mentions other options only to set them aside."""
    found = _REASONED.fullmatch(text)
    held = one(found["head"]) if found else None
    if found is None or held is None or not mentioned(found["rest"]) or _TAKES_BACK.search(found["rest"]):
        return None
    for clause in re.split(r"[,;.]\s+(?:(?:and|but|while|whereas)\s)?", found["rest"]):
        named = set(mentioned(clause))
        if not named:
            continue
        aside = _OTHERS_WRONG.fullmatch(clause.strip())
        if held in named or aside is None or set(mentioned(aside["names"])) != named:
            return None
    return held


def _judged(text: str, one: One) -> str | None:
    """`A is the answer, C is not`."""
    clauses = [found for clause in _split(text) if (found := _SAID_OF.fullmatch(clause))]
    if not 2 <= len(clauses) == len(_split(text)):
        return None
    right, wrong = set(), set()
    for found in clauses:
        if (option := one(found["name"])) is None or (found["wrong"] and (found["negated"] or found["short"])):
            return None  # `A is not wrong`
        (wrong if found["negated"] or found["short"] or found["wrong"] else right).add(option)
    return right.pop() if len(right) == 1 and wrong and not right & wrong else None


def _preferred(text: str, one: One) -> str | None:
    """`C beats A`."""
    better, worse = set(), set()
    for clause in _split(text):
        if found := _OVER.fullmatch(clause):
            over, under = one(found[1]), [one(part) for part in re.split(r"\s*,\s*|\sand\s", found[2])]
            if under == [None] and _ALL_OTHERS.fullmatch(found[2]):
                under = []
        elif found := _UNDER.fullmatch(clause):
            over, under = one(found[2]), [one(found[1])]
        else:
            return None
        if over is None or None in under:
            return None
        better.add(over)
        worse.update(under)
    best = better - worse
    return best.pop() if len(best) == 1 else None


def _split(text: str) -> list[str]:
    return [part.strip() for part in _CLAUSES.split(text.rstrip(".! ")) if part.strip()]
