"""The parameters of a given candidate: a trial that answers with its parts, and records its answers.

Choices on prompts are numbers: 0 is the student's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pdr_dspy.search.space.axes import ROUNDS
from pdr_dspy.search.space.axis import LAST
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.canonical import axis_of
from pdr_dspy.search.space.choosing import Choices
from pdr_dspy.search.space.prompt_axes import PROMPTS, key_of

OWN = 0
"""The choice of a prompt parameter for the student's own instructions or demonstrations."""


class Recorded:
    """A trial that answers with the parts of a given candidate, and records its answers."""

    def __init__(self, space: Choices, candidate: Candidate, axes: Mapping[str, Any]) -> None:
        """
        Args:
            space: of the candidate; its texts and demonstrations have numbers.
            candidate: with a canonical schedule.
            axes: the choices on registered axes.
        """
        self.space = space
        self.candidate = candidate
        self.axes = axes
        self.given: dict[str, Any] = {}
        """The answers by parameter."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The candidate's value of a parameter. Raises LookupError if it is not a choice."""
        value = self._value(name)
        axis = axis_of(name)
        if value is None and None not in choices and axis is not None and axis.in_force is not None:
            value = axis.value(self.candidate.schedule)  # None has the same effect
        if name == "k" and value not in choices:  # k is limited to the narrowest round: any larger one gives the same
            value = next((choice for choice in choices if choice >= value), value)
        if value not in choices:
            if not self.axes:
                raise LookupError(name)
            value = choices[0]  # a registered axis may change it again; the final result is compared
        self.given[name] = value
        return value

    def _value(self, name: str) -> Any:
        schedule = self.candidate.schedule
        if name == ROUNDS.name:
            return schedule.rounds
        if name == LAST:
            return schedule.widths[-1]
        if name.startswith("width_"):
            return schedule.widths[int(name.removeprefix("width_")) - 1]
        if name in self.axes:
            return self.axes[name]
        role, _, kind = name.partition("_")
        if kind in PROMPTS:
            value = getattr(self.candidate, kind).get(role)
            keys = [key_of(one) for one in getattr(self.space, kind)[role]]
            return OWN if value is None else 1 + keys.index(key_of(value)) if key_of(value) in keys else None
        return getattr(schedule, name)
