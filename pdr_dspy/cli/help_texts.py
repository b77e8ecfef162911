"""What `pdr --help` and `pdr COMMAND --help` say beside the options: a line that fits 80 columns, and examples."""

from __future__ import annotations

from typing import Any

SUMMARIES = {
    "new": "Write a program file to start from.",
    "compare": "Compare a program with one pass, SR and voting at its cost.",
    "optimize": "Tune a program's schedule; writes best.json, report.html.",
    "view": "View a run in a browser: its rounds, drafts and checks.",
    "export": "Write a run as logs of another tool, or a schedule.",
    "train": "Train a model on a program's calls, or on samples.",
    "export-sft": "Write calls of an evaluation as a chat dataset.",
    "serve": "Serve programs as models of an OpenAI-compatible API.",
    "models": "List the models to serve here, or of a running server.",
    "doctor": "Show what is installed and reachable, and mend the rest.",
    "distillers": "List the registered distillers.",
    "axes": "List the axes for `--axis` of `pdr optimize`.",
    "verifiers": "List the registered verifiers with their settings.",
    "checks": "List the registered checks.",
}
"""Of commands whose first sentence is too long for a line of `pdr --help`."""

EXAMPLES = {
    "run": ('pdr run gsm8k -i "What is 17 * 3?"', "pdr run best.json --jsonl questions.jsonl"),
    "new": ("pdr new triage && pdr eval triage.py --limit 4",),
    "eval": (
        "pdr eval gsm8k --limit 20",
        'pdr eval "message -> category" --data mine.csv --metric mine.py:score',
        "pdr eval best.json --api-base http://127.0.0.1:8000/v1",
    ),
    "compare": ("pdr compare best.json --limit 50",),
    "optimize": (
        "pdr optimize gsm8k --trials 12 --budget-total 4000",
        "pdr optimize triage.py --data mine.csv --metric mine.py:score",
    ),
    "report": ("pdr report runs/optimize-gsm8k",),
    "view": ("pdr view runs/eval-gsm8k",),
    "serve": ("pdr serve best.json --port 8080",),
    "serve-model": ("pdr serve-model qwen2.5-coder-0.5b --port 8000",),
    "datasets": ("pdr datasets gsm8k",),
}
"""Command lines to copy, of each command that takes an argument which one would not guess."""


def about(command: str) -> dict[str, Any]:
    """The arguments of `app.command` that show the two."""
    shown: dict[str, Any] = {}
    if command in SUMMARIES:
        shown["short_help"] = SUMMARIES[command]
    if command in EXAMPLES:
        shown["epilog"] = "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[command])])
    return shown
