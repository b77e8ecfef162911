"""Determines which of several options an answer names: by a letter, an option's text, or a sentence that states one.

An option that is only mentioned (`A through D`, `the opposite of A`, `A might work`) is not named. Everything here
takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache, partial

from pdr_dspy.text import choice_patterns as patterns
from pdr_dspy.text.answers import MAX_TEXT, final_answer
from pdr_dspy.text.choice_forms import MAX_FORM, misnumbered, resolved
from pdr_dspy.text.labels import shadow
from pdr_dspy.text.reasoning import split_thought
from pdr_dspy.text.statements import MAX_ANSWER
from pdr_dspy.text.wrapping import STRUCK, tidy


def to_choice(text: str, options: Sequence[str]) -> str | None:
    """Return the one of `options` that an answer names, spelt as in `options`, or None if it names none or several.

    Case, quotes, emphasis and a full stop do not matter, nor does a letter in front: `(B)`, `B.`, `**B**`, `B) Paris`
    and `Option B` name the option `B`; `B) Paris` also names the option `Paris`, and `B` the option `B) Paris`. An
    option at the beginning is named, whatever its reason mentions: `A because B is wrong`, `A over B`, `A, not B`. A
    short sentence names the only option that it mentions, unless it negates or rejects something. A letter with the
    text of another option (`A) London` where B is London) names nothing.
    """
    if len(text) > MAX_TEXT:
        text = text[-MAX_TEXT:]
    text = STRUCK.sub(" ", text) if "~~" in text else text
    for candidate in (text, final_answer(text)):
        if candidate is not None and (choice := _choice(candidate, options)) is not None:
            return choice
    return None


def _key(text: str) -> str:
    text = patterns.WORDS.sub(lambda words: words[1], tidy(text))
    text = tidy(patterns.SPACES.sub(" ", text)).rstrip(".!,:;")
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
    plain = tidy(patterns.SPACES.sub(" ", patterns.WORDS.sub(lambda words: words[1], tidy(text))))
    if "**" in plain and not any("**" in option for option in options):
        plain = plain.replace("**", "")  # `**B.** Paris`
    if (rest := patterns.EMPHASIS.sub("", plain)) != plain or (
        rest := patterns.RATHER.sub(r"\1 rather than \2", plain)
    ) != plain:
        return _choice(rest, options) if rest.strip() else None
    if len(plain) <= MAX_FORM:
        one = partial(_whole, options=options)
        held = resolved(plain, options, one, partial(_options_in, options=options))
        if held is not None or misnumbered(plain, options, one):
            return held
    tag = patterns.TAG.fullmatch(plain)
    if tag:
        rest = tag[2].strip()
        by_letter = [option for option in options if _label(option) == tag[1].casefold()]
        named = [option for option in options if rest and _content(option) == _key(rest)]
        if named:  # a letter and the text of another option contradict each other
            agreed = [option for option in named if option in by_letter or _label(option) is None]
            return agreed[0] if len(agreed) == 1 else None
        others_wrong = _REJECTED_LETTERS.match(rest) and not _DASHED.match(plain)  # `A – B is wrong` may be about both
        if len(by_letter) == 1 and (not rest or others_wrong or not _names_another(rest, tag[1], options)):
            rejected = patterns.REJECTS.match(rest) and not (
                _gives_reason(rest, options) or _OWN_NEGATION.fullmatch(rest)
            )
            return None if rejected or _retracted(rest) or _lists(text, rest, tag[1], options) else by_letter[0]
    return _chosen(plain, options) or _concluded(plain, options) or _mentioned(plain, options)


_OWN_NEGATION = re.compile(  # texts of options, no rejections of the letter before them
    r"(?:none|neither|not all|not any) of (?:the )?(?:above|these|those|others?|options|them|choices|answers|given"
    r"|listed)"
    r"(?: (?:options|choices|answers|is correct|are correct|mentioned|listed))?[.!]?"
    r"|(?:it )?(?:cannot|can['’]t|can not) be (?:determined|known|answered|inferred|concluded|said)\b[^,;]{0,60}"
    r"|(?:there is )?(?:not enough|insufficient) (?:information|data|evidence)\b[^,;]{0,60}",
    re.I,
)
_NAMING = re.compile(r"(?:the\s)?(?:(?:correct|right|final)\s)?(?:option|choice|answer|letter)\s(?:is\s)?", re.I)


def _whole(part: str, options: Sequence[str]) -> str | None:
    """The only option that a part of a text is: by its letter, in the case of the option, by its text, or by both."""
    part = part.strip().strip(",;: ")
    if naming := _NAMING.match(part):
        part = part[naming.end() :]
    key = _key(part)
    letter = tidy(part).strip("()[]{}.:!, ")
    if len(letter) == 1:
        named = [option for option in options if letter in (option, (_label(option) or "").upper())]
    else:
        named = [option for option in options if key and key in (_option_key(option), _content(option))]
    return named[0] if len(named) == 1 else None


@lru_cache(1024)
def _option_key(option: str) -> str:
    return _key(option)


def _joined(key: str) -> str:
    """Makes `not_entailment` and `not entailment` equal."""
    return re.sub(r"(?<=\w)[ _-](?=\w)", " ", key)


@lru_cache(1024)
def _label(option: str) -> str | None:
    tag = patterns.TAG.fullmatch(tidy(option))
    return tag[1].casefold() if tag else None


@lru_cache(1024)
def _content(option: str) -> str:
    """The text of an option without its letter."""
    tag = patterns.TAG.fullmatch(tidy(option))
    return _key(tag[2]) if tag and tag[2].strip() else _key(option)


def _retracted(rest: str) -> bool:
    return patterns.TAKEN_BACK.search(rest) is not None


def _gives_reason(behind: str, options: Sequence[str]) -> bool:
    """Whether the text after an option only gives the reason for it or against another."""
    reason = patterns.REASON.match(behind)
    if reason is None:
        return False
    following = behind[reason.end() :].lstrip(" ,*_(\"'").casefold()
    if reason.group().casefold().endswith(("not", "nicht")):  # `A, not B`; `A not certain` gives no reason
        names = {name for option in options for name in (option.casefold(), _label(option), _content(option)) if name}
        return any(following.startswith(name) and not following[len(name) :][:1].isalnum() for name in names)
    return not (reason.group().casefold().endswith(("which", "where")) and patterns.REJECTS.search(following[:30]))


_LISTED = re.compile(r"[ \t>*_(\[•·–-]{0,8}([A-Za-z0-9]{1,2})(?:[*_]{0,2}[.):\]][*_]{0,2}|\s[-–—=→])\s{1,3}\S")
_LISTED_INSIDE = re.compile(r"(?<=\s)([A-Z])[.:]\s{1,3}\S")


def _lists(text: str, rest: str, letter: str, options: Sequence[str]) -> bool:
    """Whether `A. Paris` is the first line of a list of options, and no answer; others that are rejected may follow."""
    labels = {_label(option) for option in options} - {letter.casefold(), None}
    lines = [
        line
        for line in text.strip().splitlines()[1:]
        if (found := _LISTED.match(line)) and found[1].casefold() in labels
    ]
    if any(not patterns.REJECTS.search(line) for line in lines):
        return True
    return len({found[1].casefold() for found in _LISTED_INSIDE.finditer(rest)} & labels) > 1 and not lines


_REJECTED_LETTERS = re.compile(
    r"[A-Z](?:(?:,? (?:and|or) |, ?)[A-Z])* (?:is|are) (?:both |all |clearly |also |simply )?"
    r"(?:wrong|incorrect|false|ruled out|eliminated|impossible)\b[.!]?$"
)
"""All that stands behind `B.` may be that others are wrong."""
_DASHED = re.compile(r"[(\[{]?\w{1,2}[)\]}]?\s?[-–—=]")
_ALONE = re.compile(r"\s(?:only|alone|too|also|itself)\b")


def _names_another(rest: str, letter: str, options: Sequence[str]) -> bool:
    """Whether the text after `B)` offers a second option; a reason does not, nor does `Vitamin C` as B's own text."""
    if _gives_reason(rest, options):
        return False
    if rest[:1] in ("A", "a") and patterns.ARTICLE.match(rest, 1) and not _ALONE.match(rest, 1):  # `B. A cell wall`
        rest = rest[1:]
    labels = {_label(option) for option in options} - {letter.casefold(), None}
    other = re.findall(
        r"(?:\b(?:and|or|also|nor|und|oder|et|ou|y|o)\b|[,/&+;]|^|→|->|\bnot\b)\s*\(?([A-Z])\b(?!\w)"
        r"|\(([A-Z])\)|\b([A-Z])\)",
        rest,
    )
    if any({one.casefold() for one in found if one} & labels for found in other):
        return True
    contents = [_content(option) for option in options if _label(option) is None and len(option) > 1]
    return any(content and re.search(rf"(?<!\w){re.escape(content)}(?!\w)", rest.casefold()) for content in contents)


