"""Patterns of the forms of statements: labels, tags, markers, tables, values without a sign, comments behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from pdr_dspy.text import labels
from pdr_dspy.text.stated import Sought

FEW = 8
"""Maximum words of a text that is corrected like a value."""
LAST = 100
WORD = re.compile(r"\S")
UNDERLINE = re.compile(r"\A[ \t]*\n[ \t]*(?:-{3,}|={3,})[ \t]*(?=\n)")
TAG = re.compile(
    r"<(?P<slash>/?)[ \t]?(?P<name>[^\W\d][^<>\n=\"'/]{0,60}?)[ \t]{0,3}(?:[ \t][\w:\-]{1,40}=[^<>\n]{0,200})?>"
)
HALF_CLOSED = re.compile(r"</[ \t]?([\w \t-]{1,60})\Z")
"""A closing tag without its end, at the end of a text."""
HOLDERS = frozenset(
    {"final", "solution", "result", "output", "response", "finalanswer", "final result", "final output"}
)
MARKER = re.compile(
    r"^[ \t>*_`]{0,8}\[\[[ \t]{0,3}#{1,4}[ \t]{0,3}(?P<name>\w[^#\[\]\n]{0,80}?)[ \t]{0,3}#{1,4}[ \t]{0,3}\]\]"
    r"[*_`:]{0,4}",
    re.MULTILINE,
)
ROW = re.compile(r"^[ \t>]{0,8}\|[^\n]{1,2000}$", re.MULTILINE)
_CELL = re.compile(r"(?<=\|)(?:[^|\\\n]|\\.)*(?=\|)|(?<=\|)(?:[^|\\\n]|\\.)+$")
RULE = re.compile(r"[ \t>]*[-:=+| \t]{3,}[ \t]*")
WEAK = ("=", ":=", "-", "–", "—", "--", "——", "")
OPENED = re.compile(
    r"\*{1,3}(?=\S*$)|_{1,3}(?=\S*$)|`(?=\S*$)|\\[\[(]|\\[A-Za-z]+\*?[ \t]*\{|\$|[(（\[【〖「『“«]"
    r"|<(?P<tag>[a-z][a-z0-9]*)[^<>]*>(?!.*</)"
)
"""Marks opened before a label; emphasis only if no space follows, because a star may be a bullet."""
_PAIRS = (
    ("(", ")"),
    ("（", "）"),
    ("[", "]"),
    ("【", "】"),
    ("〖", "〗"),
    ("「", "」"),
    ("『", "』"),
    ("“", "”"),
    ("«", "»"),
)
_CLOSES = {"\\[": "\\]", "\\(": "\\)", "{": "}", **dict(_PAIRS)}
VALUE_ALONE = re.compile(
    r"\$[^$\n]{1,80}\$\.?|\\\(.{1,80}\\\)\.?|\\boxed.{1,80}|[-+−]?[0-9][0-9.,/]{0,40}%?|\*\*[^*\n]{1,60}\*\*\.?"
    r"|\(?[A-J]\)?\.?"
)
"""Values that may follow a label without a sign: `Answer 42`."""
FIGURES = re.compile(r"[\W_]*[0-9][\W\d_]*(?:[^\W\d_]{1,3})?[.。]?|[$\\].*")
JOINT = re.compile(
    r"(?:\s|\$|,|;|、|(?:or|and|also|either|oder|und|ou|et|y)\b|\\text\{[a-z ]*\}|\\quad|\\[()\[\]]|\\fbox|\\boxed"
    r"|\{)*",
    re.IGNORECASE,
)
CHOSEN = re.compile(
    r"(?:^|故|所以|因此|综上|綜上|应|應|应该|應該|本题|本題)[，, ]{0,2}(?:正确)?[选選](?:[择擇])?[:： ]{0,2}"
    r"[*(（\[【]{0,3}([A-Z])(?![A-Za-z、，,和或及与])(?!\s*[)）*\]】]{0,3}\s*[、,和或及与])",
    re.MULTILINE,
)
"""`故选B。`, as Chinese solutions of multiple choice end."""
HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n#]{1,400})")
HEADING = re.compile(
    r"[ \t*_]*(?:[^\W\d]{2,}.*[^\W\d]{2,}\s+\S|[0-9]{1,2}[.)]\s|(?:step|case|part|option)\b)", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?<!\b[A-Za-z])[.!?](?=\s|\*|$)|[。！？]")
SOMEBODY = re.compile(
    r"(?:\b(?:wrong|incorrect|possible|previous|earlier|alternative|initial|candidate|candidates|student|their|his|her"
    r"|first|second|second-best|tempting|naive|common|usual|typical|popular|obvious|distractor|intuitive|other"
    r"|another|an|no|any|whose|which|if the|not the|partial|intermediate|falsche[rns]?|mauvaise|fausse"
    r"|неправильный|неверный)\)?|['’]s)[ \t]{1,3}(?:final[ \t])?$|(?:错误|不正确|錯誤|不正確)的?$"
)
"""At the end of a text in lower case: what follows is not the answer of this completion."""
SOMEBODY_MOST = 24
"""More characters than it matches."""
_COMMENT = (
    r"explanation|reasoning|reason|justification|verification|proof|rationale|why|confidence|check|note|steps"
    r"|working|step"
    r"|erklärung|begründung|explication|explicación|justificación|spiegazione|explicação|解释|解析|说明|理由|説明|解説|해설|설명"
    r"|пояснение|объяснение"
)
ABOUT = re.compile(  # comments that may follow an answer
    r"(?:[ \t]*\n)+[ \t>*_#(]{0,8}(?:"
    rf"(?:{_COMMENT})[ \t*_)]{{0,4}}[:：]|-{{3,}}[ \t]*(?:\n|$)"
    r"|(?:this|that|it|which) (?:is because|is since|is the (?:final )?answer|follows|can be (?:seen|checked))\b"
    r"|(?:to|let me|let us|let['’]s|we can|i|i will|i['’]ll) (?:see|check|verify|double[- ]?check|confirm|explain"
    r"|recheck|re-check|reconsider|hope)\b"
    r"|(?:hope this|let me know|feel free to|please let me|if you (?:have any|need|would like)|note that)\b"
    r"|(?:wait|hmm+|actually|hold on|but wait)\b[,.… -])",
    re.IGNORECASE,
)
EXPLAINED = re.compile(
    r"(?:[ \t]*\n)+[ \t>*_#(]{0,8}(?:explanation|reasoning|justification|rationale)[ \t*_)]{0,4}[:：]", re.I
)
PARAGRAPH = re.compile(
    r"[ \t]*\n(?:[ \t]*\n)+[ \t]*([^\n]{20,}[.!?:。！？][*_)\"”]{0,3})[ \t]*(?:\n[ \t]*(?:\n|$)|\n?\Z)"
)


def even(value: str) -> str:
    """A value without a bold mark whose partner is before the value: `**The answer is** 42`."""
    plain = value.strip()
    if plain.count("**") % 2:
        return plain.removeprefix("**") if plain.startswith("**") else plain.removesuffix("**")
    return value


_NEXT_SENTENCE = re.compile(
    r"[\s*_(\[]*[A-Z][)\]]?(?=[.!][*_]{0,2}\s+(?:(?:the|my|this|that|our)\s(?:\w+\s)?(?:answer|question|option|choice|reason"
    r"|problem|passage|text|other|others)|so|thus|hence|therefore|however|but|if|since|because|as|when|we|i|you|one|it|this"
    r"|that|these|they|there|someone|many|most|some|note|check|wait|actually|option|options|not|had|without|then|also"
    r"|let|for|[A-Z]\s(?:is|was|and|or|would|has|does|fails|ignores|seems|looks)|[A-Z],)\b)",
    re.IGNORECASE,
)
"""An option's letter before another sentence; `B. Paris` is an option with its text."""


