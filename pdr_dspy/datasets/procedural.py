"""Procedural sets of reasoning-gym: any number of problems, generated from a seed."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import dspy

from pdr_dspy.errors import ConfigError, DataError, MissingExtra

_BLOCK = 1_000_000


def gym() -> Mapping[str, Any]:
    """Reasoning-gym's tasks by name. Raises MissingExtra if the package is not installed."""
    try:
        import reasoning_gym  # noqa: F401
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingExtra("reasoning-gym", "data", "A procedural set (`rg:...`)") from error
    return DATASETS


def task_of(name: str) -> str:
    """The task that `rg:task` names. Raises ConfigError for an unknown task."""
    task, known = name.removeprefix("rg:"), gym()
    if task not in known or task == "composite":
        near = difflib.get_close_matches(task, list(known), n=3, cutoff=0.4)
        hint = (
            f"near it: {', '.join(f'rg:{other}' for other in near)}" if near else f"e.g. {', '.join(sorted(known)[:5])}"
        )
        raise ConfigError(f"`load({name!r})`: reasoning-gym has no task {task!r}; {hint}")
    return task


def make_procedural(name: str, *, size: int, seed: int, options: dict[str, Any]) -> list[dspy.Example]:
    """Generate `size` different questions of a task from a seed.

    Raises ConfigError for an unknown task or an invalid option, DataError if the task generates too few questions.
    """
    task = task_of(name)
    if size > _BLOCK // 20 or seed < 0:
        raise ConfigError(
            f"`load({name!r}, size={size}, seed={seed})`: size is at most {_BLOCK // 20}, seed at least 0"
        )
    import reasoning_gym

    tries = 20 * size + 100
    try:
        # reasoning-gym generates item i from seed + i, so neighbouring seeds would share most of their questions.
        made = reasoning_gym.create_dataset(task, size=tries, seed=seed * _BLOCK, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"`load({name!r}, options={options!r})`: reasoning-gym refuses the options: {error}"
        ) from error
    tag = (
        f"/{hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:8]}"
        if options
        else ""
    )
    examples: list[dspy.Example] = []
    seen: set[str] = set()
    for index in range(tries):
        entry = made[index]
        if entry["question"] in seen:
            continue
        seen.add(entry["question"])
        if entry["answer"] is None:
            raise DataError(f"`load({name!r})`: this task has no gold answers to grade against; choose another task")
        ours = {"question": entry["question"], "answer": str(entry["answer"]), "id": f"{name}/{seed}{tag}/{index}"}
        gym = {"rg_dataset": task, "rg_options": options, "rg_entry": json.loads(json.dumps(entry, default=str))}
        examples.append(dspy.Example(**ours, source=f"reasoning-gym:{task}", **gym).with_inputs("question"))
        if len(examples) == size:
            return examples
    raise DataError(
        f"`load({name!r}, size={size})`: the task has only {len(examples)} different questions; "
        "reduce `size`, or widen the task with `options=`"
    )
