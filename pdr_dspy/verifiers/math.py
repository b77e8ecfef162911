"""The same mathematical value: fractions, roots, polynomials, intervals, sets, tuples, matrices, equations, words."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.text.answers import MAX_ANSWER, changes_value, tidy, to_choice
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.fields import Fields, answer_text, called, gold_text, same_number, short
from pdr_dspy.verifiers.grading_pool import ask
from pdr_dspy.verifiers.math_structure import Structure, read

if TYPE_CHECKING:
    import dspy

_log = logging.getLogger("pdr_dspy.verifiers")


@dataclass(frozen=True)
class MathVerifier(Fields):
    """Scores 1 where the answer is mathematically the gold answer, else 0.

    Plain numbers, the same LaTeX and words are decided at once, evaluating nothing. Everything else is taken apart into
    lists, tuples, intervals, relations, sets and cases, which must be those of the gold answer: `17 != 25` and
    `x = 17 or x = 25` are not 25. Their values are compared exactly by sympy in a separate process, within `timeout`
    seconds and `memory` MB for the item; an answer that exceeds them scores 0 and says so. A decimal may stand for a
    value that has no finite decimal form, such as 1/3, where it is right to one part in 100,000.
    """

    timeout: float = 2.0
    memory: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("timeout", "memory"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`MathVerifier({name}={getattr(self, name)!r})` must be above 0")

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        gold, answer = gold_text(example, self.gold), answer_text(prediction, self.field)
        if answer is None:
            return Score(0, "no answer")
        if len(answer) > MAX_ANSWER:
            return Score(0, f"an answer of {len(answer):,} characters is not read")
        decided = _at_once(gold, answer)
        if decided is not None:
            return decided
        if _RETRACTED.search(answer) and not _RETRACTED.search(gold):
            return Score(0, f"{short(answer)} says what it is not")
        if _hopeless(answer) and not _hopeless(gold):
            return Score(0, f"{short(answer)} is too large to work out")
        want, have = read(_latex(gold)), read(_latex(answer))
        if want is None:
            raise DataError(_unreadable(example, gold))
        if have is None:
            return Score(0, f"{short(answer)} is not a mathematical expression")
        reply = self._ask(want, have)
        if "equal" in reply:
            return Score(1, "the same value") if reply["equal"] else Score(0, f"{short(answer)} is not {short(gold)}")
        if reply.get("unreadable") == "gold":
            raise DataError(_unreadable(example, gold))
        if reply.get("unreadable") == "answer":
            return Score(0, f"{short(answer)} is not a mathematical expression")
        detail = self._trouble(reply)
        _log.warning("MathVerifier: %s on %s", detail, short(answer))
        return Score(0, detail)

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError if the gold answer cannot be read as a number, an expression or words."""
        gold = gold_text(example, self.gold)
        if len(gold) > MAX_ANSWER:
            raise DataError(_unreadable(example, gold))
        if same_number(gold, gold) or _words(gold) is not None:
            return
        structure = read(_latex(gold))
        reply = {"unreadable": "gold"} if structure is None else self._ask(structure, None)
        if "readable" not in reply:
            reason = "" if "unreadable" in reply else f" ({self._trouble(reply)})"
            raise DataError(_unreadable(example, gold) + reason)

    def _ask(self, gold: Structure, answer: Structure | None) -> dict[str, Any]:
        return ask("math", {"gold": gold, "answer": answer}, timeout=self.timeout, memory=self.memory * 2**20)

    def _trouble(self, reply: dict[str, Any]) -> str:
        reasons = {"time": f"timed out after {self.timeout:g} s", "memory": f"needed more than {self.memory} MB"}
        return reasons.get(reply.get("error", ""), "could not be compared")


def _unreadable(example: Any, gold: str) -> str:
    return f"{called(example)} has the gold answer {short(gold)!r}, which MathVerifier cannot read"


def _at_once(gold: str, answer: str) -> Score | None:
    """A verdict that needs no evaluation, or None."""
    same = None if "=" in gold and "=" in answer else same_number(gold, answer)  # x = 5 is not y = 5
    if same or (same is False and ("." in gold) == ("." in answer)):  # else a decimal may stand for a fraction
        return Score(1, "the same number") if same else Score(0, f"{short(answer)} is not {short(gold)}")
    if _canonical(gold) == _canonical(answer):
        return Score(1, "the same expression")
    based = _BASED.fullmatch(_canonical(gold))
    if based:  # sympy drops the base
        plain = re.sub(r"^[A-Za-z]=", "", _canonical(answer)) in (based[1], based[0])
        return Score(1, "the same digits") if plain else Score(0, f"{short(answer)} is not {short(gold)}")
    words = _words(gold)
    if words is not None:
        close = len(answer) <= len(gold) + 40 and not re.search(r"\bor\b", answer.replace(words, ""), re.I)
        if close and to_choice(answer, (words,)) == words:
            return Score(1, "the same words")
        return Score(0, f"{short(answer)} is not {short(gold)}")
    return None


_RETRACTED = re.compile(
    r"(?<![\\\\A-Za-z])(?:not|never|neither|nor|cannot|twice|half of|unless)(?![A-Za-z])|n't\b", re.I
)
_LARGE = re.compile(
    r"\^\s?\{?\s?-?[0-9]{5,}"  # an exponent of five digits
    r"|(?:[0-9]{5,}|[)}\]]|\^\s?[0-9]+)\s?!"  # a factorial of that, or of something composed
    r"|\\d?binom\s?\{\s?(?:[0-9]{5}|[0-9]+\s?\^)"
    r"|\^[\s{(]*[0-9]+[\s})]*\^[\s{(]*(?:[0-9]{2}|[0-9]+[\s})]*\^)"  # a tower of powers
)
_SYMBOLIC_ROWS = 6
_DEPTH = 60


