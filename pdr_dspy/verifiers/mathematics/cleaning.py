"""Normalises the text of an answer: signs, thousands separators, phrases, repeating decimals."""

from __future__ import annotations

import re

from pdr_dspy.text import number_words
from pdr_dspy.verifiers.mathematics import units, vocabulary

_TABLE = str.maketrans(vocabulary.UNICODE)
_SUPER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni")
_SUB = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_MIXED_VULGAR = re.compile(r"(?<=[0-9])\s?\{(\\frac\{[0-9]\}\{[0-9]\})\}")
_SEPARATOR = (
    r"(?:,\s?\{\s?\}|\{\s?\},"
    r"|\{\s?,\s?\}(?:\s?\\!)*|\{\s?,\s?\\!\s?\}|,\s?(?:\\!\s?)+|(?:\\!\s?)+,?(?:\\!)?|\\[,;: ]|\\thinspace\s?"
    r"|\\text\s?\{,\}|\{\\,\}|~|(?<=[0-9])'(?=[0-9]))\s?"
)
_SEPARATED = re.compile(rf"(?<![0-9.])[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}})+(?![0-9])")
_SPACED = re.compile(r"(?<![0-9.,] )(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?! ?[0-9/])")
_COMMAS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])(?!,[0-9])")
_UNDERSCORED = re.compile(r"(?<![0-9A-Za-z_.\\])[0-9]{1,3}(?:_[0-9]{3}){2,}(?![0-9A-Za-z_])")
_ENDLESS = re.compile(
    r"(?<![0-9])([0-9]{0,50})\.([0-9]{3,200})\s?(?:\.\.\.+|…|\\[lc]?dots(?![A-Za-z]))\s*(?=[$}\s).,;]*$)"
)
_PERIOD = re.compile(r"([0-9]*?)([0-9]{1,30}?)(\2{2,}|(?<=[0-9]{3})\2)")
_COMBINATIONS = re.compile(
    r"(?<![A-Za-z0-9)}\]])(?:\{\s?\})?[_^]\s?(?:\{([0-9]{1,6}|[a-z])\}|([0-9]|[a-z]))\s?"
    r"(?:\\(?:mathrm|text)\s?\{([CP])\}|([CP]))\s?_\s?(?:\{([0-9]{1,6}|[a-z])\}|([0-9]|[a-z]))"
)
_TYPED_COMBINATIONS = re.compile(
    r"(?<![A-Za-z0-9_.,\\{])([0-9]{1,4})\s?(?:\\(?:mathrm|text)\s?\{([CP])\}|([CP]))\s?_?([0-9]{1,4})(?![0-9A-Za-z_.}])"
)
"""`{}_{10}C_3`, `10C3`"""
_REPEATING = re.compile(
    r"(?<![0-9])([0-9]{0,50})\.([0-9]{0,50})(?:\\(?:overline|bar|dot)\s?(?:\{\s?([0-9]{1,50})\s?\}|([0-9]))"
    r"|\(([0-9]{1,50})\)(?![0-9]))"
)
_INTEGERS = (
    (
        re.compile(
            r"(?:\\text\s?\{\s*)?,?\s*\(?(?:where|for"
            r"|with)?\s*(?:\}\s*)?\$?\s*([a-zA-Z])\$?\s*(?:\\text\s?\{)?\s*(?:is|are|being)"
            r"\s+(?:an|any|some)\s+(?:arbitrary\s+)?integer\s*\}?\)?\s*$"
        ),
        r", \1\\in\\mathbb{Z}",
    ),
    (
        re.compile(
            r"(?:\\text\s?\{)?\s*,?\s*(?:where|for|with)\s+(?:any|all|every|each"
            r"|some)\s+integers?\s*\}?\s*\$?([a-zA-Z])\$?\s*$"
        ),
        r", \1\\in\\mathbb{Z}",
    ),
)


