"""The five roles, derived from the user's task signature, and how each is written to and read from a model.

Instructions are the prompts, so they live here, one constant each, and DSPy optimizers may replace them. The form of a
prompt (labels, where the answer goes) does not depend on them: `render` adds it, so no optimizer can break it.

A prompt puts the instructions first, then the task's inputs, then what earlier rounds left, then the form of the reply:
drafts of one question and refinements of one question share the longest possible prefix for a server's prefix cache.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum, StrEnum
from functools import cached_property
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, cast, get_args, get_origin
from weakref import WeakKeyDictionary

import dspy
import json_repair
from dspy.adapters.types import Type as CustomType
from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel, TypeAdapter, ValidationError

from pdr_dspy.answers import MAX_DIGITS, final_answer, tidy, to_choice, to_number
from pdr_dspy.errors import ConfigError


class Role(StrEnum):
    """Which predictor a signature belongs to; also its attribute name on an operator."""

    DRAFT = "draft"
    REFINE = "refine"
    DISTILL = "distill"
    SELECT = "select"
    CRITIQUE = "critique"


FREE = ("solution", "summary", "flaws")
"""Output fields that are the completion itself."""
LEFT = ("workspace", "candidates", "flaws_found")
"""Inputs that earlier calls leave; a demonstration may do without them."""
RESERVED = (*FREE, *LEFT, "selected", "ledger", "rounds", "stop")
"""Field names of ours; a task signature may not use them."""
CALL_KEYWORDS = ("budget", "seed")
"""Keywords of a program's call; a task may not have inputs of these names."""

DRAFT = "Work through the problem step by step, one short line for each step, and check the result before you state it."
REFINE = """\
The workspace below was distilled from earlier attempts at the same problem. It may be right, wrong, or contradict
itself. Check what it says against the problem, one short line for each step: what holds, and what does not. Reuse or
merge what holds, override what does not, and if nothing holds set all of it aside and solve the problem afresh. Write a
complete solution of your own."""
REVISE = """\
The workspace below is your previous solution of the same problem. It may be wrong.
Check it step by step against the problem. Keep what holds, correct what does not, and start afresh if its approach
fails. Write the complete corrected solution, one short line for each step."""
DISTILL = """\
The candidates below are independent attempts at the same problem. Some or all may be wrong.
Write notes for somebody who will solve the problem with your notes and without the candidates: where they agree, where
they contradict each other and which side holds when you check it, intermediate results that hold, what is still open,
and what to do next. Judge by checking, not by counting votes. Add no solution of your own."""
SELECT = """\
The candidates below are independent attempts at the same problem. Some or all may be wrong.
Check the steps of each against the problem and pick the {k} most likely to be right. Judge by checking, not by
counting votes."""
CRITIQUE = """\
The workspace below is a solution of the problem. It may be wrong.
Check it step by step against the problem and list its flaws: the first wrong step, why it is wrong, and what it
spoils. If you find none, say so. Do not write a new solution."""


def check_task(signature: str | type[dspy.Signature]) -> type[dspy.Signature]:
    """The task as a signature class.

    Raises ConfigError for a signature that cannot be parsed, has no outputs or no inputs, or uses a name of ours.
    """
    try:
        task = cast("type[dspy.Signature]", dspy.ensure_signature(signature))
    except (ValueError, TypeError, SyntaxError) as error:
        raise ConfigError(f"`signature={signature!r}` is not a DSPy signature: {error}") from error
    if not (isinstance(task, type) and issubclass(task, dspy.Signature)):
        raise ConfigError(f'`signature={signature!r}` is not a DSPy signature; write it like "question -> answer"')
    if not task.output_fields:
        raise ConfigError(f'`signature={signature!r}` has no output fields; write it like "question -> answer"')
    if not task.input_fields:
        raise ConfigError(f'`signature={signature!r}` has no input fields; write it like "question -> answer"')
    clash = [name for name in (*task.input_fields, *task.output_fields) if name in RESERVED]
    clash += [name for name in task.input_fields if name in CALL_KEYWORDS]
    if clash:
        raise ConfigError(
            f"`signature={signature!r}` uses the field name {clash[0]!r}, which this library uses itself "
            f"({', '.join((*RESERVED, *CALL_KEYWORDS))}); rename the field"
        )
    return task


