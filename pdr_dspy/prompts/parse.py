r"""What a completion says of each output field, and how it says it.

A field's text is what the model wrote for it, whole. Numbers, options and lists are read as a careful person would read
them; what is ambiguous names nothing, and `Reading.unclear` says so. The forms of DSPy's three adapters are followed to
the letter where a model writes them. Where nothing is labelled, a completion that is only the answer counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import dspy
import json_repair
from dspy.utils.exceptions import AdapterParseError
from pydantic import ValidationError

from pdr_dspy.prompts.form import Form, form_of
from pdr_dspy.prompts.lists import in_brackets, items_of
from pdr_dspy.prompts.values import (
    contests,
    has_marks,
    is_blank,
    is_simple,
    is_text,
    member_kinds,
    mendable,
    options_of,
    structured,
    value_of,
)
from pdr_dspy.text.answers import MAX_ANSWER, MAX_TEXT, to_choice, to_number
from pdr_dspy.text.labels import ANSWER_KEYS, key
from pdr_dspy.text.reasoning import split_thought
from pdr_dspy.text.statements import How, Sought, Statement, statements
from pdr_dspy.text.template import TURN_END, without_template
from pdr_dspy.text.wrapping import block, tidy

# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What could be read out of a completion. Unpacks as (outputs, missing)."""

    outputs: dict[str, Any]
    """Fields that were there, each of its declared type."""
    missing: tuple[str, ...]
    """Fields that were not, or not readably."""
    how: dict[str, How] = field(default_factory=dict)
    """In which form each labelled field was found. Fields that are the completion itself are not among them."""
    unclear: dict[str, str] = field(default_factory=dict)
    """Of missing fields that were stated: the beginning of what was stated, and could not be read."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.outputs, self.missing))


def read(signature: type[dspy.Signature], text: str, *, truncated: bool = False) -> Reading:
    """Read the output fields of a completion, as a careful person would; its thoughts never count.

    The last statement of a field wins, since models correct themselves. A field may be labelled in any of the forms of
    `pdr_dspy.text.statements`, boxed, or stand in a JSON object; numbers may have separators and units. Nothing is read
    out of an unfinished last line, and no number out of running text.

    Args:
        signature: its output fields are read. A user's own `dspy.configure(adapter=...)` has the first word where its
            form is its own, and the last one else.
        text: the completion.
        truncated: it was cut at its cap.
    """
    form = form_of(signature)
    outputs: dict[str, Any] = dict.fromkeys(form.free, text.strip()) if text.strip() else {}
    how: dict[str, How] = {}
    unclear: dict[str, str] = {}
    if form.labelled and text.strip():
        reader = _Reader(signature, form, text, truncated)
        reader.run()
        outputs |= reader.outputs
        how, unclear = reader.how, reader.unclear
    return Reading(outputs, tuple(name for name in form.outputs if name not in outputs), how, unclear)


_READ = 100
"""Statements of one field that are tried, from the one that counts most."""


class _Reader:
    def __init__(self, signature: type[dspy.Signature], form: Form, text: str, truncated: bool) -> None:
        self.signature = signature
        self.form = form
        self.kinds = form.labelled
        self.whole = text
        self.truncated = truncated
        self.text = without_template(split_thought(text)[1][-MAX_TEXT:])
        self.sought = _sought_in(tuple(self.kinds.items()), (*form.free, *form.inputs))
        self.outputs: dict[str, Any] = {}
        self.how: dict[str, How] = {}
        self.unclear: dict[str, str] = {}

    def run(self) -> None:
        adapter = dspy.settings.adapter
        if adapter is not None and not _known(adapter):
            self.by_adapter(adapter)
        taken, given = self.objects()
        found = statements(self.text, self.sought, truncated=self.truncated, taken=taken, given=given)
        for name, kind in self.kinds.items():
            if name not in self.outputs:
                self.first_readable(name, kind, found[name])
        only = next(iter(self.kinds)) if len(self.kinds) == 1 else None
        if only is not None and only not in self.outputs and only not in self.unclear and not self.truncated:
            self.alone(only, self.kinds[only])
        if adapter is not None and _known(adapter) and any(name not in self.outputs for name in self.kinds):
            self.by_adapter(adapter)

    def first_readable(self, name: str, kind: Any, found: list[Statement]) -> None:
        for statement in found[:_READ]:
            if len(statement.text) > MAX_TEXT or (
                is_simple(kind) and not is_text(kind) and len(statement.text) > MAX_ANSWER
            ):
                continue
            value = value_of(statement, kind, blanks=self.form.blanks)
            if value is not None:
                self.outputs[name], self.how[name] = value, statement.how
                self.unclear.pop(name, None)
                return
            if not is_blank(statement.text, self.form.blanks):
                self.unclear.setdefault(name, " ".join(statement.text[:200].split())[:80])
                if contests(statement.text, kind):
                    return

    # --- JSON

    def objects(self) -> tuple[list[tuple[int, int]], list[Statement]]:
        """The JSON objects that name fields, or are all that was written, and what they state of each field."""
        taken: list[tuple[int, int]] = []
        given: list[Statement] = []
        if "{" not in self.text:
            return taken, given
        for start, end, data in _objects(self.text):
            if self.text[end:].partition("\n")[0].strip(" \t\r`.;]*_"):
                taken.append((start, end))  # an object in prose, which goes on after it, states nothing
                continue
            if self.truncated and "\n" not in self.text[end:]:
                continue  # it ends on the unfinished line
            named = self.named(data)
            if not named:
                first, last = self.text[:start].strip(" \n\t`json"), self.text[end:].strip(" \n\t`")
                if not first and not last:
                    taken.append((start, end))
                    self.spoken(data, given)
                continue
            taken.append((start, end))
            for name, value in named.items():
                if value is None:
                    self.unclear[name] = "null"
                    continue
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                given.append(Statement(name, start, text, "json", 0, "json"))
        return taken, given

    def named(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that an object has, itself or in the only object that it holds."""
        own = {field: value for name, value in data.items() if (field := self.sought.named(str(name))) is not None}
        if own:
            return own
        inner = [value for value in data.values() if isinstance(value, dict)]
        return self.named(inner[0]) if len(inner) == len(data) == 1 else {}

    def spoken(self, data: Mapping[str, Any], given: list[Statement]) -> None:
        """What an object without the field says in words, or is itself."""
        if len(self.kinds) != 1:
            return
        ((name, kind),) = self.kinds.items()
        if not is_simple(kind) and member_kinds(kind) is None:
            value = structured(json.dumps(data, ensure_ascii=False), kind)
            if value is not None:
                given.append(Statement(name, 0, json.dumps(data, ensure_ascii=False), "json", 0, "json"))
                return
        prose = "\n".join(value for value in data.values() if isinstance(value, str))
        given += [one._replace(start=0) for one in statements(prose, self.sought)[name]]

    # --- what names nothing

    def alone(self, name: str, kind: Any) -> None:
        """A completion that is only the answer, or ends with it on a line of its own."""
        text = self.text.replace(TURN_END, "").strip()
        if not text or len(text) > MAX_ANSWER or has_marks(text):
            return
        value = _alone(text, kind, code=name not in self.sought.short)
        if value is not None:
            self.outputs[name], self.how[name] = value, "alone"

    # --- the user's own adapter

    def by_adapter(self, adapter: Any) -> None:
        """What the adapter reads, of fields that are not read yet. What it cannot read stays missing."""
        if self.truncated or not mendable(self.text, brackets=3000):
            return
        with suppress(AdapterParseError, ValidationError, ValueError, KeyError, RecursionError):
            parsed = adapter.parse(self.signature, self.text)
            for name in self.kinds:
                if name not in self.outputs and parsed.get(name) is not None:
                    self.outputs[name] = parsed[name]
                    self.how[name] = "json" if isinstance(adapter, dspy.JSONAdapter) else "label"
                    self.unclear.pop(name, None)


