"""Reading an answer the way a person would: where it stands in a completion, and which number or choice it names.

Everything here takes linear time, evaluates no expression, and answers None rather than guess: a list of guesses, an
unfinished thought and a retracted answer name nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from pdr_dspy.text.numbers import MAX_DIGITS as MAX_DIGITS
from pdr_dspy.text.numbers import read_number, signs
from pdr_dspy.text.reasoning import split_thought

MAX_TEXT = 200_000
"""Characters of a completion that are searched for an answer, from its end."""
MAX_ANSWER = 10_000
"""Characters of an answer; a longer one is not read."""


# ------------------------------------------------------------------------------------------------- where it stands


def final_answer(text: str, *, truncated: bool = False) -> str | None:
    r"""Return what a reader would take as the final answer of a free-form completion, or None.

    In this order: an explicit label after the last box (`Answer: 42`, `#### 42`: a correction), the last complete
    `\boxed{...}`, the last label or sentence (`The answer is 42.`). Neighbouring boxes joined by `,`, `or` or `and`
    come back together, so that several guesses stay several. Thoughts, finished or not, never count. With
    `truncated=True`, the completion was cut off at its cap: only what is certainly complete counts, that is a closed
    box, or a label whose line has ended.

    The answer comes without its wrapping: bold, `$`, `\( \)`, quotes, a final full stop.
    """
    text = split_thought(text)[1][-MAX_TEXT:]
    boxes = _boxes(text)
    marker = _last_marker(text, truncated=truncated)
    if boxes and (marker is None or not marker[2] or marker[0] < boxes[-1][1]):
        found = text[boxes[-1][0] : boxes[-1][1]]
        for (start, end), (later, _) in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
            joint = text[end + 1 : later]
            if len(joint) > 60 or not _JOINT.fullmatch(joint):
                break
            link = " or " if "or" in joint.lower() else ", "
            found = text[start:end] + link + found
        return tidy(found) or None
    return marker[1] if marker else None


_JOINT = re.compile(
    r"(?:\s|\$|,|;|or\b|and\b|also\b|either\b|\\text\{[a-z ]*\}|\\quad|\\[()\[\]]|\\fbox|\\boxed|\{)*", re.I
)


_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{|\\[\\{}]|[{}]")


def _boxes(text: str) -> list[tuple[int, int]]:
    r"""Spans of the contents of complete, non-empty boxes, by their start; of nested boxes only the innermost."""
    open_: list[int] = []  # where the content of each open brace starts; -1 where it is not a box
    found: list[tuple[int, int]] = []
    for token in _BOX_TOKEN.finditer(text):
        kind = token.group()
        if kind == "{":
            open_.append(-1)
        elif kind == "}":
            start = open_.pop() if open_ else -1
            nested = bool(found) and found[-1][0] > start
            if start >= 0 and not nested and text[start : token.start()].strip():
                found.append((start, token.start()))
        elif kind[1] in "bf":
            open_.append(token.end())
    return found


_LABEL = (
    r"\[\[ ## (?:final_)?answer ## \]\]|<answer>|(?<![#])####(?!#)"
    r"|\bfinal[ _]answer\b[\"'*_`)]{0,4}[ \t]{0,9}(?:[:=：]|is[ \t]{0,9}:|(?=\n|$))[*_\"'`]{0,4}"
    r"|\banswer\b[\"'*_`)]{0,4}[ \t]{0,9}(?:[:=：]|is[ \t]{0,9}:)[*_\"'`]{0,4}"
)
_SENTENCE = (
    r"\b(?:final|correct|our|my|the|required|desired)[ \t]{1,9}(?:answer|result)[ \t]{1,9}"
    r"(?:is|are|equals|=|would be|must be|should be|will be)(?:[ \t]{1,9}(?:thus|therefore|simply|just|then|equal to))?"
    r"(?![ \t]{1,9}(?:not|wrong|incorrect|correct|right|in|unclear|unknown|as follows|obtained|given|found)\b)[*_]{0,4}"
)
_MARKER = re.compile(rf"(?P<label>{_LABEL})|(?P<sentence>{_SENTENCE})", re.I)
_BLANK_LINE = re.compile(r"[ \t]*(?:\\\[|\\\(|\$\$?|```[a-z]*|\*\*|-{3,})?[ \t]*\n")
_SENTENCE_END = re.compile(r"[.!?](?=\s|\*|$)")


def _last_marker(text: str, *, truncated: bool) -> tuple[int, str, bool] | None:
    """Position, answer and whether it is a label rather than a sentence, of the last marker that says something."""
    for match in reversed(list(_MARKER.finditer(text))):
        position = match.end()
        for _ in range(4):  # the answer may stand below its label, inside an opened display or code block
            blank = _BLANK_LINE.match(text, position)
            if blank is None or match["sentence"]:
                break
            position = blank.end()
        end = text.find("\n", position)
        if match.group().lower() == "<answer>" and (close := text.lower().find("</answer>", position)) >= 0:
            end = close
        if end < 0:
            if truncated:
                continue
            end = len(text)
        line = text[position:end]
        if match["sentence"] and (stop := _SENTENCE_END.search(line)):
            line = line[: stop.start()]
        if len(line) <= MAX_ANSWER and (answer := tidy(line)) and not (answer == "null" and '"' in match.group()):
            return match.start(), answer, match["label"] is not None
    return None


_WRAPS = (
    *(("**", "**"), ("__", "__"), ("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("```", "```")),
    *(("$", "$"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("*", "*"), ("_", "_"), ("\\boxed{", "}")),
)


def tidy(answer: str) -> str:
    """Strip what wraps an answer without being part of it: spaces, emphasis, math delimiters, quotes, a full stop."""
    answer = answer.strip()
    for _ in range(8):
        before = answer
        answer = answer.removeprefix(":").strip()
        for left, right in _WRAPS:
            inner = answer[len(left) : -len(right)]
            if inner.strip() and answer.startswith(left) and answer.endswith(right) and right not in inner:
                answer = inner.strip()
        if answer.endswith((".", "。", ";")) and not answer.endswith(("..", "\\;")):
            answer = answer[:-1].rstrip()
        for mark in ("**", "$$", "$", "*"):  # an opening or closing mark whose partner stands outside of the line
            if answer.count(mark) == 1 and (answer.startswith(mark) or answer.endswith(mark)):
                answer = answer.removeprefix(mark).removesuffix(mark).strip() if answer != mark else ""
        for left, right in (("{", "}"), ("[", "]")):
            if answer.endswith(right) and left not in answer and not answer.endswith("\\" + right):
                answer = answer[:-1].rstrip() if right == "}" else answer
        if answer == before:
            break
    return answer


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
    r"|invalid|unlikely|less likely|least|ruled out|rule out|rejected?|discard(?:ed)?|untrue|fails?|unless|if|other than|instead of"
    r"|rather than|none of|without|nicht|kein|falsch|pas|faux|incorrecta?|falsa?|no)\b|n['’]t\b",
    re.I,
)
_REASON = re.compile(  # what may follow the option that was chosen; the rest only says why
    r"(?:,|;|:|\.|\s[-–—])?\s*\(?(?:because|since|as(?! well)|for (?:the|it|this)|due to|owing to|given|considering"
    r"|in (?:view|light|place|favou?r) of|despite|even though|after (?:eliminating|ruling|excluding)|on account of"
    r"|seeing that|according to|per\b|is (?:better|more likely) than"
    r"|is (?:the )?(?:correct|right|best)(?: (?:answer|option|choice|one))?(?=\s*(?:[.,;]|because|since|while|whereas))"
    r"|over|rather than"
    r"|instead of|in preference to|not|but not|and not|unlike|while|whereas|though|although|so that|which|where|by"
    r"|thanks to|based on|in contrast to|as opposed to|compared (?:to|with)|weil|denn|da|statt|nicht|car|parce que"
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
    key = _key(text)
    same = [option for option in options if _option_key(option) == key]
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
