"""The openai SDK making PDR's calls, with its default retries and connection limits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import graph
from driver import Job, Outcome, Run, drive


def prepare(job: Job) -> Run:
    """One AsyncOpenAI for all questions; its default is 1,000 connections and two retries."""
    from openai import AsyncOpenAI

    runner = asyncio.Runner()
    client = AsyncOpenAI(base_url=job.api_base, api_key="none", timeout=job.timeout)

    def run(questions: Sequence[str]) -> Outcome:
        outcome = Outcome()

        async def ask(messages: graph.Messages, seed: int) -> str:
            reply = await client.chat.completions.create(
                model="mock",
                messages=messages,  # type: ignore[arg-type]
                max_tokens=graph.CAP,
                temperature=1.0,
                seed=seed,
            )
            if reply.usage is not None:
                outcome.add(reply.usage.prompt_tokens, reply.usage.completion_tokens)
            return reply.choices[0].message.content or ""

        return runner.run(graph.run(ask, job, questions, outcome))

    return run


if __name__ == "__main__":
    drive(prepare)
