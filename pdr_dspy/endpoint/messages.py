"""Maps the messages of a chat to the inputs of a signature, and outputs to the text of an answer.

- An input of type `dspy.History` gets the turns before the last user message.
- A text input called `system` gets the text of the system and developer messages.
- An input of type `dspy.Image` (or a list of them) gets the images of the last user message.
- The only other input gets the text of the last user message. If there are several, that text is one JSON object of
  them, or has a part for each that begins with `name:` on a line of its own or in its own content part.

Messages without a matching input (system messages, earlier turns) are left out, and the response says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import dspy
import orjson
from pydantic import TypeAdapter, ValidationError

from pdr_dspy.endpoint.errors import Refused, wrong
from pdr_dspy.endpoint.requests import Message
from pdr_dspy.errors import ConfigError
from pdr_dspy.prompts.content import json_data, text_of
from pdr_dspy.prompts.roles import needed_inputs
from pdr_dspy.prompts.shapes import is_history

SYSTEM = "system"
"""The name of the input for system messages."""


def check(task: type[dspy.Signature], name: str) -> None:
    """Raise ConfigError for a signature with an input that neither a chat nor JSON can provide."""
    for field, info in task.input_fields.items():
        kinds = set(_kinds(info.annotation))
        if kinds & {dspy.Audio, dspy.File}:
            raise ConfigError(f"the program {name!r} cannot be served: its input {field!r} is audio or a file")
        try:
            adapter_of(info)
        except Exception as error:  # any pydantic error about a user's type
            raise ConfigError(
                f"the program {name!r} cannot be served: its input {field!r} has a type that JSON cannot represent "
                f"({type(error).__name__})"
            ) from error


def adapter_of(field: Any) -> TypeAdapter[Any]:
    """The converter from JSON data to a value of a field."""
    kind = field.annotation
    return TypeAdapter(Annotated[(kind, *field.metadata)] if field.metadata else kind)  # type: ignore[index]


def roles_of(task: type[dspy.Signature]) -> dict[str, str]:
    """The source of each input: "history", "system", "images" or "text"."""
    feeds: dict[str, str] = {}
    for name, field in task.input_fields.items():
        if is_history(field.annotation):
            feeds[name] = "history"
        elif name == SYSTEM and field.annotation is str and len(task.input_fields) > 1:
            feeds[name] = "system"
        elif dspy.Image in set(_kinds(field.annotation)):
            feeds[name] = "images"
        else:
            feeds[name] = "text"
    return feeds


def described(task: type[dspy.Signature]) -> dict[str, Any]:
    """The sources in words, for `/v1/models`."""
    feeds = roles_of(task)
    texts = [name for name, kind in feeds.items() if kind == "text"]
    words = {
        "history": "the turns before the last user message",
        "system": "the text of the system and developer messages",
        "images": "the images of the last user message, as data URLs",
        "text": "the text of the last user message"
        if len(texts) == 1
        else "the last user message: its part that begins with `" + "{}:`, or its key of one JSON object",
    }
    unused = []
    if "system" not in feeds.values():
        unused.append("system and developer messages")
    if "history" not in feeds.values():
        unused.append("turns before the last user message")
    outputs = list(task.output_fields)
    return {
        "inputs": {name: words[kind].replace("{}", name) for name, kind in feeds.items()},
        "required": list(needed_inputs(task)),
        "left_out": unused,
        "answer": f"the text of `{outputs[0]}`" if len(outputs) == 1 else f"a JSON object of {', '.join(outputs)}",
    }


def inputs_of(task: type[dspy.Signature], messages: Sequence[Message]) -> tuple[dict[str, Any], list[str]]:
    """The validated inputs from a chat, and the parts of it that were left out. Raises Refused (400)."""
    *before, last = messages
    if last.role != "user":
        raise wrong(f"the last message is the {last.role}'s; it must be the user's", "messages")
    for place, message in enumerate(messages):
        if message.role in ("tool", "function"):
            raise wrong(f"message {place} is a tool's; tools are not supported", f"messages.{place}", "unsupported")
    feeds = roles_of(task)
    raw: dict[str, Any] = {}
    left_out: list[str] = []
    system = [_text(message, place) for place, message in enumerate(messages) if message.role in _SYSTEMS]
    turns = [message for message in before if message.role not in _SYSTEMS]
    for name, kind in feeds.items():
        if kind == "system" and system:
            raw[name] = "\n\n".join(system)
        elif kind == "history" and turns:
            raw[name] = {"messages": _turns(task, feeds, turns)}
    if system and "system" not in feeds.values():
        left_out.append("system messages")
    if turns and "history" not in feeds.values():
        left_out.append("earlier turns")
    texts, images = _parts(last, len(messages) - 1)
    pictured = [name for name, kind in feeds.items() if kind == "images"]
    if images and not pictured:
        raise wrong("this program takes no images", f"messages.{len(messages) - 1}.content", "unsupported")
    if images and len(pictured) == 1:
        raw[pictured[0]] = images if _takes_list(task.input_fields[pictured[0]].annotation) else images[0]
        if len(images) > 1 and not isinstance(raw[pictured[0]], list):
            raise wrong(f"`{pictured[0]}` is one image, and the message has {len(images)}", "messages")
    elif images:
        if len(images) != len(pictured):
            raise wrong(f"the images are {', '.join(pictured)}: give {len(pictured)}, in this order", "messages")
        raw |= dict(zip(pictured, images, strict=True))
    raw |= _texts(task, [name for name, kind in feeds.items() if kind == "text"], texts)
    return checked(task, raw, "messages"), left_out


_SYSTEMS = ("system", "developer")


def checked(task: type[dspy.Signature], raw: Mapping[str, Any], param: str) -> dict[str, Any]:
    """JSON data as values of the inputs' types. Raises Refused (400), naming the input."""
    values: dict[str, Any] = {}
    fields = task.input_fields
    for name, value in raw.items():
        if name not in fields:
            raise wrong(f"there is no input {name!r}; the inputs are {', '.join(fields)}", param)
        kinds = set(_kinds(fields[name].annotation))
        if dspy.Image in kinds and (far := next((text for text in _strings(value) if not _is_data(text)), None)):
            raise wrong(f"`{name}`: images come as data URLs (data:image/...), not as {far[:40]!r}", param)
        if dspy.Image in kinds:
            value = _pictures(value)
        try:
            values[name] = _validated(fields[name], value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(str(part) for part in (name, *first["loc"]))
            raise wrong(f"`{place}`: {first['msg']}", param) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise wrong(f"`{name}` cannot be read: {type(error).__name__}", param) from None
    missing = [name for name in needed_inputs(task) if name not in values]
    if missing:
        raise wrong(
            f"the input {missing[0]!r} is missing; the program takes {', '.join(fields)}", param, "missing_input"
        )
    return values


def answer_of(task: type[dspy.Signature], outputs: Mapping[str, Any], *, as_json: bool) -> str:
    """Outputs as the content of a message: the text of a single output, or a JSON object."""
    if len(task.output_fields) == 1 and not as_json:
        return text_of(next(iter(outputs.values())))
    return orjson.dumps({name: json_data(value) for name, value in outputs.items()}).decode()


def _texts(task: type[dspy.Signature], names: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """The inputs from texts: all of them for a single input, otherwise named parts."""
    if not names:
        return {}
    together = "\n\n".join(texts)
    if len(names) == 1:
        if not texts:
            return {}
        return {names[0]: _value(task.input_fields[names[0]], together)}
    data = _json(together)
    if isinstance(data, dict):
        return data
    found = _named(names, together)
    return {name: _value(task.input_fields[name], text) for name, text in found.items()}


def _named(names: Sequence[str], text: str) -> dict[str, str]:
    """Parts of a text that begin with the name of an input and a colon. Raises Refused if there are none."""
    options = "|".join(re.escape(name).replace("_", "[ _]") for name in sorted(names, key=len, reverse=True))
    marks = list(re.finditer(rf"^[ \t]*({options})[ \t]*:[ \t]*", text, re.MULTILINE | re.IGNORECASE))
    if not marks or text[: marks[0].start()].strip():
        raise wrong(
            f"this program takes several inputs: write a JSON object with {', '.join(names)}, or begin each part with "
            f"`{names[0]}:` on a line of its own; POST /v1/programs/{{name}} takes them typed",
            "messages",
            "missing_input",
        )
    exact = {name.lower().replace("_", " "): name for name in names}
    found: dict[str, str] = {}
    for mark, end in zip(marks, [*[later.start() for later in marks[1:]], len(text)], strict=True):
        name = exact[mark[1].lower().replace("_", " ")]
        if name in found:
            raise wrong(f"`{name}:` begins two parts of the message; write a JSON object instead", "messages")
        found[name] = text[mark.end() : end].strip()
    return found


def _value(field: Any, text: str) -> Any:
    """A text as data for a field: unchanged if that is valid, otherwise as JSON if that is."""
    kind = field.annotation
    if kind is str or (get_origin(kind) in (Union, UnionType) and str in get_args(kind)):
        return text
    data, bare = _json(text), text.strip()
    return next(
        (each for each in (data, bare) if each is not None and _fits(field, each)), data if data is not None else bare
    )


def _fits(field: Any, value: Any) -> bool:
    try:
        _validated(field, value)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _validated(field: Any, value: Any) -> Any:
    """JSON data as a value of a field, by the types of JSON: no truth value or text is taken for a number."""
    adapter = adapter_of(field)
    if dspy.Image in set(_kinds(field.annotation)):
        return adapter.validate_python(value)
    return adapter.validate_json(json.dumps(_whole(value)), strict=True)


def _whole(value: Any) -> Any:
    """JSON has one kind of numbers, so that 7.0 is the whole number 7."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return {name: _whole(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def _text(message: Message, place: int) -> str:
    texts, images = _parts(message, place)
    if images:
        raise wrong(f"message {place} has an image; only the last user message may", f"messages.{place}.content")
    return "\n\n".join(texts)


def _parts(message: Message, place: int) -> tuple[list[str], list[str]]:
    """Texts and images of a message. Raises Refused for other parts."""
    if message.content is None:
        return [], []
    if isinstance(message.content, str):
        return [message.content], []
    texts, images = [], []
    for number, part in enumerate(message.content):
        param = f"messages.{place}.content.{number}"
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if not isinstance(url, str) or not _is_data(url):
                raise wrong("an image comes as a data URL (data:image/...); others are not fetched", param)
            images.append(url)
        else:
            raise wrong(f"a content part of type {str(kind)[:40]!r} is not supported", param, "unsupported")
    return texts, images


def _turns(task: type[dspy.Signature], feeds: Mapping[str, str], turns: Sequence[Message]) -> list[dict[str, str]]:
    """Earlier turns as DSPy's history: the input and the output of each, as texts."""
    inputs = [name for name, kind in feeds.items() if kind == "text"]
    outputs = list(task.output_fields)
    if len(inputs) != 1 or len(outputs) != 1:
        raise wrong("earlier turns can only be read for a program of one text input and one output", "messages")
    history: list[dict[str, str]] = []
    for place, message in enumerate(turns):
        text = _text(message, place)
        if message.role == "user":
            history.append({inputs[0]: text})
        elif history and outputs[0] not in history[-1]:
            history[-1][outputs[0]] = text
        else:
            raise wrong("an assistant's turn must follow a user's", "messages")
    return history


def _kinds(annotation: Any) -> Iterator[Any]:
    """A type and the types inside it."""
    yield annotation
    for inner in get_args(annotation):
        yield from _kinds(inner)


def _takes_list(annotation: Any) -> bool:
    return annotation is list or get_origin(annotation) is list


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)


def _pictures(value: Any) -> Any:
    """Replaces data URLs by DSPy's data form of an image."""
    if isinstance(value, str):
        return {"url": value}
    return [_pictures(inner) for inner in value] if isinstance(value, list) else value


def _is_data(text: str) -> bool:
    return text.startswith("data:image/")


__all__ = ["Refused", "answer_of", "check", "checked", "described", "inputs_of", "roles_of"]