_HALF_OF_DAY = re.compile(
    r"(?:(?<=:[0-9]{2})\s*|(?<=[0-9])(?:\s|~|\\[,;: ])+|(?<=[0-9])(?=[AP]M)|(?<=[0-9])\s*(?=[AaPp]\.))"
    r"([AaPp])(?:\.\s?|(?=[Mm]))[Mm](?![A-Za-z0-9_^{])\.?"
)
"""`6 pm`, `6:00PM`, `6 p.m.`"""
_IN_WORDS = (
    (re.compile(r"(?<=[0-9])\s+B\.?\s?C\.?(?:\s?E\.?)?\s*$"), r"\\text{ BC}"),
    (re.compile(r"(?<=[0-9])\s+A\.?\s?D\.?\s*$"), r"\\text{ AD}"),
    (  # 20 °C, 5 °N
        re.compile(
            r"(\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree)\s*(?:\\mathrm\s?\{\s?([CFKNSEW])\s?\}|([CFKNSEW]))(?![A-Za-z0-9_^])"
        ),
        r"\1\\text{\2\3}",
    ),
    (  # a system after one brace
        re.compile(
            r"\\left\s?\\\{\s*\\begin\s?\{(array|aligned|matrix)\}(?:\s?\{[lcr| ]*\})?(.*?)"
            r"\\end\s?\{\1\}\s*\\right\s?\.?\s*$",
            re.S,
        ),
        r"\\begin{cases}\2\\end{cases}",
    ),
    (
        re.compile(
            r"(?<![0-9A-Za-z_.])([0-9A-Z]*[0-9][0-9A-Z]*)\s*(?:\\text\s?\{)?\s*\(?(?:in )?base[ -]?"
            r"([0-9]{1,2}|[a-z]{3,8})\)?\s*\}?\s*$"
        ),
        r"\1_{\\text{\2}}",
    ),
    (
        re.compile(
            r"^\s*(?:\\text\s?\{)?\s*(?:all|any|every) real (?:numbers?"
            r"|x) except(?: for)?\s*\}?\s*([(\[][^{}]+,[^{}]+[)\]])"
            r"\s*\}?\s*$"
        ),
        r"\\mathbb{R} \\setminus \1",
    ),
    (
        re.compile(
            r"^\s*(?:\\text\s?\{)?\s*(?:all|any|every) real (?:numbers?|x) except(?: for)?\s*\}?\s*([^{}]+?)"
            r"\s*\}?\s*$"
        ),
        r"\\mathbb{R} \\setminus \\{\1\\}",
    ),
)


_IJK = r"(?:\\(?P<{0}>[ij])math|(?P<{1}>[ijk]))(?![A-Za-z])"
_BOLD = r"\\(?:mathbf|boldsymbol|bm|mathrm)\s?\{\s?"
_UNIT_VECTOR = re.compile(
    r"\\(?:hat|widehat|vec|overrightarrow)\s?"
    rf"(?:\{{\s?{_BOLD}{_IJK.format('a', 'b')}\s?\}}\s?\}}|\{{\s?{_IJK.format('c', 'd')}\s?\}}|{_IJK.format('e', 'f')})"
)
r"""`\hat{i}`, `\vec{j}`, `\hat{\mathbf{k}}`"""
_NUMBERED = re.compile(r"\s*[0-9]{1,9}\s+([A-Za-z]{3,20})\s*")
_BETWEEN = re.compile(r"(,\s?and\s|,|\sand\s)")


def _in_upright_type(text: str) -> str:
    r"""The things counted in a typed list in upright type, as words: `3 red, 4 blue`."""
    pieces = _BETWEEN.split(text)
    found = [_NUMBERED.fullmatch(piece) for piece in pieces[::2]]
    if len(found) < 2 or not all(one and (len(one[1]) > 3 or one[1].lower() in _SHORT) for one in found):
        return text
    return "".join(
        re.sub("[A-Za-z]+", r"\\text{\g<0>}", piece) if place % 2 == 0 else piece for place, piece in enumerate(pieces)
    )


_SHORT = number_words.SHORT_NOUNS - number_words.UNITS.keys()
_LAST_POINT = re.compile(r"\.(?=\s*(?:\\\\|\\end\b))")
"""The full stop at the end of a row of cases."""
_CONSTANT = re.compile(
    r"\+\s*(?:\\(?:text|mathrm|textrm)\s?\{\s*(?:an? |the )?(?:arbitrary )?(?:constants?|const\.?)\s*\}"
    r"|(?:an? |the )?(?:arbitrary )?(?:constant|const\.?))\s*$",
    re.I,
)
_QUANTIFIED = re.compile(
    r"^\s*(?:\\text\s?\{)?\s*(?:\\forall\s|for\s)?\s*(?:all|every|each|any)\s+(?P<kind>(?:(?:odd|even|positive|negative"
    r"|non-?negative|natural|real|rational|prime|composite|integers?|numbers?|values\sof|whole)\s*)*)\}?\s*"
    r"(?P<letter>[A-Za-z])(?![A-Za-z_(])\s*(?P<rest>(?:[<>≤≥]|\\(?:ge|le|geq|leq|ne|neq|equiv|in)(?![A-Za-z])|$).*)$",
    re.S,
)
r"""`\text{all } n \ge 3`"""


def _with_condition(said: re.Match[str]) -> str:
    kind = " ".join(word for word in said["kind"].split() if word not in ("values", "of", "number", "numbers"))
    letter, rest = said["letter"], said["rest"].strip()
    condition = rf"{letter}\text{{ is {kind}}}" if kind else ""
    return ", ".join(part for part in (f"{letter} {rest}" if rest else "", condition) if part) or letter


