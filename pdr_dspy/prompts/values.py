"""A statement's text as a value of its field's type, or None: never guessed, never partly parsed."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, get_args, get_origin
from uuid import UUID

import dspy
import json_repair
from pydantic import TypeAdapter, ValidationError

from pdr_dspy.prompts.inline_items import in_brackets
from pdr_dspy.prompts.line_items import is_item
from pdr_dspy.prompts.lists import items_of
from pdr_dspy.prompts.objects import repairable
from pdr_dspy.prompts.simple import copied, is_simple, is_text, one_value, simple_value, without_marks
from pdr_dspy.prompts.typed import is_special, special
from pdr_dspy.text.answers import MAX_ANSWER, to_number
from pdr_dspy.text.statements import Statement
from pdr_dspy.text.wrapping import block, boxes, tidy

_SIGNS = frozenset({"_", "*", "**"})
"""Marks of emphasis that are a whole text: an operator, a placeholder of a language."""


def value_of(statement: Statement, kind: Any, *, blanks: Collection[str] = ()) -> Any:
    """The value that a statement gives a field of type `kind`; None if it gives none.

    Args:
        statement: the statement.
        kind: the field's type, without None.
        blanks: placeholders of the prompt's form; a statement that repeats one gives no value.
    """
    if is_text(kind) and statement.whole and statement.text.strip() in _SIGNS:
        return statement.text.strip()
    if is_blank(statement.text, blanks):
        return None
    if is_special(kind):
        return _special(statement, kind)
    if is_text(kind):
        return _text(statement) if statement.whole else None
    text = without_marks(statement.text)
    if is_simple(kind):
        return simple_value(text, kind) if statement.whole else None
    if statement.exact == "tag" and "<" in text and (value := _from_elements(text, kind)) is not None:
        return value
    return structured(text, kind, whole=statement.whole)


def _special(statement: Statement, kind: Any) -> Any:
    """A value of a union or of a DSPy type."""
    text = statement.text.strip()
    if statement.exact == "tag":
        text = _unescaped(text)

    def part(text: str, kind: Any) -> Any:
        return value_of(statement._replace(text=text), kind)

    return special(text, kind, whole=statement.whole, read=part)


def is_blank(text: str, blanks: Collection[str]) -> bool:
    """Whether a text repeats the form of the prompt (`<answer>`, `[your answer here]`) or leaves it blank."""
    plain = text.strip(" \t\r\n*_`.")
    if not plain or plain in ("…", "?", "-", "—"):
        return True
    plain = plain.partition("\n")[0].rstrip(" \t\r*_`.")  # the form is only one line
    if len(plain) > 2000 or (plain[0] + plain[-1]) not in ("<>", "[]", "{}", "()"):
        return False
    inner = plain.strip("<>[]{}()").strip().casefold()
    return inner in blanks or inner.removesuffix(" here") in blanks


# ------------------------------------------------------------------------------------------------- texts


def _text(statement: Statement) -> str | None:
    """The whole text. In this library's form, a wrapping of the whole text is removed: one code block, one box, the
    brackets of the form, bold type."""
    text = statement.text.strip()
    if statement.exact == "tag":
        return _unescaped(text) or None
    if statement.exact is not None:
        return text or None
    text = _without_brackets(text)
    if text.startswith(("```", "~~~")):
        held = block(text, 0, len(text))
        if held is not None and held.closed and not re.search(r"^(?:```|~~~)", text[held.end :], re.MULTILINE):
            return held.text or None
        return text
    if "\\" in text and (found := _only_box(text)) is not None:
        return found
    bold = _BOLD.fullmatch(text)
    return (bold[1] if bold else text) or None


_BOLD = re.compile(r"\*\*(?!\s)((?:(?!\*\*)[^\n])+?)(?<!\s)\*\*[.。]?")
_AROUND_BOX = re.compile(r"(?:\s|\$|\\[()\[\]]|\\displaystyle|\*\*|[.,;:=])*")


def _only_box(text: str) -> str | None:
    r"""The content of `$\boxed{42}$.`; None if there is more than a box."""
    spans = boxes(text)
    if len(spans) != 1:
        return None
    start, end = spans[0]
    opening = re.search(r"\\[A-Za-z]+\s{0,9}(?:\[[^\[\]\n]*\]\s*)*\{?\s*$", text[:start])
    if opening is None or not _AROUND_BOX.fullmatch(text[: opening.start()]):
        return None
    rest = text[end:].removeprefix("}") if text[:start].rstrip().endswith("{") else text[end:]
    return text[start:end].strip() if _AROUND_BOX.fullmatch(rest) else None


_ELEMENT = re.compile(
    r"(?:a|abbr|article|aside|audio|b|big|blockquote|body|br|button|canvas|caption|center|code|col|dd|del|details|div|dl"
    r"|dt|em|embed|fieldset|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li|link"
    r"|main|map|mark|meta|nav|ol|option|p|param|picture|pre|q|s|script|section|select|small|source|span|strong|style|sub"
    r"|summary|sup|svg|table|tbody|td|template|textarea|tfoot|th|thead|time|title|tr|track|u|ul|var|video|wbr)(?:\s|$)"
)


def _without_brackets(text: str) -> str:
    """The content of brackets that a small model copied from the form: `<42>`. An HTML element is a text."""
    wrapped = re.fullmatch(r"[*_`]*<\s?([^<>/\n][^<>\n]*)>[*_`.]*", text)
    if wrapped and not _ELEMENT.match(wrapped[1]):
        return wrapped[1].strip()
    return text


def _unescaped(text: str) -> str:
    """The text of an element, as DSPy's XMLAdapter reads it; unchanged if it is not XML."""
    if ("&" not in text and "<" not in text) or len(text) > 100_000:
        return text
    try:
        element = ET.fromstring(f"<text>{text}</text>")
        return ((element.text or "") + "".join(ET.tostring(child, encoding="unicode") for child in element)).strip()
    except (ET.ParseError, RecursionError):
        return text


