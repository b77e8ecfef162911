r"""The cost of sandboxes: `python -m benchmarks.sandbox [--quick] [--json FILE]`.

HumanEval's 164 reference programs with their hidden tests in monty, in bubblewrap and in both in turn ("auto", the
verifiers' default): number of passes, wall seconds, milliseconds each. The same with mutated references (a returned
value replaced by None, a number off by one, a comparison reversed), which a sandbox may pass only if the tests do not
detect the change; both must agree. The share of problems whose docstrings have two examples, and the references'
results on them. Then 1,000 checks, two at a time, and hostile programs, each followed by a normal one. Wall time
depends on the machine's load: compare within one run. `--quick` takes 24 problems and 50 checks.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dspy
from rich.console import Console
from rich.table import Table

from pdr_dspy.errors import NoSandbox
from pdr_dspy.text.code import programs
from pdr_dspy.verifiers import sandbox
from pdr_dspy.verifiers.checks import CodeCheck, usable_examples
from pdr_dspy.verifiers.sandbox import Case, Isolation, Job, Limits, Outcome
from programs.humaneval import all_problems

LIMITS = Limits(seconds=3.0)
CONCURRENCY = 2
ISOLATIONS: tuple[Isolation, ...] = ("monty", "bubblewrap", "auto")
HOSTILE = {
    "fork bomb": "import os\ndef f(x):\n    while True:\n        os.fork()",
    "memory": "def f(x):\n    a = []\n    while True: a.append('x' * 10**6)",
    "endless loop": "def f(x):\n    while True: pass",
    "endless output": "def f(x):\n    while True: print('x' * 10**6)",
    "1 GB of file": "def f(x):\n    with open('/tmp/a', 'w') as a:\n        while True: a.write('x' * 10**6)",
    "/etc/passwd": "def f(x): return open('/etc/passwd').read()",
    "a socket": "import socket\ndef f(x): return socket.socket()",
    "os._exit(0)": "import os\ndef f(x): os._exit(0)",
    "kill everybody": "import os\ndef f(x): os.kill(-1, 9)",
    "equals everything": "class E:\n    def __eq__(self, o): return True\ndef f(x): return E()",
    "forged report": 'import os\nfor n in range(64):\n    try: os.write(n, b\'{"case": 0, "passed": true}\\n\')\n'
    "    except OSError: pass\ndef f(x): return 0",
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 problems, 50 checks; under a minute")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    problems = all_problems()[:24] if options.quick else all_problems()
    figures = asyncio.run(measure(problems, checks=50 if options.quick else 1000))
    show(Console(), figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


async def measure(problems: Sequence[dspy.Example], *, checks: int) -> dict[str, Any]:
    """All figures."""
    return {
        "references": [await references(problems, isolation) for isolation in ISOLATIONS],
        "wrong": await wrong(problems),
        "examples": await examples(problems),
        "checks": await many(problems, checks),
        "hostile": [await hostile(name, program) for name, program in HOSTILE.items()],
    }


async def references(problems: Sequence[dspy.Example], isolation: Isolation) -> dict[str, Any]:
    """How many reference programs pass their hidden tests, and in how many seconds."""
    await run(job(problems[0], problems[0].answer), isolation)  # warm-up
    started = time.perf_counter()
    outcomes = await asyncio.gather(*(run(job(problem, problem.answer), isolation) for problem in problems))
    seconds = time.perf_counter() - started
    passed = sum(outcome is not None and outcome.ok for outcome in outcomes)
    beyond = sum(outcome is None for outcome in outcomes)
    return {"isolation": isolation, "programs": len(problems), "passed": passed, "beyond": beyond, "seconds": seconds}


async def wrong(problems: Sequence[dspy.Example]) -> dict[str, Any]:
    """Mutated programs: the number that passes in each sandbox, and the disagreements."""
    jobs = [(problem, text) for problem in problems for text in mutants(problem.answer)]
    figures: dict[str, Any] = {"programs": len(jobs)}
    passed = {}
    for isolation in ("bubblewrap", "auto"):
        outcomes = await asyncio.gather(*(run(job(problem, text), isolation) for problem, text in jobs))
        passed[isolation] = {place for place, outcome in enumerate(outcomes) if outcome is not None and outcome.ok}
        figures[isolation] = len(passed[isolation])
    figures["disagree"] = sorted(jobs[place][0].id for place in passed["auto"] ^ passed["bubblewrap"])
    return figures


def mutants(text: str) -> list[str]:
    """Mutants of a program: its last return replaced, its first number off by one, its first comparison reversed."""
    found = []
    turned = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
    for kind in ("return", "number", "comparison"):
        tree = ast.parse(text)
        nodes = list(ast.walk(tree))
        if kind == "return":
            *_, node = [node for node in nodes if isinstance(node, ast.Return)]
            node.value = ast.Constant(None)
        elif kind == "number":
            numbers = [node for node in nodes if isinstance(node, ast.Constant) and type(node.value) is int]
            if not numbers:
                continue
            numbers[0].value = int(str(numbers[0].value)) + 1
        else:
            comparisons = [node for node in nodes if isinstance(node, ast.Compare) and type(node.ops[0]) in turned]
            if not comparisons:
                continue
            comparisons[0].ops[0] = turned[type(comparisons[0].ops[0])]()  # type: ignore[index]
        found.append(ast.unparse(tree))
    return found


async def examples(problems: Sequence[dspy.Example]) -> dict[str, Any]:
    """The number of problems with examples, and the references' results on them."""
    counts = [usable_examples(problem.prompt, problem.entry_point) for problem in problems]
    stated = [problem for problem, count in zip(problems, counts, strict=True) if count]
    check = CodeCheck(limits=LIMITS)
    scores = await asyncio.gather(
        *(check.acheck({"prompt": problem.prompt}, {"code": problem.answer}) for problem in stated)
    )
    return {
        "problems": len(problems),
        "with one": len(stated),
        "with two": sum(count >= 2 for count in counts),
        "references that pass": sum(score == 1 for score in scores),
        "references that do not": [p.id for p, score in zip(stated, scores, strict=True) if score < 1],
    }


