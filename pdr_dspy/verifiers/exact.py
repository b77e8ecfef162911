"""The same text."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdr_dspy.text.answers import unwrapped
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.fields import Fields, answer_text, as_text, gold_text, lookup, short

if TYPE_CHECKING:
    import dspy


@dataclass(frozen=True)
class ExactVerifier(Fields):
    """Scores 1 where the answer is the gold text, else 0.

    Bold, quotes, code marks and a final full stop around either do not count; underscores and single stars do, for they
    belong to names.
    """

    ignore_case: bool = False
    ignore_space: bool = True
    """Whether runs of white space are the same as one space."""

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        gold, answer = gold_text(example, self.gold), answer_text(prediction, self.field)
        if answer is None:
            return Score(0, "no answer")
        whole = as_text(lookup(prediction, self.field)) or ""
        if self._key(gold) in (self._key(whole), self._key(answer)):
            return Score(1, "the same text")
        return Score(0, f"{short(answer)} is not {short(gold)}")

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError if the example has no gold answer."""
        gold_text(example, self.gold)

    def _key(self, text: str) -> str:
        text = unicodedata.normalize("NFC", unwrapped(text))
        if self.ignore_space:
            text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text
