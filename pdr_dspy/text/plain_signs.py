"""A number in plain characters: signs, separators, decimal commas, amounts in two coins, simple fractions, units."""

from __future__ import annotations

import re

from pdr_dspy.text import number_words as tables
from pdr_dspy.text.neutral_words import is_unit_elsewhere
from pdr_dspy.text.spelled import spelled

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
WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox)\s?\{([^{}]*)\}")
_UNIT_POWER = re.compile(
    r"(?<=[A-Za-z]{2})\s?\^\s?(?:\{\s?-?[1-9]\s?\}|[1-9])(?![0-9])"
    r"|(?:(?<=[A-Za-z]{2})|(?<=[0-9][a-z])|(?<=[0-9] [a-z])|(?<=[A-Za-z]/[a-z]))[²³]"
    r"|(?<=[A-Za-z]/[a-z])\s?\^\s?(?:\{\s?[23]\s?\}|[23])(?![0-9])"
)
DEGREE = re.compile(r"\s?(?:\^\s?\{?\s?(?:\\circ|\\degree|∘)\s?\}?|°|º|\\degree|\\circ\b)(?:\s?([CFK])\b)?")
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
    r"^([^0-9()\[\]{}]*[0-9]{1,12}),([0-9]{1,2})"
    r"(?=\s?(?:([€£¥₹%°]|\\%|[^\W\d_](?:[^\W\d_]|/){0,12})[ C.]{0,2}(?:\^?[23²³])?\.?)?$)"
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
SPACES = re.compile(r"\s+")


def signs(text: str) -> str:
    """The text in one line, with typographic signs, spaces and digits replaced by plain ones."""
    return SPACES.sub(" ", text.translate(_SIGNS))


_COINS = {"dollar": "cent", "euro": "cent", "pound": "penny pence p", "rupee": "paisa paise"}
_IN_COINS = re.compile(
    r"(?:(?P<sign>[$€£₹])\s?)?(?P<whole>[0-9]{1,12}|[0-9]{1,3}(?:,[0-9]{3}){1,4})(?:\s(?P<name>dollar|euro|pound|rupee)s?)?,?"
    r"\s(?:and\s)?(?P<part>[0-9]{1,2})\s?(?P<coin>cents?|pence|penny|p|paisa|paise)\b",
    re.I,
)
"""`5 dollars and 25 cents`"""
_SIGN_NAMES = {"$": "dollar", "€": "euro", "£": "pound", "₹": "rupee"}


def in_larger_coins(text: str) -> str:
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


def in_plain_signs(text: str) -> str:
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
    text = _INWORDS_TOO.sub(_without_words, text)
    for _ in range(3):
        text = WORDS.sub(lambda words: f" {_as_unit(words[1])}", text)
    text = tables.PERCENT.sub("%", tables.PERCENTAGE_POINTS.sub(" points", text))
    text = _UNIT_POWER.sub("", DEGREE.sub(" degrees", text))
    text = _REPEATING.sub(_repeating, _SPACING.sub(" ", text))
    text = _FRAC.sub(
        lambda frac: f" {frac[1]}{_unsigned_ratio(frac[2] or frac[3], frac[4] or frac[5])} ",
        text,
    )
    text = _AND_PART.sub(lambda part: f" {_PART[(part[1] or part[2]).lower().replace('-', ' ')]}", text)
    text = re.sub(r"(?:\b(?:US|CA|AU|NZ|HK))?[$€£¥₹]|\\(?:pounds|euro)\b", "", text)
    text = re.sub(r"\\(?:cdot|times)(?![A-Za-z])|×|·", "×", text)
    return SPACES.sub(" ", text).strip()


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


_INWORDS_TOO = re.compile(r"^([A-Za-z]{3,9}(?:[ -][A-Za-z]{3,9}){0,8}) \((-?[0-9,]{1,20})\)")


def _without_words(twice: re.Match[str]) -> str:
    """`five (5)` as `5`."""
    return twice[2] if str(spelled(twice[1])) == twice[2].replace(",", "") else twice[0]


def _as_unit(words: str) -> str:
    """Words in upright type are never variables: `m` becomes a word of more than one letter."""
    return re.sub(r"(?<![A-Za-z])([a-z]{1,3})(?![A-Za-z])", _upright, words)


UPRIGHT = "unit"
"""Marks letters in upright type."""


def _upright(word: re.Match[str]) -> str:
    spoils = word[1] in tables.DOZENS | tables.NOT_PLAIN | tables.BEFORE | tables.AFTER or word[1] in tables.SCALES
    return word[1] if spoils or word[1] in tables.SHORT_NOUNS else f"{UPRIGHT}{word[1]}"


def _unsigned_ratio(over: str, under: str) -> str:
    """`-3`, `4` as `-3/4`: the sign moves to the front; a double sign is rejected later as unreadable."""
    if under.startswith("-"):
        over, under = (over[1:] if over.startswith("-") else f"-{over}"), under[1:]
    return f"{over}/{under.lstrip('+')}"