# ------------------------------------------------------------------------------------------------- structured values


@lru_cache(maxsize=256)
def _cached_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return _cached_adapter(kind)
    except TypeError:  # a type that cannot be hashed, such as one with a list in its annotations
        return TypeAdapter(kind)


def structured(text: str, kind: Any, *, whole: bool = True) -> Any:
    """Lists, objects and the like: JSON, repaired JSON, or a list as people write it.

    Args:
        text: the statement.
        kind: the type; the text must be valid for it by pydantic.
        whole: False for a truncated text: then only a value with a closing bracket is read, or a list on a complete
        line.
    """
    body = text.strip()
    held = block(body, 0, len(body))
    if held is not None and held.closed:
        body = tidy(held.text) if held.text.startswith(("$", "\\")) else held.text.strip()
    elif fenced := _FENCED.search(body):
        body = fenced[2].strip()
    elif not whole and body.startswith(("```", "~~~")):
        return None
    value = _structured(text, body, kind, whole=whole)
    return value if _finite(value) else None


_FENCED = re.compile(r"(```|~~~)(?:json|python)?\s*\n(.*?)\n?\s*\1", re.DOTALL)


def _finite(value: Any) -> bool:
    """Whether a value contains neither NaN, which equals nothing, nor infinity."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple | set | frozenset) or all(map(_finite, value))


_LEFT_OUT = re.compile(r"(?:^|[\[({,，;、])\s*[\"']?(?:\.{3}|…|\\[lc]?dots(?![A-Za-z]))[\"']?\s*(?:[\])},，;、]|$)")
"""`[1, 2, ..., 10]` does not state the omitted items."""
_ZEROS = re.compile(r"(?<=[0-9]),0[0-9]{2}(?![0-9.])")
"""`[1,000]` is one number or two."""


def _scalar(text: str, kind: Any) -> Any:
    """A date, a time, an exact number or an identifier, without the text around it. A bare number is not a date."""
    plain = tidy(text)
    if kind is not Decimal and kind is not UUID and _BARE.fullmatch(plain):
        return None
    with suppress(ValidationError, ValueError):
        return _adapter(kind).validate_python(plain)
    number = to_number(text) if kind is Decimal else None
    if number is None:
        return None
    exact = Decimal(number.numerator) / Decimal(number.denominator)
    return exact if Fraction(exact) == number else None  # 1/3 is not a decimal


_BARE = re.compile(r"[-+]?[0-9]*\.?[0-9]*")
SCALARS = (date, datetime, time, timedelta, Decimal, UUID)
"""Types of a single value that pydantic parses from a text."""


def _structured(text: str, body: str, kind: Any, *, whole: bool) -> Any:
    if kind in SCALARS:
        return _scalar(body, kind) if whole else None
    adapter = _adapter(kind)
    if body[:1] in ("[", "{", '"') and (value := _json_prefix(body, adapter)) is not None:
        return value
    if whole:
        with suppress(ValidationError, ValueError):
            value = adapter.validate_json(body)
            return None if _turned(json.loads(body), value) else value
    listed = member_kinds(kind)
    if listed is None and body[:1] in ("[", "{") and _is_one_of_several(body):
        return None
    if len(body) <= MAX_ANSWER and (_LEFT_OUT.search(body) or (body[:1] in "[{" and _ZEROS.search(body))):
        return None
    if (get_origin(kind) or kind) is dict and body[:1] == "{" and not in_brackets(body):
        return None  # more entries may be missing
    if not whole:
        first, newline, rest = text.lstrip().partition("\n")
        half = (
            first.rstrip().endswith((":", "：", ",", "，"))
            or is_item(first)
            or is_item(rest.lstrip().partition("\n")[0])
        )
        if listed is None or not newline or half or text[:1] == "\n":
            return None  # half of a list would pass for the whole
        body = first.strip()
    else:
        mended = _repaired(body) if listed is None or (body[:1] == "[" and in_brackets(body)) else None
        for candidate in (mended, body if listed is None else None):
            if candidate in ("", None):
                continue
            with suppress(ValidationError, ValueError):
                return adapter.validate_python(candidate)
    if listed is None or _OBJECT.match(body) or _is_cut(body):
        return None
    return _listed(body, kind, listed)


_PAIRS = {"[": "]", "{": "}", "(": ")", "⟨": "⟩"}


def _is_cut(body: str) -> bool:
    """Whether a list lacks its closing bracket or quote: `["red", "bl`."""
    closing = _PAIRS.get(body[:1])
    if closing is not None:
        return body.count(body[0]) > body.count(closing)
    return body[:1] == '"' and body.count('"') % 2 == 1


_OBJECT = re.compile(r"\{\s*(?:\"[^\"\n]{0,80}\"|'[^'\n]{0,80}'|\w{1,40})\s*:")


def _json_prefix(body: str, adapter: TypeAdapter[Any]) -> Any:
    """The value at the beginning of a text, if only a mark follows on its line."""
    try:
        _, end = _DECODER.raw_decode(body)
    except (ValueError, RecursionError):
        return None
    if body[end:].partition("\n")[0].strip(" \t\r.;`*$"):
        return None
    try:
        value = adapter.validate_json(body[:end])
    except (ValidationError, ValueError):
        return None
    return None if _turned(json.loads(body[:end], strict=False), value) else value


def _is_one_of_several(body: str) -> bool:
    """Whether words follow the first value of a text in its line: `{...} or {...}` offers two."""
    try:
        _, end = _DECODER.raw_decode(body)
    except (ValueError, RecursionError):
        return False
    return re.match(r"[ \t]*(?:or|and|[,;/|])?[ \t]*[{\[]|[ \t,;]*(?:or|and|oder|ou)\b", body[end:]) is not None


def _turned(written: Any, value: Any) -> bool:
    """Whether a truth value was turned into a number: `[1, true]` is no list of numbers."""
    if isinstance(written, bool):
        return isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if isinstance(written, list) and isinstance(value, list | tuple):
        return any(map(_turned, written, value))
    if isinstance(written, list) and isinstance(value, set | frozenset):
        return any(isinstance(each, bool) for each in written) and not any(isinstance(each, bool) for each in value)
    if isinstance(written, dict) and isinstance(value, dict):
        return any(_turned(each, value.get(name)) for name, each in written.items())
    if isinstance(written, dict):
        return any(_turned(each, getattr(value, name, None)) for name, each in written.items())
    return False


_DECODER = json.JSONDecoder(strict=False)


def _repaired(body: str) -> Any:
    """JSON after repair of small mistakes; None if there is nothing to repair."""
    if body[:1] not in ("[", "{") or not repairable(body, brackets=300):
        return None
    try:
        value = json_repair.loads(body)
    except (ValueError, RecursionError):
        return None
    if not value and re.search(r"\w", body):
        return None  # not understood
    return value if isinstance(value, list | dict) else None


def member_kinds(kind: Any) -> Sequence[Any] | None:
    """The types of the items of a list, set or tuple: one type for all items, then `...`, or one for each. None for any
    other type."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (list, set, frozenset):
        return (arguments[0] if arguments else str, ...)
    if origin is tuple:
        return arguments or (str, ...)
    return None


