r"""Units made of others (`meters per second`, `m/s`, `\mathrm{m\,s^{-1}}`), and quantities in two units (`3 hours 20
minutes`).

A compound unit is written `m*s^-1`: known units by name, with their powers. A text with an unknown unit in it is left
to `beside`.
"""

from __future__ import annotations

import re
from fractions import Fraction

from pdr_dspy.text import number_words

_MOST = 6
_MADE_OF = {"mph": {"mi": 1, "h": -1}, "km/h": {"km": 1, "h": -1}, "m/s": {"m": 1, "s": -1}}
_BASES = ("m", "ft", "g", "l", "s", "dollar")
_LARGER = {("year", "month"): 12, ("lb", "oz"): 16}
"""How many of the second unit the first is, where `number_words` does not convert them."""
_UPRIGHT = r"\\(?:text|textrm|textnormal|mathrm|mbox|operatorname|rm)\s?"
_ATOM = re.compile(r"(?:(square|cubic|sq\.?|cu\.?)\s)?([A-Za-z]+)\.?(?:\s(squared|cubed))?(?:\^\{?(-?[1-4])\}?)?")


def named(phrase: str) -> str | None:
    """The canonical name of a unit: `m^2` of `square meters`, `m*s^-1` of `meters per second`; None if unknown."""
    powers = _powers(phrase)
    if powers is None or (len(powers) == 1 and all(power > 0 for power in powers.values())):
        return number_words.unit_named(phrase)
    return "*".join(unit if power == 1 else f"{unit}^{power}" for unit, power in sorted(powers.items()) if power)


def ratio(unit: str, other: str) -> Fraction | None:
    """How many of the `other` unit one `unit` is, exactly; None for units of different kinds."""
    simple = number_words.ratio_of(unit, other)
    if simple is not None:
        return simple
    first, second = _base(unit), _base(other)
    return first[0] / second[0] if first and second and first[1] == second[1] else None


def _base(unit: str) -> tuple[Fraction, dict[str, int]] | None:
    """A unit as a factor and powers of the first unit of each kind."""
    powers: dict[str, int] = {}
    for part in unit.split("*"):
        name, _, power = part.partition("^")
        for own, times in _MADE_OF.get(name, {name: 1}).items():
            powers[own] = powers.get(own, 0) + times * int(power or 1)
    factor, found = Fraction(1), {}
    for name, power in powers.items():
        base = next((one for one in _BASES if number_words.ratio_of(name, one) is not None), name)
        step = number_words.ratio_of(name, base) or Fraction(1)
        factor *= step**power
        found[base] = found.get(base, 0) + power
    return factor, {name: power for name, power in found.items() if power}


def _powers(phrase: str) -> dict[str, int] | None:
    """The known units of a compound phrase with their powers; None if there is another word in it."""
    text = phrase.replace("²", "^2").replace("³", "^3").replace("⁻¹", "^-1").replace("⁻²", "^-2").strip(" .~")
    text = re.sub(r"\s*\^\s*", "^", text)
    text = re.sub(r"\s(?:per|an?|each)\s", "/", " ".join(text.split()))
    found: dict[str, int] = {}
    for place, group in enumerate(text.split("/")):
        pieces = [piece for piece in re.split(r"\s*[*·⋅]\s*", group.strip()) if piece]
        atoms = [atom for piece in pieces for atom in _atoms(piece)]
        if not atoms or len(atoms) > _MOST:
            return None
        for name, power in atoms:
            unit = number_words.UNITS.get(name)
            unit = unit or number_words.UNITS.get(number_words.singular(name))
            unit = unit or (number_words.UNITS.get(number_words.singular(name.lower())) if len(name) > 2 else None)
            if unit is None or unit == "percent":
                return None
            for own, times in _MADE_OF.get(unit, {unit: 1}).items():
                found[own] = found.get(own, 0) + times * (power if place == 0 else -power)
    return found


def _atoms(text: str) -> list[tuple[str, int]]:
    """The units in a product with their powers, none if the text is anything else."""
    found: list[tuple[str, int]] = []
    place = 0
    while place < len(text):
        atom = _ATOM.match(text, place)
        if atom is None:
            return []
        word = atom[1] or atom[3] or ""
        power = int(atom[4] or 1) * (2 if word.startswith("sq") else 3 if word.startswith("cu") else 1)
        found.append((atom[2], power))
        place = atom.end()
        if place < len(text):
            if not text[place].isspace():
                return []
            place += 1
    return found


# ---------------------------------------------------------------------------------------------------- units in a text

