"""What is searched in a completion, and what a statement found there is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from pdr_dspy.text import labels

How = Literal["label", "box", "json", "alone", "constrained", "sentence"]
"""How an answer was found: after a label (also a marker, a tag or a table's row), in a box, under its name in a JSON
object, as the whole completion, by a constrained request, or in a sentence."""

MAX_ANSWER = 10_000
"""Maximum characters of an answer; a longer one is not read."""


@dataclass(frozen=True)
class Sought:
    """The fields to find in a text."""

    fields: tuple[str, ...]
    texts: frozenset[str] = frozenset()
    """Text fields: their statements may take several lines."""
    structured: frozenset[str] = frozenset()
    """Lists, objects and the like: their statements may take several lines and end with their own syntax."""
    answer: str | None = None
    """The field of an unnamed answer: one in a box, or under a generic name of an answer in any language."""
    bounds: tuple[str, ...] = ()
    """Other labels that a completion may have; a text ends there."""

    @cached_property
    def keys(self) -> dict[str, str]:
        """The fields by the names of tags, keys and cells."""
        known = {} if self.answer is None else dict.fromkeys(labels.ANSWER_KEYS, self.answer)
        return known | {labels.key(name): name for name in self.fields}

    def named(self, name: str) -> str | None:
        """The field that a tag, a key or a cell of a table names."""
        return self.keys.get(labels.key(name))

    @cached_property
    def long(self) -> frozenset[str]:
        """Fields whose statements may take several lines."""
        return self.texts | self.structured

    @cached_property
    def short(self) -> frozenset[str]:
        """Text fields with a generic name of an answer, which may be a single line."""
        return frozenset(name for name in self.texts if labels.key(name) in labels.ANSWER_KEYS)

    @cached_property
    def prose(self) -> frozenset[str]:
        """Text fields with names of their own."""
        return self.texts - self.short


class Statement(NamedTuple):
    """One statement of one field."""

    field: str
    start: int
    text: str
    """The text after the label; it begins with a line feed if it starts on the next line."""
    how: How
    rank: int
    """0 is the most reliable; among equal ranks the last one in the text counts."""
    exact: Literal["marker", "tag", "json"] | None = None
    """The form of DSPy's adapters that it has, if any; such forms are unambiguous."""
    whole: bool = True
    """False if a truncated text may have continued it."""
    generic: bool = False
    """Whether it has a generic name of an answer instead of the field's name."""
