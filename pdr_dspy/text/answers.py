"""Reading an answer the way a person would: where it stands in a completion, and which number or choice it names.

Everything here takes linear time, evaluates no expression, and answers None rather than guess: a list of guesses, an
unfinished thought and a retracted answer name nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from pdr_dspy.text.reasoning import split_thought

MAX_TEXT = 200_000
"""Characters of a completion that are searched for an answer, from its end."""
MAX_ANSWER = 10_000
"""Characters of an answer; a longer one is not read."""
MAX_DIGITS = 1_000
"""Digits of one number, and the largest power of ten; a longer one is not read."""


# ------------------------------------------------------------------------------------------------- where it stands


def final_answer(text: str, *, truncated: bool = False) -> str | None:
    r"""Return what a reader would take as the final answer of a free-form completion, or None.

    In this order: an explicit label after the last box (`Answer: 42`, `#### 42`: a correction), the last complete
    `\boxed{...}`, the last label or sentence (`The answer is 42.`). Neighbouring boxes joined by `,`, `or` or `and`
    come back together, so that several guesses stay several. Thoughts, finished or not, never count. With
    `truncated=True`, the completion was cut off at its cap: only what is certainly complete counts, that is a closed
    box, or a label whose line has ended.

    The answer comes without its wrapping: bold, `$`, `\( \)`, quotes, a final full stop.
    """
    text = split_thought(text)[1][-MAX_TEXT:]
    boxes = _boxes(text)
    marker = _last_marker(text, truncated=truncated)
    if boxes and (marker is None or not marker[2] or marker[0] < boxes[-1][1]):
        found = text[boxes[-1][0] : boxes[-1][1]]
        for (start, end), (later, _) in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
            joint = text[end + 1 : later]
            if len(joint) > 60 or not _JOINT.fullmatch(joint):
                break
            link = " or " if "or" in joint.lower() else ", "
            found = text[start:end] + link + found
        return tidy(found) or None
    return marker[1] if marker else None


_JOINT = re.compile(
    r"(?:\s|\$|,|;|or\b|and\b|also\b|either\b|\\text\{[a-z ]*\}|\\quad|\\[()\[\]]|\\fbox|\\boxed|\{)*", re.I
)


_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{|\\[\\{}]|[{}]")


def _boxes(text: str) -> list[tuple[int, int]]:
    r"""Spans of the contents of complete, non-empty boxes, by their start; of nested boxes only the innermost."""
    open_: list[int] = []  # where the content of each open brace starts; -1 where it is not a box
    found: list[tuple[int, int]] = []
    for token in _BOX_TOKEN.finditer(text):
        kind = token.group()
        if kind == "{":
            open_.append(-1)
        elif kind == "}":
            start = open_.pop() if open_ else -1
            nested = bool(found) and found[-1][0] > start
            if start >= 0 and not nested and text[start : token.start()].strip():
                found.append((start, token.start()))
        elif kind[1] in "bf":
            open_.append(token.end())
    return found


_LABEL = (
    r"\[\[ ## (?:final_)?answer ## \]\]|<answer>|(?<![#])####(?!#)"
    r"|\bfinal[ _]answer\b[\"'*_`)]{0,4}[ \t]{0,9}(?:[:=：]|is[ \t]{0,9}:|(?=\n|$))[*_\"'`]{0,4}"
    r"|\banswer\b[\"'*_`)]{0,4}[ \t]{0,9}(?:[:=：]|is[ \t]{0,9}:)[*_\"'`]{0,4}"
)
_SENTENCE = (
    r"\b(?:final|correct|our|my|the|required|desired)[ \t]{1,9}(?:answer|result)[ \t]{1,9}"
    r"(?:is|are|equals|=|would be|must be|should be|will be)(?:[ \t]{1,9}(?:thus|therefore|simply|just|then|equal to))?"
    r"(?![ \t]{1,9}(?:not|wrong|incorrect|correct|right|in|unclear|unknown|as follows|obtained|given|found)\b)[*_]{0,4}"
)
_MARKER = re.compile(rf"(?P<label>{_LABEL})|(?P<sentence>{_SENTENCE})", re.I)
_BLANK_LINE = re.compile(r"[ \t]*(?:\\\[|\\\(|\$\$?|```[a-z]*|\*\*|-{3,})?[ \t]*\n")
_SENTENCE_END = re.compile(r"[.!?](?=\s|\*|$)")


def _last_marker(text: str, *, truncated: bool) -> tuple[int, str, bool] | None:
    """Position, answer and whether it is a label rather than a sentence, of the last marker that says something."""
    for match in reversed(list(_MARKER.finditer(text))):
        position = match.end()
        for _ in range(4):  # the answer may stand below its label, inside an opened display or code block
            blank = _BLANK_LINE.match(text, position)
            if blank is None or match["sentence"]:
                break
            position = blank.end()
        end = text.find("\n", position)
        if match.group().lower() == "<answer>" and (close := text.lower().find("</answer>", position)) >= 0:
            end = close
        if end < 0:
            if truncated:
                continue
            end = len(text)
        line = text[position:end]
        if match["sentence"] and (stop := _SENTENCE_END.search(line)):
            line = line[: stop.start()]
        if len(line) <= MAX_ANSWER and (answer := tidy(line)) and not (answer == "null" and '"' in match.group()):
            return match.start(), answer, match["label"] is not None
    return None


_WRAPS = (
    *(("**", "**"), ("__", "__"), ("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("```", "```")),
    *(("$", "$"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("*", "*"), ("_", "_"), ("\\boxed{", "}")),
)


def tidy(answer: str) -> str:
    """Strip what wraps an answer without being part of it: spaces, emphasis, math delimiters, quotes, a full stop."""
    answer = answer.strip()
    for _ in range(8):
        before = answer
        answer = answer.removeprefix(":").strip()
        for left, right in _WRAPS:
            inner = answer[len(left) : -len(right)]
            if inner.strip() and answer.startswith(left) and answer.endswith(right) and right not in inner:
                answer = inner.strip()
        if answer.endswith((".", "。", ";")) and not answer.endswith(("..", "\\;")):
            answer = answer[:-1].rstrip()
        for mark in ("**", "$$", "$", "*"):  # an opening or closing mark whose partner stands outside of the line
            if answer.count(mark) == 1 and (answer.startswith(mark) or answer.endswith(mark)):
                answer = answer.removeprefix(mark).removesuffix(mark).strip() if answer != mark else ""
        for left, right in (("{", "}"), ("[", "]")):
            if answer.endswith(right) and left not in answer and not answer.endswith("\\" + right):
                answer = answer[:-1].rstrip() if right == "}" else answer
        if answer == before:
            break
    return answer


def unwrapped(text: str) -> str:
    """A text without what wraps the whole of it: spaces, bold, quotes, code or math marks, a box, a final full stop.

    Underscores and single stars stay: `__init__`, `_id` and `C*` are names.
    """
    text = text.strip()
    for _ in range(8):
        before = text
        for left, right in _TEXT_WRAPS:
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inner.strip() and right not in inner:
                text = inner.strip()
        if text.endswith((".", "。")) and not text.endswith("..") and len(text) > 1:
            text = text[:-1].rstrip()
        if text == before:
            break
    return text


_TEXT_WRAPS = (
    *(("**", "**"), ("$$", "$$"), ("\\(", "\\)"), ("$", "$"), ("```", "```"), ("`", "`"), ('"', '"')),
    ("'", "'"),
    *(("“", "”"), ("‘", "’"), ("«", "»"), ("\\boxed{", "}"), ("\\text{", "}")),
)


# ------------------------------------------------------------------------------------------------------- as a number


def to_number(text: str) -> Fraction | None:
    r"""Return the one number that an answer names, exactly, or None if it names none or several.

    Reads `1,234`, `1{,}000`, `1 000`, `042`, `204.`, `x = 204`, `$3.50`, `75\%` (75: a percent sign is a unit), `42
    apples`, `204\text{ cm}^2`, `90^\circ`, `3/4`, `\frac{3}{4}`, `2\frac12`, `½`, `6.02 \times 10^{23}`, `5 million`,
    `−7`, `**42**`, `\boxed{42}`. Leaves alone whatever would have to be worked out or is not one number: `5^2`,
    `2\pi`, `3x`, `17 or 204`, `x > 5`, `12:30`.
    """
    if _PLAIN_INTEGER.fullmatch(text):  # what most answers are
        return Fraction(int(text))
    if len(text) > MAX_ANSWER:
        return None
    boxes = _boxes(text)
    if boxes:
        text = text[boxes[-1][0] : boxes[-1][1]] if len(boxes) == 1 else final_answer(text) or ""
    plain = _plain(text)
    whole = _one_number(plain)
    if whole is not None or (equals := max(plain.rfind("="), plain.rfind("≈"))) < 0:
        return whole
    before = re.split("[=≈]", plain[:equals])
    result = all(_SUM.fullmatch(part) or _CALLED.fullmatch(part) for part in before)
    return _one_number(plain[equals + 1 :]) if result else None


_PLAIN_INTEGER = re.compile(r"-?[0-9]{1,15}")
_SUM = re.compile(r"\s?(?=.*[0-9])[-0-9.,+*/×÷^(){} ]*")
"""What may stand before the `=` of a result: a sum that names nothing else, as in `6 × 7 = 42`."""
_NAMED = (
    r"(?:\\[A-Za-z]+\s?)?\{?[A-Za-z][A-Za-z' ]{0,80}\}?(?:_\{?[A-Za-z0-9]{1,6}\}?)?(?:\([^()=]{1,20}\))?"
    r"|\|[A-Za-z]{1,9}\|"
)
_CALLED = re.compile(
    rf"(?!.*(?i:\b(?:not|never|or|nor|if|isn|mod)\b|n't))\s?(?:{_NAMED})(?:\s?[-+×]\s?(?:{_NAMED})){{0,8}}\s?"
)
"""... or a name, or a sum of names: `x`, `x_1`, `f(2)`, `m+n`, `The total cost`, `\\angle ABC`."""
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–—‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2007\u2008\t\n\r~", " "),  # spaces of all widths
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},  # full-width digits
        **{"，": ",", "．": ".", "：": ":", "％": "%", "＝": "=", "⁄": "/", "∕": "/", "’": "'"},
    }
)
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5"}
_VULGAR |= {"⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname)\s?\{([^{}]*)\}"
)
_UNIT_POWER = re.compile(r"(?<=[A-Za-z]{2})\s?\^\s?(?:\{\s?-?[1-9]\s?\}|[1-9])(?![0-9])|(?<=[A-Za-z])[²³]")
_DEGREE = re.compile(r"\s?(?:\^\s?\{?\s?(?:\\circ|\\degree|∘)\s?\}?|°|º|\\degree|\\circ\b)")
_SPACING = re.compile(r"\\[,;:! ]|\\(?:quad|qquad|left|right|displaystyle|big|Big|phantom)(?![A-Za-z])|\\[()\[\]]")
_REPEATING = re.compile(r"([0-9]{0,50})\.([0-9]{0,50})\\overline\s?\{\s?([0-9]{1,50})\s?\}")
_FRAC = re.compile(
    r"(-?)\s?\\[dtc]?frac\s?(?:\{\s?([+-]?[0-9.,]{1,1000})\s?\}|([0-9]))\s?(?:\{\s?([+-]?[0-9.,]{1,1000})\s?\}|([0-9]))"
)
_SPACES = re.compile(r"\s+")


def _plain(text: str) -> str:
    """The answer with typography, LaTeX spacing, currency and simple fractions written in plain characters."""
    text = tidy(_SPACES.sub(" ", text.translate(_SIGNS)))
    for sign, value in _VULGAR.items():
        text = text.replace(sign, f" {value}")
    text = text.replace("{,}", ",").replace("\\$", "").replace("\\%", "%").replace("**", "").replace("`", "")
    text = re.sub(r"(?<=[0-9])(?:,?\\[,! ]|')(?=[0-9]{3}(?![0-9]))", ",", text)
    for _ in range(3):
        text = _WORDS.sub(lambda words: f" {_as_unit(words[1])}", text)
    text = _UNIT_POWER.sub("", _DEGREE.sub(" degrees", text))
    text = _REPEATING.sub(_repeating, _SPACING.sub(" ", text))
    text = _FRAC.sub(
        lambda frac: f" {frac[1]}{_unsigned_ratio(frac[2] or frac[3], frac[4] or frac[5])} ",
        text,
    )
    text = re.sub(r"[$€£¥₹]|\\(?:pounds|euro)\b", "", text)
    text = re.sub(r"\\(?:cdot|times)(?![A-Za-z])|×|·", "×", text)
    return _SPACES.sub(" ", text).strip()


def _repeating(decimal: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as `15/90`."""
    whole, fixed, period = decimal[1] or "0", decimal[2], decimal[3]
    over = int(whole + fixed + period) - int(whole + fixed)
    return f"{over}/{(10 ** len(period) - 1) * 10 ** len(fixed)}"


