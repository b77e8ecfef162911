"""The items of a list within a line: in brackets of all kinds, between commas, in a sentence, numbered."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdr_dspy.prompts.line_items import DOUBTED, MAX_LINE
from pdr_dspy.text.signal_words import REASONS
from pdr_dspy.text.wrapping import tidy

BRACKETS = dict(zip("[({⟨<（［｛〈【", "])}⟩>）］｝〉】", strict=True))
"""Opening brackets with their partners."""
_CALL = re.compile(r"(?:set|frozenset|tuple|list|array|np\.array|\\left|\\langle)\s{0,3}(?=[(\[{⟨\\])")
_RIGHT = re.compile(r"\\right(?![A-Za-z])")
_NONE = re.compile(r"(?:none|nothing|n/a|null|nil|no \w+)\.?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z]\w{0,20}(?:\s?\([a-z]\))?\s{0,3}(?:=|:=|∈|\\in(?![a-z]))\s{0,3}(?=\S)")
_PROSE = re.compile(
    r"(?:[^:：]{1,120}[:：]"
    r"|[^:：]{1,120}?\b(?:are|is|include|includes|namely|equals?|being|were|sind|lauten|ist|sont|est|son|es|sono|è|são|é)\b)"
    r"[ \t]{1,9}(?=\S)",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"(?:the|these|those|there|they|all|our|my|possible|both|here|we)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"[,;]?\s*\(?(?:\b(?:but|and)\s+)?\b(?:not|cannot|unable|unknown|neither|never|no longer|none|except)\b.*"
    r"|[,;]?\s*\b\w+n['’]t\b.*",
    re.I | re.S,
)
_REFUSED = re.compile(r"[,;]?\s*\(?(?:(?:but|and)\s+)?not\b[^,;()]*\)?[\s.]*|[^0-9]*", re.I)
"""A negation at the end of a list that affects no other item: `2 and 5, not 3`."""
_SEVERAL = re.compile(r"[0-9]\D*[^0-9.,]\D*[0-9]")
_CLAUSE = re.compile(
    rf"[,;]?(?<!well)\s(?:{REASONS}|so|which|where|when|for|with|respectively|all of which)\b.*",
    re.I | re.S,
)
_STOP = re.compile(r"[.!?](?=\s+[A-Z(])|。")
_ASIDE = re.compile(r"(?<![,;&])(?<!and)(?<!or)\s\((?:[0-9]{1,4}\s)?[^\W\d][^()0-9\n]{1,200}\)\s*\.?$")
_TRAIL = re.compile(
    r"\s(?:are|is)\s(?:(?:the|all|our|my|its)\s(?:only\s)?[0-9]{1,3}\s)?[^0-9\n]{1,120}$", re.IGNORECASE
)
_SPLIT_THOUSAND = re.compile(r"(?<![0-9.])[0-9]{1,3},\s+0[0-9]{2}(?![0-9.])")
"""`1, 000` is one number or two."""
_TEX_THOUSANDS = re.compile(r"(?<=[0-9])(?:,\s?(?:\\!|\{\})|\{\s?,\s?\})(?:\\!|\{\})?\s?(?=[0-9]{3}(?![0-9]))")
_SPACED_THOUSAND = re.compile(r"(?<![0-9.])[0-9]{1,3} [0-9]{3}(?![0-9.])")
_NO_ITEM = re.compile(
    r"(?:sorry|hmm+|umm?|uh+|(?:it|that) depends|let me|let['’]s|no idea|who knows|hard to (?:say|tell)|unsure"
    r"|not|or|but|maybe|perhaps|possibly|probably|actually|wait|i(?:['’]m| am| do not| don['’]t| can['’]t| think"
    r"| cannot| guess| believe| would| have no| was))(?![\w-])",
    re.IGNORECASE,
)
"""The beginning of a remark, which is no item of a list of texts."""
_ANDS = "and|&|as well as|und|et|och|og|и|та|και|ve|và|dan|és|și|और|و|และ|plus"
_SHORT_ANDS = "y|e|en|i|ja"
"""Words for `and` that may have another meaning between words."""
_GLUED_ANDS = "和|与|與|及|以及|と|や|그리고|및"


def _and(words: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Matches `and` between two items, and at the head of the last one."""
    latex = r"\\text\{\s*and\s*\}"
    between = re.compile(rf"\s+(?:{words})\s+|\s*(?:{_GLUED_ANDS})\s*|\s*{latex}\s*", re.IGNORECASE)
    return between, re.compile(rf"(?:{words})\s+|(?:{_GLUED_ANDS})\s*|{latex}\s*", re.IGNORECASE)


