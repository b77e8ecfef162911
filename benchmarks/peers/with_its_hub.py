"""its-hub's self-consistency over 8 samples, its nearest equivalent of PDR: all questions on one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import graph
from driver import Job, Outcome, Run, drive


def prepare(job: Job) -> Run:
    """Lift its orchestrator's limit, by default 32 requests in flight."""
    from its_hub import (  # pyright: ignore[reportMissingImports]
        LMOrchestrator,
        OpenAICompatibleLanguageModel,
        SelfConsistency,
    )

    logging.disable(logging.CRITICAL)
    runner = asyncio.Runner()
    lm = OpenAICompatibleLanguageModel(
        endpoint=job.api_base, api_key="none", model_name="mock", temperature=1.0, max_completion_tokens=graph.CAP
    )
    algorithm = SelfConsistency(lambda text: text.rpartition("Answer: ")[2], orchestrator=LMOrchestrator(-1))
    budget = 8 if job.kind == "pdr" else 1

    async def all_of(questions: Sequence[str]) -> Outcome:
        outcome = Outcome()

        async def one(question: str) -> None:
            prompt = f"{graph.SOLVE}\n\nQuestion: {question}\n\n{graph.FORM}"
            try:
                result = await algorithm.ainfer(lm, prompt, budget, return_response_only=False)
            except Exception as error:
                outcome.failed(error)
                return
            outcome.add(result.usage.prompt_tokens, result.usage.completion_tokens)
            outcome.done += "Answer: " in result.the_one["content"]

        await asyncio.gather(*map(one, questions))
        return outcome

    return lambda questions: runner.run(all_of(questions))


if __name__ == "__main__":
    drive(prepare)
