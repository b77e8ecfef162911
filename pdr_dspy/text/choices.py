"""Determines which of several options an answer names: by a letter, an option's text, or a sentence that states one.

An option that is only mentioned (`A through D`, `the opposite of A`, `A might work`) is not named. Everything here
takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache, partial

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


_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname)\s?\{([^{}]*)\}"
)
_SPACES = re.compile(r"\s+")
_TAG = re.compile(
    r"(?:(?:the |my )?(?:option|choice|answer|letter|variant)\s{0,3}(?:is\s)?)?[(\[{]?([A-Za-z]|[0-9]{1,2})"
    r"(?:[)\]}][.:]?|[.:](?![0-9.])|$|\s(?=[-–—=]\s))\s{0,9}(?:[-–—=]\s{1,3})?(.*)",
    re.I | re.S,
)
_REJECTS = re.compile(
    r"\b(?:not|never|neither|nor|cannot|except|wrong|incorrect|false|eliminated?|eliminates|excluded?|excludes"
    r"|impossible"
    r"|invalid|unlikely|less likely|least|ruled out|rule out|rejects?|rejected|discard(?:ed|s)?|untrue|fails?"
    r"|unless|if|other than"
    r"|contradicts?|ruling out|excluding|exceptions?|refuses?|refused|declined?|hesitat\w*|reluctant|opposite"
    r"|contrary|anything but|all but|every\w* but|avoid|dismiss(?:ed|es)?|refut(?:e|ed|es)|disagree|doubt|hardly"
    r"|barely|far from|worst|inverse|complement|negation|lacks?|than"
    r"|(?:all|anything|everything|any|(?:each|every)(?: one)?) (?:but|except|besides|apart from)"
    r"|instead of|rather than|none of|without|nicht|kein|keine|keinesfalls|falsch|pas|jamais|faux"
    r"|fausse|incorrecta?|falsa?|no|tampoco|ni|non(?!-)|né|mai|sbagliat[ao]|não|nem|niet|geen|fout|inte|ikke|ej"
    r"|fel|nie|ani|błędn[ay]"
    r"|değil|yanlış|не|ни|неверно|неправильно|bukan|salah)\b|n['’]t\b|不|非|没|沒|错|錯|誤|ない|なく|아니|아닌|틀|ليس|غير|خطأ",
    re.I,
)
_REASON = re.compile(  # may follow the chosen option; the rest is its reason
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
    r"|(?:i\s(?:choose|pick|select|say|prefer|would (?:choose|pick|say|prefer|go with)|go with|think it is"
    r"|think it's|believe it is)"
    r"|it is"
    r"|(?:the\s|my\s)?(?:option|choice|letter|answer)|it's|it must be|must be"
    r"|definitely|clearly|probably)\s(?:option\s|choice\s|letter\s)?",
    re.I,
)
_PRONOUN = re.compile(
    r"\s(?:am|was|have|had|think|thought|believe|guess|say|said|would|will|choose|chose|pick|select|go|went"
    r"|know|see|can"
    r"|could|should|must|do|did|get|got|find|found|feel|suppose|assume|conclude|prefer|vote|want|need|don['’]t"
    r"|cannot)\b"
    r"|['’](?:d|ll|m|ve)\b"
)
_ARTICLE = re.compile(
    r"\s(?!(?:is|or|and|because|since|over|rather|instead|as|due|but|which|given|when|if|not|while|whereas"
    r"|unlike|for|by|but|looks|appears|sounds"
    r"|from|seems|must|fits|follows|holds|matches|would|should|was|has|in|on|with|to|though|although|then|vs"
    r"|versus|plus"
    r"|minus|into|otherwise|else|unless|until|implies|follows|precedes|equals|contains|includes|contradicts"
    r"|beats|causes"
    r"|leads|goes|becomes|means|exceeds|gives|yields|through|und|oder|sowie|aber|nicht|bis|ou|et|mais|pas|o|y|e"
    r"|u|ni|pero|sino"
    r"|ma|non|mas|en|of|maar|niet|och|eller|og|men|lub|albo|oraz|ani|ve|veya|ya|atau|dan|ja|tai|vagy)\b)[a-z]"
)
_STATING = re.compile(  # directly before an option stated by a sentence
    r"""(?: ^ | [:：=→⇒,] | -> | => | [—–]\s
    | \bc['’]est | \b(?:is|was|are|it['’]s|that['’]s|option|choice|answer|letter|variant|alternative|label|class|number
      | (?:must|should|would|will|has\sto|have\sto|ought\sto|gotta|got\sto|can\sonly)\s(?:only\s)?be
      | so|hence|thus|therefore|definitely|clearly|probably|certainly|surely|obviously|only|namely|exactly
      |leaves|leaving|(?:left|leaves\sus)\swith
      | (?:amounts|leads|leading|points|pointing|corresponds|equals|comes\sdown|equates|matches|boils\sdown)\s(?:to\s)?
      | (?:go|going|went|gone|stick|sticking|settle|settling|agrees?|end(?:ed|ing)?\sup)\s(?:with|for|on)
      | (?:opt|opting|vote|voting)\sfor | (?:choos|pick|select|favou?r|prefer|conclud|indicat|suggest|think|believ|guess
        |suppos|impl|yield|mark|support|lean|giv)(?:e|es|s|ing|y|ies|en|ed)? | chose|took|take|takes
      | likely | (?:i|we)(?:['’]d|['’]ll|\swould|\swill)?\ssay | say(?=\W*$)(?<=^say) | think\sthat|believe\sthat
      | ist|lautet|wähle|nehme|antwort|buchstabe|est|est|choisis|réponse|lettre|es|elijo|respuesta|opción|letra|é|è
      | scelgo|resposta|opção|alternativa|risposta|opzione|lettera|escolho|är|er|jest|odpowiedź|to(?<=odpowiedź\sto)
      | adalah|ответ|вариант|выбираю|это)
    | 选|選|择|擇|选项|選択肢|是|为|為|は|は、|답은|정답은)
    \s*(?:(?:the|an?|la|le|el|il|o|a|die|der|das|de|het|option|choice|letter|answer|lettre|letra|lettera|buchstabe|opción
      |opzione|opção|litera|letter)\s){0,2}["'“‘*_`$(\[]*$""",
    re.I | re.X,
)
_PREDICATE = (
    r"(?:(?:the|my|our|an?|also\sthe|indeed|clearly|definitely|obviously|certainly|surely|therefore|thus|most|more|only"
    r"|final|single)\s){0,3}(?:correct|right|true|best|answer|one|accurate|valid|likely|plausible|appropriate"
    r"|suitable|choice"
    r"|option|supported|consistent|pick|solution|it|winner|richtig|korrekt|wahr|correcte?|juste?|vraie?"
    r"|correct[ao]|verdader[ao]"
    r"|cert[ao]|giust[ao]|juist|rätt|riktigt?|prawidłow[aey]|poprawn[aey])\b"
)
_STATED_BEHIND = re.compile(  # directly after such an option
    rf"""["'”’*_`$)\]]*(?:,?\s*(?:i\s(?:think|guess|believe|suppose|would\ssay) | it\sis(?:\s*[.!]?$)
    | (?:is|was|ist|est|es|é|è|är|er|jest|would\sbe|must\sbe|has\sto\sbe|should\sbe|seems|looks
      |appears)\s(?:to\sbe\s)?{_PREDICATE}
      (?!\s(?:but|if|unless|only\sif|or|than))
    | (?:wins|works|fits|holds|stands|remains|follows|matches)\b(?!\s(?:but|if|unless|only))
    | (?:only|alone|obviously|of\scourse|clearly|definitely|certainly|for\ssure|naturally|evidently|surely)\s*[.!]?$)
    | \s*です | \s*だ | \s*が正 | \s*正确 | \s*正確 | \s*是(?:正确|对|對) | \s*입니다 | \s*이다)""",
    re.I | re.X,
)
_OTHERS = re.compile(
    r"\b(?:some|others?|many|people|they|users?|students?|one (?:could|might|may)|could|might|may|maybe|perhaps"
    r"|possibly"
    r"|partly|partially|half|almost|nearly|changed|swap|wrongly|mistakenly|tempting|naive|second|third|runner|previous"
    r"|first|last|longest|shortest|earlier|former|usual|typical|initial|original|popular|distractor|other|next"
    r"|everything"
    r"|nothing"
    r"|along with|together with|up to|beside)\b",
    re.I,
)
_EMPHASIS = re.compile(
    r",?\s(?:hands down|(?:no|without|beyond)(?: an?| any)?(?: reasonable)? (?:doubt|question)(?: about it)?"
    r"|and nothing else)(?=[.!]?$)|^(?:nothing but|(?:no|none) other than)\s(?=\S+$)",
    re.I,
)
_RATHER = re.compile(r"^(?:rather|sooner) (\S.{0,60}?) than (\S.{0,60})$", re.I)
_BULLET = re.compile(r"^\s*[-–•·*]\s+")
_MODIFIED = re.compile(
    r"(?<!\w)(?:less|more|dark|light|pale|bright|deep|semi|almost|nearly|partly|partially|half|slightly|barely"
    r"|pseudo|non"
    r"|anti|un|quasi|sub|super)[ -]$",
    re.I,
)
_LOWER_CASE = re.compile(r"\b(?:option|choice|letter|answer|choose|pick|select|is|it['’]s)[\s:(\[\"']*$", re.I)
_REMARK = re.compile(r"[\"”*_`$)\]]*(?:\s*\([^()]*\))?[.!]?\s*$")
_CONCLUSION = re.compile(
    r"(?:^|[,;.:!—–-]|\s)\s*(?<!not )(?<!also )(?<!or )(?:(?:and\s)?so|thus|hence|therefore|consequently"
    r"|(?:which\s|that\s)?leaves(?:\s(?:us|only))?"
    r"|leaving(?:\s(?:us|only))?)\s*[,:]?\s+(?:(?:with|only)\s)?",
    re.I,
)
_HOLDS = re.compile(
    r"\s+(?:is|must be)\s+(?:the\s)?(?:correct|right|best|true|answer)(?:\s(?:answer|option|choice|one))?", re.I
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
    if "**" in plain and not any("**" in option for option in options):
        plain = plain.replace("**", "")  # `**B.** Paris`
    if (rest := _EMPHASIS.sub("", plain)) != plain or (rest := _RATHER.sub(r"\1 rather than \2", plain)) != plain:
        return _choice(rest, options) if rest.strip() else None
    if len(plain) <= MAX_FORM:
        one = partial(_whole, options=options)
        held = resolved(plain, options, one, partial(_options_in, options=options))
        if held is not None or misnumbered(plain, options, one):
            return held
    tag = _TAG.fullmatch(plain)
    if tag:
        rest = tag[2].strip()
        by_letter = [option for option in options if _label(option) == tag[1].casefold()]
        named = [option for option in options if rest and _content(option) == _key(rest)]
        if named:  # a letter and the text of another option contradict each other
            agreed = [option for option in named if option in by_letter or _label(option) is None]
            return agreed[0] if len(agreed) == 1 else None
        others_wrong = _REJECTED_LETTERS.match(rest) and not _DASHED.match(plain)  # `A – B is wrong` may be about both
        if len(by_letter) == 1 and (not rest or others_wrong or not _names_another(rest, tag[1], options)):
            rejected = _REJECTS.match(rest) and not (_gives_reason(rest, options) or _OWN_NEGATION.fullmatch(rest))
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
    tag = _TAG.fullmatch(tidy(option))
    return tag[1].casefold() if tag else None


@lru_cache(1024)
def _content(option: str) -> str:
    """The text of an option without its letter."""
    tag = _TAG.fullmatch(tidy(option))
    return _key(tag[2]) if tag and tag[2].strip() else _key(option)


def _retracted(rest: str) -> bool:
    return _TAKEN_BACK.search(rest) is not None


def _gives_reason(behind: str, options: Sequence[str]) -> bool:
    """Whether the text after an option only gives the reason for it or against another."""
    reason = _REASON.match(behind)
    if reason is None:
        return False
    following = behind[reason.end() :].lstrip(" ,*_(\"'").casefold()
    if reason.group().casefold().endswith(("not", "nicht")):  # `A, not B`; `A not certain` gives no reason
        names = {name for option in options for name in (option.casefold(), _label(option), _content(option)) if name}
        return any(following.startswith(name) and not following[len(name) :][:1].isalnum() for name in names)
    return not (reason.group().casefold().endswith(("which", "where")) and _REJECTS.search(following[:30]))


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
    if any(not _REJECTS.search(line) for line in lines):
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
    if rest[:1] in ("A", "a") and _ARTICLE.match(rest, 1) and not _ALONE.match(rest, 1):  # `B. A cell wall`
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
    said = _STATED.match(text)
    if len(text) > 400 or "?" in text or _retracted(text[said.end() if said else 0 :]):
        return None
    drawn = max((found.end() for found in _CONCLUSION.finditer(text) if found.start()), default=0)
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
    if not before or (drawn < sentence and not _REJECTS.search(before)) or _OTHERS.search(conclusion):
        return None
    stated = _STATED.match(conclusion)
    for begin in dict.fromkeys((stated.end() if stated else 0, 0)):
        rest = conclusion[begin:].strip(" .!*_\"'")
        holds = _HOLDS.search(rest)
        if (holds is None and begin == 0 and drawn < sentence) or (holds and holds.end() != len(rest)):
            continue
        key = _key(rest[: holds.start()] if holds else rest)
        named = [option for option in options if key and key in (option.casefold(), _label(option), _content(option))]
        if len(named) == 1 and turned and named[0] in _options_in(clause, options):
            return None
        conceded = turned and _CONCEDED.search(clause) and not _REJECTS.search(clause)
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
    said = [behind[max(found.start() - 40, 0) : found.start()] for found in _HOLDS.finditer(behind)]
    return any(_options_in(re.split(r"[,.;]", each)[-1], options) - {own} for each in said)


def _set_aside(before: str, options: Sequence[str]) -> bool:
    """Whether a clause is about options that it rejects (`not A`, `B is wrong`) or only concedes (`A is tempting`)."""
    if _AFFIRMED.search(before) or not (_REJECTS.search(before) or _CONCEDED.search(before)):
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
                name not in "AI" or not (_PRONOUN if name == "I" else _ARTICLE).match(text, one.end()) for one in spots
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
        if _LOWER_CASE.search(text[: spot.start()]) and (_REMARK.match(behind) or _STATED_BEHIND.match(behind)):
            found |= {option for option in options if option == spot.group().upper()}
    return set() if _OTHERS.search(text) else found


def _mentioned(text: str, options: Sequence[str]) -> str | None:
    if text.endswith("?") and not any("?" in option for option in options):
        return None
    if len(text) > 200 or _REJECTS.search(text) or _LIMITED.search(text) or _LETTERS_ONLY.fullmatch(text):
        return None
    found: list[tuple[int, int, str]] = []
    for option in options:
        if not option:
            continue
        # A single letter may also be an article or a pronoun, so its case must be that of the option.
        flags = re.I if len(option) > 1 else 0
        for spot in re.finditer(rf"{_no_letter_before}{re.escape(option)}{_no_letter_behind}", text, flags):
            behind = text[spot.end() :]
            if option == "I" and _PRONOUN.match(behind):
                continue
            if not _whole_number(option, text[: spot.start()], behind):
                return None
            if option in ("A", "a") and _ARTICLE.match(behind):
                if re.search(r"(?:\b(?:and|or|than|over|not|of)|[,/])\s*$", text[: spot.start()]):
                    return None  # `B or A looks right`: an option or an article
                continue
            before = text[: spot.start()]
            lead = _BULLET.sub("", before).strip("*_\"'( ")
            alone = not lead and _REMARK.match(behind)
            stated = lead and _STATING.search(before)
            if len(option) > 1 and _MODIFIED.search(before):
                return None  # `dark red`
            if len(option) == 1 and (_OTHERS.search(text) or not (alone or stated or _STATED_BEHIND.match(behind))):
                return None  # `A through D`, `the opposite of A`: the statement about it is not understood
            found.append((spot.start(), spot.end(), option))
    if not found and len(stated_small := _small_letters(text, options)) == 1:
        return stated_small.pop()
    # `very good` mentions `very good`, not also `good`.
    outer = [f for f in found if not any(o is not f and o[0] <= f[0] and f[1] <= o[1] and o[2] != f[2] for o in found)]
    names = {option for _, _, option in outer}
    return names.pop() if len(names) == 1 else None
