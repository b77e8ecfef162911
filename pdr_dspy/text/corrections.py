"""Finds where a completion takes its answer back, and what it states instead: `Correction: 42`, `Wait, that is wrong:
it is 42`, `Scratch that.`

Only a short, whole value is taken from a correction. A text that takes its answer back and states no other has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Correction(NamedTuple):
    """One place at which an answer is corrected or taken back."""

    start: int
    end: int
    value: str | None
    """What is stated instead, if anything."""
    denies: bool
    """Whether the answer before it is said to be wrong; otherwise it still counts if the value is unreadable."""


_HINTS = (
    *("wait", "hold on", "actually", "oops", "sorry", "apolog", "mistake", "my bad", "scratch that", "strike that"),
    *(
        "no,",
        "no.",
        "no:",
        "no;",
        "no!",
        "no…",
        "no -",
        "no –",
        "no —",
        "no—",
        "nope",
        "no wait",
        "hmm",
        "second thought",
    ),
    *("correct", "corrigend", "errat", "edit", "update", "revis", "amend", "typo", "fix", "meant", "i mean", "wrong"),
    *("error", "slip", "disregard", "ignore", "make that", "i mis"),
)
"""One of these is in every correction: a search for words is much faster than the patterns."""
_MARKS = r"[ \t>*_#(\[]{0,8}"
_LABEL = re.compile(
    rf"^{_MARKS}(?:(?P<sure>correct(?:ion|ed)|corrigend(?:um|a)|errat(?:um|a))|revis(?:ion|ed)|amend(?:ment|ed)"
    r"|edit(?:ed)?|updated?|typo|fix(?:ed)?)[*_)\]]{0,4}[ \t]?[:：]",
    re.I | re.M,
)
_SENTENCE = re.compile(r"(?:(?<=[.!?;…)\]}$*_\"”’—–])[ \t]+|\n)[ \t>*_#(\[]{0,8}(?=[^\W_])")
_OPENING = re.compile(
    r"(?:(?:(?:(?P<said>(?:scratch|strike) that|i was wrong|i mis(?:read|spoke|calculated|counted|took|understood)\w*"
    r"|i (?:just )?(?:made|see|found|spotted|noticed|have) (?:a|an|my|the|one) (?:\w+ )?(?:mistake|error|slip)"
    r"(?![^.\n]*(?:\b(?:but|still|stands|unchanged|remains|not|in the (?:problem|question|text|statement))\b|n['’]t)))"
    r"|(?P<denies>oops|whoops|apologies|my (?:mistake|bad|apologies)|correction(?=[ *_]*[:,—–-])"
    r"|i meant?(?: to (?:say|write))?|make that|let me correct (?:that|this|myself|it))"
    r"|wait|hold on|actually|sorry|nope|no(?=[,:;.!… —–])|on second thoughts?|hmm+)(?![^\W_])"
    r"|(?:oh|ah|but|ok|okay|well)\b)[,:;.!…—– -]*)+",
    re.I,
)
_HEDGED = re.compile(r"(?:(?:oh|ah|but|ok|okay|well)[,:;.!…—– -]*)*", re.I)
_DENIAL = re.compile(
    r"(?:(?P<plain>\b(?:that|this|it)(?:['’]s|\s(?:is|was|must be|looks|seems))\s)"
    r"|\b(?:my|the)\s(?:(?:previous|earlier|above|first|last|initial)\s)?(?:answer|result)(?:\sabove)?\s(?:is|was)\s)"
    r"(?:clearly\s|obviously\s|actually\s|definitely\s)?(?:wrong|incorrect|not\s(?:right|correct)|an?\s(?:mistake|error)"
    r"|mistaken)\b|\b(?:disregard|ignore)\s(?:that|this|the above|my (?:previous |earlier )?answer)\b",
    re.I,
)
_UNDENIED = re.compile(
    r"\b(?:if|whether|unless|why|suppose|assum\w+|maybe|perhaps|might|could|would|nothing|because|since)\b", re.I
)
_VALUE = r"(?P<value>(?:[^\n.!?;]|\.(?=[0-9])){1,60}?)(?=[.!]?[*_]{0,3}[ \t]*(?:\n|$)|[.!;][ \t]|,[ \t]*not\b)"
_STATED = re.compile(
    r"(?<![^\W_])(?:(?:it|that|this|(?:the|my)\s(?:(?:new|final|correct|right|actual|real|true)\s)?"
    r"(?:answer|result|value|total|option|choice))"
    r"(?:['’]s|\s(?:is|was|should be|should have been|must be|would be|has to be))"
    rf"|i meant?(?:\sto\s(?:say|write))?|make (?:it|that))(?:\s(?:actually|really|instead|rather))?:?\s+{_VALUE}",
    re.I,
)
_DIRECT = re.compile(rf"[*_]{{0,3}}{_VALUE}")
_HELD = re.compile(
    r"[*_]{0,3}(?P<value>\S{1,40}(?: [^\s,;.]{1,40}){0,2}) is (?:the )?(?:right|correct|true|better)\b"
    r"(?! (?:if|only|to)\b)",
    re.I,
)
_REMARK = re.compile(
    r"\b(?:wrong|incorrect|right|correct|not|mistake|error|typos?|off|fine|okay|good|same|let|i|we|me|my|check(?:ed|ing)?"
    r"|because|since|fixed|added|removed|changed|clarified|thanks)\b|n['’]t\b",
    re.I,
)
_FIRST_WORD = re.compile(r"(?!(?:option|choice|answer)\b)[^\W\d_]{2,}(?=[\s:])", re.I)
_NEXT = re.compile(r"[.!?;]\s")
_NEGATIVE = re.compile(r"\W*(?:no|not|false|wrong|incorrect|untrue|invalid|fail\w*|refuted?|refutes)\b", re.I)
_NOT_BUT = re.compile(r"^not [^,;]{1,40}?,? but (?:rather )?", re.I)
_WORD = re.compile(r"[A-Za-z]{2}")
_MOST_WORDS = 6
_MOST_SENTENCES = 200


def corrections(text: str, start: int, end: int, *, answer: str, words: bool) -> Iterator[Correction]:
    """The corrections in a part of a text.

    Args:
        text: the completion.
        start: position behind the beginning of an answer.
        end: end of the part that is searched.
        answer: the answer before them.
        words: whether the answer may be any text, so that only an answer that is said to be wrong is corrected.
    """
    if not _WORD.search(text, start, end):  # most answers are the last word
        return
    part = text[start:end].lower()
    if not any(hint in part for hint in _HINTS):
        return
    for label in _LABEL.finditer(text, start, end):
        if value := _after_label(text, label.end(), end, sure=label["sure"] is not None, words=words):
            yield Correction(label.start(), label.end() + len(value), value, False)
    for place, sentence in enumerate(_SENTENCE.finditer(text, start, end)):
        if place >= _MOST_SENTENCES:
            return
        if found := _in_sentence(text, sentence.end(), end, answer=answer, words=words, first=not place):
            yield found


def _after_label(text: str, start: int, end: int, *, sure: bool, words: bool) -> str | None:
    line = text[start : min(_until(text, "\n", start, end), start + 400)].strip()
    stated = _STATED.match(line)
    value = _short(stated["value"]) if stated else _short(line.rstrip(".") if len(line.split()) <= _MOST_WORDS else "")
    if value is None or (words and not sure):
        return None
    return value if sure or stated or not _FIRST_WORD.match(value) else None


def _in_sentence(text: str, start: int, end: int, *, answer: str, words: bool, first: bool) -> Correction | None:
    stop = min(_until(text, "\n", start, end), start + 300)
    line = text[start:stop]
    opening = _OPENING.match(line)
    if opening is not None and _HEDGED.fullmatch(opening.group()):
        opening = None
    behind = line[opening.end() :] if opening else line
    denial = next((one for one in _DENIAL.finditer(line) if _is_denial(line, one)), None)
    if denial and denial["plain"]:
        at_once = opening is not None or (first and not (denial.start() or words or _NEGATIVE.match(answer)))
        if not at_once or _NEXT.search(line, opening.end() if opening else 0, denial.start()):
            denial = None  # of a claim, of another person's answer
    mark = denial or opening
    if mark is None:
        return None
    said = denial is not None or (opening is not None and opening["said"] is not None)
    said = said or (opening is not None and _denies_value(behind, answer))
    denies = said or (opening is not None and opening["denies"] is not None)
    value = None
    if denies or not words:
        value = _value_in(text, start + mark.end(), min(end, stop + 200))
        if value is None and opening is not None and (direct := _HELD.match(behind) or _DIRECT.match(behind)):
            value = _short(direct["value"], most=3)
            value = None if value and _FIRST_WORD.match(value) and not words else value
    return Correction(start, stop, value, denies) if said or value is not None else None


def _denies_value(behind: str, answer: str) -> bool:
    """Whether `A is wrong` follows of the answer A."""
    own = 0 < len(answer) <= 40 and behind.startswith(answer.rstrip("."))
    return (
        own
        and re.match(r"\s(?:is|was)\s(?:wrong|incorrect|not (?:right|correct))", behind[len(answer.rstrip(".")) :])
        is not None
    )


def _value_in(text: str, start: int, end: int) -> str | None:
    """The value that a sentence of this line or the next states."""
    for stated in _STATED.finditer(text, start, end):
        if text.count("\n", start, stated.start()) > 1:
            return None
        if (value := _short(stated["value"])) is not None:
            return value
    return None


def _is_denial(line: str, found: re.Match[str]) -> bool:
    """Whether a sentence says of the answer that it is wrong: neither asked nor supposed, nor of something else."""
    begin = max(line.rfind(sign, 0, found.start()) for sign in ".!?;") + 1
    stop = re.compile(r"[.!?;]|$").search(line, found.end())
    asked = stop is not None and stop.group() == "?"
    behind = line[found.end() : stop.start() if stop else len(line)]
    return not (asked or _UNDENIED.search(line, begin, found.start()) or re.match(r"\s+(?:to|for|if|in)\b", behind))


def _short(value: str, most: int = _MOST_WORDS) -> str | None:
    value = _NOT_BUT.sub("", value.strip().strip("*_").strip().rstrip("."))
    few = 0 < len(value.split()) <= most
    return value if few and not _REMARK.search(value) else None


def _until(text: str, sign: str, start: int, end: int) -> int:
    found = text.find(sign, start, end)
    return end if found < 0 else found
