"""The same number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.settings import is_number
from pdr_dspy.text.answers import to_number
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.fields import Fields, answer_text, called, gold_answer, same_number, short, unanswered

if TYPE_CHECKING:
    import dspy


@explained
@dataclass(frozen=True)
class NumberVerifier(Fields):
    """Scores 1 if the answer names the gold number, compared exactly, else 0.

    Leading zeros, thousands separators, units and `x = ...` are ignored (see `pdr_dspy.text.answers.to_number`); a list
    of guesses names no number. The answer may differ by `tolerance`, or by the fraction `relative` of the gold number,
    whichever is larger.
    """

    instant: ClassVar[bool] = True

    tolerance: float = 0.0
    relative: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tolerance", "relative"):
            value = getattr(self, name)
            if not (is_number(value) and math.isfinite(value) and value >= 0):
                raise ConfigError(f"`NumberVerifier({name}={value!r})` must be a finite number, at least 0")

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        gold = gold_answer(example, self.gold)
        number = self._number(example, gold)
        answer = answer_text(prediction, self.field)
        if answer is None:
            return unanswered(prediction, self.field)
        within = max(_as_written(self.tolerance), _as_written(self.relative) * abs(number))
        same = same_number(gold, answer, within=within)
        if same is None:
            return Score(0, f"{short(answer)} does not name one number")
        return Score(1, "the same number") if same else Score(0, f"{short(answer)} is not {short(gold)}")

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError if the gold answer does not name one number."""
        self._number(example, gold_answer(example, self.gold))

    def _number(self, example: dspy.Example, gold: str) -> Fraction:
        number = to_number(gold)
        if number is None:
            raise DataError(
                f"{called(example)} has the gold answer {short(gold)!r}, which does not name one number; "
                "MathVerifier reads expressions, ExactVerifier text"
            )
        return number


@lru_cache(maxsize=64)
def _as_written(tolerance: float) -> Fraction:
    """A tolerance as the decimal that was written, not the nearest binary fraction."""
    return Fraction(str(tolerance))
