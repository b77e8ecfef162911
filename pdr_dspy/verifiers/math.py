"""Grades mathematical values: fractions, roots, polynomials, intervals, sets, tuples, matrices, equations, words."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.settings import is_number
from pdr_dspy.text.answers import MAX_ANSWER, tidy, to_number
from pdr_dspy.text.number_words import NOT_PLAIN, PHRASES, unit_named
from pdr_dspy.text.numbers import in_words, is_date
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.fields import (
    Fields,
    answer_text,
    called,
    gold_answer,
    in_unit_of,
    lookup,
    same_number,
    short,
    stands_for,
    unanswered,
)
from pdr_dspy.verifiers.grading_pool import ask
from pdr_dspy.verifiers.mathematics import beside, prose
from pdr_dspy.verifiers.mathematics.labelled import answer_to_option, option_with_value, without_name
from pdr_dspy.verifiers.mathematics.remarks import without_remarks

if TYPE_CHECKING:
    import dspy

_log = logging.getLogger("pdr_dspy.verifiers")


@explained
@dataclass(frozen=True)
class MathVerifier(Fields):
    r"""Scores 1 if the answer is mathematically equal to the gold answer, else 0.

    An answer is compared by its structure: relations, alternatives (`x = 1 or x = 2`), lists, tuples, intervals, sets,
    inequalities, families (`2n\pi, n \in \mathbb Z`), cases and matrices, around values that are compared exactly.
    `17 != 25`, `2x = 4` and `x = 17 or y = 25` name none of their numbers, and an answer with an unreadable part scores
    0. An assignment names its value (`x = 5`), and so does an equation whose other side is an expression in several
    letters (`m+n = 204`) or has the same value (`6 \cdot 7 = 42`).

    A decimal counts as an exact value without a finite decimal (1/3, √2, π) if it is right to one part in 100,000; as a
    finite decimal if it is equal to it, or to it rounded to six or more significant digits; as a whole number only if
    equal, inside of tuples and polynomials too. A percentage equals the number before its sign and the corresponding
    fraction; units are ignored unless both sides have one; degrees equal their radians. A ratio equals the same ratio
    scaled by one factor (`3:4` and `6:8`) and, if it has two terms, their fraction; a time of day equals only itself.

    Words are compared by what they say: `\text{Alice}` is `The winner is Alice.`, `(C)` is `(C) 12`, `No` is `No, it
    is not possible`, and `DNE` is `undefined`; a sentence that negates, takes back or names another scores 0. Of a gold
    option with its value (`\textbf{(D)}\ 12`) either is right alone, and both together only if both are right. A
    rejected root (`7 (8 is extraneous)`) is no part of the answer, and a decimal with its rounding states both: `42.3,
    rounded to 42` is right for 42 and for 42.3. `C(10,3)`, `10C3` and `P(5,2)` are numbers; a constant of integration
    has any of the names C, c, K and k, and antiderivatives with `+ C` may differ by a constant. A function may be
    defined with any letter (`f(t) = 2t` is `f(x) = 2x`), and a gold sum of counts (`m + n = 204`) is its value. Units
    made of others are converted (`36 km/h` is `10 m/s`), as are quantities in two units (`3 hours 20 minutes` is `200
    minutes`), which equal no number without a unit. `4 and 1/3` answers both 13/3 and the list 4, 1/3.

    A gold answer that is no mathematics of the grammar (`\text{up }5`, `\nabla f`) is compared as text, token by
    token: the same text is right, all else wrong. `check_gold` refuses a gold answer with unclosed brackets
    (`\frac{1}{`), of no value or of several (`\frac{1}{0}`, `1/2x`), too large to compute, or of more than 120
    characters that are no mathematics; no other raises when it is graded.

    Nothing beside a value is ignored that changes it: `a.m.`, `loss`, `clockwise`, `n even` and the base of a number
    stand on both sides, or the answer scores 0, and of what is counted neither side contradicts the other (`3 red`,
    `3 blue`). `\times` between vectors, sets or matrices keeps its order; three or more capitals in a row (`HTH`) are a
    word.

    Plain numbers, equal LaTeX and words are graded at once. Everything else is parsed and compared with sympy in a
    separate process, within `timeout` seconds and `memory` MB per item; an answer that exceeds them scores 0, with the
    reason in its detail.
    """

    timeout: float = 2.0
    memory: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("timeout", "memory"):
            value = getattr(self, name)
            if not is_number(value) or not value > 0:
                raise ConfigError(f"`MathVerifier({name}={getattr(self, name)!r})` must be above 0")

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        gold, answer = self._gold(example), _typed(lookup(prediction, self.field))
        answer = answer_text(prediction, self.field) if answer is None else answer
        if answer is None:
            return unanswered(prediction, self.field)
        if len(answer) > MAX_ANSWER:
            return Score(0, f"an answer of {len(answer):,} characters is not read")
        if option := option_with_value(gold):
            letter, gold = option
            if prose.chooses(answer, letter) and not re.search(r"[0-9\\]", prose.UPRIGHT.sub("", answer)):
                return Score(1, "the same option")
            named = answer_to_option(answer)
            if named is not None and (named[0] != letter or named[1] is None):
                same = named[0] == letter
                return Score(same, "the same option" if same else f"{short(answer)} is not ({letter})")
            answer = answer if named is None or named[1] is None else named[1]
        return self._grade(example, gold, answer)

    def _grade(self, example: dspy.Example, gold: str, answer: str) -> Score:
        decided = _at_once(gold, answer)
        if decided is None or not decided:
            answer = without_remarks(answer)
            answer = without_name(answer) if tidy(gold).startswith(("(", "[", r"\left")) else answer
            decided = _at_once(gold, answer)
        if decided is not None:
            return decided
        statement = _statement(in_words(tidy(answer)) or answer)
        if statement is None:
            return Score(0, f"{short(answer)} states more than a value")
        reply = self._ask(_stated(gold), statement)
        if reply.get("verbatim"):
            same = bool(reply["equal"])
            return Score(same, "the same text" if same else f"{short(answer)} is not the text {short(gold)}")
        if "equal" in reply:
            return Score(1, "the same value") if reply["equal"] else Score(0, f"{short(answer)} is not {short(gold)}")
        if "gold" in (reply.get("unreadable"), reply.get("large")):
            raise DataError(_unreadable(example, gold))
        if reply.get("unreadable") == "answer":
            return Score(0, f"{short(answer)} cannot be read ({reply['detail']})")
        if reply.get("large") == "answer":
            return Score(0, f"{short(answer)} is too large to compute")
        detail = self._trouble(reply)
        _log.warning("MathVerifier: %s on %s", detail, short(answer))
        return Score(0, detail)

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError if nothing could be graded against the gold answer: see the class for what is refused."""
        gold = self._gold(example)
        if len(gold) > MAX_ANSWER:
            raise DataError(_unreadable(example, gold))
        if option := option_with_value(gold):
            gold = option[1]
        if _PLAIN_INTEGER.fullmatch(gold) or _decided_by_words(gold):
            return
        reply = self._ask(_stated(gold), None)
        if "readable" not in reply:
            reason = f" ({reply.get('detail') or ('too large' if 'large' in reply else self._trouble(reply))})"
            raise DataError(_unreadable(example, gold) + reason)

    def _gold(self, example: dspy.Example) -> str:
        typed = _typed(lookup(example, self.gold))
        return gold_answer(example, self.gold) if typed is None else typed

    def _ask(self, gold: str, answer: str | None) -> dict[str, Any]:
        return ask("math", {"gold": gold, "answer": answer}, timeout=self.timeout, memory=self.memory * 2**20)

    def _trouble(self, reply: dict[str, Any]) -> str:
        reasons = {"time": f"timed out after {self.timeout:g} s", "memory": f"needed more than {self.memory} MB"}
        return reasons.get(reply.get("error", ""), "could not be compared")


