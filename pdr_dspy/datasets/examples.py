"""Rows as examples: the question, the gold answer and a stable id of each; and seeded parts of a set."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy

from pdr_dspy.errors import ConfigError, DataError

_OURS = ("question", "answer", "id", "source")
QUESTION_COLUMNS = ("question", "problem", "prompt", "input", "query", "instruction")
ANSWER_COLUMNS = ("answer", "final_answer", "expected_answer", "gold", "target", "label", "solution", "output")
_ID_COLUMNS = ("id", "unique_id", "problem_id", "idx", "uid")


def examples_of(
    rows: Iterable[tuple[str, Any]], source: str, name: str, fields: Mapping[str, str]
) -> list[dspy.Example]:
    """Examples with a question and an answer from rows, each given with its location, such as "line 3".

    Args:
        rows: (location, row), in the order of the set.
        source: the set's name in messages and in the examples' `source`.
        name: prefix of the ids.
        fields: `question`, `answer` and `id` to columns whose names are not the common ones.

    Raises DataError for a row without a question or an answer, or with a repeated id; ConfigError for an unknown key of
    `fields`.
    """
    unknown = set(fields) - set(_OURS[:3])
    if unknown:
        raise ConfigError(f"`fields={fields!r}` may map question, answer and id, not {', '.join(sorted(unknown))}")
    found: list[dspy.Example] = []
    places: dict[str, str] = {}
    named = [(place, row, own_id(row, fields)) for place, row in rows]
    taken = {str(row[column]) for _, row, column in named if column is not None}
    for number, (place, row, given) in enumerate(named, start=1):
        if not isinstance(row, Mapping):
            raise DataError(f"{source}, {place}: expected an object with fields, got {type(row).__name__}")
        row = {str(column): value for column, value in row.items()}
        question = _column(row, fields.get("question"), QUESTION_COLUMNS, "question", source, place)
        answer = _column(row, fields.get("answer"), ANSWER_COLUMNS, "answer", source, place)
        if given is None and fields.get("id"):
            raise DataError(f"{source}, {place}: no value in the column {fields['id']!r}; it has {', '.join(row)}")
        id_ = f"{name}/{free_id(str(number), taken) if given is None else row[given]}"
        if id_ in places:
            raise DataError(f"{source}, {place}: the id {id_!r} was already used in {places[id_]}; ids must be unique")
        places[id_] = place
        ours = {"question": text_of(row[question]), "answer": text_of(row[answer]), "id": id_, "source": source}
        kept = {column: value for column, value in row.items() if column not in (question, answer, given)}
        kept = {f"original_{column}" if column in _OURS else column: value for column, value in kept.items()}
        found.append(dspy.Example(**ours, **kept).with_inputs("question"))
    if not found:
        raise DataError(f"{source} has no rows")
    return found


def own_id(row: Any, fields: Mapping[str, str]) -> str | None:
    """The column with a row's id; None for a row without an id."""
    if not isinstance(row, Mapping):
        return None
    names = {str(column): column for column in row}
    asked = (fields["id"],) if fields.get("id") else _ID_COLUMNS
    return next((column for column in asked if column in names and not is_empty(row[names[column]])), None)


def free_id(number: str, taken: set[str]) -> str:
    """An id from a row's number that no other row has as its id."""
    while number in taken:
        number = f"row {number}"
    return number


def _column(
    row: Mapping[str, Any], asked: str | None, common: Sequence[str], ours: str, source: str, place: str
) -> str:
    lower = {column.lower(): column for column in reversed(list(row))}
    column = asked or next((lower[known] for known in common if known in lower), None)
    if column is None or column not in row:
        remedy = "" if asked else f'; name it with `fields={{"{ours}": ...}}`'
        wanted = f"the column {asked!r}" if asked else f"a column for `{ours}`"
        raise DataError(f"{source}, {place}: {wanted} is missing, the columns are {', '.join(row) or 'none'}{remedy}")
    if is_empty(row[column]):
        raise DataError(f"{source}, {place}: the column {column!r} (`{ours}`) is empty")
    return column


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: NaN is what table readers put where nothing is."""
    return (
        value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and not value.strip())
    )


def text_of(value: Any) -> str:
    """A cell as text: a list as JSON, a whole float without its point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # table readers turn 204 into 204.0
    return value.strip() if isinstance(value, str) else json.dumps(value) if isinstance(value, list) else str(value)


def split(examples: Sequence[dspy.Example], *parts: float, seed: int = 0) -> list[list[dspy.Example]]:
    """Return disjoint parts of the examples, shuffled with `seed`.

    `parts` are all sizes (whole numbers) or all fractions (floats that add up to at most 1). Raises ConfigError if
    they do not fit or if a part would be empty.
    """
    shown = f"`split(..., {', '.join(str(part) for part in parts)})`"
    if not parts:
        raise ConfigError("`split(examples)` needs at least one size or fraction")
    if all(isinstance(part, int) for part in parts):
        bounds = [sum(int(part) for part in parts[:count]) for count in range(len(parts) + 1)]
    elif all(isinstance(part, float) for part in parts):
        if sum(parts) > 1 + 1e-9:
            raise ConfigError(f"{shown} must add up to at most 1, got {sum(parts):g}")
        bounds = [round(sum(parts[:count]) * len(examples)) for count in range(len(parts) + 1)]
    else:
        raise ConfigError(f"{shown} mixes sizes and fractions; give whole numbers only or floats only")
    if bounds[-1] > len(examples):
        raise ConfigError(f"{shown} needs {bounds[-1]} examples, but there are {len(examples)}")
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    chosen = [shuffled[low:high] for low, high in itertools.pairwise(bounds)]
    if any(not part for part in chosen):
        raise ConfigError(f"{shown} leaves a part of {len(examples)} examples empty")
    return chosen


def part(parts: Mapping[str, Sequence[dspy.Example]], split: str, limit: int | None = None) -> list[dspy.Example]:
    """Return the first `limit` examples of one of several parts, for `data(split, limit=...)` of a program file.

    Raises ConfigError for a `split` that is not in `parts`.
    """
    if split not in parts:
        raise ConfigError(f"`data(split={split!r})` is unknown; the splits are {', '.join(parts)}")
    return list(parts[split][:limit])


def fingerprint(examples: Iterable[dspy.Example]) -> str:
    """Return the SHA-256, in hex, of the examples' fields. The order of the examples does not matter."""
    rows = sorted(json.dumps(dict(example.items()), sort_keys=True, default=str) for example in examples)
    return hashlib.sha256("\n".join(rows).encode("utf-8", "backslashreplace")).hexdigest()
