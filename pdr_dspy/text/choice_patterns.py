"""Patterns of what is said around an option: letters, reasons, rejections, statements, conclusions."""

from __future__ import annotations

import re

from pdr_dspy.text.signal_words import REASONS, TURNS

WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname)\s?\{([^{}]*)\}"
)
SPACES = re.compile(r"\s+")
TAG = re.compile(
    r"(?:(?:the |my )?(?:option|choice|answer|letter|variant)\s{0,3}(?:is\s)?)?[(\[{]?([A-Za-z]|[0-9]{1,2})"
    r"(?:[)\]}][.:]?|[.:](?![0-9.])|$|\s(?=[-–—=]\s))\s{0,9}(?:[-–—=]\s{1,3})?(.*)",
    re.I | re.S,
)
REJECTS = re.compile(
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
REASON = re.compile(  # may follow the chosen option; the rest is its reason
    rf"(?:,|;|:|\.|\s[-–—])?\s*\(?(?:{REASONS}|for (?:the|it|this)|due to|owing to|given|considering"
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
TAKEN_BACK = re.compile(
    rf"\b(?:{TURNS}|no,|let me (?:re|check)"
    r"|i (?:was|am) wrong"
    r"|my mistake|changed? my mind|could also|also possible|equally|also (?:correct|right|works|fits)|too\b|unsure"
    r"|not sure|both|answer is|i choose|or maybe)",
    re.I,
)
STATED = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|well)[, ]\s*)?(?:the\s)?(?:(?:correct|right|best|final|my)\s)*"
    r"(?:answer|option|choice|letter|one)(?:\sis|\swould be|\smust be|:)\s*(?:option\s|choice\s|letter\s)?"
    r"|(?:i\s(?:choose|pick|select|say|prefer|would (?:choose|pick|say|prefer|go with)|go with|think it is"
    r"|think it's|believe it is)"
    r"|it is"
    r"|(?:the\s|my\s)?(?:option|choice|letter|answer)|it's|it must be|must be"
    r"|definitely|clearly|probably)\s(?:option\s|choice\s|letter\s)?",
    re.I,
)
PRONOUN = re.compile(
    r"\s(?:am|was|have|had|think|thought|believe|guess|say|said|would|will|choose|chose|pick|select|go|went"
    r"|know|see|can"
    r"|could|should|must|do|did|get|got|find|found|feel|suppose|assume|conclude|prefer|vote|want|need|don['’]t"
    r"|cannot)\b"
    r"|['’](?:d|ll|m|ve)\b"
)
ARTICLE = re.compile(
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
STATING = re.compile(  # directly before an option stated by a sentence
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
STATED_BEHIND = re.compile(  # directly after such an option
    rf"""["'”’*_`$)\]]*(?:,?\s*(?:i\s(?:think|guess|believe|suppose|would\ssay) | it\sis(?:\s*[.!]?$)
    | (?:is|was|ist|est|es|é|è|är|er|jest|would\sbe|must\sbe|has\sto\sbe|should\sbe|seems|looks
      |appears)\s(?:to\sbe\s)?{_PREDICATE}
      (?!\s(?:but|if|unless|only\sif|or|than))
    | (?:wins|works|fits|holds|stands|remains|follows|matches)\b(?!\s(?:but|if|unless|only))
    | (?:only|alone|obviously|of\scourse|clearly|definitely|certainly|for\ssure|naturally|evidently|surely)\s*[.!]?$)
    | \s*です | \s*だ | \s*が正 | \s*正确 | \s*正確 | \s*是(?:正确|对|對) | \s*입니다 | \s*이다)""",
    re.I | re.X,
)
OTHERS = re.compile(
    r"\b(?:some|others?|many|people|they|users?|students?|one (?:could|might|may)|could|might|may|maybe|perhaps"
    r"|possibly"
    r"|partly|partially|half|almost|nearly|changed|swap|wrongly|mistakenly|tempting|naive|second|third|runner|previous"
    r"|first|last|longest|shortest|earlier|former|usual|typical|initial|original|popular|distractor|other|next"
    r"|everything"
    r"|nothing"
    r"|along with|together with|up to|beside)\b",
    re.I,
)
EMPHASIS = re.compile(
    r",?\s(?:hands down|(?:no|without|beyond)(?: an?| any)?(?: reasonable)? (?:doubt|question)(?: about it)?"
    r"|and nothing else)(?=[.!]?$)|^(?:nothing but|(?:no|none) other than)\s(?=\S+$)",
    re.I,
)
RATHER = re.compile(r"^(?:rather|sooner) (\S.{0,60}?) than (\S.{0,60})$", re.I)
BULLET = re.compile(r"^\s*[-–•·*]\s+")
MODIFIED = re.compile(
    r"(?<!\w)(?:less|more|dark|light|pale|bright|deep|semi|almost|nearly|partly|partially|half|slightly|barely"
    r"|pseudo|non"
    r"|anti|un|quasi|sub|super)[ -]$",
    re.I,
)
LOWER_CASE = re.compile(r"\b(?:option|choice|letter|answer|choose|pick|select|is|it['’]s)[\s:(\[\"']*$", re.I)
REMARK = re.compile(r"[\"”*_`$)\]]*(?:\s*\([^()]*\))?[.!]?\s*$")
CONCLUSION = re.compile(
    r"(?:^|[,;.:!—–-]|\s)\s*(?<!not )(?<!also )(?<!or )(?:(?:and\s)?so|thus|hence|therefore|consequently"
    r"|(?:which\s|that\s)?leaves(?:\s(?:us|only))?"
    r"|leaving(?:\s(?:us|only))?)\s*[,:]?\s+(?:(?:with|only)\s)?",
    re.I,
)
HOLDS = re.compile(
    r"\s+(?:is|must be)\s+(?:the\s)?(?:correct|right|best|true|answer)(?:\s(?:answer|option|choice|one))?", re.I
)