def sentence(value: str, endings: str = "(?!)") -> str:
    """The value of a sentence, without the words that end it."""
    if letter := _NEXT_SENTENCE.match(value):
        return letter.group()
    stop = _SENTENCE_END.search(value)
    value = value[: stop.start()] if stop else value
    return re.sub(rf"(?:{endings})[ \t]*$", "", value) if endings != "(?!)" else value


def unclosed(text: str, close: Sequence[str]) -> str:
    """The value without the closing marks of pairs opened before its label: `**Answer: 42**`."""
    for mark in close:
        stripped = text.rstrip()
        for stop in ("", ".", "。"):
            if stripped.endswith(mark + stop) and len(stripped) > len(mark):
                text = stripped[: len(stripped) - len(mark + stop)] + stop
                break
    return text


def closing(opened: re.Match[str]) -> str:
    """The closing partner of a mark opened before a label."""
    if opened["tag"]:
        return f"</{opened['tag']}>"
    return _CLOSES.get(opened[0][-2:]) or _CLOSES.get(opened[0][-1], opened[0])


def cells(line: str) -> list[re.Match[str]]:
    """The cells of a table's row."""
    return [cell for cell in _CELL.finditer(line) if cell.group() or cell.end() < len(line)]


def bracketed(lead: str, gap: str) -> bool:
    """Whether a label is in brackets, and needs no sign: `【答案】42`."""
    return any(left in lead and right in gap for left, right in _PAIRS[2:7])


