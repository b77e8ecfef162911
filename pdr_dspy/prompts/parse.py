r"""Parses the output fields of a completion.

A text field's value is the model's whole text for it. Numbers, options and lists are read as a careful person would
read them; an ambiguous statement gives no value, and `Reading.unclear` has it. The formats of DSPy's three adapters are
followed exactly if a model writes them. Without any label, a completion that is only the answer counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import dspy

from pdr_dspy.prompts.alone import alone
from pdr_dspy.prompts.fields import NONE, says_none, settled
from pdr_dspy.prompts.form import Form, form_of
from pdr_dspy.prompts.objects import objects_in, repairable
from pdr_dspy.prompts.simple import contests, is_simple, is_text, options_of
from pdr_dspy.prompts.typed import unlabelled, without_shapes
from pdr_dspy.prompts.values import is_blank, value_of
from pdr_dspy.text.answers import MAX_ANSWER, MAX_TEXT
from pdr_dspy.text.reasoning import split_thought
from pdr_dspy.text.statements import How, Statement, statements
from pdr_dspy.text.template import NEXT_TURN, TURN_END, without_template

# --- the result
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """The fields parsed from a completion. Unpacks as (outputs, missing)."""

    outputs: dict[str, Any]
    """Parsed fields, each of its declared type."""
    missing: tuple[str, ...]
    """Fields that are absent or unreadable."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Missing fields that were parsed, with the limit that the value breaks, such as `le=10`."""
    how: dict[str, How] = field(default_factory=dict)
    """How each field was found. Not for fields that are the completion itself, nor for defaults."""
    unclear: dict[str, str] = field(default_factory=dict)
    """Missing fields that were stated: the beginning of the unreadable statement."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.outputs, self.missing))


def read(signature: type[dspy.Signature], text: str, *, truncated: bool = False) -> Reading:
    """Parse the output fields of a completion as a careful person would read it; its thoughts never count.

    The last statement of a field wins, since models correct themselves. A field may be labelled in any form of
    `pdr_dspy.text.statements`, boxed, or in a JSON object; numbers may have separators and units. Nothing is read from
    an unfinished last line, and no number from running text.

    Args:
        signature: defines the output fields. A user's own `dspy.configure(adapter=...)` parses first if its format is
            its own, otherwise last.
        text: the completion.
        truncated: whether it was truncated by its cap.
    """
    form = form_of(signature)
    free: dict[str, Any] = dict.fromkeys(form.free, text.strip()) if text.strip() else {}
    if not form.labelled:
        return Reading(free, tuple(name for name in form.outputs if name not in free))
    reader = _Reader(signature, form, text, truncated)
    reader.run()
    outputs, broken = settled(form.fields, free | reader.outputs, reader.stated, truncated=truncated)
    missing = tuple(name for name in form.outputs if name not in outputs)
    how = {name: each for name, each in reader.how.items() if name in outputs}
    unclear = {name: each for name, each in reader.unclear.items() if name in missing}
    return Reading(outputs, missing, broken, how, unclear)  # type: ignore[arg-type]


_READ = 100
"""Maximum number of a field's statements that are tried, from the one that counts most."""


_READ_CHARACTERS = 30_000
"""Maximum characters of statements that are tried after the first one."""
_TURNS = 3
_CLOSING_TAG = re.compile(r"</[\w-]{1,20}>")


@lru_cache(maxsize=256)
def _asking(inputs: tuple[str, ...]) -> re.Pattern[str]:
    """The head of a further question that the model invented."""
    names = "|".join(re.escape(name).replace("_", "[_ ]") for name in ("question", "q", "user", "human", *inputs))
    return re.compile(
        rf"^[ \t>*_#]{{0,8}}(?:{names})[ \t]?[0-9]{{0,3}}[*_]{{0,2}}[:：][*_]{{0,2}}", re.IGNORECASE | re.MULTILINE
    )


