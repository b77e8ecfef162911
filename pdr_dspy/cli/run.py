"""`pdr run`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dspy
import typer

from pdr_dspy import calls, datasets
from pdr_dspy.calls.account import Account
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.cli.data_option import inputs_of
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.program_files import find, schedule_of, schedules_of
from pdr_dspy.errors import ConfigError, DataError, PDRError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.prompts.content import json_data
from pdr_dspy.prompts.roles import RESERVED
from pdr_dspy.runtime import event_loop


def run(
    target: str,
    given: Sequence[str],
    jsonl: Path | None,
    *,
    model: Model,
    task: str | None,
    seed: int,
    budget: Budget | None,
    as_json: bool,
    display: Display,
    trusted: bool = False,
) -> None:
    """Answer `given`, or every line of `jsonl`."""
    program = find(target, task=task, trusted=trusted).program
    asked = Asked(program, seed, budget or Budget(), model.in_flight)
    if bool(given) == (jsonl is not None):
        raise ConfigError(f"give either `--input` (inputs: {', '.join(asked.inputs)}) or `--jsonl`")
    questions = [parse_inputs(given, asked.inputs)] if jsonl is None else list(read_questions(jsonl))
    with asked.threads, model.serving(schedule_of(program), display), calls.session(seed=seed):
        if jsonl is None:
            with display.status(f"running {schedules_of(program)}"):
                answer = event_loop.run(lambda: asked(questions[0]))
            _show(answer, as_json, display)
            return
        failed = event_loop.run(lambda: _stream(asked, questions, model.in_flight))
    if failed:
        display.say(f"{failed} of {len(questions)} failed")
        raise typer.Exit(1)


class Answer(NamedTuple):
    """One run of a program."""

    prediction: dspy.Prediction
    outputs: list[str]
    ledger: Ledger
    sequential: int
    """Tokens."""


class Asked:
    """A program that answers questions: an operator, or a module with operators in it, whose runs share the budget."""

    def __init__(self, program: dspy.Module, seed: int, budget: Budget, width: int) -> None:
        self.program = program
        self.seed = seed
        self.budget = budget
        self.inputs = inputs_of(program)
        self.threads = ThreadPoolExecutor(width)  # the event loop's own are few, and requests pass through them

    async def __call__(self, inputs: Mapping[str, Any]) -> Answer:
        """Run it once."""
        program = self.program
        if isinstance(program, Operator):
            prediction = await program.acall(**inputs, seed=self.seed, budget=self.budget)
            ledger = prediction.ledger
            return Answer(prediction, list(program.task.output_fields), ledger, ledger.sequential)
        account = Account(self.budget)
        prediction: dspy.Prediction
        with calls.session(account=account):
            if hasattr(program, "aforward"):
                prediction = await program.acall(**inputs)
            else:
                made = partial(copy_context().run, program, **inputs)
                prediction = await asyncio.get_running_loop().run_in_executor(self.threads, made)
        outputs = [name for name in prediction if name not in RESERVED]
        return Answer(prediction, outputs, account.ledger, account.sequential)


def parse_inputs(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """`NAME=TEXT` pairs; a text alone is the only input."""
    inputs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if equals and name in names:
            inputs[name] = value
        elif len(names) == 1 and not inputs:
            inputs[names[0]] = text
        else:
            raise ConfigError(f"`--input {text!r}` must be NAME=TEXT with NAME one of {', '.join(names)}")
    return inputs


def read_questions(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, or of stdin for `-`. Raises DataError naming the line."""
    try:
        lines = (sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"`--jsonl {path}` cannot be read: {reason}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=datasets.whole)
        except ValueError as error:
            raise DataError(f"{path}, line {number}, is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}, is not a JSON object of inputs")
        yield row


async def _stream(asked: Asked, questions: Sequence[dict[str, Any]], width: int) -> int:
    """Answer the questions, and print each answer as soon as all before it are printed."""
    gate = asyncio.Semaphore(width)
    wanted = set(asked.inputs)

    async def one(question: dict[str, Any]) -> dict[str, Any]:
        async with gate:
            inputs = {name: value for name, value in question.items() if name in wanted}
            try:
                return _record(await asked(inputs))
            except PDRError as error:
                return {"error": str(error)}

    failed = 0
    tasks = [asyncio.ensure_future(one(question)) for question in questions]
    try:
        for task in tasks:
            record = await task
            failed += "error" in record
            sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
            sys.stdout.flush()
    finally:  # an interrupt cancels all
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return failed


def _record(answer: Answer) -> dict[str, Any]:
    prediction, ledger = answer.prediction, answer.ledger
    record = {name: json_data(prediction.get(name)) for name in answer.outputs}
    if "stop" in prediction:
        record["stop"] = str(prediction.stop)
    record |= {"sequential": answer.sequential, "total": ledger.total, "calls": len(ledger)}
    return record if ledger.cost is None else {**record, "cost": ledger.cost}


def _show(answer: Answer, as_json: bool, display: Display) -> None:
    record, prediction, ledger = _record(answer), answer.prediction, answer.ledger
    if as_json:
        typer.echo(json.dumps({**record, "solution": prediction.get("solution")}, ensure_ascii=False))
        return
    if prediction.get("solution"):
        display.say(f"{prediction.solution}\n")
    for name in answer.outputs:
        typer.echo(f"{name}: {record[name]}")
    odd = {"failed": ledger.failed, "cut": ledger.truncated, "cancelled": ledger.cancelled}
    noted = ", ".join(f"{count} {what}" for what, count in odd.items() if count)
    stop = f"stop: {record['stop']}; " if "stop" in record else ""
    display.say(
        f"{stop}{record['calls']} calls"
        f"{f' ({noted})' if noted else ''}, B_seq {record['sequential']:,}, B_total {record['total']:,}"
        f"{'' if ledger.cost is None else f', cost {ledger.cost:.4g}'}"
    )
