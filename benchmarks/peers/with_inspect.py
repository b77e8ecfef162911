"""inspect-ai evaluating each question 8 times (epochs), its nearest equivalent of PDR, without a connection limit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import graph
from driver import Job, Outcome, Run, drive


def prepare(job: Job) -> Run:
    """Logs to a temporary folder, without display; graded by its own `match`."""
    from inspect_ai import Epochs, Task  # pyright: ignore[reportMissingImports]
    from inspect_ai import eval as evaluate  # pyright: ignore[reportMissingImports]
    from inspect_ai.dataset import Sample  # pyright: ignore[reportMissingImports]
    from inspect_ai.model import GenerateConfig, get_model  # pyright: ignore[reportMissingImports]
    from inspect_ai.scorer import match  # pyright: ignore[reportMissingImports]
    from inspect_ai.solver import generate  # pyright: ignore[reportMissingImports]

    folder = tempfile.TemporaryDirectory()
    config = GenerateConfig(
        max_connections=job.in_flight, max_tokens=graph.CAP, temperature=1.0, attempt_timeout=int(job.timeout)
    )

    def run(questions: Sequence[str]) -> Outcome:
        samples = [
            Sample(input=f"{graph.SOLVE}\n\nQuestion: {question}\n\n{graph.FORM}", target="42")
            for question in questions
        ]
        task = Task(
            dataset=samples,
            solver=generate(),
            scorer=match(),
            epochs=Epochs(8 if job.kind == "pdr" else 1, "mode"),
        )
        (log,) = evaluate(
            task,
            model=get_model("openai-api/mock/mock", base_url=job.api_base, api_key="none", config=config),
            log_dir=folder.name,
            display="none",
            log_level="critical",
            max_samples=job.in_flight,
            fail_on_error=False,
        )
        outcome = Outcome()
        for usage in log.stats.model_usage.values():
            outcome.add(usage.input_tokens, usage.output_tokens)
        finished = {sample.id for sample in log.samples or [] if sample.error is None}
        broken = {sample.id for sample in log.samples or [] if sample.error is not None}
        outcome.done = len(finished - broken)
        if broken:
            outcome.failures["error in a sample"] = len(broken)
        return outcome

    return run


if __name__ == "__main__":
    drive(prepare)