def _listed(body: str, kind: Any, members: Sequence[Any]) -> Any:
    """A list that is not written as JSON. Every item is parsed, or there is no list."""
    each, every = members[0], len(members) == 2 and members[1] is ...
    kinds = [each] if every else list(members)
    ways = items_of(
        body,
        numbers=all(one in (int, float) or member_kinds(one) is not None for one in kinds),
        words=any(one is str or one is Any for one in kinds),
        nested=any(member_kinds(one) is not None for one in kinds),
        decimals=float in kinds,
    )
    for way in ways:
        if not every and len(way) != len(kinds):
            continue
        if every and member_kinds(each) is not None and "\n" not in body and not any(map(_COMPOUND.search, way)):
            continue  # `[1, 2]` for a list of lists: one list of two or two of one?
        values = [
            _item(item, each if every else own)
            for item, own in zip(way, kinds * len(way) if every else kinds, strict=False)
        ]
        if any(value is None for value in values):
            continue
        with suppress(ValidationError, ValueError):
            return _adapter(kind).validate_python(values)
    return None


_COMPOUND = re.compile(r"[\[({,，、;]|\\[{(]")


def _item(text: str, kind: Any) -> Any:
    if kind is str or kind is Any:
        item = text.strip()
        bold = _BOLD.fullmatch(item)
        return (bold[1] if bold else item) or None
    if is_simple(kind):
        return one_value(copied(text), kind)
    return structured(text, kind)


# ------------------------------------------------------------------------------------------------- elements


@lru_cache(maxsize=64)
def _element_signature(kind: Any) -> type[dspy.Signature]:
    fields = {"text": (str, dspy.InputField()), "value": (kind, dspy.OutputField())}
    return dspy.Signature(fields, "Read the value.")  # type: ignore[call-overload]


def _from_elements(text: str, kind: Any) -> Any:
    """The value of nested elements, as DSPy's XMLAdapter reads it."""
    if len(text) > 100_000:
        return None
    with suppress(dspy.AdapterParseError, ValueError, KeyError, TypeError, RecursionError):
        signature = _element_signature(kind)
        return dspy.XMLAdapter().parse(signature, f"<value>{text}</value>").get("value")
    return None
