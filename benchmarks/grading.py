r"""The errors and the cost of grading: `python -m benchmarks.grading [--quick] [--json FILE]`.

Each gold answer (`--golds FILE.jsonl ...`, field `answer`; without a file, some hundred made here) is written in ten
other forms of the same value, and changed into ten near misses, by rules that work on the text and know nothing of the
verifiers. A form that is not accepted is a false negative, a near miss that is accepted a false positive. `--cases
FILE.jsonl ...` grades pairs whose right verdict stands beside them (`gold`, `answer`, `right`) in their stead. One row
a verifier; seconds are for a thousand answers, one thread, the start of the workers not counted. `--baseline` adds
math-verify as its documentation calls it, `--show` lists what was graded wrongly. `--quick` takes every eighth gold.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import dspy
from rich.console import Console
from rich.table import Table

from pdr_dspy.errors import DataError
from pdr_dspy.verifiers import ChoiceVerifier, MathVerifier, NumberVerifier

Grade = Callable[[str, str], float]
Pair = tuple[str, str, bool]

INTEGER = re.compile(r"-?[0-9]{1,18}")
WORDS = re.compile(r"\\text\{\(?[A-Za-z]+\)?\}")
LETTERS = ("A", "B", "C", "D", "E")
TEN = 10


@dataclass
class Row:
    """The results of one verifier."""

    verifier: str
    golds: int
    refused: list[str] = field(default_factory=list)
    """Gold answers that it refuses; their forms count as not accepted."""
    right: int = 0
    wrong: int = 0
    false_negatives: list[tuple[str, str]] = field(default_factory=list)
    false_positives: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    """Seconds for a thousand answers."""


# ----------------------------------------------------------------------------------------------------- golds and forms


def made(count: int) -> list[str]:
    """Gold answers of the shapes that competition problems have."""
    draw = random.Random(0)
    number, digit = (lambda: draw.randint(-999, 99_999)), (lambda: draw.randint(2, 9))
    shapes: list[Callable[[], str]] = [
        lambda: str(number()),
        lambda: rf"\frac{{{draw.randint(1, 40)}}}{{{draw.randint(41, 99)}}}",
        lambda: rf"{digit()}\sqrt{{{draw.choice((2, 3, 5, 7, 11))}}}",
        lambda: rf"({draw.randint(-9, 9)}, {draw.randint(-9, 9)})",
        lambda: rf"[{draw.randint(-9, 0)}, {draw.randint(1, 9)})",
        lambda: rf"{digit()}x^2 - {digit()}x + {digit()}",
        lambda: rf"{digit()}\pi",
        lambda: rf"{draw.randint(10, 99)},\!{draw.randint(100, 999)}",
        lambda: rf"{draw.randint(1, 4)}, {draw.randint(5, 9)}",
        lambda: rf"{digit()} + {digit()}i",
        lambda: rf"{draw.randint(11, 89)}^\circ",
        lambda: rf"{digit()} \pm {digit()}\sqrt{{{draw.choice((2, 3, 5))}}}",
        lambda: rf"(-\infty, {draw.randint(-9, 0)}) \cup ({draw.randint(1, 9)}, \infty)",
        lambda: rf"y = {digit()}x + {digit()}",
        lambda: rf"\text{{{draw.choice(('Evelyn', 'odd', 'Tuesday'))}}}",
    ]
    return [shapes[place % len(shapes)]() for place in range(count)]


def _is_value(gold: str) -> bool:
    """Whether a gold answer is a single expression, not a list, relation, interval, base or words."""
    return not re.search(r",(?!\\!)|=|\\in|\\cup|\\pm|<|>|\\le|\\ge|\\text|_|\\begin|\\circ|%|\\\$|\[|\\\{", gold)


def _is_list(gold: str) -> bool:
    return re.fullmatch(r"[^()\[\]{}=<>\\]+(?:,[^()\[\]{}=<>\\]+)+", gold) is not None and not INTEGER.fullmatch(gold)


def forms(gold: str) -> list[str]:
    """Ten other forms of a gold answer."""
    return _ten(_forms(gold), gold)


def _forms(gold: str) -> Iterator[str]:
    if INTEGER.fullmatch(gold):
        number = int(gold)
        yield from (
            f"{number:,}",
            f"{number}.0",
            rf"\frac{{{3 * number}}}{{3}}",
            f"x = {number}",
            rf"{number}\text{{ cm}}",
        )
        yield from (f"{number - 7} + 7", f"m + n = {number}", f"{number} apples", f"{number:,}".replace(",", "{,}"))
        yield from (rf"{number + 1} - 1 = {number}", f"**{number}**", rf"\boxed{{{number}}}")
    elif WORDS.fullmatch(gold):
        word = gold[6:-1]
        yield from (word, rf"\textbf{{{word}}}", f"**{word}**", f"{word}.", f"The answer is {word}", f'"{word}"')
        yield from (
            rf"\boxed{{\text{{{word}}}}}",
            f"${gold}$",
            rf"\mathrm{{{word}}}",
            f"It is {word}.",
            f"Answer: {word}",
        )
    elif _is_value(gold):
        yield from (
            f"({gold})",
            rf"\frac{{2({gold})}}{{2}}",
            f"({gold}) + 1 - 1",
            f"1 \\cdot ({gold})",
            f"-(-({gold}))",
        )
        yield from (
            rf"\left({gold}\right)",
            rf"\sqrt{{4}} \cdot \frac{{{gold}}}{{2}}",
            f"t = {gold}",
            f"3({gold}) - 2({gold})",
        )
        yield from (f"The answer is ${gold}$.", rf"0 + {gold}", rf"\boxed{{{gold}}}")
    elif _is_list(gold):
        members = [member.strip() for member in gold.split(",")]
        turned = members[::-1]
        yield from (", ".join(turned), " or ".join(members), " and ".join(turned), "; ".join(members))
        yield from (
            rf"\{{{', '.join(turned)}\}}",
            " or ".join(f"x = {one}" for one in members),
            f"x = {', '.join(turned)}",
        )
        yield from (
            rf"x \in \{{{', '.join(members)}\}}",
            ", ".join(f"({one})" for one in members),
            f"\\boxed{{{gold}}}",
        )
    elif match := re.fullmatch(r"([(\[])(.+),(.+)([)\]])", gold.replace(r"\infty", "INF")):
        opening, low, high, closing = (part.replace("INF", r"\infty") for part in match.groups())
        if r"\cup" not in gold:
            yield from (
                rf"\left{opening}{low},{high}\right{closing}",
                rf"{opening} {low.strip()} , {high.strip()} {closing}",
            )
            yield from (
                f"{opening}{low};{high}{closing}",
                f"D = {gold}" if opening != "(" or closing != ")" else f"P = {gold}",
            )
            if r"\infty" not in gold:
                yield f"{opening}0 + {low},{high} + 0{closing}"
                yield rf"{opening}\frac{{2({low})}}{{2}},1 \cdot ({high}){closing}"
        if opening + closing != "()" and r"\cup" not in gold and r"\infty" not in gold:
            less = {"(": "<", "[": r"\le", ")": "<", "]": r"\le"}
            more = {"(": ">", "[": r"\ge", ")": ">", "]": r"\ge"}
            yield rf"{low} {less[opening]} x {less[closing]} {high}"
            yield rf"{high} {more[closing]} x {more[opening]} {low}"
    elif re.fullmatch(r"[a-z] ?= ?.+", gold):
        name, _, value = (part.strip() for part in gold.partition("="))
        yield from (value, f"{name} - ({value}) = 0", f"2{name} = 2({value})", f"{value} = {name}", f"{name}=0+{value}")
        yield from (f"({value}) - {name} = 0", f"3{name} - 3({value}) = 0", f"{name} = ({value}) + 1 - 1")
    yield from (
        f"${gold}$",
        rf"\({gold}\)",
        rf"\boxed{{{gold}}}",
        f"**{gold}**",
        f" {gold} ",
        f"{gold}.",
        rf"\[{gold}\]",
    )
    yield from (
        rf"$$ {gold} $$",
        rf"\displaystyle {gold}",
        rf"{gold}\,",
        rf"Answer: ${gold}$",
        rf"\boxed{{\displaystyle {gold}}}",
    )


def misses(gold: str) -> list[str]:
    """Ten wrong answers that resemble a gold answer."""
    return _ten(_misses(gold), gold)


def _misses(gold: str) -> Iterator[str]:
    zero = re.fullmatch(r"-?0", gold) is not None
    for number in list(re.finditer(r"(?<![0-9.])[0-9]{1,18}(?![0-9.])", gold))[-2:]:
        yield gold[: number.start()] + str(int(number[0]) + 1).rjust(len(number[0]), "0") + gold[number.end() :]
    if WORDS.fullmatch(gold):
        word = gold[6:-1]
        yield from (f"not {word}", f"{word} or Bob", f"{word} and Bob", f"{word}s", "Bob", f"neither {word} nor Bob")
        yield from (f"anyone but {word}", f"Bob, not {word}", f"{word}?? Bob", f"un{word}", f"Bob rather than {word}")
        return
    if not zero and (_is_value(gold) or INTEGER.fullmatch(gold)):
        yield from (f"-({gold})", f"2({gold})", f"({gold}) + 1", f"2x = {gold}", f"twice {gold}", f"half of ${gold}$")
        yield from (f"x \\ne {gold}", f"not {gold}", f"{gold} or 0", rf"{gold}\text{{ million}}", f"x > {gold}")
    elif re.fullmatch(r"[a-z] ?= ?.+", gold):
        name, _, value = (part.strip() for part in gold.partition("="))
        yield from (
            f"{name} = -({value})",
            f"q = {value}",
            rf"{name} \ne {value}",
            f"2{name} = {value}",
            f"{name} > {value}",
        )
        yield from (
            f"{name} = {value} + 1",
            f"{name} = {value} or {name} = 0.5",
            f"{name}^2 = {value}",
            f"-{name} = {value}",
        )
        yield f"{name} = {value} = 0.5"
    elif _is_list(gold):
        members = [member.strip() for member in gold.split(",")]
        yield from (
            ", ".join(members[:-1]),
            f"{gold}, 0.5",
            f"({gold})",
            f"x \\ne {gold}",
            " or ".join([*members[:-1], "0.5"]),
        )
        yield from (
            f"x = {members[0]}, y = {members[0]}",
            f"not {gold}",
            rf"[{gold}]",
            f"{members[0]} < x < {members[1]}",
        )
    elif gold[:1] in "([" and r"\cup" not in gold:
        turned = gold.translate(str.maketrans("([)]", "[(])"))
        yield from (
            turned,
            gold[1:-1],
            f"{gold[0]}{','.join(gold[1:-1].split(',')[::-1])}{gold[-1]}",
            f"{gold[:-1]}, 1{gold[-1]}",
        )
        yield from (
            f"-{gold}",
            rf"{gold} \cup \{{i\}}",
            rf"{gold} \text{{ or }} i",
            rf"x \notin {gold}",
            f"2{gold}",
        )
    if r"\cup" in gold:
        yield from (
            gold.replace(r"\cup", r"\cap"),
            gold.split(r"\cup")[0].strip(),
            gold.replace("(", "[", 1).replace("[-\\infty", "(-2", 1),
        )
        yield from (gold.replace(r"-\infty", "-99"), rf"\mathbb{{R}} \setminus ({gold})", rf"{gold} \cup \mathbb{{R}}")
    if r"\pm" in gold:
        yield from (gold.replace(r"\pm", "+"), gold.replace(r"\pm", "-"), f"({gold}, 1)", f"x > {gold}", f"{gold}, 0.5")
    yield from (f"{gold} \\text{{ or }} 0.5", f"not ${gold}$", f"x \\ne {gold}", f"less than ${gold}$", f"{gold}, 0.5")
    yield from (
        f"{gold}\\text{{ squared}}" if not zero and gold != "1" else "7",
        f"{gold} + 0.001",
        "0.123",
        r"\emptyset",
        "z",
    )
    yield from (
        f"{gold} \\ldots",
        f"{gold} \\to 0.5",
        rf"\frac{{1}}{{{gold}}} + 0.01",
        "no answer",
        rf"\text{{not }} {gold}",
    )


def _ten(found: Iterable[str], gold: str) -> list[str]:
    return [one for one in dict.fromkeys(found) if one != gold][:TEN]


NAMES_FIRST = (
    *("({0})", "{0}.", "Option {0}", "The answer is {0}", "**{0}**", "{0} because {1} is wrong", "{0} over {1}"),
    *("{0}, not {1}", "{0} since {1} fails", "{0} rather than {1}"),
)
NAMES_NOT_SECOND = (
    *(
        "{0} because {1} is wrong",
        "{0} or {1}",
        "{1} and {0}",
        "not {1}",
        "{1} is wrong",
        "{0} over {1}",
        "{0}, not {1}",
    ),
    *("{0} rather than {1}", "neither {1} nor {0}", "{0}"),
)


def choices() -> Iterator[Pair]:
    """Letters in other forms, and answers that name another one or none."""
    for gold in LETTERS:
        for other in LETTERS:
            if other != gold:
                yield from ((gold, text.format(gold, other), True) for text in NAMES_FIRST)
                yield from ((gold, text.format(other, gold), False) for text in NAMES_NOT_SECOND)


def pairs_of(golds: Iterable[str]) -> list[Pair]:
    """Gold answers, their forms and their near misses."""
    found: list[Pair] = []
    for gold in golds:
        found += [(gold, one, True) for one in (gold, *forms(gold))]
        found += [(gold, one, False) for one in misses(gold)]
    return found


# ------------------------------------------------------------------------------------------------------------- grading


def measure(name: str, grade: Grade, pairs: list[Pair]) -> Row:
    """Grade every pair."""
    row = Row(name, len({gold for gold, _, _ in pairs}))
    refused: dict[str, None] = {}
    if pairs:
        _score(grade, *pairs[0][:2], refused)  # starts the workers
    started = time.perf_counter()
    scores = [_score(grade, gold, answer, refused) for gold, answer, _ in pairs]
    row.seconds = 1000 * (time.perf_counter() - started) / max(1, len(pairs))
    row.refused = list(refused)
    for (gold, answer, right), score in zip(pairs, scores, strict=True):
        row.right += right
        row.wrong += not right
        if right and score != 1:
            row.false_negatives.append((gold, answer))
        if not right and score == 1:
            row.false_positives.append((gold, answer))
    return row


def _score(grade: Grade, gold: str, answer: str, refused: dict[str, None]) -> float | None:
    try:
        return grade(gold, answer)
    except DataError:
        refused[gold] = None
        return None


def by(verifier: MathVerifier | NumberVerifier | ChoiceVerifier) -> Grade:
    """A verifier as a function of two texts."""
    return lambda gold, answer: float(verifier(dspy.Example(answer=gold), dspy.Prediction(answer=answer)))


def baseline() -> Grade:
    """math-verify with its defaults, both texts between dollar signs."""
    from math_verify import parse, verify

    def grade(gold: str, answer: str) -> float:
        try:
            want, have = (parse(text if "$" in text or "\\boxed" in text else f"${text}$") for text in (gold, answer))
            return float(verify(want, have))
        except Exception:
            return 0.0

    return grade


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golds", nargs="*", type=Path, default=[], metavar="FILE.jsonl", help="lines with `answer`")
    parser.add_argument(
        "--cases", nargs="*", type=Path, default=[], metavar="FILE.jsonl", help="`gold`, `answer`, `right`"
    )
    parser.add_argument("--baseline", action="store_true", help="math-verify beside MathVerifier")
    parser.add_argument("--show", action="store_true", help="list what was graded wrongly")
    parser.add_argument("--quick", action="store_true", help="every eighth gold; seconds")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args()
    rows = run(options.golds, options.cases, with_baseline=options.baseline, step=8 if options.quick else 1)
    report(rows, show=options.show)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def run(golds: list[Path], cases: list[Path], *, with_baseline: bool, step: int) -> list[Row]:
    """One row for each verifier."""
    given = [str(json.loads(line)["answer"]) for path in golds for line in path.read_text().splitlines()]
    texts = list(dict.fromkeys(given or made(240)))[::step]
    lines = [json.loads(line) for path in cases for line in path.read_text().splitlines()]
    listed = [(str(row["gold"]), str(row["answer"]), bool(row["right"])) for row in lines if "gold" in row]
    pairs = listed or pairs_of(texts)
    rows = [measure("MathVerifier", by(MathVerifier(timeout=10)), pairs)]
    if with_baseline:
        rows.append(measure("math-verify", baseline(), pairs))
    if not listed:
        whole = [pair for pair in pairs if INTEGER.fullmatch(pair[0]) and not re.search(r"\\frac|[0-9] [+-] ", pair[1])]
        rows.append(measure("NumberVerifier", by(NumberVerifier()), whole))
        rows.append(measure("ChoiceVerifier", by(ChoiceVerifier(options=LETTERS)), list(choices())))
    return rows


def report(rows: list[Row], *, show: bool) -> None:
    """The table, and what was graded wrongly."""
    columns = ("verifier", "golds", "refused", "right", "false negatives", "wrong", "false positives", "s for 1,000")
    table = Table(*columns, title="Grading")
    for row in rows:
        counts = (row.golds, len(row.refused), row.right, len(row.false_negatives), row.wrong, len(row.false_positives))
        table.add_row(row.verifier, *map(str, counts), f"{row.seconds:.2f}")
    console = Console()
    console.print(table)
    if show:
        for row in rows:
            for name in ("refused", "false_negatives", "false_positives"):
                for found in getattr(row, name):
                    console.print(f"{row.verifier}, {name.replace('_', ' ')}: {found}", markup=False)


if __name__ == "__main__":
    main()
