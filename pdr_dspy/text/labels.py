r"""Labels of an answer: a table of languages, and the patterns made from it and from field names.

`Answer: 42`, `**Final answer** → 42`, `### Ergebnis`, `La réponse est 42.`, `最终答案：24`. Labels are data: an entry
of `LANGUAGES` is recognised at the head of a line, within a line, as a tag (`<antwort>`), in a table and as the key of
a JSON object. The patterns are applied to the `shadow` of a text, in which full-width forms are plain ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


class Language(NamedTuple):
    """The words of one language, each written as within a sentence; several are separated by a bar."""

    nouns: str
    """Nouns for an answer."""
    results: str = ""
    """Nouns for an intermediate result too: these count together with a word of `before` or `after`, or if no other
    noun does."""
    before: str = ""
    """Words that may precede a noun."""
    after: str = ""
    """Words that may follow a noun."""
    verbs: str = ""
    """Verbs between a noun and the answer in a sentence."""
    endings: str = ""
    """Endings of such a sentence, after the answer."""
    spaced: bool = True
    """Whether words are separated by spaces."""
    amounts: str = ""
    """Nouns of a quantity, which state the answer only behind one of `decided`."""
    decided: str = ""
    """Words that may precede these."""


LANGUAGES = (
    Language(  # English
        "answer|answers|ans|answer choice|answer option",
        "result|results|choice|option|output",
        "final|correct|right|short|numerical|numeric|exact|complete|overall|corrected|revised|updated|best|actual|true"
        "|required|desired|simplified",
        "",
        "is|are|equals|=|would be|must be|should be|will be|comes out to be|comes to",
        amounts="total|value|sum|count|amount|number",
        decided="final|correct|right|required|desired|requested",
    ),
    Language(  # German
        "antwort|antworten|endergebnis|endresultat",
        "ergebnis|ergebnisse|lösung|resultat",
        "endgültige|endgültiges|finale|finales|richtige|korrekte|abschließende",
        "",
        "ist|sind|lautet|lauten|beträgt|wäre",
    ),
    Language(  # French
        "réponse|réponses|reponse",
        "résultat|resultat|solution",
        "bonne",
        "finale|final|correcte|exacte|définitive",
        "est|sont|vaut|est donc",
    ),
    Language("respuesta|respuestas", "resultado|solución", "", "final|correcta|correcto|exacta", "es|son|sería"),
    Language("resposta|respostas", "resultado|solução", "", "final|correta|correto|correcta", "é|são|será"),
    Language("risposta|risposte", "risultato|soluzione", "", "finale|corretta|esatta|definitiva", "è|sono"),
    Language("antwoord|eindantwoord", "resultaat|uitkomst", "definitieve|uiteindelijke|juiste|goede", "", "is|luidt"),
    Language("svar|svaret|slutsvar", "resultat|facit", "slutliga|slutgiltiga|slutligt|rätt|korrekta", "", "är"),
    Language("svar|svaret", "resultat", "endelige|endelig|riktige|korrekte|rigtige", "", "er"),
    Language("vastaus", "tulos|ratkaisu", "lopullinen|oikea", "", "on"),
    Language("vastus", "tulemus", "lõplik|õige", "", "on"),
    Language("odpowiedź|odpowiedz", "wynik", "ostateczna|końcowa|poprawna|prawidłowa", "", "to|brzmi|wynosi|jest"),
    Language("odpověď|odpověd|odpoveď", "výsledek|výsledok", "konečná|správná|správna", "", "je|zní|znie"),
    Language("ответ|ответы", "результат|итог", "окончательный|итоговый|правильный|верный", "", "равен|это|является|—"),
    Language("відповідь", "результат", "остаточна|кінцева|правильна", "", "дорівнює|це|є|—"),
    Language("отговор|отговорът", "резултат", "окончателен|верен|краен", "", "е"),
    Language("odgovor|одговор", "rezultat|резултат", "konačni|konačan|točan|tačan|končni|коначни", "", "je|је"),
    Language("cevap|yanıt", "sonuç", "nihai|son|doğru", "", ""),
    Language("cavab", "nəticə", "son|düzgün|yekun", "", ""),
    Language("válasz", "eredmény|megoldás", "végső|végleges|helyes", "", ""),
    Language("răspuns|răspunsul|raspuns", "rezultat|rezultatul", "", "final|corect", "este|e"),
    Language("απάντηση", "αποτέλεσμα", "τελική|σωστή|τελικό", "", "είναι"),
    Language("erantzuna", "emaitza", "", "zuzena", "da"),
    Language("atsakymas", "rezultatas", "galutinis|teisingas", "", "yra"),
    Language("atbilde", "rezultāts", "galīgā|pareizā", "", "ir"),
    Language("jawaban|jawapan|jawabannya|jawapannya", "hasil", "", "akhir|yang benar|akhirnya", "adalah|ialah"),
    Language("sagot|kasagutan", "resulta", "huling|tamang", "", "ay"),
    Language("jibu", "matokeo", "", "la mwisho|sahihi", "ni"),
    Language("đáp án|đáp số|câu trả lời|trả lời", "kết quả", "", "cuối cùng|đúng|chính xác", "là"),
    Language("respondo", "rezulto", "fina|ĝusta", "", "estas"),
    Language("الإجابة|الاجابة|الجواب|إجابة|جواب", "النتيجة|الناتج", "", "النهائية|النهائي|الصحيحة|الصحيح", "هي|هو"),
    Language("پاسخ|جواب", "نتیجه|نتیجہ", "حتمی|درست", "نهایی|صحیح", "", "است|ہے"),
    Language("תשובה|התשובה", "תוצאה|התוצאה", "", "סופית|הסופית|הנכונה", "היא|הוא"),
    Language("उत्तर|जवाब", "परिणाम", "अंतिम|सही", "", "", "है|आहे"),
    Language("উত্তর", "ফলাফল", "চূড়ান্ত|সঠিক", "", "হল|হলো"),
    Language("பதில்|விடை", "", "இறுதி|சரியான"),
    Language("సమాధానం|జవాబు", "", "తుది|సరైన"),
    Language("જવાબ|ઉત્તર", "", "અંતિમ|સાચો"),
    Language("ਜਵਾਬ|ਉੱਤਰ", "", "ਅੰਤਿਮ|ਸਹੀ"),
    Language("պատասխան|պատասխանը", "", "վերջնական"),
    Language("პასუხი", "", "საბოლოო"),
    Language("жауап|жауабы", "нәтиже", "соңғы|дұрыс"),
    Language("คำตอบ", "ผลลัพธ์", "", "สุดท้าย|ที่ถูกต้อง|สุดท้ายคือ", "คือ", "", spaced=False),
    Language(  # Chinese
        "答案|答|解答|回答|正解|正确选项|正確選項",
        "结果|結果|结论|結論",
        "最终|最終|最后|最後|最终的|最後的|正确|正確|正确的|标准|标准的|参考|最简",
        "",
        "是|为|為|等于|等於|应为|应该是|应该为|就是|即为|選|选|应选",
        "",
        spaced=False,
    ),
    Language(  # Japanese
        "答え|答|解答|回答|正解",
        "結果",
        "最終的な|最終|最終の|正しい",
        "",
        "は",
        "です|でした|である|だ|となります|になります|となる|になる",
        spaced=False,
    ),
    Language(  # Korean
        "정답|답|답변|해답|최종답|최종답안",
        "결과|답",
        "최종|최종적인|올바른",
        "",
        "은|는",
        "입니다|이다|이에요|예요|임|가 됩니다|이 됩니다",
        spaced=False,
    ),
)
"""Nouns of one letter, as in Chinese, count only at the head of a line."""
ARTICLES = (
    "the|my|our|your|its|a|an|die|der|das|mein|meine|unser|la|le|les|l['’]|el|il|lo|o|as|os|het|de|den|det|mijn|az"
    "|η|το|мой|наш|ang|我的|私の|내|결국|所以|因此|故|则|那么|よって|したがって|따라서"
)
"""Words that may precede all of these at the head of a line."""
OPENINGS = (
    "so|thus|hence|therefore|finally|and|then|also|consequently|in conclusion|in summary|overall|ok|okay|well|sure"
    "|certainly|of course|absolutely|great|here is|here are|here['’]s|this is"
)

_SHADOW = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms
        **dict.fromkeys("\u3000\u00a0\u2009\u202f\u2007\u2002\u2003\u1680", " "),
        **dict.fromkeys("﹕︰∶꞉˸", ":"),
        **dict.fromkeys("│┃║❘∣¦", "|"),
        **{"﹦": "=", "꓿": "=", "‒": "–"},
    }
)


def shadow(text: str) -> str:
    """The text with full-width letters, digits and signs as plain ones at equal positions, for searching marks."""
    return text if text.isascii() else text.translate(_SHADOW)


# ------------------------------------------------------------------------------------------------- as patterns

_DECORATION = (
    r"(?:[^\w\s\\<{\"']|_|\\[\[\](),;:! ]"
    r"|\\(?:text(?:bf|it|rm|sf|tt)?|mathbf|mathrm|mathsf|emph|underline|bf|(?:sub){0,2}section|paragraph|large|Large"
    r"|noindent|item|quad|qquad|Huge|huge|LARGE)(?![A-Za-z])\*?[ \t]{0,3}\{?"
    r"|</?(?:b|strong|em|i|u|p|br|h[1-6]|div|span|mark|li|ul|ol|font|center|big|dt|dd)(?:[ \t][^<>\n]{0,80})?/?>|[ \t])"
)
"""Decoration around a label: emphasis, marks of mail and headings, emoji, LaTeX, HTML."""
HEAD = rf"^(?P<lead>{_DECORATION}{{0,16}}(?:[0-9]{{1,2}}[.)][ \t]{_DECORATION}{{0,8}})?)"
"""Matches from the beginning of a line to its label."""
GAP = (
    r"(?P<gap>[ \t]{0,9}[*_`\"'’”)\]}】〗」』»>$]{0,6}(?:</(?:b|strong|em|i|u|span|mark|font)>)?[ \t]{0,9}"
    r"(?:[(（][^()（）\n]{0,60}[)）][ \t]{0,9})?[*_`]{0,3}[ \t]{0,9})"
)
"""Matches from a label to its sign."""
_ARROWS = r"-{1,3}>|=>|→|⇒|⟶|⟹|⟼|↦|➜|➔|➡\ufe0f?|⮕|➤|▶\ufe0f?|►|▸|⇨|➝|»"
SIGN = rf"(?:::?=?|=(?!=)>?|{_ARROWS}|(?<=[ \t])[—–-]{{1,2}}(?=[ \t])|[—–](?=[^\s—–-])|\|(?!\|)|\t)"
"""Signs between a label and its value."""


class Words(NamedTuple):
    """Alternatives of regular expressions for the languages in a text."""

    nouns: str
    results: str
    line_nouns: str
    """Nouns, including those of one letter."""
    qualified: str
    """A noun or a result with a word that marks it as final."""
    verbs: str
    endings: str


def languages_in(lowered: str) -> tuple[int, ...]:
    """The languages whose nouns occur in a text in lower case: for most texts only English."""
    said = _FIRST.intersection(lowered.encode("ascii", "replace").translate(_APART).split())
    found = {place for word in said for place in _WORDS[word]}
    if not lowered.isascii():
        for letter in set(lowered).intersection(_LETTERS):
            found.update(place for noun, place in _LETTERS[letter] if noun in lowered)
    return tuple(sorted(found))


@lru_cache(maxsize=256)
def needles(languages: tuple[int, ...]) -> tuple[str, ...]:
    """The nouns and results of some languages, or a part of each, in lower case: a line without one has no label."""
    return tuple(sorted(set().union(*(_NOUNS[place] for place in languages))))


@lru_cache(maxsize=256)
def words(languages: tuple[int, ...]) -> Words:
    """The words of some languages."""
    chosen = [LANGUAGES[place] for place in languages]
    qualified = []
    for each in chosen:
        space = r"[ \t_]{1,3}" if each.spaced else r"[ \t]{0,3}"
        both = either([*_split(each.nouns), *_split(each.results)])
        if each.before:
            qualified.append(rf"(?:(?:{either(_split(each.before))}){space}){{1,3}}(?:{both})")
        if each.amounts:
            qualified.append(rf"(?:{either(_split(each.decided))}){space}(?:{either(_split(each.amounts))})")
        if each.after:
            qualified.append(rf"(?:{both}){space}(?:{either(_split(each.after))})")
    nouns = [noun for each in chosen for noun in _split(each.nouns)]
    return Words(
        either([noun for noun in nouns if len(noun) > 1]),
        either([noun for each in chosen for noun in _split(each.results)]),
        either(nouns),
        "|".join(qualified) or "(?!)",
        either([verb for each in chosen for verb in _split(each.verbs)]),
        either([ending for each in chosen for ending in _split(each.endings)]),
    )


def either(phrases: Sequence[str]) -> str:
    """An alternation with the longest phrase first; words of a phrase may be joined by a space, `_` or `-`."""
    spelt = {each for phrase in phrases for each in spellings(phrase)}
    ordered = sorted(spelt, key=lambda phrase: (-len(phrase), phrase))
    return "|".join(r"[ \t_-]{1,3}".join(map(re.escape, re.split(r"[ _]+", phrase))) for phrase in ordered) or "(?!)"


@lru_cache(maxsize=256)
def inline_label(languages: tuple[int, ...]) -> re.Pattern[str]:
    """A label anywhere in a line: `so the answer: 42`, `"answer": 42`."""
    said = words(languages)
    return re.compile(
        rf"{START}(?:{said.qualified}|{said.nouns}){END}{GAP}"
        rf"(?:(?:(?:{said.verbs})[ \t]{{0,9}})?(?:::?|(?<![=!<>])=(?![=>]))|{_ARROWS})",
        re.IGNORECASE,
    )


@lru_cache(maxsize=256)
def sentence(languages: tuple[int, ...]) -> re.Pattern[str]:
    """`the answer is 42`; the answer follows, up to the end of the sentence."""
    said = words(languages)
    article = rf"(?:{START}(?:the|our|my|your|{ARTICLES})[ \t]{{1,9}})"
    noun = rf"(?:{START}(?:{said.qualified})|{article}?{START}(?:{said.nouns}|{said.results})){END}"
    about = r"(?P<about>[ \t]{1,9}(?:to|of|for)[ \t]{1,9}(?:the|this|your|part)[^.:;!?\n]{0,60}?[ \t])?"
    return re.compile(
        rf"{noun}[*_]{{0,3}}{about}[ \t]{{0,9}}(?:{said.verbs})(?:{_BUT}|(?:(?![^\W\d_])|(?<=[^\x00-\u024f])))"
        r"(?:[ \t]{1,9}(?:thus|therefore|simply|just|then|equal to|donc|also|somit|daher))?"
        r"(?![ \t]{1,9}(?:not|wrong|incorrect|correct|right|in|unclear|unknown|as follows|obtained|given|found|the same"
        r"|nicht|falsch|richtig|pas|(?:no|não)(?=\s\w)|non|niet|не)\b):?",
        re.IGNORECASE,
    )


INLINE_SIGN = re.compile(r"[:=>→⇒⟶⟹⟼↦➜➔➡⮕➤▶►▸⇨➝»]")
"""A part of every match of `inline_label`: a search for it is much faster."""


def has_verb(line: str, languages: tuple[int, ...]) -> bool:
    """Whether a line may have a match of `sentence`: a search for the verbs in ASCII is much faster. True for a line
    with other letters."""
    return not line.isascii() or _verb(languages).search(line.lower()) is not None


@lru_cache(maxsize=256)
def _verb(languages: tuple[int, ...]) -> re.Pattern[str]:
    """The first words of the verbs of some languages, as behind a noun in ASCII."""
    verbs = {verb.split()[0] for place in languages for verb in _split(LANGUAGES[place].verbs) if verb.isascii()}
    signs = [re.escape(verb) for verb in sorted(verbs) if not verb.isalpha()]
    words = [verb for verb in sorted(verbs) if verb.isalpha()]
    return re.compile("|".join([rf"[ \t*_](?:{'|'.join(words) or '(?!)'})", *signs]))


_BUT = r"(?:n['’]t|[ \t]not)[ \t][^.,;:!?\n]{1,40}?,?[ \t]but[ \t](?:rather[ \t])?"
"""`is not 41 but`: what stands behind it is stated."""
START = r"(?:(?<!\w)|(?<=[^\x00-\u052f]))"
"""The beginning of a word; any position where words are not separated by spaces."""
END = r"(?:(?![^\W_])|(?<=[^\x00-\u052f]))"


def key(name: str) -> str:
    """A name in normalised form, for comparing tags, keys of JSON objects and cells of tables."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_\-]+", " ", plain.strip(" \t\r\n*_`:\"'#[](){}<>|.")).strip()


