r"""Gold answers in words (`\text{Alice}`, `even`, `(C)`, `does not exist`), and whether an answer says the same.

It runs where the verifier runs, since it takes linear time and evaluates nothing.
"""

from __future__ import annotations

import re

from pdr_dspy.text.answers import tidy

UPRIGHT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_ONE_LETTER = re.compile(r"\\math(?:rm|bf)\s?\{\s*[A-Za-z]\s*\}")
_PROSE = re.compile(r"[A-Za-z]{2,}(?:[ '-][A-Za-z]+)*|\(?[A-Z]\)?")
_SHORT_WORDS = ("yes", "no", "odd", "all", "one", "two", "six", "ten", "red", "man")
_MATHEMATICAL = re.compile(
    r"(?:sqrt|pi|sin|cos|tan|log|ln|exp|infty|infinity|oo|inf|alpha|beta|gamma|delta|theta|lambda|omega|sigma"
    r"|(?:the )?empty ?set|(?:there (?:is|are) )?no (?:real )?solutions?"
    r"|(?:all|any|every|the) (?:real )?(?:numbers?|reals?|integers?|real x))",
    re.I,
)
_CAPITALS = re.compile("[A-Z]{2,4}")


def words_of(gold: str) -> str | None:
    r"""The gold answer if it consists of words (`\text{Evelyn}`, `even`, `(C)`) and not mathematics."""
    plain = tidy(UPRIGHT.sub(r"\1", gold))
    if meaning(plain) is not None:
        return plain
    upright = plain != tidy(gold) and not _ONE_LETTER.search(gold)
    if _PROSE.fullmatch(plain) and (upright or len(plain) > 3 or plain.lower() in _SHORT_WORDS):
        mathematical = _MATHEMATICAL.fullmatch(plain) or (_CAPITALS.fullmatch(plain) and not upright)
        return None if mathematical else plain
    return None


_WHOLE_TEXT = re.compile(r"\\(?:text|textrm|mbox)\s?\{([^{}]*[A-Za-z]{2}[^{}]*)\}")


def text_of(gold: str) -> str | None:
    r"""A gold answer that is entirely text (`\text{3:30 pm}`, `\text{July 4, 1776}`), for comparison; else None."""
    whole = _WHOLE_TEXT.fullmatch(gold.strip(" $."))
    return loosely(whole[1]) if whole else None


def loosely(text: str) -> str:
    """Words and digits without case, spaces, the points of `p.m.` and the comma of a date."""
    text = " ".join(tidy(UPRIGHT.sub(r"\1", text)).casefold().split())
    return re.sub(
        r"(?<=[a-z])\.|,(?= )|\s",
        lambda sign: "\0" if sign.group().isspace() else "",
        re.sub(r"(?<=[0-9]) (?=[ap]\.?m\b)", "", text),
    )


# -------------------------------------------------------------------------------------------------------- one meaning

_EXISTS_NOT = re.compile(
    r"(?:(?P<subject>[a-z][a-z' -]{0,60}) )?(?:(?:does not|doesn['’]t|do not|don['’]t) exist"
    r"|(?:is |are )?(?:undefined|not defined|non-?existent)|is d\.?n\.?e\.?)|d\.?n\.?e\.?|(?:undefined|not defined)"
)
_WITHOUT_END = re.compile(
    r"(?:(?:there (?:are|exist)|(?:it|the (?:system|equation)) has|has) )?(?:infinitely many|an infinite number of)"
    r"(?: (?:real |complex |integer )?(?P<of>solutions?|points?|values?|answers?|roots?|zeros?))?"
)
_BEHAVES = re.compile(
    r"(?:(?:it|the (?:infinite |given |improper )?(?:series|integral|sequence|sum)) )?(?:is )?"
    r"(diverge|converge)(?:s|nt)"
)
_QUALIFIED = re.compile(
    r"\b(?:not|no|never|only|if|unless|but|or|and|left|right|one|sided|both|neither|nor|some|solutions?|roots?|such"
    r"|second|first|that|which|when|where|false)\b|n['’]t\b"
)


