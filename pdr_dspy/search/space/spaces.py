"""Separate spaces for several operators, as one frozen value: their choices are made together.

    PDROptimizer(verifier, space={"solve": Space(...), "extract": Space(...)})

A candidate has a part for each operator (`Candidate.parts`), and its parameters are prefixed with the operator, such as
`solve.kappa`. Everything else is delegated to the spaces in it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import field_validator, model_validator

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.candidate import Candidate, joint, under
from pdr_dspy.search.space.choosing import Suggests
from pdr_dspy.search.space.schedules import larger
from pdr_dspy.search.space.space import Space
from pdr_dspy.settings import Settings


class Spaces(Settings):
    """A space for each operator of a program. Raises ConfigError if there is none, or for a value that is not a
    space."""

    operators: dict[str, Space | None]
    """By the path of the operator in its program, as in DSPy's `named_sub_modules()` ("solve", "steps[0]"; without the
    leading "self."). None leaves an operator unchanged: its schedule, its prompts, its demonstrations."""

    @field_validator("operators", mode="before")
    @classmethod
    def _by_path(cls, operators: Any) -> Any:
        if not isinstance(operators, Mapping) or not all(isinstance(place, str) for place in operators):
            raise ValueError(f'`space={operators!r}` must map paths of operators to spaces: {{"solve": Space(...)}}')
        wrong = next((p for p, s in operators.items() if not (s is None or isinstance(s, (Space, Mapping)))), None)
        if wrong is not None:
            raise ValueError(
                f"`space={{{wrong!r}: {operators[wrong]!r}}}` must be a `Space(...)`, or None to leave it unchanged"
            )
        named = [(_path(place), space) for place, space in operators.items()]
        twice = next((place for place, _ in named if [p for p, _ in named].count(place) > 1), None)
        if twice is not None:
            raise ValueError(f"`space={{...}}` names the operator {twice!r} twice")
        return {place: Space(**space) if isinstance(space, Mapping) else space for place, space in named}

    @model_validator(mode="after")
    def _has_some(self) -> Self:
        if not self.spaces:
            raise ValueError(
                f"`space={self.operators!r}` has no space: there is nothing to choose; give at least one operator a "
                "`Space(...)`"
            )
        return self

    # --- operators ---

    @property
    def spaces(self) -> dict[str, Space]:
        """The spaces, by path; unchanged operators are left out."""
        return {place: space for place, space in self.operators.items() if space is not None}

    def at(self, place: str) -> Space | None:
        """The space of an operator; None if it stays unchanged."""
        return self.operators[place]

    def suited(self, operators: Mapping[str, Operator]) -> Space | Spaces:
        """The spaces for the operators of a program, in their order; the space itself if there is only one operator.

        Raises ConfigError, naming it, for a path that is not an operator of the program, and for an operator without an
        entry.
        """
        there = ", ".join(repr(place) if place else "'' (the program itself)" for place in operators)
        unknown = next((place for place in self.operators if place not in operators), None)
        if unknown is not None:
            raise ConfigError(
                f"`space={{{unknown!r}: ...}}` is not an operator of the program; it has {there} (paths as in "
                "`program.named_sub_modules()`)"
            )
        missing = next((place for place in operators if place not in self.operators), None)
        if missing is not None:
            raise ConfigError(
                f"`space={{...}}` has no entry for the operator {missing!r}; give it a space, "
                f"`{{{missing!r}: Space.default_for(program.{missing}.schedule)}}`, or None to leave it unchanged"
            )
        if len(operators) == 1:
            return next(iter(self.spaces.values()))
        return Spaces(operators={place: self.operators[place] for place in operators})

    # --- choice of candidates ---

    def suggest(self, trial: Suggests) -> Candidate:
        """One candidate, suggested by an Optuna trial parameter by parameter; raises as `Space.suggest`."""
        return joint({place: space.suggest(_Under(trial, place)) for place, space in self.spaces.items()})

    def params_of(self, candidate: Candidate) -> dict[str, Any] | None:
        """The parameters for which `suggest` gives `candidate`; None if it is not in this space."""
        if candidate.parts.keys() != self.spaces.keys():
            return None
        found: dict[str, Any] = {}
        for place, space in self.spaces.items():
            own = space.params_of(candidate.parts[place])
            if own is None:
                return None
            found |= {under(place, name): value for name, value in own.items()}
        return found

    def __contains__(self, item: object) -> bool:
        return isinstance(item, Candidate) and self.params_of(item) is not None

    def candidates(self) -> Iterator[Candidate]:
        """All candidates without duplicates, small shapes of all operators first."""
        places = list(self.spaces)
        for parts in _together([space.candidates() for space in self.spaces.values()]):
            yield joint(dict(zip(places, parts, strict=True)))

    @property
    def size(self) -> int:
        """The number of different candidates."""
        return math.prod(space.size for space in self.spaces.values())

    def extend(self, **values: Any) -> Spaces:
        """A copy with additional candidates on the named axes of every space in it; see `Space.extend`."""
        return Spaces(
            operators={p: None if space is None else space.extend(**values) for p, space in self.operators.items()}
        )

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that some schedule of it calls."""
        called = {role for space in self.spaces.values() for role in space.roles}
        return tuple(role for role in Role if role in called)

    def widest(self) -> Schedule:
        """A schedule that needs at least as much context, and as many concurrent requests, as any of it."""
        return functools.reduce(larger, (space.widest() for space in self.spaces.values()))

    def describe(self) -> str:
        """A table for people of each operator's space."""
        return "\n\n".join(
            f"{place}:\n{'unchanged' if space is None else space.describe()}" for place, space in self.operators.items()
        )

    def __str__(self) -> str:
        return self.describe()


