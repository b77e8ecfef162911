"""Where two descriptions differ, in words that fit into a sentence: what a folder holds and what is asked for now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST = 120
"""Characters of a value that a sentence shows."""
AROUND = 40
"""Of a longer one, those that are shown before the first difference."""


def difference(name: str, was: Any, now: Any) -> str:
    """ "`name` was ... and is now ...", down to the part of a mapping that differs.

    Args:
        name: what the two are called.
        was: plain JSON values.
        now: the same; not equal to `was`.
    """
    while isinstance(was, Mapping) and isinstance(now, Mapping):
        changed = [key for key in {**now, **was} if was.get(key) != now.get(key)]
        if not changed:
            break
        name, was, now = f"{name}.{changed[0]}", was.get(changed[0]), now.get(changed[0])
    before, after = repr(was), repr(now)
    same = next((place for place, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
    first = min(len(before), len(after)) if same is None else same
    return f"`{name}` was {_around(before, first)} and is now {_around(after, first)}"


def _around(text: str, first: int) -> str:
    """The part of a text in which it begins to differ from another, at `first`."""
    if len(text) <= LONGEST:
        return text
    begins = max(0, min(first - AROUND, len(text) - LONGEST))
    part = text[begins : begins + LONGEST]
    return f"{'...' * (begins > 0)}{part}{'...' * (begins + LONGEST < len(text))} ({len(text)} characters)"