def meaning(text: str) -> tuple[str, str | None] | None:
    """What a phrase says that is written in many ways: that no value exists, that there is no end of values, that a
    series converges or diverges. None for any other text."""
    plain = text.casefold().strip(" .!")
    if (found := _EXISTS_NOT.fullmatch(plain)) and not _QUALIFIED.search(found["subject"] or ""):
        return "no value", None
    if found := _WITHOUT_END.fullmatch(plain):
        return "without end", found["of"].rstrip("s") if found["of"] else None
    if found := _BEHAVES.fullmatch(plain):
        return found[1], None
    return None


def _means(answer: str, gold: str) -> bool:
    want, have = meaning(gold), meaning(answer)
    if want is None or have is None or want[0] != have[0]:
        return False
    return None in (want[1], have[1]) or want[1] == have[1]


# ------------------------------------------------------------------------------------------------------------ options

_OPTION = re.compile(
    r"(?:(?:the )?(?:(?:correct|right|final|best) )?(?:option|choice|answer)(?: is)?:?\s+)?"
    r"(?P<open>[(\[]?)(?P<letter>[A-Z])"
    r"(?:(?P<mark>[)\].:])(?:(?:\s+|(?=[0-9\\$]))(?P<text>\S.*))?)?",
    re.I | re.S,
)
_SAYS_RIGHT = re.compile(r"(?:is|was|must be)\s(?:the\s)?(?:correct|right|answer|true)\b[^?]{0,40}", re.I)
_SPOILS_OPTION = re.compile(
    r"^(?:is|isn|was|wasn|are|would|can|cannot|could|and|or|not|but|,|/|nor|minus|plus)\b"
    r"|\b(?:wrong|incorrect|eliminated?|ruled out|or|and|not|but|actually|wait) *[(\[]?[A-J]\b"
    r"|\b(?:is|was|are)\s(?:wrong|incorrect|not|eliminated|ruled out|false)\b|\b(?:wait|actually|instead)\b|\?",
    re.I,
)


def chooses(answer: str, letter: str) -> bool:
    """Whether an answer chooses the option of this letter, perhaps with the option's text: `(C) 12`, `Option C`."""
    plain = " ".join(tidy(UPRIGHT.sub(r"\1", answer)).split())
    found = _OPTION.fullmatch(plain)
    if found is None or found["letter"].upper() != letter.upper() or len(plain) > 200:
        return False
    named = found.start("open") > 0
    if found["letter"] != letter.upper() and not (named or found["mark"] or plain == found["letter"]):
        return False
    if found["open"] and found["mark"] != {"(": ")", "[": "]"}[found["open"]]:
        return False
    text = found["text"]
    if text is None:
        return True
    if _SAYS_RIGHT.fullmatch(text):
        return True
    others = re.findall(r"(?<![A-Za-z0-9\\^_{])[(\[]([A-J])[)\]]", text)
    return not any(other != letter for other in others) and not _SPOILS_OPTION.search(text)


def names_option(answer: str, letter: str) -> bool:
    """Whether an answer is the option of this letter with its text: `(B) 4`; a letter alone may be mathematics."""
    found = _OPTION.fullmatch(" ".join(tidy(UPRIGHT.sub(r"\1", answer)).split()))
    return found is not None and found["text"] is not None and found["letter"] == letter and chooses(answer, letter)


# ---------------------------------------------------------------------------------------------------------- sentences

