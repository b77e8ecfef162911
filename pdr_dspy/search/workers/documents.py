"""The common parts of all boards: a claim, the known documents, and the check of names."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Self

from pdr_dspy.errors import ConfigError

LONGEST = 200


class Claim:
    """The right to work on one document until it is released. Use it as a context manager."""

    def __init__(self, name: str, *, release: Callable[[], None], lost: Callable[[], bool]) -> None:
        self.name = name
        self._release = release
        self._lost = lost
        self._held = True

    @property
    def lost(self) -> bool:
        """Whether another worker may hold it by now: documents of this worker are then no longer needed."""
        return self._held and self._lost()

    def release(self) -> None:
        """Release it. Further calls do nothing."""
        if self._held:
            self._held = False
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Documents:
    """Documents by name. Not thread-safe: its board locks."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._names: list[str] = []

    def add(self, name: str, text: str) -> str:
        """Keep `text` unless the name exists; return the kept text."""
        kept = self.texts.setdefault(name, text)
        if len(self.texts) > len(self._names):
            insort(self._names, name)
        return kept

    def under(self, prefix: str) -> dict[str, str]:
        """The documents whose names start with `prefix`, in the order of their names."""
        found: dict[str, str] = {}
        for place in range(bisect_left(self._names, prefix), len(self._names)):
            name = self._names[place]
            if not name.startswith(prefix):
                break
            found[name] = self.texts[name]
        return found


def check_name(name: str) -> str:
    """Return a name that every board supports. Raises ConfigError for any other."""
    if not 0 < len(name) <= LONGEST or not name.isprintable():
        raise ConfigError(f"`name={name[: LONGEST + 1]!r}`: a document's name has 1 to {LONGEST} printable characters")
    return name
