"""Values of the fields of a task: how one is written into a prompt, and how a text becomes one.

DSPy 3.4 is the measure. Values are written as its adapters write them (models and lists as JSON, what has a content of
its own, such as an image, as that content), a field that was not stated takes its default, and one that may be None is
None. Beyond it, limits of a field are held: a value that breaks them is missing, and the reason is told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from enum import Enum
from typing import Annotated, Any, Literal, get_origin

import dspy
import json_repair
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from pdr_dspy.prompts.shapes import allows_none, is_code, is_custom, members

Content = str | list[dict[str, Any]]
"""Of a message: a text, or blocks of OpenAI's chat API."""

NONE: Any = object()
"""A stated None, where None would mean that nothing was found."""

# --- values into prompts ---------------------------------------------------------------------------------------------


def json_data(value: Any) -> Any:
    """A value as JSON data: models as objects, enums as their values; what JSON has no form for becomes text."""
    if value is None or isinstance(value, str):
        return value
    try:
        return _ANY.dump_python(value, mode="json", fallback=_foreign)
    except (ValueError, TypeError, RecursionError):  # bytes that are no text, a value that holds itself
        return str(value)


_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def exact_data(value: Any) -> Any:
    """A value as JSON data from which its type can be validated again; what JSON has no form for is left as it is."""
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
    """What pydantic has no form for."""
    if isinstance(value, dspy.Example):
        return dict(value.items())
    for name in ("tolist", "item"):  # numpy's
        if callable(getattr(value, name, None)):
            return getattr(value, name)()
    return str(value)


def text_of(value: Any) -> str:
    """A value as a text of a prompt."""
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


def told(value: Any) -> str:
    """A value as a text that differs where it differs, to tell questions apart: `str` of plain data, JSON of what holds
    models, whose `str` may leave things out (an image's shows the length of its data alone)."""
    return str(value) if _is_plain(value) else text_of(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def pieces_of(value: Any) -> list[str | dict[str, Any]]:
    """A value as texts and content blocks: an image, or whatever else of DSPy's types has a content of its own, is its
    blocks, wherever in the value it stands.

    Only what is such a type becomes a block: a text that looks like one stays a text.
    """
    text = text_of(value)
    if isinstance(value, str):
        return [text]
    pieces: list[str | dict[str, Any]] = [text]
    for media in _media_in(value):
        content = media.format()
        if not isinstance(content, list):
            continue
        raw = media.model_dump(mode="json")
        for written in dict.fromkeys((raw, json.dumps(raw, ensure_ascii=False)[1:-1], json.dumps(raw)[1:-1])):
            pieces = [
                part
                for piece in pieces
                for part in (_split(piece, written, content) if isinstance(piece, str) else (piece,))
            ]
    return pieces


def _split(text: str, mark: str, content: Sequence[dict[str, Any]]) -> Iterator[str | dict[str, Any]]:
    first, *rest = text.split(mark)
    if first:
        yield first
    for after in rest:
        yield from content
        if after:
            yield after


def _media_in(value: Any, seen: set[int] | None = None) -> Iterator[dspy.Type]:
    """The values of DSPy's types within a value, each once."""
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


def joined(pieces: Iterable[str | dict[str, Any]]) -> Content:
    """One message of these pieces: a text where all are texts."""
    blocks: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, dict):
            blocks.append(piece)
        elif blocks and blocks[-1].get("type") == "text":
            blocks[-1] = {"type": "text", "text": blocks[-1]["text"] + piece}
        elif piece:
            blocks.append({"type": "text", "text": piece})
    if all(block.get("type") == "text" for block in blocks):
        return "".join(block["text"] for block in blocks)
    return blocks


def prompt_text(messages: Iterable[Mapping[str, Any]]) -> str:
    """The words of messages, to count their tokens; a content block that is no text counts as its kind alone."""
    return "\n".join(
        content if isinstance(content, str) else "".join(_block_text(block) for block in content or ())
        for content in (message["content"] for message in messages)
    )


def _block_text(block: Mapping[str, Any]) -> str:
    return str(block["text"]) if block.get("type") == "text" else f"[{block.get('type')}]"


