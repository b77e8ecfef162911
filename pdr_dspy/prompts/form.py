"""The form of a prompt and its reply: the labels of fields, and the place of the answer.

It is independent of the instructions, so no optimizer can break it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import dspy

from pdr_dspy.prompts.roles import FREE, LEFT, needed_inputs
from pdr_dspy.prompts.shapes import allows_none, described, is_code, is_custom, is_history, json_shape, plain_kind
from pdr_dspy.prompts.simple import is_simple, is_text
from pdr_dspy.text.labels import ANSWER_KEYS, key
from pdr_dspy.text.stated import Sought


def label(name: str) -> str:
    """The label of a field in a prompt: `Final answer` for `final_answer`."""
    return name.replace("_", " ").strip().capitalize()


def _given(signature: type[dspy.Signature]) -> str:
    """The author's descriptions of the task's inputs, and the descriptions of DSPy's own types."""
    lines = [
        f"{label(name)}: {desc}"
        for name, field in signature.input_fields.items()
        if name not in LEFT and (desc := "; ".join(filter(None, (_description(name, field), _of_types(field)))))
    ]
    return "\n".join(["You are given:", *lines]) if lines else ""


def _of_types(field: Any) -> str:
    types = dspy.Type.extract_custom_type_from_annotation(field.annotation)
    return "; ".join(
        f"{kind.language} code" if is_code(kind) else " ".join(kind.description().split())
        for kind in dict.fromkeys(types)
        if is_code(kind) or kind.description()
    )


def _form(outputs: Mapping[str, Any]) -> str:
    """Instructions for the reply form. They end the last message: placed at the end of the system message, before the
    question, a small model took them for the whole task (0.02 right in one pass instead of 0.28, on 8 sums with 4
    drafts each by Qwen2.5-Coder-0.5B)."""
    labelled = {name: field for name, field in outputs.items() if name not in FREE}
    if not labelled:
        return "Reply with the text alone."
    first = "Write the steps first. Then end" if "solution" in outputs else "End"
    if any(is_code(plain_kind(field.annotation)) for field in labelled.values()):
        head = f"{first} with exactly this form:"
    elif len(labelled) == 1:
        head = f"{first} with one line of exactly this form:"
    else:
        head = f"{first} with exactly these {len(labelled)} lines, in this order:"
    return "\n".join([head, *(_line(name, field) for name, field in labelled.items())])


def _line(name: str, field: Any) -> str:
    kind = plain_kind(field.annotation)
    if is_code(kind):
        return f"{label(name)}:\n```{kind.language.lower()}\n<{_hint(name, field)}>\n```"
    return f"{label(name)}: <{_hint(name, field)}>"


def _description(name: str, field: Any) -> str:
    desc = (field.json_schema_extra or {}).get("desc") or ""
    return "" if desc == f"${{{name}}}" else desc


def _hint(name: str, field: Any) -> str:
    desc, shape = _description(name, field), described(field.annotation, field)
    if desc:
        return f"{desc}; {shape}" if shape else desc
    kind = plain_kind(field.annotation)
    named = label(name).lower() if not json_shape(kind) and (kind is str or is_custom(kind)) else ""
    return ", ".join(filter(None, (named, shape)))


# --- shared by all prompts and replies of a signature ----------------------------------------------------------------


class Form:
    """The part shared by all prompts and replies of a signature: computed once, since DSPy recomputes a signature's
    fields on every access."""

    def __init__(self, signature: type[dspy.Signature]) -> None:
        inputs, self._outputs = signature.input_fields, signature.output_fields
        about = [textwrap.dedent(signature.instructions).strip(), _given(signature)]
        self.made_of = _made_of(signature)
        self.system = "\n\n".join(part for part in about if part)
        self.history = next((name for name, field in inputs.items() if is_history(field.annotation)), None)
        """The input that holds earlier turns, which become messages."""
        self.inputs = {name: label(name) for name in inputs if name != self.history}
        self.needed = tuple(name for name in needed_inputs(signature) if name not in LEFT)
        """The inputs without which a demonstration is useless."""
        self.taken = dict(inputs)
        """The inputs with their defaults."""
        self.outputs = tuple(self._outputs)
        self.free = tuple(name for name in self.outputs if name in FREE)
        self.labelled = {
            name: plain_kind(field.annotation) for name, field in self._outputs.items() if name not in FREE
        }
        """The labelled fields and their types."""
        self.fields = {name: field for name, field in self._outputs.items() if name not in FREE}
        """The labelled fields with their defaults and limits."""
        self.optional = frozenset(name for name, field in self.fields.items() if allows_none(field.annotation))
        """The labelled fields that may be None."""
        self.shown: tuple[list[list[Any]], list[dict[str, Any]]] | None = None
        """The latest demonstrations, and their messages."""

    @cached_property
    def ending(self) -> str:
        """The end of the last message."""
        return _form(self._outputs)

    @cached_property
    def frame_bytes(self) -> int:
        """A bound on the bytes of a prompt without demonstrations, its inputs' values left out."""
        return sum(
            len(text.encode("utf-8", "replace")) + 4 for text in (self.system, self.ending, *self.inputs.values())
        )

    @cached_property
    def sought(self) -> Sought:
        """What is searched in a reply: its labelled fields."""
        names = tuple(self.labelled)
        called = [name for name in names if key(name) in ANSWER_KEYS]
        return Sought(
            names,
            frozenset(name for name, kind in self.labelled.items() if is_text(kind)),
            frozenset(name for name, kind in self.labelled.items() if not is_simple(kind)),
            names[0] if len(names) == 1 else called[0] if len(called) == 1 else None,
            (*self.free, *self.inputs),
        )

    @cached_property
    def label(self) -> re.Pattern[str]:
        """Matches the beginning of a labelled field's statement."""
        return _label_pattern(tuple(self.labelled))

    @cached_property
    def blanks(self) -> set[str]:
        """The placeholders of the form, and what models write in their place without filling them in."""
        return _blanks(self._outputs)

    @cached_property
    def shapes(self) -> tuple[str, ...]:
        """The JSON shapes that the form shows: a line that ends in one repeats the form."""
        return tuple(shape for kind in self.labelled.values() if (shape := json_shape(kind)))


_FORMS: WeakKeyDictionary[type[dspy.Signature], Form] = WeakKeyDictionary()


def form_of(signature: type[dspy.Signature]) -> Form:
    """The form of a signature; cached until the signature is modified in place."""
    form = _FORMS.get(signature)
    if form is None or form.made_of != _made_of(signature):
        form = _FORMS[signature] = Form(signature)
    return form


def _made_of(signature: type[dspy.Signature]) -> list[Any]:
    """The parts of a signature that can be modified in place: its instructions, and its fields' descriptions."""
    # Several times for each call of a model: the descriptor `model_fields` would cost more than the rest.
    extras = [field.json_schema_extra for field in signature.__pydantic_fields__.values()]
    return [signature.__doc__, *[extra.get("desc") if isinstance(extra, dict) else None for extra in extras]]


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
