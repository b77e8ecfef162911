"""Values of a task's fields in its prompts: texts, JSON, and values with their own content blocks, such as an image.

The format is that of DSPy 3.4: models and lists are JSON, and DSPy's own types format themselves, at any depth of a
value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

import dspy
from pydantic import BaseModel, TypeAdapter

Content = str | list[dict[str, Any]]
"""Content of a message: a text, or blocks of OpenAI's chat API."""


def json_data(value: Any) -> Any:
    """A value as JSON data: models as objects, enums as their values, values without a JSON form as text."""
    if value is None or isinstance(value, str):
        return value
    try:
        return _ANY.dump_python(value, mode="json", fallback=_foreign)
    except (ValueError, TypeError, RecursionError):  # bytes that are not text, a value that contains itself
        return str(value)


_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def exact_data(value: Any) -> Any:
    """A value as JSON data from which its type can be validated again; values without a JSON form are unchanged."""
    if isinstance(value, dspy.Type) or (isinstance(value, BaseModel) and any(True for _ in _media_in(value))):
        return {name: exact_data(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): exact_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [exact_data(item) for item in value]
    try:
        return _ANY.dump_python(value, mode="json")
    except (ValueError, TypeError, RecursionError):
        return value


def _foreign(value: Any) -> Any:
    """Converts a value that pydantic cannot serialize."""
    if isinstance(value, dspy.Example):
        return dict(value.items())
    for name in ("tolist", "item"):  # numpy
        if callable(getattr(value, name, None)):
            return getattr(value, name)()
    return str(value)


def text_of(value: Any) -> str:
    """A value as text for a prompt."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    try:
        if isinstance(value, BaseModel) and not isinstance(value, dspy.Type):
            return value.model_dump_json()
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        data = json_data(value)
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)


def distinct_text(value: Any) -> str:
    """A text that distinguishes values, for identifying questions: `str` of plain data, JSON of data with models, whose
    `str` may be incomplete (that of an image shows only the length of its data)."""
    return str(value) if _is_plain(value) else text_of(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def pieces_of(value: Any) -> list[str | dict[str, Any]]:
    """A value as texts and content blocks: an image, or another DSPy type with content blocks, becomes its blocks, at
    any depth of the value.

    Only instances of such types become blocks: a text that looks like a block stays a text.
    """
    text = text_of(value)
    if isinstance(value, str):
        return [text]
    pieces: list[str | dict[str, Any]] = [text]
    for media in _media_in(value):
        content = media.format()
        if not isinstance(content, list):
            continue
        raw: Any = media.model_dump(mode="json")  # a text: the type formats itself
        for written in dict.fromkeys((raw, json.dumps(raw, ensure_ascii=False)[1:-1], json.dumps(raw)[1:-1])):
            pieces = [
                part
                for piece in pieces
                for part in (_split(piece, written, content) if isinstance(piece, str) else (piece,))  # type: ignore
            ]
    return pieces


def plain_text(value: Any) -> str:
    """A value as text for people, in which an image or other content block appears only as its kind."""
    pieces = pieces_of(value)
    return "".join(piece if isinstance(piece, str) else f"[{piece.get('type', 'content')}]" for piece in pieces)


def _split(text: str, mark: str, content: Sequence[dict[str, Any]]) -> Iterator[str | dict[str, Any]]:
    first, *rest = text.split(mark)
    if first:
        yield first
    for after in rest:
        yield from content
        if after:
            yield after


def _media_in(value: Any, seen: set[int] | None = None) -> Iterator[dspy.Type]:
    """The instances of DSPy's types within a value, without duplicates."""
    seen = set() if seen is None else seen
    if value is None or isinstance(value, str | int | float | bytes) or id(value) in seen:
        return
    seen.add(id(value))
    inner: Iterable[Any] = ()
    if isinstance(value, dspy.Type):
        yield value
    elif isinstance(value, BaseModel):
        inner = [*vars(value).values(), *(value.__pydantic_extra__ or {}).values()]
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, dspy.Example):
        inner = dict(value.items()).values()
    elif is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name) for field in fields_of(value)]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    for each in inner:
        yield from _media_in(each, seen)


def joined(pieces: Sequence[str | dict[str, Any]]) -> Content:
    """The content of one message from these pieces: a text if all are texts."""
    texts = [piece for piece in pieces if isinstance(piece, str)]
    if len(texts) == len(pieces):
        return "".join(texts)
    blocks: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, dict):
            blocks.append(piece)
        elif blocks and blocks[-1].get("type") == "text":
            blocks[-1] = {"type": "text", "text": blocks[-1]["text"] + piece}
        elif piece:
            blocks.append({"type": "text", "text": piece})
    return blocks


def prompt_text(messages: Iterable[Mapping[str, Any]]) -> str:
    """The text of messages, for counting tokens; a content block other than text counts as its kind."""
    return "\n".join(
        content if isinstance(content, str) else "".join(_block_text(block) for block in content or ())
        for content in (message["content"] for message in messages)
    )


def _block_text(block: Mapping[str, Any]) -> str:
    return str(block["text"]) if block.get("type") == "text" else f"[{block.get('type')}]"


def media_count(messages: Iterable[Mapping[str, Any]]) -> int:
    """How many content blocks of messages are not text: images, recordings, files."""
    contents = [message["content"] for message in messages]
    return sum(block.get("type") != "text" for content in contents if isinstance(content, list) for block in content)
