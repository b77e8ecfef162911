"""Words around numbers: multipliers, units, and words that leave no plain value.

Data, not grammar: `numbers.py` uses it for plain text, `verifiers/mathematics` for LaTeX.
"""

from __future__ import annotations

import re
from fractions import Fraction

SCALES = {
    **{"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12},
    **{"quadrillion": 10**15, "quintillion": 10**18, "lakh": 10**5, "lac": 10**5, "crore": 10**7},
    **{"mn": 10**6, "mln": 10**6, "mio": 10**6, "bn": 10**9, "bln": 10**9, "mrd": 10**9, "dozen": 12},
}
"""Words after a number that multiply it, in the singular. Billion and above are those of the short scale."""

SHORT_SCALES = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
"""Letters attached to a number that multiply it: `1.5k`, `$2.5M`. `2m` may be metres, `3b` a product."""


def words(text: str) -> frozenset[str]:
    """The words of a table written as text."""
    return frozenset(text.split())


FOREIGN_SCALES = words(
    """tausend hundert millionen milliarde milliarden billionen billiarde dutzend mille milliers milliard milliards
    douzaine douzaines vingtaine vingtaines centaine centaines dizaine dizaines mil millón millon millones billón
    billones millardo docena milhão milhões milhao bilhão bilhões dúzia mila milione milioni miliardo miliardi
    dozzina миллион миллиона миллионов миллиард миллиарда миллиардов тысяча тысячи тысяч тыс млн млрд juta ribu
    triliun arab kharab tn bio myriad sextillion septillion octillion nonillion decillion zillion bazillion
    gazillion googol googolplex mega kilo giga tera hecto deca centi milli micro nano pico
    bajillion docenas duzia duzias dúzias hunderttausend zehntausend milyon milyar demi"""
)
FOREIGN_DIGITS = "十百千万亿兆萬億만억천백십半"
"""Characters that multiply the number before them."""

DOZENS = words(
    """score scores gross grosses k kk grand thou mill mills bil bils tril cr crs hundredweight twos threes fours fives
    sixes sevens eights nines tens elevens twelves twenties thirties forties fifties sixties seventies eighties nineties
    reams fortnights"""
)
"""Words after a number that may mean a unit or a factor: `2 gross` names neither 2 nor 288."""

NOT_PLAIN = words(
    """not or nor neither never cannot unable unknown unsure undefined wrong incorrect false impossible infinite
    infinity twice thrice double doubles doubled triple triples tripled treble quadruple quadrupled halve halved
    half halves squared cubed factorial fold tenfold modulo mod base binary octal hexadecimal pi sqrt root roots sin
    cos tan cot sec csc log ln exp arcsin arccos arctan divided multiplied subtracted permille promille permil ppm
    ppb bps than between except excluding without divides reciprocal inverse hundredfold thousandfold twofold
    threefold fourfold fivefold raised complement conjugate opposite something doubt doubts doubted doubtful
    unlikely implausible disagree disagrees refute refutes refuted disprove disproves disproved contradicts reject
    rejects rejected excluded excludes exclude discard discarded mistaken mistakenly erroneous wrongly hardly
    scarcely barely unsound untrue invalid fail fails failed extraneous bound underestimate overestimate moitié
    mitad metà metade hälfte halb halbe doppelt doble dobro doppio drittel viertel tiers tercio cuadrado carré
    quadrat oder ou aut nicht kein keine nie jamais nunca"""
) - {""}
"""Words that leave no plain value, anywhere in the text."""

BEFORE = words(
    """over under above below beyond exceeding exceeds nearly almost within plus minus times less versus vs per off
    first last next every no if whether step case equation eq problem question figure fig table section chapter page
    pages row column exercise theorem lemma round part version item type x by and but from until till since choose
    third thirds quarter quarters fifth fifths tenth tenths hundredth hundredths cube square power unter über fast
    plus moins menos menor mayor before after near"""
)
"""Words that change or remove a value directly before the number."""

AFTER = words(
    """and plus minus over under above below negative choose to through until till out point half third thirds fourths
    quarter quarters fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths eleventh
    elevenths twelfth twelfths hundredth hundredths thousandth thousandths millionth millionths und et
    too missing"""
)
"""Words that change a value directly after the number: `2 thirds`, `3 and a half`."""

PARTS = re.compile(
    r"\b(?:half|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth|percent)s?\s+of\b",
    re.I,
)
"""`a third of 12`, anywhere in the text."""
DERIVED = re.compile(
    r"\b(?:square|cube|power|multiple|factor|fraction|opposite|negative|complement|sum|product|difference|quotient"
    r"|remainder|logarithm|successor|predecessor|digits?|divisors?)s?\s+of\b|\bof\s+$",
    re.I,
)
"""`the square of 5`; `of` directly before a number unless it is `a total of 5`. `The sum of the digits is 5` is 5."""
STATES = re.compile(r"(?:\b(?:is|are|was|were|equals?|gives|get|makes|have|has)|[:=≈])\s*$", re.I)
SAYS_MORE = re.compile(  # a statement about a number, except that it is the answer
    r"\s?,?\s?(?:is|was|are|were|seems|looks|would be|may be|might be|could be)\b(?!\s?[=:])"
    r"(?!(?:\s(?:the|my|our|a|an|indeed|therefore|thus|clearly|also|only|final|correct|right|total|required"
    r"|desired|minimum"
    r"|maximum|smallest|largest|least|greatest|number|exact|unique|sum)){0,5}\s(?:answer|result|solution|value"
    r"|number|total|sum"
    r"|amount|product|count|probability|area|volume|length|distance|perimeter|price|cost|age|average|mean|correct|right"
    r"|true|it|minimum|maximum|final|needed|required|left|remaining|how many)\b)",
    re.I,
)
WHOLES = re.compile(
    r"\b(?:total|amount|value|maximum|minimum|max|min|area|volume|length|distance|perimeter|cost|price|average|mean"
    r"|median|score|probability|answer|result|profit|age|height|width|speed|count)\s+of\s+$",
    re.I,
)
PHRASES = re.compile(
    r"\b(?:at (?:least|most)|up to|no (?:more|less|fewer)|(?:greater|less|more|fewer|smaller|larger|bigger) than"
    r"|per mille|per mil|per thousand|per hundred thousand|basis[- ]points?|parts? per"
    r"|times (?:as|more|less|larger|greater|bigger|smaller|higher|the)"
    r"|to the|root of|out of|is no|are no|no (?:answer|solution|such))\b|n['’]t\b",
    re.I,
)

PERCENT = re.compile(r"\s?\b(?:per\s?cent|percentage|pct)\b\.?(?! points?\b)", re.I)
PERCENTAGE_POINTS = re.compile(r"\s?\b(?:percentage|percent|per\s?cent)[ -]points?\b", re.I)
"""A difference of percentages, which is no percentage: `20 percentage points` is not 0.2."""

# ------------------------------------------------------------------------------------------------------------ units

_UNIT_NAMES = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "dm": "dm decimeter decimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "mg": "mg milligram",
    "g": "g gm gram gramme",
    "kg": "kg kgs kilogram",
    "lb": "lb lbs pound",
    "oz": "oz ounce",
    "ms": "ms millisecond",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "week": "week wk",
    "month": "month",
    "year": "year yr",
    "ml": "ml mL milliliter millilitre",
    "l": "l L liter litre",
    "gal": "gal gallon",
    "degree": "degree deg",
    "radian": "radian rad",
    "dollar": "dollar USD usd bucks",
    "cent": "cent ct cts",
    "euro": "euro EUR eur",
    "percent": "percent %",
    "km/h": "km/h kph kmh km/hr",
    "mph": "mph mi/h mi/hr",
    "m/s": "m/s m/sec",
}
UNITS = {name: unit for unit, names in _UNIT_NAMES.items() for name in names.split()}
"""Names of units, in the singular; two different units are different quantities."""

