"""Chat messages of a call.

A prompt has the instructions first, then the task's inputs, the result of earlier rounds, and the form of the reply:
drafts and refinements of one question share the longest possible prefix for a server's prefix cache.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import dspy

from pdr_dspy.prompts.content import Content, joined, pieces_of, text_of
from pdr_dspy.prompts.form import Form, form_of, label
from pdr_dspy.prompts.roles import RESERVED


def render(
    signature: type[dspy.Signature], demos: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Chat messages for one call, OpenAI-shaped.

    A user's `dspy.configure(adapter=...)` is used if set. Otherwise the form is this library's: short labels, plain
    text, the answer alone on the last line. It costs a small model far fewer tokens and mistakes than field markers do.
    Images and other values with content blocks become blocks of the message, and a `dspy.History` its turns.
    """
    adapter = dspy.settings.adapter
    if adapter is not None:
        return adapter.format(signature, [dict(demo) for demo in demos], dict(inputs))
    form = form_of(signature)
    messages = [{"role": "system", "content": form.system}, *_demonstrations(form, demos)]
    if form.history is not None:
        messages += _turns(form, inputs.get(form.history))
    messages.append({"role": "user", "content": _request(form, inputs)})
    return messages


def most_bytes(
    signature: type[dspy.Signature], demos: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]
) -> int | None:
    """A bound on the bytes of a prompt's text, without rendering it; None if only the rendered prompt tells: with a
    user's adapter, demonstrations, earlier turns, or inputs that are no texts."""
    form = form_of(signature)
    if dspy.settings.adapter is not None or demos or form.history is not None:
        return None
    texts = [value for name in form.inputs if (value := inputs.get(name)) is not None]
    if not all(type(text) is str for text in texts):
        return None
    return form.frame_bytes + 4 * sum(map(len, texts))  # UTF-8 has at most 4 bytes for a character


def _request(form: Form, values: Mapping[str, Any]) -> Content:
    """A user message that requests a reply."""
    return joined([*_inputs(form, values), f"\n\n{form.ending}"])


def _demonstrations(form: Form, demos: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of the demonstrations; cached while the demonstrations stay the same."""
    if not demos:
        return []
    names = (*form.inputs, *form.outputs)
    values = [[demo.get(name) for name in names] for demo in demos]
    texts = all(value is None or isinstance(value, str) for row in values for value in row)
    if texts and form.shown is not None and form.shown[0] == values:
        return [dict(message) for message in form.shown[1]]
    messages: list[dict[str, Any]] = []
    for demo in demos:
        if any(demo.get(name) is None for name in form.needed):
            continue  # a demonstration without its question is useless
        if not any(demo.get(name) is not None for name in form.outputs):
            continue
        messages.append({"role": "user", "content": joined(_inputs(form, demo))})
        messages.append({"role": "assistant", "content": _outputs(form.free, form.labelled, demo, form.optional)})
    if texts:  # other values may be modified in place
        form.shown = (values, [dict(message) for message in messages])
    return messages


def _turns(form: Form, history: Any) -> list[dict[str, Any]]:
    """The messages of earlier turns. Each ends like the last message, so that a continued conversation has the prefix
    of the one before."""
    turns = history.get("messages") if isinstance(history, Mapping) else getattr(history, "messages", history)
    messages: list[dict[str, Any]] = []
    for turn in turns or ():
        if any(turn.get(name) is not None for name in form.inputs):
            messages.append({"role": "user", "content": _request(form, turn)})
        # Signatures of roles other than the drafting ones do not have the task's outputs.
        answered = [name for name in turn if name not in form.inputs and name not in RESERVED and name != form.history]
        if reply := _outputs(("solution",), answered, turn):
            messages.append({"role": "assistant", "content": reply})
    return messages


def _inputs(form: Form, values: Mapping[str, Any]) -> list[str | dict[str, Any]]:
    parts: list[str | dict[str, Any]] = []
    for name, title in form.inputs.items():
        value = values.get(name)
        if value is None:
            continue
        pieces = pieces_of(value)
        long = any("\n" in piece for piece in pieces if isinstance(piece, str))
        parts += ["\n\n"] if parts else []
        parts += [f"{title}:\n" if long else f"{title}: ", *pieces]
    return parts


def _outputs(
    free: Sequence[str], labelled: Iterable[str], values: Mapping[str, Any], optional: Container[str] = ()
) -> str:
    texts = [text_of(values[name]).strip() for name in free if values.get(name)]
    text = "\n".join(texts)
    lines = [
        line
        for name in labelled
        if values.get(name) is not None or (name in values and name in optional)
        if (line := f"{label(name)}: {'none' if values[name] is None else text_of(values[name])}") not in text
    ]
    return "\n".join([*texts, *lines])
