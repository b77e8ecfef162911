"""The common base of verifiers: settings, reading fields, comparing numbers."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.text.answers import final_answer, to_number
from pdr_dspy.text.number_words import ratio_of
from pdr_dspy.text.numbers import is_percentage, unit_of
from pdr_dspy.text.reasoning import split_thought
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.mathematics.decimals import RELATIVE, is_finite, rounded_to

if TYPE_CHECKING:
    import dspy

_LONG = 200
_RAW = re.compile(r"</?th(?:ink|ought)|<\||\\boxed|\n|\banswer\b|####", re.I)


@dataclass(frozen=True)
class Fields:
    """The fields that a verifier compares."""

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
        """Return the score of `prediction` for `example`. `trace` is DSPy's and has no effect."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the verifier's registered name under "kind"."""
        return {"kind": getattr(self, "kind", type(self).__name__), **asdict(self)}


def lookup(record: Any, name: str) -> Any:
    """A field of an example or a prediction; None if there is none."""
    return record.get(name) if hasattr(record, "get") else getattr(record, name, None)


def gold_text(example: dspy.Example, name: str) -> str:
    """The gold answer as text. Raises DataError if it is missing or empty."""
    value = lookup(example, name)
    text = as_text(value)
    if text is None and value is not None:
        raise DataError(f"{called(example)} has the gold answer {_printed(value)}; drop the example or give its answer")
    if text is None or not text.strip():
        held = ", ".join(str(key) for key in example) if hasattr(example, "keys") else type(example).__name__
        raise DataError(f"{called(example)} has no gold answer in the field {name!r}; its fields are {held}")
    return text.strip()


_SOLUTION = re.compile(r"####(?!#)\s*(.+?)\s*$", re.S)


def gold_answer(example: dspy.Example, name: str) -> str:
    r"""The gold answer as text, without the solution before it: the text after `####`, or in the last `\boxed`."""
    text = gold_text(example, name)
    marked = _SOLUTION.search(text.rpartition("####")[1] + text.rpartition("####")[2]) if "####" in text else None
    if marked:
        return marked[1]
    return (final_answer(text) or text) if "\\boxed" in text else text


def _printed(value: Any) -> str:
    if isinstance(value, int):
        return f"a whole number of about {int(value.bit_length() * 0.30103):,} digits, which is too long to compare"
    return repr(value)


def unanswered(prediction: dspy.Prediction, name: str) -> Score:
    """The score of a prediction without a readable answer."""
    value = lookup(prediction, name)
    if value is not None and as_text(value) is None:
        return Score(0, f"{_printed(value)} is not an answer" if not isinstance(value, int) else _printed(value))
    return Score(0, "no answer")


def called(example: Any) -> str:
    """A name of an example for messages."""
    known = lookup(example, "id")
    try:
        return f"The example {known!r}" if known is not None else f"The example {str(example)[:120]}"
    except ValueError:  # an integer with too many digits for Python to print
        return "An example"


def answer_text(prediction: dspy.Prediction, name: str) -> str | None:
    """The answer as text; None if there is none.

    A field normally holds the answer parsed from the completion. If it holds a whole completion instead, the final
    answer is parsed from it here; an unfinished thought is not an answer.
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
    if not isinstance(value, (list, dict)) and _is_nan(value):
        return None  # an empty cell of a table
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 3000:
        return None  # too many digits for Python to print
    return str(value)


def _is_nan(value: Any) -> bool:
    """Whether a float, a Decimal or a numpy number is NaN."""
    try:
        return bool(value != value)
    except Exception:
        return False


def short(text: str | None, limit: int = 60) -> str:
    """Shortened text for a verdict's detail."""
    text = "nothing" if text is None else " ".join(text[: 4 * limit].split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def same_number(gold: str, answer: str, *, within: Fraction = Fraction(0)) -> bool | None:
    """Whether both texts name the same number, up to `within`; None if one of them does not name a number.

    A percentage equals the same number without its sign and the corresponding fraction. Different units of one kind are
    converted (`50 mm` is `5 cm`), units of different kinds are never equal; a unit on one side only is ignored.
    """
    want, have = to_number(gold), to_number(answer)
    factor = in_unit_of(gold, answer)
    if want is None or have is None:
        return None
    if factor is None:
        return False
    candidates = {have * factor}
    if is_percentage(answer) and not is_percentage(gold):
        candidates.add(have / 100)
    elif is_percentage(gold) and not is_percentage(answer):
        candidates.add(have * 100)
    return any(abs(candidate - want) <= within for candidate in candidates)


def in_unit_of(gold: str, answer: str) -> Fraction | None:
    """The factor that converts a number of the answer into the gold answer's unit: 1/10 for mm if the gold answer has
    cm, 1 unless both name a unit; None for units of different kinds."""
    if gold == answer:
        return Fraction(1)
    want, have = unit_of(gold), unit_of(answer)
    return Fraction(1) if want is None or have is None or want == have else ratio_of(have, want)


def stands_for(decimal: Fraction, exact: Fraction) -> bool:
    """The rule of decimals for rational numbers, as in `mathematics.equality`."""
    if exact.denominator == 1:
        return decimal == exact
    if is_finite(exact):
        return decimal == exact or rounded_to(exact, decimal)
    return abs(decimal - exact) * RELATIVE <= abs(exact)
