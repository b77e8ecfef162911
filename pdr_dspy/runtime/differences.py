"""The difference of two descriptions as a part of a sentence, for settings that a folder holds and those given now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST = 120
"""Characters of a value that the sentence shows."""
AROUND = 40
"""Characters of a longer value that are shown before the first difference."""


def difference(name: str, was: Any, now: Any) -> str:
    """ "`name` was ... and is now ...", down to the part of a mapping that differs.

    Args:
        name: the name of the setting.
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
    """The part of a text around the first difference, at index `first`."""
    if len(text) <= LONGEST:
        return text
    begins = max(0, min(first - AROUND, len(text) - LONGEST))
    part = text[begins : begins + LONGEST]
    return f"{'...' * (begins > 0)}{part}{'...' * (begins + LONGEST < len(text))} ({len(text)} characters)"
