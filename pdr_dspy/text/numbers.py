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
from pdr_dspy.text.neutral_words import is_neutral, is_unit_elsewhere, leave_its_value
from pdr_dspy.text.spelled import NUMERALS, in_digits, spelled
from pdr_dspy.text.spelled_elsewhere import in_other_words

MAX_DIGITS = 1_000
"""Maximum digits of one number, and maximum power of ten; a longer number is not read."""

_ZEROS = (0xFF10, 0x660, 0x6F0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xE50, 0xED0, 0x1040, 0x17E0)
"""Full-width digits, and those of Arabic, Persian, the scripts of India, Thai, Lao, Burmese and Khmer."""
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–—‒﹣－‐‑", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2007\u2008\t\n\r~", " "),  # spaces of all widths
        **{chr(zero + digit): str(digit) for zero in _ZEROS for digit in range(10)},
        **{"٫": ".", "٬": ","},
        **{"，": ",", "．": ".", "：": ":", "％": "%", "＝": "=", "⁄": "/", "∕": "/", "’": "'", "÷": "/"},
    }
)
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5"}
_VULGAR |= {"⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_TEN_TO = re.compile(r"(?<![0-9.])(10)([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox)\s?\{([^{}]*)\}")
_UNIT_POWER = re.compile(
    r"(?<=[A-Za-z]{2})\s?\^\s?(?:\{\s?-?[1-9]\s?\}|[1-9])(?![0-9])"
    r"|(?:(?<=[A-Za-z]{2})|(?<=[0-9][a-z])|(?<=[0-9] [a-z])|(?<=[A-Za-z]/[a-z]))[²³]"
    r"|(?<=[A-Za-z]/[a-z])\s?\^\s?(?:\{\s?[23]\s?\}|[23])(?![0-9])"
)
_DEGREE = re.compile(r"\s?(?:\^\s?\{?\s?(?:\\circ|\\degree|∘)\s?\}?|°|º|\\degree|\\circ\b)(?:\s?([CFK])\b)?")
_SPACING = re.compile(r"\\[,;:! ]|\\(?:quad|qquad|left|right|displaystyle|big|Big|phantom)(?![A-Za-z])|\\[()\[\]]")
_THOUSANDS = re.compile(  # unambiguous separators: `1{,}000`, `10,\!080`, `1,{}000`, `1\,000`, `1'000`
    r"(?<=[0-9])(?:\{\s?,\s?\}|\\!|,(?=\s?(?:\\!|\{\}))|\{,\s?\\!\}|\\[,;: ]|\\thinspace|'|\\text\s?\{,\})\s?"
    r"(?:(?:\\[!,]|\{\})\s?){0,3}(?=[0-9]{3}(?![0-9]))"
)
_THIN = re.compile(r"(?<=[0-9]),\s?\\[,;:>]\s?(?=[0-9]{3}(?![0-9]))")
r"""`15,\,625`; between brackets it separates a list: `(2,\,400)`."""
_BRACKET = re.compile(r"\$?(?:\\left|\\)?\s?[(\[{]")
_UNDERSCORED = re.compile(r"(?<![0-9A-Za-z_.\\])[0-9]{1,3}(?:_[0-9]{3}){2,}(?![0-9A-Za-z_])")
"""`1_000_000`; `1_000` alone may be a number with its base."""
_LAKHS = re.compile(r"(?<![0-9.,])[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9,])")
_POINTED = re.compile(r"(?<![0-9A-Za-z.,])[0-9]{1,3}(?:\.[0-9]{3}){2,6}(?:,[0-9]{1,12})?(?![0-9A-Za-z.,])")
"""`1.234.567,89`; with one point it may be a decimal."""
_DECIMAL_COMMA = re.compile(
    r"^([^0-9()\[\]{}]*[0-9]{1,12}),([0-9]{1,2})(?=\s?(?:([€£¥₹%°]|\\%|[^\W\d_](?:[^\W\d_]|/){0,12})[ C.]{0,2}(?:\^?[23²³])?\.?)?$)"
)
"""`3,5 kg`, `€3,50`; without a unit or a currency it may be two numbers."""
_CURRENCY_BEFORE = re.compile(r"[€£¥₹$]\s?-?[0-9]{1,12}$")
_REPEATING = re.compile(r"([0-9]{0,50})\.([0-9]{0,50})\\overline\s?\{\s?([0-9]{1,50})\s?\}")
_FRAC = re.compile(
    r"(-?)\s?\\[dtc]?frac\s?(?:\{\s?([+-]?[0-9.,]{1,1000})\s?\}|([0-9]))\s?(?:\{\s?([+-]?[0-9.,]{1,1000})\s?\}|([0-9]))"
)
_AND_PART = re.compile(
    r"(?<=[0-9])\s(?:and\s)?(?:a|one)[ -](half|third|quarter)\b|(?<=[0-9])\sand\s(two[ -]thirds|three[ -]quarters)\b",
    re.I,
)
_PART = {"half": "1/2", "third": "1/3", "quarter": "1/4", "two thirds": "2/3", "three quarters": "3/4"}
_SPACES = re.compile(r"\s+")


def signs(text: str) -> str:
    """The text in one line, with typographic signs, spaces and digits replaced by plain ones."""
    return _SPACES.sub(" ", text.translate(_SIGNS))


def read_number(text: str) -> Fraction | None:
    """The one number that a text of one line (see `signs`) names; None if it names none or several.

    Of an equation the last side counts, and only if the others are names (`m+n = 204`) or have the same value
    (`2+3 = 5`).
    """
    text = _in_larger_coins(_without_reason(_UNDERLINED.sub(r"\2", text)))
    plain = _plain(in_words(text) or _NOT_BUT.sub("", _INSTEAD_OF.sub("", text)))
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
        elif not _is_quantity(side, zero=value == 0):
            other = _one_number(side)
            other = evaluated(side, _is_unit) if other is None else other
            if other is None or not (other == value or (approximate and abs(other - value) * 100 <= abs(value))):
                return None
    return value


_UNDERLINED = re.compile(r"^(_{1,3})([^_]+)\1$")
"""`__64__`, for bold."""
_SHORT_SCALE = re.compile(r"[0-9][kKMB](?![A-Za-z])")
_CURRENCY = re.compile(r"[$€£¥₹]")
_COINS = {"dollar": "cent", "euro": "cent", "pound": "penny pence p", "rupee": "paisa paise"}
_IN_COINS = re.compile(
    r"(?:(?P<sign>[$€£₹])\s?)?(?P<whole>[0-9]{1,12}|[0-9]{1,3}(?:,[0-9]{3}){1,4})(?:\s(?P<name>dollar|euro|pound|rupee)s?)?,?"
    r"\s(?:and\s)?(?P<part>[0-9]{1,2})\s?(?P<coin>cents?|pence|penny|p|paisa|paise)\b",
    re.I,
)
"""`5 dollars and 25 cents`"""
_SIGN_NAMES = {"$": "dollar", "€": "euro", "£": "pound", "₹": "rupee"}


def _in_larger_coins(text: str) -> str:
    """`5 dollars and 25 cents` as `5.25 dollars`."""
    return _IN_COINS.sub(_one_amount, text) if re.search(r"cent|pence|penny|pais|[0-9]\s?p\b", text, re.I) else text


def _one_amount(amount: re.Match[str]) -> str:
    sign, name = amount["sign"], amount["name"]
    if (sign is None) == (name is None):
        return amount.group()
    unit = name.lower() if name else _SIGN_NAMES[sign]
    if tables.singular(amount["coin"].lower()) not in _COINS[unit].split():
        return amount.group()
    return f"{amount['whole']}.{int(amount['part']):02} {unit}s"


_REASON = re.compile(
    r"(?<=\S),?\s(?:(?:because|since)(?!\S)|as(?=\s(?:we|it|the|shown|required|[0-9(])(?![A-Za-z]))).*", re.I
)
_DOUBT = re.compile(
    r"\b(?:not|or|wrong|incorrect|correct(?:ed|ion)|actually|wait|maybe|perhaps|instead|but|should|unless|if)\b|n['’]t\b",
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
    whole = _WORDS.fullmatch(text)
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
    text = _in_larger_coins(signs(text).strip(" .*_`"))
    text = in_words(text) or text
    text = _SPACES.sub(" ", _WORDS.sub(lambda words: f" {words[1]} ", text).replace(r"\ ", " ").replace(r"\,", " "))
    text = text.replace("$$", "")
    if _DEGREE.search(text):
        return "degree"
    if re.match(r"(?:.*=)?\s?-?\s?\\\$\s?[0-9.]|(?:.*=)?\s?-?\s?\$\s?[0-9.][^$]*$", text):
        return "dollar"
    if re.match(r"(?:.*=)?\s?-?\s?€\s?[0-9.]", text):
        return "euro"
    behind = re.search(r"[0-9.})]\s?([A-Za-z][A-Za-z/. ]*(?:\s?\^\s?\{?[2-9]\}?|[²³])?)$", text.strip("$ "))
    return tables.unit_named(_SPACES.sub(" ", behind[1])) if behind else None


_SIDES = 12
_EQUALS = re.compile(r"\s?(?:(?<![<>!:=~])={1,2}(?![=<>])|:=|≈|\\approx(?![A-Za-z]))\s?")


def _plain(text: str) -> str:
    """The answer with LaTeX spacing, currency and simple fractions written in plain characters."""
    for sign, value in _VULGAR.items():
        text = text.replace(sign, f" {value}")
    text = _POINTED.sub(_without_points, text)
    text = _with_decimal_point(text)
    text = _THOUSANDS.sub(",", text)
    if "\\" in text and not _BRACKET.match(text):
        text = _THIN.sub(",", text)
    text = _UNDERSCORED.sub(lambda digits: digits.group().replace("_", ""), text)
    text = _LAKHS.sub(lambda digits: digits.group().replace(",", ""), text)
    text = _TEN_TO.sub(lambda ten: f"{ten[1]}^{{{ten[2].translate(_SUPERSCRIPTS)}}}", text)
    text = text.replace("\\$", "").replace("\\%", "%").replace("`", "")
    text = re.sub(r"(?<![0-9A-Za-z)])\*\*|\*\*(?![0-9A-Za-z(])", "", text)
    text = re.sub(r"\bhalf[- ]hour", "halfhour", re.sub(r"^\{([^{}]*)\}$", r"\1", text))
    text = _IN_WORDS_TOO.sub(_without_words, text)
    for _ in range(3):
        text = _WORDS.sub(lambda words: f" {_as_unit(words[1])}", text)
    text = tables.PERCENT.sub("%", tables.PERCENTAGE_POINTS.sub(" points", text))
    text = _UNIT_POWER.sub("", _DEGREE.sub(" degrees", text))
    text = _REPEATING.sub(_repeating, _SPACING.sub(" ", text))
    text = _FRAC.sub(
        lambda frac: f" {frac[1]}{_unsigned_ratio(frac[2] or frac[3], frac[4] or frac[5])} ",
        text,
    )
    text = _AND_PART.sub(lambda part: f" {_PART[(part[1] or part[2]).lower().replace('-', ' ')]}", text)
    text = re.sub(r"(?:\b(?:US|CA|AU|NZ|HK))?[$€£¥₹]|\\(?:pounds|euro)\b", "", text)
    text = re.sub(r"\\(?:cdot|times)(?![A-Za-z])|×|·", "×", text)
    return _SPACES.sub(" ", text).strip()


def _with_decimal_point(text: str) -> str:
    """`3,5 kg` as `3.5 kg`."""
    comma = _DECIMAL_COMMA.match(text)
    if comma is None:
        return text
    unit = comma[3]
    if unit is None:
        measured = _CURRENCY_BEFORE.search(comma[1]) is not None
    else:
        measured = not unit[0].isalpha() or tables.unit_named(unit) is not None or is_unit_elsewhere(unit.lower())
    return f"{comma[1]}.{comma[2]}{text[comma.end() :]}" if measured else text


def _without_points(digits: re.Match[str]) -> str:
    parts = digits.group().split(".")
    if len(parts) == 4 and all(part.isdigit() and int(part) < 256 for part in parts):
        return digits.group()  # an address of a network
    return digits.group().replace(".", "").replace(",", ".")


def _repeating(decimal: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as `15/90`."""
    whole, fixed, period = decimal[1] or "0", decimal[2], decimal[3]
    over = int(whole + fixed + period) - int(whole + fixed)
    return f"{over}/{(10 ** len(period) - 1) * 10 ** len(fixed)}"


_IN_WORDS_TOO = re.compile(r"^([A-Za-z]{3,9}(?:[ -][A-Za-z]{3,9}){0,8}) \((-?[0-9,]{1,20})\)")


def _without_words(twice: re.Match[str]) -> str:
    """`five (5)` as `5`."""
    return twice[2] if str(spelled(twice[1])) == twice[2].replace(",", "") else twice[0]


def _as_unit(words: str) -> str:
    """Words in upright type are never variables: `m` becomes a word of more than one letter."""
    return re.sub(r"(?<![A-Za-z])([a-z]{1,3})(?![A-Za-z])", _upright, words)


_UPRIGHT = "unit"
"""Marks letters in upright type."""


def _upright(word: re.Match[str]) -> str:
    spoils = word[1] in tables.DOZENS | tables.NOT_PLAIN | tables.BEFORE | tables.AFTER or word[1] in tables.SCALES
    return word[1] if spoils or word[1] in tables.SHORT_NOUNS else f"{_UPRIGHT}{word[1]}"


def _unsigned_ratio(over: str, under: str) -> str:
    """`-3`, `4` as `-3/4`: the sign moves to the front; a double sign is rejected later as unreadable."""
    if under.startswith("-"):
        over, under = (over[1:] if over.startswith("-") else f"-{over}"), under[1:]
    return f"{over}/{under.lstrip('+')}"


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
    if any(word in tables.NOT_PLAIN or word in tables.FOREIGN_SCALES or _is_scale(word) for word in found):
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
    if not leave_its_value([word.removeprefix(_UPRIGHT) or word for word in found], behind=after, last=not before):
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
    if word.startswith(_UPRIGHT):
        word = word.removeprefix(_UPRIGHT)
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


def _is_scale(word: str) -> bool:
    return word in tables.SCALES or (word.endswith("s") and word[:-1] in tables.SCALES)


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


# ------------------------------------------------------------------------------------------------- sides of equations

_NAMED = (
    r"(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|phi|omega|sigma|rho|angle|triangle|overline|overrightarrow|ell"
    r"|measuredangle|vec|hat|bar)"
)
_QUANTITY = re.compile(
    rf"(?P<name>\\{_NAMED}(?![A-Za-z])|[^\W\d_]+)(?:_\s?(?:\{{[A-Za-z0-9,+ -]{{1,20}}\}}|[A-Za-z0-9]+))?'*"
    r"(?P<of>\([A-Za-z0-9, .+-]{1,20}\))?|(?P<sign>[+*/^·×|\[\]{}() .:-])|(?P<figure>[0-9]+)"
)
_OPENING = re.compile(r"(?:so|thus|hence|therefore|then|and|finally|answer|final answer|the answer is)\s?[,:]?\s", re.I)
_SEGMENT = re.compile(r"(?:\\[a-z]+ ?|[|\[{ ])*(?:[A-Z]{1,4}|[A-Za-z]_\{[^{}]*\}|[a-z](?=\}))[|\]} ]*(?:\^2)?")
_NOT_A_FUNCTION = frozenset("abcdeiklmnorstuvwxyz")


def _is_quantity(side: str, *, zero: bool) -> bool:
    """Whether one side of an equation only names the quantity on the other side.

    A name does (`x`, `f(2)`, `AB`, `Total cost`), and so does an expression in several names (`m+n`, `100m+n`), whose
    value determines none of them; `a + 3z = 0` states no value but an equation. `2x = 4` does not state 4.
    """
    side = side.strip()
    while opening := _OPENING.match(side):
        side = side[opening.end() :]
    if len(side) > 200 or tables.PHRASES.search(side):
        return False
    position, names, nouns, worked = 0, set[str](), set[str](), False
    for token in _QUANTITY.finditer(side):
        if token.start() != position:
            return False
        position = token.end()
        name = token["name"]
        if name is None:
            worked = worked or token["figure"] is not None or token["sign"] in "+*/^·×-"
            continue
        lower = name.lstrip("\\").lower()
        if lower in tables.NOT_PLAIN or lower in tables.AFTER or not lower.isalpha():
            return False
        if lower in tables.FOREIGN_SCALES or (len(lower) > 3 and (_is_scale(lower) or lower in tables.DOZENS)):
            return False
        if token["of"] and (name in _NOT_A_FUNCTION or len(name) > 3):
            return False
        if len(name) == 1 or name.startswith("\\"):
            names.add(token.group())
        elif len(name) <= 3 and lower not in tables.SHORT_NOUNS:
            names.update(name)
        else:
            nouns.add(lower)
    if (
        position != len(side)
        or not (names or nouns)
        or (re.search(r"[|\[\]{}]", side) and not _SEGMENT.fullmatch(side))
    ):
        return False
    if nouns:
        return not any(char.isdigit() for char in side)
    plain = not zero or not re.search(r"[0-9*/^·×]", side)
    return not worked or _SEGMENT.fullmatch(side) is not None or (len(names) > 1 and plain)
