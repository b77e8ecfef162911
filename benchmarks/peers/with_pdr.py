"""This library. Modes: "engine" (`EndpointLM.send_directly`), "lm" (`EndpointLM.acall` with lm15 requests),
"program" (`PDR.acall` of all questions concurrently), "singles" (the same, each draft a separate request) and
"evaluate" (`pdr_dspy.evaluate`, graded by NumberVerifier).

The first two make the calls of `graph`; the others run the library's PDR, or LongCoT for single calls. "program" can
also profile its CPU (see `sampling`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import graph
from driver import Job, Outcome, Run, drive
from sampling import sampled


def prepare(job: Job) -> Run:
    """DSPy's default settings, with history; only `evaluate` limits the requests in flight."""
    import dspy

    from pdr_dspy.serving import connect

    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    siblings = False if job.mode == "singles" else None
    lm = connect("auto", job.api_base, max_tokens=graph.CAP, timeout=job.timeout, siblings=siblings)
    lm.check_sync()
    dspy.configure(lm=lm)
    runner = asyncio.Runner()
    if job.mode == "evaluate":
        return _evaluation(job)
    if job.mode in ("program", "singles"):
        return _program(job, runner)
    complete = lm.send_directly if job.mode == "engine" else lm.acall

    def run(questions: Sequence[str]) -> Outcome:
        outcome = Outcome()

        async def ask(messages: graph.Messages, seed: int) -> str:
            system, user = messages
            response = await complete(
                dspy.lm15.Request(
                    model=lm.model,
                    system=system["content"],
                    messages=(dspy.lm15.Message.user(user["content"]),),
                    config=dspy.lm15.Config(max_tokens=graph.CAP, temperature=1.0, seed=seed),
                )
            )
            outcome.add(response.usage.input_tokens, response.usage.output_tokens)
            return response.text or ""

        return runner.run(graph.run(ask, job, questions, outcome))

    return run


def _operator(job: Job) -> Any:
    from pdr_dspy import PDR, LongCoT, Schedule

    task = "question -> answer"
    if job.kind == "calls":
        return LongCoT(task, draft_tokens=graph.CAP)
    return PDR(task, Schedule(widths=graph.WIDTHS, distiller="summary", draft_tokens=graph.CAP))


def _program(job: Job, runner: asyncio.Runner) -> Run:
    operator = _operator(job)

    async def all_of(questions: Sequence[str]) -> Outcome:
        outcome = Outcome()

        async def one(question: str) -> None:
            try:
                prediction = await operator.acall(question=question)
            except Exception as error:
                outcome.failed(error)
                _count(outcome, getattr(error, "ledger", None))
                return
            _count(outcome, prediction.ledger)
            if prediction.answer is None:
                outcome.failures[str(prediction.stop)] += 1
            else:
                outcome.done += 1

        await asyncio.gather(*map(one, questions))
        return outcome

    def run(questions: Sequence[str]) -> Outcome:
        if not job.profile or len(questions) == 1:
            return runner.run(all_of(questions))
        with sampled() as profile:
            outcome = runner.run(all_of(questions))
        outcome.profile = profile
        return outcome

    return run


def _count(outcome: Outcome, ledger: Any) -> None:
    for call in ledger.calls if ledger is not None else ():
        if call.sent:
            outcome.add(call.usage.input, call.usage.output)


def _evaluation(job: Job) -> Run:
    import dspy

    from pdr_dspy import evaluate
    from pdr_dspy.verifiers import NumberVerifier

    operator = _operator(job)

    def run(questions: Sequence[str]) -> Outcome:
        outcome = Outcome()
        examples = [dspy.Example(question=question, answer="42").with_inputs("question") for question in questions]
        report = evaluate(operator, examples, NumberVerifier(), max_in_flight=job.in_flight, max_failures=10**6)
        for row in report.rows:
            for call in row.calls:
                if call.sent:
                    outcome.add(call.usage.input, call.usage.output)
            if row.error:
                outcome.failures[row.error.split(":")[0][:60]] += 1
            else:
                outcome.done += 1
        return outcome

    return run


if __name__ == "__main__":
    drive(prepare)