def clean(text: str) -> str:
    """The text with uniform signs, thousands separators and phrases."""
    text = _SUPER.sub(lambda power: "^{" + power.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _SUB.sub(lambda base: "_{" + base.group().translate(_SUBSCRIPTS) + "}", text)
    text = _ENDLESS.sub(_infinite, text)
    text = text.translate(_TABLE).replace("**", "^").replace("+/-", r"\pm ").replace("+-", r"\pm ").replace("{:}", ":")
    phrase = re.sub(r"\\text\s?\{([^{}]*)\}", r"\1", text).strip(" .$").lower()
    if phrase in vocabulary.PHRASES:
        return vocabulary.PHRASES[phrase]
    text = _UNIT_VECTOR.sub(lambda one: rf"\mathbf{{{one[one.lastgroup or 0]}}}", text)
    text = _CONSTANT.sub("+ C", _LAST_POINT.sub("", text))
    text = _in_upright_type(units.in_one_unit(text))
    unit, certain = units.after_number(text)
    text = unit if certain else text
    text = _QUANTIFIED.sub(_with_condition, text)
    for pattern, replacement in (*_INTEGERS, *_IN_WORDS):
        text = pattern.sub(replacement, text)
    text = _HALF_OF_DAY.sub(lambda half: rf"\text{{ {half[1].lower()}m}}", text)
    text = _UNDERSCORED.sub(lambda number: number.group().replace("_", ""), text)
    text = _COMBINATIONS.sub(lambda c: _chosen(c[1] or c[2], c[3] or c[4], c[5] or c[6]), text)
    text = _TYPED_COMBINATIONS.sub(lambda c: _chosen(c[1], c[2] or c[3], c[4]), text)
    text = _MIXED_VULGAR.sub(r"\1", text)
    text = _SEPARATED.sub(lambda number: re.sub("[^0-9]", "", number.group()), text)
    text = _SPACED.sub(lambda number: number.group().replace(" ", ""), text)
    return _REPEATING.sub(_ratio, text)


def _chosen(upper: str, letter: str, lower: str) -> str:
    return rf"\{'binom' if letter == 'C' else 'perm'}{{{upper}}}{{{lower}}}"


def _infinite(decimal: re.Match[str]) -> str:
    r"""`0.333...` as `0.\overline{3}`; digits that do not repeat (`3.14159...`) as the written decimal."""
    whole, digits = decimal[1] or "0", decimal[2]
    if period := _PERIOD.fullmatch(digits):
        return rf"{whole}.{period[1]}\overline{{{period[2]}}}"
    return f"{whole}.{digits}"


def _ratio(decimal: re.Match[str]) -> str:
    whole, fixed, period = decimal[1] or "0", decimal[2], decimal[3] or decimal[4] or decimal[5]
    if decimal[5] and not (decimal[1] or decimal[2]):
        return decimal.group()
    over = int(whole + fixed + period) - int(whole + fixed)
    return rf"{{\frac{{{over}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}}}"


_MIXED = re.compile(r"(?P<whole>-?[0-9]{1,9})\s+and\s+(?P<over>[0-9]{1,9})\s?/\s?(?P<under>[0-9]{1,9})")
_MIXED_FRACTION = re.compile(
    r"(?P<whole>-?[0-9]{1,9})\s*(?:and|\\text\s?\{\s?and\s?\})\s*\\[dt]?frac\s?\{(?P<over>[0-9]{1,9})\}\s?\{(?P<under>[0-9]{1,9})\}"
)
_BY_TO = re.compile(r"([0-9]{1,9})\s+to\s+([0-9]{1,9})")
_INDEXED = re.compile(
    r"C\s?(?:_\s?(?:\{([0-9]{1,6})\}|([0-9]))\s?\^\s?(?:\{([0-9]{1,6})\}|([0-9]))"
    r"|\^\s?(?:\{([0-9]{1,6})\}|([0-9]))\s?_\s?(?:\{([0-9]{1,6})\}|([0-9])))"
)
_MEASURED = re.compile(r"(-?[0-9]{1,12}(?:\.[0-9]{1,12})?)\s+(min|in|m|s|h|g|l|L)\.?")
_EQUATED = re.compile(r"(?:[A-Za-z]\s*=\s*)?")


def other_spellings(text: str, *, is_gold: bool) -> list[str]:
    """Further readings of an ambiguous text: letters as a unit (`5 m/s`), `3 to 4` as a ratio, `C_{10}^{3}` as a
    binomial coefficient, and of an answer `4 and 1/3` as a mixed number; in a gold answer that is a list."""
    text = text.translate(_TABLE).strip(" $.")
    found: list[str] = []
    unit, certain = units.after_number(text)
    if not certain:
        found.append(unit)
    if (measured := _MEASURED.fullmatch(text)) and number_words.unit_named(measured[2]):
        found.append(rf"{measured[1]}\text{{ {measured[2]}}}")
    name = _EQUATED.match(text)
    bare = text[name.end() :] if name else text
    mixed = None if is_gold else _MIXED.fullmatch(bare) or _MIXED_FRACTION.fullmatch(bare)
    if mixed and int(mixed["over"]) < int(mixed["under"]):
        found.append(rf"{mixed['whole']}\frac{{{mixed['over']}}}{{{mixed['under']}}}")
    if ratio := _BY_TO.fullmatch(text):
        found.append(f"{ratio[1]}:{ratio[2]}")
    if indexed := _INDEXED.fullmatch(text):
        numbers = sorted(int(one) for one in indexed.groups() if one)
        found.append(rf"\binom{{{numbers[1]}}}{{{numbers[0]}}}")
    return found
