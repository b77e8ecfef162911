r"""Programming tasks with tests, from any JSON Lines file.

A line has `prompt`, and as `test` one of: a text that defines `check(candidate)`, a list of assertions, or a list of
`{"input": ..., "output": ...}`. It may have `id`, `entry_point`, `setup`, and `public_tests` for the check; without
them the check uses the prompt's examples.

    CODE_TASKS=tasks.jsonl pdr eval code --limit 20

Without `CODE_TASKS` it has a few built-in tasks, as examples of the form.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy import datasets
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.operators import PDR, Operator
from pdr_dspy.operators.schedule import until_checked
from pdr_dspy.verifiers import CodeVerifier, Verifier
from pdr_dspy.verifiers.checks import Check, CodeCheck

SHARES = (1 / 3, 1 / 3)
"""Fractions of the tasks for train and dev; the others are test."""


class Write(dspy.Signature):
    """Write the Python program. Its function has the name that the task or its tests give it."""

    prompt: str = dspy.InputField()
    code: dspy.Code = dspy.OutputField()


def data(split: str = "test", *, limit: int | None = None, seed: int = 0) -> list[dspy.Example]:
    """`train`, `dev` or `test` of the file; `seed` determines the division."""
    path = os.environ.get("CODE_TASKS")
    tasks = read(Path(path)) if path else _own()
    train, dev = (round(share * len(tasks)) for share in SHARES)
    if min(train, dev, len(tasks) - train - dev) < 1:
        raise ConfigError(f"`CODE_TASKS={path}` has {len(tasks)} tasks, too few for three parts")
    parts = datasets.split(tasks, train, dev, len(tasks) - train - dev, seed=seed)
    return datasets.part(dict(zip(("train", "dev", "test"), parts, strict=True)), split, limit)


def read(path: Path) -> list[dspy.Example]:
    """The tasks of a JSON Lines file. Raises DataError for an invalid line, with its number."""
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    tasks: list[dspy.Example] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error.msg})") from error
        tasks.append(_task(row, f"{path}, line {number}", number))
    repeated = [task.id for task in tasks]
    if len(set(repeated)) < len(repeated):
        raise DataError(f"{path} repeats an id; ids must be unique")
    return tasks


def _task(row: Any, place: str, number: int) -> dspy.Example:
    missing = [name for name in ("prompt", "test") if not (isinstance(row, dict) and row.get(name))]
    if missing:
        raise DataError(f"{place}: no {' and no '.join(missing)}")
    fields = {"id": str(number), **row}
    inputs = ["prompt", *(["public_tests"] if fields.get("public_tests") else [])]
    return dspy.Example(**fields).with_inputs(*inputs)


def verifier() -> Verifier:
    """The hidden tests."""
    return CodeVerifier(setup=("setup",))


def check() -> Check:
    """The prompt's examples. For tasks with `public_tests` use `CodeCheck(tests="public_tests")`."""
    return CodeCheck()


def build() -> Operator:
    """Eight drafts, ended early when the check passes one; else one more that reads the two best and their results."""
    return PDR(Write, until_checked(512, kappa=2048), check=check())


_DONE = {
    "add": ("x + {n}", lambda x, n: x + n),
    "subtract": ("x - {n}", lambda x, n: x - n),
    "multiply_by": ("x * {n}", lambda x, n: x * n),
    "remainder_by": ("x % {n}", lambda x, n: x % n),
}


def _own() -> list[dspy.Example]:
    """Twenty-four small tasks: one operation on a number each."""
    tasks = []
    for n in range(2, 8):
        for verb, (form, value) in _DONE.items():
            name = f"{verb}_{n}"
            shown = "".join(f"    >>> {name}({x})\n    {value(x, n)}\n" for x in (9, 20))
            prompt = f'def {name}(x: int) -> int:\n    """{verb.replace("_", " ")} {n}\n\n{shown}    """\n'
            task = dspy.Example(
                id=name,
                prompt=prompt,
                entry_point=name,
                test=[f"assert {name}({x}) == {value(x, n)}" for x in (0, 1, 13, 100)],
                answer=f"{prompt}    return {form.format(n=n)}\n",
            )
            tasks.append(task.with_inputs("prompt"))
    return tasks