def _split(phrases: str) -> list[str]:
    return [phrase for phrase in phrases.split("|") if phrase]


def spellings(phrase: str) -> set[str]:
    """A phrase with composed and with decomposed accents."""
    return {phrase, unicodedata.normalize("NFC", phrase), unicodedata.normalize("NFD", phrase)}


NOUNS = frozenset(key(noun) for each in LANGUAGES for noun in _split(each.nouns))
"""Plain names of an answer, without further words."""
ANSWER_KEYS = frozenset(
    NOUNS
    | {
        key(f"{first} {second}" if each.spaced else first + second)
        for each in LANGUAGES
        for both in [_split(each.nouns) + _split(each.results)]
        for first, second in [
            *((before, noun) for before in _split(each.before) for noun in both),
            *((noun, after) for after in _split(each.after) for noun in both),
        ]
    }
)
"""All names of a tag, key or cell that holds an answer."""
_NOUNS = [
    {each for noun in _split(language.nouns) + _split(language.results) for each in spellings(noun.casefold())}
    for language in LANGUAGES
]
_NOUNS[0] = {"ans", "result", "choice", "option", "output"}  # a part of each noun: fast for the most frequent language
_NOUNS[0] |= {f"{word} " for word in _split(LANGUAGES[0].decided)}
_APART = bytes(code if chr(code).isalnum() and code < 128 else ord(" ") for code in range(256))
"""Separates the words of a text in ASCII."""


def _by_spelling() -> tuple[dict[bytes, list[int]], dict[str, list[tuple[str, int]]]]:
    """The places of languages by the first word of each noun in ASCII; the other nouns with their places, by their
    first letter that is not in ASCII."""
    words: dict[bytes, list[int]] = {}
    letters: dict[str, list[tuple[str, int]]] = {}
    for place, language in enumerate(LANGUAGES):
        for phrase in _split(language.nouns) + _split(language.results) + _split(language.amounts):
            for noun in spellings(phrase.casefold()):
                if noun.isascii():
                    words.setdefault(noun.split()[0].encode(), []).append(place)
                else:
                    letter = next(letter for letter in noun if not letter.isascii())
                    letters.setdefault(letter, []).append((noun, place))
    return words, letters


_WORDS, _LETTERS = _by_spelling()
_FIRST = frozenset(_WORDS)