def _chosen(text: str, options: Sequence[str]) -> str | None:
    """The option at the beginning of a sentence that only defends it."""
    stated = patterns.STATED.match(text)
    for start in dict.fromkeys((stated.end() if stated else 0, 0)):
        rest = text[start:].lstrip("*_\"'( ")
        names = {
            name: option for option in options for name in (option.casefold(), _label(option), _content(option)) if name
        }
        opening = [name for name in names if rest.casefold().startswith(name)]
        for name in sorted(opening, key=len, reverse=True):
            behind = rest[len(name) :].lstrip("*_\"')")
            if behind[:1].isalnum() or (name == "i" and patterns.PRONOUN.match(behind)):
                continue
            if _another_holds(behind, names[name], options):
                break
            defended = _gives_reason(behind, options) or _about_another(behind, names[name], options)
            if defended and not _retracted(behind):
                return names[name]
            break
    return None


def _concluded(text: str, options: Sequence[str]) -> str | None:
    """The option that follows from the text before it (`A is wrong, so B`, `Eliminate A and B. C is the answer.`) and
    is the whole conclusion."""
    said = patterns.STATED.match(text)
    if len(text) > 400 or "?" in text or _retracted(text[said.end() if said else 0 :]):
        return None
    drawn = max((found.end() for found in patterns.CONCLUSION.finditer(text) if found.start()), default=0)
    sentence = max((found.end() for found in _SENTENCE_ENDS.finditer(text.rstrip(" .!"))), default=0)
    contrast = max(_CONTRAST.finditer(text), key=lambda found: found.end(), default=None)
    turned = contrast is not None and contrast.end() > max(drawn, sentence)
    start = contrast.end() if contrast is not None and turned else max(drawn, sentence)
    before, conclusion = text[:start], text[start:]
    clause = text[: contrast.start()] if contrast is not None and turned else before
    aside = _set_aside(clause, options)
    if turned and not aside:
        return None
    drawn = start if turned or aside else drawn
    if not before or (drawn < sentence and not patterns.REJECTS.search(before)) or patterns.OTHERS.search(conclusion):
        return None
    stated = patterns.STATED.match(conclusion)
    for begin in dict.fromkeys((stated.end() if stated else 0, 0)):
        rest = conclusion[begin:].strip(" .!*_\"'")
        holds = patterns.HOLDS.search(rest)
        if (holds is None and begin == 0 and drawn < sentence) or (holds and holds.end() != len(rest)):
            continue
        key = _key(rest[: holds.start()] if holds else rest)
        named = [option for option in options if key and key in (option.casefold(), _label(option), _content(option))]
        if len(named) == 1 and turned and named[0] in _options_in(clause, options):
            return None
        conceded = turned and _CONCEDED.search(clause) and not patterns.REJECTS.search(clause)
        if len(named) == 1 and (conceded or _choice(clause.rstrip(" ,;:"), options) in (None, named[0])):
            return named[0]
    return None