class _Reader:
    def __init__(self, signature: type[dspy.Signature], form: Form, text: str, truncated: bool) -> None:
        self.signature = signature
        self.form = form
        self.kinds = form.labelled
        self.truncated = truncated
        self.text = without_template(without_shapes(form.shapes, split_thought(text)[1][-MAX_TEXT:]))
        self.sought = form.sought
        self.outputs: dict[str, Any] = {}
        self.how: dict[str, How] = {}
        self.unclear: dict[str, str] = {}
        self.stated: dict[str, Sequence[str]] = {}
        """The statements of each field."""

    def run(self) -> None:
        adapter = dspy.settings.adapter
        if adapter is not None and not _known(adapter):
            self.by_adapter(adapter)
        taken, given = self.objects()
        found = statements(self.text, self.sought, truncated=self.truncated, taken=taken, given=given)
        self.stated = {name: [statement.text for statement in own] for name, own in found.items()}
        if not self.own_turn(found):
            for name, kind in self.kinds.items():
                if name not in self.outputs:
                    self.first_readable(name, kind, found[name])
        only = next(iter(self.kinds)) if len(self.kinds) == 1 else None
        if only is not None and only not in self.outputs and only not in self.unclear and not self.truncated:
            self.unnamed(only, self.kinds[only], found[only])
        if adapter is not None and _known(adapter) and any(name not in self.outputs for name in self.kinds):
            self.by_adapter(adapter)

    def own_turn(self, found: Mapping[str, Sequence[Statement]]) -> bool:
        """Parse the fields from the text before the end of the turn, or before a question that the model invented, if
        all of them are stated there. Returns False, with nothing parsed, if they are not."""
        if not self.outputs and all(len(own) < 2 for own in found.values()):
            return False  # nothing is stated twice
        for end in self.ends():
            before = {name: [one for one in own if one.start < end] for name, own in found.items()}
            if any(len(before[name]) < len(found[name]) for name in found):
                read = self.outputs, self.how, self.unclear
                self.outputs, self.how, self.unclear = dict(self.outputs), dict(self.how), dict(self.unclear)
                for name, kind in self.kinds.items():
                    if name not in self.outputs:
                        self.first_readable(name, kind, before[name])
                if all(name in self.outputs for name in self.kinds):
                    return True
                self.outputs, self.how, self.unclear = read
        return False

    def ends(self) -> list[int]:
        """Possible ends of the model's own turn."""
        turns = [match.start() for match in re.finditer(NEXT_TURN, self.text)]
        asked = [match.start() for match in _asking(tuple(self.form.inputs)).finditer(self.text)]
        return sorted([*turns[:_TURNS], *asked[:_TURNS]])

    def first_readable(self, name: str, kind: Any, found: Sequence[Statement]) -> None:
        most = MAX_ANSWER if is_simple(kind) and not is_text(kind) else MAX_TEXT
        length = 0
        for statement in found[:_READ]:
            if len(statement.text) > most:
                continue
            length += len(statement.text)
            if length > _READ_CHARACTERS and length > len(statement.text):
                return
            value = value_of(statement, kind, blanks=self.form.blanks)
            if name in self.form.optional and says_none(statement.text):
                option = options_of(kind) is not None and kind is not bool  # "none" itself may be an option
                value = value if option and value is not None else NONE
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
        """The JSON objects that name fields, or are the whole completion, and their statement of each field."""
        taken: list[tuple[int, int]] = []
        given: list[Statement] = []
        if "{" not in self.text:
            return taken, given
        for start, end, data in objects_in(self.text):
            if _CLOSING_TAG.sub("", self.text[end:].partition("\n")[0]).strip(" \t\r`.;]*_"):
                taken.append((start, end))  # an object within a sentence states nothing
                continue
            if self.truncated and "\n" not in self.text[end:]:
                continue  # it ends on the unfinished line
            named = self.named(data)
            if not named:
                first, last = self.text[:start].strip(" \n\t`json"), self.text[end:].strip(" \n\t`")
                if not first and not last:
                    taken.append((start, end))
                    self.add_stated_in_texts(data, given)
                continue
            taken.append((start, end))
            for name, value in named.items():
                if value is None and name not in self.form.optional:
                    self.unclear[name] = "null"
                    continue
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                given.append(Statement(name, start, text, "json", 0, "json"))
        return taken, given

    def named(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that an object has, directly or in the only object inside it."""
        own = {field: value for name, value in data.items() if (field := self.sought.named(str(name))) is not None}
        if own:
            return own
        inner = [value for value in data.values() if isinstance(value, dict)]
        return self.named(inner[0]) if len(inner) == len(data) == 1 else {}

    def add_stated_in_texts(self, data: Mapping[str, Any], given: list[Statement]) -> None:
        """The statements within the texts of an object that lacks the field."""
        if len(self.kinds) != 1:
            return
        (name,) = self.kinds
        prose = "\n".join(value for value in data.values() if isinstance(value, str))
        given += [one._replace(start=0) for one in statements(prose, self.sought)[name]]

    # --- completions without labels

    def unnamed(self, name: str, kind: Any, found: Sequence[Statement]) -> None:
        """Parse the only field from a completion that does not name it."""
        text = self.text.replace(TURN_END, "").strip()
        value, how = None, "json"
        if not found:
            value = unlabelled(text, kind, truncated=self.truncated)
        if value is None:
            own = self.text.partition(NEXT_TURN)[0].replace(TURN_END, "").strip()
            for part in dict.fromkeys((own, text)):
                value, how = alone(part, kind, code=name not in self.sought.short), "alone"
                if value is not None:
                    break
        if value is None and name in self.form.optional and says_none(text):
            value = NONE
        if value is not None:
            self.outputs[name], self.how[name] = value, how  # type: ignore[assignment]

    # --- the user's own adapter

    def by_adapter(self, adapter: Any) -> None:
        """Let the adapter parse the fields that are still missing. Fields that it cannot parse stay missing."""
        if self.truncated or not repairable(self.text, brackets=3000):
            return
        with suppress(dspy.AdapterParseError, ValueError, KeyError, RecursionError):
            parsed = adapter.parse(self.signature, self.text)
            for name in self.kinds:
                if name not in self.outputs and parsed.get(name) is not None:
                    self.outputs[name] = parsed[name]
                    self.how[name] = "json" if isinstance(adapter, dspy.JSONAdapter) else "label"
                    self.unclear.pop(name, None)


def _known(adapter: Any) -> bool:
    """Whether the adapter's format is one of DSPy's own: such an adapter parses last, since its format is read here."""
    return getattr(type(adapter).parse, "__module__", "").startswith("dspy.")
