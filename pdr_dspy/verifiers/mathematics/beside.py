r"""The words beside a value (`3\text{ red}`, `6:00\text{ p.m.}`, `a loss of $10`), and whether those of two agree.

One reading serves plain numbers and structures. It knows three kinds of words:

counted    apples, red      may be absent on one side; if both sides have some, one side's contain the other's
kinds      Celsius, £       may be absent on one side; if both sides have one of a sort (scale, currency), the same one
marks      loss, a.m.       change what the value says: both sides have the same

Words that say nothing of the value (`the`, `in total`, units, which are compared elsewhere) are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pdr_dspy.text import number_words
from pdr_dspy.text.number_words import singular, unit_named, words
from pdr_dspy.text.spelled import NUMERALS


@dataclass(frozen=True)
class Beside:
    """The words beside one value."""

    counted: frozenset[str] = frozenset()
    kinds: frozenset[tuple[str, str]] = frozenset()
    marks: frozenset[str] = frozenset()
    """Marks that belong to the value itself."""
    mentioned: frozenset[str] = field(default=frozenset(), compare=False)
    """These, and marks elsewhere in the sentence (`The loss is 10`)."""

    def __bool__(self) -> bool:
        return bool(self.counted or self.kinds or self.marks)


NOTHING = Beside()


def agree(one: Beside, other: Beside) -> bool:
    """Whether two values with these words may be the same value."""
    if not (one.marks <= (other.mentioned | other.marks) and other.marks <= (one.mentioned | one.marks)):
        return False
    for sort in {sort for sort, _ in one.kinds} & {sort for sort, _ in other.kinds}:
        if {kind for kind in one.kinds if kind[0] == sort} != {kind for kind in other.kinds if kind[0] == sort}:
            return False
    return not (one.counted and other.counted) or one.counted <= other.counted or other.counted <= one.counted


def after_value(phrase: str) -> Beside:
    """The reading of a phrase that directly follows a value."""
    return _read(phrase, phrase)


def harmless(phrase: str) -> bool:
    """Whether words after a value leave it unchanged: a unit, or the things counted."""
    found = [word.lower() for word in re.findall(r"[^\W\d_]+", phrase)]
    spoilt = number_words.NOT_PLAIN - {"squared", "cubed"} | number_words.FOREIGN_SCALES | number_words.DOZENS
    if re.fullmatch(r"(?:squared|cubed|square|cube)", phrase.strip().lower()):
        return False
    if found and (found[0] in number_words.AFTER or found[0] == "times"):
        return False
    for word in found:
        if word in spoilt or word in number_words.SCALES or number_words.singular(word) in number_words.SCALES:
            return False
        if word in NUMERALS:
            return False
    if number_words.PHRASES.search(phrase) or number_words.PARTS.search(phrase):
        return False
    return not re.search(
        r"\b(?:approx|approximately|about|because|but|is|are|was|wait|actually|no|answer)\b", phrase, re.I
    )


def around_number(text: str) -> Beside:
    """The reading of a text that names one plain number."""
    plain = _COMMAND.sub(_named, _UPRIGHT.sub(r" \1 ", _SCALE.sub(r" ° \1 ", text.replace("\\'", "'")))).replace(
        "_", " "
    )
    figures = list(re.finditer(r"[0-9](?:[0-9.,:/{}]|\\!)*", plain))
    if not figures:
        return _read(plain, plain)
    before, after = _VERBS.split(plain[: figures[0].start()])[-1], _VERBS.split(plain[figures[-1].end() :])[0]
    return _read(plain, f"{before} 0 {after}")


_VERBS = re.compile(r"\b(?:is|are|was|were|equals?|gives?|has|have|had)\b|[=:]")


_UPRIGHT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")
_SCALE = re.compile(r"(?:\^\s?\{?\s?\\circ\s?\}?|\\degree|°|º)\s*(?:\\(?:text|mathrm|mbox)\s?\{)?\s*([CFKNSEW])\b\}?")
_DOTTED = re.compile(r"(?<![A-Za-z])((?:[A-Za-z]\.\s?){1,3}[A-Za-z])(?![A-Za-z])\.?")
_SPOKEN = (
    (re.compile(r"\b(?:counter|anti)[- ]?clockwise\b|\bccw\b", re.I), "counterclockwise"),
    (re.compile(r"\bcw\b", re.I), "clockwise"),
    (re.compile(r"\b(?:in the )?(?:early |late )?morning\b", re.I), "am"),
    (re.compile(r"\b(?:in the )?(?:early |late )?(?:afternoon|evening)\b|\b(?:at )?noon\b", re.I), "pm"),
    (re.compile(r"\b(?:at )?midnight\b", re.I), "am"),
    (re.compile(r"\bo\\?['’]\s?clock\b", re.I), "oclock"),
    (re.compile(r"\bbefore Christ\b|\bBCE?\b"), "BC"),
    (re.compile(r"\bAnno Domini\b|\bAD\b|\bCE\b"), "AD"),
    (re.compile(r"\bleft[- ]?over\b|\bremaining\b", re.I), " "),
    (re.compile(r"\b(?:five|ten|quarter|twenty|twenty[- ]five|half)(?: minutes)? to\b(?=\s*[0-9])", re.I), "till"),
)
_CURRENCIES = {
    **{"$": "$", "dollar": "$", "usd": "$", "buck": "$", "cent": "$", "¢": "$", "€": "€", "euro": "€", "eur": "€"},
    **{"£": "£", "sterling": "£", "gbp": "£", "penny": "£", "pence": "£", "¥": "¥", "yen": "¥", "jpy": "¥"},
    **{
        "₹": "₹",
        "rupee": "₹",
        "inr": "₹",
        "rs": "₹",
        "yuan": "元",
        "rmb": "元",
        "cny": "元",
        "won": "₩",
        "peso": "peso",
    },
    **{"franc": "franc", "chf": "franc", "ruble": "ruble", "rouble": "ruble", "krone": "krone", "krona": "krona"},
}
_SCALES = {
    **{"C": "celsius", "celsius": "celsius", "centigrade": "celsius", "F": "fahrenheit", "fahrenheit": "fahrenheit"},
    **{"K": "kelvin", "kelvin": "kelvin"},
}
_COMPASS = {"N": "north", "S": "south", "E": "east", "W": "west"}
_MARKS = {
    **{
        name: names.split()[0]
        for names in (
            "am",
            "pm",
            "oclock",
            "bc",
            "ad",
            "loss losses lose loses lost losing",
            "debt debts owe owes owed owing debit overdraft deficit",
            "withdraw withdraws withdrawn withdrawal",
            "less fewer",
            "decrease decreases decreased reduction reduced",
            "down downward downwards descend descends descended drop drops dropped fall falls fell",
            "up upward upwards ascend ascends ascended rise rises rose",
            "clockwise",
            "counterclockwise",
            "north northward northwards northern",
            "south southward southwards southern",
            "east eastward eastwards eastern",
            "west westward westwards western",
            "northeast",
            "northwest",
            "southeast",
            "southwest",
            "below beneath under underneath",
            "above over",
            "behind backward backwards",
            "ago earlier",
            "later hence",
            "past",
            "till",
            "short shortage shortfall",
        )
        for name in names.split()
    },
}
"""Words that change what a value says, by the word that stands for them."""
_NOTHING = words(
    """the a an of in per each total all altogether unit and to at on is are was were be there it he she they we i has
    have had answer result number value so thus therefore equal square squared cubic cubed about exactly only then now
    percent degree that this which will would if for by from with final your my our his her their s"""
)
"""Words beside a value that say nothing of what is counted."""


def _named(command: re.Match[str]) -> str:
    known = {r"\$": " $ ", r"\pounds": " £ ", r"\euro": " € ", r"\yen": " ¥ "}
    return known.get(command.group(), " ")


def _read(text: str, own: str) -> Beside:
    found = _tokens(text)
    marks = frozenset(_MARKS[word.lower()] for word in _tokens(own) if word.lower() in _MARKS)
    mentioned = frozenset(_MARKS[word.lower()] for word in found if word.lower() in _MARKS)
    kinds = frozenset(
        (sort, table[key])
        for word in found
        for sort, table in (("scale", _SCALES), ("currency", _CURRENCIES))
        for key in dict.fromkeys((word, word.lower(), singular(word.lower())))
        if key in table
    )
    letters = {word for word in _tokens(own) if word in _COMPASS}
    marks |= {
        _COMPASS[word] for word in letters if "°" in text or "circ" in text or re.fullmatch(r"[NSEW]", own.strip())
    }
    counted = {singular(word.lower()) for word in found if len(word) > 1 and word.isalpha() and not unit_named(word)}
    counted -= _NOTHING | _MARKS.keys() | _CURRENCIES.keys() | _SCALES.keys()
    return Beside(frozenset(counted), kinds, marks, marks | mentioned)


def _spoken(text: str) -> str:
    text = _DOTTED.sub(lambda letters: re.sub(r"[.\s]", "", letters.group()), text)
    for pattern, replacement in _SPOKEN:
        text = pattern.sub(replacement, text)
    return text


def _tokens(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|[$€£¥₹¢]", _spoken(text))
