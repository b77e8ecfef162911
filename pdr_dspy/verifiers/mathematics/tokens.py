r"""Tokenises LaTeX and typed mathematics; normalises signs, fonts, spacing and thousands separators.

kind    text                                 of
num     digits, perhaps with a point         12  0.5  10,\!080
sym     one letter, or a Greek name          x  \alpha
fun     a function                           \sin  ln  \operatorname{arctan}
cmd     any other command, without its \     frac  sqrt  infty  set:R  begin:cases
rel     = != < <= > >= in notin ...          \le  ≤  <=
op      + - * / ^ _ ! ' % deg pm mp & \\ : | ,  ;
open    ( [ { \{ < floor ceil |              close  ) ] } \} > floor ceil |
text    words in upright type or in prose    \text{ cm}
join    or and if otherwise                  \text{ or }
logic   or and not xor                       \lor  \neg
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pdr_dspy.verifiers.mathematics import vocabulary


class Unreadable(Exception):
    """Text outside of the grammar."""


class Token(NamedTuple):
    """One token; `space` tells whether white space preceded it."""

    kind: str
    text: str
    space: bool = False
    bold: bool = False
    """Whether it is a letter in bold type."""


_TABLE = str.maketrans(vocabulary.UNICODE)
_SUPER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni")
_SUB = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_MIXED_VULGAR = re.compile(r"(?<=[0-9])\s?\{(\\frac\{[0-9]\}\{[0-9]\})\}")
_SEPARATOR = (
    r"(?:,\s?\{\s?\}|\{\s?\},"
    r"|\{\s?,\s?\}(?:\s?\\!)*|\{\s?,\s?\\!\s?\}|,\s?(?:\\!\s?)+|(?:\\!\s?)+,?(?:\\!)?|\\[,;: ]|\\thinspace\s?"
    r"|\\text\s?\{,\}|\{\\,\}|~|(?<=[0-9])'(?=[0-9]))\s?"
)
_SEPARATED = re.compile(rf"(?<![0-9.])[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}})+(?![0-9])")
_SPACED = re.compile(r"(?<![0-9.,] )(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?! ?[0-9/])")
_COMMAS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])(?!,[0-9])")
_UNDERSCORED = re.compile(r"(?<![0-9A-Za-z_.\\])[0-9]{1,3}(?:_[0-9]{3}){2,}(?![0-9A-Za-z_])")
_ENDLESS = re.compile(
    r"(?<![0-9])([0-9]{0,50})\.([0-9]{3,200})\s?(?:\.\.\.+|…|\\[lc]?dots(?![A-Za-z]))\s*(?=[$}\s).,;]*$)"
)
_PERIOD = re.compile(r"([0-9]*?)([0-9]{1,30}?)(\2{2,}|(?<=[0-9]{3})\2)")
_COMBINATIONS = re.compile(
    r"(?<![A-Za-z0-9)}\]])(?:\{\s?\})?[_^]\s?(?:\{([0-9]{1,6}|[a-z])\}|([0-9]|[a-z]))\s?(?:\\mathrm\s?\{C\}|C)\s?_\s?"
    r"(?:\{([0-9]{1,6}|[a-z])\}|([0-9]|[a-z]))"
)
_REPEATING = re.compile(
    r"(?<![0-9])([0-9]{0,50})\.([0-9]{0,50})(?:\\(?:overline|bar|dot)\s?(?:\{\s?([0-9]{1,50})\s?\}|([0-9]))"
    r"|\(([0-9]{1,50})\)(?![0-9]))"
)
_INTEGERS = (
    (
        re.compile(
            r"(?:\\text\s?\{\s*)?,?\s*\(?(?:where|for"
            r"|with)?\s*(?:\}\s*)?\$?\s*([a-zA-Z])\$?\s*(?:\\text\s?\{)?\s*(?:is|are|being)"
            r"\s+(?:an|any|some)\s+(?:arbitrary\s+)?integer\s*\}?\)?\s*$"
        ),
        r", \1\\in\\mathbb{Z}",
    ),
    (
        re.compile(
            r"(?:\\text\s?\{)?\s*,?\s*(?:where|for|with)\s+(?:any|all|every|each"
            r"|some)\s+integers?\s*\}?\s*\$?([a-zA-Z])\$?\s*$"
        ),
        r", \1\\in\\mathbb{Z}",
    ),
)


_HALF_OF_DAY = re.compile(
    r"(?:(?<=:[0-9]{2})\s*|(?<=[0-9])(?:\s|~|\\[,;: ])+|(?<=[0-9])(?=[AP]M)|(?<=[0-9])\s*(?=[AaPp]\.))"
    r"([AaPp])(?:\.\s?|(?=[Mm]))[Mm](?![A-Za-z0-9_^{])\.?"
)
"""`6 pm`, `6:00PM`, `6 p.m.`"""
_IN_WORDS = (
    (re.compile(r"(?<=[0-9])\s+B\.?\s?C\.?(?:\s?E\.?)?\s*$"), r"\\text{ BC}"),
    (re.compile(r"(?<=[0-9])\s+A\.?\s?D\.?\s*$"), r"\\text{ AD}"),
    (  # 20 °C, 5 °N
        re.compile(
            r"(\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree)\s*(?:\\mathrm\s?\{\s?([CFKNSEW])\s?\}|([CFKNSEW]))(?![A-Za-z0-9_^])"
        ),
        r"\1\\text{\2\3}",
    ),
    (  # a system after one brace
        re.compile(
            r"\\left\s?\\\{\s*\\begin\s?\{(array|aligned|matrix)\}(?:\s?\{[lcr| ]*\})?(.*?)"
            r"\\end\s?\{\1\}\s*\\right\s?\.?\s*$",
            re.S,
        ),
        r"\\begin{cases}\2\\end{cases}",
    ),
    (
        re.compile(
            r"(?<![0-9A-Za-z_.])([0-9A-Z]*[0-9][0-9A-Z]*)\s*(?:\\text\s?\{)?\s*\(?(?:in )?base[ -]?"
            r"([0-9]{1,2}|[a-z]{3,8})\)?\s*\}?\s*$"
        ),
        r"\1_{\\text{\2}}",
    ),
    (
        re.compile(
            r"^\s*(?:\\text\s?\{)?\s*(?:all|any|every) real (?:numbers?"
            r"|x) except(?: for)?\s*\}?\s*([(\[][^{}]+,[^{}]+[)\]])"
            r"\s*\}?\s*$"
        ),
        r"\\mathbb{R} \\setminus \1",
    ),
    (
        re.compile(
            r"^\s*(?:\\text\s?\{)?\s*(?:all|any|every) real (?:numbers?|x) except(?: for)?\s*\}?\s*([^{}]+?)"
            r"\s*\}?\s*$"
        ),
        r"\\mathbb{R} \\setminus \\{\1\\}",
    ),
)


def clean(text: str) -> str:
    """The text with uniform signs, thousands separators and phrases."""
    text = _SUPER.sub(lambda power: "^{" + power.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _SUB.sub(lambda base: "_{" + base.group().translate(_SUBSCRIPTS) + "}", text)
    text = _ENDLESS.sub(_infinite, text)
    text = text.translate(_TABLE).replace("**", "^").replace("+/-", r"\pm ").replace("+-", r"\pm ").replace("{:}", ":")
    phrase = re.sub(r"\\text\s?\{([^{}]*)\}", r"\1", text).strip(" .$").lower()
    if phrase in vocabulary.PHRASES:
        return vocabulary.PHRASES[phrase]
    for pattern, replacement in (*_INTEGERS, *_IN_WORDS):
        text = pattern.sub(replacement, text)
    text = _HALF_OF_DAY.sub(lambda half: rf"\text{{ {half[1].lower()}m}}", text)
    text = _UNDERSCORED.sub(lambda number: number.group().replace("_", ""), text)
    text = _COMBINATIONS.sub(lambda c: rf"\binom{{{c[1] or c[2]}}}{{{c[3] or c[4]}}}", text)
    text = _MIXED_VULGAR.sub(r"\1", text)
    text = _SEPARATED.sub(lambda number: re.sub("[^0-9]", "", number.group()), text)
    text = _SPACED.sub(lambda number: number.group().replace(" ", ""), text)
    return _REPEATING.sub(_ratio, text)


def _infinite(decimal: re.Match[str]) -> str:
    r"""`0.333...` as `0.\overline{3}`; digits that do not repeat (`3.14159...`) as the written decimal."""
    whole, digits = decimal[1] or "0", decimal[2]
    if period := _PERIOD.fullmatch(digits):
        return rf"{whole}.{period[1]}\overline{{{period[2]}}}"
    return f"{whole}.{digits}"


def _ratio(decimal: re.Match[str]) -> str:
    whole, fixed, period = decimal[1] or "0", decimal[2], decimal[3] or decimal[4] or decimal[5]
    if decimal[5] and not (decimal[1] or decimal[2]):
        return decimal.group()
    over = int(whole + fixed + period) - int(whole + fixed)
    return rf"{{\frac{{{over}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}}}"


_LEX = re.compile(
    r"(?P<space>\s+)|(?P<cmd>\\[A-Za-z]+\*?)|(?P<esc>\\.)|"
    r"(?P<num>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE](?:\+?[0-9]+|-0[0-9])(?![0-9A-Za-z^]))?)(?:\.(?![0-9.]))?"
    r"|(?P<word>[A-Za-z]+)|(?P<rel>=/=|<=>|<->|=>|->|<=|=<|>=|!=(?!=)|<>|:=|/=|==|~=|[=<>~])|(?P<dots>\.\.\.+)"
    r"|(?P<op>.)",
    re.S,
)


def tokenise(text: str) -> list[Token]:
    """The tokens of a cleaned text; those with connectives of logic as they are, for `logic`. Raises Unreadable."""
    found = _Lexer(text).run()
    return found if any(token.kind == "logic" for token in found) else merged(found)


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
                self.add("rel", vocabulary.RELATIONS[piece])
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
        listed = bool(self.tokens) and self.tokens[-1][:2] == ("op", ",")
        if sign in ",;:!" and listed and _DIGITS.match(self.text, self.place):
            return  # `15,\,625`
        if sign in ",;:! ()[]/":
            self.space = True
        elif sign == "$":
            self.add("text", "$")
        elif sign == "\\":
            self.add("op", "\\\\")
        elif sign == "{":
            self.add("open", "\\{")
        elif sign == "}":
            self.add("close", "\\}")
        elif sign == "%":
            self.add("op", "%")
        elif sign == "&":
            self.add("logic", "and")
        else:
            raise Unreadable(f"\\{sign}")

    def group(self) -> str:
        """The raw content of the next braces, or the next sign or command."""
        text = self.text
        while self.place < len(text) and text[self.place].isspace():
            self.place += 1
        if self.place >= len(text):
            raise Unreadable("a missing group at the end")
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
        raise Unreadable("an unclosed brace")

    def inline(self, text: str) -> None:
        """Tokenise a text at this position."""
        self.text = text + " " + self.text[self.place :]
        self.place = 0

    def command(self, name: str) -> None:
        if name in vocabulary.SKIPPED:
            self.space = True
        elif name in ("dfrac", "tfrac", "cfrac", "frac"):
            self.add("cmd", "frac")
        elif name in ("dbinom", "tbinom", "binom"):
            self.add("cmd", "binom")
        elif name in ("left", "right", "middle", "mleft", "mright"):
            self.delimiter(name)
        elif name in vocabulary.FONTS:
            self.font(name, self.group())
        elif name in vocabulary.WRAPPERS:
            content = self.group()
            self.inline(f"{{{content}}}")
        elif name in ("textcolor", "colorbox"):
            self.group()
            self.inline(f"{{{self.group()}}}")
        elif name in ("color", "hspace", "vspace", "phantom", "hphantom", "tag", "label"):
            self.group()
        elif name in ("begin", "end"):
            self.environment(name, self.group().strip().rstrip("*"))
        elif name in vocabulary.RELATION_COMMANDS:
            self.add("rel", vocabulary.RELATION_COMMANDS[name])
        elif name == "not":
            self.add("rel", "not")
        elif name in vocabulary.GREEK:
            self.add("sym", name)
        elif name in vocabulary.FUNCTIONS and name not in ("sqrt", "cbrt", "abs"):
            self.add("fun", name)
        else:
            self.named(name)

    def named(self, name: str) -> None:
        if name in vocabulary.COMMANDS:
            self.add(*vocabulary.COMMANDS[name])
        elif name in ("euro", "pounds"):
            self.add("text", "€" if name == "euro" else "£")
        elif name in vocabulary.DECORATIONS:
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
        if name in vocabulary.ALIGNMENTS:
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
        if name in vocabulary.PROSE:
            self.prose(content)
            return
        if plain in vocabulary.FUNCTIONS:
            self.word(plain)
        elif plain.lower() in vocabulary.CONNECTORS:
            self.add("join", vocabulary.CONNECTORS[plain.lower()])
        elif len(plain) == 1 and plain.isalpha():
            self.add("text" if name == "mathrm" and plain in "mghsl" else "sym", plain)
            if name in ("mathbf", "boldsymbol", "bm"):
                self.tokens[-1] = self.tokens[-1]._replace(bold=True)
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
        elif plain in vocabulary.FUNCTIONS and self.text[self.place :].lstrip().startswith("("):
            self.word(plain)
        elif bare in vocabulary.CONNECTORS:
            self.add("join", vocabulary.CONNECTORS[bare])
        elif plain.strip(" ") in (",", ";", ".", ":"):
            self.sign(plain.strip(" ")) if plain.strip(" ") != "." else None
        elif not re.search(r"[A-Za-z]", plain) or "$" in plain:
            self.inline(content.replace("$", " "))
        else:
            self.add("text", plain)

    def ends_in_unit(self, word: str) -> bool:
        r"""Whether letters after a space at the end are a unit; `hr^2` and `\pi hr` are letters."""
        if not (self.space and self.tokens and _NOTHING_MORE.match(self.text, self.place)):
            return False
        length = word in vocabulary.TYPED_LENGTHS
        return length or (self.tokens[-1].kind in ("num", "close") and "^" not in self.text[self.place :])

    def word(self, word: str) -> None:
        lower = word.lower()
        if lower in vocabulary.TYPED_CONNECTORS and (len(word) > 2 or lower == word):
            self.add("join", vocabulary.CONNECTORS[lower])
        elif word == "mod":
            self.add("cmd", "mod")
        elif word == "in" and self.space and self.text[self.place : self.place + 1].isspace():
            self.add("rel", "in")
        elif word in ("not", "Not", "NOT"):
            self.add("rel", "not")
        elif word in ("sqrt", "cbrt"):
            self.add("cmd", word)
        elif word in vocabulary.FUNCTIONS:
            self.add("fun", word)
        elif word in ("pi", "Pi", "PI"):
            self.add("cmd", "pi")
        elif word in ("inf", "infinity", "oo", "infty", "Infinity"):
            self.add("cmd", "infty")
        elif word in vocabulary.GREEK and len(word) > 2:
            self.add("sym", word)
        elif word == "emptyset":
            self.add("cmd", "set:empty")
        elif word in vocabulary.TYPED_UNITS and self.ends_in_unit(word):
            self.add("text", word)
        elif len(word) <= 3 or word.isupper():
            if word.startswith("pi") and len(word) == 3:
                self.add("cmd", "pi")
                word = word[2:]
            for letter in word:
                self.add("sym", letter)
        elif (function := next((name for name in vocabulary.GLUED_FUNCTIONS if word.startswith(name)), None)) and len(
            word
        ) - len(function) <= 2:  # sinx
            self.add("fun", function)
            for letter in word[len(function) :]:
                self.add("sym", letter)
        else:
            self.add("text", word)


_DIGITS = re.compile(r"(?:\\[,;:!])*[0-9]{3}(?![0-9])")
_NOTHING_MORE = re.compile(r"\s*(?:\^\s?\{?[23]\}?)?[\s.,;$]*$")


def merged(tokens: list[Token]) -> list[Token]:
    r"""Merges thousands after plain commas outside of lists, negated relations, `^\circ`, and adjacent words."""
    out: list[Token] = []
    lists = place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.kind == "open" and token.text in ("(", "[", "\\{", "<"):
            lists += 1
        elif token.kind == "close" and token.text in (")", "]", "\\}", ">"):
            lists -= 1
        run = _thousands(tokens, place) if lists <= 0 else place
        listed = bool(out) and out[-1][:2] == ("op", ",") and not token.space
        if run > place and not listed:
            digits = "".join(one.text for one in tokens[place : run + 1 : 2])
            out.append(Token("num", digits, token.space))
            place = run + 1
        elif token[:2] == ("rel", "not") and place + 1 < len(tokens) and tokens[place + 1].kind == "rel":
            following = vocabulary.NEGATED.get(tokens[place + 1].text)
            if following is None:
                raise Unreadable("not")
            out.append(Token("rel", following, token.space))
            place += 2
        elif token[:2] == ("op", "^") and (raised := _raised(tokens, place)) is not None:
            found, place = raised
            out += found
        else:
            if token.kind == "text" and out and out[-1].kind == "text":
                token = Token("text", f"{out.pop().text} {token.text}", token.space)
            out.append(token)
            place += 1
    return out


def _thousands(tokens: list[Token], place: int) -> int:
    """The end of a number with thousands commas that starts here; `place` if there is none."""
    token = tokens[place]
    if token.kind != "num" or not re.fullmatch("[1-9][0-9]{0,2}", token.text):
        return place
    end = place
    while (
        end + 2 < len(tokens)
        and tokens[end + 1][:2] == ("op", ",")
        and not (tokens[end + 1].space or tokens[end + 2].space)
    ):
        following = tokens[end + 2]
        if following.kind != "num":
            break
        if not re.fullmatch(r"[0-9]{3}(\.[0-9]+)?", following.text) or "." in tokens[end].text:
            return place  # 1,2,345 is a list
        end += 2
    return end


def _raised(tokens: list[Token], place: int) -> tuple[list[Token], int] | None:
    """Degrees and primes written as exponents, and their end; None for a true exponent."""
    braced = [one[:2] for one in tokens[place + 1 : place + 2]] == [("open", "{")]
    start = end = place + 1 + braced
    while end < len(tokens) and tokens[end][:2] in (("op", "'"), ("cmd", "circ"), ("op", "deg")):
        end += 1
    if end == start or (braced and (end == len(tokens) or tokens[end].text != "}")):
        return None
    found = [Token("op", "'" if token.text == "'" else "deg") for token in tokens[start:end]]
    return found, end + braced


def _closes(tokens: list[Token], place: int, opened: str) -> bool:
    """Whether a `[` after a comma closes an interval: `]0, 1[`, and `[0, 1[` at its end."""
    if opened == "]":
        return True
    following = tokens[place + 1] if place + 1 < len(tokens) else None
    ends = following is None or following.kind in ("join", "close") or following.text in ("cup", "cap", "minus")
    return opened in ("[", "(") and ends and tokens[place - 1][:2] != ("op", ",")


def matching(tokens: list[Token]) -> dict[int, int]:
    """The position of each bracket's partner. Brackets of intervals may differ (`[0, 1)`, `]0, 1[`). Raises
    Unreadable."""
    pairs: dict[int, int] = {}
    stack: list[tuple[int, str, bool]] = []
    for place, token in enumerate(tokens):
        if token[:2] == ("op", ",") or token[:2] == ("op", ";"):
            if stack:
                stack[-1] = (*stack[-1][:2], True)
        elif token.kind == "open":
            if token.text == "[" and stack and stack[-1][2] and _closes(tokens, place, stack[-1][1]):  # ]0, 1[
                pairs[stack.pop()[0]] = place
            else:
                stack.append((place, token.text, False))
        elif token.kind == "close":
            if token.text == "]" and (not stack or stack[-1][1] not in ("(", "[", "]")):
                stack.append((place, "]", False))
                continue
            if not stack:
                raise Unreadable(f"{token.text} without an opening bracket")
            start, opened, _ = stack.pop()
            loose = opened in ("(", "[", "]") and token.text in (")", "]")
            if not (loose or token.text == vocabulary.OPENERS.get(opened, opened)):
                raise Unreadable(f"{opened} ... {token.text}")
            pairs[start] = place
    if stack:
        raise Unreadable(f"{stack[-1][1]} is not closed")
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
