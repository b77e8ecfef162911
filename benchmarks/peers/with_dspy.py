"""DSPy with its defaults and its own HTTP client: `dspy.Parallel` with 64 threads over its multi-sample modules.

Modes: "bestofn" (BestOfN of 8), "refine" (Refine of 4, with its advice calls in between), "mcc" (a Predict
with n=8 and MultiChainComparison of the 8), "parallel" (ChainOfThought, 8 times each question).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import graph
from driver import Job, Outcome, Run, drive

TASK = "question -> answer"
EIGHT: dict[str, Any] = {"n": 8}


def prepare(job: Job) -> Run:
    """No cache, the native engine, DSPy's own retries; usage from the prediction of each outermost program."""
    import dspy

    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    lm = dspy.LM(
        "hosted_vllm/mock",
        api_base=job.api_base,
        api_key="none",
        engine="lm15",
        cache=False,
        temperature=1.0,
        max_tokens=graph.CAP,
        timeout=job.timeout,
    )
    dspy.configure(lm=lm, track_usage=True)

    class Compared(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attempt = dspy.ChainOfThought(TASK, **EIGHT)
            self.compare = dspy.MultiChainComparison(TASK, M=8)

        def forward(self, question: str) -> Any:
            attempts = self.attempt(question=question).completions or []
            return self.compare([dict(attempts[place]) for place in range(8)], question=question)

    def no_reward(example: Any, prediction: Any) -> float:
        return 0.0

    chain = dspy.ChainOfThought(TASK)
    program: dspy.Module = {
        "bestofn": lambda: dspy.BestOfN(chain, N=8, reward_fn=no_reward, threshold=1.0),
        "refine": lambda: dspy.Refine(chain, N=4, reward_fn=no_reward, threshold=1.0),
        "mcc": Compared,
        "parallel": lambda: chain,
    }[job.mode]()
    samples = 8 if job.mode == "parallel" and job.kind == "pdr" else 1

    def run(questions: Sequence[str]) -> Outcome:
        outcome = Outcome()
        pairs = [
            (program, dspy.Example(question=question).with_inputs("question"))
            for question in questions
            for _ in range(samples)
        ]
        parallel = dspy.Parallel(num_threads=64, disable_progress_bar=True, max_errors=10**6)
        results = parallel(pairs)
        answered = [result is not None and bool(getattr(result, "answer", None)) for result in results]
        groups = [answered[start : start + samples] for start in range(0, len(answered), samples)]
        outcome.done = sum(all(group) for group in groups)
        if outcome.done < len(groups):
            outcome.failures["None came back"] = len(groups) - outcome.done
        for result in results:
            if result is not None:  # a tracker around `Parallel` sees nothing; only predictions have usage
                for counts in (result.get_lm_usage() or {}).values():
                    outcome.add(counts.get("prompt_tokens"), counts.get("completion_tokens"))
        return outcome

    return run


if __name__ == "__main__":
    drive(prepare)
