"""A candidate: one point of a space, as a value, as JSON data, and as a program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import dspy

from pdr_dspy.operators.nested import operators_of, replaced
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.space.canonical import canonical, positions_of
from pdr_dspy.search.space.prompt_axes import PROMPTS, DemoSet, check_demos, key_of


class Candidate(NamedTuple):
    """One point of a space."""

    schedule: Schedule
    """The schedule that runs, with registered axes already applied. With `parts`, that of the first operator."""
    instructions: dict[str, str]
    """Role to text; roles that are not in it keep the student's own."""
    demos: dict[str, DemoSet] = {}  # noqa: RUF012  (never modified)
    """Role to demonstrations; roles that are not in it keep the student's own."""
    axes: dict[str, Any] = {}  # noqa: RUF012
    """The choices on registered axes, by name; for reports, since the schedule includes them."""
    parts: dict[str, Candidate] = {}  # noqa: RUF012
    """If operators have separate spaces: the candidate of each, by its path. Empty if all run the same."""

    @property
    def by_operator(self) -> dict[str, Candidate]:
        """The candidate at each path that has its own; "" is every operator."""
        return self.parts or {"": self}

    def at(self, place: str) -> Candidate | None:
        """The candidate of the operator at a path; None if it stays unchanged."""
        return self.parts.get(place) if self.parts else self

    @property
    def key(self) -> str:
        """Equal for two candidates that make the same calls."""
        if self.parts:
            return json.dumps({place: part.key for place, part in self.parts.items()}, sort_keys=True)
        parts = [canonical(self.schedule).model_dump(mode="json"), self.instructions, self.demos]
        return json.dumps(parts, sort_keys=True)

    @property
    def positions(self) -> dict[str, float | str]:
        """Its position on each axis that applies, prompts included; see `Axis.position`."""
        if self.parts:
            own = ((place, part.positions.items()) for place, part in self.parts.items())
            return {under(place, name): value for place, positions in own for name, value in positions}
        prompts = {f"{role}_{kind}": key_of(prompt) for kind in PROMPTS for role, prompt in getattr(self, kind).items()}
        return {**dict(positions_of(self.schedule)), **prompts}

    def __str__(self) -> str:
        if self.parts:
            return ", ".join(f"{place}: {part}" for place, part in self.parts.items())
        own = "".join(f" {name}={value}" for name, value in self.axes.items())
        changed = [f" + {', '.join(values)} {kind}" for kind in PROMPTS if (values := getattr(self, kind))]
        return f"{self.schedule}{own}{''.join(changed)}"


def under(place: str, name: str) -> str:
    """The name of a parameter of the operator at a path, such as "solve.kappa"; the plain name if it is of all
    operators."""
    return f"{place}.{name}" if place else name


def joint(parts: Mapping[str, Candidate]) -> Candidate:
    """The candidate under which each of several operators runs its own candidate, by path."""
    first = next(iter(parts.values()))
    return first._replace(parts=dict(parts))


def program_with(student: dspy.Module, candidate: Candidate) -> dspy.Module:
    """A copy of the student whose operators run under a candidate; the student itself is unchanged.

    Raises ConfigError if it contains no operator, and if a demonstration does not fit the task.
    """
    operators_of(student, f"compile(student={type(student).__name__}())", "there is no schedule to tune")

    def changed(place: str, operator: Operator) -> Operator:
        own = candidate.at(place)
        if own is None:
            return operator
        check_demos(operator.task, {role: [demos] for role, demos in own.demos.items()})
        return operator.with_schedule(own.schedule, instructions=own.instructions, demos=own.demos)

    return replaced(student, changed)


def describe_candidate(candidate: Candidate) -> dict[str, Any]:
    """A candidate as JSON data."""
    if candidate.parts:
        return {"operators": {place: describe_candidate(part) for place, part in candidate.parts.items()}}
    prompts = {"instructions": candidate.instructions, "demos": {role: list(d) for role, d in candidate.demos.items()}}
    axes = {"axes": candidate.axes} if candidate.axes else {}
    return {"schedule": candidate.schedule.model_dump(mode="json"), **prompts, **axes}


def read_candidate(facts: Mapping[str, Any]) -> Candidate:
    """The inverse of `describe_candidate`. Raises KeyError, TypeError or ConfigError for other data."""
    if "operators" in facts:
        return joint({place: read_candidate(part) for place, part in facts["operators"].items()})
    demos = {role: tuple(dict(demo) for demo in chosen) for role, chosen in facts.get("demos", {}).items()}
    return Candidate(Schedule(**facts["schedule"]), dict(facts["instructions"]), demos, dict(facts.get("axes", {})))