def _known(adapter: Any) -> bool:
    """Whether the adapter reads as one of DSPy's own does: these have the last word, for their forms are read here."""
    return getattr(type(adapter).parse, "__module__", "").startswith("dspy.")


def _sought_in(kinds: tuple[tuple[str, Any], ...], bounds: tuple[str, ...]) -> Sought:
    try:
        return _cached_sought(kinds, bounds)
    except TypeError:  # a type that cannot be hashed
        return _sought(kinds, bounds)


def _sought(kinds: tuple[tuple[str, Any], ...], bounds: tuple[str, ...]) -> Sought:
    names = tuple(name for name, _ in kinds)
    called = [name for name in names if key(name) in ANSWER_KEYS]
    answer = names[0] if len(names) == 1 else called[0] if len(called) == 1 else None
    return Sought(
        names,
        frozenset(name for name, kind in kinds if is_text(kind)),
        frozenset(name for name, kind in kinds if not is_simple(kind)),
        answer,
        bounds,
    )


_cached_sought = lru_cache(maxsize=256)(_sought)

# --- JSON objects of a completion ------------------------------------------------------------------------------------

_DECODER = json.JSONDecoder(strict=False)
_TRIED = 100
"""Open braces at which an object may begin, from the end of a completion; its first one is always tried."""
_ESCAPES = re.compile(
    r"\\\\|\\(?=(?:[^\"\\/bfnrtu\n]|u(?![0-9a-fA-F]{4})"
    r"|(?:beta|begin|bigl?|bigr|binom|bar|boxed|bmod|bullet|frac|forall|neq|nu|nabla|neg|nmid|notin|not|right|rho|rangle|rceil"
    r"|rfloor|rightarrow|text(?:bf|rm|it)?|times|theta|tan|tau|to|tfrac|triangle|top|tilde)(?![A-Za-z])))"
)
"""Backslashes in JSON: those of LaTeX are not always written twice."""


