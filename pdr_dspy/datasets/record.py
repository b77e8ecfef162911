"""The records of a data set: its description, and the function that reads its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import dspy

Row = Mapping[str, Any] | dspy.Example


@dataclass(frozen=True)
class DatasetInfo:
    """The description of a data set."""

    name: str
    about: str
    hub: str
    """The repository on the hub; empty for a set from another source."""
    config: str | None
    split: str
    """The default split."""
    splits: tuple[str, ...]
    size: int | None
    """Number of rows of the default split."""
    fields: Mapping[str, str] = field(hash=False)
    """`question`, `answer` and `id` to columns of the set."""
    verifier: str
    """The name of the verifier that grades it, as in `load_verifier({"kind": ...})`; empty if unknown."""
    licence: str
    citation: str

    def describe(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {**asdict(self), "splits": list(self.splits), "fields": dict(self.fields)}


@dataclass(frozen=True)
class Dataset:
    """A named data set."""

    info: DatasetInfo
    read: Callable[[str], Iterable[Row]]
    """The rows of a split, in an order that does not change."""
