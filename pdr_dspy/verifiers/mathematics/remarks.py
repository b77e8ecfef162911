"""Removes remarks that a person adds to a value: a rejected root (`7 (8 is extraneous)`), the stated rounding."""

from __future__ import annotations

import re
from fractions import Fraction

_VALUE = r"[^()\[\],;.]{1,40}(?:\.[0-9]+)?"
_REJECTED = (
    r"(?:(?:is|are|was|were)\s)?(?:an?\s)?(?:extraneous|rejected|discarded|excluded|invalid|inadmissible|not\s(?:valid"
    r"|a\s(?:valid\s)?solution|a\s(?:valid\s)?root|allowed|possible|permitted|admissible)|(?:does|do)\s(?:not|n['’]t)"
    r"\s(?:work|satisfy\sthe\sequation|check)|doesn['’]t\s(?:work|check))(?:\s(?:solutions?|roots?|values?))?"
)
_REJECT = (
    r"(?:reject(?:ing|ed)?|discard(?:ing|ed)?|exclud(?:e|ing|ed)|ignor(?:e|ing)|disregard(?:ing)?|throwing out"
    r"|extraneous:|extraneous (?:root|solution)s?:?)"
)
_BESIDE = re.compile(
    rf"(?P<value>.+?)\s*(?:[(\[]|[,;]\s*|\s[–—-]\s)(?:since|because|as|where|while|with)?\s*"
    rf"(?:(?P<one>{_VALUE}?)\s+{_REJECTED}|(?P<after>{_REJECT})\s*(?:the\s(?:root|solution|value)\s)?(?P<two>{_VALUE}))\s*[)\]]?",
    re.S,
)
_TO_A_PLACE = re.compile(
    r"(?P<value>.*[0-9}%°$])\s*,?\s*\(?\s*(?:when\s|if\s)?(?:rounded\s(?:off\s)?|correct\s|accurate\s|given\s)?to\s"
    r"(?:the\snearest\s(?:whole\s(?:number|percent|dollar)|integer|tenths?|hundredths?|thousandths?|cent|dollar|degree"
    r"|percent|unit)|(?:[1-9]|one|two|three|four|five|six)\s(?:decimals?(?:\s(?:places?|digits?))?|d\.?p\.?"
    r"|sig(?:nificant)?\.?\s(?:fig(?:ure)?s?|digits?)\.?|s\.?f\.?))\s*\)?",
    re.I | re.S,
)
_ROUNDED = re.compile(
    r"(?P<name>[A-Za-z]\s*=\s*)?\$?(?P<exact>-?[0-9]+(?:\.[0-9]+)?)\$?\s*(?P<unit>\\?%|[A-Za-z]{1,12})?\s*,?\s*\(?\s*"
    r"(?:which\s(?:is\s)?|and\s(?:is\s)?)?(?:rounded|rounds|rounding)\s(?:up\s|down\s|off\s)?(?:to|gives)\s"
    r"\$?(?P<rounded>-?[0-9]+(?:\.[0-9]+)?)\$?\s*(?P<again>\\?%|[A-Za-z]{1,12})?\s*\)?",
    re.I,
)


_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:/[0-9]+)?")


def without_remarks(answer: str) -> str:
    r"""The answer without a remark behind it.

    `7 (8 is extraneous)` is `7`; a value that is itself rejected keeps its remark. `3.14 (to two decimal places)` is
    `3.14`. `42.3, rounded to 42` is `42.3 \approx 42`, which states 42 as well as 42.3, if 42.3 does round to 42; of a
    coarser rounding only the rounded value counts (`6.8, rounded to 7`).
    """
    text = answer.strip().rstrip(".") if len(answer) < 400 else answer
    if len(text) >= 400:
        return answer
    if (found := _ROUNDED.fullmatch(text)) and _rounds(found["exact"], found["rounded"]):
        unit = found["unit"] or ""
        if (found["again"] or unit) == unit or not unit:
            unit = unit or found["again"] or ""
            near = abs(Fraction(found["exact"]) - Fraction(found["rounded"])) * 50 <= abs(Fraction(found["exact"]))
            after = unit if unit[-1:] == "%" else rf"\text{{ {unit}}}" if unit else ""
            both = rf"{found['exact']} \approx " if near else ""
            return f"{found['name'] or ''}{both}{found['rounded']}{after}"
    if (found := _TO_A_PLACE.fullmatch(text)) and "approx" not in found["value"]:
        return found["value"].rstrip(" ,(")
    if found := _BESIDE.fullmatch(text):
        rejected = re.sub(r"\s(?:is|are|was|were|as)(?:\san?)?$", "", found["one"] or found["two"] or "")
        named = {_bare(rejected), *_NUMBER.findall(_bare(rejected))}
        if _NUMBER.search(rejected) and not named & _parts(found["value"]):
            return found["value"]
    return answer


def _rounds(exact: str, rounded: str) -> bool:
    """Whether a decimal rounds to another, which has fewer places."""
    places = len(rounded.partition(".")[2])
    if places >= len(exact.partition(".")[2]):
        return False
    return abs(Fraction(exact) - Fraction(rounded)) * 2 * 10**places <= 1


def _bare(value: str) -> str:
    """A value without its name, spaces and math marks."""
    return re.sub(r"^.*=|[\s$\\,;:!(){}]", "", value.replace("−", "-"))


def _parts(value: str) -> set[str]:
    return {_bare(part) for part in re.split(r",|;|\bor\b|\band\b", value)} | {_bare(value)}