def _as_unit(words: str) -> str:
    """Words set in upright type are never variables: `m` becomes a word that is not one letter."""
    return re.sub(r"(?<![A-Za-z])([A-Za-z])(?![A-Za-z])", r"unit\1", words)


def _unsigned_ratio(over: str, under: str) -> str:
    """`-3`, `4` as `-3/4`; the sign goes first, a double one cancels later as unreadable."""
    if under.startswith("-"):
        over, under = (over[1:] if over.startswith("-") else f"-{over}"), under[1:]
    return f"{over}/{under.lstrip('+')}"


_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,3}(?: [0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"(?P<sign>(?:(?<![A-Za-z0-9)}}\]])|(?<=[A-Za-z] ))[+-]\s?|\b(?:minus|negative)\s)?"
    rf"(?:(?P<power>10\s?\^\s?(?:\{{\s?)?(?P<ten>[+-]?[0-9]{{1,6}})\s?\}}?)"
    rf"|(?P<mixed>[0-9]{{1,9}}) (?P<part>[0-9]{{1,9}})\s?/\s?(?P<of>[0-9]{{1,9}})"
    rf"|(?P<over>{_DECIMAL})(?:\s?/\s?(?P<under>[+-]?(?:{_DECIMAL}))"
    rf"|\s?[×x*]\s?10\s?\^\s?(?:\{{\s?)?(?P<exp1>[+-]?[0-9]{{1,6}})\s?\}}?|[eE](?P<exp2>[+-]?[0-9]{{1,6}}))?"
    rf"(?P<scale>(?:[\s-](?:hundred|thousand|million|mln|mio|billion|bn|trillion|tn|lakh|crore|dozen)s?\b)+)?"
    rf"(?P<half>\sand\sa\s(?:half|quarter)\b)?)",
    re.I,
)
_SCALES = {
    **{"hundred": 10**2, "thousand": 10**3, "million": 10**6, "mln": 10**6, "mio": 10**6, "billion": 10**9},
    **{"bn": 10**9, "trillion": 10**12, "tn": 10**12, "lakh": 10**5, "crore": 10**7, "dozen": 12},
}
_PARTS = {"half": Fraction(1, 2), "quarter": Fraction(1, 4)}
_NOT_A_VALUE = re.compile(
    r"[\\^_<>≤≥≠±∓√∛π∞∪∩∈|!×²³⁰¹⁴-⁹+*]|\b(?:not|or|between|at least|at most|(?:less|more|greater|fewer) than"
    r"|pi|sqrt|root|infinity|modulo|mod|base|cannot|unable|unknown|unsure|(?:is|was) (?:wrong|incorrect|false))\b|n't",
    re.I,
)
_CHANGES_VALUE = re.compile(
    r"[‰‱₀-₉⅐-⅞∛∜†]|(?<![A-Za-z])(?:"
    r"hundreds?|thousands?|[bmtrz]illions?|quadrillions?|quintillions?|milliards?|mrd|mn|mln|mio|bn|bio|tn|lakhs?|lacs?"
    r"|crores?|dozens?|scores?|gross|pairs? of|couple|half|halves|quarters?|thirds?|fourths?|fifths?"
    r"|sixths?|sevenths?|eighths?"
    r"|ninths?|tenths?|(?:ten-?)?(?:hundred|thousand|million)ths?|twice|thrice|double[sd]?|doubling|triple[sd]?|tripling"
    r"|quadruple[sd]?|squared?|square root|cubed?|cube root|to the power|power of|raised|multiplied|divided"
    r"|plus|minus|per ?mille?|permille|per thousand|per million|basis points?|bps|ppm|ppb|factorial"
    r"|binary|hex(?:adecimal)?|octal|radians?|complement|opposite|negative|reciprocal|inverse|log(?:arithm)?|exp|sum of"
    r"|product of|difference|ratio|out of|of)(?![A-Za-z])",
    re.I,
)
_GLUED_SCALE = re.compile(r"[\s-]?(?:[kKMGTB]|mn|bn|tn|mio|mrd)(?![A-Za-z])(?!\s?[/²³])")


def changes_value(words: str) -> bool:
    """Whether words beside a number make it another one (`squared`, `dozen`, `half of`, `‰`), unlike a unit.

    `square` and `cubic` before a unit of length are units; `of` is harmless after a unit (`5 kilograms of sugar`).
    """
    words = _SQUARE_UNIT.sub(" ", words)
    words = _OF_STUFF.sub(" ", words)
    return _CHANGES_VALUE.search(words) is not None


_STATES = re.compile(r"(?:\b(?:is|are|was|were|equals?|gives|get|makes|have|has)|[:=≈])\s*$", re.I)
"""Ends what names a number: `the sum of the digits is 14`."""
_BETWEEN = re.compile(r"\b(?:times|multiplied|divided|plus|minus|over|of|by|to|through|per|squared|cubed)\b|[x÷]", re.I)
_SQUARE_UNIT = re.compile(
    r"\b(?:square|sq\.?|cubic|cu\.?)\s(?:[a-z]{0,5}met(?:er|re)s?|feet|foot|ft|inch(?:es)?|in|yards?|yd|miles?|mi|units?"
    r"|[ckm]?m|acres?)\b|\b(?:inch(?:es)?|units?|feet|foot|cm|m|km|ft|met(?:er|re)s?) squared\b"
    r"|\b(?:miles?|kilomet(?:er|re)s?|met(?:er|re)s?|feet|[a-z]+s?) per (?:hour|minute|second|day|week|year|month)\b"
    r"|\bhalf[- ]hours?\b|\bquarters?\b(?= \(coins?\))",
    re.I,
)
_OF_STUFF = re.compile(r"(?<=[A-Za-z]{3}) of (?=[A-Za-z ]+$)", re.I)
_LETTER = re.compile(r"(?<![A-Za-z'])[A-Za-z](?![A-Za-z'])")
_UNITS = frozenset("mgshlnjwvkcf")
_GLUED = re.compile(  # units of two and three letters that may follow their number without a space
    r"[cmknu]m|[km]?g|[mkdc]l|ft|in|yd|mi|hrs?|mins?|secs?|ms|am|pm|th|st|nd|rd|lbs?|oz|[kmgt]b|[mk]ph|kwh|rpm|px|pts?"
    r"|usd|eur|gbp|gal|cal|deg|rad|mol|ha|psi|[km]?hz|ghz|[km]w|kj|k?pa|yrs?|wks?|cts",
    re.I,
)


# `There are 5 cases. We take the first` mentions a number on its way elsewhere; `5 sq. ft` does not.
_MORE_SENTENCES = re.compile(r"(?:^|[A-Za-z]{4})[.!?]\s+\S")


def _one_number(text: str) -> Fraction | None:
    """The value of the only number in plain text, if the words around it leave it a plain value."""
    values: list[Fraction] = []
    rest: list[str] = []  # what stands around the numbers: one piece more than there are numbers
    position = 0
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is None or len(values) > 8:
            return None
        before = text[position : match.start()]
        if before and (before[-1].isalnum() or before[-1] in "./:"):
            return None
        values.append(value)
        rest.append(before)
        position = match.end()
    rest.append(text[position:])
    if not values or len(set(values)) != 1:
        return None
    if any(not re.search(r"[A-Za-z=≈]", piece) or _BETWEEN.search(piece) for piece in rest[1:-1]):
        return None  # `5:5`, `(3, 3)`, `5 times 5`: the same number twice is not one number
    if any(_spoils(piece, after=bool(place)) for place, piece in enumerate(rest)):
        return None
    return values[0]


def _spoils(piece: str, *, after: bool) -> bool:
    """Whether the words on one side of a number make it something else than a plain value with a unit."""
    if after:
        glued = re.match(r"-?([A-Za-z]+)", piece)
        if glued and piece[0] != "-" and len(glued[1]) < 4 and not _GLUED.fullmatch(glued[1]):
            return True
        if _MORE_SENTENCES.search(piece):
            return True
        if re.match(r"\s?(?:[-:]\s?(?![A-Za-z]{2})\S|\()[^)]*$", piece):
            return True
    name = re.sub(r"(?<![A-Za-z])[A-Za-z]{1,9}(?:_\{?[A-Za-z0-9]{1,9}\}?)?(?:\([A-Za-z]\))?\s?[=≈]", "", piece)
    if _NOT_A_VALUE.search(name) or (changes_value(name) and (after or not _STATES.search(name))):
        return True
    if after and _GLUED_SCALE.match(piece):
        return True
    letters = {letter.lower() for letter in _LETTER.findall(name)} - {"a", "i"}
    return bool(letters - _UNITS) if after else bool(letters)


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > MAX_DIGITS:
        return None
    if match["power"]:
        value = _times_ten(Fraction(1), match["ten"])
    elif match["mixed"]:
        value = _ratio(match["part"], match["of"])
        value = None if value is None else value + int(match["mixed"])
    else:
        value = _ratio(match["over"], match["under"] or "1")
        if value is not None and (exponent := match["exp1"] or match["exp2"]):
            value = _times_ten(value, exponent)
        for scale in re.findall("[a-z]+", (match["scale"] or "").lower()) if value is not None else ():
            value = value * (_SCALES.get(scale) or _SCALES[scale.removesuffix("s")])  # type: ignore[operator]
        if value is not None and match["half"]:
            if match["scale"] or value.denominator != 1:
                return None
            value += _PARTS[match["half"].lower().split()[-1]]
    negative = (match["sign"] or "").strip().lower() in ("-", "minus", "negative")
    return -value if negative and value is not None else value


def _ratio(over: str, under: str) -> Fraction | None:
    top, bottom = (Fraction(part.replace(",", "").replace(" ", "").rstrip(".")) for part in (over, under))
    return top / bottom if bottom else None


def _times_ten(value: Fraction, exponent: str) -> Fraction | None:
    power = int(exponent)
    return value * Fraction(10) ** power if abs(power) <= MAX_DIGITS else None


# ------------------------------------------------------------------------------------------------------- as a choice


def to_choice(text: str, options: Sequence[str]) -> str | None:
    """Return the one of `options` that an answer names, spelt as in `options`, or None if it names none or several.

    Case, quotes, emphasis and a full stop do not matter, nor does a letter in front: `(B)`, `B.`, `**B**`, `B) Paris`
    and `Option B` name the option `B`; `B) Paris` also names the option `Paris`, and `B` the option `B) Paris`. A short
    sentence names the only option that it mentions, unless it negates something.
    """
    if len(text) > MAX_TEXT:
        text = text[-MAX_TEXT:]
    for candidate in (text, final_answer(text)):
        if candidate is not None and (choice := _choice(candidate, options)) is not None:
            return choice
    return None


_TAG = re.compile(
    r"(?:(?:option|choice|answer)\s{0,3})?[(\[{]?([A-Za-z]|[0-9]{1,2})(?:[)\]}][.:]?|[.:]|$)\s{0,9}(.*)", re.I | re.S
)
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|cannot|except|wrong|incorrect|ruled out|eliminated|excluded)\b|n['’]t\b", re.I
)


