"""Texts as values of the types that are no plain ones: models, unions, code and what else DSPy has of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Literal, get_origin

import json_repair
from pydantic import TypeAdapter, ValidationError

from pdr_dspy.prompts.shapes import holds_objects, is_code, is_custom, members


def without_shapes(shapes: Sequence[str], text: str) -> str:
    """A reply without the lines that repeat the form's shape of a value (`Person: {"name": text}`): mended, such a line
    could pass for one."""
    if not any(shape in text for shape in shapes):
        return text
    return "\n".join(line for line in text.splitlines() if not any(shape in line for shape in shapes))


def structured(text: str, kind: Any, *, truncated: bool, read: Callable[[str, Any], Any]) -> Any:
    """A text as a value of a type that is no simple one: a model, a list, a union, a type of DSPy's; None where it is
    none.

    Args:
        text: what stands for the field.
        kind: the type, None left out.
        truncated: the text may not have come to its end.
        read: reads a text as a simple type.
    """
    if is_custom(kind):
        return _custom(text, kind, truncated=truncated)
    options = members(kind)
    if set(options) == {int, float}:
        number = read(text, float)
        return int(number) if number is not None and number.is_integer() and not re.search(r"\d\.\d", text) else number
    fenced = _FENCE.search(text)
    body = (fenced[1] if fenced else text).strip()
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_json(body)
    except (ValidationError, ValueError):
        pass
    if len(options) > 1:
        if str in options:  # a text is one as it is
            return read(text, str)
        found = (
            structured(text, option, truncated=truncated, read=read) if not simple(option) else read(text, option)
            for option in options
        )
        return next((value for value in found if value is not None), None)
    if truncated:
        return None  # a repaired half of a list would pass for the whole
    for candidate in (repaired(body), body):
        if candidate in ("", None):
            continue
        try:
            return adapter.validate_python(candidate)
        except ValidationError:
            continue
    return None


_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


def simple(kind: Any) -> bool:
    """Whether a value of a type is a few words: a text, a number, one of several options."""
    return (
        kind in (str, int, float, bool)
        or get_origin(kind) is Literal
        or (isinstance(kind, type) and issubclass(kind, Enum))
    )


def _custom(text: str, kind: Any, *, truncated: bool) -> Any:
    """A type of DSPy's reads itself: from its JSON, or from the text."""
    if is_code(kind):
        opened = re.match(r"\s*```[^\n`]*\n", text)
        if opened and "```" not in text[opened.end() :]:
            if truncated:
                return None
            text = text[opened.end() :]
    for candidate in (_json_object(text), text):
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
        data = json.loads((fenced[1] if fenced else text).strip())
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def unlabelled(text: str, kind: Any, *, truncated: bool) -> Any:
    """The value of the only field of a reply that does not name it: the last code block, or the last JSON object, that
    is one; None in a reply that was cut, which may have had more to say.

    An object counts where its line ends with it: within a sentence it is only talked about.
    """
    if truncated:
        return None
    if is_code(kind):
        blocks = re.findall(r"```[^\n`]*\n.*?```", text, re.DOTALL)
        return _custom(blocks[-1], kind, truncated=False) if blocks else None
    if simple(kind) or is_custom(kind) or not holds_objects(kind):
        return None
    for body in reversed(_json_in(text)):
        value = structured(body, kind, truncated=True, read=lambda *_: None)  # nothing is mended here
        if value is not None:
            return value
    body = re.sub(r"^\s*```(?:json)?\s*\n|\n\s*```\s*$", "", text).strip()
    if body[:1] == "{" or body[:1] + body[1:].lstrip()[:1] == "[{":
        return structured(body, kind, truncated=False, read=lambda *_: None)
    return None


def _json_in(text: str) -> list[str]:
    """The objects and lists of a text that stand at the end of their line, outermost ones, in their order."""
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


def repaired(body: str) -> Any:
    """JSON with its small mistakes mended; None where there is nothing to mend."""
    if not mendable(body, brackets=300):
        return None
    try:
        return json_repair.loads(body)
    except (ValueError, RecursionError):
        return None


def mendable(text: str, *, brackets: int) -> bool:
    """Whether what mends JSON, here and in DSPy's adapters, will be done soon: its time is quadratic in open brackets,
    0.5 s for 3,000."""
    return len(text) <= 100_000 and text.count("[") + text.count("{") <= brackets
