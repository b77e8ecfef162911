"""Grades the choice of one of several options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.text.choices import to_choice
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.fields import Fields, answer_text, as_text, called, gold_answer, lookup, short, unanswered

if TYPE_CHECKING:
    import dspy

_LETTERS = tuple("ABCDEFGHIJ")


@explained
@dataclass(frozen=True)
class ChoiceVerifier(Fields):
    """Scores 1 if the answer names the gold option and no other (see `pdr_dspy.text.choices.to_choice`), else 0.

    `options` are the options themselves, or the name of the example's field that holds them. Without it, a gold answer
    of one letter is one of A to J, and any other gold answer must be repeated exactly, apart from case and wrapping.
    """

    instant: ClassVar[bool] = True

    options: tuple[str, ...] | str = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.options, list):
            object.__setattr__(self, "options", tuple(self.options))
        if not isinstance(self.options, (tuple, str)):
            raise ConfigError(
                f"`ChoiceVerifier(options={self.options!r})` must be the options, such as ('A', 'B'), the name of the "
                "example's field with them"
            )
        if isinstance(self.options, tuple) and (len(self.options) == 1 or len(set(self.options)) != len(self.options)):
            raise ConfigError(f"`ChoiceVerifier(options={self.options!r})` must be at least two different options")

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        options, gold = self._read(example)
        answer = answer_text(prediction, self.field)
        if answer is None:
            return unanswered(prediction, self.field)
        if len(options) == 1 and len(answer) > len(gold) + 12:
            return Score(0, f"{short(answer)} is not {short(gold)}")  # the other options are unknown
        choice = to_choice(answer, options)
        if choice is None:
            return Score(0, f"{short(answer)} does not name one option")
        return Score(1, "the same option") if choice == gold else Score(0, f"{short(choice)} is not {short(gold)}")

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError if the gold answer is not one of the options."""
        self._read(example)

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the public class name under "kind"."""
        options = list(self.options) if isinstance(self.options, tuple) else self.options
        return {**super().describe(), "options": options}

    def _read(self, example: dspy.Example) -> tuple[tuple[str, ...], str]:
        gold = gold_answer(example, self.gold)
        if isinstance(self.options, str):
            given = lookup(example, self.options)
            if not isinstance(given, (list, tuple)) or len(given) < 2:
                raise DataError(f"{called(example)} has no list of options in the field {self.options!r}")
            options = tuple(as_text(option) or "" for option in given)
        else:
            letter = gold.strip("()[]. ").upper()
            options = self.options or (_LETTERS if letter in _LETTERS else (gold,))
        choice = to_choice(gold, options)
        if choice is None:
            raise DataError(f"{called(example)} has the gold answer {short(gold)!r}, not one of {list(options)}")
        return options, choice
