"""Whether two structures of `math_structure` are equal, their values compared exactly by sympy.

Runs in the process of `grading_worker`, which is killed when it takes too long or too much memory; imports no pdr_dspy.

Values are compared exactly: decimals are read as the fractions that they are, and whole numbers of any size stay whole.
Where a value has no finite decimal form (1/3, pi, the root of 2), a decimal may stand for it that is right to one part
in 100,000. Values with letters are compared at rational points, exactly where they are rational there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

RELATIVE = 10**5
"""A decimal stands for a value without a finite decimal form within one part in so many."""
_DECIMAL = re.compile(r"(?<![0-9])([0-9]*)\.([0-9]+)")
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\overline\s?\{\s?([0-9]+)\s?\}")
_FUNCTIONS = r"arc(?:sin|cos|tan|cot|sec|csc)|a(?:sin|cos|tan)|sinh?|cosh?|tanh?|cot|sec|csc|log|ln|exp|gcd|lcm|max|min"
_OPERATOR = re.compile(
    rf"\\(?:operatorname|mathrm|text|mathop)\s?\*?\{{\s?({_FUNCTIONS})\s?\}}|\\(?:mathrm)\s?({_FUNCTIONS})"
)
_UPRIGHT_E = re.compile(r"\\(?:mathrm|text|rm|operatorname)\s?(?:\{\s?([ei])\s?\}|([ei])(?![A-Za-z]))")
_BARE_SET = re.compile(r"\\mathbb\s?([A-Z])(?![A-Za-z])")
_POINTS = 4


class Unreadable(Exception):
    """A value that is no mathematics."""


class Comparison:
    """Compares structures; `read` turns LaTeX into a sympy expression or raises."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        import sympy

        self.sympy = sympy
        self.read = read

    # --- structures

    def readable(self, one: dict[str, Any]) -> None:
        """Raise Unreadable for a structure that holds a value which is none."""
        for latex in _values(one):
            self.value(latex)

    def equal(self, gold: dict[str, Any], answer: dict[str, Any]) -> bool:
        """Whether the answer is the gold answer."""
        gold, answer = self.plain(gold), self.plain(answer)
        kinds = gold["kind"], answer["kind"]
        if kinds == ("relation", "interval"):
            answer = _as_relation(answer) or answer
        elif kinds == ("interval", "relation"):
            gold = _as_relation(gold) or gold
        elif kinds == ("union", "many") and answer["joint"] == "or":
            answer = answer | {"kind": "union"}
        elif kinds == ("many", "union") and gold["joint"] == "or":
            gold = gold | {"kind": "union"}
        kinds = gold["kind"], answer["kind"]
        if kinds == ("relation", "relation"):
            return self.same_relation(gold, answer)
        if kinds[1] == "relation":
            value = self.assigned(answer)
            return value is not None and self.equal(gold, {"kind": "value", "latex": value[1]})
        if kinds[0] == "relation":
            value = self.assigned(gold)  # `x + y = 5` is a line, and its 5 no answer
            given = value is not None and value[0] is not None and not re.search(r"[-+]", value[0])
            return value is not None and given and self.equal({"kind": "value", "latex": value[1]}, answer)
        if kinds == ("member", "member"):
            return gold["name"] == answer["name"] and self.equal(gold["of"], answer["of"])
        if "member" in kinds:
            return self.equal(gold.get("of", gold), answer.get("of", answer))
        if kinds == ("value", "value"):
            return self.same(gold["latex"], answer["latex"])
        if "interval" in kinds:
            first, second = _as_interval(gold), _as_interval(answer)
            if first is None or second is None:
                return False
            names = {first["variable"], second["variable"]} - {None}
            ends = zip(first["ends"], second["ends"], strict=True)
            return len(names) < 2 and first["open"] == second["open"] and all(self.same(*end) for end in ends)
        if kinds[0] != kinds[1]:
            return False
        if kinds[0] == "rows":
            shapes = [[len(row) for row in one["rows"]] for one in (gold, answer)]
            if gold["name"] != answer["name"] or shapes[0] != shapes[1]:
                return False
            cells = [[cell for row in one["rows"] for cell in row] for one in (gold, answer)]
            return all(self.equal(*pair) for pair in zip(*cells, strict=True))
        if kinds[0] == "tuple":
            if (gold["open"], gold["close"]) != (answer["open"], answer["close"]):
                return False
            return len(gold["items"]) == len(answer["items"]) and all(
                self.equal(*pair) for pair in zip(gold["items"], answer["items"], strict=True)
            )
        return self.same_members(gold["items"], answer["items"])

    def plain(self, one: dict[str, Any]) -> dict[str, Any]:
        """A structure in the simplest form of what it says: `\\{x \\mid x > 2\\}` is `x > 2`, and `x > 2 and x < 5` one
        interval; `x < 2 or x > 5` is a union."""
        if one["kind"] == "such that":
            what, condition = one["items"]
            if what["kind"] == "member" or (what["kind"] == "value" and re.fullmatch(r"\\?[A-Za-z]+", what["latex"])):
                one = self.plain(condition)
            else:
                return {"kind": "many", "joint": "such that", "items": [what, condition]}
        if one["kind"] == "many" and one["items"] and all(item["kind"] == "interval" for item in one["items"]):
            if len({item["variable"] for item in one["items"]}) > 1:
                return one
            if one["joint"] == "and":
                return _intersection(one["items"]) or one
            if one["joint"] in (",", "or"):
                return {"kind": "union", "items": one["items"]}
        if one["kind"] == "many" and len(one["items"]) == 1:
            return self.plain(one["items"][0])
        return one

    def same_members(self, gold: list[dict[str, Any]], answer: list[dict[str, Any]]) -> bool:
        """Whether two lists have the same members, each as often."""
        left = list(answer)
        if len(gold) != len(left):
            return False
        for one in gold:
            place = next((place for place, other in enumerate(left) if self.equal(one, other)), None)
            if place is None:
                return False
            left.pop(place)
        return True

    def assigned(self, relation: dict[str, Any]) -> tuple[str | None, str] | None:
        """Name and value of `x = 2`, `x = 6 \\cdot 7 = 42` and, without a name, of a chain of true sums; else None."""
        *first, last = relation["parts"]
        if not set(relation["signs"]) <= {"=", r"\approx"}:
            return None
        name = relation["names"][0]
        sums = [part for part, reckons in zip(first, relation["reckons"], strict=False) if reckons]
        others = [place for place in range(len(first)) if not relation["reckons"][place]]
        if any(relation["names"][place] is None for place in others):
            return None
        if not all(self.same(one, last) for one in sums):
            return None
        return name, last

    def same_relation(self, gold: dict[str, Any], answer: dict[str, Any]) -> bool:
        first, second = self.assigned(gold), self.assigned(answer)
        if first is not None and second is not None and (first[0] == second[0] or None in (first[0], second[0])):
            return self.same(first[1], second[1])
        if len(gold["parts"]) != 2 or len(answer["parts"]) != 2:
            return gold["signs"] == answer["signs"] and all(
                self.same(*pair) for pair in zip(gold["parts"], answer["parts"], strict=True)
            )
        (sign,), (other,) = gold["signs"], answer["signs"]
        left, right = self.difference(gold["parts"]), self.difference(answer["parts"])
        turned = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
        if sign in turned:
            if other == sign:
                return self.proportional(left, right, positive=True)
            return other == turned[sign] and self.proportional(left, -right, positive=True)
        if sign != other:
            return False
        if sign in ("=", r"\ne"):
            return self.proportional(left, right)
        return all(self.same(*pair) for pair in zip(gold["parts"], answer["parts"], strict=True))

    # --- values

    def value(self, latex: str) -> Any:
        """The expression of a value, decimals as fractions. Raises Unreadable."""
        try:
            return self.read(_exact(latex))
        except Exception as error:
            raise Unreadable(latex) from error

    def difference(self, parts: list[str]) -> Any:
        return self.value(parts[0]) - self.value(parts[1])

    def same(self, gold: str, answer: str) -> bool:
        """Whether two values are equal."""
        if _letters(gold) == _letters(answer):
            return True
        want, have = self.value(gold), self.value(answer)
        sympy = self.sympy
        if not isinstance(want, sympy.Expr) or not isinstance(have, sympy.Expr):
            return type(want) is type(have) and bool(want == have)
        infinite = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
        if want.doit() in infinite or have.doit() in infinite:
            return bool(want.doit() == have.doit())
        names = want.free_symbols | have.free_symbols
        if names or want.atoms(sympy.core.function.AppliedUndef) | have.atoms(sympy.core.function.AppliedUndef):
            return self.vanishes(want - have, names, want)
        if self.zero(want - have, want):
            return True
        if ("." in answer) == ("." in gold):
            return False
        exact, decimal = (want, have) if "." in answer else (have, want)
        if self.is_finite_decimal(exact):
            return False
        return bool(abs(sympy.N(exact - decimal, 40)) * RELATIVE <= abs(sympy.N(exact, 40)))

    def is_finite_decimal(self, value: Any) -> bool:
        value = self.sympy.nsimplify(value.doit()) if value.is_rational else value.doit()
        if not value.is_Rational:
            return False
        rest = int(value.q)
        for prime in (2, 5):
            while rest % prime == 0:
                rest //= prime
        return rest == 1

    def zero(self, difference: Any, like: Any) -> bool:
        """Whether a number is 0: exactly where it is rational, else to far more digits than its numbers have."""
        difference = difference.doit()
        if difference.is_Rational:
            return bool(difference == 0)
        longest = max((len(str(abs(number.p))) + len(str(number.q)) for number in _rationals(difference)), default=1)
        powers = sum(
            int(abs(power.exp)) * len(str(power.base))
            for power in difference.atoms(self.sympy.Pow)
            if power.exp.is_Integer and power.base.is_Integer
        )
        digits = 60 + 2 * longest + powers
        if digits > 20_000:
            return bool(self.sympy.simplify(difference) == 0)
        size = self.sympy.N(like, digits)
        off = self.sympy.N(difference, digits, maxn=4 * digits)
        return bool(
            abs(off) * 10 ** (digits // 2 + longest + powers // 2) <= max(abs(size), self.sympy.Rational(1, 10**30))
        )

    def vanishes(self, difference: Any, names: set[Any], like: Any) -> bool:
        """Whether an expression with letters is 0, looked at in several points."""
        sympy = self.sympy
        difference = difference.doit()
        if difference == 0:
            return True
        if difference.atoms(sympy.core.function.AppliedUndef):
            return bool(sympy.simplify(difference) == 0)
        draw = random.Random(0)
        seen = 0
        for _ in range(4 * _POINTS):
            point = {name: sympy.Rational(draw.randint(-60, 60) * 2 + 1, draw.choice((7, 11, 13))) for name in names}
            here, size = difference.subs(point).doit(), like.subs(point).doit()
            if here.has(sympy.nan, sympy.zoo, sympy.oo) or size.has(sympy.nan, sympy.zoo, sympy.oo):
                continue
            if not (here == 0 or self.zero(here, size)):
                return False
            seen += 1
            if seen == _POINTS:
                return True
        return bool(seen) or bool(sympy.simplify(difference) == 0)

    def proportional(self, first: Any, second: Any, *, positive: bool = False) -> bool:
        """Whether two expressions differ by a constant factor other than 0, and above 0 where it must be `positive`."""
        sympy = self.sympy
        first, second = sympy.together(first.doit()), sympy.together(second.doit())
        names = first.free_symbols | second.free_symbols
        if first.free_symbols != second.free_symbols or not names:
            return self.vanishes(first - second, names, first)
        draw = random.Random(1)
        factor = None
        for _ in range(4 * _POINTS):
            point = {name: sympy.Rational(draw.randint(-60, 60) * 2 + 1, draw.choice((7, 11, 13))) for name in names}
            up, down = first.subs(point).doit(), second.subs(point).doit()
            if down == 0 or up == 0 or up.has(sympy.zoo, sympy.nan) or down.has(sympy.zoo, sympy.nan):
                continue
            factor = sympy.nsimplify(up / down) if (up / down).is_rational else up / down
            break
        if factor is None or (positive and not factor.is_positive):
            return False
        return self.vanishes(first - factor * second, names, first)


def _as_interval(one: dict[str, Any]) -> dict[str, Any] | None:
    if one["kind"] == "interval":
        return one
    if one["kind"] != "tuple" or len(one["items"]) != 2 or any(item["kind"] != "value" for item in one["items"]):
        return None
    ends = [item["latex"] for item in one["items"]]
    return {"kind": "interval", "ends": ends, "open": [one["open"] == "(", one["close"] == ")"], "variable": None}


def _as_relation(interval: dict[str, Any]) -> dict[str, Any] | None:
    """`x < 3`, which was read as an interval of x, as a relation again; None for one with two ends."""
    name, (low, high), (open_low, open_high) = interval["variable"], interval["ends"], interval["open"]
    if name is None or (low != r"-\infty" and high != r"\infty"):
        return None
    parts, is_open = ([name, high], open_high) if low == r"-\infty" else ([low, name], open_low)
    sign = "<" if is_open else r"\le"
    return {"kind": "relation", "parts": parts, "signs": [sign], "names": [None, None], "reckons": [False, False]}


def _intersection(intervals: list[dict[str, Any]]) -> dict[str, Any] | None:
    """`x > 2` and `x < 5` as one interval; None where they are not a lower and an upper bound."""
    if len(intervals) != 2:
        return None
    lower = next((one for one in intervals if one["ends"][1] == r"\infty" and one["ends"][0] != r"-\infty"), None)
    upper = next((one for one in intervals if one["ends"][0] == r"-\infty" and one["ends"][1] != r"\infty"), None)
    if lower is None or upper is None:
        return None
    return lower | {"ends": [lower["ends"][0], upper["ends"][1]], "open": [lower["open"][0], upper["open"][1]]}


def _values(one: dict[str, Any]) -> list[str]:
    """The values of a structure, in LaTeX."""
    kind = one["kind"]
    if kind == "value":
        return [one["latex"]]
    if kind == "relation":
        return [part for part, name in zip(one["parts"], one["names"], strict=True) if name is None]
    if kind == "interval":
        return list(one["ends"])
    if kind == "member":
        return _values(one["of"])
    items = [cell for row in one["rows"] for cell in row] if kind == "rows" else one["items"]
    return [latex for item in items for latex in _values(item)]


def _rationals(expression: Any) -> list[Any]:
    return [atom for atom in expression.atoms() if atom.is_Rational]


def _letters(latex: str) -> str:
    """A value as it is compared letter by letter; digits that stand apart stay apart."""
    latex = re.sub(r"(?<=[0-9])\s+(?=[0-9.])", "\0", latex)
    latex = re.sub(r"\\[dtc]frac", r"\\frac", latex)
    latex = re.sub(r"\\frac\s?([0-9])\s?([0-9])", r"\\frac{\1}{\2}", latex)
    latex = re.sub(r"([_^])\{(\w)\}", r"\1\2", latex)
    return re.sub(r"\s+", "", latex)


def _exact(latex: str) -> str:
    """A value with its decimals as fractions, and operators as the parser knows them."""
    latex = _OPERATOR.sub(
        lambda name: (
            "\\"
            + (name[1] or name[2]).replace("asin", "arcsin").replace("acos", "arccos").replace("atan", "arctan")
            + " "
        ),
        latex,
    )
    latex = _UPRIGHT_E.sub(lambda letter: f"{{{letter[1] or letter[2]}}}", latex)
    latex = _BARE_SET.sub(r"\\mathbb{\1}", latex)

    def repeating(number: re.Match[str]) -> str:
        whole, fixed, period = number[1] or "0", number[2], number[3]
        over = int(whole + fixed + period) - int(whole + fixed)
        return rf"(\frac{{{over}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}})"

    latex = _REPEATING.sub(repeating, latex)
    return _DECIMAL.sub(
        lambda number: rf"\frac{{{int((number[1] or '0') + number[2])}}}{{{10 ** len(number[2])}}}", latex
    )
