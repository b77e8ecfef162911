r"""LaTeX and typed mathematics as tokens: signs, fonts, spacing and separators of thousands are gone after this.

kind    text                                 of
num     digits, perhaps with a point         12  0.5  10,\!080
sym     one letter, or a Greek name          x  \alpha
fun     a function                           \sin  ln  \operatorname{arctan}
cmd     any other command, without its \     frac  sqrt  infty  set:R  begin:cases
rel     = != < <= > >= in notin ...          \le  ≤  <=
op      + - * / ^ _ ! ' % deg pm mp & \\ : | ,  ;
open    ( [ { \{ < floor ceil |              close  ) ] } \} > floor ceil |
text    words in upright type or in prose    \text{ cm}
join    or and if otherwise                  \text{ or }  \lor
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Unreadable(Exception):
    """Something that the grammar does not know."""


class Token(NamedTuple):
    """One token; `space` says whether white space stood before it."""

    kind: str
    text: str
    space: bool = False


GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell"
).split()  # fmt: skip
FUNCTIONS = (
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arcsinh arccosh "
    "arctanh arsinh arcosh artanh asin acos atan ln log lg exp abs sqrt cbrt max min gcd lcm floor ceil det sgn Re Im arg"
).split()  # fmt: skip
_RELATIONS = {
    **{
        "=": "=",
        "==": "=",
        ":=": "=",
        "!=": "!=",
        "<>": "!=",
        "=/=": "!=",
        "/=": "!=",
        "<": "<",
        "<=": "<=",
        "=<": "<=",
    },
    **{">": ">", ">=": ">=", "=>": "implies", "->": "to", "<->": "iff", "<=>": "iff", "~=": "approx", "~": "sim"},
}
_RELATION_COMMANDS = {
    **{
        "eq": "=",
        "ne": "!=",
        "neq": "!=",
        "lt": "<",
        "gt": ">",
        "le": "<=",
        "leq": "<=",
        "leqslant": "<=",
        "leqq": "<=",
    },
    **{"ge": ">=", "geq": ">=", "geqslant": ">=", "geqq": ">=", "in": "in", "notin": "notin", "ni": "ni"},
    **{"subset": "subset", "subseteq": "subseteq", "supset": "supset", "supseteq": "supseteq", "equiv": "equiv"},
    **{"approx": "approx", "simeq": "approx", "sim": "sim", "cong": "cong", "propto": "propto", "parallel": "parallel"},
    **{"perp": "perp", "to": "to", "rightarrow": "to", "longrightarrow": "to", "mapsto": "to", "Rightarrow": "implies"},
    **{
        "implies": "implies",
        "Longrightarrow": "implies",
        "iff": "iff",
        "Leftrightarrow": "iff",
        "ll": "<<",
        "gg": ">>",
    },
    **{"mid": "mid", "nmid": "nmid", "neg": "not", "lnot": "not", "nsubseteq": "nsubseteq", "nleq": ">", "ngeq": "<"},
}
NEGATED = {"=": "!=", "in": "notin", "<": ">=", ">": "<=", "<=": ">", ">=": "<", "equiv": "nequiv", "subset": "nsubset"}

_UNICODE = {
    **dict.fromkeys("−–—‒﹣－", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2007\u2008\u2002\u2003\u200a\u3000\t\n\r", " "),
    **dict.fromkeys("\u200b\u2060\ufeff\u2061\u2062", ""),
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
    **{"，": ",", "；": ";", "：": ":", "＝": "=", "（": "(", "）": ")", "＋": "+", "％": "%", "、": ",", "．": ".", "｜": "|"},
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": r"\div ", "⁄": "/", "∕": "/", "√": r"\root "},
    **{"∛": r"\cbrt ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge "},
    **{"≠": r"\ne ", "∈": r"\in ", "∉": r"\notin ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "±": r"\pm "},
    **{"∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ", "∘": r"\circ ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}"},
    **{"ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "∧": r"\land ", "∨": r"\lor ", "⌊": r"\lfloor "},
    **{"⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ", "⟩": r"\rangle ", "≈": r"\approx "},
    **{"≡": r"\equiv ", "→": r"\to ", "⇒": r"\implies ", "⇔": r"\iff ", "∖": r"\setminus ", "⊂": r"\subset "},
    **{"⊆": r"\subseteq ", "∣": r"\mid ", "¬": r"\neg ", "…": r"\ldots ", "⋯": r"\cdots ", "′": "'", "’": "'", "‖": r"\|"},
    **{"∑": r"\sum ", "∫": r"\int ", "∏": r"\prod ", "∠": r"\angle ", "△": r"\triangle ", "∥": r"\parallel "},
    **{"⊥": r"\perp ", "∀": r"\forall ", "∼": r"\sim ", "ℓ": r"\ell "},
    **{sign: rf"{{\frac{{{over}}}{{{under}}}}}" for sign, over, under in (
        ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5), ("⅗", 3, 5),
        ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8),
    )},
}  # fmt: skip
_UNICODE |= {
    letter: rf"\{name} "
    for letter, name in zip(
        "αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
        "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),  # fmt: skip
        strict=True,
    )
}
_TABLE = str.maketrans(_UNICODE)
_SUPER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni")
_SUB = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_MIXED_VULGAR = re.compile(r"(?<=[0-9])\s?\{(\\frac\{[0-9]\}\{[0-9]\})\}")
_SEPARATOR = (
    r"(?:\{\s?,\s?\}(?:\s?\\!)*|\{\s?,\s?\\!\s?\}|,\s?(?:\\!\s?)+|(?:\\!\s?)+,?(?:\\!)?|\\[,;: ]|\\thinspace\s?"
    r"|\\text\s?\{,\}|\{\\,\}|~|(?<=[0-9])'(?=[0-9]))\s?"
)
_SEPARATED = re.compile(rf"(?<![0-9.])[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}})+(?![0-9])")
_SPACED = re.compile(r"(?<![0-9.,] )(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?! ?[0-9/])")
_COMMAS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])(?!,[0-9])")
_REPEATING = re.compile(
    r"(?<![0-9])([0-9]{0,50})\.([0-9]{0,50})(?:\\(?:overline|bar|dot)\s?(?:\{\s?([0-9]{1,50})\s?\}|([0-9]))|\(([0-9]{1,50})\)(?![0-9]))"
)
_INTEGERS = (
    (
        re.compile(
            r"(?:\\text\s?\{\s*)?,?\s*\(?(?:where|for|with)?\s*(?:\}\s*)?\$?\s*([a-zA-Z])\$?\s*(?:\\text\s?\{)?\s*(?:is|are|being)"
            r"\s+(?:an|any|some)\s+(?:arbitrary\s+)?integer\s*\}?\)?\s*$"
        ),
        r", \1\\in\\mathbb{Z}",
    ),
    (
        re.compile(
            r"(?:\\text\s?\{)?\s*,?\s*(?:where|for|with)\s+(?:any|all|every|each|some)\s+integers?\s*\}?\s*\$?([a-zA-Z])\$?\s*$"
        ),
        r", \1\\in\\mathbb{Z}",
    ),
)
_PHRASES = {
    **dict.fromkeys(("empty set", "the empty set", "no solution", "no solutions", "no real solution"), r"\emptyset"),
    **dict.fromkeys(("no real solutions", "there is no solution", "there are no solutions"), r"\emptyset"),
    **dict.fromkeys(("all real numbers", "all reals", "all real", "any real number"), r"\mathbb{R}"),
    **dict.fromkeys(("all real x", "every real number", "the real numbers"), r"\mathbb{R}"),
    **dict.fromkeys(("all integers", "any integer", "every integer", "the integers"), r"\mathbb{Z}"),
}
PHRASES = frozenset(_PHRASES)
"""Words that are mathematics."""


def clean(text: str) -> str:
    """The text with signs, separators of thousands and phrases in one spelling."""
    text = _SUPER.sub(lambda power: "^{" + power.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _SUB.sub(lambda base: "_{" + base.group().translate(_SUBSCRIPTS) + "}", text)
    text = (
        text.translate(_TABLE)
        .replace("**", "^")
        .replace("+/-", r"\pm ")
        .replace("+-", r"\pm " if "+-" == text[:2] else "+-")
    )
    phrase = re.sub(r"\\text\s?\{([^{}]*)\}", r"\1", text).strip(" .$").lower()
    if phrase in _PHRASES:
        return _PHRASES[phrase]
    for pattern, replacement in _INTEGERS:
        text = pattern.sub(replacement, text)
    text = _MIXED_VULGAR.sub(r"\1", text)
    text = _SEPARATED.sub(lambda number: re.sub("[^0-9]", "", number.group()), text)
    text = _SPACED.sub(lambda number: number.group().replace(" ", ""), text)
    return _REPEATING.sub(_ratio, text)


def _ratio(decimal: re.Match[str]) -> str:
    whole, fixed, period = decimal[1] or "0", decimal[2], decimal[3] or decimal[4] or decimal[5]
    if decimal[5] and not (decimal[1] or decimal[2]):
        return decimal.group()
    over = int(whole + fixed + period) - int(whole + fixed)
    return rf"{{\frac{{{over}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}}}"


_LEX = re.compile(
    r"(?P<space>\s+)|(?P<cmd>\\[A-Za-z]+\*?)|(?P<esc>\\.)|(?P<num>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE](?:\+?[0-9]+|-0[0-9])(?![0-9A-Za-z^]))?)(?:\.(?![0-9.]))?"
    r"|(?P<word>[A-Za-z]+)|(?P<rel>=/=|<=>|<->|=>|->|<=|=<|>=|!=(?!=)|<>|:=|/=|==|~=|[=<>~])|(?P<dots>\.\.\.+)|(?P<op>.)",
    re.S,
)
_SKIPPED = (
    frozenset(
        "displaystyle textstyle scriptstyle limits nolimits quad qquad thinspace medspace thickspace big Big bigg Bigg bigl bigr "
        "Bigl Bigr biggl biggr Biggl Biggr bigm hfill hline allowbreak nobreak rm bf it sf mathstrut strut cr".split()  # fmt: skip
    )
    - {"cr"}
)
_FONTS = frozenset(
    "text textbf textit textrm textnormal textup textsf mathrm mathbf mathit mathsf mbox operatorname boldsymbol bm hbox "
    "mathop emph mathbb mathds mathcal mathscr Bbb".split()  # fmt: skip
)
_WRAPPERS = frozenset("boxed fbox underline mathord mathbin mathopen mathclose mathinner ensuremath".split())
_CONNECTORS = {
    **{"or": "or", "and": "and", "oder": "or", "und": "and", "ou": "or", "et": "and", "if": "if", "for": "if"},
    **{"when": "if", "where": "if", "with": "if", "while": "if", "otherwise": "otherwise", "else": "otherwise"},
    **{"elsewhere": "otherwise", "for all": "if", "if and only if": "if", "such that": "if", "as": "as"},
}
_OPENERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "<": ">", "floor": "floor", "ceil": "ceil", "|": "|"}


def tokenise(text: str) -> list[Token]:
    """The tokens of a cleaned text. Raises Unreadable."""
    found = _Lexer(text).run()
    return _merged(found)


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text, self.place, self.space = text, 0, False
        self.tokens: list[Token] = []

    def run(self) -> list[Token]:
        while self.place < len(self.text):
            match = _LEX.match(self.text, self.place)
            assert match is not None
            self.place = match.end()
            kind, piece = str(match.lastgroup), match.group()
            if kind == "space":
                self.space = True
            elif kind == "cmd":
                self.command(piece[1:].rstrip("*"))
            elif kind == "esc":
                self.escaped(piece[1])
            elif kind == "num":
                self.add("num", match["num"])
            elif kind == "word":
                self.word(piece)
            elif kind == "rel":
                self.add("rel", _RELATIONS[piece])
            elif kind == "dots":
                raise Unreadable("...")
            else:
                self.sign(piece)
        return self.tokens

    def add(self, kind: str, text: str) -> None:
        self.tokens.append(Token(kind, text, self.space))
        self.space = False

    def sign(self, sign: str) -> None:
        if sign in "([{":
            self.add("open", sign)
        elif sign in ")]}":
            self.add("close", sign)
        elif sign in "+-*/^_!'%&:|,;":
            self.add("op", sign)
        elif sign in "$":
            self.space = True
        elif sign != "." or self.place < len(self.text):
            raise Unreadable(sign)

    def escaped(self, sign: str) -> None:
        if sign in ",;:! ()[]$/":
            self.space = True
        elif sign == "\\":
            self.add("op", "\\\\")
        elif sign == "{":
            self.add("open", "\\{")
        elif sign == "}":
            self.add("close", "\\}")
        elif sign == "%":
            self.add("op", "%")
        elif sign == "&":
            self.add("join", "and")
        else:
            raise Unreadable(f"\\{sign}")

    def group(self) -> str:
        """The raw content of the braces that come next, or the next sign or command."""
        text = self.text
        while self.place < len(text) and text[self.place].isspace():
            self.place += 1
        if self.place >= len(text):
            raise Unreadable("an end where a group should be")
        if text[self.place] != "{":
            match = _LEX.match(text, self.place)
            assert match is not None
            piece = match.group() if match.lastgroup == "cmd" else text[self.place]
            self.place += len(piece)
            return piece
        depth, start = 0, self.place + 1
        for place in range(self.place, len(text)):
            if text[place] in "{}" and text[place - 1] != "\\":
                depth += 1 if text[place] == "{" else -1
                if depth == 0:
                    self.place = place + 1
                    return text[start:place]
        raise Unreadable("a brace that does not close")

    def inline(self, text: str) -> None:
        """Read a piece of text as if it stood here."""
        self.text = text + " " + self.text[self.place :]
        self.place = 0

    def command(self, name: str) -> None:
        if name in _SKIPPED:
            self.space = True
        elif name in ("dfrac", "tfrac", "cfrac", "frac"):
            self.add("cmd", "frac")
        elif name in ("dbinom", "tbinom", "binom"):
            self.add("cmd", "binom")
        elif name in ("left", "right", "middle", "mleft", "mright"):
            self.delimiter(name)
        elif name in _FONTS:
            self.font(name, self.group())
        elif name in _WRAPPERS:
            content = self.group()
            self.inline(f"{{{content}}}")
        elif name in ("textcolor", "colorbox"):
            self.group()
            self.inline(f"{{{self.group()}}}")
        elif name in ("color", "hspace", "vspace", "phantom", "hphantom", "tag", "label"):
            self.group()
        elif name in ("begin", "end"):
            self.environment(name, self.group().strip().rstrip("*"))
        elif name in _RELATION_COMMANDS:
            self.add("rel", _RELATION_COMMANDS[name])
        elif name == "not":
            self.add("rel", "not")
        elif name in GREEK:
            self.add("sym", name)
        elif name in FUNCTIONS and name not in ("sqrt", "cbrt", "abs"):
            self.add("fun", name)
        else:
            self.named(name)

    def named(self, name: str) -> None:
        simple = {
            **{"lor": ("join", "or"), "vee": ("join", "or"), "land": ("join", "and"), "wedge": ("join", "and")},
            **{"cdot": ("op", "*"), "times": ("op", "*"), "ast": ("op", "*"), "div": ("op", "/"), "pm": ("op", "pm")},
            **{"mp": ("op", "mp"), "lbrace": ("open", "\\{"), "rbrace": ("close", "\\}"), "langle": ("open", "<")},
            **{"rangle": ("close", ">"), "lfloor": ("open", "floor"), "rfloor": ("close", "floor")},
            **{"lceil": ("open", "ceil"), "rceil": ("close", "ceil"), "lvert": ("open", "|"), "rvert": ("close", "|")},
            **{"vert": ("op", "|"), "lbrack": ("open", "["), "rbrack": ("close", "]"), "lparen": ("open", "(")},
            **{"rparen": ("close", ")"), "prime": ("op", "'"), "degree": ("op", "deg"), "percent": ("op", "%")},
            **{"cup": ("cmd", "cup"), "bigcup": ("cmd", "cup"), "cap": ("cmd", "cap"), "setminus": ("cmd", "minus")},
            **{"smallsetminus": ("cmd", "minus"), "backslash": ("cmd", "minus"), "emptyset": ("cmd", "set:empty")},
            **{
                "varnothing": ("cmd", "set:empty"),
                "infty": ("cmd", "infty"),
                "pi": ("cmd", "pi"),
                "imath": ("sym", "i"),
            },
            **{"colon": ("op", ":"), "R": ("cmd", "set:R"), "Z": ("cmd", "set:Z"), "N": ("cmd", "set:N")},
            **{"Q": ("cmd", "set:Q"), "C": ("cmd", "set:C"), "reals": ("cmd", "set:R"), "forall": ("join", "if")},
            **{"newline": ("op", "\\\\"), "cr": ("op", "\\\\"), "euro": ("op", "$"), "pounds": ("op", "$")},
        }
        if name in simple:
            kind, text = simple[name]
            if text == "$":
                self.space = True
            else:
                self.add(kind, text)
        elif name in ("pmod", "bmod", "mod", "pod"):
            self.add("cmd", name if name != "pod" else "pmod")
        elif name in ("sqrt", "root", "cbrt", "sum", "prod", "int", "lim", "circ", "angle", "triangle", "choose"):
            self.add("cmd", name)
        elif name in ("overline", "bar", "hat", "vec", "tilde", "dot", "ddot", "overrightarrow", "widehat", "overset"):
            if name == "overset":
                raise Unreadable(name)
            self.add("cmd", f"over:{name}")
        else:
            raise Unreadable(f"\\{name}")

    def delimiter(self, side: str) -> None:
        text = self.text[self.place :].lstrip()
        self.place = len(self.text) - len(text)
        match = re.match(r"\\[A-Za-z]+|\\.|.", text)
        if match is None:
            raise Unreadable(side)
        self.place += match.end()
        sign, opens = match.group(), side in ("left", "mleft")
        kinds = {"|": "|", "\\vert": "|", "\\lvert": "|", "\\rvert": "|"}
        if sign == ".":
            self.space = True
        elif side == "middle":
            self.add("op", "|")
        elif sign in kinds:
            self.add("open" if opens else "close", "|")
        elif sign.startswith("\\") and sign[1:].isalpha():
            self.command(sign[1:])
        elif sign.startswith("\\"):
            self.escaped(sign[1])
        elif sign in "<>":
            self.add("open" if opens else "close", sign)
        else:
            self.sign(sign)

    def environment(self, side: str, name: str) -> None:
        if name in ("aligned", "align", "split", "gathered", "gather", "equation", "displaymath", "math", "center"):
            self.space = True
            return
        if side == "begin" and name in ("array", "tabular"):
            self.group()
        self.add("open" if side == "begin" else "close", f"env:{'array' if name == 'tabular' else name}")

    def font(self, name: str, content: str) -> None:
        plain = content.strip()
        if name in ("mathbb", "mathds", "Bbb") or (name in ("mathbf", "bm", "boldsymbol") and plain in tuple("RZNQC")):
            if plain[:1] not in "RZNQC" or len(plain) != 1:
                raise Unreadable(content)
            self.add("cmd", f"set:{plain}")
            return
        if name in ("text", "textbf", "textit", "textrm", "textnormal", "textup", "textsf", "mbox", "hbox", "emph"):
            self.prose(content)
            return
        if plain in FUNCTIONS:
            self.word(plain)
        elif plain.lower() in _CONNECTORS:
            self.add("join", _CONNECTORS[plain.lower()])
        elif len(plain) == 1 and plain.isalpha():
            self.add("text" if name == "mathrm" and plain in "mghsl" else "sym", plain)
        elif name in ("mathbf", "mathit", "boldsymbol", "bm", "mathsf", "mathcal", "mathscr"):
            self.inline(f"{{{content}}}")
        elif re.fullmatch(r"[A-Za-z][A-Za-z/. ]*", plain):
            self.add("text", plain)
        else:
            self.inline(f"{{{content}}}")

    def prose(self, content: str) -> None:
        plain = " ".join(content.split())
        bare = plain.strip(" ,.:;()").lower()
        if not plain.strip(" "):
            self.space = True
        elif bare in _CONNECTORS:
            self.add("join", _CONNECTORS[bare])
        elif plain.strip(" ") in (",", ";", ".", ":"):
            self.sign(plain.strip(" ")) if plain.strip(" ") != "." else None
        elif not re.search(r"[A-Za-z]", plain) or "$" in plain:
            self.inline(content.replace("$", " "))
        else:
            self.add("text", plain)

    def word(self, word: str) -> None:
        lower = word.lower()
        if lower in _CONNECTORS and (len(word) > 2 or lower == word) and lower not in ("as", "ou", "et", "und"):
            self.add("join", _CONNECTORS[lower])
        elif word == "mod":
            self.add("cmd", "mod")
        elif word == "in" and self.space and self.text[self.place : self.place + 1].isspace():
            self.add("rel", "in")
        elif word in ("not", "Not", "NOT"):
            self.add("rel", "not")
        elif word in ("sqrt", "cbrt"):
            self.add("cmd", word)
        elif word in FUNCTIONS:
            self.add("fun", word)
        elif word in ("pi", "Pi", "PI"):
            self.add("cmd", "pi")
        elif word in ("inf", "infinity", "oo", "infty", "Infinity"):
            self.add("cmd", "infty")
        elif word in GREEK and len(word) > 2:
            self.add("sym", word)
        elif word == "emptyset":
            self.add("cmd", "set:empty")
        elif len(word) <= 3 or word.isupper():
            if word.startswith("pi") and len(word) == 3:
                self.add("cmd", "pi")
                word = word[2:]
            for letter in word:
                self.add("sym", letter)
        elif (function := next((name for name in _GLUED_FUNCTIONS if word.startswith(name)), None)) and len(word) - len(
            function
        ) <= 2:  # sinx
            self.add("fun", function)
            for letter in word[len(function) :]:
                self.add("sym", letter)
        else:
            self.add("text", word)


_GLUED_FUNCTIONS = ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp")


def _merged(tokens: list[Token]) -> list[Token]:
    """Thousands behind plain commas, where no list is open; negated relations; `^\\circ`; words that follow each other."""
    out: list[Token] = []
    lists = 0
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.kind == "open" and token.text in ("(", "[", "\\{", "<"):
            lists += 1
        elif token.kind == "close" and token.text in (")", "]", "\\}", ">"):
            lists -= 1
        if token.kind == "num" and lists <= 0 and token.text.isdigit() and 1 <= len(token.text) <= 3:
            run = place
            digits = token.text
            while (
                run + 2 < len(tokens)
                and tokens[run + 1][:2] == ("op", ",")
                and not tokens[run + 1].space
                and tokens[run + 2].kind == "num"
                and not tokens[run + 2].space
                and re.fullmatch(r"[0-9]{3}(\.[0-9]+)?", tokens[run + 2].text)
                and "." not in digits
            ):
                digits += tokens[run + 2].text
                run += 2
            goes_on = run + 2 < len(tokens) and tokens[run + 1][:2] == ("op", ",") and not tokens[run + 1].space
            if run > place and not (goes_on and tokens[run + 2].kind == "num") and not token.text.startswith("0"):
                before = out[-1] if out else None
                listed = before is not None and before[:2] == ("op", ",") and not token.space
                if not listed:
                    out.append(Token("num", digits, token.space))
                    place = run + 1
                    continue
        if token[:2] == ("rel", "not") and place + 1 < len(tokens) and tokens[place + 1].kind == "rel":
            following = NEGATED.get(tokens[place + 1].text)
            if following is None:
                raise Unreadable("not")
            out.append(Token("rel", following, token.space))
            place += 2
            continue
        if token[:2] == ("op", "^"):
            rest = [one[:2] for one in tokens[place + 1 : place + 4]]
            if rest[:1] == [("cmd", "circ")]:
                out.append(Token("op", "deg", token.space))
                place += 2
                continue
            if rest[:1] == [("op", "'")]:
                place += 1
                continue
            if rest[:2] == [("open", "{"), ("op", "'")]:
                end = place + 2
                while tokens[end][:2] == ("op", "'"):
                    out.append(tokens[end])
                    end += 1
                if tokens[end][:2] != ("close", "}"):
                    raise Unreadable("a prime")
                place = end + 1
                continue
            if rest[:1] == [("op", "deg")]:
                place += 1
                continue
            if rest == [("open", "{"), ("cmd", "circ"), ("close", "}")]:
                out.append(Token("op", "deg", token.space))
                place += 4
                continue
        if token.kind == "text" and out and out[-1].kind == "text":
            out[-1] = Token("text", f"{out[-1].text} {token.text}", out[-1].space)
            place += 1
            continue
        out.append(token)
        place += 1
    return out


def matching(tokens: list[Token]) -> dict[int, int]:
    """Where each bracket closes. Brackets of intervals may differ (`[0, 1)`, `]0, 1[`). Raises Unreadable."""
    pairs: dict[int, int] = {}
    stack: list[tuple[int, str, bool]] = []
    for place, token in enumerate(tokens):
        if token[:2] == ("op", ",") or token[:2] == ("op", ";"):
            if stack:
                stack[-1] = (*stack[-1][:2], True)
        elif token.kind == "open":
            if token.text == "[" and stack and stack[-1][1] == "]" and stack[-1][2]:  # ]0, 1[
                pairs[stack.pop()[0]] = place
            else:
                stack.append((place, token.text, False))
        elif token.kind == "close":
            if token.text == "]" and (not stack or stack[-1][1] not in ("(", "[", "]")):
                stack.append((place, "]", False))
                continue
            if not stack:
                raise Unreadable(f"{token.text} closes nothing")
            start, opened, _ = stack.pop()
            loose = opened in ("(", "[", "]") and token.text in (")", "]")
            if not (loose or token.text == _OPENERS.get(opened, opened)):
                raise Unreadable(f"{opened} ... {token.text}")
            pairs[start] = place
    if stack:
        raise Unreadable(f"{stack[-1][1]} does not close")
    return pairs


def split(tokens: list[Token], kind: str, *texts: str) -> tuple[list[list[Token]], list[Token]]:
    """The pieces between certain tokens outside of all brackets, and those tokens."""
    pairs = matching(tokens)
    pieces: list[list[Token]] = [[]]
    found: list[Token] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if place in pairs:
            pieces[-1] += tokens[place : pairs[place] + 1]
            place = pairs[place] + 1
            continue
        if token.kind == kind and (not texts or token.text in texts):
            pieces.append([])
            found.append(token)
        else:
            pieces[-1].append(token)
        place += 1
    return pieces, found
