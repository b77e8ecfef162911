"""The cost of faults, and the ledger's accuracy under them: `python -m benchmarks.faults [--quick] [--json FILE]`.

`evaluate` of PDR (4, 2, 1) with summaries, 9 calls in 5 stages, over 64 questions (`--quick`: 16) against the mock
server (`benchmarks.mock_server`, a separate process on the loopback address), once for each fault mix. Answers take
0.2 s (`--quick`: 0.05 s); a request without a byte for 2 s is abandoned and retried (`connect(first_byte=2)`). Each
fault is tested alone at 20 % of all requests, then all seven in equal shares that add up to 5 and to 20 %:

- 429 (with Retry-After 0.2 s): refused, so the client knows that nothing was generated
- 500, drop (the connection closed at once): nothing was generated, but no client can know that
- lost (the connection closed when the answer is due), cut (in the middle of the answer), hang (never answered): the
  server has generated tokens that it does not report
- truncate: an answer cut at half its length, with finish_reason "length"; it is not retried

Figures: questions with an answer, and questions that failed with a reason, of all; requests sent over calls; tokens on
the ledger over tokens of the server's complete answers, 1 if they agree; tries that the ledger marks as possibly served
(`Call.unsettled`) over those that the server counted; wall seconds over those without faults. One run each; a first run
without faults is not shown.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import dspy
from rich.console import Console
from rich.table import Table

from benchmarks.mock_server import FAULTS, Handle, serve
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.serving import connect
from pdr_dspy.verifiers import NumberVerifier

PROGRAM = PDR("question -> answer: int", widths=(4, 2, 1), distiller="summary", draft_tokens=200, kappa=400)
UNSETTLING = ("500", "drop", "lost", "cut")
MIXES: dict[str, dict[str, float]] = {
    "none": {},
    **{f"{kind} 20 %": {kind: 0.2} for kind in FAULTS},
    "all, 5 %": dict.fromkeys(FAULTS, 0.05 / len(FAULTS)),
    "all, 20 %": dict.fromkeys(FAULTS, 0.2 / len(FAULTS)),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 questions and answers in 0.05 s; under a minute")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args()
    rows = measure(questions=16, latency=0.05) if options.quick else measure(questions=64, latency=0.2)
    table = Table(
        "faults", "answered", "failed", "requests / calls", "tokens", "marked", "makespan", title="PDR (4, 2, 1)"
    )
    for row in rows:
        table.add_row(
            row["faults"],
            f"{row['answered']} of {row['questions']}",
            str(row["failed"]),
            f"{row['requests']} / {row['calls']}",
            f"{row['reported'] / row['served']:.4f}",
            f"{row['marked']} of {row['unsettled']}",
            f"{row['seconds'] / rows[0]['seconds']:.2f}",
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def measure(*, questions: int, latency: float) -> list[dict[str, Any]]:
    """One row for each fault mix, the first of them without faults."""
    with serve(latency=latency, reply_tokens=60, retry_after=0.2) as server:
        evaluated(server, "none", questions)  # warm-up, so that imports and connections are not measured
        return [evaluated(server, name, questions) for name in MIXES]


def evaluated(server: Handle, mix: str, questions: int) -> dict[str, Any]:
    """One evaluation under one fault mix: the figures of its report and of the server's counters."""
    server.reset(faults=MIXES[mix])
    lm = connect("mock", server.api_base, siblings=False, first_byte=2.0, context_length=32768)
    examples = [
        dspy.Example(id=str(n), question=f"[case {n}] What is 6 * 7?", answer="42").with_inputs("question")
        for n in range(questions)
    ]
    started = time.perf_counter()
    with dspy.context(lm=lm):
        report = evaluate(PROGRAM, examples, NumberVerifier(), max_in_flight=4096, max_failures=questions)
    seconds = time.perf_counter() - started
    lm.close()
    book = server.counters()
    calls = [call for row in report.rows for call in row.calls]
    return {
        "faults": mix,
        "questions": questions,
        "answered": sum(row.answer is not None for row in report.rows),
        "failed": sum(row.failure is not None or row.stop == "no answer" for row in report.rows),
        "reasons": sorted({row.failure for row in report.rows if row.failure is not None}),
        "calls": len(calls),
        "calls_failed": sum(call.failure is not None for call in calls),
        "requests": book["requests"],
        "tries": sum(call.tries for call in calls),
        "reported": sum(call.tokens for call in calls),
        "served": book["prompt_tokens"] + book["completion_tokens"],
        "marked": sum(call.unsettled for call in calls),
        "unsettled": sum(book["faults"].get(kind, 0) for kind in UNSETTLING) + book["aborts"],
        "tokens_lost": book["lost_completion_tokens"],
        "met": book["faults"],
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
