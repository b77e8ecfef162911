"""Completions that are only the answer, as models that think separately write them: `42`, `**B**`, a bulleted list.

A number in running text, the last of several numbers and a sentence do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

from pdr_dspy.prompts.inline_items import in_brackets
from pdr_dspy.prompts.lists import items_of
from pdr_dspy.prompts.simple import has_marks, is_simple, options_of
from pdr_dspy.prompts.values import SCALARS, member_kinds, structured
from pdr_dspy.text.answers import MAX_ANSWER, to_number
from pdr_dspy.text.choices import to_choice
from pdr_dspy.text.choosing import chosen
from pdr_dspy.text.numbers import in_words
from pdr_dspy.text.wrapping import block, tidy

_DECODER = json.JSONDecoder()
_UNSAID = re.compile(
    r"\b(?:not|cannot|unable|unknown|unsure|neither|never|none|nothing|sorry|no|idea|error|n/?a|null|i|we|you|please|let"
    r"|reply|write|answer|question|candidate|step|case|because)\b|n['’]t\b",
    re.IGNORECASE,
)
_LEADING = re.compile(r"^(?:[=≈→⇒⟹∴✅✔✓☑👉🎯➡]\ufe0f?|=>|-{1,2}>|:)\s*")
_EQUATION = re.compile(r"[A-Za-z]\w{0,10}\s?=\s?[-+−]?[0-9][0-9.,/]*")
_NUMBER_ALONE = re.compile(
    r"[-+−–]?(?:[$€£¥₹]\s?)?[-+−]?[0-9٠-٩۰-۹０-９.](?:[^\s]|\s(?=[0-9]{3}\b)|\s?[×x*/]\s?(?=[0-9]))*"
    r"(?:\s[^\W\d]{1,20}(?:[²³]|/[a-z]{1,3})?){0,2}"
)
_EXPLAINED = re.compile(r"[*_#> ]{0,6}(?:explanation|reasoning|reason|justification|rationale)[ *_]{0,4}[:：]", re.I)
_LATEX_ALONE = re.compile(r"[^\n]{0,200}\\[A-Za-z]+[^\n]{0,200}")


def alone(text: str, kind: Any, *, code: bool) -> Any:
    """The value that is a whole completion, or alone on its last line; None if there is none.

    Args:
        text: without special tokens.
        kind: the field's type.
        code: whether a text field's value may be a code block that is the whole completion.
    """
    text = text.strip()
    if not text or len(text) > MAX_ANSWER or has_marks(text):
        return None
    if not is_simple(kind):
        return _structure_alone(text, kind)
    options = options_of(kind)
    if options is not None and (choice := chosen(text, list(options))) is not None:
        return options[choice]
    held = block(text, 0, len(text))
    if code and kind is str and held is not None and held.closed and text.startswith(("```", "~~~")):
        return held.text if not text[held.end :].strip() and held.text.strip() else None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    single = len(lines) == 1 or (held is not None and held.closed and not text[held.end :].strip())
    if single:
        return _line_alone(held.text if held is not None and held.closed else lines[0], kind, only=True)
    if _EXPLAINED.match(lines[1]) and (value := _line_alone(lines[0], kind, only=False)) is not None:
        return value
    last, before = lines[-1], lines[-2]
    if last in ("$$", "\\]", "```", "~~~"):  # a display ends it
        opening = {"$$": "$$", "\\]": "\\[", "```": "```", "~~~": "~~~"}[last]
        inside = text[: text.rfind(last)]
        place = inside.rfind(opening)
        content = inside[place + len(opening) :].strip()
        return _line_alone(content, kind, only=False) if place >= 0 and "\n" not in content else None
    runs_on = before[-1:].isalpha() and not text[: text.rfind(last)].rstrip(" \t").endswith("\n\n")
    if runs_on or _line_alone(before, kind, only=False) is not None:
        return None  # the end of a sentence, or one of several
    return _line_alone(last, kind, only=False)


def _line_alone(line: str, kind: Any, *, only: bool) -> Any:
    """The value of a line that holds nothing else; in a text of several lines (not `only`) the rules are stricter."""
    line = re.sub(r"</?[a-z]{1,12}>$|[ \t]*[✓✔✅☑🎉]\ufe0f?$", "", line.strip())
    bold = line.startswith(("**", "$", "\\(", "\\[", "`")) and tidy(line) != line
    plain = re.sub(r"^\(([^()]+)\)$", r"\1", tidy(_LEADING.sub("", tidy(line))))
    if not plain or len(plain) > 200:
        return None
    options = options_of(kind)
    if options is not None:
        plain = re.sub(r"^\*\*([^*]+)\*\*(?=[.:)])", r"\1", plain)  # `**B**. Paris`
        return _option_alone(plain, options, only=only)
    named = _NUMBER_ALONE.fullmatch(plain) or plain.startswith("\\") or (only and _EQUATION.fullmatch(plain))
    named = named or (only and kind is not str and in_words(plain))  # `twenty-one`
    number = to_number(plain) if named else None
    if kind is str:
        if number is not None or (bold and _LATEX_ALONE.fullmatch(plain)):
            return plain
        return _phrase_alone(line, plain, only=only, bold=line.startswith("**") and bold)
    if number is None or (kind is int and number.denominator != 1):
        return None
    try:
        return int(number) if kind is int else float(number)
    except OverflowError:
        return None


def _option_alone(plain: str, options: Mapping[str, Any], *, only: bool) -> Any:
    names = list(options)
    short = re.fullmatch(r"(?:(?:option|choice)\s)?[(\[]?[^\W_]{1,2}[)\].:]{0,2}", plain, re.IGNORECASE)
    same = [name for name in names if tidy(name).casefold() == plain.casefold()]
    letter = only and re.fullmatch(r"[(\[]?[A-Za-z][)\].:]\)?\s.{1,100}", plain)
    said = only and re.match(r"(?:yes|no|true|false)[,.!;:]\s", plain, re.IGNORECASE)
    if not (short or same or letter or said):
        return None
    choice = same[0] if len(same) == 1 else to_choice(plain, names)
    return None if choice is None else options[choice]


def _phrase_alone(line: str, plain: str, *, only: bool, bold: bool) -> str | None:
    """A few words that are not a sentence: `Paris`, `**New York City**`."""
    if not (only or bold) or len(plain) > 60 or len(plain.split()) > 6 or not re.search(r"\w", plain):
        return None
    if re.search(r"[:;?!<>{}\[\]|\\`=#@…\ufffd\x00]|\.\s", plain) or _UNSAID.search(plain):
        return None
    if line.endswith((".", "。")) and len(plain.split()) > 2:
        return None
    return plain if bold or plain != tidy(line) else line


def _structure_alone(text: str, kind: Any) -> Any:
    """JSON, a list with bullets or numbers, or bare numbers."""
    held = block(text, 0, len(text))
    if held is not None and held.closed and not text[held.end :].strip():
        text = tidy(held.text)
    if kind in SCALARS:
        plain = tidy(text)
        number = kind is Decimal and not _NUMBER_ALONE.fullmatch(plain)
        return None if "\n" in text or number else structured(plain, kind)
    if text[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            if _DECODER.raw_decode(text)[1] == len(text):
                return structured(text, kind)
        return structured(text, kind) if in_brackets(text) and "\n" not in text and not _UNSAID.search(text) else None
    members = member_kinds(kind)
    if members is None:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1:
        if not all(re.match(r"[ \t]*(?:[-*+•–·▪●■◆►]|[(（]?[0-9]{1,3}[.)、])[ \t]+\S", line) for line in lines):
            return None
        return structured(text, kind)
    words = any(one is str for one in members)
    if words:
        pieces = items_of(text, numbers=False, words=True)
        few = pieces and len(pieces[0]) > 1 and all(len(piece.split()) <= 3 for piece in pieces[0])
        return None if not few or _UNSAID.search(text) or re.search(r"[:;?!.=#]\s|:$", text) else structured(text, kind)
    if re.fullmatch(r"[\s\[\](){}$\\,;.&0-9+\-−/]+(?:(?:and|or)[\s0-9.]+)?", text):
        return structured(text, kind)
    return None
