"""Spans of a text: membership of a position, closed code blocks."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable


class Spans:
    """Spans of a text, for testing whether a position lies in one."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self.spans: list[tuple[int, int]] = []
        for start, end in sorted(spans):
            if self.spans and start < self.spans[-1][1]:
                self.spans[-1] = (self.spans[-1][0], max(end, self.spans[-1][1]))
            else:
                self.spans.append((start, end))
        self.starts = [start for start, _ in self.spans]

    def around(self, place: int) -> tuple[int, int] | None:
        found = bisect_right(self.starts, place) - 1
        return self.spans[found] if found >= 0 and place < self.spans[found][1] else None

    def hold(self, start: int, end: int) -> bool:
        """Whether a part of the text lies within one span."""
        span = self.around(start)
        return span is not None and end <= span[1]


_FENCE = re.compile(r"^[ \t>]{0,8}(`{3,}|~{3,})[^`\n]{0,80}$", re.MULTILINE)


def fences(text: str) -> list[tuple[int, int]]:
    """Spans of the closed code blocks of a text, fences included."""
    found = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1][0] == opened[1][0] and len(fence[1]) >= len(opened[1]) and not fence[0].strip(" \t>`~"):
            found.append((opened.start(), fence.end()))
            opened = None
    return found