@lru_cache(maxsize=256)
def line_pattern(sought: Sought, languages: tuple[int, ...]) -> re.Pattern[str]:
    """A label at the head of a line: words that may precede it, its name, words that may follow the name, and its
    optional sign."""
    said = labels.words(languages)
    names = sorted(enumerate(sought.fields), key=lambda each: -len(each[1]))
    own = [rf"(?P<own{place}>{labels.either(_spellings(name))})" for place, name in names]
    never = "(?!)"
    answer = f"{said.qualified}|{said.line_nouns}" if sought.answer is not None else never
    result = said.results if sought.answer is not None else never
    bound = labels.either([spelt for name in sought.bounds for spelt in _spellings(name)])
    name = "|".join([*own, rf"(?P<answer>{answer})", rf"(?P<result>{result})", rf"(?P<bound>{bound})"])
    opening = rf"(?:(?:{labels.OPENINGS})[,:.!]?[ \t]{{1,3}}){{0,3}}?(?:(?:{labels.ARTICLES})[ \t]{{0,3}}){{0,1}}?"
    which = "final|corrected|correct|revised|updated|overall|requested|resulting|new"
    about = r"(?P<about>[ \t](?:about|of|for|in|to|from)\b[^:：.\n]{0,60}(?=[:：]))?"
    # Without a sign: a label in brackets, one alone in its line, or one before an unambiguous value.
    unsigned = r"(?<=[】〗」』\])])|(?=[ \t*_=~#\-]*$)|(?=\$|\\|\*\*|[-+−]?[0-9]|\(?[A-J]\)?\.?[ \t]*$)"
    verbs = "|".join(part for part in (said.verbs, "is|are|=") if part != never)
    sign = rf"(?:(?:{verbs})[ \t]{{0,9}}(?=[:：]))?{labels.SIGN}"
    return re.compile(
        rf"{labels.HEAD}{opening}(?P<which>(?:(?:{which})[ \t_]{{1,3}}){{0,2}}?)(?:{name}){labels.END}"
        rf"(?:\.(?=[ \t]{{0,3}}[:=(0-9$]))?{about}{labels.GAP}"
        rf"(?:(?P<sign>{sign})|(?P<verb>(?:is|are|was)(?=[ \t]))|{unsigned})",
        re.MULTILINE | re.IGNORECASE,
    )


@lru_cache(maxsize=256)
def needles(sought: Sought, languages: tuple[int, ...]) -> tuple[str, ...]:
    """Words in lower case of which a line has one if it has a label."""
    named = [
        each
        for name in (*sought.fields, *sought.bounds)
        for spelt in _spellings(name)
        for each in labels.spellings(spelt)
    ]
    own = {max(re.split(r"[ _]+", each.lower()), key=len) for each in named}
    return tuple(sorted(own.union(labels.needles(languages) if sought.answer is not None else ())))


def _spellings(name: str) -> tuple[str, ...]:
    """A field's name as it is, and `birthYear` also as two words."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return tuple(dict.fromkeys((name, apart)))
