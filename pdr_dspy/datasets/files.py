"""Rows of a local file: JSON Lines, JSON, CSV or Parquet."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pdr_dspy.errors import DataError, MissingExtra

_FIELDS_OF_ANY_LENGTH = threading.Lock()
FILE_KINDS = (".jsonl", ".json", ".csv", ".parquet")


def read_file(path: Path) -> Iterable[tuple[str, Any]]:
    """The rows of a file, each with its location. Raises DataError for a file that cannot be read."""
    if not path.is_file():
        raise DataError(f"`load({str(path)!r})`: there is no such file; check the path")
    readers: dict[str, Callable[[Path], Iterable[tuple[str, Any]]]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    try:
        yield from readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    except (csv.Error, OSError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def whole(digits: str) -> int | str:
    """A whole number of JSON, or its digits as text if they exceed Python's limit for conversion."""
    try:
        return int(digits)
    except ValueError:
        return digits


def _read_jsonl(path: Path) -> Iterable[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line, parse_int=whole)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}, line {number}: not valid JSON ({error.msg})") from error


def _read_json(path: Path) -> Iterable[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"), parse_int=whole)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of objects, got {type(rows).__name__}; one object a line is .jsonl")
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


def _read_csv(path: Path) -> Iterable[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file, _FIELDS_OF_ANY_LENGTH:
        before = csv.field_size_limit(2**31 - 1)  # a setting of the whole process, restored below
        try:
            reader = csv.DictReader(file, restkey="more columns than the header")
            rows = [(f"line {reader.line_num}", row) for row in reader]
        finally:
            csv.field_size_limit(before)
    yield from rows


def _read_parquet(path: Path) -> Iterable[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow", "data", f"`load({str(path)!r})`") from error
    try:
        rows = pq.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row