def _key(text: str) -> str:
    text = _WORDS.sub(lambda words: words[1], tidy(text))
    text = tidy(_SPACES.sub(" ", text)).rstrip(".!,:;")
    for left, right in ("()", "[]", "{}"):
        if text.startswith(left) and text.endswith(right) and right not in text[:-1]:
            text = text[1:-1].strip()
    return text.casefold()


def _choice(text: str, options: Sequence[str]) -> str | None:
    text = split_thought(text)[1]
    if len(text) > MAX_ANSWER:
        return None
    if (exact := tidy(text)) in options:
        return exact
    key = _key(text)
    same = [option for option in options if _key(option) == key]
    if same:
        return same[0] if len(same) == 1 else None
    tag = _TAG.fullmatch(tidy(_WORDS.sub(lambda words: words[1], tidy(text))))
    if tag and tag[2].strip():
        same = [option for option in options if _key(option) == _key(tag[2])]
        if len(same) == 1:
            return same[0]
    if tag:
        letter = tag[1].casefold()
        same = [option for option in options if _label(option) == letter]
        other = {_label(found) for found in re.findall(r"\(?\b[A-Z]\b\)?", tag[2])} & {
            _label(option) for option in options
        }
        if len(same) == 1 and not other - {letter}:
            return same[0]
    return _mentioned(text, options)