def _objects(text: str) -> list[tuple[int, int, dict[str, Any]]]:
    """Start, end and content of the JSON objects of a text."""
    starts = [match.start() for match in re.finditer(r"\{(?=\s*[\"'}\w])", text)]
    starts = starts[:1] + starts[1:][-_TRIED:]
    found: list[tuple[int, int, dict[str, Any]]] = []
    done = 0
    for start in starts:
        if start < done or len(found) > _TRIED:
            continue
        decoded = _decoded(text, start)
        if decoded is None:
            continue
        end, data = decoded
        done = end
        found.append((start, end, data))
    if not found and starts and (mended := _mended(text, starts[0])) is not None:
        found.append(mended)
    return found


def _decoded(text: str, start: int) -> tuple[int, dict[str, Any]] | None:
    try:
        data, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        if "\\" not in text[start : start + 20_000]:
            return None
        return _in_latex(text, start)
    if not isinstance(data, dict):
        return None
    return _in_latex(text, start) or (end, data) if "\\" in text[start:end] else (end, data)


def _in_latex(text: str, start: int) -> tuple[int, dict[str, Any]] | None:
    """The object with LaTeX's backslashes written twice, where they were not."""
    part = text[start : start + 20_000]
    added: list[int] = []

    def twice(match: re.Match[str]) -> str:
        if match[0] == "\\\\":
            return match[0]
        added.append(match.start())
        return "\\\\"

    escaped = _ESCAPES.sub(twice, part)
    try:
        data, end = _DECODER.raw_decode(escaped)
    except (ValueError, RecursionError):
        return None
    before = sum(1 for place, at in enumerate(added) if at + place < end)
    return (start + end - before, data) if isinstance(data, dict) else None


_LIKE_JSON = re.compile(r"\{\s*[\"']?\w[\w \-]{0,60}[\"']?\s*:")


def _mended(text: str, start: int) -> tuple[int, int, dict[str, Any]] | None:
    """The only object of a completion, on lines of its own, its small mistakes mended: `{'answer': 42,}`."""
    end = text.rfind("}") + 1
    before = text[text.rfind("\n", 0, start) + 1 : start]
    if end <= start or before.strip(" \t`json") or text[end:].partition("\n")[0].strip(" \t`.;"):
        return None
    body = text[start:end]
    if not mendable(body, brackets=300) or not _LIKE_JSON.match(body):
        return None
    with suppress(ValueError, RecursionError):
        data = json_repair.loads(body)
        if isinstance(data, dict) and data:
            return start, end, data
    return None


# --- completions that are only the answer ----------------------------------------------------------------------------

_UNSAID = re.compile(
    r"\b(?:not|cannot|unable|unknown|unsure|neither|never|none|nothing|sorry|no|idea|error|n/?a|null|i|we|you|please|let"
    r"|reply|write|answer|question|candidate|step|case|because)\b|n['’]t\b",
    re.IGNORECASE,
)
_LEADING = re.compile(r"^(?:[=≈→⇒⟹∴✅✔✓☑👉🎯➡]\ufe0f?|=>|-{1,2}>|:)\s*")
_EQUATION = re.compile(r"[A-Za-z]\w{0,10}\s?=\s?[-+−]?[0-9][0-9.,/]*")
_NUMBER_ALONE = re.compile(
    r"[-+−–]?(?:[$€£¥₹]\s?)?[-+−]?[0-9٠-٩۰-۹０-９.](?:[^\s]|\s(?=[0-9]{3}\b)|\s?[×x*/]\s?(?=[0-9]))*"
    r"(?:\s[^\W\d]{1,20}(?:[²³]|/[a-z]{1,3})?){0,2}"
)
_LATEX_ALONE = re.compile(r"[^\n]{0,200}\\[A-Za-z]+[^\n]{0,200}")


