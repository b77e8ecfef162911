r"""The one number that plain text names, exactly.

A text that is not understood names no number: a multiplying word (`2 dozen`), a relation (`x > 5`), a second number, an
expression to be evaluated. Everything here takes linear time.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

from pdr_dspy.text import number_words as tables
from pdr_dspy.text.arithmetic import DECIMAL, evaluated
from pdr_dspy.text.labels import ANSWER_KEYS, key
from pdr_dspy.text.neutral_words import is_neutral, leave_its_value
from pdr_dspy.text.plain_signs import DEGREE, SPACES, UPRIGHT, WORDS, in_larger_coins, in_plain_signs
from pdr_dspy.text.plain_signs import signs as signs
from pdr_dspy.text.quantities import is_quantity
from pdr_dspy.text.signal_words import DOUBTS
from pdr_dspy.text.spelled import NUMERALS, in_digits, spelled
from pdr_dspy.text.spelled_elsewhere import in_other_words

MAX_DIGITS = 1_000
"""Maximum digits of one number, and maximum power of ten; a longer number is not read."""
PLAIN_INTEGER = re.compile(r"-?[0-9]{1,15}")


def read_number(text: str) -> Fraction | None:
    """The one number that a text of one line (see `signs`) names; None if it names none or several.

    Of an equation the last side counts, and only if the others are names (`m+n = 204`) or have the same value
    (`2+3 = 5`).
    """
    if PLAIN_INTEGER.fullmatch(text):  # the most frequent case
        return Fraction(int(text))
    text = in_larger_coins(_without_reason(_UNDERLINED.sub(r"\2", text)))
    plain = in_plain_signs(in_words(text) or _NOT_BUT.sub("", _INSTEAD_OF.sub("", text)))
    sides = _EQUALS.split(plain)
    if len(sides) > 1 and _SHORT_SCALE.search(sides[-1]) and not _CURRENCY.search(text):
        return None  # x = 3k
    if len(sides) == 2 and re.fullmatch(r"[A-Za-z]", sides[1]):  # 3 = x
        sides.reverse()
    value = _one_number(sides[-1]) if len(sides) <= _SIDES else None
    if value is None or len(sides) == 1:
        return value
    approximate = "≈" in plain or r"\approx" in plain
    if any(re.search(r"[,;]\s*[A-Za-z]\w*$", side) for side in sides[1:-1]):
        return None  # n = 7, m = 7
    for place, side in enumerate(sides[:-1]):
        if not side.strip():
            if place:
                return None
        elif not is_quantity(side, zero=value == 0):
            other = _one_number(side)
            other = evaluated(side, _is_unit) if other is None else other
            if other is None or not (other == value or (approximate and abs(other - value) * 100 <= abs(value))):
                return None
    return value


_UNDERLINED = re.compile(r"^(_{1,3})([^_]+)\1$")
"""`__64__`, for bold."""
_SHORT_SCALE = re.compile(r"[0-9][kKMB](?![A-Za-z])")
_CURRENCY = re.compile(r"[$€£¥₹]")
_REASON = re.compile(
    r"(?<=\S),?\s(?:(?:because|since)(?!\S)|as(?=\s(?:we|it|the|shown|required|[0-9(])(?![A-Za-z]))).*", re.I
)
_DOUBT = re.compile(
    rf"\b(?:not|{DOUBTS})\b|n['’]t\b",
    re.I,
)


def _without_reason(text: str) -> str:
    """The text without a reason at its end: `7 because 3+4`."""
    if "because" not in text and " since " not in text and " as " not in text:
        return text
    reason = _REASON.search(text)
    return text if reason is None or _DOUBT.search(text, reason.start()) else text[: reason.start()]


_FIGURES = r"[-+]?\$?[0-9][0-9.,]{0,40}%?"
_INSTEAD_OF = re.compile(  # `42, not 41`, `42 (previously 41)`
    r"(?:(?<=[0-9%)])\s?|,\s|\s(?=\())\(?(?:(?:and|but)\s)?(?:not|rather than|instead of|previously|formerly|was"
    rf"|corrected from|(?<=\()(?:i )?(?:first|initially|originally|earlier) [a-z]{{3,9}})\s{_FIGURES}(?:\)|(?<![.,]))$",
    re.I,
)
_NOT_BUT = re.compile(rf"^not\s{_FIGURES},?\sbut\s(?:rather\s)?(?=\$?[-+]?[0-9])", re.I)


def in_words(text: str) -> str | None:
    """A text that is a number in words, with or without a unit, with the number in digits; None for any other."""
    whole = WORDS.fullmatch(text)
    text = whole[1] if whole else text
    return in_digits(text) or in_other_words(text)


def is_date(text: str) -> bool:
    """Whether a text names a day: `June 20`, `4 July 1776`."""
    return _DATE.search(text) is not None


def is_percentage(text: str) -> bool:
    """Whether the number in a text is a percentage."""
    return "%" in text or "％" in text or tables.PERCENT.search(text) is not None


def unit_of(text: str) -> str | None:
    """The unit after (or the currency before) the only number of a text; None if none is known."""
    text = in_larger_coins(signs(text).strip(" .*_`"))
    text = in_words(text) or text
    text = SPACES.sub(" ", WORDS.sub(lambda words: f" {words[1]} ", text).replace(r"\ ", " ").replace(r"\,", " "))
    text = text.replace("$$", "")
    if DEGREE.search(text):
        return "degree"
    if re.match(r"(?:.*=)?\s?-?\s?\\\$\s?[0-9.]|(?:.*=)?\s?-?\s?\$\s?[0-9.][^$]*$", text):
        return "dollar"
    if re.match(r"(?:.*=)?\s?-?\s?€\s?[0-9.]", text):
        return "euro"
    behind = re.search(r"[0-9.})]\s?([A-Za-z][A-Za-z/. ]*(?:\s?\^\s?\{?[2-9]\}?|[²³])?)$", text.strip("$ "))
    return tables.unit_named(SPACES.sub(" ", behind[1])) if behind else None


_SIDES = 12
_EQUALS = re.compile(r"\s?(?:(?<![<>!:=~])={1,2}(?![=<>])|:=|≈|\\approx(?![A-Za-z]))\s?")
_SCALE_NAMES = "|".join(sorted(tables.SCALES, key=len, reverse=True))
_NUMBER = re.compile(
    rf"(?P<sign>(?:(?<![A-Za-z0-9)}}\]])|(?<=[A-Za-z] ))[+-]\s?|\b(?:minus|negative)\s)?"
    rf"(?:(?P<power>10\s?\^\s?(?:\{{\s?)?(?P<ten>[+-]?[0-9]{{1,6}})\s?\}}?)"
    rf"|(?P<mixed>[0-9]{{1,9}}) (?P<part>[0-9]{{1,9}})\s?/\s?(?P<of>[0-9]{{1,9}})"
    rf"|(?P<over>{DECIMAL})(?:\s?/\s?(?P<under>[+-]?(?:{DECIMAL}))"
    rf"|\s?[×x*]\s?10\s?\^\s?(?:\{{\s?)?(?P<exp1>[+-]?[0-9]{{1,6}})\s?\}}?|[eE](?P<exp2>[+-]?[0-9]{{1,6}}))?"
    rf"(?:[ -]?(?P<scale>{_SCALE_NAMES})s?\b|(?P<short>(?-i:[kKMB]))(?=$|[\s.,;:!?)%])(?!\s?[(^]))?)",
    re.I,
)
_SYMBOLS = re.compile(r"[\\^_<>≤≥≠±∓√∛π∞⌊⌋⌈⌉∪∩∈∉≡|!×²³⁰¹⁴-⁹₀-₉+*‰‱′″→@{}?…]|\.\.|^[.\u0300-\u036f]")
_WORD = re.compile(r"[^\W\d_]+")
_LETTER = re.compile(r"(?<![A-Za-z'])[A-Za-z](?![A-Za-z'])")
# `There are 5 cases. We take the first` mentions a number in passing; `5 sq. ft` does not.
_CLOCK = re.compile(r"(?<![0-9])[0-9]{1,2}\.[0-5][0-9]\s?(?:[ap]\.?m\b|o'clock|Uhr\b)", re.I)
_MONTHS = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)"
)
_DATE = re.compile(
    rf"\b{_MONTHS}\.?\s[0-9]{{1,4}}(?![0-9,]*[0-9]{{3}})|(?<![0-9])[0-9]{{1,2}}(?:st|nd|rd|th)?\s(?:of\s)?{_MONTHS}\b(?!\s[a-z])"
)
_MORE_SENTENCES = re.compile(r"(?:^|[A-Za-z]{4})[.!?]\s+\S")
_SAME_AGAIN = re.compile(r"\s?[=≈]\s?|.*\b(?:answer|result|so|thus|hence|therefore|total|that is|i\.e\.)\b.*", re.I)


def _one_number(text: str) -> Fraction | None:
    """The value of the only number in plain text, if the words around it leave it a plain value."""
    if _CLOCK.search(text) or is_date(text):
        return None
    values: list[Fraction] = []
    rest: list[str] = []  # the pieces around the numbers: one more than numbers
    position = 0
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is None or len(values) > 8:
            return None
        before = text[position : match.start()]
        if before and (before[-1].isalnum() or (before[-1] in "./:,;'#" and not re.fullmatch(r"(?:#+|No\.)", before))):
            return None
        values.append(value)
        rest.append(before)
        position = match.end()
    rest.append(text[position:])
    around = "".join(rest)
    if any(around.count(left) != around.count(right) for left, right in ("()", "[]")) or around.count("%") > 1:
        return None
    if len(set(values)) != 1:
        return None
    if any(not _SAME_AGAIN.fullmatch(piece) for piece in rest[1:-1]):
        return None  # `5:5`, `(3, 3)`, `5 plus 5`: the same number twice is not one number
    rest[-1] = _without_repetition(rest[-1], values[0])
    if any(_NTH.search(left) and _ORDINAL_ENDING.match(right) for left, right in pairwise(rest)):
        return None  # one 42nd, a 5th: fractions
    if any(_changes_value(piece, before=place < len(values), after=place > 0) for place, piece in enumerate(rest)):
        return None
    return values[0]


def _without_repetition(piece: str, value: Fraction) -> str:
    """Recognises that `42 (forty-two)` states the same number twice."""
    again = re.fullmatch(r"\s?\(([A-Za-z, -]{2,80})\)(.*)", piece)
    return again[2] if again and spelled(again[1]) == value else piece


def _changes_value(piece: str, *, before: bool, after: bool) -> bool:
    """Whether the words on one side of a number change it from a plain value with a unit."""
    if not piece or piece.isspace():
        return False
    if _SYMBOLS.search(piece) or tables.PHRASES.search(piece) or any(char in piece for char in tables.FOREIGN_DIGITS):
        return True
    written = _WORD.findall(piece)
    found = [word.lower() for word in written]
    if any(word in tables.NOT_PLAIN or word in tables.FOREIGN_SCALES or tables.is_scale(word) for word in found):
        return True
    if any(word in NUMERALS and word != "one" for word in found):
        return True
    if after and _changes_value_after(piece, found):
        return True
    if before and ((found and found[-1] in tables.BEFORE | tables.DOZENS) or _part_of(piece)):
        return True
    letters = set(_LETTER.findall(piece)) - {"a", "A", "I"}
    if letters - tables.LETTERS if after else letters:
        return True
    if before and piece.isascii() and tables.STATES.search(piece) and not piece.rstrip().endswith(":"):
        return False  # the subject of a sentence may be any
    if before and piece.rstrip().endswith(":") and key(piece) in ANSWER_KEYS:
        return False
    if any(word in _OTHER_FACTORS for word in written):
        return True
    if not leave_its_value([word.removeprefix(UPRIGHT) or word for word in found], behind=after, last=not before):
        return True
    return any((len(word) > 1 or not word.isascii()) and not _is_word(word, behind=after) for word in found)


def _is_unit(word: str) -> bool:
    return not _changes_value(f" {word}", before=False, after=True)


_OTHER_FACTORS = ("MM", "Mm")
"""Millions, and no millimetres."""


def _is_word(word: str, *, behind: bool) -> bool:
    """Whether letters are a word that leaves a number its value, not variables nor a word that is not understood."""
    if is_neutral(word, behind=behind):
        return True
    if word.startswith(UPRIGHT):
        word = word.removeprefix(UPRIGHT)
        return len(word) == 1 or _glued(word) or is_neutral(word, behind=behind)
    return behind and len(word) < 4 and (word in _ORDINAL or _glued(word))


_ORDINAL = ("th", "st", "nd", "rd")
_NTH = re.compile(r"\b(?:a|an|one)\s$", re.I)
_ORDINAL_ENDING = re.compile(rf"(?:{'|'.join(_ORDINAL)})\b", re.I)


def _changes_value_after(piece: str, found: list[str]) -> bool:
    glued = re.match(r"(-?)([^\W\d_]+)(.*)", piece, re.S)
    if glued and not glued[1]:
        word = glued[2]
        if word.lower() in _ORDINAL:
            return bool(glued[3].strip(" ."))  # the 5th prime is not 5
        if len(word) < 4 and word.isascii() and not _glued(word) and word not in tables.GLUED_LETTERS:
            return True
    if glued and glued[1] and tables.unit_named(glued[2]) is None:
        return True  # a 5-digit number is not 5
    if found and (found[0] in tables.AFTER or found[0] in tables.DOZENS) and re.match(r"[\s-]*[^\W\d_]", piece):
        return True
    if re.match(r"\s?['\"]|\s?/\s*$|\s?%\s?(?:more|extra|higher|larger|greater|bigger)\b", piece):
        return True
    if tables.SAYS_MORE.match(piece):
        return True
    if found and found[0] == "times" and len(found) > 1:
        return True
    if _MORE_SENTENCES.search(piece):
        return True
    if remark := re.match(r"\s?\((.*)\)", piece):
        return tables.unit_named(remark[1]) is None  # `5 (or 6)`, `25 (a square)`
    return re.match(r"\s?(?::|-\s?(?![A-Za-z]{2})|\()", piece) is not None


def _part_of(piece: str) -> bool:
    if re.search(r"(?<![A-Za-z)]):|[A-Za-z]\($", piece):  # f(5) is not 5
        return True
    if tables.PARTS.search(piece) or re.search(r"[-+]\s?\(?\s*$", piece):
        return True
    derived = tables.DERIVED.search(piece)
    return derived is not None and not tables.WHOLES.search(piece) and not tables.STATES.search(piece)


def _glued(word: str) -> bool:
    return tables.GLUED.fullmatch(word) is not None


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > MAX_DIGITS or match["scale"] == "MN":  # a unit of force too
        return None
    if match["power"]:
        value = _times_ten(Fraction(1), match["ten"])
    elif match["mixed"]:
        value = _ratio(match["part"], match["of"])
        value = value if value is not None and value < 1 else None  # 12 3/2
        value = None if value is None else value + int(match["mixed"])
    else:
        value = _ratio(match["over"], match["under"] or "1")
        if value is not None and (exponent := match["exp1"] or match["exp2"]):
            value = _times_ten(value, exponent)
        if value is not None and match["scale"]:
            value *= tables.SCALES[match["scale"].lower()]
        if value is not None and match["short"]:
            value *= tables.SHORT_SCALES[match["short"]]
    negative = (match["sign"] or "").strip().lower() in ("-", "minus", "negative")
    return -value if negative and value is not None else value


def _ratio(over: str, under: str) -> Fraction | None:
    top, bottom = (Fraction(part.replace(",", "").replace(" ", "").rstrip(".")) for part in (over, under))
    return top / bottom if bottom else None


def _times_ten(value: Fraction, exponent: str) -> Fraction | None:
    power = int(exponent)
    return value * Fraction(10) ** power if abs(power) <= MAX_DIGITS else None