_METRES = {"mm": "1/1000", "cm": "1/100", "dm": "1/10", "m": "1", "km": "1000"}
_FEET = {"in": "1/12", "ft": "1", "yd": "3", "mi": "5280"}
_GRAMS = {"mg": "1/1000", "g": "1", "kg": "1000"}
_LITRES = {"ml": "1/1000", "l": "1"}
_SECONDS = {"ms": "1/1000", "s": "1", "min": "60", "h": "3600", "day": "86400", "week": "604800"}
_SPEEDS = {"m/s": "1", "km/h": "5/18"}
_MONEY = {"cent": "1/100", "dollar": "1"}


def ratio_of(unit: str, other: str) -> Fraction | None:
    """How many of the `other` unit one `unit` is, exactly (`cm`, `mm`: 10); None for units of different kinds."""
    (name, _, power), (known, _, other_power) = unit.partition("^"), other.partition("^")
    if power != other_power:
        return None
    for table in (_METRES, _FEET, _GRAMS, _LITRES, _SECONDS, _SPEEDS, _MONEY):
        if name in table and known in table:
            return (Fraction(table[name]) / Fraction(table[known])) ** int(power or 1)
    return None


GLUED = re.compile(  # units that may follow their number without a space
    r"[cmknu]m|[km]?g|[mkdc]l|ft|in|yd|mi|hrs?|mins?|secs?|ms|am|pm|lbs?|oz|[kmgt]b|[mk]ph|kwh|rpm|px|pts?"
    r"|usd|eur|gbp|gal|cal|deg|rad|mol|ha|psi|[km]?hz|ghz|[km]w|kj|k?pa|yrs?|wks?|cts",
    re.I,
)
LETTERS = frozenset("mgshlLNJWV")
"""Units of one letter, after a space."""
GLUED_LETTERS = frozenset("hgL")
"""Units of one letter that may follow their number without a space; `5s` may be a plural, `5m` a factor."""
SHORT_THINGS = words(
    """men man kid kids day days egg eggs cup cups box bag bags pen pens cat cats dog dogs cow cows pig pigs hen hens
    car cars bus toy toys hat hats can cans jar jars pie pies bar bars run runs lap laps row rows ton tons job jobs
    key keys ant ants bee bees fly tin tins mug mugs net nets nut nuts pan pans pot pots set sets tie ties cap caps
    bed beds boy boys gap gaps cut cuts era eras fan fans pet pets rat rats leg legs arm arms eye eyes ear ears ice
    age ages yen yuan won ft lb oz km cm mm kg mg ml gm hr min sec yr mph kph rad usd eur gbp pair team kgs lbs cm2
    cm3 m2 m3 km2 ft2 rs inr cad aud chf sek"""
)
"""Things and units of up to three letters."""
SHORT_NOUNS = SHORT_THINGS | words(
    """sq cu in of at a an the is are for on it deg so i we he she they has had was each all more less left too yes
    hence ok new old red big top her his its our my per as do did get got etc pm am us uk due via"""
)
"""Words of up to three letters that may surround a number: other short letter groups are variables, not words."""


