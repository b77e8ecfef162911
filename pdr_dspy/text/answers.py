"""Reading an answer the way a person would: where it stands in a completion, and which number or choice it names.

Everything here takes linear time, evaluates no expression, and answers None rather than guess: a list of guesses, an
unfinished thought and a retracted answer name nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from pdr_dspy.text.labels import shadow
from pdr_dspy.text.numbers import MAX_DIGITS as MAX_DIGITS
from pdr_dspy.text.numbers import read_number, signs
from pdr_dspy.text.reasoning import split_thought
from pdr_dspy.text.statements import MAX_ANSWER, Sought, statements
from pdr_dspy.text.template import before_token, without_template
from pdr_dspy.text.wrapping import boxes
from pdr_dspy.text.wrapping import tidy as tidy

MAX_TEXT = 200_000
"""Characters of a completion that are searched for an answer, from its end."""


# ------------------------------------------------------------------------------------------------- where it stands


def final_answer(text: str, *, truncated: bool = False) -> str | None:
    r"""Return what a reader would take as the final answer of a free-form completion, or None.

    The last one counts of a label at the head of a line (`Answer: 42`, `#### 42`, `Antwort: 42`, `| Answer | 42 |`,
    `<answer>42</answer>`) and a complete `\boxed{...}`; then a label within a line, then a sentence (`The answer is
    42.`). Neighbouring boxes joined by `,`, `or` or `and` come back together, so that several guesses stay several.
    Thoughts, finished or not, never count. With `truncated=True`, the completion was cut off at its cap: only what is
    certainly complete counts, that is a closed box, or a label whose line has ended.

    The answer comes without its wrapping: bold, `$`, `\( \)`, colours, quotes, a final full stop.
    """
    text = without_template(split_thought(text)[1][-MAX_TEXT:])
    for statement in statements(text, _ANSWER, truncated=truncated)["answer"]:
        answer = tidy(before_token(statement.text)) if len(statement.text) <= MAX_ANSWER else ""
        if answer and (answer != "null" or statement.how == "box"):
            return answer
    return None


_ANSWER = Sought(("answer",), answer="answer")
_boxes = boxes


def unwrapped(text: str) -> str:
    """A text without what wraps the whole of it: spaces, bold, quotes, code or math marks, a box, a final full stop.

    Underscores and single stars stay: `__init__`, `_id` and `C*` are names.
    """
    text = text.strip()
    for _ in range(8):
        before = text
        for left, right in _TEXT_WRAPS:
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inner.strip() and right not in inner:
                text = inner.strip()
        if text.endswith((".", "。")) and not text.endswith("..") and len(text) > 1:
            text = text[:-1].rstrip()
        if text == before:
            break
    return text


_TEXT_WRAPS = (
    *(("**", "**"), ("$$", "$$"), ("\\(", "\\)"), ("$", "$"), ("```", "```"), ("`", "`"), ('"', '"')),
    ("'", "'"),
    *(("“", "”"), ("‘", "’"), ("«", "»"), ("\\boxed{", "}"), ("\\text{", "}")),
)


# ------------------------------------------------------------------------------------------------------- as a number


def to_number(text: str) -> Fraction | None:
    r"""Return the one number that an answer names, exactly, or None if it names none or several.

    Reads `1,234`, `1{,}000`, `10,\!080`, `1 000`, `042`, `204.`, `x = 204`, `$3.50`, `75\%` (75: a percent sign is a
    unit), `42 apples`, `204\text{ cm}^2`, `90^\circ`, `3/4`, `\frac{3}{4}`, `2\frac12`, `½`, `6.02 \times 10^{23}`,
    `5 million`, `2 crore`, `−7`, `**42**`, `\boxed{42}`, `2+3 = 5` (both sides come to 5), `m+n = 204`. Leaves alone
    whatever would have to be worked out or is not one number: `5^2`, `2\pi`, `3x`, `17 or 204`, `x > 5`, `17 \ne 25`,
    `2x = 4`, `12:30`, `2 gross`, `half of 10`, `5‰`, `101_2`.
    """
    if _PLAIN_INTEGER.fullmatch(text):  # what most answers are
        return Fraction(int(text))
    if len(text) > MAX_ANSWER:
        return None
    boxes = _boxes(text)
    if boxes:
        text = text[boxes[-1][0] : boxes[-1][1]] if len(boxes) == 1 else final_answer(text) or ""
    return read_number(tidy(signs(text)))


_PLAIN_INTEGER = re.compile(r"-?[0-9]{1,15}")


# ------------------------------------------------------------------------------------------------------- as a choice


def to_choice(text: str, options: Sequence[str]) -> str | None:
    """Return the one of `options` that an answer names, spelt as in `options`, or None if it names none or several.

    Case, quotes, emphasis and a full stop do not matter, nor does a letter in front: `(B)`, `B.`, `**B**`, `B) Paris`
    and `Option B` name the option `B`; `B) Paris` also names the option `Paris`, and `B` the option `B) Paris`. An
    option that stands first is named whatever its reason mentions: `A because B is wrong`, `A over B`, `A, not B`. A
    short sentence names the only option that it mentions, unless it negates or rejects something. A letter with the
    text of another option (`A) London` where B is London) names nothing.
    """
    if len(text) > MAX_TEXT:
        text = text[-MAX_TEXT:]
    for candidate in (text, final_answer(text)):
        if candidate is not None and (choice := _choice(candidate, options)) is not None:
            return choice
    return None


_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname)\s?\{([^{}]*)\}"
)
_SPACES = re.compile(r"\s+")
_TAG = re.compile(
    r"(?:(?:the |my )?(?:option|choice|answer|letter|variant)\s{0,3}(?:is\s)?)?[(\[{]?([A-Za-z]|[0-9]{1,2})"
    r"(?:[)\]}][.:]?|[.:]|$|\s(?=[-–—=]\s))\s{0,9}(?:[-–—=]\s{1,3})?(.*)",
    re.I | re.S,
)
_REJECTS = re.compile(
    r"\b(?:not|never|neither|nor|cannot|except|wrong|incorrect|false|eliminated?|eliminates|excluded?|excludes|impossible"
    r"|invalid|unlikely|less likely|least|ruled out|rule out|rejected?|discard(?:ed)?|untrue|fails?|unless|if|other"
    r" than|(?:all|anything|everything|any|(?:each|every)(?: one)?) (?:but|except|besides|apart from)"
    r"|instead of|rather than|none of|without|nicht|kein|falsch|pas|faux|incorrecta?|falsa?|no)\b|n['’]t\b",
    re.I,
)
_REASON = re.compile(  # what may follow the option that was chosen; the rest only says why
    r"(?:,|;|:|\.|\s[-–—])?\s*\(?(?:because|since|as(?! well)|for (?:the|it|this)|due to|owing to|given|considering"
    r"|in (?:view|light|place|favou?r) of|despite|even though|after (?:eliminating|ruling|excluding)|on account of"
    r"|seeing that|according to|per\b|is (?:better|more likely) than"
    r"|is (?:the )?(?:correct|right|best)(?: (?:answer|option|choice|one))?(?=\s*(?:[.,;]|because|since|while|whereas))"
    r"|over|rather than"
    r"|instead of|in preference to|not|but not|and not|unlike|while|whereas|though|although|so that|which|where|by"
    r"|thanks to|based on|in contrast to|as opposed to|compared (?:to|with)|weil|denn|da|statt|nicht|parce que"
    r"|car(?= (?:ils?|elles?|on|le|la|les|l['’]|c['’]|cet?|cette|une?|en|nous|cela|ça|si|tout|[A-Z]\b))"
    r"|puisque|plutôt que|porque|ya que|pues|en lugar de|perché|poiché"
    r"|因为|因為|なぜなら|потому что|так как)(?![A-Za-z])",
    re.I,
)
_TAKEN_BACK = re.compile(
    r"\b(?:wait|actually|oops|scratch that|on second thoughts?|correction|hmm|no,|let me (?:re|check)"
    r"|i (?:was|am) wrong"
    r"|my mistake|changed? my mind|could also|also possible|equally|also (?:correct|right|works|fits)|too\b|unsure"
    r"|not sure|both|answer is|i choose|or maybe)",
    re.I,
)
_STATED = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|well)[, ]\s*)?(?:the\s)?(?:(?:correct|right|best|final|my)\s)*"
    r"(?:answer|option|choice|letter|one)(?:\sis|\swould be|\smust be|:)\s*(?:option\s|choice\s|letter\s)?"
    r"|(?:i\s(?:choose|pick|select|say|would (?:choose|pick|say|go with)|go with|think it is|think it's|believe it is)"
    r"|it is"
    r"|(?:the\s|my\s)?(?:option|choice|letter|answer)|it's|it must be|must be"
    r"|definitely|clearly|probably)\s(?:option\s|choice\s|letter\s)?",
    re.I,
)
_PRONOUN = re.compile(
    r"\s(?:am|was|have|had|think|thought|believe|guess|say|said|would|will|choose|chose|pick|select|go|went|know|see|can"
    r"|could|should|must|do|did|get|got|find|found|feel|suppose|assume|conclude|prefer|vote|want|need|don['’]t|cannot)\b"
    r"|['’](?:d|ll|m|ve)\b"
)
_ARTICLE = re.compile(
    r"\s(?!(?:is|or|and|because|since|over|rather|instead|as|due|but|which|given|when|if|not|while|whereas|unlike|for|by"
    r"|from|seems|must|fits|follows|holds|matches|would|should|was|has|in|on|with|to|though|although|then|vs|versus|plus"
    r"|minus|into|otherwise|else|unless|until)\b)[a-z]"
)


def _key(text: str) -> str:
    text = _WORDS.sub(lambda words: words[1], tidy(text))
    text = tidy(_SPACES.sub(" ", text)).rstrip(".!,:;")
    for left, right in ("()", "[]", "{}"):
        if text.startswith(left) and text.endswith(right) and right not in text[:-1]:
            text = text[1:-1].strip()
    return text.casefold()


def _choice(text: str, options: Sequence[str]) -> str | None:
    text = split_thought(text)[1]
    if len(text) > MAX_ANSWER:
        return None
    if (exact := tidy(text)) in options:
        return exact
    text = shadow(text)
    key = _key(text)
    same = [option for option in options if _option_key(option) == key]
    same = same or [option for option in options if _joined(_option_key(option)) == _joined(key)]
    same = same or [option for option in options if len(key) > 1 and _content(option) == key]
    if same:
        return same[0] if len(same) == 1 else None
    plain = tidy(_SPACES.sub(" ", _WORDS.sub(lambda words: words[1], tidy(text))))
    tag = _TAG.fullmatch(plain)
    if tag:
        rest = tag[2].strip()
        by_letter = [option for option in options if _label(option) == tag[1].casefold()]
        named = [option for option in options if rest and _content(option) == _key(rest)]
        if named:  # a letter and the text of another option contradict each other
            agreed = [option for option in named if option in by_letter or _label(option) is None]
            return agreed[0] if len(agreed) == 1 else None
        if len(by_letter) == 1 and (not rest or not _names_another(rest, tag[1], options)):
            rejected = _REJECTS.match(rest) and not _gives_reason(rest, options)
            return None if rejected or _taken_back(rest) else by_letter[0]
    return _chosen(plain, options) or _mentioned(plain, options)


@lru_cache(1024)
def _option_key(option: str) -> str:
    return _key(option)


def _joined(key: str) -> str:
    """`not_entailment` and `not entailment` are one name."""
    return re.sub(r"(?<=\w)[ _-](?=\w)", " ", key)


@lru_cache(1024)
def _label(option: str) -> str | None:
    tag = _TAG.fullmatch(tidy(option))
    return tag[1].casefold() if tag else None


@lru_cache(1024)
def _content(option: str) -> str:
    """The text of an option without its letter."""
    tag = _TAG.fullmatch(tidy(option))
    return _key(tag[2]) if tag and tag[2].strip() else _key(option)


def _taken_back(rest: str) -> bool:
    return _TAKEN_BACK.search(rest) is not None


def _gives_reason(behind: str, options: Sequence[str]) -> bool:
    """Whether what stands behind an option only says why it was chosen, or which was not."""
    reason = _REASON.match(behind)
    if reason is None:
        return False
    following = behind[reason.end() :].lstrip(" ,*_(\"'").casefold()
    if reason.group().casefold().endswith(("not", "nicht")):  # `A, not B`; `A not certain` says nothing
        names = {name for option in options for name in (option.casefold(), _label(option), _content(option)) if name}
        return any(following.startswith(name) and not following[len(name) :][:1].isalnum() for name in names)
    return not (reason.group().casefold().endswith(("which", "where")) and _REJECTS.search(following[:30]))


def _names_another(rest: str, letter: str, options: Sequence[str]) -> bool:
    """Whether what follows `B)` offers another option beside it; a reason does not, nor `Vitamin C` as its text."""
    if _gives_reason(rest, options):
        return False
    labels = {_label(option) for option in options} - {letter.casefold(), None}
    other = re.findall(
        r"(?:\b(?:and|or|also|nor|und|oder|et|ou|y|o)\b|[,/&+;]|^|→|->|\bnot\b)\s*\(?([A-Z])\b(?!\w)|\(([A-Z])\)|\b([A-Z])\)",
        rest,
    )
    if any({one.casefold() for one in found if one} & labels for found in other):
        return True
    contents = [_content(option) for option in options if _label(option) is None and len(option) > 1]
    return any(content and re.search(rf"(?<!\w){re.escape(content)}(?!\w)", rest.casefold()) for content in contents)


def _chosen(text: str, options: Sequence[str]) -> str | None:
    """The option that a sentence opens with and then only defends."""
    stated = _STATED.match(text)
    for start in dict.fromkeys((stated.end() if stated else 0, 0)):
        rest = text[start:].lstrip("*_\"'( ")
        names = {
            name: option for option in options for name in (option.casefold(), _label(option), _content(option)) if name
        }
        opening = [name for name in names if rest.casefold().startswith(name)]
        for name in sorted(opening, key=len, reverse=True):
            behind = rest[len(name) :].lstrip("*_\"')")
            if behind[:1].isalnum() or (name == "i" and _PRONOUN.match(behind)):
                continue
            if _gives_reason(behind, options) and not _taken_back(behind):
                return names[name]
            break
    return None


_LETTERS_ONLY = re.compile(r"(?:\b[A-Z]\b[\s,;/]*){2,}")


def _mentioned(text: str, options: Sequence[str]) -> str | None:
    if len(text) > 200 or _REJECTS.search(text) or _LETTERS_ONLY.fullmatch(text):
        return None
    found: list[tuple[int, int, str]] = []
    for option in options:
        if not option:
            continue
        # One letter is also an article or a pronoun, so it must be written as the option is.
        flags = re.I if len(option) > 1 else 0
        for spot in re.finditer(rf"(?<!\w){re.escape(option)}(?!\w)", text, flags):
            behind = text[spot.end() :]
            if option == "I" and _PRONOUN.match(behind):
                continue
            if option == "A" and _ARTICLE.match(behind):
                if re.search(r"(?:\b(?:and|or|than|over|not|of)|[,/])\s*$", text[: spot.start()]):
                    return None  # `B or A looks right`: perhaps an option, perhaps an article
                continue
            found.append((spot.start(), spot.end(), option))
    # `very good` mentions `very good`, not also `good`.
    outer = [f for f in found if not any(o is not f and o[0] <= f[0] and f[1] <= o[1] and o[2] != f[2] for o in found)]
    names = {option for _, _, option in outer}
    return names.pop() if len(names) == 1 else None
