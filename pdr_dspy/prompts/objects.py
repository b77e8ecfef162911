"""The JSON objects of a completion, tolerating the small mistakes that models make."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import json_repair

_DECODER = json.JSONDecoder(strict=False)
MOST = 100
"""Maximum number of objects that are parsed."""
_TRIED = 100
"""Maximum number of open braces that are tried, from the end of a completion; its first one is always tried."""
_OPENED = re.compile(r"\{(?=\s*\")")
_LIKE_JSON = re.compile(r"\{\s*[\"']?\w[\w \-]{0,60}[\"']?\s*:")
_ESCAPES = re.compile(
    r"\\\\|\\(?=(?:[^\"\\/bfnrtu\n]|u(?![0-9a-fA-F]{4})"
    r"|(?:beta|begin|bigl?|bigr|binom|bar|boxed|bmod|bullet|frac|forall|neq|nu|nabla|neg|nmid|notin|not|right|rho|rangle|rceil"
    r"|rfloor|rightarrow|text(?:bf|rm|it)?|times|theta|tan|tau|to|tfrac|triangle|top|tilde)(?![A-Za-z])))"
)
"""Backslashes in JSON: models do not always double those of LaTeX."""


def objects_in(text: str) -> list[tuple[int, int, dict[str, Any]]]:
    """Start, end and content of the JSON objects of a text."""
    starts = [match.start() for match in _OPENED.finditer(text)]
    starts = starts[:1] + starts[1:][-_TRIED:]
    found: list[tuple[int, int, dict[str, Any]]] = []
    done = 0
    for start in starts:
        if start >= done and len(found) < MOST and (decoded := _decoded(text, start)) is not None:
            done, data = decoded
            found.append((start, done, data))
    if not found and (like := _LIKE_JSON.search(text)) and (mended := _repaired(text, like.start())) is not None:
        found.append(mended)
    return found


def _decoded(text: str, start: int) -> tuple[int, dict[str, Any]] | None:
    try:
        data, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        if "\\" not in text[start : start + 20_000]:
            return None
        return _in_latex(text, start)
    if not isinstance(data, dict):
        return None
    return _in_latex(text, start) or (end, data) if "\\" in text[start:end] else (end, data)


def _in_latex(text: str, start: int) -> tuple[int, dict[str, Any]] | None:
    """The object after doubling LaTeX's single backslashes."""
    part = text[start : start + 20_000]
    added: list[int] = []

    def twice(match: re.Match[str]) -> str:
        if match[0] == "\\\\":
            return match[0]
        added.append(match.start())
        return "\\\\"

    escaped = _ESCAPES.sub(twice, part)
    try:
        data, end = _DECODER.raw_decode(escaped)
    except (ValueError, RecursionError):
        return None
    before = sum(1 for place, at in enumerate(added) if at + place < end)
    return (start + end - before, data) if isinstance(data, dict) else None


def _repaired(text: str, start: int) -> tuple[int, int, dict[str, Any]] | None:
    """The only object of a completion, on lines of its own, after repair of small mistakes: `{'answer': 42,}`."""
    end = text.rfind("}") + 1
    before = text[text.rfind("\n", 0, start) + 1 : start]
    if end <= start or before.strip(" \t`json") or text[end:].partition("\n")[0].strip(" \t`.;"):
        return None
    body = text[start:end]
    if not repairable(body, brackets=300):
        return None
    with suppress(ValueError, RecursionError):
        data = json_repair.loads(body)
        if isinstance(data, dict) and data:
            return start, end, data
    return None


def repairable(text: str, *, brackets: int) -> bool:
    """Whether JSON repair, here and in DSPy's adapters, will be fast: its time is quadratic in open brackets (0.5 s for
    3,000)."""
    return len(text) <= 100_000 and text.count("[") + text.count("{") <= brackets