def _about_another(behind: str, own: str, options: Sequence[str]) -> bool:
    """Whether a remark in brackets sets another option aside: `C (B is wrong)`."""
    remark = re.fullmatch(r"\s*\(([^()]{1,200})\)[.!]?", behind)
    return remark is not None and _set_aside(remark[1], options) and own not in _options_in(remark[1], options)


def _another_holds(behind: str, own: str, options: Sequence[str]) -> bool:
    """Whether another option is said to be right too (`A is right, but C is right`), or follows alone (`A is right;
    C`)."""
    last = _key(re.split(r"[;.!]\s", behind)[-1]) if re.search(r"[;.!]\s", behind) else ""
    if last and any(last in (option.casefold(), _label(option)) for option in options if option != own):
        return True
    said = [behind[max(found.start() - 40, 0) : found.start()] for found in patterns.HOLDS.finditer(behind)]
    return any(_options_in(re.split(r"[,.;]", each)[-1], options) - {own} for each in said)


def _set_aside(before: str, options: Sequence[str]) -> bool:
    """Whether a clause is about options that it rejects (`not A`, `B is wrong`) or only concedes (`A is tempting`)."""
    if _AFFIRMED.search(before) or not (patterns.REJECTS.search(before) or _CONCEDED.search(before)):
        return False
    return bool(_options_in(before, options))


def _options_in(text: str, options: Sequence[str]) -> set[str]:
    """The options that a text mentions by letter or text."""
    found = set()
    for option in options:
        content = _content(option)
        for name in {option, content if len(content) > 1 else "", (_label(option) or "").upper()} - {""}:
            flags = 0 if len(name) == 1 else re.I
            spots = re.finditer(rf"(?<!\w){re.escape(name)}(?![\w'’])", text, flags)
            if any(
                name not in "AI" or not (patterns.PRONOUN if name == "I" else patterns.ARTICLE).match(text, one.end())
                for one in spots
            ):
                found.add(option)
    return found