def derive(
    task: type[dspy.Signature], role: Role, *, k: int = 2, last: bool = False, critique: bool = False
) -> type[dspy.Signature]:
    """The signature of one role for a task.

    Args:
        task: the user's signature, already checked.
        k: how many candidates Select picks; part of its instructions.
        last: the workspace is one previous solution (Sequential Refinement), not the distillate of several drafts.
        critique: Refine also reads a list of flaws.
    """
    about = textwrap.dedent(task.instructions).strip()
    solution = dspy.OutputField(desc="the worked solution")
    if role is Role.DRAFT:
        return task.prepend("solution", solution, str).with_instructions(f"{about}\n\n{DRAFT}")
    if role is Role.REFINE:
        workspace = dspy.InputField(desc="what earlier rounds left")
        refine = task.append("workspace", workspace, str)
        if critique:
            refine = refine.append("flaws_found", dspy.InputField(desc="flaws found in the workspace"), str)
        refine = refine.prepend("solution", solution, str)
        return refine.with_instructions(f"{about}\n\n{REVISE if last else REFINE}")
    inputs = task
    for name in task.output_fields:
        inputs = inputs.delete(name)
    if role is Role.CRITIQUE:
        reading = inputs.append("workspace", dspy.InputField(desc="a solution of the problem"), str)
        return reading.append("flaws", dspy.OutputField(desc="the list of flaws"), str).with_instructions(
            f"{about}\n\n{CRITIQUE}"
        )
    reading = inputs.append("candidates", dspy.InputField(desc="numbered attempts"), str)
    if role is Role.DISTILL:
        return reading.append("summary", dspy.OutputField(desc="the notes"), str).with_instructions(
            f"{about}\n\n{DISTILL}"
        )
    return reading.append(
        "selected", dspy.OutputField(desc=f"the numbers of the {k} best candidates"), list[int]
    ).with_instructions(f"{about}\n\n{SELECT.format(k=k)}")


def signature_of(predictor: dspy.Predict) -> type[dspy.Signature]:
    """The predictor's signature, which DSPy types as optional."""
    return cast("type[dspy.Signature]", predictor.signature)


# --- writing ---------------------------------------------------------------------------------------------------------


