"""For mkdocstrings: examples that stand in a docstring as at a prompt (`>>>`) are shown as code, not as quotations."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object  # pyright: ignore[reportMissingImports]


def fenced(text: str) -> str:
    """A docstring with each paragraph that begins with a prompt in a fence of its own."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(f"```pycon\n{one}\n```" if one.startswith(">>> ") else one for one in paragraphs)


class FenceExamples(Extension):
    """Changes docstrings as they are read from the sources."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