_CONTRAST = re.compile(r",?\s(?:but(?: rather)?|instead)[,:]?\s|(?<=\w), (?=it(?:['’]s|\sis)\s)", re.I)
_CONCEDED = re.compile(
    r"\b(?:close|tempting|plausible|attractive|similar|seems?|seemed|looks?|looked|sounds?|at first|first thought"
    r"|initially|popular|common)\b",
    re.I,
)
_AFFIRMED = re.compile(
    r"(?:\bnot|n['’]t) (?:only|just|merely|simply|necessarily|exclusively|sure|certain|wrong|incorrect|false|bad"
    r"|excluded|ruled out|impossible|eliminated?)\b|\bif\b|\b(?:and|or|both)\s+also\b",
    re.I,
)
_SENTENCE_ENDS = re.compile(r"[.;!]\s+")


_LIMITED = re.compile(r"\bbut (?:only|not always|just)\b", re.I)
_LETTERS_ONLY = re.compile(r"(?:\b[A-Z]\b[\s,;/]*){2,}")


_SPACELESS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts without spaces between a word and a letter of another script."""
_no_letter_before = rf"(?<![^\W{_SPACELESS}])"
_no_letter_behind = rf"(?![^\W{_SPACELESS}])"


def _whole_number(option: str, before: str, behind: str) -> bool:
    """Whether an option that is a number is a number of its own: not part of `2.5`, `-2`, `2%`."""
    if not option[-1].isdigit() and not option[0].isdigit():
        return True
    split_before = option[0].isdigit() and re.search(r"[0-9][.,:/^]$|(?:^|[\s(=])[-−–+]$|[/^*×]\s?$", before)
    split_behind = option[-1].isdigit() and re.match(r"[.,:/^][0-9]|[%‰°]|\s?[-−–+*/×^=<>]", behind)
    return not split_before and not split_behind


def _small_letters(text: str, options: Sequence[str]) -> set[str]:
    """The options of one letter that a text states in lower case: `option d is right`, `choose a`."""
    found = set()
    for spot in re.finditer(r"(?<![\w'’-])[a-z](?![\w'’-])", text):
        behind = text[spot.end() :]
        if patterns.LOWER_CASE.search(text[: spot.start()]) and (
            patterns.REMARK.match(behind) or patterns.STATED_BEHIND.match(behind)
        ):
            found |= {option for option in options if option == spot.group().upper()}
    return set() if patterns.OTHERS.search(text) else found


def _mentioned(text: str, options: Sequence[str]) -> str | None:
    if text.endswith("?") and not any("?" in option for option in options):
        return None
    if len(text) > 200 or patterns.REJECTS.search(text) or _LIMITED.search(text) or _LETTERS_ONLY.fullmatch(text):
        return None
    found: list[tuple[int, int, str]] = []
    for option in options:
        if not option:
            continue
        # A single letter may also be an article or a pronoun, so its case must be that of the option.
        flags = re.I if len(option) > 1 else 0
        for spot in re.finditer(rf"{_no_letter_before}{re.escape(option)}{_no_letter_behind}", text, flags):
            behind = text[spot.end() :]
            if option == "I" and patterns.PRONOUN.match(behind):
                continue
            if not _whole_number(option, text[: spot.start()], behind):
                return None
            if option in ("A", "a") and patterns.ARTICLE.match(behind):
                if re.search(r"(?:\b(?:and|or|than|over|not|of)|[,/])\s*$", text[: spot.start()]):
                    return None  # `B or A looks right`: an option or an article
                continue
            before = text[: spot.start()]
            lead = patterns.BULLET.sub("", before).strip("*_\"'( ")
            alone = not lead and patterns.REMARK.match(behind)
            stated = lead and patterns.STATING.search(before)
            if len(option) > 1 and patterns.MODIFIED.search(before):
                return None  # `dark red`
            if len(option) == 1 and (
                patterns.OTHERS.search(text) or not (alone or stated or patterns.STATED_BEHIND.match(behind))
            ):
                return None  # `A through D`, `the opposite of A`: the statement about it is not understood
            found.append((spot.start(), spot.end(), option))
    if not found and len(stated_small := _small_letters(text, options)) == 1:
        return stated_small.pop()
    # `very good` mentions `very good`, not also `good`.
    outer = [f for f in found if not any(o is not f and o[0] <= f[0] and f[1] <= o[1] and o[2] != f[2] for o in found)]
    names = {option for _, _, option in outer}
    return names.pop() if len(names) == 1 else None