def media_count(messages: Iterable[Mapping[str, Any]]) -> int:
    """How many content blocks of messages are no text: images, recordings, files."""
    contents = [message["content"] for message in messages]
    return sum(block.get("type") != "text" for content in contents if isinstance(content, list) for block in content)


# --- defaults and limits ---------------------------------------------------------------------------------------------


def default_of(field: Any) -> Any:
    """What a field is where nobody gives it. For fields that are not required."""
    try:
        return field.get_default(call_default_factory=True)
    except (TypeError, ValueError):  # a factory that wants the other fields
        return field.get_default(call_default_factory=True, validated_data={})


def with_defaults(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields, those that were not given with their defaults, in the order of the fields."""
    filled = {
        name: values[name] if name in values else default_of(field)
        for name, field in fields.items()
        if name in values or not field.is_required()
    }
    return {**values, **filled}


def held(field: Any, value: Any) -> tuple[Any, str]:
    """A value within its field's limits, and ""; or None, and which limit it breaks."""
    if not field.metadata:
        return value, ""
    try:
        return TypeAdapter(Annotated[(field.annotation, *field.metadata)]).validate_python(value), ""  # type: ignore[index]
    except ValidationError as error:
        return None, "; ".join(each["msg"] for each in error.errors(include_url=False, include_context=False))
    except PydanticUserError:
        return value, ""


def settled(
    fields: Mapping[str, Any], outputs: Mapping[str, Any], stated: Mapping[str, Sequence[str]], *, truncated: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """What was read out of a reply, within its limits and with the defaults of what it does not state; and, by name,
    which limits were broken.

    A field takes its default where the reply came to its end without stating it. A field that may be None is None where
    another one was stated: a reply that states nothing has not said that there is none.

    Args:
        fields: those that stand behind a label.
        outputs: what was read, `NONE` for a stated None; other fields are left as they are.
        stated: the texts behind each label.
        truncated: the reply may have had more to say.
    """
    settled: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for name, value in outputs.items():
        if name not in fields:
            settled[name] = value
        elif value is NONE or value is None:
            if allows_none(fields[name].annotation):
                settled[name] = None
        else:
            value, why = held(fields[name], value)
            if why:
                broken[name] = why
            else:
                settled[name] = value
    if not truncated:
        known = any(name in settled for name in fields)
        for name, field in fields.items():
            if name in settled or name in broken or any(stated.get(name, ())):
                continue
            if not field.is_required():
                settled[name] = default_of(field)
            elif known and allows_none(field.annotation):
                settled[name] = None
    return settled, broken


# --- texts into values -----------------------------------------------------------------------------------------------


def says_none(text: str) -> bool:
    """Whether a text says that there is no value."""
    return re.fullmatch(r"[\s*_`\"'<(\[]*(?:none|null|nil|n/a|not applicable)[\s*_`\"'>)\].]*", text, re.I) is not None


def without_shapes(shapes: Sequence[str], text: str) -> str:
    """A reply without the lines that repeat the form's shape of a value (`Person: {"name": text}`): mended, such a line
    could pass for one."""
    if not any(shape in text for shape in shapes):
        return text
    return "\n".join(line for line in text.splitlines() if not any(shape in line for shape in shapes))


def states_none(statements: Sequence[str], kind: Any, value: Any) -> bool:
    """Whether the last statement of a field says that there is no value, and "none" is not itself an option (`value` is
    what was read of it)."""
    last = next(filter(None, statements), "")
    option = get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))
    return says_none(last) and not (option and value is not None)


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


def unlabelled(text: str, kind: Any, *, truncated: bool, read: Callable[[str, Any], Any]) -> Any:
    """The value of the only field of a reply that does not name it: the last code block, or the last JSON, that is one.

    JSON counts where its line ends with it: within a sentence it is only talked about.
    """
    if is_code(kind):
        blocks = re.findall(r"```[^\n`]*\n.*?```", text, re.DOTALL)
        return _custom(blocks[-1], kind, truncated=False) if blocks else None
    if simple(kind) or is_custom(kind):
        return None
    for body in reversed(_json_in(text)):
        value = structured(body, kind, truncated=True, read=lambda *_: None)  # nothing is mended here
        if value is not None:
            return value
    body = re.sub(r"^\s*```(?:json)?\s*\n|\n\s*```\s*$", "", text).strip()
    if not truncated and body[:1] in ("{", "["):
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
