r"""Decides which of several statements of an answer holds.

The rule, for every form alike (label, marker, tag, row of a table, box, JSON, sentence):

1. The last explicit statement of the whole answer holds: `Answer: 7 ... The answer is 9.` is 9.
2. A weaker statement holds only if there is no explicit one. Weaker are: an intermediate result (`Result: 5`); a
   statement about a part or another case (`the answer to part (a) is 3`, `for n = 3, the answer is 6`); a conditional
   one (`the answer would be 12`, `the answer is 12 if 0 counts`); one that calls its value wrong; and, against any
   other form, a sentence whose value is not a plain one (`the answer is easy to see from 6 * 7 = 42`).
3. A supposition, a negation or what others think (`if the answer were 43`, `one might think the answer is 43`, `the
   wrong answer is 43`), and what would hold in a case that is only supposed (`if x were 5, the answer would be 43`),
   are no statements at all.
4. Statements of the same value are one: the most exact form of them is read (`\boxed{42}`, then `the answer is 42`).
5. Answers of several parts that differ, without an answer to the whole, stay several: `3 or 4`, which names no number.

Everything here takes linear time: only the sentence around a statement is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdr_dspy.text.numbers import read_number, signs
from pdr_dspy.text.signal_words import COMPARED, INEXACT, REASONS
from pdr_dspy.text.stated import Statement
from pdr_dspy.text.wrapping import tidy

EXPLICIT, INLINE, WEAK, WEAKER, PART = range(5)
"""Ranks of a statement: explicit; a label within a line, or a sentence, whose value is not plain; an intermediate
result; one of another case; one of a part."""

_AROUND = 240
_LONGEST = 400
_LINE_OR_SENTENCE = re.compile(r"\n|[.!?;](?=[\s*_\"”)])|[。！？；]")
_LEAD = r"(?:(?:the|our|my|your|this|its|die|der|das|la|le|el|il)[ \t]{1,3})?[*_\"“(]{0,3}$"
_DROPPED = re.compile(
    rf"""(?:\b(?:if|suppos(?:e|ing)|assum(?:e|ing)|imagine|whether|unless|pretend|wenn|falls|si|se|als|jeśli|если)
      (?:[ ]that|[ ]instead)? | 如果 | 假设 | 若 | もし
    | \b(?:not|never|doubt(?:ful)?|impossible|false|wrong|incorrect|cannot|hardly|untrue|n['’]t)\b[^,;:\n]{{0,30}}
      \b(?:that|mean|means|conclude|imply|implies|say|claim|be)
    | (?:not|n['’]t|never)[ ](?:think|believe|say|claim|know|mean|conclude)(?:[ ]that)?)
    [ \t]{{1,3}}{_LEAD}""",
    re.I | re.X,
)
"""Directly before a statement that supposes or denies it."""
_OPINION = re.compile(
    r"(?:\b(?:think|thinks|thinking|thought|says?|saying|said|believes?|believed|believing|guess(?:es|ed|ing)?"
    r"|claims?|claimed|argues?|argued|concludes?|concluded|assumes?|assumed|expects?|expected|suggests?|suggested|states?"
    rf"|stated|answers?|reports?|reported|asks?|asked)(?:[ \t]that)?:?)[ \t]{{1,3}}{_LEAD}",
    re.I,
)
_OWN_OPINION = re.compile(
    r"(?<![^\W_])(?:i|we)(?:['’](?:d|ll))?[ ](?:(?:can|would|will|now|therefore|thus|still|do|really|must|may|also)[ ])"
    r"{0,2}(?:think|say|believe|guess|conclude|answer|claim|assume|state|expect|report)\b",
    re.I,
)
_CASE = re.compile(
    r"""^[\W_]*(?:(?:and|but|so|now|also|however|note\sthat|e\.g\.|note:|for\scomparison|for\sexample|similarly|likewise
      |in\scontrast|by\scontrast|check|to\scheck|sanity\scheck|otherwise)[\W_]+)*
    (?:if|without|for(?!\s(?:this|these|that|the\s(?:whole|above|given))\s)(?=\s\w)|when|whenever|had|were|was|unless
      |suppose|supposing|assume|assuming|in\s(?:the|that|this|an?)\s(?:previous|earlier|last|first|second|other|case
      |original|related|similar|next|simpler|smaller|special|example|book|easier|analogous)|instead\sof|should|in\scase|at\sfirst
      |originally|initially|previously|earlier|excluding|ignoring|neglecting|one\s(?:might|may|could)|according\sto|like
      |as\sin|wenn|falls|für|ohne|si|pour|sans|para|sin|se|per|senza|если|для|без)\b
    | ^[\W_]*(?:如果|假设|若|もし|对于)
    | \b(?:looks|seems|appears|appeared|seemed|looked)\b(?:\s\w+)?\s(?:like|as\sif|that)\s
    | \bi\s(?:first|initially|originally)\s""",
    re.I | re.X,
)
"""Beginnings of a sentence about another case than the question's."""
_DRAWN = re.compile(r"[,:;]?\s(?:so|thus|hence|therefore|consequently|then|donc|also|daher)\b[ ,]", re.I)
_FOLLOWS = re.compile(r"[,:;]?\s(?:so|thus|hence|therefore|consequently|donc|also|daher)\b[ ,]", re.I)
_UNREAL = re.compile(
    r"(?<![^\W_])(?:if|unless|were|had|without|assuming|provided|supposing|in case|wenn|falls|si|如果)(?![^\W_])", re.I
)
"""Behind `the answer would be 42`: a case that is only supposed."""
_PART = re.compile(
    r"""^[\s>*_#\-•]*(?:(?:in|for|from)\s)?(?:the\s)?(?:\(?[a-h]\)|\((?:i{1,3}|iv|vi?)\)
    |(?:part|case|sub-?(?:part|question|problem)|question|problem|exercise|scenario|variant|example|teil|aufgabe|fall
      |partie|cas|parte|caso|часть|случай)\s*\#?\(?(?:[0-9]{1,2}|[a-h]|i{1,3}|one|two|three)\)?(?!\w))
    | \b(?:for|in|to|of)\s(?:part|case|sub-?(?:part|question|problem))\s?\(?\w{1,3}\)?[^.\n]{0,40}$
    | \((?:[a-h]|i{1,3})\)\s*(?:[:,–—-]\s*)?(?:the\s)?$""",
    re.I | re.X,
)
_ABOUT_PART = re.compile(
    r"\b(?:parts?|sub-?\w+|case|previous|earlier|last|next|first|second|third|other|another|simpler|easier|related|step"
    r"|example|(?:question|problem|exercise)\s?#?[0-9]|\(?[a-h]\)|\([ivx]+\))",
    re.I,
)
_CONDITION = re.compile(
    r"(?<![^\W_])(?:if|unless|only when|when|without|assuming|provided|for (?:n|k|m|x)|were|had|would|could|might|may"
    r"|is (?:wrong|incorrect|false|impossible|not)|which is (?:wrong|incorrect|false|impossible|not|too)|too (?:large"
    r"|small|big|high|low)|wenn|falls|si|如果)(?![^\W_])",
    re.I,
)
_CONDITIONAL = re.compile(
    r"(?:would be|would have been|could be|might be|may be|wäre|wären|serait|sería|seria|sarebbe)[\s:]*$", re.I
)
_WRAP = r"[*_`\"“”'(\[]{0,4}"
_REASON = re.compile(
    rf"[,;]?\s\(?(?:{REASONS}|for the reason|due to|which|where|so|i\.e\.|that is|namely|weil|denn|car"
    r"|parce que|porque|perché)\b.*|[,;]\s(?:not|rather than|instead of|as)\b.*"
    r"|\s(?:[–—]|--?)\s(?!(?:sin|cos|tan|log|ln|exp|sqrt|pi|arc\w+)\b)(?=[^\W\d_]{2,}[\s,]+[^\W\d_]).*"  # no minus
    r"|\s\((?=[^()]*[^\W\d_]{3})[^()]*\)\s*$"  # no factor
    r"|(?<=[0-9$)]):\s(?=[^\W\d_]).*",  # no ratio
    re.I | re.S,
)
_OPTION = re.compile(
    rf"{_WRAP}(?:(?:option|choice|letter|number|answer)\s)?[(\[]?[A-Z][)\]]?[.:]?{_WRAP}(?:[).:]\s*\S.{{0,80}})?[*_]*"
)
_DISPLAY = re.compile(r"[*_]{0,3}(?:\$[^$]+\$|\\\(.+\\\)|\\\[.+\\\]|\\boxed\s?\{.+\})[*_.]{0,4}(?:\s[^\W\d]+){0,2}")
_WORDS = re.compile(rf"{_WRAP}[^\W\d_][\w'’.\-]*(?:\s[\w'’.\-]+){{0,3}}[*_\"”'`)]{{0,4}}")
_VERDICT = re.compile(
    r"\b(?:obvious|clear|clearly|unique|correct|right|wrong|incorrect|positive|negative|easy|simple|simply|hard"
    r"|difficult|known"
    r"|unknown|infinite|finite|integer|even|odd|reasonable|plausible|consistent|shown|above|below|there|here|this|that"
    r"|these|those|it|its|what|how|why|not|given|found|obtained|based|confirmed|verified|checked|complete|unclear"
    r"|ambiguous|exact|approximate|rounded|in|at|to|by|on|of|the same|expected|valid|written|stated|boxed|only|also"
    r"|therefore|thus|now|still|less|more|greater|smaller|larger|between|about|around|approximately|at least|at most"
    r"|different|fine|independent|as|likely|probably|just|either|neither|both|all|any|a|an|some|one of)\b",
    re.I,
)
_INEXACT = re.compile(
    rf"\W*(?:{INEXACT}|(?:{COMPARED}) than)\b",
    re.I,
)
_SEVERAL = re.compile(r"\s*(?:,\s*(?:or|and)?|\bor\b|\band\b)\s*", re.I)


def standing(text: str, start: int, value: int, about: str = "") -> int | None:
    """The rank of a statement within a line by what is said around it; None for what is no statement.

    Args:
        text: the completion.
        start: position of the statement's first word.
        value: position of the stated value.
        about: words between the noun and the verb: `to part (a)`.
    """
    begin = max(0, start - _AROUND)
    before = text[begin:start]
    cuts = [found.end() for found in _LINE_OR_SENTENCE.finditer(before)]
    clause = before[cuts[-1] :] if cuts else before
    if _DROPPED.search(clause) or (_OPINION.search(clause) and not _OWN_OPINION.search(clause)):
        return None
    stop = _LINE_OR_SENTENCE.search(text, value, value + _AROUND)
    behind = text[value : stop.start() if stop else value + _AROUND]
    if _PART.search(clause) or is_part(about):
        return PART
    if stop is not None and stop.group() in "?？":
        return WEAKER
    case = _CASE.search(clause) is not None
    if _CONDITIONAL.search(text[max(start, value - 30) : value]) and (
        (case and not _FOLLOWS.search(clause)) or _UNREAL.search(behind)
    ):
        return None
    if case and not _DRAWN.search(clause):
        return WEAKER
    if _CONDITIONAL.search(text[max(start, value - 30) : value]) or _CONDITION.search(behind):
        return WEAKER
    return EXPLICIT


def is_part(about: str) -> bool:
    """Whether `to part (a)` behind a noun names a part of the question or another question."""
    return _ABOUT_PART.search(about) is not None


def plain_value(value: str, *, strictly: bool = False) -> str | None:
    """The value that a sentence states, without its reason, if it is a plain one: a number, a formula, an option, a few
    words that are no remark (`obvious`), or several of these. `strictly`: words only if they begin with a capital."""
    if len(value) > _LONGEST:
        return None
    held = _REASON.sub("", value.strip()).strip().rstrip(".。")
    if not held or len(held) > 200 or (strictly and held.lstrip("*_\"“'`(")[:1].islower() and " " in held):
        return None
    parts = [part for part in _SEVERAL.split(held) if part]
    several = 1 < len(parts) <= 6 and all(_is_plain(part) and not _WORDS.fullmatch(part[1:]) for part in parts)
    return held if several or _is_plain(held) else None


def _is_plain(held: str) -> bool:
    if _INEXACT.match(held):
        return False
    if _OPTION.fullmatch(held) or _DISPLAY.fullmatch(held):
        return True
    if any(sign.isdigit() for sign in held) and read_number(tidy(signs(held))) is not None:
        return True
    if any(sign.isdigit() or sign in "\\$=^" for sign in held):
        return " " not in held
    return bool(_WORDS.fullmatch(held)) and not _VERDICT.search(held)


def ordered(own: Sequence[Statement], *, exact: Sequence[str] = ("json", "box", "label")) -> list[Statement]:
    """The statements of a field, the one that holds first."""
    worded = not any(one.how != "sentence" and one.rank <= INLINE for one in own)
    # Among sentences alone the last counts, even if it states no plain value.
    ranks = [EXPLICIT if worded and one.how == "sentence" and one.rank <= WEAK else one.rank for one in own]
    order = sorted(zip(ranks, own, strict=True), key=lambda each: (each[0], -each[1].start))
    if not order:
        return []
    rank, first = order[0]
    held = [one for _, one in order]
    if rank == PART:
        values = list(dict.fromkeys(_key(one.text) for one in reversed(held)))
        if 1 < len(values) <= 10:
            parts = " or ".join(dict.fromkeys(one.text.strip() for one in reversed(held)))
            return [first._replace(text=parts), *held[1:]]
    if first.how != "sentence" or all(other.how == "sentence" for other in held):
        return held
    for other_rank, other in order[1:20]:
        if other_rank > INLINE or not agree(first.text, other.text):
            break
        if other.how in exact:
            return [other, *(one for one in held if one is not other)]
    return held


def agree(one: str, other: str) -> bool:
    """Whether two texts state the same value in different spellings: `42.0` and `42 apples`."""
    left, right = _key(one), _key(other)
    if left == right:
        return True
    if len(left) > 400 or len(right) > 400:
        return False
    numbers = read_number(tidy(signs(left))), read_number(tidy(signs(right)))
    if None not in numbers:
        return numbers[0] == numbers[1]
    long, brief = sorted((left, right), key=len, reverse=True)
    rest = long[len(brief) :]
    return bool(brief) and long.startswith(brief) and re.match(r"[\s,;:).](?!\s*(?:or|and)\b|[0-9])", rest) is not None


def _key(text: str) -> str:
    return tidy(" ".join((plain_value(text) or text)[:600].split())).casefold()