def is_scale(word: str) -> bool:
    """Whether a word in lower case multiplies the number before it: `thousand`, `millions`."""
    return word in SCALES or (word.endswith("s") and word[:-1] in SCALES)


def singular(word: str) -> str:
    """`inches` as `inch`, `miles` as `mile`."""
    if word in UNITS or len(word) < 4:
        return word
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def unit_named(phrase: str) -> str | None:
    """The canonical name of a unit (`square feet` is `ft^2`); None if it is unknown."""
    phrase = phrase.replace("²", "^2").replace("³", "^3").strip(" .")
    power = 1
    match = re.fullmatch(r"(.*?)\s?\^\s?\{?([2-9])\}?", phrase)
    if match:
        phrase, power = match[1].strip(), int(match[2])
    match = re.fullmatch(r"(?:(square|sq\.?|cubic|cu\.?)\s)?([A-Za-z/%]+)\.?(?:\s(squared|cubed))?", phrase)
    if match is None:
        return None
    if match[1] or match[3]:
        power = 2 if (match[1] or match[3]).startswith("sq") else 3
    name = match[2]
    unit = UNITS.get(name) or UNITS.get(singular(name)) or UNITS.get(singular(name.lower()))
    if unit is None and name.count("/") == 1:
        parts = [UNITS.get(part) or UNITS.get(singular(part.lower())) for part in name.split("/")]
        unit = None if None in parts else "/".join(map(str, parts))
    if unit is None:
        return None
    return unit if power == 1 else f"{unit}^{power}"
