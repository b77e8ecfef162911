r"""The cost of hostile answers: `python -m benchmarks.verifying [--quick] [--json FILE]`.

Each answer is graded against the gold `\sqrt{5}` by `MathVerifier` (2 s and 256 MB an item), followed by a normal
answer, to see whether that is delayed. The baseline is math-verify, called as in its documentation, in the main thread
of a separate process with its own 5 s alarm, without the import; it is stopped after 15 s. Wall seconds, one run each:
only the order of magnitude matters. `--quick` leaves out the baseline.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dspy
from rich.console import Console
from rich.table import Table

from pdr_dspy.verifiers import MathVerifier

GOLD = r"\sqrt{5}"
ROW = "&".join("abcdefghij")
HOSTILE = {
    "9^9^9^9": "9^9^9^9",
    "10^9!": "10^9!",
    "10^(10^9)": r"10^{1000000000}",
    "gcd of two powers": r"\gcd(10^{100000000},3^{100000000})",
    "binomial": r"\binom{10^9}{5\cdot10^8}",
    "10x10 determinant": rf"\begin{{vmatrix}}{(ROW + chr(92) * 2) * 10}\end{{vmatrix}}",
    "trinomial, power 200": "(x+y+z)^{200}",
    "50,000 open boxes": r"\boxed{" * 50_000,
    "200,000 digits": "9" * 200_000,
    "5,000 nested fractions": r"\frac{1}{" * 5_000 + "2" + "}" * 5_000,
    "1 MB of one letter": "a" * 1_000_000,
    "4,900 parentheses": "(" * 4_900 + "1" + ")" * 4_900,
    "Python": "__import__('os').abort()",
}
BASELINE = """
import sys, time
from math_verify import parse, verify
answer = sys.stdin.read()
started = time.perf_counter()
try:
    verify(parse(f"${sys.argv[1]}$"), parse(f"${answer}$"))
finally:
    print(time.perf_counter() - started)
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the baseline; under a minute")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args()
    rows = measure(baseline=not options.quick)
    table = Table("answer", "MathVerifier, s", "the next answer, s", "math-verify, s", title="Hostile answers")
    for row in rows:
        table.add_row(row["answer"], f"{row['seconds']:.3f}", f"{row['next']:.3f}", _shown(row["baseline"]))
    total = sum(row["seconds"] for row in rows)
    table.add_row("all", f"{total:.1f}", f"{max(row['next'] for row in rows):.3f} at most", "")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def measure(*, baseline: bool) -> list[dict[str, Any]]:
    """One row for each answer: wall seconds of its verdict, of the next one, and of the baseline (None: not run)."""
    verifier = MathVerifier()
    grade(verifier, r"\sqrt{20}", r"2\sqrt{5}")  # warm-up: starts the workers
    rows = []
    for name, answer in HOSTILE.items():
        seconds, score = grade(verifier, GOLD, answer)
        after, innocent = grade(verifier, r"2\sqrt{5}", r"\sqrt{20}")
        if score != 0 or innocent != 1:
            raise SystemExit(f"{name}: graded {score}, the innocent answer after it {innocent}; expected 0 and 1")
        rows.append(
            {"answer": name, "seconds": seconds, "next": after, "baseline": alone(answer) if baseline else None}
        )
    return rows


def grade(verifier: MathVerifier, gold: str, answer: str) -> tuple[float, float]:
    """Wall seconds and score of one verdict."""
    example, prediction = dspy.Example(answer=gold), dspy.Prediction(answer=answer)
    started = time.perf_counter()
    score = verifier(example, prediction)
    return time.perf_counter() - started, float(score)


def alone(answer: str) -> float:
    """Wall seconds of math-verify; 15 if it was stopped."""
    command = [sys.executable, "-c", BASELINE, GOLD]
    try:
        done = subprocess.run(command, input=answer, capture_output=True, text=True, timeout=15, check=False)
    except subprocess.TimeoutExpired:
        return 15.0
    lines = done.stdout.split()
    return float(lines[-1]) if lines else 15.0


def _shown(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return "stopped at 15" if seconds >= 15 else f"{seconds:.3f}"


if __name__ == "__main__":
    main()
