"""Reads LaTeX and typed mathematics as tokens."""

from __future__ import annotations

import re

from pdr_dspy.verifiers.mathematics import vocabulary
from pdr_dspy.verifiers.mathematics.tokens import Token, Unreadable, merged

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
        if name in ("mathbb", "mathds", "Bbb") and plain == "P":  # of a probability
            self.add("sym", plain)
            return
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
        elif listed := re.fullmatch(r"([^,;:.]+?),?\s(and|or)", plain):
            self.prose(listed[1])
            self.add("join", listed[2])
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
        elif word == "min" and self.ends_in_unit(word):
            self.add("text", word)
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
