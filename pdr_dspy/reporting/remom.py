"""Exports a program's schedule as a ReMoM decision of vLLM's semantic router, if the router can express it.

ReMoM (website/docs/tutorials/algorithm/looper/remom.md of vllm-project/semantic-router, version 0.4) makes
`breadth_schedule` concurrent calls in each round, shuffles their answers, keeps the first `max_responses_per_round`,
shows those to every call of the next round, and ends with one call. It uses its own prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import Operator, Schedule
from pdr_dspy.operators.consensus import needed
from pdr_dspy.prompts.roles import signature_of


def as_remom(program: dspy.Module, name: str) -> str:
    """The YAML of a routing decision.

    Args:
        program: an operator with one input and one output.
        name: of the decision.

    Raises ConfigError that lists the parts of the program that ReMoM cannot express: the export would be another
    program.
    """
    if not isinstance(program, Operator):
        raise ConfigError(f"`--to remom`: {type(program).__name__} is a module of several steps, ReMoM is one")
    if missing := list(_beyond(program)):
        raise ConfigError(f"`--to remom` cannot say all of {program.schedule}: {'; '.join(missing)}")
    schedule = program.schedule
    distilled = schedule.widths[:-1]
    remom: dict[str, Any] = {
        "breadth_schedule": list(distilled),
        "temperature": schedule.temperature,
        "compaction_strategy": "full",
        "max_completion_tokens": schedule.draft_tokens + schedule.thinking_tokens,
        "include_reasoning": False,
        "include_intermediate_responses": False,
        "on_error": "skip",
    }
    if _reads(schedule) < max(distilled):
        remom["max_responses_per_round"] = _reads(schedule)
    if schedule.quorum < 1.0:
        remom["min_successful_responses"] = needed(distilled[0], schedule.quorum)
    decision: dict[str, Any] = {"name": name, "description": f"pdr-dspy: {schedule}", "priority": 100}
    task = program.task
    if not _generic(task):
        decision["output_contract"] = task.instructions
    lines = ["# Add the models that answer, as `modelRefs`; and `rules`, if it is not for every request."]
    lines += ["routing:", "  decisions:"]
    for number, (key, value) in enumerate(decision.items()):
        lines.append(f"    {'- ' if number == 0 else '  '}{key}: {_yaml(value)}")
    lines += ["      algorithm:", "        type: remom", "        remom:"]
    lines += [f"          {key}: {_yaml(value)}" for key, value in remom.items()]
    return "\n".join(lines) + "\n"


def _reads(schedule: Schedule) -> int:
    """The number of answers of a round that the next one reads."""
    return 1 if schedule.distill_by.chain else schedule.k


def _beyond(program: Operator) -> Iterator[str]:
    """The parts of a program that ReMoM cannot express."""
    schedule = program.schedule
    if schedule.rounds == 1:
        yield f"`widths={schedule.widths}` is one round, and ReMoM ends with a call that reads the others"
        return
    distilled = schedule.widths[:-1]
    if schedule.distiller not in ("random_k", "last"):
        yield f"`distiller={schedule.distiller!r}`: it shows answers as they are; there is `random_k`, or `last`"
        return
    reads = _reads(schedule)
    for width, following in zip(distilled, schedule.widths[1:], strict=True):
        if reads < width and following > 1:
            yield f"`k={schedule.k}` of {width} drafts, others for each of the next {following}: it shows all the same"
            break
    if reads * schedule.refine_cap > schedule.kappa or reads * schedule.draft_tokens > schedule.kappa:
        yield f"`kappa={schedule.kappa}` cuts {reads} answers of up to {schedule.draft_tokens} tokens"
    if schedule.refine_cap != schedule.draft_tokens:
        yield f"`refine_tokens={schedule.refine_tokens}`: one cap is of all its calls"
    if schedule.temperature == 0:
        yield "`temperature=0`: it takes that for its default"
    if schedule.top_p != 1.0:
        yield f"`top_p={schedule.top_p}`"
    if len({needed(width, schedule.quorum) for width in distilled}) > 1 and schedule.quorum < 1.0:
        yield f"`quorum={schedule.quorum}` of widths that differ: its quorum is one number"
    for field in ("tally", "critique", "keep"):
        if getattr(schedule, field):
            yield f"`{field}=True`"
    for field in ("agree", "check", "stop_at", "first_wave", "next_wave"):
        if getattr(schedule, field) is not None:
            yield f"`{field}={getattr(schedule, field)!r}`"
    if schedule.final != "refine":
        yield f"`final={schedule.final!r}`"
    task = program.task
    for kind, fields in (("inputs", task.input_fields), ("outputs", task.output_fields)):
        if len(fields) > 1:
            yield f"the {kind} {', '.join(fields)}: a chat has one text"
    for name, field in {**task.input_fields, **task.output_fields}.items():
        if field.annotation is not str:
            yield f"the type of `{name}`: a chat has texts"
    defaults = program.role_signatures(task, schedule)
    for role, predictor in program.predictors_by_role.items():
        if predictor.demos:
            yield f"the demonstrations of `{role}`"
        if signature_of(predictor).instructions != defaults[role].instructions:
            yield f"the tuned instructions of `{role}`"


def _generic(task: type[dspy.Signature]) -> bool:
    """Whether a task has no instructions of its own: DSPy generated them from the names of the fields."""
    return task.instructions.startswith("Given the fields ")


def _yaml(value: Any) -> str:
    """A scalar or a list of numbers: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)