_REASON = re.compile(
    r"\s*(?:[.,;:–—-]|\()\s*(?:because|since|as|so|for|it|this|that|they|he|she|the|we|each|every|both|all|divides?)\b"
    r"|\s+(?:because|since)\b",
    re.I,
)
_FRAME = re.compile(
    r"(?:so|thus|hence|therefore)?,?\s*(?:the\s)?(?:(?:final|correct|right)\s)?(?:answer|result|option|choice|solution|function"
    r"|it|number)\s(?:is|must be|would be)\s(?:an?\s|the\s)?|(?:it|this)\sis\s(?:an?\s|the\s)?",
    re.I,
)
_TAKES_BACK = re.compile(r"\b(?:not|but|however|actually|wait|wrong|or|no)\b|n['’]t\b")
_ELABORATES = re.compile(r"\s*[,.;:!–—-]\s*(?=[a-z(])")
_TURNS = {
    "no": re.compile(r"\b(?:yes|but|however|actually|wait|wrong|or|maybe|perhaps|sorry|idea)\b|\?"),
    "yes": re.compile(
        r"\b(?:no|not|but|however|actually|wait|wrong|or|maybe|perhaps|sorry|never|cannot)\b|n['’]t\b|\?"
    ),
}
"""What a reason after `no` or `yes` may not contain; that of `no` negates."""
_SPOILS = re.compile(
    r"\b(?:not|no|never|neither|nor|or|but|except|unless|if|whether|either|other|another|otherwise|instead|opposite"
    r"|wrong|incorrect|false|loser|loses?|losing|lost|last|second|third|fourth|runner-?\s?up|before|after|without|besides|than"
    r"|unlike|almost|nearly|maybe|perhaps|possibly|probably|cannot|and|excluded|eliminated|rather|wait|actually"
    r"|impossible|everyone|everybody|someone|nobody|all|half|non|anti|semi|quasi)\b|n['’]t\b|\?"
)
_SUBJECT = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?P<subject>[a-z][a-z0-9$' -]{0,100}?)\s?"
    r"(?:\b(?:is|are|was|were|(?:must|will|would|has to) be|is called|falls on)"
    r"|:)\s(?:therefore |thus |hence |always |simply )?(?:an? |the |on an? |on |in |called |named )?"
)
_DAY = re.compile(
    r"(?:(?:it|this|that|the \w+) (?:falls|is|was|happens|occurs|lands) )?(?:on|in|during) (?:an? |the )?"
)
_PREDICATE = re.compile(
    r"\s(?:is|was|has|had|wins?|won|finish(?:es|ed)|gets?|got|runs?|ran|makes?|made|takes?|took|scores?|scored|earns?"
    r"|earned|receives?|received|will|must|should)\b(?P<rest>[^.;:!?]{0,100})"
)


def says(answer: str, words: str) -> bool:
    """Whether an answer is these words: alone, in a sentence that states them (`The winner is Alice.`), or followed by
    a reason."""
    plain = " ".join(tidy(UPRIGHT.sub(r"\1", answer)).split())
    frame = _FRAME.match(plain)
    for text in (plain, plain[frame.end() :] if frame else plain):
        if _means(text, words):
            return True
        bare = re.fullmatch(r"\(?([A-Za-z])\)?", words)
        if bare:
            if chooses(text, bare[1]):
                return True
            continue
        text, want = re.sub(r"^(?:an?|the) (?=\w{2})", "", tidy(text).casefold().strip(" .!")), words.casefold()
        if text == want or text.strip("()") == want.strip("()"):
            return True
        if text.startswith(want):
            behind = text[len(want) :]
            if want in _TURNS and (remark := _ELABORATES.match(behind)):
                return not _TURNS[want].search(behind[remark.end() :])
            if _REASON.match(behind):
                return not _TAKES_BACK.search(behind)
    return _states(plain, words)


def _states(plain: str, words: str) -> bool:
    """Whether a sentence states the words of its subject: `The graph is an ellipse.`, `Alice wins.`

    The subject may be anything that neither negates nor names another: which question it answers is not known here.
    """
    text, want = plain.casefold().strip(" .!"), words.casefold().strip("()")
    if len(text) > 200 or len(want) < 2 or want in _TURNS:
        return False
    if text.endswith(want):
        before = text[: len(text) - len(want)]
        stated = _SUBJECT.fullmatch(before)
        if stated and not _SPOILS.search(stated["subject"]):
            return True
        if _DAY.fullmatch(before):
            return True
    name = words[0].isupper() and " " not in words
    if name and text.startswith(want) and (told := _PREDICATE.fullmatch(text[len(want) :])):
        return not _SPOILS.search(told["rest"]) and not re.search(r"\b[A-Z][a-z]", plain[len(words) :])
    return False