_NUMERIC = (
    r"(?:[-+0-9.,{}()\s^*~]|\\[dt]?frac(?!\s*\{\s*\\(?:text|mathrm))|\\(?:sqrt|pi|times|cdot|left|right|!)(?![A-Za-z]))"
)
_BEHIND = re.compile(
    rf"(?P<head>(?:[^=]{{0,60}}=)?{_NUMERIC}*(?:[0-9)}}]|\\pi))(?P<unit>(?:\\[,;: ]|[\s~])*"
    r"(?:\\[dt]?frac\s?\{\s?\\|\\(?:text|textrm|textnormal|mathrm|mbox|operatorname)|[A-Za-z{]).*)",
    re.S,
)
_FRACTION = re.compile(
    rf"\\[dt]?frac\s?\{{\s?({_UPRIGHT}\{{[^{{}}]*\}})\s?\}}\s?\{{\s?({_UPRIGHT}\{{[^{{}}]*\}}[^{{}}]*)\s?\}}"
)
_COMPOUND = re.compile(r"/|\bper\b|\b(?:an?|each)\b|\^\s?\{?-|[*·⋅]|\s")


def after_number(text: str) -> tuple[str, bool]:
    r"""A text with the compound unit behind its number as `\text{ m*s^-1}`, and whether the unit stood in upright type
    or in words. Typed letters (`5 m/s`) may be variables as well. The text itself if it ends in no compound unit."""
    found = _BEHIND.fullmatch(text.strip(" $."))
    if found is None or len(found["unit"]) > 120:
        return text, True
    raw = found["unit"].strip("$ ")
    while raw.startswith("{") and raw.endswith("}") and raw.count("{") == 1:
        raw = raw[1:-1]
    upright = "\\" in re.sub(r"\\[,;: !]", "", raw) or re.search(r"\bper\b|[A-Za-z]{3}", raw) is not None
    plain = _FRACTION.sub(r"\1/\2", raw)
    plain = re.sub(_UPRIGHT + r"\{((?:[^{}]|\{[^{}]*\})*)\}", r" \1 ", plain)
    plain = re.sub(r"\\(?:cdot|times)(?![A-Za-z])", "*", plain)
    plain = re.sub(r"\\[,;: !]|~", " ", plain)
    plain = re.sub(r"\s*([/*^])\s*", r"\1", " ".join(plain.split()))
    if "\\" in plain or not _COMPOUND.search(plain):
        return text, True
    unit, powers = named(plain), _powers(plain)
    if unit is None or powers is None or (len(powers) == 1 and min(powers.values()) > 0):
        return text, True
    return rf"{found['head']}\text{{ {unit}}}", upright


def is_compound(unit: str) -> bool:
    """Whether a canonical name is that of a compound unit."""
    return re.fullmatch(r"[a-z]+(?:\^-?[0-9]+)?(?:\*[a-z]+(?:\^-?[0-9]+)?)+|[a-z]+\^-[0-9]+", unit) is not None


_MIXED = re.compile(
    r"(?P<before>[^=]{0,60}=)?\s*(?P<first>[0-9]{1,12})\s?(?P<one>[A-Za-z]+)\.?,?\s?(?:and\s)?(?P<second>[0-9]{1,12}(?:\.[0-9]{1,12})?)\s?"
    r"(?P<two>[A-Za-z]+)\.?(?:,?\s?(?:and\s)?(?P<third>[0-9]{1,12}(?:\.[0-9]{1,12})?)\s?(?P<three>[A-Za-z]+)\.?)?"
)


def in_one_unit(text: str) -> str:
    r"""`3 hours 20 minutes` as `200\text{ min}`; any other text unchanged."""
    if len(text) > 200:
        return text
    plain = re.sub(_UPRIGHT + r"\{([^{}]*)\}", r" \1 ", text)
    plain = " ".join(re.sub(r"\\[,;: !]|[~$]", " ", plain).split()).strip(" .")
    found = _MIXED.fullmatch(plain)
    if found is None:
        return text
    parts = [(found["first"], found["one"]), (found["second"], found["two"])]
    parts += [(found["third"], found["three"])] if found["three"] else []
    total, unit = Fraction(0), ""
    for number, name in parts:
        known = number_words.unit_named(name)
        if known is None:
            return text
        if unit:
            step = ratio(unit, known) or Fraction(_LARGER.get((unit, known), 0))
            if step <= 1:
                return text
            total *= step
        total, unit = total + Fraction(number), known
    value = str(total.numerator) if total.denominator == 1 else rf"\frac{{{total.numerator}}}{{{total.denominator}}}"
    return rf"{found['before'] or ''}{value}\text{{ {unit}}}"
