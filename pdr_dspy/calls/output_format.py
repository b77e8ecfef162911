"""The format that a completion must have, for servers that constrain decoding to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from pdr_dspy.errors import ConfigError

FormatKind = Literal["schema", "choices", "regex"]
OUTPUT = "pdr_output"
"""Extension key of a request to a `ServedModel` with an output format: its value is `OutputFormat.wire`."""


class OutputFormat:
    """A frozen format of a completion: JSON that follows a schema, one of some texts, or a match of a regular
    expression.

    >>> OutputFormat(choices=["yes", "no"]).kind
    'choices'

    A stage of calls takes it as `Sampling(..., output_format=...)`. It is part of the key of each request. It applies
    to all of the text after a thought: do not use it for a call that should reason in its text.

    Check `(await capabilities(lm)).constrains(output_format)` first: if the LM cannot enforce the format, ConfigError
    is raised before anything is sent.
    """

    __slots__ = ("_choices", "_name", "_regex", "_written")

    def __init__(
        self,
        *,
        schema: Mapping[str, Any] | type[BaseModel] | None = None,
        choices: Sequence[str] | None = None,
        regex: str | None = None,
        name: str = "output",
    ) -> None:
        """Takes exactly one of `schema`, `choices` and `regex`.

        Args:
            schema: a JSON schema, or a pydantic model that has one. Most servers require an object at the top.
            choices: the completion is one of these texts.
            regex: the completion matches this expression in full, from its start to its end.
            name: the name of the schema, for servers that require one.

        Raises:
            ConfigError: none or several of them are given, or a value that cannot work.
        """
        given = [kind for kind, value in (("schema", schema), ("choices", choices), ("regex", regex)) if value]
        if len(given) != 1:
            raise ConfigError(
                f"`OutputFormat({', '.join(f'{kind}=...' for kind in given)})` takes exactly one of `schema`, "
                "`choices` and `regex`, and it must not be empty"
            )
        if not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
            raise ConfigError(f"`OutputFormat(name={name!r})` takes letters, digits, `_` and `-`, at most 64 of them")
        self._name = name
        self._choices = _checked_choices(choices) if choices else ()
        self._regex = _checked_regex(regex) if regex else ""
        # Kept as text, in the given order: a model writes the fields in that order.
        self._written = _written_schema(schema) if schema else ""

    @property
    def kind(self) -> FormatKind:
        """Which of schema, choices and regex it is."""
        return "schema" if self._written else "choices" if self._choices else "regex"

    @property
    def name(self) -> str:
        """The name of the schema."""
        return self._name

    @property
    def schema(self) -> dict[str, Any]:
        """A copy of the JSON schema; empty for the other kinds."""
        return json.loads(self._written) if self._written else {}

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed texts; empty for the other kinds."""
        return self._choices

    @property
    def regex(self) -> str:
        """The regular expression, without anchors at its ends; empty for the other kinds."""
        return self._regex

    @property
    def key(self) -> str:
        """Its part of the key of a request."""
        return json.dumps({self.kind: self._written or list(self._choices) or self._regex})

    @property
    def wire(self) -> dict[str, Any]:
        """As JSON, for the extension of a request: `{"schema": {...}, "name": ...}`, `{"choices": [...]}`, or
        `{"regex": ...}`."""
        if self.kind == "schema":
            return {"schema": self.schema, "name": self.name}
        return {"choices": list(self.choices)} if self.kind == "choices" else {"regex": self.regex}

    @property
    def response_format(self) -> dict[str, Any]:
        """OpenAI's `response_format` of a schema, strict if the schema requires every field of every object. Empty for
        the other kinds, which it does not support."""
        if self.kind != "schema":
            return {}
        strict = {"strict": True} if _closed(self.schema) else {}
        return {"type": "json_schema", "json_schema": {"name": self.name, "schema": self.schema, **strict}}

    def fits(self, text: str) -> bool:
        """Whether a completion has the format, as far as a cheap check can tell: for a schema, that it is JSON of the
        right kind with all required fields and no others."""
        text = text.strip()
        if self.kind == "choices":
            return text in {choice.strip() for choice in self._choices}
        if self.kind == "regex":
            return re.fullmatch(self._regex, text) is not None
        try:
            data, schema = json.loads(text), self.schema
        except (ValueError, RecursionError):
            return False
        if not isinstance(data, dict):
            return schema.get("type") != "object"
        closed = schema.get("additionalProperties") is False
        unknown = set(data) - set(schema.get("properties", {})) if closed else set()
        return schema.get("type", "object") == "object" and set(schema.get("required", ())) <= set(data) and not unknown

    @classmethod
    def of_wire(cls, wire: Mapping[str, Any]) -> OutputFormat:
        """The inverse of `wire`."""
        return cls(**wire)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, "_written"):  # the last attribute that __init__ sets
            raise AttributeError(f"OutputFormat is frozen: `{name}` cannot be set")
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OutputFormat) and (self.key, self.name) == (other.key, other.name)

    def __hash__(self) -> int:
        return hash((self.key, self.name))

    def __repr__(self) -> str:
        value = self.schema or list(self.choices) or self.regex
        text = repr(value)
        return f"OutputFormat({self.kind}={text if len(text) <= 120 else text[:117] + '...'})"


def _closed(schema: Any) -> bool:
    """Whether every object in a schema requires all its fields and allows no others, as OpenAI's strict mode
    requires."""
    if isinstance(schema, list):
        return all(_closed(each) for each in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        fields = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(fields):
            return False
        return all(_closed(value) for name, value in schema.items() if name != "properties") and all(
            _closed(field) for field in fields.values()
        )
    return all(_closed(value) for value in schema.values())


def _checked_choices(choices: Sequence[str]) -> tuple[str, ...]:
    if isinstance(choices, str) or not all(isinstance(each, str) and each for each in choices):
        raise ConfigError(f"`OutputFormat(choices={choices!r})` takes a list of texts, none of them empty")
    if len(set(choices)) < len(choices):
        raise ConfigError(f"`OutputFormat(choices={list(choices)!r})` has a duplicate text")
    return tuple(choices)


def _checked_regex(regex: str) -> str:
    try:
        re.compile(regex)
    except (re.error, TypeError) as error:
        raise ConfigError(f"`OutputFormat(regex={regex!r})` is not a regular expression: {error}") from error
    inner = regex.removeprefix("^")
    if inner.endswith("$") and not re.search(r"(?<!\\)(\\\\)*\\\$$", inner):
        inner = inner[:-1]
    if "|" in inner and inner != regex:  # `^a|b$` means two anchored halves, not `^(a|b)$`
        raise ConfigError(f"`OutputFormat(regex={regex!r})` always matches from start to end: leave `^` and `$` out")
    if not inner:
        raise ConfigError(f"`OutputFormat(regex={regex!r})` matches only the empty text")
    return inner


def _written_schema(schema: Mapping[str, Any] | type[BaseModel]) -> str:
    if isinstance(schema, type):
        if not issubclass(schema, BaseModel):
            raise ConfigError(f"`OutputFormat(schema={schema!r})` takes a JSON schema or a pydantic model")
        schema = schema.model_json_schema()
    if not isinstance(schema, Mapping):
        raise ConfigError(f"`OutputFormat(schema={schema!r})` takes a JSON schema, which is a mapping")
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`OutputFormat(schema=...)` is not JSON: {error}") from error
