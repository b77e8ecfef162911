"""The form of a prompt and its reply: how fields are called, and where the answer goes.

It does not depend on the instructions, so no optimizer can break it.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cached_property
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin
from weakref import WeakKeyDictionary

import dspy
from pydantic import TypeAdapter

from pdr_dspy.prompts.roles import FREE, LEFT


def label(name: str) -> str:
    """How a field is called in a prompt: `final_answer` is `Final answer`."""
    return name.replace("_", " ").strip().capitalize()


def _given(signature: type[dspy.Signature]) -> str:
    """What the task's author wrote about its inputs."""
    described = [
        f"{label(name)}: {desc}"
        for name, field in signature.input_fields.items()
        if (desc := _description(name, field)) and name not in LEFT
    ]
    return "\n".join(["You are given:", *described]) if described else ""


def _form(outputs: Mapping[str, Any]) -> str:
    """Where the answer goes. It stands at the end of the last message: at the end of the instructions, before the
    question, a small model took it for all it had to write (0.02 right in one pass instead of 0.28, on 8 sums with 4
    drafts each by Qwen2.5-Coder-0.5B)."""
    labelled = {name: field for name, field in outputs.items() if name not in FREE}
    if not labelled:
        return "Reply with the text alone."
    first = "Write the steps first. Then end" if "solution" in outputs else "End"
    if len(labelled) == 1:
        head = f"{first} with one line of exactly this form:"
    else:
        head = f"{first} with exactly these {len(labelled)} lines, in this order:"
    return "\n".join([head, *(f"{label(name)}: <{_hint(name, field)}>" for name, field in labelled.items())])


def _description(name: str, field: Any) -> str:
    desc = (field.json_schema_extra or {}).get("desc") or ""
    return "" if desc == f"${{{name}}}" else desc


def _hint(name: str, field: Any) -> str:
    desc = _description(name, field)
    kind = plain_kind(field.annotation)
    if kind is str:
        return desc or label(name).lower()
    if kind is int:
        shape = "a whole number"
    elif kind is float:
        shape = "a number"
    elif kind is bool:
        shape = "yes or no"
    elif get_origin(kind) is Literal:
        shape = "one of " + ", ".join(map(str, get_args(kind)))
    elif isinstance(kind, type) and issubclass(kind, Enum):
        shape = "one of " + ", ".join(str(member.value) for member in kind)
    else:
        shape = "JSON, " + json.dumps(TypeAdapter(kind).json_schema(), separators=(",", ":"))
    return f"{desc}; {shape}" if desc else shape


def _is_custom(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, dspy.Type)


# --- what all prompts and replies of a signature share ---------------------------------------------------------------


class Form:
    """What is the same in every prompt and reply of a signature: worked out once, since DSPy searches for its fields
    whenever it is asked for them."""

    def __init__(self, signature: type[dspy.Signature]) -> None:
        inputs, self._outputs = signature.input_fields, signature.output_fields
        about = [textwrap.dedent(signature.instructions).strip(), _given(signature)]
        self.made_of = _made_of(signature)
        self.custom = any(_is_custom(field.annotation) for field in inputs.values())
        self.system = "\n\n".join(part for part in about if part)
        self.inputs = {name: label(name) for name in inputs}
        self.outputs = tuple(self._outputs)
        self.free = tuple(name for name in self.outputs if name in FREE)
        self.labelled = {
            name: plain_kind(field.annotation) for name, field in self._outputs.items() if name not in FREE
        }
        """The fields that stand behind a label, and their types."""
        self.shown: tuple[list[list[Any]], list[dict[str, Any]]] | None = None
        """Demonstrations, and their messages."""

    @cached_property
    def ending(self) -> str:
        """The end of the last message."""
        return _form(self._outputs)

    @cached_property
    def label(self) -> re.Pattern[str]:
        """Where a statement of a labelled field begins."""
        return _label_pattern(tuple(self.labelled))

    @cached_property
    def blanks(self) -> set[str]:
        """What stands between the brackets of the form, and what a model writes there for it."""
        return _blanks(self._outputs)


_FORMS: WeakKeyDictionary[type[dspy.Signature], Form] = WeakKeyDictionary()


def form_of(signature: type[dspy.Signature]) -> Form:
    """The form of a signature; the same object as long as nothing of the signature was changed in its place."""
    form = _FORMS.get(signature)
    if form is None or form.made_of != _made_of(signature):
        form = _FORMS[signature] = Form(signature)
    return form


def _made_of(signature: type[dspy.Signature]) -> list[Any]:
    """What of a signature can be changed in its place: its instructions, and what is said of its fields."""
    extras = [field.json_schema_extra for field in signature.model_fields.values()]
    return [signature.__doc__, *(extra.get("desc") if isinstance(extra, dict) else None for extra in extras)]


def plain_kind(kind: Any) -> Any:
    """`int` for `int | None`: a value that is not there is reported as missing anyway."""
    if get_origin(kind) in (Union, UnionType):
        inner = [option for option in get_args(kind) if option is not type(None)]
        if len(inner) == 1:
            return inner[0]
    return kind


def _blanks(outputs: Mapping[str, Any]) -> set[str]:
    blanks = {"...", "…"}
    for name, field in outputs.items():
        if name not in FREE:
            own = label(name).casefold()
            blanks |= {name.casefold(), own, f"your {own}", f"the {own}", _hint(name, field).casefold()}
    return blanks


def _label_pattern(names: Sequence[str]) -> re.Pattern[str]:
    either = "|".join(rf"(?P<f{i}>{re.escape(name)}|{re.escape(label(name))})" for i, name in enumerate(names))
    return re.compile(
        rf"^[ \t>*_#\-]{{0,8}}(?:\[\[ ?## ?)?(?:the |final |my ){{0,2}}?(?:{either})(?: ?## ?\]\])?[ \t*_]{{0,4}}"
        rf"(?:[:=]|(?<=\]\])|\bis\b)[ \t*_]{{0,4}}",
        re.IGNORECASE | re.MULTILINE,
    )