def _label(option: str) -> str | None:
    tag = _TAG.fullmatch(tidy(option))
    return tag[1].casefold() if tag else None


_PREFERS = re.compile(
    r",?\s*\b(?:because|since|rather than|instead of|over|as opposed to|and not|but not|not|whereas|while|due to"
    r"|unlike)\b",
    re.I,
)
"""What stands behind it speaks of the options that were not chosen: `A because B is wrong`."""
_FUNCTION_WORDS = (
    "is|or|and|because|since|over|rather|instead|as|due|but|which|given|when|if|not|while|whereas|unlike|for|by|from"
    "|seems|must|fits|follows|holds|matches|would|should|was|has|in|on|with|to"
)
"""Words that no article and no pronoun stands before, so that a letter before one is a choice."""


def _mentioned(text: str, options: Sequence[str]) -> str | None:
    """The only option that a short sentence names, or the one that it prefers to others."""
    if len(text) > 200:
        return None
    prefers = _PREFERS.search(text)
    if prefers is not None and not _NEGATION.search(text[: prefers.start()]):
        names = _names(text[: prefers.start()], options)
        if names:
            return names.pop() if len(names) == 1 else None
    if _NEGATION.search(text):
        return None
    names = _names(text, options)
    return names.pop() if len(names) == 1 else None


def _names(text: str, options: Sequence[str]) -> set[str]:
    """The options that a text mentions."""
    found: list[tuple[int, int, str]] = []
    for option in options:
        # One letter is also an article or a pronoun, so it must be written as the option is.
        flags = re.I if len(option) > 1 else 0
        article = rf"(?! (?!(?:{_FUNCTION_WORDS})\b)[a-z])" if option in ("A", "I") else ""
        spots = re.finditer(rf"(?<!\w){re.escape(option)}(?!\w){article}", text, flags) if option else ()
        found += [(spot.start(), spot.end(), option) for spot in spots]
    # `very good` mentions `very good`, not also `good`.
    outer = [f for f in found if not any(o[0] <= f[0] and f[1] <= o[1] and o[2] != f[2] for o in found)]
    return {option for _, _, option in outer}
