"""Yes and no as whole answers: with a reason behind them, as a sentence (`this is false`), in other languages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdr_dspy.text.signal_words import TURNS
from pdr_dspy.text.wrapping import tidy

MAX_LENGTH = 400
_YES = (
    "yes|true|correct|right|yep|yeah|affirmative|ja|jawohl|wahr|richtig|oui|vrai|sí|si|sì|verdadero|cierto|vero|sim|verdadeiro|да|верно"
    "|правда|так|tak|prawda|ano|evet|doğru|igen|kyllä|da|ναι|はい|是|是的|对|對|正确|正確|真|예|네|맞습니다|참|نعم|صحيح|כן|हाँ|हां"
    "|सही|có|đúng|vâng|ya|benar|ใช่"
)
_NO = (
    "no|false|incorrect|wrong|nope|negative|nein|falsch|unwahr|non|faux|falso|não|нет|неверно|ложь|ні|nie|fałsz|ne|hayır"
    "|yanlış|nem|ei|nee|nej|nei|όχι|いいえ|いえ|否|不|不是|不对|不對|错|錯|错误|錯誤|假|不正确|不正確|아니요|아니오|아뇨|거짓|لا|خطأ|לא|नहीं|गलत"
    "|không|sai|tidak|bukan|salah|ไม่|ไม่ใช่"
)
_WORDS = dict.fromkeys(_YES.split("|"), True) | dict.fromkeys(_NO.split("|"), False)
_POLAR = frozenset({"yes", "no", "true", "false", "unknown", "uncertain", "maybe"})
_OPENED = re.compile(
    r"(?P<word>[^\s,.;:!?()–—，。；：！（）*_\"'`-]{1,20}(?:\sis)?)[*_\"'`]{0,3}(?:[,;:，；：]\s?|[.!]\s+|[。！]\s?|\s[–—-]{1,2}\s|—|\s?[(（])"
    r"(?P<reason>.+)",
    re.S,
)
_SAID = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|in conclusion|consequently|overall),?\s)?(?:this|that|it|the "
    r"(?:(?:given|above|whole|original)\s)?(?:statement|claim|proposition|sentence|assertion|hypothesis|conjecture|inequality|equation|answer))"
    r"\sis\s(?:(?:therefore|thus|hence|clearly|indeed|definitely|always|in fact)\s)?"
    r"(?P<word>true|false|correct|incorrect)[.!]?",
    re.I,
)
_TAKEN_BACK = re.compile(
    rf"""\b(?:{TURNS}|but|or|however|though|although|unless|if|except|maybe|perhaps|possibly|probably
    |might|may|could|should|depends?|sometimes|partly|partially|not\ssure|unsure|mistake|both|either|yet
    |otherwise|scratch|on\ssecond|aber|oder|mais|ou|pero|o|ma|mas|но|или)\b
    | [?？] | 但 | 或 | しかし | でも | 하지만""",
    re.I | re.X,
)
_EXCEPTED = re.compile(r"\b(?:no|nothing|none|any)\b[^.,;]{0,40}?\bbut\b", re.I)
_NUMBERED = re.compile(r"[0-9]{1,6}[.]?\s*|of\s.*", re.S)
"""`No. 9` and `No. of boxes` abbreviate `number`."""


def polar(text: str, options: Sequence[str]) -> str | None:
    """The one of `options`, such as `yes`, `no`, `true` and `false`, that an answer names, or None.

    Read are a word of many languages (`nein`, `是`), a sentence (`This is false.`), and a word with a reason (`No, it
    is not prime.`), unless the reason takes it back, limits it or names another option.
    """
    known = {option.casefold(): option for option in options}
    if len(text) > MAX_LENGTH or not ({"yes", "no"} <= known.keys() or {"true", "false"} <= known.keys()):
        return None
    plain = tidy(" ".join(text.split()))
    if said := _SAID.fullmatch(plain):
        return _option(said["word"].casefold(), known)
    if (alone := _option(plain.rstrip("!！").casefold(), known)) is not None:
        return alone
    opened = _OPENED.fullmatch(plain)
    if opened is None:
        return None
    held, reason = _option(opened["word"].casefold(), known), opened["reason"]
    if held is None or _NUMBERED.fullmatch(reason) or _TAKEN_BACK.search(_EXCEPTED.sub(" ", reason)):
        return None
    words = set(re.findall(r"[^\W\d_]+", reason.casefold()))
    others = {word for word in known if _option(word, known) != held} | ({"yes", "no", "true", "false"} - _same(held))
    return None if words & (others - {"no"} if _is_negated(reason) else others) else held


def _same(held: str) -> set[str]:
    return {"yes", "true"} if held.casefold() in ("yes", "true") else {"no", "false"}


def _is_negated(reason: str) -> bool:
    """Whether `no` in a reason belongs to a noun: `there is no divisor`."""
    return re.search(r"\bno\s+[^\W\d_]{3,}", reason, re.I) is not None


def _option(word: str, known: dict[str, str]) -> str | None:
    """The option that a word names."""
    if word in known:
        return known[word]
    if word not in _WORDS:
        return None
    return next((known[name] for name in (("yes", "true") if _WORDS[word] else ("no", "false")) if name in known), None)
