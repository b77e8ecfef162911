"""Whole numbers in the words of other languages: `sieben`, `quarante` and `十七`, each alone.

A word that means something else in English (`elf`, `once`, `cent`) names nothing, nor does a number of several words.
"""

from __future__ import annotations

import re

_LANGUAGES = (
    (  # German
        "- eins zwei drei vier fünf sechs sieben acht neun zehn - zwölf dreizehn vierzehn fünfzehn sechzehn"
        " siebzehn achtzehn neunzehn",
        "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
    ),
    (  # French
        "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept"
        " dix-huit dix-neuf",
        "vingt trente quarante cinquante soixante",
    ),
    (  # Spanish
        "cero uno dos tres cuatro cinco seis siete ocho nueve diez - doce trece catorce quince dieciséis diecisiete"
        " dieciocho diecinueve",
        "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
    ),
    (  # Italian
        "- uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici sedici"
        " diciassette diciotto diciannove",
        "venti trenta quaranta cinquanta sessanta settanta ottanta novanta",
    ),
    (  # Portuguese
        "- um dois três quatro cinco seis sete oito nove dez onze doze treze catorze quinze dezesseis dezessete"
        " dezoito dezenove",
        "vinte trinta quarenta cinquenta sessenta setenta oitenta noventa",
    ),
    (  # Russian
        "ноль один два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать тринадцать"
        " четырнадцать пятнадцать шестнадцать семнадцать восемнадцать девятнадцать",
        "двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто",
    ),
    ("- 하나 둘 셋 넷 다섯 여섯 일곱 여덟 아홉 열", ""),  # Korean
)
_VALUES = {
    word: 10 * place + 20 if tens else place
    for language in _LANGUAGES
    for tens, words in enumerate(language)
    for place, word in enumerate(words.split())
    if word != "-"
}
_DIGITS = {
    "零": 0,
    "〇": 0,
    "一": 1,
    "二": 2,
    "两": 2,
    "兩": 2,
    "三": 3,
    "四": 4,
    "五": 5,
    "六": 6,
    "七": 7,
    "八": 8,
    "九": 9,
}
_CHINESE = re.compile(
    "(?:(?P<thousands>[二两兩三四五六七八九]?|一)千)?(?P<skipped>零)?(?:(?P<hundreds>[二两兩三四五六七八九]?|一)百)?(?P<also>零)?"
    "(?:(?P<tens>[二三四五六七八九]?|一)十)?(?P<ones>[零〇一二两兩三四五六七八九]?)"
)


def in_other_words(text: str) -> str | None:
    """The digits of a text that is a whole number in a word of another language; None for any other text."""
    text = text.strip().rstrip(".。")
    if not 0 < len(text) <= 20:
        return None
    if (value := _VALUES.get(text.lower())) is not None:
        return str(value)
    if text.isascii() or not (read := _CHINESE.fullmatch(text)):
        return None
    if read["skipped"] and read["hundreds"] is not None:
        return None  # `一千零二百`
    if (read["skipped"] or read["also"]) and text[0] in "零〇" and len(text) > 1:
        return None
    powers = (("thousands", 1000), ("hundreds", 100), ("tens", 10))
    total = sum((_DIGITS[read[name]] if read[name] else 1) * power for name, power in powers if read[name] is not None)
    ones, bare = read["ones"], read["tens"] is None and not (read["skipped"] or read["also"])
    if ones and total and bare:
        return None  # `二百五` is 250
    return str(total + (_DIGITS[ones] if ones else 0))
