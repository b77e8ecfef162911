"""Pages of Markdown as tests see them: their blocks in order, and what a block is to print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.S | re.M
)


class Block(NamedTuple):
    """A fenced block."""

    language: str
    body: str
    file: str | None
    """Of a block with a title: the file that it is."""
    line: int
    """Where its body begins, from 1."""
    printed: str | None
    """Of a block of Python with a block of text right behind it: that text."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page. An indented block is one too: it belongs to a list or a note."""
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    made: list[Block] = []
    for place, match in enumerate(found):
        after = found[place + 1] if place + 1 < len(found) else None
        follows = after is not None and not text[match.end() : after.start()].strip()
        shown = after["body"] if after is not None and follows and after["language"] == "text" else None
        title = re.search(r'title="([^"]+)"', match["options"])
        line = text.count("\n", 0, match.start("body")) + 1
        indent = match["indent"]
        body = re.sub(f"^{indent}", "", match["body"], flags=re.M)
        made.append(Block(match["language"], body, title and title[1], line, shown))
    return made


def commands(page: Path, program: str) -> list[list[str]]:
    """The lines of a page's shell blocks that call a program, as words."""
    lines = [
        line.split("#")[0].split() for one in blocks(page) if one.language == "sh" for line in one.body.splitlines()
    ]
    return [line for line in lines if line and line[0] == program]


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead within the repository, without anchors."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    text = re.sub(r"<!-- picture -->\s*!\[[^\]]*\]\([^)]*\)", "", text)  # announced, and made by a study
    return [
        link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link and not link.startswith("mailto:")
    ]
