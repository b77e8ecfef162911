"""Parallel-Distill-Refine on one page, without the library: a reader's guide to arXiv 2510.01123, section 3.

    C(0) = {};   S(r) = M_r samples of M(x, C(r-1));   C(r) = D(x, S(r)) with |C(r)| <= kappa;   the answer is S(R)

The distiller here is the paper's simplest, random-k: every draft of the next round reads k random solutions of this
round. The library adds concurrent calls, failures, budgets, other distillers, any DSPy signature, and a store. A test
compares this page with the library: equal replies give equal drafts, workspaces and answers.

    python programs/from_scratch.py http://127.0.0.1:8000/v1 "What is 17 * 23?"
"""

from __future__ import annotations

import json
import random
import re
import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Complete = Callable[[str, int], str]
"""(prompt, seed) -> the model's text."""
Choose = Callable[[int, int, int, int], Sequence[int]]
"""(round, reader, width, k) -> the k of the round's `width` drafts that this reader of the next round sees."""

DRAFT = "Solve the problem step by step. End with one line: Answer: <number>\n\nProblem: {question}"
REFINE = (
    DRAFT + "\n\nEarlier attempts, which may be right or wrong. Reuse what holds, override what does not, or set all of"
    " it aside and start afresh.\n\n{workspace}"
)


@dataclass
class Trace:
    """The record of a run, round by round."""

    drafts: list[list[str]] = field(default_factory=list)
    workspaces: list[list[str]] = field(default_factory=list)
    answer: str | None = None
    sequential: int = 0
    """B_seq: the longest call of each round, summed; the user's latency."""
    total: int = 0
    """B_total: the tokens of all calls; the cost of the run."""


def pdr(
    question: str,
    complete: Complete,
    *,
    widths: Sequence[int] = (4, 2, 1),
    k: int = 2,
    kappa: int = 1024,
    seed: int = 0,
    choose: Choose | None = None,
    count: Callable[[str], int] = lambda text: len(text) // 4,
) -> Trace:
    """Run PDR with random-k. `kappa` is in tokens, as `count` counts them."""
    choose = choose or (lambda r, i, width, k: random.Random(f"{seed}/{r}/{i}").sample(range(width), k))
    trace = Trace()
    workspaces = [""] * widths[0]
    for r, width in enumerate(widths):
        prompts = [
            REFINE.format(question=question, workspace=text) if text else DRAFT.format(question=question)
            for text in workspaces
        ]
        # The drafts of a round differ only in their seeds.
        drafts = [complete(prompt, 256 * (seed * len(widths) + r) + i) for i, prompt in enumerate(prompts)]
        costs = [count(prompt) + count(draft) for prompt, draft in zip(prompts, drafts, strict=True)]
        trace.sequential += max(costs)
        trace.total += sum(costs)
        trace.drafts.append(drafts)
        if r + 1 < len(widths):
            # The workspace is rebuilt in each round: it contains solutions, never their reasoning.
            chosen = [choose(r + 1, reader, width, min(k, width)) for reader in range(widths[r + 1])]
            workspaces = [bounded([drafts[i] for i in own], kappa, count) for own in chosen]
            trace.workspaces.append(workspaces)
    trace.answer = read_answer(trace.drafts[-1][0])
    return trace


def bounded(solutions: Sequence[str], kappa: int, count: Callable[[str], int]) -> str:
    """The solutions as numbered candidates, each cut at its start until all fit, since answers are at the end."""
    room = max(len(text) for text in solutions)
    while True:
        shown = [text.strip()[-room:] for text in solutions]
        text = "\n\n".join(f"Candidate {number}:\n{body}" for number, body in enumerate(shown, start=1))
        if count(text) <= kappa or room < 8:
            return text if room >= 8 else ""
        room = room * 9 // 10


def read_answer(text: str) -> str | None:
    """The last stated answer, since models correct themselves."""
    stated = re.findall(r"(?m)^\W*Answer:\s*(-?[\d,]+)", text)
    return stated[-1].replace(",", "") if stated else None


def endpoint(api_base: str) -> Complete:
    """A model behind an OpenAI-compatible server, using only the standard library."""

    def complete(prompt: str, seed: int) -> str:
        body = {"model": "default", "messages": [{"role": "user", "content": prompt}], "seed": seed, "max_tokens": 512}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{api_base}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply)["choices"][0]["message"]["content"]

    return complete


if __name__ == "__main__":
    result = pdr(sys.argv[2], endpoint(sys.argv[1]))
    print(f"answer {result.answer}; B_seq {result.sequential}, B_total {result.total} (estimated)")