async def many(problems: Sequence[dspy.Example], count: int) -> dict[str, Any]:
    """Wall seconds of many checks, a few at a time, half of them of wrong programs."""
    stated = [problem for problem in problems if usable_examples(problem.prompt, problem.entry_point) >= 2]
    turn = asyncio.Semaphore(CONCURRENCY)

    async def one(place: int) -> float:
        problem = stated[place // 2 % len(stated)]
        text = problem.answer if place % 2 else mutants(problem.answer)[0]
        async with turn:
            return float(await CodeCheck(limits=LIMITS).acheck({"prompt": problem.prompt}, {"code": text}))

    started = time.perf_counter()
    scores = await asyncio.gather(*(one(place) for place in range(count)))
    seconds = time.perf_counter() - started
    return {
        "checks": count,
        "concurrency": CONCURRENCY,
        "seconds": seconds,
        "right": sum(score == 1 for score in scores),
    }


async def hostile(name: str, program: str) -> dict[str, Any]:
    """Seconds of a hostile program and of the next one."""
    case = (Case("assert f(2) == 731"),)
    started = time.perf_counter()
    outcome = await sandbox.run(Job((program,), case, "f"), LIMITS, "bubblewrap")
    between = time.perf_counter()
    after = await sandbox.run(Job(("def f(x): return 731",), case, "f"), LIMITS, "bubblewrap")
    if outcome.ok or not after.ok:
        raise SystemExit(f"{name}: it passed ({outcome.ok}), or the program after it did not ({after.ok})")
    reason = outcome.failure or outcome.results[0].error or f"got {outcome.results[0].got}"
    return {"program": name, "seconds": between - started, "next": time.perf_counter() - between, "why": reason}


def job(problem: dspy.Example, text: str) -> Job:
    """A program with the hidden tests of a problem."""
    found = programs(text, problem.prompt, problem.entry_point)
    return Job(found, (Case(problem.test),), problem.entry_point, (problem.prompt,))


async def run(what: Job, isolation: Isolation) -> Outcome | None:
    """The outcome; None where the sandbox cannot run the program."""
    try:
        return await sandbox.run(what, LIMITS, isolation)
    except NoSandbox:
        return None


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table("sandbox", "programs", "pass", "cannot run", "seconds", "ms each", title="HumanEval's references")
    for row in figures["references"]:
        each = 1000 * row["seconds"] / row["programs"]
        table.add_row(
            row["isolation"],
            str(row["programs"]),
            str(row["passed"]),
            str(row["beyond"]),
            f"{row['seconds']:.2f}",
            f"{each:.1f}",
        )
    console.print(table)
    made, stated, many_ = figures["wrong"], figures["examples"], figures["checks"]
    console.print(
        f"Made wrong: {made['programs']} programs; the tests pass {made['bubblewrap']} in bubblewrap, {made['auto']} "
        f"by auto; disagreements: {', '.join(made['disagree']) or 'none'}."
    )
    console.print(
        f"Examples: {stated['with one']} of {stated['problems']} problems state one, {stated['with two']} two or more; "
        f"the references pass on {stated['references that pass']}, not on "
        f"{', '.join(stated['references that do not']) or 'none'}."
    )
    console.print(
        f"{many_['checks']} checks, {many_['concurrency']} at a time: {many_['seconds']:.1f} s, {many_['right']} right."
    )
    table = Table("hostile program", "seconds", "the next, s", "what stopped it", title="Hostile programs, bubblewrap")
    for row in figures["hostile"]:
        table.add_row(row["program"], f"{row['seconds']:.2f}", f"{row['next']:.2f}", row["why"][:60])
    console.print(table)


if __name__ == "__main__":
    main()
