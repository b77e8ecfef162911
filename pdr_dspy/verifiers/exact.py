"""Equality of texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pdr_dspy.arguments import explained
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.fields import Fields, answer_text, as_text, gold_text, lookup, short, unanswered

if TYPE_CHECKING:
    import dspy


_WRAPS = (
    *(("**", "**"), ("*", "*"), ("```", "```"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»")),
    *(("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\boxed{", "}"), ("\\text{", "}")),
)


@explained
@dataclass(frozen=True)
class ExactVerifier(Fields):
    """Scores 1 if the answer is the gold text, else 0.

    The gold text is compared unchanged. Emphasis, quotes, code and mathematics marks and a full stop around the answer
    are ignored unless the gold text has them; underscores always count: `__init__` is not `init`. The full stop of a
    sentence may be missing.
    """

    instant: ClassVar[bool] = True

    ignore_case: bool = False
    ignore_space: bool = True
    """Whether runs of white space equal one space."""

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        gold, answer = gold_text(example, self.gold), answer_text(prediction, self.field)
        if answer is None:
            return unanswered(prediction, self.field)
        whole = as_text(lookup(prediction, self.field)) or ""
        want = self._key(gold)
        accepted = {want, want[:-1]} if " " in want and want.endswith(".") else {want}
        for text in (whole, answer):
            if any(self._key(form) in accepted for form in _unwrapped(text)):
                return Score(1, "the same text")
        return Score(0, f"{short(answer)} is not {short(gold)}")

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError if the example has no gold answer."""
        gold_text(example, self.gold)

    def _key(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text.strip())
        if self.ignore_space:
            text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text


def _unwrapped(text: str) -> Iterator[str]:
    """A text, then the text without each layer of wrapping."""
    yield (text := text.strip())
    for _ in range(8):
        inner = next(
            (
                text[len(left) : -len(right)]
                for left, right in _WRAPS
                if text.startswith(left) and text.endswith(right) and len(text) > len(left + right)
                and right not in text[len(left) : -len(right)]
            ),
            text[:-1] if text.endswith((".", "。")) and not text.endswith("..") else "",
        )  # fmt: skip
        if not inner.strip():
            return
        yield (text := inner.strip())