def _alone(text: str, kind: Any, *, code: bool) -> Any:
    if not is_simple(kind):
        return _structure_alone(text, kind)
    held = block(text, 0, len(text))
    if code and kind is str and held is not None and held.closed and text.startswith(("```", "~~~")):
        return held.text if not text[held.end :].strip() and held.text.strip() else None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    single = len(lines) == 1 or (held is not None and held.closed and not text[held.end :].strip())
    if single:
        return _line_alone(held.text if held is not None and held.closed else lines[0], kind, only=True)
    last, before = lines[-1], lines[-2]
    if last in ("$$", "\\]", "```"):  # a display ends it
        opening = {"$$": "$$", "\\]": "\\[", "```": "```"}[last]
        inside = text[: text.rfind(last)]
        place = inside.rfind(opening)
        content = inside[place + len(opening) :].strip()
        return _line_alone(content, kind, only=False) if place >= 0 and "\n" not in content else None
    runs_on = before[-1:].isalpha() and not text[: text.rfind(last)].rstrip(" \t").endswith("\n\n")
    if runs_on or _line_alone(before, kind, only=False) is not None:
        return None  # the end of a sentence, or one of several
    return _line_alone(last, kind, only=False)


def _line_alone(line: str, kind: Any, *, only: bool) -> Any:
    """The value of a line that holds nothing else; in a text of several lines more must speak for it."""
    line = re.sub(r"</?[a-z]{1,12}>$", "", line.strip())
    bold = line.startswith(("**", "$", "\\(", "\\[", "`")) and tidy(line) != line
    plain = re.sub(r"^\(([^()]+)\)$", r"\1", tidy(_LEADING.sub("", tidy(line))))
    if not plain or len(plain) > 200:
        return None
    options = options_of(kind)
    if options is not None:
        return _option_alone(plain, options, only=only)
    named = _NUMBER_ALONE.fullmatch(plain) or plain.startswith("\\") or (only and _EQUATION.fullmatch(plain))
    number = to_number(plain) if named else None
    if kind is str:
        if number is not None or (bold and _LATEX_ALONE.fullmatch(plain)):
            return plain
        return _phrase_alone(line, plain, only=only, bold=line.startswith("**") and bold)
    if number is None or (kind is int and number.denominator != 1):
        return None
    try:
        return int(number) if kind is int else float(number)
    except OverflowError:
        return None


def _option_alone(plain: str, options: Mapping[str, Any], *, only: bool) -> Any:
    names = list(options)
    short = re.fullmatch(r"(?:(?:option|choice)\s)?[(\[]?[^\W_]{1,2}[)\].:]{0,2}", plain, re.IGNORECASE)
    same = [name for name in names if tidy(name).casefold() == plain.casefold()]
    letter = only and re.fullmatch(r"[(\[]?[A-Za-z][)\].:]\)?\s.{1,100}", plain)
    said = only and re.match(r"(?:yes|no|true|false)[,.!;:]\s", plain, re.IGNORECASE)
    if not (short or same or letter or said):
        return None
    choice = same[0] if len(same) == 1 else to_choice(plain, names)
    return None if choice is None else options[choice]


def _phrase_alone(line: str, plain: str, *, only: bool, bold: bool) -> str | None:
    """A few words that are no sentence: `Paris`, `**New York City**`."""
    if not (only or bold) or len(plain) > 60 or len(plain.split()) > 6 or not re.search(r"\w", plain):
        return None
    if re.search(r"[:;?!<>{}\[\]|\\`=#@…\ufffd\x00]|\.\s", plain) or _UNSAID.search(plain):
        return None
    if line.endswith((".", "。")) and len(plain.split()) > 2:
        return None
    return plain if bold or plain != tidy(line) else line


def _structure_alone(text: str, kind: Any) -> Any:
    """JSON, a list with bullets or numbers, or numbers with nothing around them."""
    held = block(text, 0, len(text))
    if held is not None and held.closed and not text[held.end :].strip():
        text = tidy(held.text)
    if text[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            if _DECODER.raw_decode(text)[1] == len(text):
                return structured(text, kind)
        return structured(text, kind) if in_brackets(text) and "\n" not in text and not _UNSAID.search(text) else None
    members = member_kinds(kind)
    if members is None:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1:
        if not all(re.match(r"[ \t]*(?:[-*+•–·▪●■◆►]|[(（]?[0-9]{1,3}[.)、])[ \t]+\S", line) for line in lines):
            return None
        return structured(text, kind)
    words = any(one is str for one in members)
    if words:
        pieces = items_of(text, numbers=False, words=True)
        few = pieces and len(pieces[0]) > 1 and all(len(piece.split()) <= 3 for piece in pieces[0])
        return None if not few or _UNSAID.search(text) or re.search(r"[:;?!.=#]\s|:$", text) else structured(text, kind)
    if re.fullmatch(r"[\s\[\](){}$\\,;.&0-9+\-−/]+(?:(?:and|or)[\s0-9.]+)?", text):
        return structured(text, kind)
    return None
