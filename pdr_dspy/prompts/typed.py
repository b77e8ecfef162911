"""Texts as values of types that are neither plain nor lists: unions, code, and DSPy's other own types."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import dspy
import json_repair
from pydantic import TypeAdapter, ValidationError

from pdr_dspy.prompts.shapes import holds_objects, is_code, is_custom, members

Read = Callable[[str, Any], Any]
"""Parses a text as a type; None if it is not of that type."""


def is_special(kind: Any) -> bool:
    """Whether a type is parsed here: one of DSPy's own, or a union."""
    return is_custom(kind) or len(members(kind)) > 1


def special(text: str, kind: Any, *, whole: bool, read: Read) -> Any:
    """A text as a value of a union without None, or of a DSPy type.

    Args:
        text: the statement of the field.
        kind: the type.
        whole: whether the text is complete.
        read: parses a text as one of a union's types.
    """
    if is_custom(kind):
        return _custom(text, kind, whole=whole)
    options = members(kind)
    if set(options) == {int, float}:
        number = read(text, float)
        return int(number) if number is not None and number.is_integer() and not re.search(r"\d\.\d", text) else number
    fenced = _FENCE.search(text)
    body = (fenced[2] if fenced else text).strip()
    try:
        return TypeAdapter(kind).validate_json(body)
    except (ValidationError, ValueError):
        pass
    if str in options:  # any text is a str
        return read(text, str)
    return next((value for option in options if (value := read(text, option)) is not None), None)


_FENCE = re.compile(r"(```|~~~)(?:json)?\s*(.*?)\1", re.DOTALL)


def _custom(text: str, kind: Any, *, whole: bool) -> Any:
    """Let a DSPy type parse itself: from its JSON, or from the text."""
    if is_code(kind):
        opened = re.match(r"\s*(```|~~~)[^\n`]*\n", text)
        if opened and opened[1] not in text[opened.end() :]:
            if not whole:
                return None
            text = text[opened.end() :]
        elif not opened and not whole:
            return None
    for candidate in (_tagged(text) if kind is dspy.ToolCalls else None, _json_object(text), text.strip()):
        if candidate in (None, ""):
            continue
        try:
            return TypeAdapter(kind).validate_python(candidate)
        except (ValidationError, ValueError, TypeError):
            continue
    return None


def _json_object(text: str) -> Any:
    fenced = _FENCE.search(text)
    try:
        data = json.loads((fenced[2] if fenced else text).strip())
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict | list) else None


_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def _tagged(text: str) -> list[Any] | None:
    """The tool calls in a text, as Hermes and Qwen write them; None if it has none, or one cannot be parsed."""
    try:
        return [json.loads(call) for call in _CALL.findall(text)] or None
    except (ValueError, RecursionError):
        return None


def without_shapes(shapes: Sequence[str], text: str) -> str:
    """A reply without the lines that repeat the form's shape of a value (`Person: {"name": text}`): after JSON repair,
    such a line could pass for a value."""
    if not any(shape in text for shape in shapes):
        return text
    return "\n".join(line for line in text.splitlines() if not any(shape in line for shape in shapes))


def unlabelled(text: str, kind: Any, *, truncated: bool) -> Any:
    """The value of the only field of a reply that does not name it: the last code block or JSON object with a valid
    value; None in a truncated reply, which may be incomplete.

    An object counts if its line ends with it: within a sentence it is only mentioned.
    """
    if truncated:
        return None
    if is_code(kind):
        blocks = re.findall(r"```[^\n`]*\n.*?```|~~~[^\n~]*\n.*?~~~", text, re.DOTALL)
        return _custom(blocks[-1], kind, whole=True) if blocks else None
    if kind is dspy.ToolCalls and _CALL.search(text):
        return _custom(text, kind, whole=True)
    if is_custom(kind) or kind in (str, int, float, bool) or not holds_objects(kind):
        return None
    if _SEVERAL.search(text):
        return None
    adapter = TypeAdapter(kind)
    for body in reversed(_json_in(text)):
        try:
            return adapter.validate_json(body)
        except (ValidationError, ValueError):
            continue
    body = re.sub(r"^\s*(?:```|~~~)(?:json)?\s*\n|\n\s*(?:```|~~~)\s*$", "", text).strip()
    if body[:1] == "{" and body[-1:] == "}" and len(body) <= 100_000 and body.count("{") + body.count("[") <= 300:
        with suppress(ValidationError, ValueError, RecursionError):  # small mistakes, such as single quotes
            return adapter.validate_python(json_repair.loads(body))
    return None


def _json_in(text: str) -> list[str]:
    """The outermost objects and lists of a text that end their line, in order."""
    found: list[str] = []
    decoder, place, tries = json.JSONDecoder(), 0, 0
    while (opened := _OPENED.search(text, place)) and tries < 500 and len(text) <= 100_000:
        tries += 1
        try:
            _, end = decoder.raw_decode(text, opened.start())
        except (ValueError, RecursionError):
            place = opened.end()
            continue
        if not text[end:].partition("\n")[0].strip(" \t\r`.;*$\\)]}"):
            found.append(text[opened.start() : end])
        place = end
    return found


_OPENED = re.compile(r"[{\[]")
_SEVERAL = re.compile(r"[}\]][ \t`]{0,4}(?:or|oder|ou)[ \t`]{0,4}[{\[]", re.I)
"""`{...} or {...}` offers two values."""