_BETWEEN_WORDS = _and(_ANDS)
_BETWEEN_NUMBERS = _and(f"{_ANDS}|{_SHORT_ANDS}")
_NUMBERED = re.compile(r"(?:^|[\s,;])[(（]?([0-9]{1,3})[.)）]\s+")
_ARROW = re.compile(r"\s*(?:→|->|=>|⇒|⟶)\s*")
_DIGIT = re.compile(r"[0-9]")
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+")
_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
_GLUED = re.compile(r"[0-9],[0-9]")
_LOOSE = re.compile(r"[0-9],\s")
_BARE = re.compile(r"[-+−]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


def numbered_items(text: str) -> list[str] | None:
    """The items of `1) red 2) blue`."""
    found = list(_NUMBERED.finditer(text))
    if (
        len(found) < 2
        or [int(each[1]) for each in found] != list(range(1, len(found) + 1))
        or text[: found[0].start()].strip()
    ):
        return None
    ends = [each.start() for each in found[1:]] + [len(text)]
    return [text[each.end() : end].strip(" ,;") for each, end in zip(found, ends, strict=True)]


def inline(text: str, *, numbers: bool, words: bool, nested: bool, decimals: bool) -> list[list[str]]:
    """The items of `2, 5 and 7`, `{2, 5}` or `the primes are 2 and 5`, in each possible interpretation; the arguments
    are those of `lists.items_of`."""
    if len(text) > MAX_LINE or (words and _NONE.fullmatch(text)):
        return []
    if not words and (refusal := _REFUSAL.search(text)):
        if not _REFUSED.fullmatch(refusal[0]):
            return []
        text = text[: refusal.start()]
        if " and " in f" {refusal[0].lower()}" and not _SEVERAL.search(text):
            return []  # `3 and not 7`
    text = _WORDS.sub(r"\1", text)
    text, bracketed = _unwrapped(text, words=words)
    if bracketed and not text.strip():
        return [[]]
    if (not words or not bracketed) and _offers(text, words=words):
        return []  # `red or green` is a guess
    if numbers:
        text = _TEX_THOUSANDS.sub("", text)
        if _SPLIT_THOUSAND.search(text):
            return []
    if not bracketed:
        if numbers:
            text = _alone(text)
        text = _introduced(text, words=words)
        inner, again = _unwrapped(text, words=words)
        if again:
            text, bracketed = inner, True
    while bracketed and not nested and text[:1] in BRACKETS:
        inner, again = _unwrapped(text, words=words)
        if not again:
            break
        text = inner
    if numbers and not nested and not bracketed and _THOUSANDS.fullmatch(text.strip(" $.")):
        return []  # one number or several?
    if decimals and not nested and not bracketed and _COMMA.fullmatch(text.strip(" $.")):
        return []
    if numbers and not nested and not bracketed and _GLUED.search(text) and _LOOSE.search(text):
        pieces = [piece.strip() for piece in re.split(r",\s+(?:and\s+)?|\s+and\s+", text)]
        return [pieces] if all(_THOUSANDS.fullmatch(piece) or _BARE.fullmatch(piece) for piece in pieces) else []
    return _separated(text, numbers=numbers, words=words, bracketed=bracketed)


_WORDS = re.compile(r"^\\text(?:bf|it|rm|sf)?\{([^{}]*)\}$")
_EITHER = re.compile(
    r"(?<!\w)(?:or|oder|ou|либо|или|vs\.?|bzw\.?|eller|lub|of(?= [0-9]+$)|o(?= [0-9])|ya da|atau)(?!\w)"
    r"|或|または|또는|\\lor(?![A-Za-z])",
    re.IGNORECASE,
)


def _offers(text: str, *, words: bool) -> bool:
    """Whether a text offers alternatives, or doubts an item. Between words only the last `or` separates items."""
    if not words:
        return _EITHER.search(text) is not None or DOUBTED.search(text) is not None
    last = _split(text, ",;，、；")[-1]
    found = _EITHER.search(last)
    return found is not None and found.start() > 0 and last[: found.start()].strip() != ""


def _alone(text: str) -> str:
    """The numbers of a sentence without the words around them, if it holds no other number."""
    stop = _STOP.search(text)
    if stop and not _DIGIT.search(text, stop.end()):
        text = text[: stop.start()]
    clause = _CLAUSE.search(text)
    if clause and not _DIGIT.search(clause[0]):
        text = text[: clause.start()]
    return _TRAIL.sub("", _ASIDE.sub("", text.rstrip(" .,;")))


def _separated(text: str, *, numbers: bool, words: bool, bracketed: bool) -> list[list[str]]:
    between, leading = _BETWEEN_WORDS if words else _BETWEEN_NUMBERS
    for separators in (";；؛", "|\t", "→", ",，、،፣・"):
        if separators == "→":
            pieces = _ARROW.split(text) if _ARROW.search(text) and not _top(text, ",") else [text]
        else:
            pieces = _split(text, separators)
        if pieces[-1].strip() == "" and len(pieces) > 1:
            pieces = pieces[:-1]
        if len(pieces) > 1:
            pieces = [piece.strip() for piece in pieces]
            if separators[0] in ",;" and not (words and any(between.search(piece) for piece in pieces[:-1])):
                *most, last = pieces
                joined = [leading.sub("", last, count=1)] if leading.match(last) else between.split(last, maxsplit=1)
                pieces = [*most, *joined]
            if words and not bracketed and separators[0] == "," and any(len(piece.split()) > 6 for piece in pieces):
                return []  # a sentence
            if words and not bracketed and any(map(_NO_ITEM.match, pieces)):
                return []
            return [[*map(_plain, pieces[:-1]), _last(pieces)]]
    pieces = [piece.strip() for piece in between.split(text)]
    few = all(piece and (not words or len(piece.split()) <= 3) for piece in pieces)
    if len(pieces) > 1 and few:
        return [[_plain(piece) for piece in pieces]]
    spaced = text.split()
    if numbers and len(spaced) > 1 and all(_BARE.fullmatch(piece) for piece in spaced):
        return [] if _SPACED_THOUSAND.search(text) and not bracketed else [spaced]  # `1 000`
    if numbers and bracketed and len(spaced) > 1:
        return []
    if words and not bracketed and (_NO_ITEM.match(text) or _THOUSANDS.fullmatch(text)):
        return []
    return [[_plain(text)]]


def _last(pieces: Sequence[str]) -> str:
    """The last item without the full stop of its sentence."""
    last = pieces[-1]
    if last.endswith((".", "。")) and not any(piece.endswith(".") for piece in pieces[:-1]) and "." not in last[:-1]:
        last = last[:-1]
    return _plain(last)


def _plain(piece: str) -> str:
    """An item without quotes or emphasis around it."""
    piece = piece.strip()
    for left, right in _AROUND:
        inner = piece[len(left) : -len(right)]
        if inner.strip() and piece.startswith(left) and piece.endswith(right) and right not in inner:
            return inner.strip()
    return piece


_AROUND = (("**", "**"), *zip("\"'`“‘«「", "\"'`”’»」", strict=True))


def _introduced(text: str, *, words: bool) -> str:
    """The list without its introduction: of `the 3 primes are 2, 3 and 5` or `S = {2, 3}`."""
    name = _NAME.match(text)
    if name and (text[name.end() : name.end() + 1] in BRACKETS or "\\{" in text[name.end() : name.end() + 8]):
        return text[name.end() :].strip()
    if name and text.count("=") == 1:
        return text[name.end() :].strip()
    prose = _PROSE.match(text)
    if prose is None:
        return text
    if words:
        headed = _SUBJECT.match(text) or (text.count(":") == 1 and "," in text[prose.end() :])
        introduces = bool(headed) and len(prose.group().split()) <= 10
    else:  # only a number that is a count may precede
        introduces = not re.search(rf"[0-9](?!\s(?!(?:{_ANDS})\s)[^\W\d]{{2}})", prose.group(), re.I)
    return text[prose.end() :].strip() if introduces else text


def _unwrapped(text: str, *, words: bool) -> tuple[str, bool]:
    """The text without its wrapping, and whether that included brackets."""
    text = text.strip()
    for _ in range(4):
        before = text
        if call := _CALL.match(text):
            text = text[call.end() :]
        if not _quoted(text):
            text = _tidied(_RIGHT.sub("", text), words=words)
        text = re.sub(r"^\\\{\s?|\\lbrace\s?|^\\langle\s?", "{", text)
        text = re.sub(r"\s?\\\}$|\s?\\rbrace$|\s?\\rangle$", "}", text) if text.startswith("{") else text
        if in_brackets(text):
            return text[1:-1].strip(), True
        if text in ("∅", "\\emptyset", "\\varnothing", "[]", "{}", "()"):
            return "", True
        if text == before:
            break
    return text, False


def _tidied(text: str, *, words: bool) -> str:
    """The content of the wrapping; with words, a full stop belongs to the content."""
    if not words:
        return tidy(text)
    inner = text.removesuffix(".")
    return text if (plain := tidy(inner)) == inner else plain


def _quoted(text: str) -> bool:
    return text[:1] in "\"'“«"


def in_brackets(text: str) -> bool:
    """Whether the text begins with a bracket and ends with its partner."""
    return text[:1] in BRACKETS and text.endswith(BRACKETS[text[:1]]) and _closes(text, len(text) - 1)


def _closes(text: str, place: int) -> bool:
    """Whether the bracket at `place` is the partner of the first one."""
    depth = 0
    for at, sign in enumerate(text):
        if sign in BRACKETS:
            depth += 1
        elif sign in _CLOSING:
            depth -= 1
            if depth == 0:
                return at == place
    return False


_CLOSING = frozenset(BRACKETS.values())
_DIGITS_BEHIND = re.compile(r"[0-9]{3}(?![0-9])")


def _in_number(text: str, place: int) -> bool:
    """Whether the comma at `place` separates the thousands of a number before a word or another comma: `1,000 cats`."""
    if not (text[place - 1 : place].isdigit() and _DIGITS_BEHIND.match(text, place + 1)):
        return False
    return _WITH_THOUSANDS.match(text, text.rfind(" ", 0, place) + 1) is not None


_WITH_THOUSANDS = re.compile(r"[$€£]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?:\s[^\W\d]|,\s|$)")
_OPENS, _CLOSES = frozenset(BRACKETS) - {"<"}, _CLOSING - {">"}
"""Arrows and comparisons, which are not brackets within a line."""


def _top(text: str, sign: str) -> bool:
    return len(_split(text, sign)) > 1


def _split(text: str, separators: str) -> list[str]:
    """The pieces between separators outside of brackets and quotes."""
    pieces, depth, start, quote = [], 0, 0, ""
    for place, sign in enumerate(text):
        if quote:
            if sign == quote and text[place - 1] != "\\":
                quote = ""
        elif sign in '"“«「' or (sign == "'" and text[start:place].strip() == ""):
            quote = {"“": "”", "«": "»", "「": "」"}.get(sign, sign)
            if text.find(quote, place + 1) < 0:
                quote = ""
        elif sign in _OPENS:
            depth += 1
        elif sign in _CLOSES:
            depth = max(depth - 1, 0)
        elif sign in separators and depth == 0 and not (sign == "," and _in_number(text, place)):
            pieces.append(text[start:place])
            start = place + 1
    return [*pieces, text[start:]]
