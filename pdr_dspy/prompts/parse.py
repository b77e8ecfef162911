"""The five roles, derived from the user's task signature, and how each is written to and read from a model.

Instructions are the prompts, so they live here, one constant each, and DSPy optimizers may replace them. The form of a
prompt (labels, where the answer goes) does not depend on them: `render` adds it, so no optimizer can break it.

A prompt puts the instructions first, then the task's inputs, then what earlier rounds left, then the form of the reply:
drafts of one question and refinements of one question share the longest possible prefix for a server's prefix cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import dspy
import json_repair
from pydantic import TypeAdapter, ValidationError

from pdr_dspy.prompts.fields import NONE, says_none, settled, states_none
from pdr_dspy.prompts.form import Form, form_of
from pdr_dspy.prompts.typed import is_special, special, unlabelled, without_shapes
from pdr_dspy.text.answers import MAX_DIGITS, final_answer, tidy, to_choice, to_number

# --- reading ---------------------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """What could be read out of a completion."""

    outputs: dict[str, Any]
    """Fields that were there, each of its declared type."""
    missing: tuple[str, ...]
    """Fields that were not, or not readably."""
    broken: Mapping[str, str] = MappingProxyType({})
    """Of those, the ones that were read: which limit of its field, such as `le=10`, the value breaks."""


def read(signature: type[dspy.Signature], text: str, *, truncated: bool = False) -> Reading:
    """Read the output fields of a completion (its text after any thought), as a careful person would.

    The last statement of a field wins, since models correct themselves. A field may be labelled, bold, boxed, behind a
    DSPy marker or in a JSON object; numbers may have separators and units. Nothing is read out of an unfinished last
    line, and no number out of running text.
    """
    form = form_of(signature)
    labelled = form.labelled
    outputs: dict[str, Any] = dict.fromkeys(form.free, text.strip()) if text.strip() else {}
    text = without_shapes(form.shapes, _without_form(form, text if text.isascii() else _INVISIBLE.sub("", text)))
    stated = _statements(form, text, truncated=truncated)
    whole = {} if truncated or text.rstrip(" \n`")[-1:] != "}" else _from_json(labelled, text)
    for name, kind in labelled.items():
        value = _first_readable(stated[name], kind, truncated=truncated)
        if name in form.optional and states_none(stated[name], kind, value):
            value = NONE
        if value is None:
            value = whole.get(name)
        if value is None and len(labelled) == 1 and _is_simple(kind):
            answer = final_answer(_prose(text, name), truncated=truncated)
            value = None if answer is None else _coerce(answer, kind, truncated=truncated)
            if value is None and answer is not None and name in form.optional and says_none(answer):
                value = NONE
        elif value is None and len(labelled) == 1 and not any(stated[name]):
            value = unlabelled(text, kind, truncated=truncated)
        if value is not None:
            outputs[name] = value
    if not truncated and any(name not in outputs for name in labelled):
        for name, value in _from_json(labelled, text).items():
            outputs.setdefault(name, value)
    lost = not truncated and any(name not in outputs for name in labelled)
    if dspy.settings.adapter is not None and lost and _mendable(text, brackets=3000):
        # What the user's own adapter cannot read either stays missing, and is reported.
        with suppress(dspy.AdapterParseError, ValueError, KeyError, RecursionError):
            outputs |= dspy.settings.adapter.parse(signature, text)
    outputs, broken = settled(form.fields, outputs, stated, truncated=truncated)
    return Reading(outputs, tuple(name for name in form.outputs if name not in outputs), broken)


def _without_form(form: Form, text: str) -> str:
    """Drop lines that repeat the form of the prompt (`Answer: <answer>`): they state nothing."""
    if "<" not in text:
        return text

    def keep(line: re.Match[str]) -> str:
        return "" if line[1].strip().casefold() in form.blanks else line[0]

    return re.sub(r"^[^\n<]{0,80}<([^<>\n]{1,2000})>[ \t*_`.]{0,8}$", keep, text, flags=re.MULTILINE)


def _statements(form: Form, text: str, *, truncated: bool) -> dict[str, list[str]]:
    """For each field the texts that follow its label, the last first; each ends where another label begins."""
    names = tuple(form.labelled)
    if not names:
        return {}
    found: dict[str, list[str]] = {name: [] for name in names}
    matches = list(form.label.finditer(text))
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
    if is_special(kind):
        return special(text, kind, whole=not truncated, read=partial(_coerce, truncated=truncated))
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
        if name.lower() not in lowered:
            continue
        value = lowered[name.lower()]
        if value is None:
            outputs[name] = NONE
            continue
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