AnySpace = Space | Spaces
"""One space for all operators, or one for each."""


def read_space(given: Any) -> AnySpace:
    """A space in any given or stored form: a `Space` or `Spaces`, the data of either, or spaces by their operators'
    paths.

    Raises ConfigError for any other value, and as `Space` does.
    """
    if isinstance(given, (Space, Spaces)):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"`SearchSettings(space={given!r})` must be a `Space(...)`, spaces by the paths of their operators "
            '(`{"solve": Space(...)}`), or None for the default'
        )
    if set(given) == {"operators"} and not isinstance(given["operators"], Space):
        return Spaces(**given)
    by_path = not given or any(isinstance(value, Space) or value is None for value in given.values())
    return Spaces(operators=dict(given)) if by_path else Space(**given)


def _path(place: str) -> str:
    """A path without DSPy's prefix for the program itself."""
    return "" if place == "self" else place.removeprefix("self.")


class _Under:
    """A trial with the parameters of one operator."""

    def __init__(self, trial: Suggests, place: str) -> None:
        self.trial = trial
        self.place = place

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.trial.suggest_categorical(under(self.place, name), choices)


def _together(series: Sequence[Iterator[Candidate]]) -> Iterator[tuple[Candidate, ...]]:
    """Every combination of one item of each series, by the sum of their indices: no series has to be exhausted
    first."""
    drawn: list[list[Candidate]] = [[] for _ in series]
    ended = [False] * len(series)

    def reaches(which: int, place: int) -> bool:
        while len(drawn[which]) <= place and not ended[which]:
            more = next(series[which], None)
            if more is None:
                ended[which] = True
            else:
                drawn[which].append(more)
        return place < len(drawn[which])

    def summing(which: int, left: int) -> Iterator[tuple[Candidate, ...]]:
        if which == len(series) - 1:
            if reaches(which, left):
                yield (drawn[which][left],)
            return
        for place in range(left + 1):
            if not reaches(which, place):
                return
            for rest in summing(which + 1, left - place):
                yield (drawn[which][place], *rest)

    for total in itertools.count():
        if all(ended) and total > sum(len(own) - 1 for own in drawn):
            return
        yield from summing(0, total)
