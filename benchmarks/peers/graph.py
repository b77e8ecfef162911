"""The calls of PDR (8, 4, 1) with summaries, for clients without PDR, with prompts in the library's form."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from driver import Job, Outcome

WIDTHS = (8, 4, 1)
CAP = 1024
"""Output tokens of a call."""
SOLVE = "Answer the question. Work through the problem step by step, one short line for each step."
REFINE = (
    f"{SOLVE} The workspace below was distilled from earlier attempts at the same problem. It may be right, wrong, or "
    "contradict itself. Reuse what holds, override what does not, and write a complete solution of your own."
)
DISTILL = (
    "Answer the question. The candidates below are independent attempts at the same problem. Write notes for somebody "
    "who will solve the problem with your notes and without the candidates: where they agree, and which side holds."
)
FORM = "Write the steps first. Then end with one line of exactly this form:\nAnswer: <answer>"
NOTES = "Reply with the text alone."

Messages = list[dict[str, str]]
Ask = Callable[[Messages, int], Awaitable[str]]
"""(messages, seed) -> the text; raises when the call has finally failed."""


def messages(system: str, question: str, left: str, form: str) -> Messages:
    """A prompt: the part that all calls share first, then the question, then the output of earlier rounds."""
    parts = [f"Question: {question}", left, form]
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": "\n\n".join(part for part in parts if part)},
    ]


async def solve(ask: Ask, question: str) -> str:
    """Make one question's calls, each as soon as its inputs are ready, and return the answer's text."""
    workspace, texts = "", [""]
    for number, width in enumerate(WIDTHS):
        prompt = messages(REFINE if workspace else SOLVE, question, workspace, FORM)
        texts = await asyncio.gather(*(ask(prompt, 256 * number + index) for index in range(width)))
        if number < len(WIDTHS) - 1:
            candidates = "\n\n".join(f"Candidate {place}:\n{text}" for place, text in enumerate(texts, 1))
            notes = await ask(messages(DISTILL, question, f"Candidates:\n{candidates}", NOTES), 256 * number + 128)
            workspace = f"Workspace:\n{notes}"
    return texts[0]


async def run(ask: Ask, job: Job, questions: Sequence[str], outcome: Outcome) -> Outcome:
    """All questions concurrently; a question is done when its last reply has an answer."""

    async def one(question: str) -> None:
        try:
            if job.kind == "pdr":
                text = await solve(ask, question)
            else:
                text = await ask(messages(SOLVE, question, "", FORM), 0)
        except Exception as error:
            outcome.failed(error)
            return
        if "Answer: " in text:
            outcome.done += 1
        else:
            outcome.failures["no answer"] += 1

    await asyncio.gather(*map(one, questions))
    return outcome
