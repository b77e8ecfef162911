"""What is known of a data set by name, and where its rows come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import dspy

Row = Mapping[str, Any] | dspy.Example


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a set by name."""

    name: str
    about: str
    hub: str
    """The repository on the hub; empty for a set that comes from elsewhere."""
    config: str | None
    split: str
    """The split that is loaded unless another is asked for."""
    splits: tuple[str, ...]
    size: int | None
    """Rows of the default split."""
    fields: Mapping[str, str] = field(hash=False)
    """Our field names to the columns of the set."""
    verifier: str
    """The verifier that grades it, as in `load_verifier({"kind": ...})`; empty where that is not known."""
    licence: str
    citation: str

    def describe(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {**asdict(self), "splits": list(self.splits), "fields": dict(self.fields)}


@dataclass(frozen=True)
class Dataset:
    """A data set that is known by name."""

    info: DatasetInfo
    read: Callable[[str], Iterable[Row]]
    """The rows of a split, in an order that does not change."""