def _unreadable(example: Any, gold: str) -> str:
    return f"{called(example)} has the gold answer {short(gold)!r}, which MathVerifier cannot read"


def _typed(value: Any) -> str | None:
    """A list, tuple or set of a typed field in mathematical notation; None for any other value."""
    if isinstance(value, complex) and value == value:
        return f"{value.real!r} + ({value.imag!r})i"
    if not isinstance(value, (list, tuple, set, frozenset)) or not value:
        return None
    items = [str(item) for item in value]
    if isinstance(value, list):
        return ", ".join(items)
    return f"({', '.join(items)})" if isinstance(value, tuple) else rf"\{{{', '.join(items)}\}}"


_TIME = re.compile(r"(?:[01]?[0-9]|2[0-4]):[0-5][0-9](?::[0-5][0-9])?")
_LONE_LETTER = re.compile(r"(?<![A-Za-z\\{])[A-Za-z](?![A-Za-z}])")
_FACTOR = re.compile(r"[0-9][hgL](?![A-Za-z])")
"""A letter that may be a unit in plain text; attached to a number in mathematics it is a variable."""
_UNREAD = re.compile(r"[#@&§¶†‡☆★♠♥♦♣]")
"""Signs that no plain number contains."""
_PLAIN_INTEGER = re.compile(r"-?[0-9]{1,15}")
_LETTER = re.compile(r"\(?[A-J]\)?")
_RATE = re.compile(
    r"[A-Za-z}]\s*/\s*(?:\\[a-z]+\s?\{\s*)?[A-Za-z]|\bper\b(?! ?cent)"
    r"|\\frac\s?\{\s?\\(?:text|mathrm)|[A-Za-z}]\s?\^\s?\{?-"
)
"""What may be a unit made of others."""
_BRACKETED_LIST = re.compile(r"[(\[{]\s*[0-9]{1,3}(?:,[0-9]{3})+\s*\\?[)\]}]")


