"""`pdr run`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dspy
import typer

from pdr_dspy import calls, datasets
from pdr_dspy.calls.budget import Budget
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.program_files import find, operator_of
from pdr_dspy.errors import ConfigError, DataError, PDRError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.prompts.content import json_data
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
    operator = operator_of(program)
    if bool(given) == (jsonl is not None):
        names = ", ".join(operator.task.input_fields)
        raise ConfigError(f"give either `--input` (inputs: {names}) or `--jsonl`")
    settings: dict[str, Any] = {}
    if isinstance(program, Operator):
        settings = {"seed": seed, "budget": budget or Budget()}
    questions = [parse_inputs(given, operator)] if jsonl is None else list(read_questions(jsonl))
    with model.serving(operator.schedule, display), calls.session(seed=seed):
        if jsonl is None:
            with display.status(f"running {operator.schedule}"):
                prediction = event_loop.run(lambda: program.acall(**questions[0], **settings))
            _show(operator, prediction, as_json, display)
            return
        failed = event_loop.run(lambda: _stream(program, operator, questions, settings, model.in_flight))
    if failed:
        display.say(f"{failed} of {len(questions)} failed")
        raise typer.Exit(1)


def parse_inputs(given: Sequence[str], operator: Operator) -> dict[str, str]:
    """`NAME=TEXT` pairs; a text alone is the only input."""
    names = list(operator.task.input_fields)
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


async def _stream(
    program: dspy.Module, operator: Operator, questions: Sequence[dict[str, Any]], settings: dict[str, Any], width: int
) -> int:
    """Answer the questions, and print each answer as soon as all before it are printed."""
    gate = asyncio.Semaphore(width)
    wanted = set(operator.task.input_fields)

    async def one(question: dict[str, Any]) -> dict[str, Any]:
        async with gate:
            inputs = {name: value for name, value in question.items() if name in wanted}
            try:
                return _record(operator, await program.acall(**inputs, **settings))
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


def _record(operator: Operator, prediction: dspy.Prediction) -> dict[str, Any]:
    outputs = {name: json_data(prediction.get(name)) for name in operator.task.output_fields}
    ledger = prediction.get("ledger")
    costs: dict[str, float] = (
        {} if ledger is None else {"sequential": ledger.sequential, "total": ledger.total, "calls": len(ledger)}
    )
    if ledger is not None and ledger.cost is not None:
        costs["cost"] = ledger.cost
    return {**outputs, "stop": str(prediction.get("stop")), **costs}


def _show(operator: Operator, prediction: dspy.Prediction, as_json: bool, display: Display) -> None:
    record = _record(operator, prediction)
    if as_json:
        typer.echo(json.dumps({**record, "solution": prediction.get("solution")}, ensure_ascii=False))
        return
    if prediction.get("solution"):
        display.say(f"{prediction.solution}\n")
    for name in operator.task.output_fields:
        typer.echo(f"{name}: {record[name]}")
    if "total" in record:
        ledger = prediction.ledger
        odd = {"failed": ledger.failed, "cut": ledger.truncated, "cancelled": ledger.cancelled}
        noted = ", ".join(f"{count} {what}" for what, count in odd.items() if count)
        display.say(
            f"stop: {record['stop']}; {record['calls']} calls{f' ({noted})' if noted else ''}, "
            f"B_seq {record['sequential']:,}, B_total {record['total']:,}"
            f"{'' if ledger.cost is None else f', cost {ledger.cost:.4g}'}"
        )
