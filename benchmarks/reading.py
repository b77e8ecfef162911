"""The cost of parsing completions: `python -m benchmarks.reading [--json FILE]`.

Typical: a thousand completions of a few hundred to a few thousand characters, each a solution followed by an answer in
a common form, parsed as a text, a number and a list; CPU milliseconds for a thousand, the best of three, and the number
of parsed answers. Hostile: 200,000 characters of one repeated piece; CPU seconds of the slowest of the same three
signatures, for the slowest pieces. One process, no model.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import dspy
from rich.console import Console
from rich.table import Table

from pdr_dspy.prompts import Role, check_task, derive, read

SIGNATURES = ("question -> answer", "question -> answer: int", "question -> answer: list[int]")
WORKING = (
    "There are 12 boxes with 7 apples each, so that is 12 * 7 = 84 apples in all.",
    "Let $x$ be the number that is asked for. Then $x^2 - 5x + 6 = 0$, and $\\frac{x}{2} < 3$.",
    "We subtract what was eaten: $84 - 42 = 42$ are left.",
    "Check: 42 + 42 = 84, as it should be.",
    "- First, we add them. Second, we take the half of that.",
)
FORMS = (
    *("Answer: {}", "**Answer:** {}", "\\boxed{{{}}}", "$\\boxed{{{}}}$.", "#### {}", "The answer is {}.", "{}"),
    *("### Final Answer\n\n{}", '{{"answer": "{}"}}', "<answer>\n{}\n</answer>", "答案：{}", "| Answer | {} |"),
    *("[[ ## answer ## ]]\n{}\n\n[[ ## completed ## ]]", "Antwort: {}", "Final answer → {}"),
)
PIECES = (
    *("Answer: x\n", "answer = 3\n", "<answer>", "</answer>", "[[ ## answer ## ]]\n", '{"a":', '{"answer": "\\f'),
    *("\\boxed{", "\\boxed 4 ", "| Answer | x |\n", "```\nAnswer: x\n", "the answer is ", "答案：x", "- 1\n", "1. 2\n"),
    *("a, ", '"', "(", "**", "<|im_end|>", "<s>", "#### 4\n", "$$", "\n", "\t", "Explanation:\n", "a" * 100, "<think>"),
)
SIZE = 200_000


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    signatures = {text: derive(check_task(text), Role.DRAFT) for text in SIGNATURES}
    found = {"typical": typical(signatures), "hostile": hostile(signatures)}
    table = Table("signature", "ms a thousand", "answered", title="Typical completions")
    for row in found["typical"]:
        table.add_row(row["signature"], f"{row['milliseconds']:.0f}", str(row["answered"]))
    Console().print(table)
    table = Table("piece", "s", title=f"{SIZE:,} characters of one piece")
    for row in found["hostile"][:8]:
        table.add_row(repr(row["piece"]), f"{row['seconds']:.2f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def typical(signatures: dict[str, type[dspy.Signature]]) -> list[dict[str, Any]]:
    """One row for each signature."""
    rng = random.Random(0)
    texts = []
    for _ in range(1000):
        working = "\n".join(rng.choice(WORKING) for _ in range(rng.randint(4, 40)))
        texts.append(f"{working}\n\n{rng.choice(FORMS).format(rng.randint(1, 999))}")
    rows = []
    for name, signature in signatures.items():
        times, answered = [], 0
        for _ in range(3):
            started = time.process_time()
            answered = sum("answer" in read(signature, text).outputs for text in texts)
            times.append(time.process_time() - started)
        rows.append({"signature": name, "milliseconds": 1000 * min(times), "answered": answered})
    return rows


def hostile(signatures: dict[str, type[dspy.Signature]]) -> list[dict[str, Any]]:
    """One row for each piece, the slowest first."""
    rows = []
    for piece in PIECES:
        text, slowest = piece * (SIZE // len(piece)), 0.0
        for signature in signatures.values():
            started = time.process_time()
            read(signature, text)
            slowest = max(slowest, time.process_time() - started)
        rows.append({"piece": piece, "seconds": slowest})
    return sorted(rows, key=lambda row: -row["seconds"])


if __name__ == "__main__":
    main()