def _stated(gold: str) -> str:
    """The gold answer as it is read in the grading process."""
    return in_words(gold) or _statement(gold) or gold


def _decided_by_words(gold: str) -> bool:
    """Whether every answer to a gold answer is decided by its words, without the grading process."""
    plain = tidy(gold)
    words = None if in_words(gold) else prose.words_of(gold)
    return words is not None or _TIME.fullmatch(plain) is not None or is_date(tidy(prose.UPRIGHT.sub(r"\1", gold)))


def _at_once(gold: str, answer: str) -> Score | None:
    """A verdict that needs no evaluation, or None."""
    if _canonical(gold) == _canonical(answer):
        return Score(1, "the same expression")
    if (text := prose.text_of(gold)) is not None and text == prose.loosely(answer):
        return Score(1, "the same words")
    if is_date(plain := tidy(prose.UPRIGHT.sub(r"\1", gold))):
        same = prose.loosely(plain) == prose.loosely(answer)
        return Score(1, "the same day") if same else Score(0, f"{short(answer)} is not {short(gold)}")
    words = None if in_words(gold) else prose.words_of(gold)
    if words is None and _LETTER.fullmatch(tidy(gold)) and prose.names_option(answer, tidy(gold).strip("()")):
        return Score(1, "the same option")
    if words is not None:
        return (
            Score(1, "the same words")
            if prose.says(answer, words)
            else Score(0, f"{short(answer)} is not {short(gold)}")
        )
    if _TIME.fullmatch(tidy(gold)):
        return Score(0, f"{short(answer)} is not {short(gold)}")
    if (
        "=" in gold
        or "≈" in answer
        or r"\approx" in answer
        or _LONE_LETTER.search(gold)
        or _FACTOR.search(answer)
        or _BRACKETED_LIST.search(gold + " " + answer)
        or _UNREAD.search(tidy(gold) + tidy(answer))
        or _RATE.search(gold)
        or _RATE.search(answer)
    ):
        return None
    want, have = to_number(gold), to_number(answer)
    if want is not None and have is None and _BARE.fullmatch(tidy(gold)) and _WITH_WORDS.fullmatch(tidy(answer)):
        return Score(0, f"{short(answer)} names no number")
    if want is None or have is None:
        return None
    turned, share = (r"circ|°|degree", r"%|percent")
    crossed = any(re.search(turned, one) and re.search(share, other) for one, other in ((gold, answer), (answer, gold)))
    if crossed or _says_otherwise(gold, answer):
        return Score(0, f"{short(answer)} is not {short(gold)}")
    factor = in_unit_of(gold, answer)
    have *= factor or 1
    same = factor is not None and same_number(gold, answer)
    if not same and factor is not None and _has_point(answer) != _has_point(gold):
        exact, decimal = (want, have) if _has_point(answer) else (have, want)
        same = same_number(gold, gold) and stands_for(decimal, exact)
    if not same and any(sign in gold + answer for sign in ("circ", "°", "deg", "%", "percent")):
        return None
    return Score(1, "the same number") if same else Score(0, f"{short(answer)} is not {short(gold)}")


_BARE = re.compile(r"[-+]?[0-9][0-9.,]*")
_WITH_WORDS = re.compile(
    r"[-+]?[0-9][0-9.,]*(?:[\s-][^\W\d_]{2,}[.!?]?){1,5}|(?:[^\W\d_]{2,}:?[\s-]){1,5}[-+]?[0-9][0-9.,]*[.!?]?"
)
"""A number with nothing but words beside it, which `to_number` reads by its tables."""


