"""What the verifiers share: their common settings, reading fields, comparing numbers."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.text.answers import final_answer, tidy, to_number
from pdr_dspy.text.reasoning import split_thought
from pdr_dspy.verifiers.base import Score

if TYPE_CHECKING:
    import dspy

_LONG = 200
_RAW = re.compile(r"</?th(?:ink|ought)|<\||\\boxed|\n|\banswer\b|####", re.I)


@dataclass(frozen=True)
class Fields:
    """Where a verifier finds what it compares."""

    gold: str = "answer"
    """The example's field with the gold answer."""
    field: str = "answer"
    """The prediction's field with the answer to grade."""

    def __post_init__(self) -> None:
        for name in ("gold", "field"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ConfigError(f"`{type(self).__name__}({name}={value!r})` must be the name of a field")

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        """Return the score of `prediction` for `example`. `trace` is DSPy's and changes nothing."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the name that `load_verifier` knows it by under "kind"."""
        return {"kind": getattr(self, "kind", type(self).__name__), **asdict(self)}


def lookup(record: Any, name: str) -> Any:
    """A field of an example or a prediction, None where there is none."""
    return record.get(name) if hasattr(record, "get") else getattr(record, name, None)


def gold_text(example: dspy.Example, name: str) -> str:
    """The gold answer as text. Raises DataError where it is missing or empty."""
    text = as_text(lookup(example, name))
    if text is None or not text.strip():
        held = ", ".join(str(key) for key in example) if hasattr(example, "keys") else type(example).__name__
        raise DataError(f"{called(example)} has no gold answer in the field {name!r}; its fields are {held}")
    return text.strip()


def called(example: Any) -> str:
    """A name for an example in messages."""
    known = lookup(example, "id")
    return f"The example {known!r}" if known is not None else f"The example {str(example)[:120]}"


def answer_text(prediction: dspy.Prediction, name: str) -> str | None:
    """The answer as text, None where there is none.

    A field normally holds what the program read out of the completion. Where it holds a whole completion instead, the
    final answer is read out of it here; an unfinished thought is no answer.
    """
    text = as_text(lookup(prediction, name))
    if text is None or not text.strip():
        return None
    if len(text) <= _LONG and not _RAW.search(text):
        return text.strip()
    found = final_answer(text)
    if found is not None:
        return found
    return split_thought(text)[1].strip() or None


def as_text(value: Any) -> str | None:
    """A field's value as text: numbers as a person writes them."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None  # an empty cell of a table
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 3000:
        return None  # longer than Python writes out, and than anything that is compared here
    return str(value)


def short(text: str | None, limit: int = 60) -> str:
    """For a verdict's detail."""
    text = "nothing" if text is None else " ".join(text[: 4 * limit].split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def same_number(gold: str, answer: str, *, within: Fraction = Fraction(0)) -> bool | None:
    """Whether both texts name the same number, up to `within`; None where one of them does not name a number.

    A percentage equals the same number without its sign and the fraction that it stands for.
    """
    want, have = to_number(gold), to_number(answer)
    if want is None or have is None:
        return None
    candidates = {have}
    if "%" in tidy(answer) and "%" not in gold:
        candidates.add(have / 100)
    elif "%" in gold and "%" not in answer:
        candidates.add(have * 100)
    return any(abs(candidate - want) <= within for candidate in candidates)