def render(
    signature: type[dspy.Signature], demos: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Chat messages for one call, OpenAI-shaped.

    A `dspy.configure(adapter=...)` of the user's is obeyed. Without one the form is ours: short labels, plain text, the
    answer on a last line of its own. It costs a small model far fewer tokens and mistakes than field markers do.
    """
    adapter = dspy.settings.adapter
    fixed = _fixed(signature)
    if adapter is not None or fixed.custom:
        return (adapter or dspy.ChatAdapter()).format(signature, [dict(demo) for demo in demos], dict(inputs))
    messages = [{"role": "system", "content": fixed.system}, *_shown(fixed, demos)]
    messages.append({"role": "user", "content": f"{_inputs(fixed, inputs)}\n\n{fixed.form}"})
    return messages


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
    kind = _plain_kind(field.annotation)
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


def _shown(fixed: _Fixed, demos: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of the demonstrations. Those that were written last are kept, as long as they are the same."""
    if not demos:
        return []
    names = (*fixed.inputs, *fixed.outputs)
    values = [[demo.get(name) for name in names] for demo in demos]
    texts = all(value is None or isinstance(value, str) for row in values for value in row)
    if texts and fixed.shown is not None and fixed.shown[0] == values:
        return [dict(message) for message in fixed.shown[1]]
    messages: list[dict[str, Any]] = []
    for demo in demos:
        if any(demo.get(name) is None for name in fixed.inputs if name not in LEFT):
            continue  # a demonstration without its question teaches nothing
        if not any(demo.get(name) is not None for name in fixed.outputs):
            continue
        messages.append({"role": "user", "content": _inputs(fixed, demo)})
        messages.append({"role": "assistant", "content": _outputs(fixed, demo)})
    if texts:  # other values may be changed in their place
        fixed.shown = (values, [dict(message) for message in messages])
    return messages


def _inputs(fixed: _Fixed, values: Mapping[str, Any]) -> str:
    parts = []
    for name, title in fixed.inputs.items():
        value = values.get(name)
        if value is None:
            continue
        text = _text(value)
        parts.append(f"{title}:\n{text}" if "\n" in text else f"{title}: {text}")
    return "\n\n".join(parts)


def _outputs(fixed: _Fixed, values: Mapping[str, Any]) -> str:
    free = [_text(values[name]).strip() for name in fixed.free if values.get(name)]
    text = "\n".join(free)
    lines = [
        line
        for name in fixed.labelled
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


def _is_custom(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, CustomType)


# --- what all prompts and replies of a signature share ---------------------------------------------------------------


class _Fixed:
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
            name: _plain_kind(field.annotation) for name, field in self._outputs.items() if name not in FREE
        }
        """The fields that stand behind a label, and their types."""
        self.shown: tuple[list[list[Any]], list[dict[str, Any]]] | None = None
        """Demonstrations, and their messages."""

    @cached_property
    def form(self) -> str:
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


_FIXED: WeakKeyDictionary[type[dspy.Signature], _Fixed] = WeakKeyDictionary()


def _fixed(signature: type[dspy.Signature]) -> _Fixed:
    fixed = _FIXED.get(signature)
    if fixed is None or fixed.made_of != _made_of(signature):
        fixed = _FIXED[signature] = _Fixed(signature)
    return fixed


def _made_of(signature: type[dspy.Signature]) -> list[Any]:
    """What of a signature can be changed in its place: its instructions, and what is said of its fields."""
    extras = [field.json_schema_extra for field in signature.model_fields.values()]
    return [signature.__doc__, *(extra.get("desc") if isinstance(extra, dict) else None for extra in extras)]


# --- reading ---------------------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """What could be read out of a completion."""

    outputs: dict[str, Any]
    """Fields that were there, each of its declared type."""
    missing: tuple[str, ...]
    """Fields that were not, or not readably."""


def read(signature: type[dspy.Signature], text: str, *, truncated: bool = False) -> Reading:
    """Read the output fields of a completion (its text after any thought), as a careful person would.

    The last statement of a field wins, since models correct themselves. A field may be labelled, bold, boxed, behind a
    DSPy marker or in a JSON object; numbers may have separators and units. Nothing is read out of an unfinished last
    line, and no number out of running text.
    """
    fixed = _fixed(signature)
    labelled = fixed.labelled
    outputs: dict[str, Any] = dict.fromkeys(fixed.free, text.strip()) if text.strip() else {}
    text = _without_form(fixed, text if text.isascii() else _INVISIBLE.sub("", text))
    stated = _statements(fixed, text, truncated=truncated)
    whole = {} if truncated or text.rstrip(" \n`")[-1:] != "}" else _from_json(labelled, text)
    for name, kind in labelled.items():
        value = _first_readable(stated[name], kind, truncated=truncated)
        if value is None:
            value = whole.get(name)
        if value is None and len(labelled) == 1 and _is_simple(kind):
            answer = final_answer(_prose(text, name), truncated=truncated)
            value = None if answer is None else _coerce(answer, kind, truncated=truncated)
        if value is not None:
            outputs[name] = value
    if not truncated and any(name not in outputs for name in labelled):
        for name, value in _from_json(labelled, text).items():
            outputs.setdefault(name, value)
    lost = not truncated and any(name not in outputs for name in labelled)
    if dspy.settings.adapter is not None and lost and _mendable(text, brackets=3000):
        # What the user's own adapter cannot read either stays missing, and is reported.
        with suppress(AdapterParseError, ValueError, KeyError, RecursionError):
            outputs |= dspy.settings.adapter.parse(signature, text)
    return Reading(outputs, tuple(name for name in fixed.outputs if name not in outputs))


def _plain_kind(kind: Any) -> Any:
    """`int` for `int | None`: a value that is not there is reported as missing anyway."""
    if get_origin(kind) in (Union, UnionType):
        inner = [option for option in get_args(kind) if option is not type(None)]
        if len(inner) == 1:
            return inner[0]
    return kind


def _without_form(fixed: _Fixed, text: str) -> str:
    """Drop lines that repeat the form of the prompt (`Answer: <answer>`): they state nothing."""
    if "<" not in text:
        return text

    def keep(line: re.Match[str]) -> str:
        return "" if line[1].strip().casefold() in fixed.blanks else line[0]

    return re.sub(r"^[^\n<]{0,80}<([^<>\n]{1,2000})>[ \t*_`.]{0,8}$", keep, text, flags=re.MULTILINE)


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


def _statements(fixed: _Fixed, text: str, *, truncated: bool) -> dict[str, list[str]]:
    """For each field the texts that follow its label, the last first; each ends where another label begins."""
    names = tuple(fixed.labelled)
    if not names:
        return {}
    found: dict[str, list[str]] = {name: [] for name in names}
    matches = list(fixed.label.finditer(text))
    for position, match in enumerate(matches):
        end = matches[position + 1].start() if position + 1 < len(matches) else len(text)
        body = text[match.end() : end]
        if truncated and end == len(text) and "\n" not in body.strip("\n") and not body.endswith("\n"):
            continue  # the cap may have cut it in the middle of the value
        marker = re.search(r"^\[\[ ?## ?completed", body, re.MULTILINE)
        body = body[: marker.start()] if marker else body
        name = names[next(i for i in range(len(names)) if match.group(f"f{i}") is not None)]
        found[name].append(body.strip())
    return {name: bodies[::-1] for name, bodies in found.items()}


def _first_readable(statements: Sequence[str], kind: Any, *, truncated: bool) -> Any:
    for statement in statements:
        if not statement:
            continue
        if kind is str and statement.startswith("```"):
            fenced = re.match(r"```[^\n`]*\n(.*?)\n?```", statement, re.DOTALL)
            if fenced:
                return fenced[1]
            if truncated:
                continue
        if _is_simple(kind):
            statement = statement.splitlines()[0]
        value = _coerce(statement, kind, truncated=truncated)
        if value is not None:
            return value
    return None


def _is_simple(kind: Any) -> bool:
    return (
        kind in (str, int, float, bool)
        or get_origin(kind) is Literal
        or (isinstance(kind, type) and issubclass(kind, Enum))
    )


def _coerce(text: str, kind: Any, *, truncated: bool) -> Any:
    """`text` as a value of type `kind`, or None."""
    text = text.strip()
    wrapped = re.fullmatch(r"[*_`]*<(?:(\w+)>(.*)</\1|([^<>/][^<>]*))>[*_`.]*", text)
    if wrapped:  # a small model copies the brackets of the form
        text = (wrapped[2] or wrapped[3] or "").strip()
    if kind is str:
        boxed = final_answer(text) if "\\boxed" in text else None
        return tidy(boxed or text).strip("*`").strip() or None
    if kind in (int, float):
        number = to_number(text)
        if number is None:
            return None
        if kind is int:
            return int(number) if number.denominator == 1 else None
        try:
            return float(number)
        except OverflowError:  # beyond 1.8e308
            return None
    if kind is bool:
        choice = to_choice(text, ("yes", "no", "true", "false"))
        return None if choice is None else choice in ("yes", "true")
    if get_origin(kind) is Literal:
        options = get_args(kind)
        choice = to_choice(text, [str(option) for option in options])
        return None if choice is None else next(option for option in options if str(option) == choice)
    if isinstance(kind, type) and issubclass(kind, Enum):
        choice = to_choice(text, [str(member.value) for member in kind])
        return None if choice is None else next(member for member in kind if str(member.value) == choice)
    return _structured(text, kind, truncated=truncated)


def _structured(text: str, kind: Any, *, truncated: bool) -> Any:
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL)
    body = (fenced.group(1) if fenced else text).strip()
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_json(body)
    except (ValidationError, ValueError):
        if truncated:
            return None  # a repaired half of a list would pass for the whole
    for candidate in (_repaired(body), body):
        if candidate in ("", None):
            continue
        try:
            return adapter.validate_python(candidate)
        except ValidationError:
            continue
    if get_origin(kind) is list and get_args(kind) in ((int,), (float,), (str,)):
        return _plain_list(body, get_args(kind)[0])
    return None


