"""Plain aiohttp making PDR's calls, the lower bound for a client in Python. No retries, no checks, no ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import graph
from driver import Job, Outcome, Run, drive


def prepare(job: Job) -> Run:
    """Without a connection limit, independent of the job's `in_flight`."""
    import aiohttp

    runner = asyncio.Runner()
    session: list[aiohttp.ClientSession] = []

    async def start() -> None:
        session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))

    runner.run(start())

    def run(questions: Sequence[str]) -> Outcome:
        outcome = Outcome()

        async def ask(messages: graph.Messages, seed: int) -> str:
            body = {"model": "mock", "messages": messages, "max_tokens": graph.CAP, "temperature": 1.0, "seed": seed}
            async with session[0].post(f"{job.api_base}/chat/completions", json=body) as reply:
                reply.raise_for_status()
                data = await reply.json()
            outcome.add(data["usage"]["prompt_tokens"], data["usage"]["completion_tokens"])
            return data["choices"][0]["message"]["content"]

        return runner.run(graph.run(ask, job, questions, outcome))

    return run


if __name__ == "__main__":
    drive(prepare)
