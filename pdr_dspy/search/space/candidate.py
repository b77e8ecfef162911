"""A candidate as a program and as JSON data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.nested import operators_in, replaced
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.space.prompt_axes import check_demos
from pdr_dspy.search.space.space import Candidate


def program_with(student: dspy.Module, candidate: Candidate) -> dspy.Module:
    """A copy of the student whose operators run under a candidate; the student itself is not touched.

    Raises ConfigError when there is no operator in it, or when a demonstration does not suit the task.
    """
    if not operators_in(student):
        raise ConfigError(
            f"`compile(student={type(student).__name__}())` holds no LongCoT, SR or PDR; there is no schedule to tune"
        )

    def changed(_: str, operator: Operator) -> Operator:
        check_demos(operator.task, {role: [demos] for role, demos in candidate.demos.items()})
        return operator.with_schedule(candidate.schedule, instructions=candidate.instructions, demos=candidate.demos)

    return replaced(student, changed)


def describe_candidate(candidate: Candidate) -> dict[str, Any]:
    """A candidate as JSON data."""
    prompts = {"instructions": candidate.instructions, "demos": {role: list(d) for role, d in candidate.demos.items()}}
    return {"schedule": candidate.schedule.model_dump(mode="json"), **prompts}


def read_candidate(facts: Mapping[str, Any]) -> Candidate:
    """The candidate that `describe_candidate` described. Raises KeyError, TypeError or ConfigError for other facts."""
    demos = {role: tuple(dict(demo) for demo in chosen) for role, chosen in facts.get("demos", {}).items()}
    return Candidate(Schedule(**facts["schedule"]), dict(facts["instructions"]), demos)
