"""Grading against itself: golds in equivalent forms, which must count as right, and near misses, which must not.

    python -m benchmarks.grading [--golds FILE.jsonl ...] [--quick] [--json FILE]

Each gold answer (the field `answer` of a line; without a file some hundred that this script makes) is written in up to
ten other forms of the same value and changed into up to ten near misses, by rules that know nothing of the verifiers.
The table says, for each verifier, how many forms were rejected (false negatives), how many near misses were accepted
(false positives), and how long an answer took, against reading the gold alone.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy.errors import DataError
from pdr_dspy.verifiers import MathVerifier, NumberVerifier

INTEGER = re.compile(r"-?[0-9]{1,18}")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{([0-9]{1,6})\}\{([0-9]{1,6})\}")


def made(count: int) -> list[str]:
    """Golds of every shape."""
    draw = random.Random(0)
    shapes: list[Callable[[], str]] = [
        lambda: str(draw.randint(-9999, 99_999)),
        lambda: rf"\frac{{{draw.randint(1, 40)}}}{{{draw.randint(41, 99)}}}",
        lambda: rf"{draw.randint(2, 9)}\sqrt{{{draw.choice((2, 3, 5, 7, 11))}}}",
        lambda: rf"({draw.randint(-9, 9)}, {draw.randint(-9, 9)})",
        lambda: rf"[{draw.randint(-9, 0)}, {draw.randint(1, 9)})",
        lambda: rf"{draw.randint(2, 9)}x^2 - {draw.randint(2, 9)}x + {draw.randint(1, 9)}",
        lambda: rf"{draw.randint(2, 9)}\pi",
        lambda: rf"x = {draw.randint(2, 99)}",
        lambda: rf"{draw.randint(1, 4)}, {draw.randint(5, 9)}",
        lambda: rf"{draw.randint(2, 9)} + {draw.randint(2, 9)}i",
    ]
    return [shapes[place % len(shapes)]() for place in range(count)]


def same(gold: str) -> Iterator[str]:
    """The same answer in other forms."""
    yield from (f"${gold}$", rf"\({gold}\)", rf"\boxed{{{gold}}}", f"**{gold}**", f" {gold} ", f"{gold}.")
    if "=" not in gold and "," not in gold and "\\text" not in gold and "\\in" not in gold:
        yield f"x = {gold}"
    yield gold.replace(r"\frac", r"\dfrac").replace(", ", ",").replace(" + ", "+")
    if INTEGER.fullmatch(gold):
        number = int(gold)
        yield from (f"{number:,}", f"{number}.0", f"{number} apples", rf"{number}\text{{ cm}}", f"{2 * number}/2")
    if match := FRACTION.fullmatch(gold):
        sign, over, under = match[1], int(match[2]), int(match[3])
        yield from (
            f"{sign}{over}/{under}",
            rf"{sign}\frac{{{3 * over}}}{{{3 * under}}}",
            rf"{sign}\tfrac{{{over}}}{{{under}}}",
        )
        yield f"{sign}{over / under:.9g}"
    if re.fullmatch(r"[0-9]\\sqrt\{[0-9]+\}", gold):
        outside, inside = re.findall("[0-9]+", gold)
        yield rf"\sqrt{{{int(outside) ** 2 * int(inside)}}}"
        yield rf"\sqrt{{{inside}}} \cdot {outside}"


def near(gold: str) -> Iterator[str]:
    """Answers that look like it and are wrong."""
    numbers = list(re.finditer(r"(?<![0-9.])[0-9]{1,18}(?![0-9.])", gold))
    for number in numbers[:4]:
        for step in (1, -1 if int(number[0]) > 1 else 2):
            yield gold[: number.start()] + str(int(number[0]) + step) + gold[number.end() :]
    if numbers and "," not in gold and "=" not in gold:
        yield from (
            f"not {gold}",
            f"{gold} or {int(numbers[-1][0]) + 7}",
            f"x \\ne {gold}",
            f"{gold} \\text{{ or }} 0.5",
        )
        yield f"2x = {gold}"
        yield f"x > {gold}"
    if INTEGER.fullmatch(gold) and int(gold) > 0:
        number = int(gold)
        yield from (
            f"-{number}",
            f"{number} million",
            f"twice {number}",
            f"{number} squared",
            f"{number}‰",
            f"{number}.5",
        )
        yield rf"\frac{{1}}{{{number}}}" if number > 1 else "2"
    if match := FRACTION.fullmatch(gold):
        over, under = int(match[2]), int(match[3])
        if over != under:
            yield rf"{match[1]}\frac{{{under}}}{{{over}}}"
        yield f"{match[1]}{Fraction(over, under) + Fraction(1, 1000)}"
        yield f"{float(Fraction(over, under)) * 1.001:.6g}"
    if re.fullmatch(r"[(\[].*,.*[)\]]", gold):
        turned = gold.translate(str.maketrans("([)]", "[(])"))
        yield turned
    if r"\sqrt" in gold:
        yield gold.replace(r"\sqrt", "")
    if r"\pi" in gold:
        yield gold.replace(r"\pi", "3.14")
    if "x" in gold and "\\text" not in gold:
        yield gold.replace("x", "y")


def grade(verifier: Any, gold: str, answer: str) -> float | None:
    try:
        return float(verifier(dspy.Example(answer=gold), dspy.Prediction(answer=answer)))
    except DataError:
        return None


def measure(verifier: Any, golds: list[str]) -> dict[str, Any]:
    refused, rejected, accepted, forms, misses = [], [], [], 0, 0
    seconds = 0.0
    answers = 0
    for gold in golds:
        if grade(verifier, gold, gold) is None:
            refused.append(gold)
            continue
        for kind, others in (("same", same(gold)), ("near", near(gold))):
            for answer in list(dict.fromkeys(others))[:10]:
                if kind == "near" and answer.strip() == gold.strip():
                    continue
                started = time.perf_counter()
                score = grade(verifier, gold, answer)
                seconds += time.perf_counter() - started
                answers += 1
                if kind == "same":
                    forms += 1
                    rejected += [(gold, answer)] if score != 1 else []
                else:
                    misses += 1
                    accepted += [(gold, answer)] if score != 0 else []
    return {
        "verifier": type(verifier).__name__,
        "golds": len(golds),
        "refused": refused,
        "forms": forms,
        "rejected": rejected,
        "near misses": misses,
        "accepted": accepted,
        "ms": 1000 * seconds / max(answers, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golds", nargs="*", default=[], help="JSONL files with a field `answer`.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--show", action="store_true", help="List what was rejected and accepted.")
    options = parser.parse_args()
    golds = [json.loads(line)["answer"] for name in options.golds for line in Path(name).read_text().splitlines()]
    golds = list(dict.fromkeys(golds)) or made(40 if options.quick else 200)
    if options.quick:
        golds = golds[:40]
    numbers = [gold for gold in golds if INTEGER.fullmatch(gold) or FRACTION.fullmatch(gold)]
    found = [measure(MathVerifier(timeout=20), golds), measure(NumberVerifier(), numbers)]
    print(f"{'verifier':16}{'golds':>7}{'refused':>9}{'forms':>8}{'rejected':>10}{'near':>8}{'accepted':>10}{'ms':>8}")
    for row in found:
        print(
            f"{row['verifier']:16}{row['golds']:7}{len(row['refused']):9}{row['forms']:8}{len(row['rejected']):10}"
            f"{row['near misses']:8}{len(row['accepted']):10}{row['ms']:8.2f}"
        )
        if options.show:
            for name in ("refused", "rejected", "accepted"):
                for each in row[name]:
                    print(f"   {name}: {each}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
