"""Chat messages of a call.

A prompt puts the instructions first, then the task's inputs, then what earlier rounds left, then the form of the reply:
drafts of one question and refinements of one question share the longest possible prefix for a server's prefix cache.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import dspy
from pydantic import BaseModel

from pdr_dspy.prompts.form import Form, form_of, label
from pdr_dspy.prompts.roles import LEFT

# --- writing ---------------------------------------------------------------------------------------------------------


def render(
    signature: type[dspy.Signature], demos: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Chat messages for one call, OpenAI-shaped.

    A `dspy.configure(adapter=...)` of the user's is obeyed. Without one the form is ours: short labels, plain text, the
    answer on a last line of its own. It costs a small model far fewer tokens and mistakes than field markers do.
    """
    adapter = dspy.settings.adapter
    form = form_of(signature)
    if adapter is not None or form.custom:
        return (adapter or dspy.ChatAdapter()).format(signature, [dict(demo) for demo in demos], dict(inputs))
    messages = [{"role": "system", "content": form.system}, *_shown(form, demos)]
    messages.append({"role": "user", "content": f"{_inputs(form, inputs)}\n\n{form.ending}"})
    return messages


def _shown(form: Form, demos: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of the demonstrations. Those that were written last are kept, as long as they are the same."""
    if not demos:
        return []
    names = (*form.inputs, *form.outputs)
    values = [[demo.get(name) for name in names] for demo in demos]
    texts = all(value is None or isinstance(value, str) for row in values for value in row)
    if texts and form.shown is not None and form.shown[0] == values:
        return [dict(message) for message in form.shown[1]]
    messages: list[dict[str, Any]] = []
    for demo in demos:
        if any(demo.get(name) is None for name in form.inputs if name not in LEFT):
            continue  # a demonstration without its question teaches nothing
        if not any(demo.get(name) is not None for name in form.outputs):
            continue
        messages.append({"role": "user", "content": _inputs(form, demo)})
        messages.append({"role": "assistant", "content": _outputs(form, demo)})
    if texts:  # other values may be changed in their place
        form.shown = (values, [dict(message) for message in messages])
    return messages


def _inputs(form: Form, values: Mapping[str, Any]) -> str:
    parts = []
    for name, title in form.inputs.items():
        value = values.get(name)
        if value is None:
            continue
        text = _text(value)
        parts.append(f"{title}:\n{text}" if "\n" in text else f"{title}: {text}")
    return "\n\n".join(parts)


def _outputs(form: Form, values: Mapping[str, Any]) -> str:
    free = [_text(values[name]).strip() for name in form.free if values.get(name)]
    text = "\n".join(free)
    lines = [
        line
        for name in form.labelled
        if values.get(name) is not None
        if (line := f"{label(name)}: {_text(values[name])}") not in text
    ]
    return "\n".join([*free, *lines])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)
