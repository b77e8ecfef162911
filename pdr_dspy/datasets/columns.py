"""Rows as examples of a user's own task: the columns are those that its signature names, with values of its types."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import dspy
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from pdr_dspy.datasets.examples import ANSWER_COLUMNS, QUESTION_COLUMNS, free_id, is_empty, own_id, text_of
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.prompts.roles import needed_inputs
from pdr_dspy.prompts.shapes import allows_none, described, is_custom, plain_kind

_COMMON = {"question": QUESTION_COLUMNS, "answer": ANSWER_COLUMNS}
_SHOWN = 60
"""Maximum characters of a cell in a message."""


def examples_for(
    signature: type[dspy.Signature],
    rows: Iterable[tuple[str, Any]],
    source: str,
    name: str,
    fields: Mapping[str, str],
) -> list[dspy.Example]:
    """Examples of a task from rows, each given with its location, such as "line 3".

    An input or output of the signature is the column of its name, whatever the case and with spaces for underscores;
    for `question` and `answer` also one of their common names. Text in a column of another type is read as a value of
    that type: `24`, `true`, or JSON. Other columns are kept as they are. A column for an output may be missing, as in
    data without gold answers; an input that the task needs may not.

    Args:
        signature: the task.
        rows: (location, row), in the order of the set.
        source: the set's name in messages and in the examples' `source`.
        name: prefix of the ids.
        fields: names of the signature, and `id`, to columns.

    Raises DataError for a missing or empty column and a value of another type; ConfigError for a key of `fields` that
    the signature does not have.
    """
    inputs, outputs = signature.input_fields, signature.output_fields
    known = {**inputs, **outputs}
    if unknown := [one for one in fields if one not in known and one != "id"]:
        raise ConfigError(
            f"`fields` maps {unknown[0]!r}, which is not a field of the program; it has {', '.join(known)} (and id)"
        )
    needed = needed_inputs(signature)
    found: list[dspy.Example] = []
    places: dict[str, str] = {}
    given = [(place, _row(row, source, place)) for place, row in rows]
    ids = {} if "id" in fields or "id" not in known else {"id": ""}  # a task with a field `id` has its own
    named = [(place, row, None if ids else own_id(row, fields)) for place, row in given]
    taken = {str(row[column]) for _, row, column in named if column is not None}
    for number, (place, row, column) in enumerate(named, start=1):
        where = f"{source}, {place}"
        values: dict[str, Any] = {}
        used: set[str] = {column} if column is not None else set()
        for field_name, field in known.items():
            own = _column_of(row, field_name, fields.get(field_name), where)
            if own is None:
                if field_name in needed:
                    raise DataError(_missing(where, field_name, row))
                continue
            used.add(own)
            if is_empty(row[own]):
                if allows_none(field.annotation):
                    values[field_name] = None
                elif field_name in outputs or field_name in needed:
                    raise DataError(f"{where}: the column {own!r} (`{field_name}`) is empty")
                continue
            values[field_name] = _typed(row[own], field, f"{where}: the column {own!r} (`{field_name}`)")
        rest = {other: value for other, value in row.items() if other not in used and other not in values}
        rest = {f"original_{other}" if other in ("id", "source") else other: value for other, value in rest.items()}
        id_ = f"{name}/{free_id(str(number), taken) if column is None else row[column]}"
        if id_ in places:
            raise DataError(f"{where}: the id {id_!r} was already used in {places[id_]}; ids must be unique")
        places[id_] = place
        found.append(dspy.Example(**{"id": id_, "source": source, **rest, **values}).with_inputs(*inputs))
    if not found:
        raise DataError(f"{source} has no rows")
    return found


def _row(row: Any, source: str, place: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{source}, {place}: expected an object with fields, got {type(row).__name__}")
    return {str(column): value for column, value in row.items()}


def _column_of(row: Mapping[str, Any], name: str, asked: str | None, where: str) -> str | None:
    """The column of a field; None if the row has none."""
    if asked is not None:
        if asked not in row:
            raise DataError(f"{where}: there is no column {asked!r} (for `{name}`); {_columns(row)}")
        return asked
    if name in row:
        return name
    plain = {_plain(column): column for column in reversed(list(row))}
    return next((plain[each] for each in (_plain(name), *_COMMON.get(name, ())) if each in plain), None)


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_")


def _columns(row: Mapping[str, Any]) -> str:
    return f"the columns are {', '.join(row) or 'none'}"


def _missing(where: str, name: str, row: Mapping[str, Any]) -> str:
    example = next(iter(row), "COLUMN")
    return (
        f"{where}: the program takes `{name}`, and there is no such column; {_columns(row)}. Say which one it is: "
        f'`--field {name}={example}` on the command line, `fields={{"{name}": "{example}"}}` in Python'
    )


def _typed(value: Any, field: Any, what: str) -> Any:
    """A cell as a value of its field. Raises DataError if it is none."""
    kind = plain_kind(field.annotation)
    if kind is Any:
        return text_of(value)
    if kind is str and not field.metadata:
        return text_of(value)
    try:
        whole: Any = field.annotation
        if field.metadata:
            whole = Annotated[(whole, *field.metadata)]  # type: ignore[valid-type]
        adapter = TypeAdapter(whole)
    except PydanticUserError:
        return value
    text = value.strip() if isinstance(value, str) else value
    for candidate in (text_of(value), text) if kind is str else (text,):
        with suppress(ValidationError, ValueError, TypeError):
            return adapter.validate_python(candidate)
    if isinstance(text, str):
        with suppress(ValidationError, ValueError, TypeError):
            return adapter.validate_json(text)
    if is_custom(kind):  # such types read more than their validation accepts
        return value
    shown = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"
    raise DataError(f"{what} holds {shown!r}, which is not {described(field.annotation, field) or 'a text'}")
