"""Names and signs of mathematics, and their normalised form: the data of `tokens`."""

from __future__ import annotations

from pdr_dspy.text.number_words import words

GREEK = words(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell"""
)
FUNCTIONS = words(
    """sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arcsinh arccosh
    arctanh arsinh arcosh artanh asin acos atan ln log lg exp abs sqrt cbrt max min gcd lcm floor ceil det sgn Re Im
    arg cis"""
)
GLUED_FUNCTIONS = ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp")
"""Functions whose argument may follow without a space: `sinx`."""
SKIPPED = words(
    """displaystyle textstyle scriptstyle limits nolimits quad qquad thinspace medspace thickspace big Big bigg Bigg
    bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm therefore blacksquare qed checkmark hfill hline allowbreak
    nobreak rm bf it sf mathstrut strut"""
)
"""Commands that only change the appearance."""
PROSE = words("text textbf textit textrm textnormal textup textsf mbox hbox emph")
FONTS = PROSE | words("mathrm mathbf mathit mathsf operatorname boldsymbol bm mathop mathbb mathds mathcal mathscr Bbb")
WRAPPERS = words("boxed fbox underline mathord mathbin mathopen mathclose mathinner ensuremath")
ALIGNMENTS = words("aligned align split gathered gather equation displaymath math center")
DECORATIONS = words("overline bar hat vec tilde dot ddot overrightarrow widehat")

TYPED_UNITS = words("cm mm km kg mg ft lb lbs oz mph kph hr hrs sec rad deg yd")
"""Units of a few letters that are recognised after a space at the end of a value; other letters are variables."""

TYPED_LENGTHS = words("cm mm km ft yd mi")
"""Those that may be raised to a power and follow a letter."""

RELATIONS = {
    **dict.fromkeys(("=", "==", ":="), "="),
    **dict.fromkeys(("!=", "<>", "=/=", "/="), "!="),
    **dict.fromkeys(("<=", "=<"), "<="),
    **{
        "<": "<",
        ">": ">",
        ">=": ">=",
        "=>": "implies",
        "->": "to",
        "<->": "iff",
        "<=>": "iff",
        "~=": "approx",
        "~": "sim",
    },
}
RELATION_COMMANDS = {
    **dict.fromkeys(("ne", "neq"), "!="),
    **dict.fromkeys(("le", "leq", "leqslant", "leqq"), "<="),
    **dict.fromkeys(("ge", "geq", "geqslant", "geqq"), ">="),
    **dict.fromkeys(("to", "rightarrow", "longrightarrow", "mapsto"), "to"),
    **dict.fromkeys(("Rightarrow", "implies", "Longrightarrow"), "implies"),
    **dict.fromkeys(("iff", "Leftrightarrow", "leftrightarrow", "Longleftrightarrow"), "iff"),
    **dict.fromkeys(("approx", "simeq"), "approx"),
    **{"eq": "=", "lt": "<", "gt": ">", "nleq": ">", "ngeq": "<", "ll": "<<", "gg": ">>"},
    **{name: name for name in ("in", "notin", "ni", "subset", "subseteq", "supset", "supseteq", "nsubseteq", "equiv")},
    **{name: name for name in ("sim", "cong", "propto", "parallel", "perp", "mid", "nmid")},
}
NEGATED = {
    **{"=": "!=", "in": "notin", "<": ">=", ">": "<=", "<=": ">", ">=": "<", "equiv": "nequiv", "subset": "nsubset"},
}
CONNECTORS = {
    **dict.fromkeys(("or", "oder", "ou"), "or"),
    **dict.fromkeys(("and", "und", "et"), "and"),
    **dict.fromkeys(("if", "for", "when", "where", "with", "while", "for all", "if and only if", "such that"), "if"),
    **dict.fromkeys(("otherwise", "else", "elsewhere"), "otherwise"),
}
TYPED_CONNECTORS = words("or and if for when where with while otherwise else elsewhere")
"""Connectors outside of upright type; other words there may be letters."""
COMMANDS = {
    **dict.fromkeys(("lor", "vee"), ("logic", "or")),
    **dict.fromkeys(("land", "wedge"), ("logic", "and")),
    **dict.fromkeys(("neg", "lnot"), ("logic", "not")),
    **dict.fromkeys(("oplus", "veebar"), ("logic", "xor")),
    **dict.fromkeys(("cdot", "ast"), ("op", "*")),
    **dict.fromkeys(("setminus", "smallsetminus", "backslash"), ("cmd", "minus")),
    **dict.fromkeys(("emptyset", "varnothing"), ("cmd", "set:empty")),
    **dict.fromkeys(("cup", "bigcup"), ("cmd", "cup")),
    **dict.fromkeys(("newline", "cr"), ("op", "\\\\")),
    **dict.fromkeys(("lvert",), ("open", "|")),
    **dict.fromkeys(("rvert",), ("close", "|")),
    **{"times": ("op", "times")},
    **{"div": ("op", "/"), "pm": ("op", "pm"), "mp": ("op", "mp"), "vert": ("op", "|"), "colon": ("op", ":")},
    **{"prime": ("op", "'"), "degree": ("op", "deg"), "percent": ("op", "%"), "forall": ("join", "if")},
    **{"lbrace": ("open", "\\{"), "rbrace": ("close", "\\}"), "langle": ("open", "<"), "rangle": ("close", ">")},
    **{
        "lfloor": ("open", "floor"),
        "rfloor": ("close", "floor"),
        "lceil": ("open", "ceil"),
        "rceil": ("close", "ceil"),
    },
    **{"lbrack": ("open", "["), "rbrack": ("close", "]"), "lparen": ("open", "("), "rparen": ("close", ")")},
    **{
        "cap": ("cmd", "cap"),
        "infty": ("cmd", "infty"),
        "pi": ("cmd", "pi"),
        "imath": ("sym", "i"),
        "jmath": ("sym", "j"),
    },
    **{letter: ("cmd", f"set:{letter}") for letter in "RZNQC"},
    **{name: ("cmd", name) for name in ("pmod", "bmod", "mod", "sqrt", "root", "cbrt", "sum", "prod", "int", "lim")},
    **{name: ("cmd", name) for name in ("circ", "angle", "triangle", "choose", "perm")},
    **{"Pr": ("sym", "P")},
    **{"pod": ("cmd", "pmod"), "reals": ("cmd", "set:R")},
}
"""The token of a command."""
OPENERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "<": ">", "floor": "floor", "ceil": "ceil", "|": "|"}


def _columns(text: str, count: int) -> list[list[str]]:
    """The rows of a table written as text."""
    cells = text.split()
    return [cells[place : place + count] for place in range(0, len(cells), count)]


_VULGAR = "½ 1 2 ⅓ 1 3 ⅔ 2 3 ¼ 1 4 ¾ 3 4 ⅕ 1 5 ⅖ 2 5 ⅗ 3 5 ⅘ 4 5 ⅙ 1 6 ⅚ 5 6 ⅛ 1 8 ⅜ 3 8 ⅝ 5 8 ⅞ 7 8"
_GREEK_LETTERS = (
    "α alpha β beta γ gamma δ delta ε epsilon ζ zeta η eta θ theta ι iota κ kappa λ lambda μ mu ν nu ξ xi ρ rho σ sigma"
    " τ tau υ upsilon φ phi χ chi ψ psi ω omega Γ Gamma Δ Delta Θ Theta Λ Lambda Ξ Xi Π Pi Σ Sigma Φ Phi Ψ Psi Ω Omega"
)
_SIGNS = (
    "× times · cdot ⋅ cdot ÷ div √ root ∛ cbrt π pi ∞ infty ≤ le ⩽ le ≥ ge ⩾ ge ≠ ne ∈ in ∉ notin ∪ cup ∩ cap"
    " ∅ emptyset ± pm ∓ mp ∘ circ ∧ land ∨ lor ⌊ lfloor ⌋ rfloor ⌈ lceil ⌉ rceil ⟨ langle ⟩ rangle ≈ approx ≡ equiv"
    " → to ⇒ implies ⇔ iff ∖ setminus ⊂ subset ⊆ subseteq ∣ mid ¬ neg … ldots ⋯ cdots ∑ sum ∫ int ∏ prod ∠ angle"
    " △ triangle ∥ parallel ⊥ perp ∀ forall ∼ sim ℓ ell ⊕ oplus ⊻ oplus ↔ iff ⟺ iff ⟹ implies ⟶ to"
)
UNICODE = {
    **dict.fromkeys("−–—‒﹣－", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2007\u2008\u2002\u2003\u200a\u3000\t\n\r", " "),
    **dict.fromkeys("\u200b\u2060\ufeff\u2061\u2062", ""),
    **dict.fromkeys("°º", r"^\circ "),
    **dict.fromkeys("′’", "'"),
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
    **dict(zip("，；：＝（）＋％、．｜∗⁄∕", ",;:=()+%,.|*//", strict=True)),
    **{"‖": r"\|", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}"},
    **{sign: rf"\{name} " for sign, name in _columns(_SIGNS + " " + _GREEK_LETTERS, 2)},
    **{sign: rf"{{\frac{{{over}}}{{{under}}}}}" for sign, over, under in _columns(_VULGAR, 3)},
}
"""Signs in LaTeX or plain characters."""
PHRASES = {
    **dict.fromkeys(("empty set", "the empty set", "no solution", "no solutions", "no real solution"), r"\emptyset"),
    **dict.fromkeys(("no real solutions", "there is no solution", "there are no solutions"), r"\emptyset"),
    **dict.fromkeys(("no solution exists", "no solutions exist", "there exists no solution"), r"\emptyset"),
    **dict.fromkeys(("has no solution", "has no solutions", "it has no solution", "it has no solutions"), r"\emptyset"),
    **dict.fromkeys(("the equation has no solution", "the equation has no solutions"), r"\emptyset"),
    **dict.fromkeys(("the system has no solution", "the system has no solutions"), r"\emptyset"),
    **dict.fromkeys(("there are no real solutions", "there is no real solution"), r"\emptyset"),
    **dict.fromkeys(("all real numbers", "all reals", "all real", "any real number"), r"\mathbb{R}"),
    **dict.fromkeys(("all real x", "every real number", "the real numbers"), r"\mathbb{R}"),
    **dict.fromkeys(("all integers", "any integer", "every integer", "the integers"), r"\mathbb{Z}"),
}
"""Phrases with a mathematical meaning."""