def _hopeless(text: str) -> bool:
    """Whether working it out would certainly exceed any allowance, seen from its form alone."""
    if _LARGE.search(text):
        return True
    if (
        re.search(r"vmatrix|\\det", text)
        and text.count(r"\\") >= _SYMBOLIC_ROWS
        and re.search(r"[a-z]_|(?<![a-z])[a-z](?![a-z])", text)
    ):
        return True
    depth = 0
    for sign in text:
        depth += (sign in "({[") - (sign in ")}]")
        if depth > _DEPTH:
            return True
    return False


_BASED = re.compile(r"([0-9A-Z]+)_\{?[0-9]{1,2}\}?")
_UPRIGHT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_PROSE = re.compile(r"[A-Za-z]{2,}(?:[ '-][A-Za-z]+)*|\(?[A-Z]\)?")


_SHORT_WORDS = ("yes", "no", "odd", "all", "one", "two", "six", "ten")


def _words(gold: str) -> str | None:
    r"""The gold answer if it is words (`\text{Evelyn}`, `even`, `(C)`) and not mathematics."""
    plain = tidy(_UPRIGHT.sub(r"\1", gold))
    upright = plain != tidy(gold)
    if (
        _PROSE.fullmatch(plain)
        and (upright or len(plain) > 3 or plain.lower() in _SHORT_WORDS)
        and not re.fullmatch(r"(?:sqrt|pi|sin|cos|log|infty)", plain)
    ):
        return plain
    return None


# ------------------------------------------------------------------------------------------------------- as LaTeX

_PLAIN = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<!\\)\*|×|·"), r"\\cdot "),
    (re.compile(r"√\s?\(|(?<![\\A-Za-z])sqrt\s?\("), "SQRT("),
    (re.compile(r"√\s?([0-9]+|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\A-Za-z])(pi|infty|sin|cos|tan|log|ln|exp)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])|∞"), r"\\infty "),
    (re.compile(r"(?<![\\A-Za-z])U(?=\s*[(\[])|∪"), r"\\cup "),
    (re.compile(r"π"), r"\\pi "),
    (re.compile(r"≤|<="), r"\\le "),
    (re.compile(r"≥|>="), r"\\ge "),
    (re.compile(r"≠|!="), r"\\ne "),
    (re.compile(r"∈"), r"\\in "),
    (re.compile(r"∅|\\varnothing(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"±|\+/-"), r"\\pm "),
    (re.compile(r"[−–﹣－]"), "-"),
    (re.compile(r"\^\s?(?:\{\s?)?\\(?:circ|degree)(?:\s?\})?|°|\\degree"), ""),
    (re.compile(r"\\%|(?<!\\)%|\\\$"), ""),
    (re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![A-Za-z])"), ""),
    (re.compile(r"(?<!\\)\\[;: ]|\\q?quad(?![A-Za-z])|~"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SUPER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUB = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_UNIT = re.compile(
    r"(?<=[0-9A-Za-z})\]])\s*"
    r"(?:\\(?:text|mathrm|mbox)\s?\{[^{}]*\}(?:\s?\^\s?\{?[0-9]\}?)?|\s[a-z]{3,}(?: [a-z]{2,})*)\s*$"
)
_SEGMENT = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)


def _latex(text: str) -> str:
    """An answer as one piece of LaTeX: typed mathematics translated, units, degrees and sentences around it gone."""
    text = tidy(text)
    segments = [next(part for part in match.groups() if part) for match in _SEGMENT.finditer(text)]
    if len(segments) == 1 and re.search(r"[A-Za-z]{3,}", _SEGMENT.sub(" ", text)):
        text = segments[0]
    text = re.sub(r"\$|\\[()\[\]](?![A-Za-z])", "", text) if "$" in text or r"\(" in text else text
    text = _SUPER.sub(lambda power: "^{" + power.group().translate(_SUPERSCRIPTS) + "}", text)
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    text = _square_roots(text)
    text = re.sub(r"(?<=[0-9])\{,\}(?=[0-9]{3}(?![0-9]))", ",", text)
    unit = _UNIT.search(text)
    if unit is not None and not changes_value(unit.group()):
        text = text[: unit.start()]
    return text.strip().rstrip(".").strip()


def _square_roots(text: str) -> str:
    r"""`SQRT(...)` as `\sqrt{...}`, with its own closing parenthesis."""
    pieces: list[str] = []
    closing: list[bool] = []
    for token in re.split(r"(SQRT\(|[()])", text):
        if token == "SQRT(":
            closing.append(True)
            pieces.append(r"\sqrt{")
        elif token == "(":
            closing.append(False)
            pieces.append(token)
        elif token == ")" and closing:
            pieces.append("}" if closing.pop() else ")")
        else:
            pieces.append(token)
    pieces += ["}" for root in closing if root]
    return "".join(pieces)


_CANON = (
    (re.compile(r"(?<=[0-9])(?:,\\!|\\,|\{,\})(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|(?<!\\)\\[,;:! ]"), ""),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\frac\s?([0-9])\s?([0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s?([0-9A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"([_^])\{(\w)\}"), r"\1\2"),
    (re.compile(r"\\cdot|\\times|\*"), "*"),
    (re.compile(r"(?<=[0-9])\s+(?=[0-9.])"), "\0"),  # `1 2` is not 12
    (re.compile(r"\s+|\$"), ""),
)


def _canonical(text: str) -> str:
    """Spelling differences that never change a value, gone; for comparing letter by letter."""
    text = _UPRIGHT.sub(r"\1", tidy(text))
    text = _SUB.sub(lambda base: "_" + base.group().translate(_SUBSCRIPTS), text)
    for pattern, replacement in _CANON:
        text = pattern.sub(replacement, text)
    return text