def _says_otherwise(gold: str, answer: str) -> bool:
    """Whether the words beside two numbers differ: `3 red` and `3 blue`, `20 °C` and `20 °F`, `$10` and `$10 loss`."""
    if in_words(gold) or in_words(answer):
        return False
    return not beside.agree(beside.around_number(gold), beside.around_number(answer))


def _has_point(text: str) -> bool:
    return re.search(r"[0-9]?\.[0-9]", text) is not None


# ------------------------------------------------------------------------------------------------------- in sentences

_SEGMENT = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_STATES = re.compile(
    r"(?:[^$]{0,120}\b(?:is|are|equals|equal to|be|becomes|get|gives?|obtain|have|find|has|yields)|[^$]{0,60}[:=]"
    r"|(?:so|thus|hence|therefore|answer|final answer|the answer)?)[,\s]*"
    r"(?:exactly\s|approximately\s|about\s|simply\s|just\s|equal to\s|therefore\s|thus\s)?\s*",
    re.I | re.S,
)
_CONNECTORS = re.compile(r"(?:\s|[,;.]|\bor\b|\band\b|\bfor\b|\bwhere\b|\bwith\b|\bif\b|\bwhen\b|\bin\b)*", re.I)


_SOLUTIONS = re.compile(
    r"(?:so|thus|hence|therefore)?,?\s*(?:the|its)\s(?:only\s|possible\s|real\s|complex\s|two\s|three\s|final\s|correct\s){0,3}"
    r"(?:solutions?|roots?|zeros?|values?|answers?)(?:\s(?:of|for)\s\$?[a-z]\$?)?\s(?:are|is)(?:\s?:)?\s",
    re.I,
)


def _statement(text: str) -> str | None:
    """The mathematics that a sentence states; None if the words around it may be more than a unit."""
    text = tidy(text)
    if (frame := _SOLUTIONS.match(text)) and not _changes(frame.group()):
        text = tidy(text[frame.end() :])
    segments = list(_SEGMENT.finditer(text))
    around = _SEGMENT.sub(" ", text)
    if not segments or _CONNECTORS.fullmatch(around):
        return text.replace("$", " ")
    if len(segments) > 1:
        return text.replace("$", " ")
    segment = next(part for part in segments[0].groups() if part)
    before, after = text[: segments[0].start()], text[segments[0].end() :]
    if not _STATES.fullmatch(before) or _changes(before):
        return None
    after = " ".join(prose.UPRIGHT.sub(r"\1", after).split()).strip(" .")
    if not after:
        return segment
    if re.fullmatch(r"\\?%", after):
        return rf"{segment}\%"
    if re.fullmatch(r"(?:square |cubic )?[A-Za-z/]+(?:\s?\^\s?[23]|[²³])?", after) and len(after) < 40:
        unit = after.replace("²", "^2").replace("³", "^3").replace(" ^", "^")
        word, _, power = unit.partition("^")
        if unit_named(after) is not None or not power:
            return rf"{segment}\text{{ {word}}}" + (f"^{power.strip()}" if power else "")
    return None


def _changes(words: str) -> bool:
    """Whether words before a value change or negate it."""
    found = re.findall(r"[^\W\d_]+", words.lower())
    return bool(PHRASES.search(words)) or any(
        word in NOT_PLAIN
        or word in ("least", "most", "less", "more", "over", "under", "above", "below", "minus", "either")
        for word in found
    )


# ------------------------------------------------------------------------------------------------- letter by letter

_CANON = (
    (re.compile(r"(?<=[0-9])(?:,\s?\\!|\{,\})(?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|(?<!\\)\\[,;:! ]"), " "),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\frac\s?([0-9])\s?([0-9])(?![0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s?([0-9A-Za-z])(?![0-9A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"([_^])\{([0-9A-Za-z])\}(?![0-9A-Za-z])"), r"\1\2"),
    (re.compile(r"\\cdot(?![A-Za-z])"), "*"),
    (re.compile(r"(?<=[0-9]),\s+(?=[0-9])"), "\2"),  # nor is `1, 234` 1,234
    (re.compile(r"(?<=[0-9])\s+(?=[0-9.])"), "\0"),  # `1 2` is not 12
    (re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])"), r"\1" + "\1"),  # `\cot hx` is not `\coth x`
    (re.compile(r"\s+|\$"), ""),
)


def _canonical(text: str) -> str:
    """The text without spelling differences that never change a value, for comparison letter by letter."""
    text = tidy(text)
    for pattern, replacement in _CANON:
        text = pattern.sub(replacement, text)
    return text