def _repaired(body: str) -> Any:
    """JSON with its small mistakes mended; None where there is nothing to mend."""
    if not _mendable(body, brackets=300):
        return None
    try:
        return json_repair.loads(body)
    except (ValueError, RecursionError):
        return None


def _mendable(text: str, *, brackets: int) -> bool:
    """Whether what mends JSON, here and in DSPy's adapters, will be done soon: its time is quadratic in open brackets,
    0.5 s for 3,000."""
    return len(text) <= 100_000 and text.count("[") + text.count("{") <= brackets


def _plain_list(text: str, kind: type) -> list[Any] | None:
    """`2, 5 and 7`, `[2] [5]`, or one item on a line."""
    if kind is str:
        items = [line.strip(" \t-*•") for line in text.splitlines() if line.strip(" \t-*•")]
        return items or None
    line = _NO_NUMBERS.split(text.splitlines()[0] if text else "")[0]  # `2 and 5, not 3`
    if _NOT_A_LIST.search(line):
        return None
    numbers = re.findall(r"-?\d+(?:\.\d+)?", line)
    if any(len(number) > MAX_DIGITS for number in numbers):
        return None
    return [kind(number) for number in numbers if kind is float or "." not in number] or None


_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
"""Marks that no reader sees: soft hyphens, widths of nothing, the direction of writing."""
_NO_NUMBERS = re.compile(r"\b(?:not|cannot|unable|unknown|neither|never|no longer|none)\b|n't", re.IGNORECASE)
_NOT_A_LIST = re.compile(
    r"[+*/^=<>{}\u00b2\u00b3\u00b9\u2070-\u2079]|\d[A-Za-z]|\d\.\d+\.|\b(?:null|true|false|nan)\b", re.IGNORECASE
)
"""Signs that the numbers of a line are parts of something else: `40+2`, `1/2`, `1e3`, `1.2.3`, an object."""


def _from_json(kinds: Mapping[str, Any], text: str) -> dict[str, Any]:
    lowered = _object(text)
    outputs = {}
    for name, kind in kinds.items():
        if lowered.get(name.lower()) is None:
            continue
        value = lowered[name.lower()]
        read_value = _coerce(value if isinstance(value, str) else json.dumps(value), kind, truncated=False)
        if read_value is not None:
            outputs[name] = read_value
    return outputs


def _object(text: str) -> dict[str, Any]:
    """The JSON object of a completion, its keys as names of fields; empty when it has none, or goes on after it on the
    same line, as prose about an object does."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start or end - start > 100_000 or text[end + 1 :].partition("\n")[0].strip(" \t\r`.;"):
        return {}
    try:
        data = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {str(key).lower().replace(" ", "_"): value for key, value in data.items()}


def _prose(text: str, name: str) -> str:
    """What of a completion may state the field in words; nothing where an object has it, readable or not."""
    if not (text.lstrip(" \n\t`json").startswith("{") and (data := _object(text))):
        return text
    return "" if name.lower() in data else "\n".join(value for value in data.values() if isinstance(value, str))
